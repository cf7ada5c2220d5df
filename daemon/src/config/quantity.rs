//! The small values of the configuration file that have a notation of their own: bytes, quality of service, commit.
//!
//! Parses, prints and describes them for editors; decides nothing.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use dunlin_model_package::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: `1GiB`, `500MB`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || {
            let shown: String = text.chars().take(40).collect();
            format!(
                "`{shown}` is not a number of bytes; write a number and a unit, as in `64MiB`, `1GiB`, `500MB`"
            )
        };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = if unit.is_empty() { "B" } else { unit.trim() };
        let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(refuse)?.1;
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(factor).ok_or_else(refuse)?,
            Err(_) => {
                let bytes = (number.parse::<f64>().map_err(|_| refuse())? * factor as f64).round();
                if bytes < i64::MAX as f64 { bytes as u64 } else { return Err(refuse()) }
            }
        };
        // TOML's integers end here, and so does every file system that a gateway may have.
        if i64::try_from(bytes).is_ok() { Ok(Self(bytes)) } else { Err(refuse()) }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The unit that makes the number short: `16TB` and `1GiB`, not `15625000000KiB`.
        let exact = UNITS.iter().filter(|(_, factor)| self.0.is_multiple_of(*factor));
        let (name, factor) = exact.min_by_key(|(_, factor)| self.0 / factor).unwrap_or(&("B", 1));
        if self.0 == 0 { f.write_str("0B") } else { write!(f, "{}{name}", self.0 / factor) }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, as in `64MiB`, `1GiB`, `500MB` or 1048576")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Bytes, E> {
                u64::try_from(number)
                    .map(Bytes)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Bytes, E> {
                Ok(Bytes(number))
            }
        }
        deserializer.deserialize_any(BytesVisitor)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "minimum": 0,
            "description": "A number of bytes: `64MiB`, `1GiB`, `500MB` or a plain number."
        })
    }
}

/// Quality of service: 0 or 1. 2 is not offered, since clients are known to livelock on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// At most once.
    AtMostOnce,
    /// At least once.
    AtLeastOnce,
}

impl Serialize for Qos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(u8::from(*self == Self::AtLeastOnce))
    }
}

impl<'de> Deserialize<'de> for Qos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Err(de::Error::custom(
                "quality of service 2 is not offered; 1 with this daemon's store is exactly once",
            )),
            other => Err(de::Error::custom(format!("`{other}` is no quality of service; write 0 or 1"))),
        }
    }
}

impl JsonSchema for Qos {
    fn schema_name() -> Cow<'static, str> {
        "Qos".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "enum": [0, 1], "description": "Quality of service: 0 or 1." })
    }
}

/// When the writer commits: `auto`, `ack` or an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// By rows, in-flight window and quiet.
    Auto,
    /// As soon as the writer is free.
    Ack,
    /// At this interval.
    Interval(Span),
}

impl FromStr for Commit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "ack" => Ok(Self::Ack),
            _ => text.parse().map(Self::Interval).map_err(|_| {
                let shown: String = text.chars().take(40).collect();
                format!("`{shown}` is no commit profile; write `auto`, `ack` or an interval such as `250ms`")
            }),
        }
    }
}

impl Serialize for Commit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Ack => serializer.serialize_str("ack"),
            Self::Interval(span) => span.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Commit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Commit {
    fn schema_name() -> Cow<'static, str> {
        "Commit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(auto|ack|[0-9.]+ *(us|ms|s|m|h|d))$",
            "description": "`auto`, `ack` or an interval such as `250ms`."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_read_in_every_unit() {
        for (text, bytes) in
            [("1GiB", 1 << 30), ("1.5 KiB", 1536), ("16TB", 16_000_000_000_000), ("7", 7), ("3kb", 3_000)]
        {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1B", "1 parsec", "99999999999TiB", "1..2MB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_bytes_read_back(bytes in 0..1_u64 << 50) {
            prop_assert_eq!(Bytes(bytes).to_string().parse::<Bytes>(), Ok(Bytes(bytes)));
        }
    }
}
