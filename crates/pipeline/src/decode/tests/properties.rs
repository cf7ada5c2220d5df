//! What holds for every payload.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const TREE: &str = r#"
    time = { pointer = "/t" }
    tags = { tag = "/tag" }
    [fields]
    a = { pointer = "/a" }
    b = { pointer = "/b/1", map = { on = 1, true = 2 } }
    c = { pointer = "/b/x", range = [-50, 50], missing_values = [3] }
"#;

fn sources() -> Vec<CompiledSource> {
    vec![
        source_of("json", TREE),
        source_of("json", &format!("each = \"\"\n{TREE}")),
        source_of("cbor", TREE),
        source_of("cbor", &format!("each = \"/b\"\n{TREE}")),
        source_of("number", "[fields]\na = { map = { on = 1 } }"),
        source_of("senml", "[fields]\na = { unit = \"Cel\" }\nb = { name = \"dev:b\" }"),
        source_of("csv", "time = { pointer = \"t\" }\ntags = { tag = \"tag\" }\n[fields]\na = {}\nb = {}"),
        source_of(
            "csv",
            "time = { pointer = \"0\", format = \"%d/%m/%Y\" }\n[fields]\na = { column = \"1\" }",
        ),
    ]
}

/// Payloads that some format reads.
fn valid_payloads() -> Vec<Vec<u8>> {
    let tree =
        json!({"t": "2026-11-22T11:00:00Z", "tag": "x", "a": 1.5, "b": [{"a": 2, "tag": 1}, "on", null]});
    let mut cbor = Vec::new();
    ciborium::into_writer(&tree, &mut cbor).unwrap();
    vec![
        tree.to_string().into_bytes(),
        format!("[{tree},{tree}]").into_bytes(),
        cbor,
        b" -21.5e1 ".to_vec(),
        br#"[{"bn":"dev:","bt":1.276020076e9,"bu":"K","bv":1,"bver":10,"n":"a","v":20.5},{"n":"b","t":-5,"vs":"7"}]"#.to_vec(),
        b"t,tag,a,b\n2026-11-22 11:00:00,x,1,\"2\"\n,y,3,4\n".to_vec(),
    ]
}

fn check_all(payload: &[u8]) -> Result<(), TestCaseError> {
    for source in sources() {
        let decoded = decode(&source, payload);
        prop_assert!(!decoded.records.is_empty() || !decoded.refusals.is_empty(), "nothing came of it");
        for record in &decoded.records {
            prop_assert_eq!(record.values.len(), source.field_names().len());
            prop_assert_eq!(record.tags.len(), source.tag_names().len());
            prop_assert!(record.values.iter().any(|value| !value.is_nan()));
            prop_assert!(record.values.iter().all(|value| !value.is_infinite()));
        }
    }
    Ok(())
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Thousandths are read from text without rounding errors, so both formats hold the same double.
        (-100_000_i32..100_000).prop_map(|thousandths| Value::from(f64::from(thousandths) / 1e3)),
        prop_oneof!["on", "off", "[0-9]{1,3}", "inf", "2026-11-22T11:00:0[0-9]Z", "[a-c]?"]
            .prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("a|b|t|tag|x|0|1", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        check_all(&payload)?;
    }

    #[test]
    fn no_mutation_of_a_valid_payload_makes_decoding_panic(
        which in 0_usize..6,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..6),
    ) {
        let mut payload = valid_payloads()[which].clone();
        for (at, byte, kind) in edits {
            if payload.is_empty() {
                break;
            }
            let at = at.index(payload.len());
            match kind {
                0 => payload[at] = byte,
                1 => payload.insert(at, byte),
                _ => payload.truncate(at),
            }
        }
        check_all(&payload)?;
    }

    #[test]
    fn json_and_cbor_of_one_tree_decode_alike(tree in tree(), each in any::<bool>()) {
        let more = if each { format!("each = \"/b\"\n{TREE}") } else { TREE.to_owned() };
        let mut cbor = Vec::new();
        ciborium::into_writer(&tree, &mut cbor).unwrap();
        let from_json = decode(&source_of("json", &more), tree.to_string());
        let from_cbor = decode(&source_of("cbor", &more), cbor);
        prop_assert_eq!(&from_json.refusals, &from_cbor.refusals);
        // Records hold NaN, which no comparison finds equal to itself; their texts do.
        prop_assert_eq!(format!("{:?}", from_json.records), format!("{:?}", from_cbor.records));
    }

    #[test]
    fn a_time_is_the_same_in_every_format(ms in 1_500_000_000_000_i64..1_795_000_000_000) {
        let (s, us) = (ms as f64 / 1e3, ms * 1_000);
        let rfc3339 = jiff::Timestamp::from_microsecond(us).unwrap().to_string();
        for (format, json) in [
            ("auto", ms.to_string()),
            ("auto", format!("{s:?}")),
            ("auto", format!("\"{rfc3339}\"")),
            ("auto", format!("{us}")),
            ("auto", format!("{}", us * 1_000)),
            ("unix-s", format!("\"{s:?}\"")),
            ("unix-ms", ms.to_string()),
            ("unix-us", format!("\"{us}\"")),
            ("unix-ns", (us * 1_000 + 999).to_string()),
            ("rfc3339", format!("\"{rfc3339}\"")),
        ] {
            let time = format!("time = {{ pointer = \"/t\", format = \"{format}\" }}\n[fields]\na = {{}}");
            let tree: Value = serde_json::from_str(&format!("{{\"t\": {json}, \"a\": 1}}")).unwrap();
            let mut cbor = Vec::new();
            ciborium::into_writer(&tree, &mut cbor).unwrap();
            prop_assert_eq!(one(&decode(&source_of("json", &time), tree.to_string())).event_us, us, "{} {}", format, json);
            prop_assert_eq!(one(&decode(&source_of("cbor", &time), cbor)).event_us, us, "{} {}", format, json);
            let csv = format!("t,a\n{},1\n", json.trim_matches('"'));
            let csv_time = time.replace("/t", "t");
            prop_assert_eq!(one(&decode(&source_of("csv", &csv_time), csv)).event_us, us, "{} {}", format, json);
        }
        let senml = format!("[{{\"n\":\"a\",\"bt\":{},\"t\":{},\"v\":1}}]", ms / 1_000, (ms % 1_000) as f64 / 1e3);
        prop_assert_eq!(one(&decode(&source_of("senml", "[fields]\na = {}"), senml)).event_us, us);
    }
}
