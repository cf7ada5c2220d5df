//! From raw value to number.

use super::*;

/// What a field makes of a JSON value: its number, `None` where it is missing, or the refusal.
fn value(field: &str, json: &str) -> Result<Option<f64>, Reason> {
    let source = source_of("json", &format!("[fields]\nanchor = {{}}\nv = {field}"));
    let decoded = decode(&source, format!("{{\"anchor\": 1, \"v\": {json}}}"));
    match reasons(&decoded)[..] {
        [] => Ok(Some(decoded.records[0].values[1]).filter(|value| !value.is_nan())),
        [reason] => {
            assert!(decoded.records[0].values[1].is_nan(), "the record stays, the value is missing");
            assert_eq!(decoded.refusals[0].detail, "field `v`");
            Err(reason)
        }
        _ => panic!("{:?}", decoded.refusals),
    }
}

#[test]
fn every_kind_of_value_becomes_a_number_or_has_a_reason() {
    use Reason::{NotFinite, NotMapped, OutOfRange, WrongType};
    let map = "{ map = { open = 1, true = 2, \"7\" = 70, dash = -1 }, missing_values = [-1] }";
    for (field, json, expected) in [
        ("{}", "21.5", Ok(Some(21.5))),
        ("{}", "-3", Ok(Some(-3.0))),
        ("{}", "18446744073709551615", Ok(Some(18_446_744_073_709_551_615.0))),
        ("{}", "\" 21.5 \"", Ok(Some(21.5))),
        ("{}", "\"1e3\"", Ok(Some(1000.0))),
        ("{}", "null", Ok(None)),
        ("{}", "\"NaN\"", Err(NotFinite)),
        ("{}", "\"-inf\"", Err(NotFinite)),
        ("{}", "\"1e400\"", Err(NotFinite)),
        ("{}", "\"warm\"", Err(WrongType)),
        ("{}", "\"\"", Err(WrongType)),
        ("{}", "\"21,5\"", Err(WrongType)),
        ("{}", "true", Err(WrongType)),
        ("{}", "{}", Err(WrongType)),
        ("{}", "[1]", Err(WrongType)),
        (map, "\"open\"", Ok(Some(1.0))),
        (map, "true", Ok(Some(2.0))),
        (map, "\"true\"", Ok(Some(2.0))),
        (map, "7", Ok(Some(70.0))),
        (map, "7.0", Ok(Some(70.0))),
        (map, "\"7.0\"", Ok(Some(70.0))),
        (map, "8", Ok(Some(8.0))),
        (map, "\"dash\"", Ok(None)),
        (map, "false", Err(NotMapped)),
        (map, "\"Open\"", Err(NotMapped)),
        ("{ scale = 0.1, offset = -40, range = [-40, 85] }", "615", Ok(Some(21.5))),
        ("{ scale = 0.1, offset = -40, range = [-40, 85] }", "0", Ok(Some(-40.0))),
        ("{ scale = 0.1, offset = -40, range = [-40, 85] }", "1251", Err(OutOfRange)),
        ("{ scale = 0.1, missing_values = [-200, 6553.5] }", "-200", Ok(None)),
        ("{ scale = 0.1, missing_values = [-200, 6553.5] }", "\"6553.5\"", Ok(None)),
        ("{ scale = 1e300 }", "1e300", Err(NotFinite)),
    ] {
        match (value(field, json), expected) {
            (Ok(Some(a)), Ok(Some(b))) => assert_values(&[a], &[b]),
            (found, expected) => assert_eq!(found, expected, "{field} {json}"),
        }
    }
}

#[test]
fn a_record_without_any_value_has_one_reason() {
    let source = source_of("json", "[fields]\na = { missing_values = [-200] }\nb = { range = [0, 1] }");
    for (payload, expected) in [
        ("{}", vec![Reason::NoFields]),
        ("[]", vec![Reason::NoFields]),
        ("7", vec![Reason::NoFields]),
        (r#"{"a": null, "b": null}"#, vec![Reason::NoFields]),
        (r#"{"a": -200}"#, vec![Reason::NoFields]),
        (r#"{"a": -200, "b": 5}"#, vec![Reason::OutOfRange]),
        (r#"{"a": true, "b": 5}"#, vec![Reason::WrongType, Reason::OutOfRange]),
    ] {
        let decoded = decode(&source, payload);
        assert_eq!((reasons(&decoded), decoded.records.len()), (expected, 0), "{payload}");
    }
}

#[test]
fn of_two_equal_keys_the_later_counts() {
    let source = source_of("json", "[fields]\nv = {}");
    assert_values(&one(&decode(&source, r#"{"v": 1, "v": 2}"#)).values, &[2.0]);
}

#[test]
fn tags_are_short_texts_numbers_or_truth_values() {
    let source = source_of("json", "tags = { id = \"/id\" }\n[fields]\nv = {}");
    let long = format!("\"{}\"", "x".repeat(257));
    for (json, expected) in [
        ("\"a b\"", Some("a b")),
        ("17", Some("17")),
        ("1.5", Some("1.5")),
        ("true", Some("true")),
        ("null", None),
        ("\"\"", None),
        ("[]", None),
        (long.as_str(), None),
    ] {
        let decoded = decode(&source, format!("{{\"id\": {json}, \"v\": 1}}"));
        match expected {
            Some(tag) => assert_eq!(one(&decoded).tags, [tag]),
            None => assert_eq!(reasons(&decoded), [Reason::NoTag], "{json}"),
        }
    }
}
