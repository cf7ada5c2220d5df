//! How sure one can be that something has changed: p-values against the reference's own blocks, bets on them, evidence
//! over windows, and the choice among many streams.
//!
//! Pure. Knows nothing of sizes: whether a change matters is judged elsewhere.
//!
//! *Sources*: conformal p-values, Vovk et al. (2005); betting on them, Vovk and Wang (2021), "E-values: calibration,
//! combination and applications"; the e-Benjamini-Hochberg procedure, Wang and Ramdas (arXiv 2009.02824).
//!
//! Evidence starts again at 1 whenever it falls below, so that old quiet does not hide a new change. That makes it a
//! detector of changes (a Shiryaev-Roberts-like rule), not an e-value of the whole history: the share of false alerts among
//! alerts is an aim that simulations confirm (see the documentation), not a theorem.

use crate::reference::Blocks;
use crate::scores::Scores;

/// Exponents of the bets; their mean needs no knowledge of how strong a change would be.
const KAPPAS: [f64; 4] = [0.1, 0.25, 0.5, 0.75];
/// What a score beyond all blocks may be less usual than them.
const TAIL_MAX: f64 = 1_000.0;
/// Fewest blocks of which a tail is believed.
const TAIL_BLOCKS_MIN: usize = 20;
/// Parts of the bet on the distance, on the shape and on missing values.
const PARTS: [f64; 3] = [0.65, 0.25, 0.1];
/// Evidence goes no higher: what has changed is known by then, and a return must show within some windows.
const EVIDENCE_MAX: f64 = 1e9;

/// Returns how usual a score is among blocks of the reference: the share of them that were at least as far, this one
/// counted in. A score beyond all blocks is less usual the farther it is: their upper fifth is taken for the beginning of
/// an exponential tail, which is believed for a factor of `TAIL_MAX`. *Range*: above 0, to 1; 1 where there is no block.
///
/// *Source*: peaks over a threshold, Pickands (1975).
#[must_use]
pub fn p_value(score: f64, sorted: &[f32]) -> f64 {
    let below = sorted.partition_point(|block| f64::from(*block) < score);
    let p = (1 + sorted.len() - below) as f64 / (sorted.len() + 1) as f64;
    if below < sorted.len() || sorted.len() < TAIL_BLOCKS_MIN {
        return p;
    }
    let (low, upper) = sorted.split_at(sorted.len() - sorted.len() / 5);
    let threshold = low.last().copied().map_or(0.0, f64::from);
    let excess = upper.iter().map(|block| f64::from(*block) - threshold).sum::<f64>() / upper.len() as f64;
    let farthest = upper.last().copied().map_or(threshold, f64::from);
    if excess <= 0.0 { p } else { p * (-(score - farthest) / excess).exp().max(1.0 / TAIL_MAX) }
}

/// Returns what a bet on small p-values pays: 1 on average, or less, as long as nothing has changed.
#[must_use]
pub fn bet(p: f64) -> f64 {
    let p = p.clamp(f64::MIN_POSITIVE, 1.0);
    KAPPAS.iter().map(|kappa| kappa * p.powf(kappa - 1.0)).sum::<f64>() / KAPPAS.len() as f64
}

/// Returns what a window pays: a mean of bets on its distance, on its shape and on its share of missing values.
#[must_use]
pub fn bet_on(scores: &Scores, blocks: &Blocks) -> f64 {
    let distance = if blocks.wasserstein_sd.iter().any(|score| *score > 0.0) {
        bet(p_value(scores.wasserstein_sd, &blocks.wasserstein_sd))
    } else {
        bet(p_value(scores.ks, &blocks.ks))
    };
    let shape = bet(p_value(scores.psi, &blocks.psi));
    let missing = bet(p_value(scores.missing, &blocks.missing));
    PARTS[0] * distance + PARTS[1] * shape + PARTS[2] * missing
}

/// Evidence that a stream of windows has changed. *Range*: above 0; 1 where nothing is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evidence(f64);

impl Default for Evidence {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Evidence {
    /// Returns evidence as it was kept; what is no evidence starts again.
    #[must_use]
    pub const fn of(value: f64) -> Self {
        Self(if value.is_finite() && value > 0.0 { value } else { 1.0 })
    }

    /// Returns it as a number.
    #[must_use]
    pub const fn value(self) -> f64 {
        self.0
    }

    /// Returns the mean of evidence from windows of two lengths: it is evidence as well.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(f64::midpoint(self.0, other.0))
    }

    /// Returns the evidence after a window that paid so much.
    #[must_use]
    pub fn after(self, paid: f64) -> Self {
        Self::of((self.0.max(1.0) * paid).min(EVIDENCE_MAX))
    }
}

/// Returns the least evidence that stands among all streams, so that at most the share `alpha` of those that stand is
/// false; none where none stands.
#[must_use]
pub fn threshold(all: &[Evidence], alpha: f64) -> Option<f64> {
    let mut sorted: Vec<f64> = all.iter().map(|evidence| evidence.0).collect();
    sorted.sort_by(|one, other| other.total_cmp(one));
    let streams = sorted.len() as f64;
    let stands = |place: &usize| sorted[*place] * (*place + 1) as f64 >= streams / alpha;
    (0..sorted.len()).rev().find(stands).map(|place| sorted[place])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn p_values_count_the_blocks_that_were_at_least_as_far() {
        let blocks = [0.1, 0.2, 0.2, 0.4];
        for (score, p) in [(0.0, 1.0), (0.15, 0.8), (0.2, 0.8), (0.3, 0.4), (0.4, 0.4), (0.5, 0.2)] {
            // Scores are kept with 24 bits.
            assert_eq!(p_value(f64::from(score as f32), &blocks), p, "{score}");
        }
        assert_eq!(p_value(3.0, &[]), 1.0);
    }

    #[test]
    fn a_bet_pays_one_on_average_while_nothing_has_changed() {
        let steps = 2_000_000;
        let paid: f64 =
            (0..steps).map(|n| bet((f64::from(n) + 0.5) / f64::from(steps))).sum::<f64>() / f64::from(steps);
        assert!((0.7..=1.0).contains(&paid), "{paid}");
        // Of p-values with steps, as they are here, it pays less.
        for blocks in [1u32, 14, 200] {
            let all = (1..=blocks + 1).map(|rank| bet(f64::from(rank) / f64::from(blocks + 1)));
            let mean = all.sum::<f64>() / f64::from(blocks + 1);
            assert!(mean <= 1.0, "{blocks}: {mean}");
        }
    }

    proptest! {
        #[test]
        fn those_that_stand_are_those_of_the_procedure_word_by_word(
            values in prop::collection::vec(0.1..500.0f64, 1..40),
            alpha in 0.01..0.5f64,
        ) {
            let all: Vec<Evidence> = values.iter().map(|value| Evidence::of(*value)).collect();
            // The largest k so that the k-th largest is at least m / (alpha k).
            let mut sorted = values.clone();
            sorted.sort_by(|one, other| other.total_cmp(one));
            let k = (1..=sorted.len()).filter(|k| sorted[k - 1] >= sorted.len() as f64 / (alpha * *k as f64)).max();
            let found = threshold(&all, alpha);
            prop_assert_eq!(found, k.map(|k| sorted[k - 1]));
        }

        #[test]
        fn evidence_stays_a_number_whatever_it_is_told(paid in prop::collection::vec(any::<f64>(), 0..50)) {
            let mut evidence = Evidence::default();
            for paid in paid {
                evidence = evidence.after(paid);
                prop_assert!(evidence.value() > 0.0 && evidence.value() <= EVIDENCE_MAX);
            }
        }
    }

    #[test]
    fn evidence_of_a_lasting_change_rises_and_quiet_lets_it_fall() {
        let mut evidence = Evidence::default();
        for _ in 0..6 {
            evidence = evidence.after(bet(1.0 / 201.0));
        }
        assert!(evidence.value() > 100_000.0, "{evidence:?}");
        for _ in 0..30 {
            evidence = evidence.after(bet(0.5));
        }
        assert!(evidence.value() < 1.0, "{evidence:?}");
    }
}
