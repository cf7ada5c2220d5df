//! What one feature did in one window: values by bin, mean and spread, and what was wrong with readings.
//!
//! Adding a value is a search over the cut points and a few additions; nothing is allocated. Summaries of the same
//! reference merge by addition in any order and grouping.

use serde::{Deserialize, Serialize};

use crate::bins::Bins;
use crate::moments::{Moments, Scale};

/// What is wrong with a reading, or why it is left out of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// The payload had no value.
    Missing,
    /// The value is outside of the configured range.
    OutOfRange,
    /// The sensor says the same for too long.
    Stuck,
    /// Readings that should have come and did not.
    Gap,
    /// A single value far from those around it.
    Spike,
    /// The values jumped by another unit or scale.
    Scale,
    /// The time of the reading cannot be right.
    Clock,
    /// Another sensor of the same quantity says something else.
    Disagreement,
    /// It came after its window was over.
    Late,
    /// The payload had something else than a value.
    WrongType,
}

impl Flaw {
    /// All, in the order of their counts on the wire; new ones go to the end.
    pub const ALL: [Self; 10] = [
        Self::Missing,
        Self::OutOfRange,
        Self::Stuck,
        Self::Gap,
        Self::Spike,
        Self::Scale,
        Self::Clock,
        Self::Disagreement,
        Self::Late,
        Self::WrongType,
    ];

    /// Returns the word in reports and on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::OutOfRange => "out_of_range",
            Self::Stuck => "stuck",
            Self::Gap => "gap",
            Self::Spike => "spike",
            Self::Scale => "scale",
            Self::Clock => "clock",
            Self::Disagreement => "disagreement",
            Self::Late => "late",
            Self::WrongType => "wrong_type",
        }
    }
}

/// What one feature did in one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Values by bin of the reference.
    pub counts: Vec<u64>,
    /// Mean, spread and extremes of the numbers; empty for a category.
    pub moments: Moments,
    /// Readings by what was wrong with them, in the order of [`Flaw::ALL`].
    pub flaws: [u64; Flaw::ALL.len()],
}

/// Summaries of different bins cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherBins {
    /// Bins of the one.
    pub here: usize,
    /// Bins of the other.
    pub there: usize,
}

impl std::fmt::Display for OtherBins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a summary of {} bins cannot be added to one of {}: their references differ",
            self.there, self.here
        )
    }
}

impl std::error::Error for OtherBins {}

impl Summary {
    /// Returns one without any value.
    #[must_use]
    pub fn empty(bins: usize) -> Self {
        Self { counts: vec![0; bins], moments: Moments::default(), flaws: [0; Flaw::ALL.len()] }
    }

    /// Counts a number. One that is not finite is missing.
    pub fn add_number(&mut self, value: f64, bins: &Bins, scale: &Scale) {
        if !value.is_finite() {
            return self.add_flaw(Flaw::Missing);
        }
        if let Some(count) = self.counts.get_mut(bins.of_number(value)) {
            *count += 1;
            self.moments.add(scale.steps(value));
        }
    }

    /// Counts a category.
    pub fn add_name(&mut self, name: &str, bins: &Bins) {
        if let Some(count) = self.counts.get_mut(bins.of_name(name)) {
            *count += 1;
        }
    }

    /// Counts a reading that had this wrong with it.
    pub const fn add_flaw(&mut self, flaw: Flaw) {
        self.flaws[flaw as usize] += 1;
    }

    /// Returns how many readings had this wrong with them.
    #[must_use]
    pub const fn flawed(&self, flaw: Flaw) -> u64 {
        self.flaws[flaw as usize]
    }

    /// Returns how many values were counted.
    #[must_use]
    pub fn values(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns what is left without a part that was merged in; the extremes stay those of the whole.
    #[must_use]
    pub fn without(&self, part: &Self) -> Self {
        let mut rest = self.clone();
        let pairs = rest.counts.iter_mut().zip(&part.counts).chain(rest.flaws.iter_mut().zip(&part.flaws));
        for (rest, part) in pairs {
            *rest = rest.saturating_sub(*part);
        }
        rest.moments.count = rest.moments.count.saturating_sub(part.moments.count);
        rest.moments.sum -= part.moments.sum;
        rest.moments.squares = rest.moments.squares.saturating_sub(part.moments.squares);
        rest
    }

    /// Forgets everything, and keeps the room.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.moments = Moments::default();
        self.flaws = [0; Flaw::ALL.len()];
    }

    /// Adds what another one counted.
    ///
    /// *Errors*: it has other bins; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), OtherBins> {
        if self.counts.len() != other.counts.len() {
            return Err(OtherBins { here: self.counts.len(), there: other.counts.len() });
        }
        let pairs = self.counts.iter_mut().zip(&other.counts).chain(self.flaws.iter_mut().zip(&other.flaws));
        for (here, there) in pairs {
            *here = here.saturating_add(*there);
        }
        self.moments.merge(&other.moments);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns bins and scale that the tests of this crate share.
    pub(crate) fn normal() -> (Bins, Scale) {
        let edges = (-9..=9).map(|part| f64::from(part) / 5.0).collect();
        (Bins::Edges(edges), Scale::of(0.0, 1.0))
    }

    pub(crate) fn of(values: &[f64]) -> Summary {
        let (bins, scale) = normal();
        let mut summary = Summary::empty(bins.count());
        values.iter().for_each(|value| summary.add_number(*value, &bins, &scale));
        summary
    }

    proptest! {
        #[test]
        fn windows_merge_to_the_same_bytes_in_any_order_and_grouping(
            windows in prop::collection::vec(prop::collection::vec(-5.0..5.0f64, 0..30), 1..12),
            order in any::<prop::sample::Index>(),
            group in 1..5usize,
        ) {
            let summaries: Vec<Summary> = windows.iter().map(|window| of(window)).collect();
            let mut whole = Summary::empty(summaries[0].counts.len());
            summaries.iter().for_each(|summary| whole.merge(summary).unwrap());
            let mut turned = summaries.clone();
            turned.rotate_left(order.index(summaries.len()));
            turned.reverse();
            let mut grouped = Summary::empty(whole.counts.len());
            for part in turned.chunks(group) {
                let mut sum = Summary::empty(whole.counts.len());
                part.iter().for_each(|summary| sum.merge(summary).unwrap());
                grouped.merge(&sum).unwrap();
            }
            prop_assert_eq!(&grouped, &whole);
            let all: Vec<f64> = windows.concat();
            prop_assert_eq!(whole, of(&all));
        }

        #[test]
        fn the_rest_without_a_part_and_the_part_are_the_whole(
            one in prop::collection::vec(-4.0..4.0f64, 1..50),
            other in prop::collection::vec(-4.0..4.0f64, 1..50),
        ) {
            let mut whole = of(&one);
            whole.merge(&of(&other)).unwrap();
            let rest = whole.without(&of(&one));
            prop_assert_eq!(&rest.counts, &of(&other).counts);
            prop_assert_eq!((rest.moments.sum, rest.moments.squares), (of(&other).moments.sum, of(&other).moments.squares));
        }
    }

    #[test]
    fn what_is_no_number_is_missing_and_no_value() {
        let summary = of(&[0.0, f64::NAN, f64::INFINITY]);
        assert_eq!((summary.values(), summary.flawed(Flaw::Missing), summary.moments.count), (1, 2, 1));
    }

    #[test]
    fn summaries_of_other_bins_are_not_added() {
        let mut summary = of(&[1.0]);
        let before = summary.clone();
        assert_eq!(summary.merge(&Summary::empty(3)), Err(OtherBins { here: 20, there: 3 }));
        assert_eq!(summary, before);
    }
}
