//! Activations and other maps from value to value.
//!
//! tract's make plausible values of NaN (`Relu`, `Sigmoid`, `Tanh`, `HardSigmoid`), lose the exponent (`Softplus`,
//! `Gelu`), read a parameter wrong (`Celu`) or know no f64. A rectifier keeps tract's fused kernel, as a leaky one with
//! slope zero.
//!
//! *Source*: ai.onnx 22 and com.microsoft 1, the operators' formulas.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_core::ops::nn::leaky_relu;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::super::vectors::{Arithmetic, Loops, on_widest};
use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::curves;
use super::guarded::of_tract;

/// A map of one value; the parameters stand in the order of the formula.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Map {
    Relu,
    LeakyRelu(f64),
    Celu(f64),
    Softplus,
    HardSigmoid(f64, f64),
    HardSwish,
    Sigmoid,
    Tanh,
    Round,
    /// The exact one, over the error function.
    Gelu,
    GeluTanh,
    QuickGelu(f64),
    Clip(f64, f64),
}

impl Eq for Map {}

macro_rules! map {
    ($name:ident, $type:ident, $exp:path, $tanh:path, $softplus:path) => {
        #[inline(always)]
        fn $name(self, x: $type) -> $type {
            // Comparisons that are false for NaN let it through.
            let between = |x: $type, low: $type, high: $type| {
                let x = if x < low { low } else { x };
                if x > high { high } else { x }
            };
            match self {
                Self::Relu => {
                    if x < 0.0 {
                        0.0
                    } else {
                        x
                    }
                }
                Self::LeakyRelu(slope) => {
                    if x < 0.0 {
                        x * slope as $type
                    } else {
                        x
                    }
                }
                Self::Celu(alpha) => {
                    let alpha = alpha as $type;
                    let below = alpha * (x / alpha).exp_m1();
                    (if x < 0.0 { 0.0 } else { x }) + if below > 0.0 { 0.0 } else { below }
                }
                Self::Softplus => $softplus(x),
                Self::HardSigmoid(alpha, beta) => between(x * alpha as $type + beta as $type, 0.0, 1.0),
                Self::HardSwish => x * between(x / 6.0 + 0.5, 0.0, 1.0),
                Self::Sigmoid => 1.0 / (1.0 + $exp(-x)),
                Self::Tanh => $tanh(x),
                Self::Round => x.round_ties_even(),
                Self::Gelu => x,
                Self::GeluTanh => {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() as $type * (x + 0.044715 * x * x * x);
                    0.5 * x * (1.0 + $tanh(inner))
                }
                Self::QuickGelu(alpha) => x / (1.0 + $exp(-(alpha as $type) * x)),
                Self::Clip(low, high) => between(x, low as $type, high as $type),
            }
        }
    };
}

fn softplus(x: f64) -> f64 {
    (if x < 0.0 { 0.0 } else { x }) + (-x.abs()).exp().ln_1p()
}

/// A map over values, in vectors.
struct Each<'a>(Map, &'a mut [f32]);

impl Loops for Each<'_> {
    type Output = ();

    /// The arms name each map once more, so that each is a loop of its own, without a branch over maps.
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self(map, values) = self;
        macro_rules! each {
            ($map:expr) => {{
                let map = $map;
                for value in values {
                    *value = map.single(*value);
                }
            }};
        }
        match map {
            Map::Relu => each!(Map::Relu),
            Map::LeakyRelu(slope) => each!(Map::LeakyRelu(slope)),
            Map::Softplus => each!(Map::Softplus),
            Map::HardSigmoid(alpha, beta) => each!(Map::HardSigmoid(alpha, beta)),
            Map::HardSwish => each!(Map::HardSwish),
            Map::Sigmoid => each!(Map::Sigmoid),
            Map::Tanh => each!(Map::Tanh),
            Map::GeluTanh => each!(Map::GeluTanh),
            Map::QuickGelu(alpha) => each!(Map::QuickGelu(alpha)),
            Map::Clip(low, high) => each!(Map::Clip(low, high)),
            other => each!(other),
        }
    }
}

impl Map {
    map!(single, f32, curves::exp, curves::tanh, curves::softplus);
    map!(double, f64, f64::exp, f64::tanh, softplus);

    /// Applies the map to each value.
    pub(super) fn all(self, values: &mut [f32]) {
        on_widest(Each(self, values));
    }
}

impl ElementWiseMiniOp for Map {
    fn name(&self) -> String {
        let name = format!("{self:?}");
        name.split('(').next().unwrap_or_default().to_owned()
    }

    fn eval_in_place(&self, tensor: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        match (tensor.datum_type(), self) {
            (DatumType::F32, _) => {
                let mut values = tensor.try_as_plain_ram_mut()?;
                self.all(values.as_slice_mut::<f32>()?);
            }
            (DatumType::F64, _) => {
                let mut values = tensor.try_as_plain_ram_mut()?;
                values.as_slice_mut::<f64>()?.iter_mut().for_each(|x| *x = self.double(*x));
            }
            (DatumType::F16, _) => {
                let mut values = tensor.try_as_plain_ram_mut()?;
                let values = values.as_slice_mut::<f16>()?;
                values.iter_mut().for_each(|x| *x = f16::from_f32(self.single(x.to_f32())));
            }
            (other, _) => bail!("it does not take values of {other:?}"),
        }
        Ok(())
    }

    /// About what the formula costs; of use for the cost by operator alone.
    fn cost_per_element(&self, datum_type: DatumType) -> TVec<(Cost, usize)> {
        tvec!((Cost::FMA(datum_type), 4))
    }
}

/// Returns a map as a node of a typed graph.
pub(super) fn mapped(
    name: &str,
    model: &mut TypedModel,
    map: Map,
    input: OutletId,
) -> TractResult<TVec<OutletId>> {
    model.wire_node(name, ElementWiseOp(Box::new(map), None), &[input])
}

#[derive(Debug, Clone)]
struct Activation {
    map: Map,
    /// tract's own, for what it does right; it decides which types there are.
    tract: Option<Box<dyn Expansion>>,
}

impl Expansion for Activation {
    fn name(&self) -> StaticName {
        self.map.name().into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let single = matches!(model.outlet_fact(inputs[0])?.datum_type, DatumType::F32 | DatumType::F16);
        let is_float = model.outlet_fact(inputs[0])?.datum_type.is_float();
        let mut input = inputs[0];
        if let Some(bias) = inputs.get(1) {
            let both = wire_rank_broadcast(prefix, model, &[input, *bias])?;
            let add = tract_onnx::tract_core::ops::math::add();
            input = model.wire_node(format!("{prefix}.biased"), add, &both)?[0];
        }
        match (self.map, &self.tract) {
            (Map::Relu, _) if single => model.wire_node(prefix, leaky_relu(0.0), &[input]),
            (Map::LeakyRelu(_) | Map::Round | Map::HardSwish, Some(tract)) if single => {
                tract.wire(prefix, model, &[input])
            }
            (Map::Gelu, Some(tract)) => tract.wire(prefix, model, &[input]),
            _ if is_float => mapped(prefix, model, self.map, input),
            (_, Some(tract)) => tract.wire(prefix, model, &[input]),
            (_, None) => bail!("it takes floats"),
        }
    }
}

pub(super) fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let number = |name: &str, absent: f32| -> TractResult<f64> {
        Ok(f64::from(node.get_attr_opt::<f32>(name)?.unwrap_or(absent)))
    };
    let (map, known): (Map, &[&str]) = match node.op_type.as_str() {
        "Relu" => (Map::Relu, &[]),
        "LeakyRelu" => (Map::LeakyRelu(number("alpha", 0.01)?), &["alpha"]),
        "Celu" => (Map::Celu(number("alpha", 1.0)?), &["alpha"]),
        "Softplus" => (Map::Softplus, &[]),
        "HardSigmoid" => (Map::HardSigmoid(number("alpha", 0.2)?, number("beta", 0.5)?), &["alpha", "beta"]),
        "HardSwish" => (Map::HardSwish, &[]),
        "Sigmoid" => (Map::Sigmoid, &[]),
        "Tanh" => (Map::Tanh, &[]),
        "Round" => (Map::Round, &[]),
        "QuickGelu" => (Map::QuickGelu(number("alpha", 1.702)?), &["alpha"]),
        "FastGelu" => (Map::GeluTanh, &[]),
        "Gelu" => match node.get_attr_opt::<&str>("approximate")?.unwrap_or("none") {
            "none" => (Map::Gelu, &["approximate"]),
            "tanh" => (Map::GeluTanh, &["approximate"]),
            other => bail!("`approximate` is `{other}`"),
        },
        other => bail!("`{other}` is no activation"),
    };
    require_only(node, known)?;
    let tract = of_tract(context, node)?.0;
    let tract = tract.as_op().downcast_ref::<Box<dyn Expansion>>().cloned();
    ensure!(map != Map::Gelu || tract.is_some(), "tract has no `Gelu`");
    Ok((expand(Activation { map, tract }), Vec::new()))
}

/// `IsNaN` and `IsInf`.
#[derive(Debug)]
struct Classify {
    nan: bool,
    negative: bool,
    positive: bool,
}

pub(super) fn build_classify(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    if node.op_type == "IsNaN" {
        require_only(node, &[])?;
        return built(Classify { nan: true, negative: false, positive: false });
    }
    require_only(node, &["detect_negative", "detect_positive"])?;
    let flag = |name: &str| -> TractResult<bool> { Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(1) != 0) };
    built(Classify { nan: false, negative: flag("detect_negative")?, positive: flag("detect_positive")? })
}

impl Kernel for Classify {
    fn name(&self) -> &'static str {
        if self.nan { "IsNaN" } else { "IsInf" }
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        ensure!(input.datum_type.is_float(), "it takes floats, not {:?}", input.datum_type);
        Ok(tvec!(fact(bool::datum_type(), &input.shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let values = super::values::floats(&inputs[0])?;
        let is = |value: &f64| {
            if self.nan {
                value.is_nan()
            } else {
                (self.positive && *value == f64::INFINITY) || (self.negative && *value == f64::NEG_INFINITY)
            }
        };
        let found: Vec<bool> = values.iter().map(is).collect();
        Ok(tvec!(Tensor::from_shape(inputs[0].shape(), &found)?.into_tvalue()))
    }
}
