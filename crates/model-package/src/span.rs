//! A length of time as people write it in a configuration: `250ms`, `30s`, `5m`, `36h`, `90d`.
//!
//! Parses and prints the text; never reads a clock. Used by every window, age and interval of a specification.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest accepted length: 100 years, far inside the range of `i64` microseconds.
const MICROS_MAX: i64 = 100 * 366 * 86_400 * 1_000_000;

/// A non-negative length of time.
///
/// *Units*: microseconds. *Range*: 0 to 100 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(i64);

/// A text that is no length of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanError(String);

impl fmt::Display for SpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a length of time; write a number and a unit, as in `250ms`, `30s`, `5m`, `1h`, `7d`",
            self.0
        )
    }
}

impl std::error::Error for SpanError {}

/// Units from the largest to the smallest, so that printing picks the shortest exact text.
const UNITS: [(&str, i64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

impl Span {
    /// Returns the length with this many whole milliseconds.
    #[must_use]
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms * 1_000)
    }

    /// Returns the length with this many whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds * 1_000_000)
    }

    /// Returns the length in microseconds.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns the length in seconds.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Returns the length as the standard library's type.
    #[must_use]
    pub fn as_duration(self) -> Duration {
        Duration::from_micros(self.0.unsigned_abs())
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || SpanError(text.chars().take(40).collect());
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let (number, unit) = trimmed.split_at(split);
        let micros = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(refuse)?.1;
        let value: f64 = number.parse().map_err(|_| refuse())?;
        let total = (value * micros as f64).round();
        if !total.is_finite() || total > MICROS_MAX as f64 {
            return Err(refuse());
        }
        Ok(Self(total as i64))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        for (name, micros) in UNITS {
            if self.0 % micros == 0 {
                return write!(f, "{}{name}", self.0 / micros);
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9.]+ *(us|ms|s|m|h|d)$",
            "description": "A length of time: a number and a unit (`us`, `ms`, `s`, `m`, `h`, `d`), as in `5m`."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_read_in_every_unit() {
        for (text, micros) in
            [("250ms", 250_000), ("1.5s", 1_500_000), ("5m", 300_000_000), ("2 h", 7_200_000_000), ("0s", 0)]
        {
            assert_eq!(text.parse::<Span>().unwrap().as_micros(), micros, "{text}");
        }
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for text in ["", "5", "m", "-5s", "5 parsecs", "1e400s", "99999999d", "..s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_length_reads_back(micros in 0..MICROS_MAX / 1_000) {
            let span = Span(micros);
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
    }
}
