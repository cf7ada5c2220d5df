//! From the sums of a row to its label and scores, with the special cases of two classes.
//!
//! Decides as ONNX Runtime does, which here goes further than the text of ONNX: two classes with weights for one
//! alone, one or two base values, and which label a tie has. Refuses what ONNX Runtime leaves undefined or answers
//! with labels that the model does not have.

use tract_onnx::tract_core::internal::*;

use super::leaves::Row;
use super::numbers::{Numbers, Real};
use super::transform::{PostTransform, logistic};

/// What is known of a classifier's weights when it is built.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    /// All weights are for one class.
    pub(super) one_class: bool,
    /// No weight is below zero.
    pub(super) positive: bool,
    /// Every leaf has a weight for every class.
    pub(super) dense: bool,
}

/// How a classifier decides.
#[derive(Debug)]
pub(super) struct Decision {
    classes: usize,
    base: Vec<f64>,
    weights: Weights,
    post: PostTransform,
}

/// How one score becomes those of two classes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    /// There is one score.
    None,
    /// The score is a probability.
    Complement,
    /// The score is of either sign.
    Opposite,
}

impl Decision {
    /// Checks the attributes that decide.
    ///
    /// *Errors*: ONNX Runtime refuses them too, or its outputs would be undefined.
    pub(super) fn of(
        classes: usize,
        base: Numbers,
        weights: Weights,
        post: PostTransform,
    ) -> TractResult<Self> {
        let base: Vec<f64> = base.into_vec();
        if classes > 2 {
            ensure!(
                base.is_empty() || base.len() == classes,
                "`base_values` has {} values for {classes} classes",
                base.len()
            );
        } else {
            ensure!(base.len() <= classes, "`base_values` has {} values for {classes} classes", base.len());
        }
        if classes == 2 && base.len() < 2 {
            let one_score = weights.one_class || !weights.dense;
            ensure!(
                post != PostTransform::Probit || !one_score,
                "`PROBIT` of two classes with weights for one leaves a score undefined in ONNX Runtime"
            );
            ensure!(
                base.is_empty() || weights.one_class || weights.dense,
                "one of `base_values` for two classes with weights for both leaves a score undefined in ONNX Runtime"
            );
        }
        Ok(Self { classes, base, weights, post })
    }

    /// Returns the position of a row's class and writes its scores; of one class, whether the row is of it.
    ///
    /// *Errors*: no leaf had a weight, and no base value stands in.
    pub(super) fn decide<X: Real>(&self, row: &mut Row<'_, X>, scores: &mut [f32]) -> TractResult<usize> {
        match self.classes {
            1 => {
                let base = self.base.first().copied().unwrap_or(0.0);
                row.values[0] += X::near(base);
                let label = usize::from(row.values[0] > X::default());
                if self.post == PostTransform::Probit {
                    self.post.apply(row.values);
                }
                write(row.values, scores);
                Ok(label)
            }
            2 => Ok(self.decide_two(row, scores)),
            _ => self.decide_many(row, scores),
        }
    }

    fn decide_many<X: Real>(&self, row: &mut Row<'_, X>, scores: &mut [f32]) -> TractResult<usize> {
        for ((value, seen), base) in row.values.iter_mut().zip(row.seen.iter_mut()).zip(&self.base) {
            if *seen {
                *value += X::near(*base);
            } else {
                *value = X::near(*base);
                *seen = true;
            }
        }
        let mut best = None;
        for (class, value) in row.values.iter().enumerate().filter(|(class, _)| row.seen[*class]) {
            if best.is_none_or(|(_, highest)| *value > highest) {
                best = Some((class, *value));
            }
        }
        let Some((class, _)) = best else { bail!("a row reaches no leaf that has a weight") };
        self.post.apply(row.values);
        write(row.values, scores);
        Ok(class)
    }

    fn decide_two<X: Real>(&self, row: &mut Row<'_, X>, scores: &mut [f32]) -> usize {
        let zero = X::default();
        match self.base[..] {
            [_, second] if row.seen[1] => {
                // The second base value and the first sum make both scores: ONNX Runtime takes them for opposites.
                let mut value = X::near(second);
                value += row.values[0];
                row.values[0] = opposite(value);
                row.values[1] = value;
            }
            [first, second] => {
                row.values[0] += X::near(first);
                row.values[1] += X::near(second);
            }
            [first] => row.values[0] += X::near(first),
            _ => {}
        }
        let deciding = match *row.seen {
            [_, true] => row.values[1],
            [true, _] => row.values[0],
            _ => zero,
        };
        let positive = if self.weights.one_class && self.weights.positive {
            deciding > X::from(0.5)
        } else {
            deciding > zero
        };
        // What no leaf had a weight for is zero, whatever its base value.
        for (value, seen) in row.values.iter_mut().zip(row.seen.iter()) {
            if !seen {
                *value = zero;
            }
        }
        if self.base.len() == 2 || row.seen[1] {
            self.post.apply(row.values);
            write(row.values, scores);
        } else {
            self.write_one(row.values[0], scores);
        }
        usize::from(positive)
    }

    fn write_one<X: Real>(&self, score: X, scores: &mut [f32]) {
        let second = match self.weights {
            Weights { one_class: true, positive: true, .. } => Second::Complement,
            Weights { one_class: true, .. } => Second::Opposite,
            _ if self.base.is_empty() => Second::Opposite,
            _ => Second::None,
        };
        match second {
            Second::None => write(&[score], scores),
            _ if self.post == PostTransform::Logistic => {
                write(&[logistic(-score.single()), logistic(score.single())], scores);
            }
            Second::Complement => {
                let other: f64 = score.into();
                write(&[X::near(1.0 - other), score], scores);
            }
            Second::Opposite => write(&[opposite(score), score], scores),
        }
    }
}

fn opposite<X: Real>(value: X) -> X {
    let value: f64 = value.into();
    X::near(-value)
}

fn write<X: Real>(values: &[X], scores: &mut [f32]) {
    for (score, value) in scores.iter_mut().zip(values) {
        *score = value.single();
    }
}
