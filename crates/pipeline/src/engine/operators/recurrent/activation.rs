//! The activations of recurrent operators.
//!
//! Reads their names and parameters from a node and applies them to values; NaN stays NaN. Never makes up a parameter that
//! the node lacks and ONNX gives no value for. Sigmoid and tanh are plain arithmetic, which cells compile into their loops.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::super::vectors::{Arithmetic, Separate};

/// A function of one value, as ONNX names it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Activation {
    Sigmoid,
    Tanh,
    Relu,
    Affine { alpha: f32, beta: f32 },
    LeakyRelu { alpha: f32 },
    ThresholdedRelu { alpha: f32 },
    ScaledTanh { alpha: f32, beta: f32 },
    HardSigmoid { alpha: f32, beta: f32 },
    Elu { alpha: f32 },
    Softsign,
    Softplus,
}

impl Activation {
    /// Returns the function of each value. For functions that are seldom asked for: one call a vector, compiled once.
    #[inline(never)]
    pub(super) fn of<const WIDTH: usize>(&self, mut values: [f32; WIDTH]) -> [f32; WIDTH] {
        match *self {
            Self::Sigmoid => each(&mut values, sigmoid::<Separate>),
            Self::Tanh => each(&mut values, tanh::<Separate>),
            Self::ScaledTanh { alpha, beta } => each(&mut values, |x| alpha * tanh::<Separate>(beta * x)),
            // `max` would make 0 of NaN.
            Self::Relu => each(&mut values, |x| if x < 0.0 { 0.0 } else { x }),
            Self::Affine { alpha, beta } => each(&mut values, |x| alpha * x + beta),
            Self::LeakyRelu { alpha } => each(&mut values, |x| if x < 0.0 { alpha * x } else { x }),
            Self::ThresholdedRelu { alpha } => each(&mut values, |x| if x <= alpha { 0.0 } else { x }),
            Self::HardSigmoid { alpha, beta } => each(&mut values, |x| (alpha * x + beta).clamp(0.0, 1.0)),
            Self::Elu { alpha } => each(&mut values, |x| if x < 0.0 { alpha * x.exp_m1() } else { x }),
            Self::Softsign => each(&mut values, |x| x / (1.0 + x.abs())),
            Self::Softplus => {
                each(&mut values, |x| if x < 0.0 { 0.0 } else { x } + (-x.abs()).exp().ln_1p());
            }
        }
        values
    }
}

fn each(values: &mut [f32], function: impl Fn(f32) -> f32) {
    for value in values {
        *value = function(*value);
    }
}

/// Returns the hyperbolic tangent to 4e-7 of its value; NaN stays.
///
/// *Source*: the rational function of Eigen's `ptanh`, which beyond its bound is 1 to a rounding.
#[inline(always)]
pub(super) fn tanh<A: Arithmetic>(x: f32) -> f32 {
    const BOUND: f32 = 7.905_311;
    // Comparisons with NaN are false.
    let x = if x > BOUND { BOUND } else { x };
    let x = if x < -BOUND { -BOUND } else { x };
    let square = x * x;
    let mut above = -2.760_768_5e-16_f32;
    for factor in [2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619e-4, 4.893_524_6e-3]
    {
        above = A::add_product(factor, above, square);
    }
    let mut below = 1.198_258_4e-6_f32;
    for factor in [1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3] {
        below = A::add_product(factor, below, square);
    }
    x * above / below
}

/// Returns the logistic function to 3e-7; NaN stays.
#[inline(always)]
pub(super) fn sigmoid<A: Arithmetic>(x: f32) -> f32 {
    A::add_product(0.5, 0.5, tanh::<A>(0.5 * x))
}

/// Reads the activations of a node, `defaults.len()` for each direction, those of the forward direction first.
///
/// *Errors*: a function that ONNX does not name for these operators, or one without its parameters; too few or too
/// many.
pub(super) fn read(node: &NodeProto, directions: usize, defaults: &[&str]) -> TractResult<Vec<Activation>> {
    let names: Vec<String> = node.get_attr_opt_vec::<&str>("activations")?.map_or_else(
        || defaults.repeat(directions).iter().map(|&name| name.to_owned()).collect(),
        |names| names.iter().map(|name| name.to_ascii_lowercase()).collect(),
    );
    let expected = defaults.len() * directions;
    ensure!(names.len() == expected, "`activations` names {} functions, not {expected}", names.len());
    let mut alphas = Parameters::read(node, "activation_alpha")?;
    let mut betas = Parameters::read(node, "activation_beta")?;
    let activations = names.iter().map(|name| activation(name, &mut alphas, &mut betas)).collect();
    alphas.require_all_used()?;
    betas.require_all_used()?;
    activations
}

fn activation(name: &str, alphas: &mut Parameters, betas: &mut Parameters) -> TractResult<Activation> {
    Ok(match name {
        "sigmoid" => Activation::Sigmoid,
        "tanh" => Activation::Tanh,
        "relu" => Activation::Relu,
        "affine" => Activation::Affine { alpha: alphas.next(name, None)?, beta: betas.next(name, None)? },
        "leakyrelu" => Activation::LeakyRelu { alpha: alphas.next(name, Some(0.01))? },
        "thresholdedrelu" => Activation::ThresholdedRelu { alpha: alphas.next(name, Some(1.0))? },
        "scaledtanh" => {
            Activation::ScaledTanh { alpha: alphas.next(name, None)?, beta: betas.next(name, None)? }
        }
        "hardsigmoid" => Activation::HardSigmoid {
            alpha: alphas.next(name, Some(0.2))?,
            beta: betas.next(name, Some(0.5))?,
        },
        "elu" => Activation::Elu { alpha: alphas.next(name, Some(1.0))? },
        "softsign" => Activation::Softsign,
        "softplus" => Activation::Softplus,
        _ => bail!("activation `{}` is not known here", name.chars().take(64).collect::<String>()),
    })
}

/// The values of `activation_alpha` or `activation_beta`, taken in the order of the functions that have one.
struct Parameters {
    attribute: &'static str,
    values: Vec<f32>,
    used: usize,
}

impl Parameters {
    fn read(node: &NodeProto, attribute: &'static str) -> TractResult<Self> {
        Ok(Self { attribute, values: node.get_attr_opt_vec(attribute)?.unwrap_or_default(), used: 0 })
    }

    fn next(&mut self, function: &str, absent: Option<f32>) -> TractResult<f32> {
        let value = self.values.get(self.used).copied().or(absent);
        self.used += 1;
        value.with_context(|| format!("activation `{function}` lacks its value in `{}`", self.attribute))
    }

    /// Some exporters write a value for every function, others only for those that take one: where more stand there
    /// than are taken, nobody knows which belong to which.
    fn require_all_used(&self) -> TractResult<()> {
        ensure!(
            self.values.len() <= self.used || self.used == 0,
            "`{}` has {} values for {} functions that take one",
            self.attribute,
            self.values.len(),
            self.used
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::vectors::Fused;
    use super::*;

    /// Every 9973rd of all patterns of bits: some 400,000 values from denormals to infinities and NaN.
    fn values() -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(9_973).map(f32::from_bits)
    }

    #[test]
    fn tanh_and_sigmoid_are_near_the_exact_value_over_the_whole_range() {
        for x in values().chain([0.0, f32::INFINITY, f32::NEG_INFINITY]).filter(|x| !x.is_nan()) {
            for (tanh, sigmoid) in [
                (tanh::<Fused<16>>(x), sigmoid::<Fused<16>>(x)),
                (tanh::<Separate>(x), sigmoid::<Separate>(x)),
            ] {
                let exact = f64::from(x).tanh();
                let tolerance = 5e-7 * exact.abs() + f64::from(f32::MIN_POSITIVE);
                assert!(
                    (f64::from(tanh) - exact).abs() <= tolerance,
                    "tanh({x:e}) is {exact:e}, not {tanh:e}"
                );
                let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
                assert!(
                    (f64::from(sigmoid) - exact).abs() <= 3e-7,
                    "sigmoid({x:e}) is {exact:e}, not {sigmoid:e}"
                );
                assert!(tanh.abs() <= 1.0 && (0.0..=1.0).contains(&sigmoid), "{x:e} leaves the range");
            }
        }
    }

    #[test]
    fn a_function_of_nan_is_nan() {
        for x in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
            assert!(tanh::<Separate>(x).is_nan() && sigmoid::<Separate>(x).is_nan());
        }
    }
}
