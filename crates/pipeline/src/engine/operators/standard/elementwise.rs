//! Operators on two or more tensors, value by value: extremes, remainders, powers and shifts.
//!
//! tract's extremes drop NaN, its remainder mixes up tensors of different rank, its powers know no integers, its shifts
//! wrap the distance around, its division by zero panics. Powers of floats and comparisons of numbers stay with tract.
//!
//! *Source*: ai.onnx 13 (Max, Min, Mod, Equal), 15 (Pow), 11 (BitShift).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::binary::{wire_cast, wire_rank_broadcast};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, Prepared, fact, wired};
use super::super::small;
use super::guarded::of_tract;
use super::values::{floats, integers, of_floats, of_integers, without_sizes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Max,
    Min,
    /// With the sign of the divisor.
    Mod,
    /// With the sign of the dividend.
    Fmod,
    Left,
    Right,
    Pow,
    Div,
    Equal,
}

impl Kind {
    fn floats(self, a: f64, b: f64) -> TractResult<f64> {
        Ok(match self {
            Self::Max if a.is_nan() || b.is_nan() => f64::NAN,
            Self::Min if a.is_nan() || b.is_nan() => f64::NAN,
            Self::Max => a.max(b),
            Self::Min => a.min(b),
            Self::Fmod => a % b,
            Self::Mod => match a % b {
                rest if rest != 0.0 && (rest < 0.0) != (b < 0.0) => rest + b,
                rest => rest,
            },
            other => bail!("{other:?} of floats"),
        })
    }

    /// `bits` is the type's width.
    fn integers(self, a: i128, b: i128, bits: u32) -> TractResult<i128> {
        Ok(match self {
            Self::Max => a.max(b),
            Self::Min => a.min(b),
            Self::Mod | Self::Fmod if b == 0 => bail!("a remainder of a division by zero"),
            Self::Fmod => a % b,
            Self::Mod => match a % b {
                rest if rest != 0 && (rest < 0) != (b < 0) => rest + b,
                rest => rest,
            },
            // A distance beyond the width leaves nothing of the value, for a negative one but its sign.
            Self::Left if (0..i128::from(bits)).contains(&b) => a << b,
            Self::Left => 0,
            Self::Right if (0..i128::from(bits)).contains(&b) => a >> b,
            Self::Right => {
                if a < 0 {
                    -1
                } else {
                    0
                }
            }
            Self::Pow => match u32::try_from(b) {
                Ok(exponent) => a.wrapping_pow(exponent),
                Err(_) => bail!("an integer's power to {b}"),
            },
            Self::Div if b == 0 => bail!("a division by zero"),
            Self::Div => a / b,
            Self::Equal => i128::from(a == b),
        })
    }
}

/// One operator over the inputs from left to right, all of one type.
#[derive(Debug)]
struct Broadcast(Kind);

fn bits(datum_type: DatumType) -> u32 {
    8 * datum_type.size_of() as u32
}

/// Returns values repeated along axes of length one.
fn spread<T: Copy>(values: &[T], shape: &[usize], output: &[usize]) -> Vec<T> {
    let missing = output.len() - shape.len();
    let mut strides = vec![0; output.len()];
    let mut stride = 1;
    for axis in (0..shape.len()).rev() {
        strides[axis + missing] = if shape[axis] == 1 { 0 } else { stride };
        stride *= shape[axis];
    }
    let count: usize = output.iter().product();
    let mut coordinates = vec![0; output.len()];
    let mut spread = Vec::with_capacity(count);
    for _ in 0..count {
        spread.push(values[coordinates.iter().zip(&strides).map(|(at, stride)| at * stride).sum::<usize>()]);
        for axis in (0..output.len()).rev() {
            coordinates[axis] += 1;
            if coordinates[axis] < output[axis] {
                break;
            }
            coordinates[axis] = 0;
        }
    }
    spread
}

impl Broadcast {
    /// The extremes of f32, which graphs hold for speed.
    fn extremes(&self, inputs: &[TValue], shape: &[usize]) -> TractResult<TVec<TValue>> {
        use tract_onnx::prelude::tract_ndarray::Zip;
        let first = inputs[0].to_plain_array_view::<f32>()?;
        let mut output = first.broadcast(shape).context("shapes that do not go together")?.to_owned();
        for input in &inputs[1..] {
            let other = input.to_plain_array_view::<f32>()?;
            let other = other.broadcast(shape).context("shapes that do not go together")?;
            // A comparison with NaN is false: of the two the NaN is kept.
            if self.0 == Kind::Max {
                Zip::from(&mut output)
                    .and(other)
                    .for_each(|a, b| *a = if b <= a || a.is_nan() { *a } else { *b });
            } else {
                Zip::from(&mut output)
                    .and(other)
                    .for_each(|a, b| *a = if b >= a || a.is_nan() { *a } else { *b });
            }
        }
        Ok(tvec!(output.into_tensor().into_tvalue()))
    }
}

impl Kernel for Broadcast {
    fn name(&self) -> &'static str {
        match self.0 {
            Kind::Max => "Max",
            Kind::Min => "Min",
            Kind::Mod | Kind::Fmod => "Mod",
            Kind::Left | Kind::Right => "BitShift",
            Kind::Pow => "Pow",
            Kind::Div => "Div",
            Kind::Equal => "Equal",
        }
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let Some(first) = inputs.first() else { bail!("it has no input") };
        let datum_type = first.datum_type;
        for input in inputs {
            ensure!(input.datum_type == datum_type, "inputs of {:?} and {datum_type:?}", input.datum_type);
        }
        if datum_type.is_float() {
            self.0.floats(1.0, 1.0)?;
        } else {
            ensure!(
                datum_type.is_integer() || (datum_type == DatumType::Bool && self.0 == Kind::Equal),
                "it does not take values of {datum_type:?}"
            );
            self.0.integers(1, 1, bits(datum_type))?;
        }
        let shapes: TVec<_> = inputs.iter().map(|input| input.shape.to_tvec()).collect();
        let output = if self.0 == Kind::Equal { DatumType::Bool } else { datum_type };
        Ok(tvec!(fact(output, &multi_broadcast(&shapes)?)))
    }

    fn prepared(&self, inputs: &[&TypedFact]) -> TractResult<Option<Prepared>> {
        let operator = match self.0 {
            Kind::Max => small::Operator::Max,
            Kind::Min => small::Operator::Min,
            _ => return Ok(None),
        };
        let outputs = self.output_facts(inputs)?;
        let kernel =
            small::pair(operator, inputs, &outputs[0]).filter(|_| inputs[0].datum_type == DatumType::F32);
        Ok(kernel.map(|kernel| Prepared { kernel, inputs: vec![0, 1] }))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shapes: TVec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let shape = multi_broadcast(&shapes)?;
        let datum_type = inputs[0].datum_type();
        if datum_type == DatumType::F32 && matches!(self.0, Kind::Max | Kind::Min) {
            return self.extremes(&inputs, &shape);
        }
        let output = if datum_type.is_float() {
            let mut values = spread(&floats(&inputs[0])?, inputs[0].shape(), &shape);
            for input in &inputs[1..] {
                for (value, other) in values.iter_mut().zip(spread(&floats(input)?, input.shape(), &shape)) {
                    *value = self.0.floats(*value, other)?;
                }
            }
            of_floats(datum_type, &shape, &values)?
        } else {
            let mut values = spread(&integers(&inputs[0])?, inputs[0].shape(), &shape);
            for input in &inputs[1..] {
                for (value, other) in values.iter_mut().zip(spread(&integers(input)?, input.shape(), &shape))
                {
                    *value = self.0.integers(*value, other, bits(datum_type))?;
                }
            }
            let output = if self.0 == Kind::Equal { DatumType::Bool } else { datum_type };
            of_integers(output, &shape, &values)?
        };
        Ok(tvec!(output.into_tvalue()))
    }
}

#[derive(Debug, Clone)]
struct Wired(Kind);

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let (kind, known): (Kind, &[&str]) = match node.op_type.as_str() {
        "Max" => (Kind::Max, &[]),
        "Min" => (Kind::Min, &[]),
        "Mod" if node.get_attr_opt::<i64>("fmod")?.unwrap_or(0) != 0 => (Kind::Fmod, &["fmod"]),
        "Mod" => (Kind::Mod, &["fmod"]),
        "BitShift" => match node.get_attr::<&str>("direction")? {
            "LEFT" => (Kind::Left, &["direction"]),
            "RIGHT" => (Kind::Right, &["direction"]),
            other => bail!("`direction` is `{other}`"),
        },
        other => bail!("`{other}` is not known here"),
    };
    require_only(node, known)?;
    Ok((expand(Wired(kind)), Vec::new()))
}

impl Expansion for Wired {
    fn name(&self) -> StaticName {
        format!("{:?}", self.0).into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.given_all(inputs.iter().map(|input| &input.shape), move |solver, shapes| {
            solver.equals(&outputs[0].shape, multi_broadcast(&shapes)?)
        })?;
        solver.given_all(inputs.iter().map(|input| &input.datum_type), move |solver, types| {
            solver.equals(&outputs[0].datum_type, common(&types)?)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let mut plain = Vec::new();
        for input in inputs {
            plain.push(without_sizes(prefix, model, *input)?);
        }
        wired(prefix, model, Broadcast(self.0), &plain)
    }
}

/// Sizes of tensors count as i64, which they are in ONNX.
fn common(types: &[DatumType]) -> TractResult<DatumType> {
    let plain = |datum_type: &DatumType| {
        if *datum_type == TDim::datum_type() { i64::datum_type() } else { *datum_type }
    };
    let Some(first) = types.first().map(plain) else { bail!("it has no input") };
    for datum_type in types {
        ensure!(plain(datum_type) == first, "inputs of {datum_type:?} and {first:?}");
    }
    Ok(first)
}

/// `Pow`, `Div` and `Equal`: ours for the types that tract does not know, tract's for the others.
#[derive(Debug, Clone)]
struct Mixed {
    kind: Kind,
    tract: Box<dyn Expansion>,
}

pub(super) fn build_pow(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    mixed(context, node, Kind::Pow)
}

pub(super) fn build_div(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    mixed(context, node, Kind::Div)
}

pub(super) fn build_equal(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    mixed(context, node, Kind::Equal)
}

fn mixed(
    context: &ParsingContext<'_>,
    node: &NodeProto,
    kind: Kind,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &[])?;
    let (operator, _) = of_tract(context, node)?;
    let tract = operator.as_op().downcast_ref::<Box<dyn Expansion>>().cloned();
    Ok((expand(Mixed { kind, tract: tract.context("tract's operator is of another kind")? }), Vec::new()))
}

impl Expansion for Mixed {
    fn name(&self) -> StaticName {
        self.tract.name()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.tract.rules(solver, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let types = [model.outlet_fact(inputs[0])?.datum_type, model.outlet_fact(inputs[1])?.datum_type];
        let is_whole = |datum_type: &DatumType| datum_type.is_integer() && *datum_type != TDim::datum_type();
        let is_ours = match self.kind {
            Kind::Pow | Kind::Div => types.iter().all(is_whole),
            _ => types.iter().all(|datum_type| *datum_type == DatumType::Bool),
        };
        if !is_ours {
            return self.tract.wire(prefix, model, inputs);
        }
        let wires = wire_rank_broadcast(prefix, model, inputs)?;
        let wires = wire_cast(prefix, model, &wires, types[0])?;
        wired(prefix, model, Broadcast(self.kind), &wires)
    }
}
