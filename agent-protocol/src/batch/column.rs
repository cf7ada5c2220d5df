//! The forms of columns: differences for times, positions in a dictionary, offsets of numbers.
//!
//! In memory plain values; differences are made in writing and undone in reading, with every sum checked.

use schemars::JsonSchema;
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

impl std::fmt::Display for OffsetsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn differences_come_back_as_what_they_were_made_of(
            values in proptest::collection::vec(-(INTEGER_MAX as i64)..=INTEGER_MAX as i64, 0..20),
            offsets in proptest::collection::btree_set(any::<u64>(), 0..20),
        ) {
            let deltas: Deltas = values.into_iter().collect();
            let text = serde_json::to_string(&deltas).unwrap();
            prop_assert_eq!(serde_json::from_str::<Deltas>(&text).unwrap(), deltas);
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
