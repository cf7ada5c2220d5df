//! From a payload's time to an event time, and which are believed.

use super::*;
use crate::reading::TimedBy;

/// 2015-02-02T14:19:00.123456Z.
const MOMENT_US: i64 = 1_422_886_740_123_456;

fn timed(time: &str, json: &str) -> Decoded {
    let source = source_of("json", &format!("time = {{ pointer = \"/t\", {time} }}\n[fields]\nv = {{}}"));
    decode(&source, format!("{{\"t\": {json}, \"v\": 1}}"))
}

#[test]
fn one_moment_is_read_from_every_format() {
    for (format, json, dropped_us) in [
        ("auto", "1422886740", 123_456),
        ("auto", "1422886740.123456", 0),
        ("auto", "\"1422886740.123456\"", 0),
        ("auto", "1422886740123", 456),
        ("auto", "1422886740123.456", 0),
        ("auto", "1422886740123456", 0),
        ("auto", "1422886740123456789", 0),
        ("auto", "\"1422886740123456789\"", 0),
        ("auto", "\"2015-02-02T14:19:00.123456Z\"", 0),
        ("auto", "\"2015-02-02T15:19:00.123456+01:00\"", 0),
        ("auto", "\"2015-02-02T14:19:00.123456\"", 0),
        ("auto", "\" 2015-02-02 14:19:00 \"", 123_456),
        ("rfc3339", "\"2015-02-02t14:19:00.123456z\"", 0),
        ("unix-s", "1422886740.123456", 0),
        ("unix-s", "\"1422886740\"", 123_456),
        ("unix-ms", "1422886740123.456", 0),
        ("unix-us", "1422886740123456", 0),
        ("unix-ns", "1422886740123456789", 0),
        ("%d/%m/%Y %H:%M:%S%.f", "\"02/02/2015 14:19:00.123456\"", 0),
        ("%Y-%m-%dT%H:%M:%S%.f%z", "\"2015-02-02T15:19:00.123456+0100\"", 0),
        ("%Y%m%d%H%M%S", "20150202141900", 123_456),
    ] {
        let decoded = timed(&format!("format = \"{format}\""), json);
        let record = one(&decoded);
        assert_eq!(
            (record.event_us, record.timed_by),
            (MOMENT_US - dropped_us, TimedBy::Payload),
            "{format} {json}"
        );
    }
}

#[test]
fn nanoseconds_are_not_rounded_through_doubles() {
    let decoded = timed("format = \"unix-ns\"", "1795348799999999999");
    assert_eq!(one(&decoded).event_us, 1_795_348_799_999_999);
    let decoded = timed("format = \"unix-us\"", "9007199254740993");
    assert_eq!(reasons(&decoded), [Reason::InFuture]);
    let decoded = timed("format = \"unix-us\", skew_max = \"36500d\"", "\"9007199254740993\"");
    assert_eq!(reasons(&decoded), [Reason::InFuture]);
}

#[test]
fn an_unreadable_time_falls_back_or_is_refused() {
    for (format, json) in [
        ("auto", "null"),
        ("auto", "true"),
        ("auto", "\"yesterday\""),
        ("auto", "{}"),
        ("auto", "1e300"),
        ("auto", "\"inf\""),
        ("rfc3339", "1422886740"),
        ("unix-s", "9223372036854775807"),
        ("unix-s", "\"2015-02-02T14:19:00Z\""),
        ("%d/%m/%Y", "\"2015-02-02\""),
        ("%d/%m/%Y", "true"),
    ] {
        let record = timed(&format!("format = \"{format}\""), json);
        let record = one(&record);
        assert_eq!((record.event_us, record.timed_by), (ARRIVAL_US, TimedBy::Arrival), "{format} {json}");
        let decoded = timed(&format!("format = \"{format}\", fallback = \"reject\""), json);
        assert_eq!(reasons(&decoded), [Reason::NoTime], "{format} {json}");
    }
    let senml = source_of("senml", "time = { fallback = \"reject\" }\n[fields]\nv = {}");
    assert_eq!(reasons(&decode(&senml, r#"[{"n":"v","v":1,"t":-5}]"#)), [Reason::NoTime]);
}

#[test]
fn future_and_age_are_judged_by_a_clock_that_was_set() {
    let source = source_of(
        "json",
        "time = { pointer = \"/t\", skew_max = \"5m\", age_max = \"10m\" }\n[fields]\nv = {}",
    );
    for (offset_s, expected) in
        [(300, None), (301, Some(Reason::InFuture)), (-600, None), (-601, Some(Reason::TooOld))]
    {
        let payload = format!("{{\"t\": {}, \"v\": 1}}", ARRIVAL_US / 1_000_000 + offset_s);
        let mut message = message("t", payload.as_bytes());
        assert_eq!(reasons(&decode_message(&source, &message)), expected.into_iter().collect::<Vec<_>>());
        message.clock = ClockState::Unset;
        assert_eq!(one(&decode_message(&source, &message)).event_us, ARRIVAL_US + offset_s * 1_000_000);
    }
}

#[test]
fn retained_messages_are_skipped_unless_the_source_uses_them() {
    let timed = format!("{{\"t\": {}, \"v\": 1}}", ARRIVAL_US / 1_000_000 - 9);
    for (retained, payload, is_used) in [
        ("skip", timed.as_str(), false),
        ("use-if-time", timed.as_str(), true),
        ("use-if-time", "{\"v\": 1}", false),
        ("use", timed.as_str(), true),
        ("use", "{\"v\": 1}", true),
    ] {
        let more = format!("retained = \"{retained}\"\ntime = {{ pointer = \"/t\" }}\n[fields]\nv = {{}}");
        let source = source_of("json", &more);
        let mut message = message("t", payload.as_bytes());
        one(&decode_message(&source, &message));
        message.retained = true;
        let decoded = decode_message(&source, &message);
        if is_used {
            one(&decoded);
        } else {
            assert_eq!((reasons(&decoded), decoded.records.len()), (vec![Reason::Retained], 0), "{retained}");
        }
    }
    let senml = source_of("senml", "retained = \"use-if-time\"\n[fields]\nv = {}");
    let mut relative = message("t", br#"[{"n":"v","t":-5,"v":1}]"#);
    relative.retained = true;
    assert_eq!(reasons(&decode_message(&senml, &relative)), [Reason::Retained]);
}
