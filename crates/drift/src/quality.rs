//! How good a model is: from late labels by counting, and without labels from how sure the model says it is.
//!
//! Sums only, which merge exactly; never a single prediction or label. What is estimated always stands beside how wrong
//! estimates of this kind were on the reference.
//!
//! *Source*: confidence-based performance estimation, as described by NannyML; calibration error, Naeini et al. (2015).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::moments::{Moments, Scale};

/// Bins of a score between 0 and 1.
pub const SCORE_BINS: usize = 20;
/// Most classes whose confusions are counted one by one.
pub const CLASSES_MAX: usize = 32;

/// Returns the bin of a score; what is outside of 0 to 1 goes to the nearest.
#[must_use]
pub fn score_bin(score: f64) -> usize {
    ((score * SCORE_BINS as f64) as usize).min(SCORE_BINS - 1)
}

/// How often the model was right, by how sure it was: what a score is worth.
///
/// For a model of two classes the score is that of the positive class, and `hits` are the positives. For more classes the
/// score is that of the class that was predicted, and `hits` are the predictions that were right; then every bin predicts
/// a hit (`positive_from` is 0).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Labelled predictions by bin of their score.
    pub totals: Vec<u64>,
    /// Hits among them.
    pub hits: Vec<u64>,
    /// The first bin whose predictions are positive.
    pub positive_from: u32,
}

/// What is expected of predictions without labels. The counts are expectations, and so no whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate {
    /// Predictions.
    pub count: u64,
    /// Positives that were predicted.
    pub true_positives: f64,
    /// Negatives that were predicted as positives.
    pub false_positives: f64,
    /// Positives that were predicted as negatives.
    pub false_negatives: f64,
    /// Share of right predictions. *Range*: 0 to 1.
    pub accuracy: f64,
    /// Standard error of the accuracy, from chance alone.
    pub standard_error: f64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { totals: vec![0; SCORE_BINS], hits: vec![0; SCORE_BINS], positive_from: SCORE_BINS as u32 / 2 }
    }
}

impl Calibration {
    /// Adds a labelled prediction.
    pub fn add(&mut self, score: f64, is_hit: Hit) {
        let bin = score_bin(score);
        if let (Some(total), Some(hits)) = (self.totals.get_mut(bin), self.hits.get_mut(bin)) {
            *total += 1;
            *hits += u64::from(is_hit == Hit::Yes);
        }
    }

    /// Checks what was read from outside.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.totals.len() == SCORE_BINS
            && self.hits.len() == SCORE_BINS
            && self.positive_from as usize <= SCORE_BINS
            && self.totals.iter().zip(&self.hits).all(|(total, hits)| hits <= total && *total < 1 << 48)
    }

    /// Returns how probable a hit is at the scores of a bin. A bin without labels is worth what its score says; each
    /// further label counts as much as that.
    #[must_use]
    pub fn probability(&self, bin: usize) -> f64 {
        let says = (bin as f64 + 0.5) / SCORE_BINS as f64;
        let (total, hits) =
            (self.totals.get(bin).copied().unwrap_or(0), self.hits.get(bin).copied().unwrap_or(0));
        (hits as f64 + says) / (total as f64 + 1.0)
    }

    /// Returns what is expected of predictions, counted by bin of their score; none where there are none.
    #[must_use]
    pub fn estimate(&self, counts: &[u64]) -> Option<Estimate> {
        let count: u64 = counts.iter().sum();
        if count == 0 || counts.len() != SCORE_BINS {
            return None;
        }
        let mut estimate = Estimate { count, ..Estimate::default() };
        let (mut right, mut variance) = (0.0, 0.0);
        for (bin, counted) in counts.iter().enumerate() {
            let (counted, probability) = (*counted as f64, self.probability(bin));
            let (hits, misses) = (counted * probability, counted * (1.0 - probability));
            if bin >= self.positive_from as usize {
                estimate.true_positives += hits;
                estimate.false_positives += misses;
                right += hits;
            } else {
                estimate.false_negatives += hits;
                right += misses;
            }
            // Chance of these predictions, and of the labels that the probability comes from.
            let labels = self.totals.get(bin).copied().unwrap_or(0) as f64 + 1.0;
            variance += probability * (1.0 - probability) * (counted + counted * counted / labels);
        }
        estimate.accuracy = right / count as f64;
        estimate.standard_error = variance.sqrt() / count as f64;
        Some(estimate)
    }

    /// Returns the calibration error of labelled predictions against this: how far the share of hits was from what was
    /// expected, on average. *Range*: 0 to 1.
    #[must_use]
    pub fn error(&self, seen: &Self) -> Option<f64> {
        let count: u64 = seen.totals.iter().sum();
        let off = |bin: usize| {
            let (total, hits) = (seen.totals[bin] as f64, seen.hits[bin] as f64);
            (hits - total * self.probability(bin)).abs()
        };
        (count > 0 && seen.is_sound()).then(|| (0..SCORE_BINS).map(off).sum::<f64>() / count as f64)
    }
}

/// Whether a labelled prediction was a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    /// It was.
    Yes,
    /// It was not.
    No,
}

/// Predictions and their labels by class: rows are labels, columns predictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// Metrics of a classification. *Range*: 0 to 1, of the correlation −1 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassMetrics {
    /// Labelled predictions.
    pub count: u64,
    /// Share of right ones.
    pub accuracy: f64,
    /// Mean over the classes (of two classes: of the positive one, class 1) of right ones among those predicted.
    pub precision: f64,
    /// Likewise of right ones among those labelled.
    pub recall: f64,
    /// Likewise their harmonic mean.
    pub f1: f64,
    /// Matthews correlation coefficient. *Source*: Gorodkin (2004) for more than two classes.
    pub mcc: f64,
}

impl Confusion {
    /// Returns one without any prediction, of some classes; at most [`CLASSES_MAX`].
    #[must_use]
    pub fn of_classes(classes: usize) -> Self {
        let classes = classes.clamp(1, CLASSES_MAX);
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Returns the counts as they are kept: row after row.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns one from its counts; none where they are of no square.
    #[must_use]
    pub fn of_counts(counts: Vec<u64>) -> Option<Self> {
        let classes = counts.len().isqrt();
        ((1..=CLASSES_MAX).contains(&classes) && classes * classes == counts.len())
            .then_some(Self { classes, counts })
    }

    /// Adds a prediction with its label; a class that there is not counts as the last.
    pub fn add(&mut self, label: usize, predicted: usize) {
        let last = self.classes - 1;
        self.counts[label.min(last) * self.classes + predicted.min(last)] += 1;
    }

    /// Adds what another one of as many classes counted; tells whether it had as many.
    pub fn merge(&mut self, other: &Self) -> bool {
        let fits = self.classes == other.classes;
        if fits {
            self.counts
                .iter_mut()
                .zip(&other.counts)
                .for_each(|(here, there)| *here = here.saturating_add(*there));
        }
        fits
    }

    /// Returns the metrics; none where there is no prediction. A share of nothing is 0, as in scikit-learn.
    #[must_use]
    pub fn metrics(&self) -> Option<ClassMetrics> {
        let count: u64 = self.counts.iter().sum();
        if count == 0 {
            return None;
        }
        let at = |label: usize, predicted: usize| self.counts[label * self.classes + predicted] as f64;
        let all = 0..self.classes;
        let right: f64 = all.clone().map(|class| at(class, class)).sum();
        let labelled: Vec<f64> =
            all.clone().map(|class| all.clone().map(|other| at(class, other)).sum()).collect();
        let predicted: Vec<f64> =
            all.clone().map(|class| all.clone().map(|other| at(other, class)).sum()).collect();
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let of_class = |class: usize| {
            let (precision, recall) =
                (share(at(class, class), predicted[class]), share(at(class, class), labelled[class]));
            (precision, recall, share(2.0 * precision * recall, precision + recall))
        };
        // Of two classes the question is about the positive one.
        let chosen: Vec<_> =
            if self.classes == 2 { vec![of_class(1)] } else { all.clone().map(of_class).collect() };
        let mean =
            |pick: fn(&(f64, f64, f64)) -> f64| chosen.iter().map(pick).sum::<f64>() / chosen.len() as f64;
        let n = count as f64;
        let both: f64 =
            labelled.iter().zip(&predicted).map(|(labelled, predicted)| labelled * predicted).sum();
        let spread = |sums: &[f64]| n * n - sums.iter().map(|sum| sum * sum).sum::<f64>();
        Some(ClassMetrics {
            count,
            accuracy: right / n,
            precision: mean(|of| of.0),
            recall: mean(|of| of.1),
            f1: mean(|of| of.2),
            mcc: share(right * n - both, (spread(&labelled) * spread(&predicted)).sqrt()),
        })
    }
}

/// Errors of predicted numbers: prediction minus label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Errors {
    /// Errors in steps of the labels' scale, from 0.
    pub errors: Moments,
    /// Sum of their sizes, in steps.
    pub sizes: u128,
    /// Labels in steps.
    pub labels: Moments,
}

/// Metrics of predicted numbers. *Units*: those of the labels; R² has none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NumberMetrics {
    /// Labelled predictions.
    pub count: u64,
    /// Mean size of the errors.
    pub mae: f64,
    /// Root of the mean square of the errors.
    pub rmse: f64,
    /// Mean error: above 0 the model says too much.
    pub bias: f64,
    /// Share of the labels' variance that the predictions explain; none where the labels were all alike.
    pub r2: Option<f64>,
}

impl Errors {
    /// Adds a prediction with its label; what is not finite does not count.
    pub fn add(&mut self, predicted: f64, label: f64, labels: &Scale) {
        if !(predicted.is_finite() && label.is_finite()) {
            return;
        }
        let from_zero = Scale { centre: 0.0, step: labels.step };
        let error = from_zero.steps(predicted - label);
        self.errors.add(error);
        self.sizes += u128::from(error.unsigned_abs());
        self.labels.add(labels.steps(label));
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.errors.merge(&other.errors);
        self.sizes = self.sizes.saturating_add(other.sizes);
        self.labels.merge(&other.labels);
    }

    /// Returns the metrics; none where there is no prediction.
    #[must_use]
    pub fn metrics(&self, labels: &Scale) -> Option<NumberMetrics> {
        let bias = self.errors.mean()? * labels.step;
        let count = self.errors.count;
        let mean_square = self.errors.squares as f64 / count as f64;
        let variance = self.labels.variance().filter(|variance| *variance > 0.0);
        Some(NumberMetrics {
            count,
            mae: self.sizes as f64 / count as f64 * labels.step,
            rmse: mean_square.sqrt() * labels.step,
            bias,
            r2: variance.map(|variance| 1.0 - mean_square / variance),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn of_calibrated_scores_the_estimate_is_what_labels_say(
            counts in prop::collection::vec(0..400u64, SCORE_BINS),
            positive_from in 0..=SCORE_BINS as u32,
        ) {
            // A reference so large that a label more says nothing, with hits as the scores promise.
            let totals = vec![4_000_000u64; SCORE_BINS];
            let hits = (0..SCORE_BINS as u64).map(|bin| (2 * bin + 1) * 100_000).collect();
            let calibration = Calibration { totals, hits, positive_from };
            let right: f64 = counts.iter().enumerate().map(|(bin, count)| {
                let probability = (bin as f64 + 0.5) / SCORE_BINS as f64;
                let of_right = if bin >= positive_from as usize { probability } else { 1.0 - probability };
                *count as f64 * of_right
            }).sum();
            let all: u64 = counts.iter().sum();
            match calibration.estimate(&counts) {
                Some(found) => {
                    prop_assert!((found.accuracy - right / all as f64).abs() < 1e-9);
                    let positives = found.true_positives + found.false_positives;
                    prop_assert!((positives - counts[positive_from as usize..].iter().sum::<u64>() as f64).abs() < 1e-6);
                }
                None => prop_assert_eq!(all, 0),
            }
        }

        #[test]
        fn errors_merge_to_those_of_all(pairs in prop::collection::vec((-50.0..50.0f64, -50.0..50.0f64), 1..80), cut in 0..80usize) {
            let scale = Scale::of(1.0, 20.0);
            let of = |pairs: &[(f64, f64)]| {
                let mut errors = Errors::default();
                pairs.iter().for_each(|(predicted, label)| errors.add(*predicted, *label, &scale));
                errors
            };
            let (one, other) = pairs.split_at(cut.min(pairs.len()));
            let mut merged = of(other);
            merged.merge(&of(one));
            prop_assert_eq!(merged, of(&pairs));
            let metrics = merged.metrics(&scale).unwrap();
            let mae = pairs.iter().map(|(p, l)| (p - l).abs()).sum::<f64>() / pairs.len() as f64;
            let rmse = (pairs.iter().map(|(p, l)| (p - l).powi(2)).sum::<f64>() / pairs.len() as f64).sqrt();
            prop_assert!((metrics.mae - mae).abs() <= scale.step && (metrics.rmse - rmse).abs() <= scale.step);
        }
    }

    #[test]
    fn a_bin_without_labels_is_worth_its_score() {
        let calibration = Calibration::default();
        assert_eq!(calibration.probability(0), 0.025);
        assert_eq!(calibration.probability(19), 0.975);
    }

    #[test]
    fn a_model_that_is_too_sure_has_a_calibration_error() {
        let (mut honest, mut seen) = (Calibration::default(), Calibration::default());
        for n in 0..1_000 {
            honest.add(0.97, if n % 40 == 0 { Hit::No } else { Hit::Yes });
            seen.add(0.97, if n % 4 == 0 { Hit::No } else { Hit::Yes });
        }
        let error = honest.error(&seen).unwrap();
        assert!((error - 0.225).abs() < 0.001, "{error}");
        assert_eq!(honest.error(&Calibration::default()), None);
    }

    #[test]
    fn metrics_of_two_classes_are_about_the_positive_one() {
        // 40 true negatives, 10 false positives, 5 false negatives, 45 true positives.
        let confusion = Confusion::of_counts(vec![40, 10, 5, 45]).unwrap();
        let found = confusion.metrics().unwrap();
        assert_eq!((found.count, found.accuracy, found.recall), (100, 0.85, 0.9));
        assert!((found.precision - 45.0 / 55.0).abs() < 1e-12);
        let mcc = (45.0 * 40.0 - 10.0 * 5.0) / f64::sqrt(55.0 * 50.0 * 45.0 * 50.0);
        assert!((found.mcc - mcc).abs() < 1e-12, "{found:?}");
        assert_eq!(Confusion::of_counts(vec![1, 2, 3]), None);
        assert_eq!(Confusion::of_classes(3).metrics(), None);
    }
}
