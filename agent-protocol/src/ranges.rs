//! Sets of sequence numbers as ranges: receipts, rejections, what is still to be sent.
//!
//! Sorted, disjoint, never adjacent: there is one form of a set. Pure; reading refuses what is not in order, so that no
//! list from a peer costs more than its length.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{INTEGER_MAX, RANGES_MAX};
use crate::list::List;

/// A range of numbers, both ends within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    first: u64,
    last: u64,
}

/// Two numbers that are no range: out of order, 0, or above [`INTEGER_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeError;

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ranges are pairs of numbers from 1 to 2^53 - 1, in order and without overlap")
    }
}

impl std::error::Error for RangeError {}

impl Range {
    /// Returns the range from `first` to `last`, both within it.
    ///
    /// *Errors*: they are out of order, 0 or above [`INTEGER_MAX`].
    pub const fn new(first: u64, last: u64) -> Result<Self, RangeError> {
        if first == 0 || first > last || last > INTEGER_MAX {
            return Err(RangeError);
        }
        Ok(Self { first, last })
    }

    /// Returns the range of `count` numbers from `first`.
    ///
    /// *Errors*: `count` is 0, or the last number is above [`INTEGER_MAX`].
    pub const fn counted(first: u64, count: u64) -> Result<Self, RangeError> {
        match first.checked_add(count) {
            Some(end) if count > 0 => Self::new(first, end - 1),
            _ => Err(RangeError),
        }
    }

    /// Returns the first number.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// Returns the last number.
    #[must_use]
    pub const fn last(self) -> u64 {
        self.last
    }

    /// Returns how many numbers there are: at least 1.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.last - self.first + 1
    }

    /// Tells whether a number is within the range.
    #[must_use]
    pub const fn contains(self, number: u64) -> bool {
        self.first <= number && number <= self.last
    }
}

/// A set of sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// Returns the empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Tells whether there is no number.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many numbers there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| range.count()).sum()
    }

    /// Returns the ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.0.iter().copied()
    }

    /// Returns the lowest number.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|range| range.first)
    }

    /// Returns the highest number.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|range| range.last)
    }

    /// Tells whether a number is in the set.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|range| range.last < number);
        self.0.get(after).is_some_and(|range| range.contains(number))
    }

    /// Tells whether all numbers of a range are in the set.
    #[must_use]
    pub fn contains_range(&self, wanted: Range) -> bool {
        let after = self.0.partition_point(|range| range.last < wanted.first);
        self.0.get(after).is_some_and(|range| range.first <= wanted.first && wanted.last <= range.last)
    }

    /// Adds a range.
    pub fn insert(&mut self, range: Range) {
        // Ranges from `start` to before `end` touch or overlap the new one and become one with it.
        let start = self.0.partition_point(|present| present.last + 1 < range.first);
        let end = self.0.partition_point(|present| present.first <= range.last + 1);
        let joined = self.0[start..end].iter().fold(range, |joined, present| Range {
            first: joined.first.min(present.first),
            last: joined.last.max(present.last),
        });
        self.0.splice(start..end, [joined]);
    }

    /// Removes a range.
    pub fn remove(&mut self, range: Range) {
        let start = self.0.partition_point(|present| present.last < range.first);
        let end = self.0.partition_point(|present| present.first <= range.last);
        if start >= end {
            return;
        }
        let (first, last) = (self.0[start].first, self.0[end - 1].last);
        let before = (first < range.first).then(|| Range { first, last: range.first - 1 });
        let after = (range.last < last).then(|| Range { first: range.last + 1, last });
        self.0.splice(start..end, before.into_iter().chain(after));
    }

    /// Returns the numbers that are in either set. Takes time in proportion to both lengths.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.0.clone();
        all.extend(&other.0);
        all.sort_unstable();
        let mut joined: Vec<Range> = Vec::with_capacity(all.len());
        for range in all {
            match joined.last_mut() {
                Some(last) if range.first <= last.last + 1 => last.last = last.last.max(range.last),
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// Returns the numbers of this set that are not in the other. Takes time in proportion to both lengths.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        let mut others = other.0.iter().copied().peekable();
        for range in &self.0 {
            let mut next = range.first;
            while let Some(taken) = others.peek().copied() {
                if taken.first > range.last {
                    break;
                }
                if taken.first > next {
                    left.push(Range { first: next, last: taken.first - 1 });
                }
                next = next.max(taken.last + 1);
                if taken.last > range.last {
                    break;
                }
                others.next();
            }
            if next <= range.last {
                left.push(Range { first: next, last: range.last });
            }
        }
        Self(left)
    }

    /// Returns the numbers that are in both sets.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        self.subtract(&self.subtract(other))
    }

    /// Returns the set of the lowest `ranges` ranges: what fits a message. The rest is said another time.
    #[must_use]
    pub fn lowest(&self, ranges: usize) -> Self {
        Self(self.0.iter().take(ranges).copied().collect())
    }
}

impl From<Range> for Ranges {
    fn from(range: Range) -> Self {
        Self(vec![range])
    }
}

impl FromIterator<Range> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        Self(ranges.into_iter().collect()).union(&Self::new())
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for range in &self.0 {
            list.serialize_element(&[range.first, range.last])?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let pairs = List::<[u64; 2], RANGES_MAX>::deserialize(deserializer)?;
        let mut ranges = Vec::with_capacity(pairs.len());
        let mut end = 0;
        for [first, last] in pairs {
            let range = Range::new(first, last).map_err(D::Error::custom)?;
            if first <= end {
                return Err(D::Error::custom(RangeError));
            }
            end = last;
            ranges.push(range);
        }
        Ok(ranges.into_iter().collect())
    }
}

impl JsonSchema for Ranges {
    fn schema_name() -> Cow<'static, str> {
        "Ranges".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = json_schema!({ "type": "integer", "minimum": 1, "maximum": INTEGER_MAX });
        json_schema!({
            "type": "array",
            "maxItems": RANGES_MAX,
            "items": { "type": "array", "minItems": 2, "maxItems": 2, "items": number },
            "description": "Ranges of sequence numbers, [first, last] with both ends within, sorted and disjoint.",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn few() -> impl Strategy<Value = Vec<Range>> {
        proptest::collection::vec((1_u64..60, 1_u64..8), 0..12).prop_map(|pairs| {
            pairs.into_iter().map(|(first, count)| Range::counted(first, count).unwrap()).collect()
        })
    }

    fn numbers(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flat_map(|range| range.first()..=range.last()).collect()
    }

    fn assert_one_form(ranges: &Ranges) {
        for pair in ranges.0.windows(2) {
            assert!(pair[0].last + 1 < pair[1].first, "{ranges:?}");
        }
    }

    proptest! {
        #[test]
        fn ranges_are_sets_of_numbers(a in few(), b in few(), edits in few(), number in 1_u64..80) {
            let (x, y): (Ranges, Ranges) = (a.iter().copied().collect(), b.into_iter().collect());
            let (i, j) = (numbers(&x), numbers(&y));
            prop_assert_eq!(numbers(&x.union(&y)), &i | &j);
            prop_assert_eq!(numbers(&x.subtract(&y)), &i - &j);
            prop_assert_eq!(numbers(&x.intersect(&y)), &i & &j);
            prop_assert_eq!(x.contains(number), i.contains(&number));
            prop_assert_eq!(x.count(), i.len() as u64);
            for set in [&x, &x.union(&y), &x.subtract(&y), &x.intersect(&y)] {
                assert_one_form(set);
            }
            let (mut one_by_one, mut left) = (Ranges::new(), x.clone());
            a.iter().for_each(|range| one_by_one.insert(*range));
            prop_assert_eq!(&one_by_one, &x);
            for edit in edits {
                left.remove(edit);
                assert_one_form(&left);
                prop_assert!(numbers(&left).iter().all(|number| !edit.contains(*number)));
                prop_assert_eq!(x.contains_range(edit), (edit.first()..=edit.last()).all(|n| i.contains(&n)));
                prop_assert_eq!(left.union(&Ranges::from(edit)).intersect(&x), x.intersect(&left.union(&edit.into())));
            }
            let text = serde_json::to_string(&x).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ranges>(&text).unwrap(), x);
        }
    }

    #[test]
    fn the_last_number_is_a_number_like_any_other() {
        let last = Range::counted(INTEGER_MAX, 1).unwrap();
        let mut ranges = Ranges::from(last);
        ranges.insert(Range::new(1, 3).unwrap());
        assert_eq!(ranges.subtract(&Ranges::from(last)).last(), Some(3));
        ranges.remove(last);
        assert_eq!(ranges.last(), Some(3));
    }

    #[test]
    fn what_is_out_of_order_overlaps_or_overflows_is_refused() {
        for text in [
            "[[0,1]]",
            "[[2,1]]",
            "[[1,2],[2,3]]",
            "[[1,2],[1,2]]",
            "[[5,6],[1,2]]",
            "[[1]]",
            "[[1,2,3]]",
            "[1,2]",
            "[[1,9007199254740992]]",
            "[[-1,2]]",
            "[[1,1e3]]",
            "[[1,18446744073709551616]]",
        ] {
            assert!(serde_json::from_str::<Ranges>(text).is_err(), "{text}");
        }
        assert_eq!(
            serde_json::from_str::<Ranges>("[[1,2],[3,4]]").unwrap(),
            Range::new(1, 4).unwrap().into()
        );
        for (first, count) in
            [(1, 0), (0, 1), (u64::MAX, 1), (u64::MAX, 2), (2, u64::MAX), (1, INTEGER_MAX + 1)]
        {
            assert_eq!(Range::counted(first, count), Err(RangeError), "{first} + {count}");
        }
        let many: Vec<[usize; 2]> = (0..=RANGES_MAX).map(|n| [3 * n + 1, 3 * n + 1]).collect();
        assert!(serde_json::from_str::<Ranges>(&serde_json::to_string(&many).unwrap()).is_err());
    }
}
