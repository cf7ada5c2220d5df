//! `TopK`: the largest or smallest values along an axis, with their positions.
//!
//! Among equal values the first comes first. NaN counts as larger than every number, as in ONNX Runtime: neighbours with
//! an unknown distance are the last to be taken.
//!
//! *Source*: ai.onnx 1 (`k` as an attribute), 10 and 11.

use std::cmp::Ordering;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, fact, wired};
use super::values::{around, axis_of, floats, integers, of_floats, of_integers, without_sizes};

#[derive(Debug, Clone)]
struct TopK {
    axis: i64,
    largest: bool,
    /// `None` where it is the second input.
    count: Option<i64>,
    outputs: usize,
}

pub(super) fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let version = context.onnx_operator_set_version;
    ensure!(
        node.output.len() == 2 && node.output.iter().all(|name| !name.is_empty()),
        "one of its two outputs is left out"
    );
    require_only(
        node,
        match version {
            ..10 => &["axis", "k"],
            10 => &["axis"],
            _ => &["axis", "largest", "sorted"],
        },
    )?;
    Ok((
        expand(TopK {
            axis: node.get_attr_opt("axis")?.unwrap_or(-1),
            largest: node.get_attr_opt::<i64>("largest")?.unwrap_or(1) != 0,
            count: if version < 10 { Some(node.get_attr("k")?) } else { None },
            outputs: 2,
        }),
        Vec::new(),
    ))
}

impl Expansion for TopK {
    fn name(&self) -> StaticName {
        "TopK".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&outputs[1].datum_type, i64::datum_type())?;
        let shaped = move |solver: &mut Solver<'r>, shape: TVec<TDim>, count: i64| {
            let mut shape = shape;
            let axis = axis_of(self.axis, shape.len())?;
            shape[axis] = count.to_dim();
            solver.equals(&outputs[0].shape, shape.clone())?;
            solver.equals(&outputs[1].shape, shape)
        };
        if let Some(count) = self.count {
            return solver.given(&inputs[0].shape, move |solver, shape| shaped(solver, shape, count));
        }
        solver.given_2(&inputs[0].shape, &inputs[1].value, move |solver, shape, count| {
            let count = count.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.first().copied();
            shaped(solver, shape, count.context("`k` is empty")?)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let count = match self.count {
            Some(count) => count,
            None => {
                let constant = model.outlet_fact(inputs[1])?.konst.clone();
                let constant = constant.context("`k` is no constant")?.cast_to::<i64>()?.into_owned();
                let first = constant.try_as_plain_ram()?.as_slice::<i64>()?.first().copied();
                first.context("`k` is empty")?
            }
        };
        let input = without_sizes(prefix, model, inputs[0])?;
        let count = usize::try_from(count).context("`k` is negative")?;
        let axis = axis_of(self.axis, model.outlet_fact(input)?.rank())?;
        wired(prefix, model, Top { axis, largest: self.largest, count }, &[input])
    }
}

#[derive(Debug)]
struct Top {
    axis: usize,
    largest: bool,
    count: usize,
}

impl Top {
    /// Returns the positions in the flat input, in the order of the output.
    fn chosen<T: Copy>(&self, values: &[T], shape: &[usize], order: impl Fn(T, T) -> Ordering) -> Vec<usize> {
        let (outer, length, inner) = around(shape, self.axis);
        let mut chosen = vec![0; outer * self.count * inner];
        let mut positions: Vec<usize> = Vec::with_capacity(length);
        for (front, back) in (0..outer).flat_map(|front| (0..inner).map(move |back| (front, back))) {
            let at = |position: usize| (front * length + position) * inner + back;
            let compare = |a: &usize, b: &usize| {
                let by_value = order(values[at(*a)], values[at(*b)]);
                (if self.largest { by_value.reverse() } else { by_value }).then(a.cmp(b))
            };
            positions.clear();
            if self.count <= FEW_MAX {
                first_few(&mut positions, length, self.count, compare);
            } else {
                positions.extend(0..length);
                if self.count < length {
                    positions.select_nth_unstable_by(self.count - 1, compare);
                }
                positions.truncate(self.count);
                positions.sort_unstable_by(compare);
            }
            for (rank, position) in positions.iter().enumerate() {
                chosen[(front * self.count + rank) * inner + back] = at(*position);
            }
        }
        chosen
    }
}

/// So few are kept in order while the values go by: nearly all of many values are then looked at once, and rejected.
const FEW_MAX: usize = 16;

/// Puts the first `count` positions by an order into a list that is empty.
fn first_few(
    best: &mut Vec<usize>,
    length: usize,
    count: usize,
    compare: impl Fn(&usize, &usize) -> Ordering,
) {
    for position in 0..length {
        if best.len() == count {
            let is_behind = best.last().is_none_or(|last| compare(&position, last).is_ge());
            if is_behind {
                continue;
            }
            best.pop();
        }
        let place = best.partition_point(|other| compare(other, &position).is_lt());
        best.insert(place, position);
    }
}

/// NaN is the largest, and equal to itself.
fn order_of_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

impl Kernel for Top {
    fn name(&self) -> &'static str {
        "TopK"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let length = &inputs[0].shape[self.axis];
        if let Ok(length) = length.to_i64() {
            ensure!(
                self.count as i64 <= length,
                "`k` is {} and axis {} has {length} values",
                self.count,
                self.axis
            );
        }
        let mut shape = inputs[0].shape.to_tvec();
        shape[self.axis] = self.count.to_dim();
        Ok(tvec!(fact(inputs[0].datum_type, &shape), fact(i64::datum_type(), &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = &inputs[0];
        let (_, length, inner) = around(input.shape(), self.axis);
        ensure!(self.count <= length, "`k` is {} and axis {} has {length} values", self.count, self.axis);
        let mut shape: TVec<usize> = input.shape().into();
        shape[self.axis] = self.count;
        let (chosen, values) = if input.datum_type().is_float() {
            let values = floats(input)?;
            let chosen = self.chosen(&values, input.shape(), order_of_floats);
            let values: Vec<f64> = chosen.iter().map(|&at| values[at]).collect();
            (chosen, of_floats(input.datum_type(), &shape, &values)?)
        } else {
            let values = integers(input)?;
            let chosen = self.chosen(&values, input.shape(), |a, b| a.cmp(&b));
            let values: Vec<i128> = chosen.iter().map(|&at| values[at]).collect();
            (chosen, of_integers(input.datum_type(), &shape, &values)?)
        };
        let positions: Vec<i64> = chosen.iter().map(|at| (at / inner % length) as i64).collect();
        Ok(tvec!(values.into_tvalue(), Tensor::from_shape(&shape, &positions)?.into_tvalue()))
    }
}
