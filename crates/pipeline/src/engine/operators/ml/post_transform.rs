//! `post_transform`: what becomes of a row of scores.
//!
//! *Source*: ai.onnx.ml, attribute `post_transform` of linear models, support vector machines and tree ensembles; the
//! transforms of a single score and the approximation of the probit as ONNX Runtime has them.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

/// A transform of scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PostTransform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

impl PostTransform {
    /// Reads the attribute; none where it is absent.
    ///
    /// *Errors*: it names another transform.
    pub(super) fn read(node: &NodeProto) -> TractResult<Self> {
        Ok(match node.get_attr_opt::<&str>("post_transform")?.unwrap_or("NONE") {
            "NONE" => Self::None,
            "LOGISTIC" => Self::Logistic,
            "SOFTMAX" => Self::Softmax,
            "SOFTMAX_ZERO" => Self::SoftmaxZero,
            "PROBIT" => Self::Probit,
            other => {
                bail!("`post_transform` is `{}`, which is none", other.chars().take(64).collect::<String>())
            }
        })
    }

    /// Transforms one row. A row of one score is only changed by the probit: a single class has no other to be
    /// weighed against.
    pub(super) fn apply(self, scores: &mut [f32]) {
        match self {
            Self::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            _ if scores.len() < 2 => {}
            Self::None => {}
            Self::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Self::Softmax => softmax(scores),
            Self::SoftmaxZero => softmax_zero(scores),
        }
    }
}

impl PostTransform {
    /// Returns what one score for two classes becomes; the second class is that of high scores.
    pub(super) fn pair(self, score: f32) -> [f32; 2] {
        match self {
            Self::Logistic => [logistic(-score), logistic(score)],
            _ => [1.0 - score, score],
        }
    }
}

/// `1 / (1 + exp(-x))`, without overflow.
pub(super) fn logistic(score: f32) -> f32 {
    let positive = 1.0 / (1.0 + (-score.abs()).exp());
    if score < 0.0 { 1.0 - positive } else { positive }
}

fn largest(scores: &[f32]) -> f32 {
    scores.iter().fold(-f32::MAX, |largest, &score| if score > largest { score } else { largest })
}

fn softmax(scores: &mut [f32]) {
    let largest = largest(scores);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// Softmax over the scores that are not zero.
fn softmax_zero(scores: &mut [f32]) {
    let largest = largest(scores);
    let of_zero = (-largest).exp();
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        if *score > 1e-7 || *score < -1e-7 {
            *score = (*score - largest).exp();
            sum += *score;
        } else {
            *score *= of_zero;
        }
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The quantile of the normal distribution by Winitzki's approximation of the inverse error function.
fn probit(score: f32) -> f32 {
    let x = 2.0 * score - 1.0;
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let half = 2.0 / (std::f32::consts::PI * 0.147) + 0.5 * log;
    let root = (half * half - 1.0 / 0.147 * log).sqrt();
    std::f32::consts::SQRT_2 * (sign * (root - half).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn transforms_give_what_their_definitions_say(scores in proptest::collection::vec(-20.0..20.0_f32, 2..9)) {
            let apply = |transform: PostTransform| {
                let mut row = scores.clone();
                transform.apply(&mut row);
                row
            };
            let exponentials: Vec<f64> = scores.iter().map(|score| f64::from(*score).exp()).collect();
            let sum: f64 = exponentials.iter().sum();
            let close = |have: f32, want: f64| (f64::from(have) - want).abs() < 1e-5;
            for (position, exponential) in exponentials.iter().enumerate() {
                prop_assert!(close(apply(PostTransform::Softmax)[position], exponential / sum));
                prop_assert!(close(apply(PostTransform::Logistic)[position], exponential / (1.0 + exponential)));
            }
            prop_assert_eq!(apply(PostTransform::None), scores.clone());
        }

        #[test]
        fn zeros_stay_out_of_the_softmax_that_skips_them(score in -20.0..20.0_f32, other in -20.0..20.0_f32) {
            let mut row = [score, 0.0, other];
            PostTransform::SoftmaxZero.apply(&mut row);
            let sum = f64::from(score).exp() + f64::from(other).exp();
            prop_assume!(score.abs() > 1e-6 && other.abs() > 1e-6);
            prop_assert!((f64::from(row[0]) - f64::from(score).exp() / sum).abs() < 1e-5);
            prop_assert_eq!(row[1], 0.0);
        }

        #[test]
        fn the_probit_is_the_quantile_of_the_normal_distribution(x in -2.5..2.5_f64) {
            // The distribution function by Simpson's rule.
            let steps = 2_000;
            let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let width = x / f64::from(steps);
            let inner: f64 = (1..steps)
                .map(|step| density(width * f64::from(step)) * if step % 2 == 1 { 4.0 } else { 2.0 })
                .sum();
            let below = 0.5 + width / 3.0 * (density(0.0) + inner + density(x));
            prop_assert!((f64::from(probit(below as f32)) - x).abs() < 0.01);
        }
    }

    #[test]
    fn a_single_score_is_changed_by_the_probit_alone() {
        for transform in [PostTransform::Logistic, PostTransform::Softmax, PostTransform::SoftmaxZero] {
            let mut row = [0.7];
            transform.apply(&mut row);
            assert_eq!(row, [0.7]);
        }
    }
}
