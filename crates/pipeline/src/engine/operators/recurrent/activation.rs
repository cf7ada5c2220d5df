//! The activations of recurrent operators.
//!
//! Reads their names and parameters from a node and applies them to values in place; NaN stays NaN. Never makes up a
//! parameter that the node lacks and ONNX gives no value for. Sigmoid and tanh run on tract's kernels.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::tract_linalg::Func;
use tract_onnx::tract_core::tract_linalg::element_wise::ElementWise;

/// A function of one value, as ONNX names it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
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

/// An activation with the kernel that computes it.
#[derive(Debug, Clone)]
pub(super) struct Activation {
    shape: Shape,
    kernel: Option<Box<dyn ElementWise<f32>>>,
}

impl Activation {
    fn new(shape: Shape) -> TractResult<Self> {
        let kernel = match shape {
            Shape::Sigmoid => Some(Func::Sigmoid.ew_f32()?),
            Shape::Tanh | Shape::ScaledTanh { .. } => Some(Func::Tanh.ew_f32()?),
            _ => None,
        };
        Ok(Self { shape, kernel })
    }

    pub(super) fn is_sigmoid(&self) -> bool {
        self.shape == Shape::Sigmoid
    }

    pub(super) fn is_tanh(&self) -> bool {
        self.shape == Shape::Tanh
    }

    /// Applies the function to each value.
    pub(super) fn apply(&self, values: &mut [f32]) -> TractResult<()> {
        match self.shape {
            Shape::Sigmoid | Shape::Tanh => self.run_kernel(values)?,
            Shape::ScaledTanh { alpha, beta } => {
                each(values, |x| beta * x);
                self.run_kernel(values)?;
                each(values, |x| alpha * x);
            }
            // `max` would make 0 of NaN.
            Shape::Relu => each(values, |x| if x < 0.0 { 0.0 } else { x }),
            Shape::Affine { alpha, beta } => each(values, |x| alpha * x + beta),
            Shape::LeakyRelu { alpha } => each(values, |x| if x < 0.0 { alpha * x } else { x }),
            Shape::ThresholdedRelu { alpha } => each(values, |x| if x <= alpha { 0.0 } else { x }),
            Shape::HardSigmoid { alpha, beta } => each(values, |x| (alpha * x + beta).clamp(0.0, 1.0)),
            Shape::Elu { alpha } => each(values, |x| if x < 0.0 { alpha * x.exp_m1() } else { x }),
            Shape::Softsign => each(values, |x| x / (1.0 + x.abs())),
            Shape::Softplus => each(values, |x| if x < 0.0 { 0.0 } else { x } + (-x.abs()).exp().ln_1p()),
        }
        Ok(())
    }

    /// Runs the kernel. Those of tract turn NaN into a bound of the function, so the places of NaN are kept here.
    fn run_kernel(&self, values: &mut [f32]) -> TractResult<()> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        // Counted rather than searched for: that is a few vector instructions.
        if values.iter().map(|value| u32::from(value.is_nan())).sum::<u32>() == 0 {
            return kernel.run(values);
        }
        let places: Vec<bool> = values.iter().map(|value| value.is_nan()).collect();
        kernel.run(values)?;
        for (value, _) in values.iter_mut().zip(places).filter(|(_, was_nan)| *was_nan) {
            *value = f32::NAN;
        }
        Ok(())
    }
}

fn each(values: &mut [f32], function: impl Fn(f32) -> f32) {
    for value in values {
        *value = function(*value);
    }
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
    let activations =
        names.iter().map(|name| Activation::new(shape(name, &mut alphas, &mut betas)?)).collect();
    alphas.require_all_used()?;
    betas.require_all_used()?;
    activations
}

fn shape(name: &str, alphas: &mut Parameters, betas: &mut Parameters) -> TractResult<Shape> {
    Ok(match name {
        "sigmoid" => Shape::Sigmoid,
        "tanh" => Shape::Tanh,
        "relu" => Shape::Relu,
        "affine" => Shape::Affine { alpha: alphas.next(name, None)?, beta: betas.next(name, None)? },
        "leakyrelu" => Shape::LeakyRelu { alpha: alphas.next(name, Some(0.01))? },
        "thresholdedrelu" => Shape::ThresholdedRelu { alpha: alphas.next(name, Some(1.0))? },
        "scaledtanh" => Shape::ScaledTanh { alpha: alphas.next(name, None)?, beta: betas.next(name, None)? },
        "hardsigmoid" => {
            Shape::HardSigmoid { alpha: alphas.next(name, Some(0.2))?, beta: betas.next(name, Some(0.5))? }
        }
        "elu" => Shape::Elu { alpha: alphas.next(name, Some(1.0))? },
        "softsign" => Shape::Softsign,
        "softplus" => Shape::Softplus,
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
