//! Canonical JSON: the one byte form of a document that is signed.
//!
//! Objects with their keys in order of code points, no white space, strings with only quote and backslash escaped,
//! integers alone. Never repairs: a number with a fraction has no canonical form.
//! *Source*: OLPC canonical JSON, as TUF 1.0.34, section 3, uses it.

use std::fmt;

use serde_json::Value;

/// A number that is no integer of 64 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotCanonical(String);

impl fmt::Display for NotCanonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the number {} is no integer and has no canonical form", self.0)
    }
}

impl std::error::Error for NotCanonical {}

/// Returns the canonical bytes of a value.
///
/// *Errors*: it holds a number that is no integer.
pub fn to_bytes(value: &Value) -> Result<Vec<u8>, NotCanonical> {
    let mut out = Vec::new();
    write(value, &mut out)?;
    Ok(out)
}

// Recursion is bounded: the parser refuses more than 128 levels.
fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            out.extend_from_slice(number.to_string().as_bytes());
        }
        Value::Number(number) => return Err(NotCanonical(number.to_string())),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            // UTF-8 keeps the order of code points.
            members.sort_by_key(|(name, _)| *name);
            out.push(b'{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(name, out);
                out.push(b':');
                write(member, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_ordered_and_nothing_but_quote_and_backslash_is_escaped() {
        let value = json!({"b": [1, true, null], "a": "x\"\\\n\u{e9}", "A": {}});
        assert_eq!(
            to_bytes(&value).unwrap(),
            "{\"A\":{},\"a\":\"x\\\"\\\\\n\u{e9}\",\"b\":[1,true,null]}".as_bytes()
        );
    }

    #[test]
    fn a_fraction_has_no_canonical_form() {
        assert!(to_bytes(&json!({"a": 1.5})).is_err());
    }
}
