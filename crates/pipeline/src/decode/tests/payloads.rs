//! What devices in the field send.

use super::*;
use crate::reading::TimedBy;

const NAN: f64 = f64::NAN;

#[test]
fn zigbee2mqtt_objects_give_fields_tags_and_the_payloads_time() {
    let source = source(
        r#"
        name = "greenhouse"
        topics = ["zigbee2mqtt/{room}/{sensor}"]
        ignore = ["zigbee2mqtt/+/availability"]
        format = "json"
        time = { pointer = "/last_seen" }
        [fields]
        temperature = { unit = "Cel", range = [-40, 85] }
        humidity = { pointer = "/humidity", scale = 0.01, unit = "/" }
        door = { pointer = "/contact", map = { true = 0, false = 1 } }
        "#,
    );
    assert_eq!(source.name(), "greenhouse");
    assert_eq!(source.tag_names(), ["room", "sensor"]);
    assert_eq!(source.field_names(), ["door", "humidity", "temperature"]);
    assert_eq!(source.field_unit(2), Some("Cel"));
    assert_eq!(source.field_unit(0), None);
    assert_eq!(source.subscriptions(), ["zigbee2mqtt/+/+"]);
    assert!(source.route("zigbee2mqtt/a/availability").is_none());
    assert!(source.route("zigbee2mqtt/a").is_none());

    let payload = br#"{"temperature": 21.1, "humidity": 45, "contact": false, "last_seen": 1422886740000, "linkquality": 90}"#;
    let decoded = decode_message(&source, &message("zigbee2mqtt/north/t1", payload));
    let record = one(&decoded);
    assert_eq!(record.event_us, 1_422_886_740_000_000);
    assert_eq!(record.timed_by, TimedBy::Payload);
    assert_eq!(record.tags, ["north", "t1"]);
    assert_values(&record.values, &[1.0, 0.45, 21.1]);

    let decoded = decode_message(&source, &message("zigbee2mqtt/north/t1", br#"{"temperature": 21.1}"#));
    let record = one(&decoded);
    assert_eq!((record.event_us, record.timed_by), (ARRIVAL_US, TimedBy::Arrival));
    assert_values(&record.values, &[NAN, NAN, 21.1]);
}

#[test]
fn tasmota_and_shelly_values_are_reached_by_nested_pointers() {
    let tasmota = source(
        r#"
        name = "tasmota"
        topics = ["tele/{device}/SENSOR"]
        format = "json"
        time = { pointer = "/Time" }
        [fields]
        humidity = { pointer = "/AM2301/Humidity" }
        temperature = { pointer = "/AM2301/Temperature" }
        "#,
    );
    let payload =
        br#"{"Time":"2026-11-22T11:59:30","AM2301":{"Temperature":21.5,"Humidity":40.1},"TempUnit":"C"}"#;
    let decoded = decode_message(&tasmota, &message("tele/plug/SENSOR", payload));
    assert_eq!(one(&decoded).event_us, ARRIVAL_US - 30_000_000);
    assert_values(&one(&decoded).values, &[40.1, 21.5]);

    let shelly = source(
        r#"
        name = "shelly"
        topics = ["{device}/events/rpc"]
        format = "json"
        time = { pointer = "/params/ts", format = "unix-s" }
        [fields]
        power = { pointer = "/params/switch:0/apower", unit = "W" }
        slash = { pointer = "/params/a~1b/1" }
        "#,
    );
    let payload = br#"{"src":"x","method":"NotifyStatus","params":{"ts":1795348799.25,"switch:0":{"apower":8.9},"a/b":[1,2]}}"#;
    let decoded = decode_message(&shelly, &message("shelly-1/events/rpc", payload));
    assert_eq!(one(&decoded).event_us, ARRIVAL_US - 750_000);
    assert_values(&one(&decoded).values, &[8.9, 2.0]);
}

#[test]
fn esphome_numbers_become_the_field_that_the_topic_names() {
    let source = source(
        r#"
        name = "esphome"
        topics = ["{node}/sensor/{quantity}/state"]
        format = "number"
        [fields]
        humidity = { when = { quantity = "humidity" } }
        temperature = { when = { quantity = "temperature" }, unit = "Cel" }
        "#,
    );
    let route = source.route("attic/sensor/temperature/state").unwrap();
    assert_eq!(route.tags, ["attic", "temperature"]);
    assert_eq!(route.active, [false, true]);
    for (quantity, payload, expected) in [
        ("temperature", " 21.5\n", Ok([NAN, 21.5])),
        ("humidity", "45", Ok([45.0, NAN])),
        ("humidity", "nan", Err(Reason::NotFinite)),
        ("humidity", "1e400", Err(Reason::NotFinite)),
        ("humidity", "unavailable", Err(Reason::Syntax)),
        ("humidity", "", Err(Reason::NoFields)),
        ("uptime", "17", Err(Reason::NoFields)),
    ] {
        let topic = format!("attic/sensor/{quantity}/state");
        let decoded = decode_message(&source, &message(&topic, payload.as_bytes()));
        match expected {
            Ok(values) => assert_values(&one(&decoded).values, &values),
            Err(reason) => {
                assert_eq!((reasons(&decoded), decoded.records.len()), (vec![reason], 0), "{payload}")
            }
        }
    }
}

#[test]
fn filters_may_capture_different_tags_and_the_first_match_counts() {
    let source = source(
        "name = \"s\"\nformat = \"json\"\ntopics = [\"a/{room}/x\", \"a/{sensor}/{room}\", \"a/+/x\"]\n[fields]\nv = {}",
    );
    assert_eq!(source.tag_names(), ["room", "sensor"]);
    assert_eq!(source.subscriptions(), ["a/+/x", "a/+/+"]);
    assert_eq!(source.route("a/1/x").unwrap().tags, ["1", ""]);
    assert_eq!(source.route("a/1/2").unwrap().tags, ["2", "1"]);
}

const AIR: &str = r#"
    [fields]
    CO = { name = "station-1:PT08_S1_CO", missing_values = [-200] }
    T = { unit = "Cel" }
"#;

#[test]
fn a_senml_pack_resolves_base_values_into_one_record_a_time() {
    let source = source_of("senml", AIR);
    let pack = r#"[{"bn":"station-1:","bt":1079024400.0,"n":"PT08_S1_CO","v":1360.0},{"n":"T","v":13.6},{"n":"RH","v":48.9}]"#;
    let decoded = decode(&source, pack);
    let record = one(&decoded);
    assert_eq!((record.event_us, record.timed_by), (1_079_024_400_000_000, TimedBy::Payload));
    assert_values(&record.values, &[1360.0, 13.6]);

    let pack = r#"[{"bn":"station-1:","bt":1079024400,"bu":"Cel","n":"PT08_S1_CO","u":"","v":-200},{"n":"T","u":"K","v":273.15},
        {"n":"T","t":60,"v":1.5},{"n":"PT08_S1_CO","t":60,"v":7}]"#;
    let decoded = decode(&source, pack);
    assert_eq!(decoded.refusals, []);
    assert_values(&decoded.records[0].values, &[NAN, 0.0]);
    assert_values(&decoded.records[1].values, &[7.0, 1.5]);
    assert_eq!(decoded.records[1].event_us, 1_079_024_460_000_000);
}

#[test]
fn senml_times_below_two_to_the_28_count_from_the_arrival() {
    let source = source_of("senml", "[fields]\nT = { map = { on = 5, true = 1 } }");
    let decoded = decode(
        &source,
        r#"[{"n":"T","t":-2.5,"v":1},{"n":"T","vs":"on"},{"n":"T","t":-1,"vb":true},{"n":"T","bv":10,"t":-0.5,"v":2}]"#,
    );
    assert_eq!(decoded.refusals, []);
    let found: Vec<_> =
        decoded.records.iter().map(|r| (r.event_us - ARRIVAL_US, r.timed_by, r.values[0])).collect();
    assert_eq!(
        found,
        [
            (-2_500_000, TimedBy::Arrival, 1.0),
            (0, TimedBy::Arrival, 5.0),
            (-1_000_000, TimedBy::Arrival, 1.0),
            (-500_000, TimedBy::Arrival, 12.0)
        ]
    );
    let ahead = decode(&source, r#"[{"n":"T","t":100000,"v":1}]"#);
    assert_eq!(reasons(&ahead), [Reason::InFuture]);
}

#[test]
fn the_packs_unit_is_converted_before_scale_and_offset() {
    let source =
        source_of("senml", "[fields]\nT = { unit = \"Cel\", scale = 2, offset = 1, missing_values = [0] }");
    let decoded =
        decode(&source, r#"[{"n":"T","u":"K","t":-1,"v":283.15},{"n":"T","u":"K","t":-2,"v":273.15}]"#);
    let values: Vec<f64> = decoded.records.iter().map(|record| record.values[0]).collect();
    assert_values(&values, &[21.0, 1.0]);
}

#[test]
fn a_senml_pack_that_cannot_be_trusted_is_refused() {
    let source = source_of("senml", AIR);
    for (pack, expected) in [
        (r#"{"n":"T","v":1}"#, Reason::Syntax),
        ("[]", Reason::NoFields),
        (r#"[{"n":"X","v":1}]"#, Reason::NoFields),
        (r#"[{"n":"T","v":1,"bver":11}]"#, Reason::Syntax),
        (r#"[{"n":"T","v":1,"strange_":1}]"#, Reason::Syntax),
        (r#"[{"n":"T","v":1,"u":"Pa"}]"#, Reason::WrongUnit),
        (r#"[{"n":"T","vd":"AAA"}]"#, Reason::WrongType),
        (r#"[{"n":"T","vb":true}]"#, Reason::WrongType),
        (r#"[{"n":"T","v":1,"t":"noon"}]"#, Reason::Syntax),
        (r#"[{"n":"T"}]"#, Reason::NoFields),
    ] {
        let decoded = decode(&source, pack);
        assert_eq!((reasons(&decoded), decoded.records.len()), (vec![expected], 0), "{pack}");
    }
    let twice = decode(&source, r#"[{"bn":"a","n":"T","v":1},{"bn":"b","n":"T","v":2},7]"#);
    assert_eq!(reasons(&twice), [Reason::Duplicate, Reason::Syntax]);
    assert_values(&twice.records[0].values, &[NAN, 1.0]);
}

#[test]
fn each_element_of_an_array_is_a_record() {
    let nested = source_of(
        "json",
        "each = \"/readings\"\ntime = { pointer = \"/ts\" }\ntags = { sensor = \"/id\" }\n[fields]\nv = {}",
    );
    let payload = r#"{"readings":[{"ts":1795348700,"id":"a","v":1},{"ts":1795348701,"id":7,"v":2},{"ts":1,"v":3},5,{"id":"c","v":"x"}]}"#;
    let decoded = decode(&nested, payload);
    let found: Vec<_> =
        decoded.records.iter().map(|r| (r.event_us, r.tags[0].as_str(), r.values[0])).collect();
    assert_eq!(found, [(1_795_348_700_000_000, "a", 1.0), (1_795_348_701_000_000, "7", 2.0)]);
    let details: Vec<_> = decoded.refusals.iter().map(|r| (r.reason, r.detail.as_str())).collect();
    assert_eq!(
        details,
        [
            (Reason::NoTag, "element 2: tag `sensor`"),
            (Reason::NoFields, "element 3: no field of the source has a value"),
            (Reason::WrongType, "element 4: field `v`"),
        ]
    );
    assert_eq!(reasons(&decode(&nested, "{}")), [Reason::NoFields]);
    assert_eq!(reasons(&decode(&nested, r#"{"readings":3}"#)), [Reason::WrongType]);

    let root = source_of("json", "each = \"\"\n[fields]\nv = { pointer = \"\" }");
    assert_eq!(decode(&root, "[1,2,3]").records.len(), 3);
}

#[test]
fn more_records_than_a_payload_may_hold_are_refused_and_the_rest_flows() {
    use crate::decode::{RECORDS_MAX, REFUSALS_MAX};
    let json = source_of("json", "each = \"\"\n[fields]\nv = { pointer = \"\" }");
    let csv = source_of("csv", "[fields]\nv = { column = \"0\" }");
    let senml = source_of("senml", "[fields]\nv = {}");
    let numbers = |separator: &str| vec!["1"; RECORDS_MAX + 1].join(separator);
    let pack: Vec<_> = (0..=RECORDS_MAX).map(|n| format!("{{\"n\":\"v\",\"v\":1,\"t\":-{n}}}")).collect();
    for (source, payload) in [
        (json.clone(), format!("[{}]", numbers(","))),
        (csv, numbers("\n")),
        (senml, format!("[{}]", pack.join(","))),
    ] {
        let decoded = decode(&source, payload);
        assert_eq!(decoded.records.len(), RECORDS_MAX);
        assert_eq!(reasons(&decoded), [Reason::TooManyRecords]);
    }
    let decoded = decode(&json, format!("[{}]", vec!["true"; RECORDS_MAX + 9].join(",")));
    assert_eq!(decoded.refusals.len(), REFUSALS_MAX);
}

#[test]
fn csv_lines_are_records_by_header_or_position() {
    let headed = source_of(
        "csv",
        "time = { pointer = \"time\" }\ntags = { room = \"room\" }\n[fields]\nhumidity = { column = \"rh\" }\ntemperature = {}",
    );
    let payload = "time,room,temperature,rh\n2026-11-22 11:00:00,a, 21.5 ,40\n\n2026-11-22T11:00:01Z,\"b\",,41\n2026-11-22 11:00:02,c\n,d,1,x";
    let decoded = decode(&headed, payload);
    let found: Vec<_> =
        decoded.records.iter().map(|r| (r.event_us - ARRIVAL_US, r.tags[0].as_str())).collect();
    assert_eq!(found, [(-3_600_000_000, "a"), (-3_599_000_000, "b"), (0, "d")]);
    assert_values(&decoded.records[0].values, &[40.0, 21.5]);
    assert_values(&decoded.records[1].values, &[41.0, NAN]);
    let details: Vec<_> = decoded.refusals.iter().map(|r| (r.reason, r.detail.as_str())).collect();
    assert_eq!(
        details,
        [
            (Reason::NoFields, "line 5: no field of the source has a value"),
            (Reason::WrongType, "line 6: field `humidity`"),
        ]
    );
    assert_eq!(reasons(&decode(&headed, "time,room,temperature,rh\n")), [Reason::NoFields]);

    let positioned =
        source_of("csv", "delimiter = \";\"\n[fields]\na = { column = \"0\" }\nb = { column = \"2\" }");
    assert_values(&one(&decode(&positioned, "1;x;3\n")).values, &[1.0, 3.0]);
}

#[test]
fn a_column_titled_with_a_number_goes_before_a_position() {
    let source = source_of("csv", "header = true\n[fields]\na = { column = \"0\" }\nb = { column = \"1\" }");
    assert_values(&one(&decode(&source, "x,y,0\n1,2,3")).values, &[3.0, 2.0]);
}

#[test]
fn cbor_is_addressed_like_json_and_integer_keys_by_their_text() {
    use ciborium::value::Value;
    let source = source_of(
        "cbor",
        "time = { pointer = \"/t\" }\n[fields]\na = { pointer = \"/1\" }\nb = { pointer = \"/-2/0\" }\nc = {}\nd = {}\ne = {}",
    );
    let payload = Value::Map(vec![
        (Value::Integer(1.into()), Value::Float(21.5)),
        (Value::Integer((-2).into()), Value::Array(vec![Value::Integer(7.into())])),
        (Value::Text("t".into()), Value::Tag(1, Box::new(Value::Integer(1_795_348_700.into())))),
        (Value::Text("c".into()), Value::Tag(33, Box::new(Value::Tag(5, Box::new(Value::Float(1.0)))))),
        (Value::Text("d".into()), Value::Bytes(vec![1, 2])),
        (Value::Text("e".into()), Value::Float(f64::NAN)),
        (Value::Array(vec![]), Value::Null),
        (Value::Tag(9, Box::new(Value::Null)), Value::Null),
    ]);
    let mut bytes = Vec::new();
    ciborium::into_writer(&payload, &mut bytes).unwrap();
    let decoded = decode(&source, &bytes);
    assert_eq!(reasons(&decoded), [Reason::WrongType, Reason::WrongType, Reason::NotFinite]);
    assert_eq!(decoded.records[0].event_us, 1_795_348_700_000_000);
    assert_values(&decoded.records[0].values, &[21.5, 7.0, NAN, NAN, NAN]);

    bytes.push(0);
    assert_eq!(reasons(&decode(&source, &bytes)), [Reason::Syntax]);
    assert_eq!(reasons(&decode(&source, vec![0x81; 5_000])), [Reason::TooDeep]);
    // An announced length of 2^63 - 1 for bytes, text, array and map, with nothing behind it.
    for head in [0x5b, 0x7b, 0x9b, 0xbb] {
        let payload = [head, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(reasons(&decode(&source, payload)), [Reason::Syntax], "{head:x}");
    }
}

#[test]
fn payloads_that_cannot_be_read_are_refused_without_showing_them() {
    let json = source_of("json", "[fields]\nv = {}");
    let csv = source_of("csv", "[fields]\nv = { column = \"0\" }");
    let number = source_of("number", "[fields]\nv = {}");
    let deep = "[".repeat(100_000);
    for (source, payload, expected) in [
        (&json, &b"{\"v\":\xff}"[..], Reason::InvalidUtf8),
        (&csv, &b"1\xff"[..], Reason::InvalidUtf8),
        (&number, &b"\xff"[..], Reason::InvalidUtf8),
        (&json, deep.as_bytes(), Reason::TooDeep),
        (&json, b"{\"v\":1e400}", Reason::NotFinite),
        (&json, b"{\"v\":NaN}", Reason::Syntax),
        (&json, b"\xef\xbb\xbf{\"v\":true}", Reason::WrongType),
        (&json, b"{\"v\":1} secret", Reason::Syntax),
        (&json, b"", Reason::Syntax),
        (&json, b"{\"v\": secret}", Reason::Syntax),
        (&csv, b"secret", Reason::WrongType),
        (&number, b"secret", Reason::Syntax),
    ] {
        let decoded = decode(source, payload);
        assert_eq!(reasons(&decoded), [expected], "{payload:?}");
        assert!(decoded.records.is_empty());
        assert!(!decoded.refusals[0].detail.contains("secret"), "{:?}", decoded.refusals);
    }
    assert_eq!(decode(&json, "{\n \"v\": x}").refusals[0].detail, "line 2, column 7: expected value");
}
