//! `ArgMax` and `ArgMin`: the position of the largest or smallest value along an axis.
//!
//! The first value is taken and replaced by a better one, as ONNX Runtime does: among equal ones the first (or last)
//! wins also where all are infinite, and NaN in front stays.
//!
//! *Source*: ai.onnx 13, ArgMax and ArgMin.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::values::{around, axis_of, floats, integers};

#[derive(Debug)]
struct Arg {
    largest: bool,
    axis: i64,
    keeps_axis: bool,
    takes_last: bool,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["axis", "keepdims", "select_last_index"])?;
    built(Arg {
        largest: node.op_type == "ArgMax",
        axis: node.get_attr_opt("axis")?.unwrap_or(0),
        keeps_axis: node.get_attr_opt::<i64>("keepdims")?.unwrap_or(1) != 0,
        takes_last: node.get_attr_opt::<i64>("select_last_index")?.unwrap_or(0) != 0,
    })
}

impl Arg {
    fn positions<T: PartialOrd + Copy>(&self, values: &[T], shape: &[usize], axis: usize) -> Vec<i64> {
        let (outer, length, inner) = around(shape, axis);
        let mut found = Vec::with_capacity(outer * inner);
        for (front, back) in (0..outer).flat_map(|front| (0..inner).map(move |back| (front, back))) {
            let at = |position: usize| values[(front * length + position) * inner + back];
            let mut best = 0;
            for position in 1..length {
                let (value, top) = (at(position), at(best));
                let is_better = if self.largest { value > top } else { value < top };
                if is_better || (self.takes_last && value == top) {
                    best = position;
                }
            }
            found.push(best as i64);
        }
        found
    }
}

impl Kernel for Arg {
    fn name(&self) -> &'static str {
        if self.largest { "ArgMax" } else { "ArgMin" }
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        let axis = axis_of(self.axis, input.rank())?;
        ensure!(input.shape[axis] != 0.to_dim(), "axis {axis} has no values");
        let is_number = input.datum_type.is_float() || input.datum_type.is_integer();
        ensure!(is_number, "it does not take values of {:?}", input.datum_type);
        let mut shape = input.shape.to_tvec();
        if self.keeps_axis {
            shape[axis] = 1.to_dim();
        } else {
            shape.remove(axis);
        }
        Ok(tvec!(fact(i64::datum_type(), &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = &inputs[0];
        let axis = axis_of(self.axis, input.rank())?;
        let found = match input.datum_type() {
            DatumType::F32 => {
                self.positions(input.try_as_plain_ram()?.as_slice::<f32>()?, input.shape(), axis)
            }
            datum_type if datum_type.is_float() => self.positions(&floats(input)?, input.shape(), axis),
            DatumType::TDim => {
                self.positions(&integers(input.cast_to::<i64>()?.as_ref())?, input.shape(), axis)
            }
            _ => self.positions(&integers(input)?, input.shape(), axis),
        };
        let mut shape: TVec<usize> = input.shape().into();
        if self.keeps_axis {
            shape[axis] = 1;
        } else {
            shape.remove(axis);
        }
        Ok(tvec!(Tensor::from_shape(&shape, &found)?.into_tvalue()))
    }
}
