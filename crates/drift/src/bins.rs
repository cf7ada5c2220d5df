//! Where values are counted: the bins of a number between cut points, or of a category by name.
//!
//! Never allocates for a value. Stands in front of all counting: a summary and its reference have the same bins, or
//! cannot be compared.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most cut points: 20 inner quantiles tell shapes apart, and more would make each report longer.
pub const EDGES_MAX: usize = 64;
/// Most names of categories that are counted one by one; the rest is counted together.
pub const NAMES_MAX: usize = 32;
/// Longest name of a category in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Where values of a feature are counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bins {
    /// Numbers, between cut points that rise: a value at a cut point belongs to the bin above it.
    Edges(Vec<f64>),
    /// Categories by name; what has no name here is counted in one more bin at the end.
    Names(Vec<String>),
}

/// Why bins cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinsError {
    /// There are none, or more than the limit.
    Count(usize),
    /// A cut point is not above the one before it, or not finite: the position.
    Order(usize),
    /// A name is empty, too long or there twice: the position.
    Name(usize),
}

impl std::fmt::Display for BinsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => {
                write!(
                    f,
                    "there are {count} cut points or names; take 1 to {EDGES_MAX} cut points, at most {NAMES_MAX} names"
                )
            }
            Self::Order(position) => {
                write!(f, "cut point {position} is not finite or not above the one before it")
            }
            Self::Name(position) => {
                write!(f, "name {position} is empty, longer than {NAME_BYTES_MAX} bytes, or there twice")
            }
        }
    }
}

impl std::error::Error for BinsError {}

impl Bins {
    /// Returns how many bins there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        match self {
            Self::Edges(edges) => edges.len() + 1,
            Self::Names(names) => names.len() + 1,
        }
    }

    /// Returns the bin of a number: how many cut points are at or below it. NaN is the caller's to count as missing.
    #[must_use]
    pub fn of_number(&self, value: f64) -> usize {
        match self {
            Self::Edges(edges) => edges.partition_point(|edge| *edge <= value),
            Self::Names(names) => names.len(),
        }
    }

    /// Returns the bin of a category.
    #[must_use]
    pub fn of_name(&self, name: &str) -> usize {
        match self {
            Self::Edges(edges) => edges.len(),
            Self::Names(names) => names.iter().position(|known| known == name).unwrap_or(names.len()),
        }
    }

    /// Checks what was read from outside.
    ///
    /// *Errors*: see [`BinsError`].
    pub fn require_sound(&self) -> Result<(), BinsError> {
        match self {
            Self::Edges(edges) => {
                if edges.is_empty() || edges.len() > EDGES_MAX {
                    return Err(BinsError::Count(edges.len()));
                }
                let rises = |position: &usize| {
                    edges[*position].is_finite()
                        && (*position == 0 || edges[*position] > edges[*position - 1])
                };
                (0..edges.len())
                    .find(|position| !rises(position))
                    .map_or(Ok(()), |at| Err(BinsError::Order(at)))
            }
            Self::Names(names) => {
                if names.is_empty() || names.len() > NAMES_MAX {
                    return Err(BinsError::Count(names.len()));
                }
                let is_good = |position: &usize| {
                    let name = &names[*position];
                    (1..=NAME_BYTES_MAX).contains(&name.len()) && !names[..*position].contains(name)
                };
                (0..names.len())
                    .find(|position| !is_good(position))
                    .map_or(Ok(()), |at| Err(BinsError::Name(at)))
            }
        }
    }

    /// Returns cut points at the inner quantiles of sorted finite values: at most `count`, each once. Values that are all
    /// alike have one cut point just above them.
    #[must_use]
    pub fn of_quantiles(sorted: &[f64], count: usize) -> Self {
        let mut edges: Vec<f64> = Vec::with_capacity(count);
        let (Some(low), Some(high)) = (sorted.first(), sorted.last()) else { return Self::Edges(vec![0.0]) };
        for part in 1..=count.min(EDGES_MAX) {
            let edge = short(quantile(sorted, part as f64 / (count as f64 + 1.0)));
            // A cut point at the lowest value would leave nothing below it.
            if edge > *low && edges.last().is_none_or(|last| edge > *last) {
                edges.push(edge);
            }
        }
        if edges.is_empty() {
            edges.push(if high > low { *high } else { next_above(*low) });
        }
        Self::Edges(edges)
    }
}

/// Returns a quantile of sorted values, between the two nearest by their distance. *Source*: Hyndman and Fan (1996),
/// definition 7, the default of NumPy and R.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

/// Returns a number with nine digits: what a 32-bit sensor value has, in a third less of room than a 64-bit one.
pub(crate) fn short(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

/// A value that is told from `value` at the precision of a 32-bit sensor value.
fn next_above(value: f64) -> f64 {
    value + value.abs().max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quantiles_of_any_values_are_sound_bins_with_values_on_both_sides_of_the_first_cut(
            mut values in prop::collection::vec(prop_oneof![-1e6..1e6f64, (0..4i32).prop_map(f64::from)], 2..200),
            count in 1..=EDGES_MAX,
        ) {
            values.sort_by(f64::total_cmp);
            let bins = Bins::of_quantiles(&values, count);
            prop_assert_eq!(bins.require_sound(), Ok(()));
            prop_assert_eq!(bins.of_number(values[0]), 0);
            if values[0] < values[values.len() - 1] {
                prop_assert!(bins.of_number(values[values.len() - 1]) > 0);
            }
        }

        #[test]
        fn a_number_lies_between_the_cuts_of_its_bin(value in -2e3..2e3f64) {
            let edges = vec![-1e3, -1.0, 0.0, 0.5, 1e3];
            let bin = Bins::Edges(edges.clone()).of_number(value);
            prop_assert!(bin == 0 || edges[bin - 1] <= value);
            prop_assert!(bin == edges.len() || value < edges[bin]);
        }
    }

    #[test]
    fn values_all_alike_lie_below_the_cut_and_what_is_above_shows() {
        for value in [0.0, 1.0, -273.15, 1e9] {
            let bins = Bins::of_quantiles(&[value; 9], 20);
            assert_eq!(bins.of_number(value), 0, "{value}");
            assert_eq!(bins.of_number(value + value.abs() * 1e-6 + 1e-30), 1, "{value}");
        }
    }

    #[test]
    fn bins_that_cannot_be_used_are_refused() {
        let names = |names: &[&str]| Bins::Names(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(Bins::Edges(vec![]).require_sound(), Err(BinsError::Count(0)));
        assert_eq!(Bins::Edges(vec![1.0, 1.0]).require_sound(), Err(BinsError::Order(1)));
        assert_eq!(Bins::Edges(vec![f64::NAN]).require_sound(), Err(BinsError::Order(0)));
        assert_eq!(names(&["a", "a"]).require_sound(), Err(BinsError::Name(1)));
        assert_eq!(names(&["a", ""]).require_sound(), Err(BinsError::Name(1)));
        assert_eq!(names(&["a", "b"]).require_sound(), Ok(()));
        assert_eq!(names(&["a", "b"]).of_name("c"), 2);
    }
}
