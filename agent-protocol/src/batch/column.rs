//! The forms of columns: differences for times, positions in a dictionary, offsets of numbers, bytes.
//!
//! In memory plain values; differences are made in writing and undone in reading, with every sum checked. Bytes are
//! base64 in writing, and no longer than their column allows.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{INTEGER_MAX, ROWS_MAX};
use crate::list::List;

/// Positions in a dictionary.
pub type Indexes = List<u32, ROWS_MAX>;

/// Whole numbers, mostly near each other, as times are. On the wire: the first, then differences.
#[derive(Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
pub struct Deltas(#[schemars(with = "List<i64, ROWS_MAX>")] Vec<i64>);

impl Deltas {
    /// Adds a value.
    pub fn push(&mut self, value: i64) {
        self.0.push(value);
    }
}

impl std::ops::Deref for Deltas {
    type Target = [i64];

    fn deref(&self) -> &[i64] {
        &self.0
    }
}

impl FromIterator<i64> for Deltas {
    fn from_iter<I: IntoIterator<Item = i64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Serialize for Deltas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        serializer.collect_seq(self.0.iter().map(|value| {
            let difference = value.wrapping_sub(before);
            before = *value;
            difference
        }))
    }
}

impl<'de> Deserialize<'de> for Deltas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = 0_i64;
        let differences = List::<i64, ROWS_MAX>::deserialize(deserializer)?;
        let values = differences.into_iter().map(|difference| {
            value = value.checked_add(difference)?;
            (value.unsigned_abs() <= INTEGER_MAX).then_some(value)
        });
        let values: Option<Vec<i64>> = values.collect();
        values
            .map(Self)
            .ok_or_else(|| D::Error::custom("a column of differences leaves the range of numbers"))
    }
}

/// Offsets of numbers within a batch, strictly rising. On the wire: the first, then differences.
#[derive(Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
pub struct Offsets(#[schemars(with = "List<u64, ROWS_MAX>")] Vec<u64>);

/// Offsets that do not rise, or too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetsError;

impl fmt::Display for OffsetsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offsets are at most {ROWS_MAX} numbers, each larger than the one before")
    }
}

impl std::error::Error for OffsetsError {}

impl Offsets {
    /// Takes offsets.
    ///
    /// *Errors*: they do not rise, or are too many.
    pub fn new(offsets: Vec<u64>) -> Result<Self, OffsetsError> {
        if offsets.len() > ROWS_MAX || offsets.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(OffsetsError);
        }
        Ok(Self(offsets))
    }

    /// Returns how many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the largest.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.0.last().copied()
    }

    /// Returns them in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }
}

impl Serialize for Offsets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        serializer.collect_seq(self.0.iter().map(|offset| offset - std::mem::replace(&mut before, *offset)))
    }
}

impl<'de> Deserialize<'de> for Offsets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut offset = 0_u64;
        let differences = List::<u64, ROWS_MAX>::deserialize(deserializer)?;
        let offsets = differences.into_iter().map(|difference| {
            offset = offset.checked_add(difference)?;
            Some(offset)
        });
        let offsets: Option<Vec<u64>> = offsets.collect();
        offsets.and_then(|offsets| Self::new(offsets).ok()).ok_or_else(|| D::Error::custom(OffsetsError))
    }
}

/// At most `BYTES_MAX` bytes. On the wire: base64 with padding, in its one spelling.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob<const BYTES_MAX: usize>(Vec<u8>);

/// Bytes that are too many, or no base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobError {
    /// How many there may be.
    bytes_max: usize,
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is no base64 of at most {} bytes", self.bytes_max)
    }
}

impl std::error::Error for BlobError {}

impl<const BYTES_MAX: usize> Blob<BYTES_MAX> {
    /// Takes bytes.
    ///
    /// *Errors*: they are too many.
    pub fn new(bytes: Vec<u8>) -> Result<Self, BlobError> {
        if bytes.len() > BYTES_MAX { Err(BlobError { bytes_max: BYTES_MAX }) } else { Ok(Self(bytes)) }
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Longest text of so many bytes.
    const TEXT_MAX: usize = BYTES_MAX.div_ceil(3) * 4;
}

impl<const BYTES_MAX: usize> fmt::Debug for Blob<BYTES_MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl<const BYTES_MAX: usize> Serialize for Blob<BYTES_MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de, const BYTES_MAX: usize> Deserialize<'de> for Blob<BYTES_MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let refused = || D::Error::custom(BlobError { bytes_max: BYTES_MAX });
        let text = String::deserialize(deserializer)?;
        if text.len() > Self::TEXT_MAX {
            return Err(refused());
        }
        Self::new(STANDARD.decode(text).map_err(|_| refused())?).map_err(D::Error::custom)
    }
}

impl<const BYTES_MAX: usize> JsonSchema for Blob<BYTES_MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Blob{BYTES_MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "contentEncoding": "base64",
            "maxLength": Self::TEXT_MAX,
            "description": format!("At most {BYTES_MAX} bytes, as base64 with padding."),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deltas_as_bytes(deltas: &Deltas) -> Vec<u8> {
        deltas.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn bytes_that_are_too_many_or_spelled_otherwise_are_refused() {
        for text in ["\"AAAAAA==\"", "\"AAA\"", "\"AAB=\"", "\"AA A\"", "\"AA-_\"", "[0]", "null"] {
            assert!(serde_json::from_str::<Blob<3>>(text).is_err(), "{text}");
        }
        assert_eq!(serde_json::from_str::<Blob<3>>("\"AAAA\"").unwrap().as_bytes(), [0, 0, 0]);
        assert!(Blob::<3>::new(vec![0; 4]).is_err());
    }

    proptest! {
        #[test]
        fn differences_come_back_as_what_they_were_made_of(
            values in proptest::collection::vec(-(INTEGER_MAX as i64)..=INTEGER_MAX as i64, 0..20),
            offsets in proptest::collection::btree_set(any::<u64>(), 0..20),
        ) {
            let deltas: Deltas = values.into_iter().collect();
            let text = serde_json::to_string(&deltas).unwrap();
            let blob = Blob::<160>::new(deltas_as_bytes(&deltas)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Deltas>(&text).unwrap(), deltas);
            let text = serde_json::to_string(&blob).unwrap();
            prop_assert_eq!(serde_json::from_str::<Blob<160>>(&text).unwrap(), blob);
            let offsets = Offsets::new(offsets.into_iter().collect()).unwrap();
            let text = serde_json::to_string(&offsets).unwrap();
            prop_assert_eq!(serde_json::from_str::<Offsets>(&text).unwrap(), offsets);
        }
    }

    #[test]
    fn sums_that_overflow_and_offsets_that_stand_still_are_refused() {
        for text in
            ["[9223372036854775807,1]", "[9007199254740992]", "[-9007199254740992]", "[1.5]", "[null]"]
        {
            assert!(serde_json::from_str::<Deltas>(text).is_err(), "{text}");
        }
        for text in ["[0,0]", "[3,0]", "[1,18446744073709551615]", "[-1]"] {
            assert!(serde_json::from_str::<Offsets>(text).is_err(), "{text}");
        }
        let long = serde_json::to_string(&vec![1; ROWS_MAX + 1]).unwrap();
        assert!(serde_json::from_str::<Deltas>(&long).is_err());
        assert!(serde_json::from_str::<Offsets>(&long).is_err());
    }
}
