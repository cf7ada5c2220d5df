//! The post-transforms of tree ensembles, as ONNX Runtime computes them.
//!
//! Turns values into others in place. Never decides which values there are.
//!
//! *Source*: ai.onnx.ml 3, attribute `post_transform`; the inverse error function is Winitzki's approximation, which
//! ONNX Runtime takes with a constant of 0.147.

use tract_onnx::tract_core::internal::*;

use super::numbers::Real;

/// What is done with the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PostTransform {
    None,
    Logistic,
    Softmax,
    /// Softmax that leaves out what is zero.
    SoftmaxZero,
    Probit,
}

/// Below this a value counts as zero in [`PostTransform::SoftmaxZero`].
const ZERO: f32 = 1e-7;
/// The constant of Winitzki's approximation.
const WINITZKI: f32 = 0.147;

impl PostTransform {
    /// Reads the attribute of the two older operators.
    pub(super) fn named(name: &str) -> TractResult<Self> {
        Ok(match name {
            "NONE" => Self::None,
            "LOGISTIC" => Self::Logistic,
            "SOFTMAX" => Self::Softmax,
            "SOFTMAX_ZERO" => Self::SoftmaxZero,
            "PROBIT" => Self::Probit,
            other => bail!(
                "`post_transform` is none of ONNX: `{}`",
                other.escape_debug().take(32).collect::<String>()
            ),
        })
    }

    /// Transforms the values of a row.
    pub(super) fn apply<X: Real>(self, values: &mut [X]) {
        match self {
            Self::None => {}
            Self::Logistic => values.iter_mut().for_each(|value| *value = X::from(logistic(value.single()))),
            Self::Probit => values.iter_mut().for_each(|value| *value = X::from(probit(value.single()))),
            Self::Softmax => softmax(values),
            Self::SoftmaxZero => softmax_zero(values),
        }
    }
}

/// Returns `1 / (1 + exp(-value))`.
pub(super) fn logistic(value: f32) -> f32 {
    let positive = 1.0 / (1.0 + (-value.abs()).exp());
    if value < 0.0 { 1.0 - positive } else { positive }
}

/// Returns the quantile of the normal distribution.
pub(super) fn probit(value: f32) -> f32 {
    std::f32::consts::SQRT_2 * inverse_error_function(2.0 * value - 1.0)
}

fn inverse_error_function(x: f32) -> f32 {
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let half = 2.0 / (std::f32::consts::PI * WINITZKI) + 0.5 * log;
    sign * ((half * half - (1.0 / WINITZKI) * log).sqrt() - half).sqrt()
}

/// Missing values are passed over, as in ONNX Runtime.
fn largest<X: Real>(values: &[X]) -> X {
    let lowest = X::near(f64::from(f32::MIN));
    values.iter().fold(lowest, |largest, value| if *value > largest { *value } else { largest })
}

fn divide<X: Real>(values: &mut [X], sum: X) {
    values.iter_mut().for_each(|value| *value = *value / sum);
}

fn softmax<X: Real>(values: &mut [X]) {
    let largest: f64 = largest(values).into();
    let mut sum = X::default();
    for value in values.iter_mut() {
        *value = X::near((*value).into() - largest).exponential();
        sum += *value;
    }
    divide(values, sum);
}

fn softmax_zero<X: Real>(values: &mut [X]) {
    let largest: f64 = largest(values).into();
    let scale: f64 = X::near(-largest).exponential().into();
    let zero = X::from(ZERO);
    let negative_zero = X::from(-ZERO);
    let mut sum = X::default();
    for value in values.iter_mut() {
        if *value > zero || *value < negative_zero {
            *value = X::near((*value).into() - largest).exponential();
            sum += *value;
        } else {
            *value = X::near((*value).into() * scale);
        }
    }
    divide(values, sum);
}
