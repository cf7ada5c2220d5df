//! `LogSoftmax` and `Hardmax`, which look at all values along an axis.
//!
//! The logarithm is taken of the sum after the largest value is subtracted, so that small probabilities do not become
//! minus infinity.
//!
//! *Source*: ai.onnx 13; up to 12 all axes from `axis` on count as one.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::values::{around, axis_of, floats, of_floats};

#[derive(Debug)]
struct AxisWise {
    is_hard: bool,
    axis: i64,
    /// All axes from `axis` on are one.
    joins_axes: bool,
}

pub(super) fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["axis"])?;
    let joins_axes = context.onnx_operator_set_version < 13;
    let axis = node.get_attr_opt("axis")?.unwrap_or(if joins_axes { 1 } else { -1 });
    built(AxisWise { is_hard: node.op_type == "Hardmax", axis, joins_axes })
}

impl AxisWise {
    fn lengths(&self, shape: &[usize]) -> TractResult<(usize, usize, usize)> {
        if self.joins_axes && self.axis == shape.len() as i64 {
            return Ok((shape.iter().product(), 1, 1));
        }
        let axis = axis_of(self.axis, shape.len())?;
        let (outer, length, inner) = around(shape, axis);
        Ok(if self.joins_axes { (outer, length * inner, 1) } else { (outer, length, inner) })
    }
}

impl Kernel for AxisWise {
    fn name(&self) -> &'static str {
        if self.is_hard { "Hardmax" } else { "LogSoftmax" }
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        ensure!(input.datum_type.is_float(), "it takes floats, not {:?}", input.datum_type);
        if let Some(shape) = input.shape.as_concrete() {
            self.lengths(shape)?;
        }
        Ok(tvec!(fact(input.datum_type, &input.shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = &inputs[0];
        let (outer, length, inner) = self.lengths(input.shape())?;
        let mut values = floats(input)?;
        let mut along = vec![0.0; length];
        for (front, back) in (0..outer).flat_map(|front| (0..inner).map(move |back| (front, back))) {
            let at = |position: usize| (front * length + position) * inner + back;
            along.iter_mut().enumerate().for_each(|(position, value)| *value = values[at(position)]);
            if self.is_hard {
                let best =
                    (1..length).fold(0, |best, next| if along[next] > along[best] { next } else { best });
                (0..length).for_each(|position| values[at(position)] = f64::from(u8::from(position == best)));
                continue;
            }
            let top = along.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = along.iter().map(|value| (value - top).exp()).sum();
            (0..length).for_each(|position| values[at(position)] = along[position] - top - sum.ln());
        }
        Ok(tvec!(of_floats(input.datum_type(), input.shape(), &values)?.into_tvalue()))
    }
}
