//! How far a window's histogram is from the reference's, in the usual measures.
//!
//! Pure. All scores come from counts by bin and mean and spread alone, so that they are the same on a gateway, on the
//! server, and of merged windows.

use crate::bins::Bins;
use crate::moments::Scale;
use crate::summary::{Flaw, Summary};

/// Distances of a window from a reference.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scores {
    /// Population stability index, Σ (q − p) ln(q / p), in nats.
    pub psi: f64,
    /// Jensen-Shannon distance: the square root of the divergence in bits. *Range*: 0 to 1.
    pub js: f64,
    /// Largest difference of the distribution functions at the cut points (Kolmogorov-Smirnov); for categories half the sum
    /// of differences (total variation). *Range*: 0 to 1.
    pub ks: f64,
    /// Distance that values moved on average (Wasserstein 1), in standard deviations of the reference; 0 for categories.
    pub wasserstein_sd: f64,
    /// Mean of the window minus mean of the reference, in standard deviations of the reference; 0 for categories.
    pub mean_shift_sd: f64,
    /// Share of readings without a value. *Range*: 0 to 1.
    pub missing: f64,
}

/// What a window is held against: another summary of the same bins.
#[derive(Debug, Clone, Copy)]
pub struct Against<'r> {
    /// The bins.
    pub bins: &'r Bins,
    /// How numbers become steps; none for categories.
    pub scale: Option<&'r Scale>,
    /// What was counted.
    pub summary: &'r Summary,
}

impl Against<'_> {
    /// Returns the distances of a window; none where either side has no value, or they have other bins.
    ///
    /// *Source*: shares are smoothed by half a count a bin (Jeffreys), so that an empty bin is no infinity.
    #[must_use]
    pub fn scores(&self, window: &Summary) -> Option<Scores> {
        if window.values() == 0
            || self.summary.values() == 0
            || window.counts.len() != self.summary.counts.len()
        {
            return None;
        }
        let (q, p) = (shares(&window.counts), shares(&self.summary.counts));
        let psi = q.iter().zip(&p).map(|(q, p)| (q - p) * (q / p).ln()).sum();
        let middle = |(q, p): (&f64, &f64)| {
            let middle = f64::midpoint(*q, *p);
            f64::midpoint(q * (q / middle).log2(), p * (p / middle).log2())
        };
        let js = q.iter().zip(&p).map(middle).sum::<f64>().max(0.0).sqrt();
        let mut scores = Scores { psi, js, missing: missing_share(window), ..Scores::default() };
        match (self.bins, self.scale) {
            (Bins::Edges(edges), Some(scale)) => self.add_distances(&mut scores, window, edges, scale),
            _ => scores.ks = q.iter().zip(&p).map(|(q, p)| (q - p).abs()).sum::<f64>() / 2.0,
        }
        Some(scores)
    }

    /// The distances that need an order among the bins. The histogram says nothing of what happens beyond its outer cut
    /// points; the means do, and no two distributions are nearer to each other than their means.
    fn add_distances(&self, scores: &mut Scores, window: &Summary, edges: &[f64], scale: &Scale) {
        let (q, p) = (plain_shares(&window.counts), plain_shares(&self.summary.counts));
        let mut gaps = Vec::with_capacity(edges.len());
        let mut gap = 0.0;
        for (q, p) in q.iter().zip(&p).take(edges.len()) {
            gap += q - p;
            gaps.push(gap.abs());
        }
        scores.ks = gaps.iter().copied().fold(0.0, f64::max);
        let sd = self.summary.moments.variance().map_or(0.0, f64::sqrt).max(1.0) * scale.step;
        let between =
            |place: usize| f64::midpoint(gaps[place], gaps[place + 1]) * (edges[place + 1] - edges[place]);
        let area: f64 = (0..edges.len().saturating_sub(1)).map(between).sum();
        if let (Some(of_window), Some(of_reference)) = (window.moments.mean(), self.summary.moments.mean()) {
            scores.mean_shift_sd = (of_window - of_reference) * scale.step / sd;
        }
        scores.wasserstein_sd = (area / sd).max(scores.mean_shift_sd.abs());
    }
}

/// Returns the share of readings that had no value.
#[must_use]
pub fn missing_share(summary: &Summary) -> f64 {
    let missing = summary.flawed(Flaw::Missing);
    let all = summary.values() + missing;
    if all == 0 { 0.0 } else { missing as f64 / all as f64 }
}

fn shares(counts: &[u64]) -> Vec<f64> {
    let whole = counts.iter().sum::<u64>() as f64 + counts.len() as f64 / 2.0;
    counts.iter().map(|count| (*count as f64 + 0.5) / whole).collect()
}

fn plain_shares(counts: &[u64]) -> Vec<f64> {
    let whole = counts.iter().sum::<u64>() as f64;
    counts.iter().map(|count| *count as f64 / whole).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::summary::tests::{normal, of};

    fn even(shift: f64) -> Vec<f64> {
        (0..2_000).map(|n| f64::from(n) / 1_000.0 * 1.5 - 1.5 + shift).collect()
    }

    fn scores(reference: &[f64], window: &[f64]) -> Scores {
        let (bins, scale) = normal();
        let reference = of(reference);
        Against { bins: &bins, scale: Some(&scale), summary: &reference }.scores(&of(window)).unwrap()
    }

    #[test]
    fn what_is_alike_has_no_distance() {
        let found = scores(&even(0.0), &even(0.0));
        assert!(found.psi.abs() < 1e-12 && found.js < 1e-9 && found.ks < 1e-12, "{found:?}");
        assert!(found.wasserstein_sd < 1e-12, "{found:?}");
    }

    proptest! {
        #[test]
        fn a_shift_is_seen_by_its_size_in_either_direction_also_beyond_all_cuts(shift in -20.0..20.0f64) {
            let sd = 3.0 / 12f64.sqrt();
            let found = scores(&even(0.0), &even(shift));
            prop_assert!((found.mean_shift_sd - shift / sd).abs() < 0.02, "{found:?}");
            prop_assert!((found.wasserstein_sd - (shift / sd).abs()).abs() < 0.12, "{found:?}");
        }

        #[test]
        fn distances_of_any_windows_are_finite_and_in_their_ranges(
            one in prop::collection::vec(-1e9..1e9f64, 1..60),
            other in prop::collection::vec(-3.0..3.0f64, 1..60),
        ) {
            let found = scores(&one, &other);
            prop_assert!(found.psi >= -1e-12 && found.psi.is_finite());
            prop_assert!((0.0..=1.0).contains(&found.js) && (0.0..=1.0 + 1e-12).contains(&found.ks));
            prop_assert!(found.wasserstein_sd >= 0.0 && found.wasserstein_sd.is_finite());
            let back = scores(&other, &one);
            prop_assert!((found.psi - back.psi).abs() < 1e-9 && (found.js - back.js).abs() < 1e-9);
        }
    }

    #[test]
    fn categories_have_a_distance_without_an_order() {
        let bins = Bins::Names(vec!["open".to_owned(), "shut".to_owned()]);
        let count = |names: &[&str]| {
            let mut summary = Summary::empty(bins.count());
            names.iter().for_each(|name| summary.add_name(name, &bins));
            summary
        };
        let reference = count(&["open", "shut", "open", "shut"]);
        let against = Against { bins: &bins, scale: None, summary: &reference };
        let found = against.scores(&count(&["open", "open", "jammed", "jammed"])).unwrap();
        assert!(found.psi > 0.0 && found.ks > 0.3 && found.wasserstein_sd == 0.0, "{found:?}");
        assert_eq!(against.scores(&Summary::empty(3)), None);
        assert_eq!(against.scores(&Summary::empty(2)), None);
    }

    #[test]
    fn readings_without_a_value_have_their_share() {
        let mut summary = of(&[0.0; 3]);
        summary.add_flaw(Flaw::Missing);
        assert_eq!(missing_share(&summary), 0.25);
        assert_eq!(missing_share(&Summary::empty(2)), 0.0);
    }
}
