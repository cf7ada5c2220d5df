//! Sums, means, norms, extremes and logarithms of sums over axes.
//!
//! tract's `ReduceLogSumExp` overflows and underflows, its extremes lose NaN, infinity and truth values, and its sums of
//! integers go through i32. Floats of the other kinds stay with tract, whose kernels are fast and fused.
//!
//! *Source*: ai.onnx 1 to 20; axes are an input of `ReduceSum` from 13 on, of all from 18 on.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::change_axes::AxisOp;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};
use tract_onnx::tract_hir::ops::nn::{Reduce as TractReduce, Reducer};

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, fact, wired};
use super::values::{axis_of, floats, integers, of_floats, of_integers, without_sizes};

#[derive(Debug, Clone)]
struct Reduce {
    reducer: Reducer,
    /// From the attribute.
    axes: Vec<i64>,
    axes_input: bool,
    keeps_axes: bool,
    /// No axes mean none, not all.
    none_is_none: bool,
}

pub(super) fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let since_input = if node.op_type == "ReduceSum" { 13 } else { 18 };
    let takes_input = context.onnx_operator_set_version >= since_input;
    require_only(
        node,
        if takes_input { &["keepdims", "noop_with_empty_axes"] } else { &["axes", "keepdims"] },
    )?;
    let reducer = match node.op_type.as_str() {
        "ReduceL1" => Reducer::L1,
        "ReduceL2" => Reducer::L2,
        "ReduceLogSum" => Reducer::LogSum,
        "ReduceLogSumExp" => Reducer::LogSumExp,
        "ReduceMax" => Reducer::Max,
        "ReduceMean" => Reducer::Mean,
        "ReduceMin" => Reducer::Min,
        "ReduceProd" => Reducer::Prod,
        "ReduceSum" => Reducer::Sum,
        "ReduceSumSquare" => Reducer::SumSquare,
        other => bail!("`{other}` reduces nothing"),
    };
    let axes_input = takes_input && node.input.get(1).is_some_and(|name| !name.is_empty());
    Ok((
        expand(Reduce {
            reducer,
            axes: node.get_attr_opt_vec("axes")?.unwrap_or_default(),
            axes_input,
            keeps_axes: node.get_attr_opt::<i64>("keepdims")?.unwrap_or(1) != 0,
            none_is_none: node.get_attr_opt::<i64>("noop_with_empty_axes")?.unwrap_or(0) != 0,
        }),
        Vec::new(),
    ))
}

impl Reduce {
    /// Returns the axes from the front, rising.
    fn resolved(&self, axes: &[i64], rank: usize) -> TractResult<Vec<usize>> {
        if axes.is_empty() {
            return Ok(if self.none_is_none { Vec::new() } else { (0..rank).collect() });
        }
        let mut resolved = axes.iter().map(|axis| axis_of(*axis, rank)).collect::<TractResult<Vec<_>>>()?;
        resolved.sort_unstable();
        resolved.dedup();
        Ok(resolved)
    }

    fn shape(&self, axes: &[i64], shape: &[TDim]) -> TractResult<TVec<TDim>> {
        let axes = self.resolved(axes, shape.len())?;
        let kept = |(axis, length): (usize, &TDim)| match (axes.contains(&axis), self.keeps_axes) {
            (false, _) => Some(length.clone()),
            (true, true) => Some(1.to_dim()),
            (true, false) => None,
        };
        Ok(shape.iter().enumerate().filter_map(kept).collect())
    }
}

fn plain(axes: &Tensor) -> TractResult<Vec<i64>> {
    Ok(axes.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
}

impl Expansion for Reduce {
    fn name(&self) -> StaticName {
        format!("Reduce{:?}", self.reducer).into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.given(&inputs[0].datum_type, move |solver, datum_type| {
            let is_size = datum_type == TDim::datum_type();
            solver.equals(&outputs[0].datum_type, if is_size { i64::datum_type() } else { datum_type })
        })?;
        if self.axes_input {
            return solver.given_2(&inputs[0].shape, &inputs[1].value, move |solver, shape, axes| {
                solver.equals(&outputs[0].shape, self.shape(&plain(&axes)?, &shape)?)
            });
        }
        solver.given(&inputs[0].shape, move |solver, shape| {
            solver.equals(&outputs[0].shape, self.shape(&self.axes, &shape)?)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let axes = if self.axes_input {
            plain(model.outlet_fact(inputs[1])?.konst.as_ref().context("the axes are no constant")?)?
        } else {
            self.axes.clone()
        };
        let input = without_sizes(prefix, model, inputs[0])?;
        let fact = model.outlet_fact(input)?.clone();
        let axes = self.resolved(&axes, fact.rank())?;
        let is_ours = matches!(self.reducer, Reducer::LogSumExp | Reducer::Max | Reducer::Min);
        if fact.datum_type.is_float() && !is_ours {
            let axes = axes.iter().map(|axis| *axis as i64).collect();
            return TractReduce::new(Some(axes), self.keeps_axes, self.reducer).wire(prefix, model, &[input]);
        }
        let kernel = Folded { reducer: self.reducer, axes: axes.clone() };
        let mut wire = wired(prefix, model, kernel, &[input])?;
        if !self.keeps_axes {
            for axis in axes.into_iter().rev() {
                wire = model.wire_node(format!("{prefix}.without.{axis}"), AxisOp::Rm(axis), &wire)?;
            }
        }
        Ok(wire)
    }
}

/// The axes stay, with length one.
#[derive(Debug)]
struct Folded {
    reducer: Reducer,
    axes: Vec<usize>,
}

impl Folded {
    fn floats(&self, values: &[f64]) -> TractResult<f64> {
        let nan = values.iter().copied().find(|value| value.is_nan());
        let largest = || nan.unwrap_or_else(|| values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        Ok(match self.reducer {
            Reducer::Max => largest(),
            Reducer::Min => nan.unwrap_or_else(|| values.iter().copied().fold(f64::INFINITY, f64::min)),
            Reducer::LogSumExp => {
                let top = largest();
                if !top.is_finite() {
                    return Ok(top);
                }
                top + values.iter().map(|value| (value - top).exp()).sum::<f64>().ln()
            }
            other => bail!("{other:?} of floats"),
        })
    }

    fn integers(&self, values: &[i128], datum_type: DatumType) -> TractResult<i128> {
        let square = |value: &i128| value.wrapping_mul(*value);
        let sum = |values: &mut dyn Iterator<Item = i128>| values.fold(0, i128::wrapping_add);
        Ok(match self.reducer {
            Reducer::Sum => sum(&mut values.iter().copied()),
            Reducer::Mean => {
                let count = values.len() as i128;
                ensure!(count > 0, "the mean of no integers");
                sum(&mut values.iter().copied()) / count
            }
            Reducer::Prod => values.iter().copied().fold(1, i128::wrapping_mul),
            Reducer::L1 => sum(&mut values.iter().map(|value| value.abs())),
            Reducer::SumSquare => sum(&mut values.iter().map(square)),
            Reducer::L2 => (sum(&mut values.iter().map(square)) as f64).sqrt() as i128,
            Reducer::Max => match values.iter().copied().max() {
                Some(largest) => largest,
                None => bounds(datum_type)?.0,
            },
            Reducer::Min => match values.iter().copied().min() {
                Some(smallest) => smallest,
                None => bounds(datum_type)?.1,
            },
            other => bail!("{other:?} of integers; cast them to floats"),
        })
    }

    fn shape(&self, shape: &[usize]) -> TVec<usize> {
        let length = |(axis, length): (usize, &usize)| if self.axes.contains(&axis) { 1 } else { *length };
        shape.iter().enumerate().map(length).collect()
    }

    /// Returns how many values that stand side by side each output is made of, if they do.
    fn span(&self, shape: &[usize]) -> Option<usize> {
        let first = shape.len() - self.axes.len();
        let is_last = self.axes.iter().enumerate().all(|(at, axis)| *axis == first + at);
        let span = shape[first..].iter().product();
        (is_last && span > 0).then_some(span)
    }

    /// Returns for each output the values that it is made of, one after the other.
    fn grouped<T: Copy + Default>(&self, values: &[T], shape: &[usize]) -> Vec<Vec<T>> {
        let output = self.shape(shape);
        let count: usize = output.iter().product();
        let mut groups = vec![Vec::new(); count];
        let mut coordinates = vec![0; shape.len()];
        for value in values {
            let at = coordinates
                .iter()
                .zip(&output)
                .fold(0, |at, (coordinate, length)| at * length + if *length == 1 { 0 } else { *coordinate });
            groups[at].push(*value);
            for axis in (0..shape.len()).rev() {
                coordinates[axis] += 1;
                if coordinates[axis] < shape[axis] {
                    break;
                }
                coordinates[axis] = 0;
            }
        }
        groups
    }
}

/// Smallest and largest value of a type: what the extremes of nothing are.
fn bounds(datum_type: DatumType) -> TractResult<(i128, i128)> {
    Ok(match datum_type {
        DatumType::Bool => (0, 1),
        DatumType::U8 => (0, u8::MAX.into()),
        DatumType::U16 => (0, u16::MAX.into()),
        DatumType::U32 => (0, u32::MAX.into()),
        DatumType::U64 => (0, u64::MAX.into()),
        DatumType::I8 => (i8::MIN.into(), i8::MAX.into()),
        DatumType::I16 => (i16::MIN.into(), i16::MAX.into()),
        DatumType::I32 => (i32::MIN.into(), i32::MAX.into()),
        DatumType::I64 => (i64::MIN.into(), i64::MAX.into()),
        other => bail!("it does not take values of {other:?}"),
    })
}

impl Kernel for Folded {
    fn name(&self) -> &'static str {
        match self.reducer {
            Reducer::Max => "ReduceMax",
            Reducer::Min => "ReduceMin",
            Reducer::LogSumExp => "ReduceLogSumExp",
            _ => "ReduceIntegers",
        }
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        if input.datum_type.is_float() {
            self.floats(&[0.0])?;
        } else {
            ensure!(
                input.datum_type != DatumType::Bool || matches!(self.reducer, Reducer::Max | Reducer::Min),
                "it does not take truth values"
            );
            bounds(input.datum_type)?;
            self.integers(&[0], input.datum_type)?;
        }
        let mut shape = input.shape.to_tvec();
        self.axes.iter().for_each(|axis| shape[*axis] = 1.to_dim());
        Ok(tvec!(fact(input.datum_type, &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = &inputs[0];
        let datum_type = input.datum_type();
        let shape = self.shape(input.shape());
        let output = if datum_type.is_float() {
            let values = floats(input)?;
            let values: TractResult<Vec<f64>> = match self.span(input.shape()) {
                Some(span) => values.chunks_exact(span).map(|group| self.floats(group)).collect(),
                None => {
                    let groups = self.grouped(&values, input.shape());
                    groups.iter().map(|group| self.floats(group)).collect()
                }
            };
            let values = values?;
            of_floats(datum_type, &shape, &values)?
        } else {
            let groups = self.grouped(&integers(input)?, input.shape());
            let values = groups
                .iter()
                .map(|group| self.integers(group, datum_type))
                .collect::<TractResult<Vec<_>>>()?;
            of_integers(datum_type, &shape, &values)?
        };
        Ok(tvec!(output.into_tvalue()))
    }
}
