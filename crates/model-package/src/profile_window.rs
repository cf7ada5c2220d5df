//! What a window's bytes are: summaries one after the other, in the order that its profile gives.
//!
//! Reads and writes; never counts, and knows no instance. A gateway writes them, the server and the command line read them
//! by the same profile.

use dunlin_drift::bins::Bins;
use dunlin_drift::quality::SCORE_BINS;
use dunlin_drift::reference::Reference;
use dunlin_drift::summary::Summary;
use dunlin_drift::wire::{self, WireError};

use crate::profile::Profile;

/// What one summary of a window is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part<'p> {
    /// A field that features come from.
    Feature(&'p str),
    /// An output, or one value of it.
    Output(&'p str),
    /// Distances within the components that the features have in common.
    Within,
    /// Distances from them.
    From,
    /// Predictions by the bin of their score.
    Scores,
}

/// How a summary is read: the number of its bins, and whether they are names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many bins there are.
    pub bins: usize,
    /// What they are of.
    pub of: Counted,
}

/// What a summary counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Numbers between cut points.
    Numbers,
    /// Categories by name; the last bin is of all others.
    Names,
}

impl Shape {
    fn of(reference: &Reference) -> Self {
        let of = match &reference.bins {
            Bins::Edges(_) => Counted::Numbers,
            Bins::Names(_) => Counted::Names,
        };
        Self { bins: reference.bins.count(), of }
    }
}

impl Profile {
    /// Returns what the summaries of a window are of, in their order, each with its shape: features by name, outputs by
    /// name, distances, scores.
    pub fn parts(&self) -> impl Iterator<Item = (Part<'_>, Shape)> {
        let features = self.features.iter();
        let features =
            features.map(|(name, feature)| (Part::Feature(name.as_str()), Shape::of(&feature.reference)));
        let outputs = self.outputs.iter();
        let outputs = outputs.map(|(name, reference)| (Part::Output(name.as_str()), Shape::of(reference)));
        let together = self.together.iter().flat_map(|together| {
            [(Part::Within, Shape::of(&together.t2)), (Part::From, Shape::of(&together.q))]
        });
        let by_score = Shape { bins: SCORE_BINS, of: Counted::Numbers };
        let scores = self.scores.iter().map(move |_| (Part::Scores, by_score));
        features.chain(outputs).chain(together).chain(scores)
    }
}

/// Returns the bytes of a window.
#[must_use]
pub fn write_window<'s>(summaries: impl IntoIterator<Item = &'s Summary>) -> Vec<u8> {
    let mut bytes = Vec::new();
    summaries.into_iter().for_each(|summary| wire::write(summary, &mut bytes));
    bytes
}

/// Returns the summaries of a window with these shapes, in their order.
///
/// *Errors*: the bytes are of another profile, or damaged.
pub fn read_window(bytes: &[u8], shapes: impl IntoIterator<Item = Shape>) -> Result<Vec<Summary>, WireError> {
    let (mut rest, mut summaries) = (bytes, Vec::new());
    for shape in shapes {
        let (summary, used) = wire::read(rest, shape.bins)?;
        rest = rest.get(used..).ok_or(WireError::Length)?;
        summaries.push(summary);
    }
    if rest.is_empty() { Ok(summaries) } else { Err(WireError::Length) }
}

#[cfg(test)]
mod tests {
    use dunlin_drift::moments::Scale;

    use super::*;

    #[test]
    fn a_window_comes_back_as_it_was_and_bytes_of_another_profile_do_not() {
        let bins = Bins::Edges(vec![0.0, 1.0, 2.0]);
        let mut summary = Summary::empty(bins.count());
        (0..50).for_each(|n| summary.add_number(f64::from(n) / 16.0, &bins, &Scale::of(1.0, 0.5)));
        let all = [summary.clone(), Summary::empty(7), summary];
        let bytes = write_window(&all);
        let shape = |bins| Shape { bins, of: Counted::Numbers };
        assert_eq!(read_window(&bytes, [4, 7, 4].map(shape)).unwrap(), all);
        for others in [&[4, 7][..], &[4, 7, 4, 4], &[]] {
            assert!(read_window(&bytes, others.iter().copied().map(shape)).is_err(), "{others:?}");
        }
        assert_eq!(read_window(&bytes[..bytes.len() - 1], [4, 7, 4].map(shape)), Err(WireError::Length));
    }
}
