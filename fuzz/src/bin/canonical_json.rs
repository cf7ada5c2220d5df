//! Canonical JSON: what is written can be read back by another reader, so no two documents have one form.
//!
//! Takes any bytes as JSON. The reader here shares nothing with the writer: it accepts the canonical form alone.

#![no_main]

use dunlin_trust::canonical;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Number, Value};

fuzz_target!(|data: &[u8]| {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    let Ok(bytes) = canonical::to_bytes(&value) else {
        assert!(has_fraction(&value), "only fractions have no canonical form");
        return;
    };
    let mut rest = bytes.as_slice();
    assert_eq!(read(&mut rest), value);
    assert!(rest.is_empty(), "something stands after the value");
});

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(members) => members.values().any(has_fraction),
        _ => false,
    }
}

fn read(rest: &mut &[u8]) -> Value {
    match rest[0] {
        b'"' => Value::String(read_string(rest)),
        b'[' => {
            let mut items = Vec::new();
            while take(rest, if items.is_empty() { b'[' } else { b',' }) {
                if rest[0] == b']' {
                    break;
                }
                items.push(read(rest));
            }
            assert!(take(rest, b']'));
            Value::Array(items)
        }
        b'{' => read_object(rest),
        b't' => word(rest, b"true", Value::Bool(true)),
        b'f' => word(rest, b"false", Value::Bool(false)),
        b'n' => word(rest, b"null", Value::Null),
        _ => {
            let end = rest.iter().position(|b| !matches!(b, b'-' | b'0'..=b'9')).unwrap_or(rest.len());
            let (digits, tail) = rest.split_at(end);
            *rest = tail;
            let text = std::str::from_utf8(digits).expect("digits are text");
            let signed = text.parse::<i64>().map(Number::from);
            Value::Number(signed.unwrap_or_else(|_| Number::from(text.parse::<u64>().expect("an integer"))))
        }
    }
}

fn read_object(rest: &mut &[u8]) -> Value {
    let mut members = Map::new();
    let mut last: Option<String> = None;
    while take(rest, if last.is_none() { b'{' } else { b',' }) {
        if rest[0] == b'}' {
            break;
        }
        let name = read_string(rest);
        assert!(last.is_none_or(|last| last < name), "names rise and stand once");
        assert!(take(rest, b':'));
        let value = read(rest);
        members.insert(name.clone(), value);
        last = Some(name);
    }
    assert!(take(rest, b'}'));
    Value::Object(members)
}

fn read_string(rest: &mut &[u8]) -> String {
    assert!(take(rest, b'"'));
    let mut text = Vec::new();
    loop {
        let (mut byte, mut tail) = rest.split_first().expect("the string ends");
        if *byte == b'\\' {
            (byte, tail) = tail.split_first().expect("something is escaped");
            assert!(matches!(byte, b'"' | b'\\'));
        } else if *byte == b'"' {
            *rest = tail;
            return String::from_utf8(text).expect("texts are UTF-8");
        }
        text.push(*byte);
        *rest = tail;
    }
}

fn take(rest: &mut &[u8], byte: u8) -> bool {
    let found = rest.first() == Some(&byte);
    if found {
        *rest = &rest[1..];
    }
    found
}

fn word(rest: &mut &[u8], text: &[u8], value: Value) -> Value {
    *rest = rest.strip_prefix(text).expect("the word is whole");
    value
}
