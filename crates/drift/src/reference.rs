//! What a feature was like when the model was trained: its histogram, and how far blocks of that time were from the rest.
//!
//! Made once from training data or from a gateway's own readings; travels in the signed package. Never holds a reading:
//! counts by bin, sums, and scores of blocks.
//!
//! Readings of a sensor follow one another, so that any test that takes them for independent draws rejects the training data
//! itself. What is far is therefore measured in blocks: a window's score is held against the scores that blocks of the same
//! length had, each against the rest of the reference.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bins::{Bins, BinsError, NAMES_MAX};
use crate::moments::{Moments, Scale};
use crate::scores::{Against, Scores, missing_share};
use crate::summary::{Flaw, Summary};

/// Inner quantiles at which values are counted.
pub const QUANTILES: usize = 20;
/// Most scores of blocks that are kept of a length: p-values as small as 1/201.
pub const BLOCKS_MAX: usize = 200;
/// Fewest values of a block, as of a window that is reported.
pub const VALUES_MIN: u64 = 20;
/// Most lengths of blocks.
pub const SPANS_MAX: usize = 4;
/// Fewest series that are compared with one another.
pub const PEERS_MIN: usize = 3;
/// Lengths of blocks: those of reports, in seconds.
pub const SPANS_S: [u64; 3] = [900, 3_600, 86_400];

/// One reading of the reference: its time in µs since 1970, and its value; none where it is missing.
pub type Reading<V> = (i64, Option<V>);

/// What a feature was like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Where values are counted.
    pub bins: Bins,
    /// How numbers become steps; left out for categories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Values by bin.
    pub counts: Vec<u64>,
    /// Readings without a value.
    pub missing: u64,
    /// Sums and extremes in steps of the scale; left out for categories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sums: Option<Sums>,
    /// Scores of blocks against the rest of the reference, by length in seconds.
    pub blocks: BTreeMap<u64, Blocks>,
    /// Scores of blocks against those of the other series at the same time, by length in seconds; empty where the reference
    /// has fewer than [`PEERS_MIN`] series. What all series share, as weather and season, is not in them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<u64, Blocks>,
}

/// Sums and extremes in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sums {
    /// Sum of the steps.
    pub sum: i64,
    /// Sum of their squares.
    pub squares: u64,
    /// Fewest steps.
    pub low: i32,
    /// Most steps.
    pub high: i32,
}

/// Scores that blocks of a length had, each against the rest of the reference; every list rises.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blocks {
    /// Population stability indexes.
    pub psi: Vec<f32>,
    /// Kolmogorov-Smirnov distances.
    pub ks: Vec<f32>,
    /// Wasserstein distances in standard deviations.
    pub wasserstein_sd: Vec<f32>,
    /// Shares of readings without a value.
    pub missing: Vec<f32>,
}

/// Why there is no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceError {
    /// There are fewer values than a window has.
    TooFew(u64),
    /// It has bins that cannot be used.
    Bins(BinsError),
    /// Its parts do not belong together: which.
    Contradiction(&'static str),
}

impl std::fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooFew(values) => {
                write!(f, "there are {values} values; a reference needs at least {VALUES_MIN}")
            }
            Self::Bins(error) => error.fmt(f),
            Self::Contradiction(part) => write!(f, "`{part}` does not belong to the rest of the reference"),
        }
    }
}

impl std::error::Error for ReferenceError {}

impl From<BinsError> for ReferenceError {
    fn from(error: BinsError) -> Self {
        Self::Bins(error)
    }
}

impl Reference {
    /// Makes the reference of a number from the readings of one or more series, each in the order of time. `spans_s` are the
    /// lengths of reports in seconds.
    ///
    /// *Errors*: [`ReferenceError::TooFew`].
    pub fn of_numbers(series: &[Vec<Reading<f64>>], spans_s: &[u64]) -> Result<Self, ReferenceError> {
        let mut sorted: Vec<f64> = series
            .iter()
            .flatten()
            .filter_map(|(_, value)| value.filter(|value| value.is_finite()))
            .collect();
        sorted.sort_by(f64::total_cmp);
        if (sorted.len() as u64) < VALUES_MIN {
            return Err(ReferenceError::TooFew(sorted.len() as u64));
        }
        let bins = Bins::of_quantiles(&sorted, QUANTILES);
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        let variance = sorted.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / sorted.len() as f64;
        let scale = Scale::of(mean, variance.sqrt());
        let add = |summary: &mut Summary, value: &Option<f64>| match value {
            Some(value) => summary.add_number(*value, &bins, &scale),
            None => summary.add_flaw(Flaw::Missing),
        };
        let gathered = gather(series, bins.count(), spans_s, add);
        Ok(Self::of_gathered(bins, Some(scale), &gathered))
    }

    /// Makes the reference of a category, likewise: the most frequent names are counted one by one.
    ///
    /// *Errors*: [`ReferenceError::TooFew`].
    pub fn of_names(series: &[Vec<Reading<String>>], spans_s: &[u64]) -> Result<Self, ReferenceError> {
        let mut found: BTreeMap<&str, u64> = BTreeMap::new();
        for name in series.iter().flatten().filter_map(|(_, name)| name.as_deref()) {
            *found.entry(name).or_default() += 1;
        }
        let values: u64 = found.values().sum();
        if values < VALUES_MIN {
            return Err(ReferenceError::TooFew(values));
        }
        let mut names: Vec<(&str, u64)> = found.into_iter().collect();
        names.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        let bins = Bins::Names(names.into_iter().take(NAMES_MAX).map(|(name, _)| name.to_owned()).collect());
        bins.require_sound()?;
        let add = |summary: &mut Summary, name: &Option<String>| match name {
            Some(name) => summary.add_name(name, &bins),
            None => summary.add_flaw(Flaw::Missing),
        };
        let gathered = gather(series, bins.count(), spans_s, add);
        Ok(Self::of_gathered(bins, None, &gathered))
    }

    fn of_gathered(bins: Bins, scale: Option<Scale>, gathered: &Gathered) -> Self {
        let Gathered { whole, blocks: of_spans } = gathered;
        let (mut blocks, mut peers) = (BTreeMap::new(), BTreeMap::new());
        for (span_s, of_span) in of_spans {
            let rest = of_span.values().map(|block| (block, whole.without(block)));
            blocks.insert(*span_s, Blocks::of(&bins, scale.as_ref(), rest));
            let beside = beside(of_span);
            if !beside.is_empty() {
                peers.insert(*span_s, Blocks::of(&bins, scale.as_ref(), beside.into_iter()));
            }
        }
        let Moments { sum, squares, range, .. } = whole.moments;
        let sums = range.map(|(low, high)| Sums {
            sum: i64::try_from(sum).unwrap_or(i64::MAX),
            squares: u64::try_from(squares).unwrap_or(u64::MAX),
            low,
            high,
        });
        let (counts, missing) = (whole.counts.clone(), whole.flawed(Flaw::Missing));
        Self { bins, scale, counts, missing, sums, blocks, peers }
    }

    /// Returns the reference as a summary, to be scored against.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary { counts: self.counts.clone(), ..Summary::empty(0) };
        summary.flaws[Flaw::Missing as usize] = self.missing;
        if let Some(Sums { sum, squares, low, high }) = self.sums {
            summary.moments = Moments {
                count: summary.values(),
                sum: i128::from(sum),
                squares: u128::from(squares),
                range: Some((low, high)),
            };
        }
        summary
    }

    /// Checks a reference that was read from outside.
    ///
    /// *Errors*: see [`ReferenceError`].
    pub fn require_sound(&self) -> Result<(), ReferenceError> {
        self.bins.require_sound()?;
        let values = self.counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
        let values =
            values.filter(|values| *values < 1 << 48).ok_or(ReferenceError::Contradiction("counts"))?;
        if values < VALUES_MIN {
            return Err(ReferenceError::TooFew(values));
        }
        let is_number = matches!(self.bins, Bins::Edges(_));
        let wrong = if self.counts.len() != self.bins.count() {
            Some("counts")
        } else if self.scale.is_some_and(|scale| !scale.is_sound()) || self.scale.is_some() != is_number {
            Some("scale")
        } else if self.sums.is_some() != is_number || !self.summary().moments.is_sound() && is_number {
            Some("sums")
        } else if self.blocks.len() > SPANS_MAX || !self.blocks.values().all(Blocks::is_sound) {
            Some("blocks")
        } else if self.peers.len() > SPANS_MAX || !self.peers.values().all(Blocks::is_sound) {
            Some("peers")
        } else {
            None
        };
        wrong.map_or(Ok(()), |part| Err(ReferenceError::Contradiction(part)))
    }

    /// Returns the distances of a window from the reference; none where it has no value or other bins.
    #[must_use]
    pub fn scores(&self, window: &Summary) -> Option<Scores> {
        self.against(&self.summary()).scores(window)
    }

    /// Returns another summary in place of the reference, such as a cohort at the same time.
    #[must_use]
    pub fn against<'s>(&'s self, summary: &'s Summary) -> Against<'s> {
        Against { bins: &self.bins, scale: self.scale.as_ref(), summary }
    }
}

impl Blocks {
    /// Scores blocks, each against what is given beside it.
    fn of<'b>(
        bins: &Bins,
        scale: Option<&Scale>,
        blocks: impl Iterator<Item = (&'b Summary, Summary)>,
    ) -> Self {
        let mut found = Self::default();
        for (block, rest) in blocks {
            found.missing.push(missing_share(block) as f32);
            if block.values() < VALUES_MIN {
                continue;
            }
            let Some(scores) = (Against { bins, scale, summary: &rest }).scores(block) else { continue };
            found.psi.push(scores.psi as f32);
            found.ks.push(scores.ks as f32);
            found.wasserstein_sd.push(scores.wasserstein_sd as f32);
        }
        for scores in [&mut found.psi, &mut found.ks, &mut found.wasserstein_sd, &mut found.missing] {
            scores.sort_by(f32::total_cmp);
            thin(scores);
        }
        found
    }

    fn is_sound(&self) -> bool {
        [&self.psi, &self.ks, &self.wasserstein_sd, &self.missing].into_iter().all(|scores| {
            scores.len() <= BLOCKS_MAX
                && scores.iter().all(|score| score.is_finite())
                && scores.windows(2).all(|pair| pair[0] <= pair[1])
        })
    }
}

/// The whole of a reference, and its blocks by length.
struct Gathered {
    whole: Summary,
    /// By length in seconds, then by number of the block and of its series.
    blocks: BTreeMap<u64, BTreeMap<(i64, usize), Summary>>,
}

/// Returns each block with what the other series did at the same time, where there are enough of them.
fn beside(blocks: &BTreeMap<(i64, usize), Summary>) -> Vec<(&Summary, Summary)> {
    let mut together: BTreeMap<i64, Vec<&Summary>> = BTreeMap::new();
    for ((at, _), block) in blocks {
        together.entry(*at).or_default().push(block);
    }
    let mut found = Vec::new();
    for together in together.values().filter(|together| together.len() >= PEERS_MIN) {
        let mut all = Summary::empty(together[0].counts.len());
        // They have the same bins.
        let fits = together.iter().all(|block| all.merge(block).is_ok());
        found.extend(together.iter().filter(|_| fits).map(|block| (*block, all.without(block))));
    }
    found
}

fn gather<V>(
    series: &[Vec<Reading<V>>],
    bins: usize,
    spans_s: &[u64],
    add: impl Fn(&mut Summary, &Option<V>),
) -> Gathered {
    let mut whole = Summary::empty(bins);
    series.iter().flatten().for_each(|(_, value)| add(&mut whole, value));
    let mut blocks = BTreeMap::new();
    for span_s in spans_s.iter().copied().filter(|span_s| *span_s > 0).take(SPANS_MAX) {
        let span_us = i64::try_from(span_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        let mut of_span: BTreeMap<(i64, usize), Summary> = BTreeMap::new();
        for (position, readings) in series.iter().enumerate() {
            for (at_us, value) in readings {
                let block = (at_us.div_euclid(span_us), position);
                add(of_span.entry(block).or_insert_with(|| Summary::empty(bins)), value);
            }
        }
        blocks.insert(span_s, of_span);
    }
    Gathered { whole, blocks }
}

/// Keeps the limit of sorted scores, evenly by rank, the largest among them.
fn thin(sorted: &mut Vec<f32>) {
    let surplus = sorted.len() > BLOCKS_MAX;
    if surplus {
        let last = (sorted.len() - 1) as f64;
        let rank = |place: usize| (place as f64 / (BLOCKS_MAX - 1) as f64 * last).round() as usize;
        *sorted = (0..BLOCKS_MAX).map(|place| sorted[rank(place)]).collect();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(values: impl Iterator<Item = f64>) -> Vec<Reading<f64>> {
        values.enumerate().map(|(n, value)| (n as i64 * 60_000_000, Some(value))).collect()
    }

    fn wave(minutes: u32, shift: f64) -> Vec<Reading<f64>> {
        day((0..minutes).map(|n| (f64::from(n) / 700.0).sin() * 3.0 + f64::from(n % 7) * 0.1 + shift))
    }

    #[test]
    fn a_reference_comes_back_from_json_as_it_was() {
        let reference = Reference::of_numbers(&[wave(20_000, 20.0)], &SPANS_S).unwrap();
        reference.require_sound().unwrap();
        let text = serde_json::to_string(&reference).unwrap();
        assert!(serde_json::from_str::<Reference>(&text).unwrap() == reference);
        assert_eq!(reference.blocks[&3_600].psi.len(), BLOCKS_MAX);
        assert_eq!(reference.blocks[&86_400].psi.len(), 14);
        // 15 readings are no window.
        assert!(reference.blocks[&900].psi.is_empty());
    }

    #[test]
    fn a_block_of_the_reference_is_no_farther_than_its_own_score_and_a_shifted_one_is() {
        let reference = Reference::of_numbers(&[wave(20_000, 20.0)], &SPANS_S).unwrap();
        let scale = reference.scale.unwrap();
        let window = |readings: &[Reading<f64>]| {
            let mut summary = Summary::empty(reference.bins.count());
            readings
                .iter()
                .for_each(|(_, value)| summary.add_number(value.unwrap(), &reference.bins, &scale));
            reference.scores(&summary).unwrap()
        };
        let farthest = *reference.blocks[&86_400].wasserstein_sd.last().unwrap();
        assert!(window(&wave(1_440, 20.0)).wasserstein_sd < f64::from(farthest) * 1.01);
        assert!(window(&wave(1_440, 26.0)).wasserstein_sd > f64::from(farthest));
    }

    proptest! {
        #[test]
        fn of_any_values_the_reference_is_sound(
            values in prop::collection::vec(prop_oneof![Just(None), (-1e12..1e12f64).prop_map(Some), Just(Some(5.0)), Just(Some(f64::NAN))], 0..120),
        ) {
            let readings: Vec<Reading<f64>> = values.iter().enumerate().map(|(n, value)| (n as i64 * 60_000_000, *value)).collect();
            match Reference::of_numbers(&[readings], &SPANS_S) {
                Ok(reference) => prop_assert_eq!(reference.require_sound(), Ok(())),
                Err(error) => prop_assert!(matches!(error, ReferenceError::TooFew(_))),
            }
        }
    }

    #[test]
    fn categories_beyond_the_most_frequent_are_counted_together() {
        let name = |n: i64| format!("n{}", if n % 2 == 0 { 0 } else { n % 80 });
        let readings = vec![(0..800).map(|n| (n * 1_000_000, Some(name(n)))).collect::<Vec<_>>()];
        let reference = Reference::of_names(&readings, &SPANS_S).unwrap();
        reference.require_sound().unwrap();
        assert_eq!((reference.bins.count(), reference.counts[0]), (33, 400));
        assert!(*reference.counts.last().unwrap() > 0);
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let sound = Reference::of_numbers(&[wave(2_000, 0.0)], &SPANS_S).unwrap();
        let mut wrong = vec![sound.clone(); 5];
        wrong[0].counts.pop();
        wrong[1].scale = None;
        wrong[2].sums = Some(Sums { sum: i64::MAX, ..sound.sums.unwrap() });
        wrong[3].blocks.get_mut(&3_600).unwrap().psi.push(f32::NAN);
        wrong[4].counts = vec![u64::MAX; sound.counts.len()];
        let named: Vec<_> =
            wrong.iter().map(|reference| reference.require_sound().unwrap_err().to_string()).collect();
        for (message, part) in named.iter().zip(["counts", "scale", "sums", "blocks", "counts"]) {
            assert!(message.contains(part), "{message}");
        }
    }
}
