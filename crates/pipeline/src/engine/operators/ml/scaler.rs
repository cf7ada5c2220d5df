//! `Scaler`: `(x - offset) * scale`, by column or for all columns alike; standardising and min-max scaling.
//!
//! *Source*: ai.onnx.ml 1, Scaler.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};

#[derive(Debug)]
struct Scaler {
    /// A value a column, or one for all.
    offset: Vec<f32>,
    /// A value a column, or one for all.
    scale: Vec<f32>,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["offset", "scale"])?;
    let read = |name: &str, absent: f32| -> TractResult<Vec<f32>> {
        let values: Vec<f32> = node.get_attr_opt_vec(name)?.unwrap_or_default();
        Ok(if values.is_empty() { vec![absent] } else { values })
    };
    built(Scaler { offset: read("offset", 0.0)?, scale: read("scale", 1.0)? })
}

impl Kernel for Scaler {
    fn name(&self) -> &'static str {
        "Scaler"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        let columns = input.shape.last().cloned().unwrap_or_else(|| 1.into());
        for (name, values) in [("offset", &self.offset), ("scale", &self.scale)] {
            ensure!(
                values.len() == 1 || columns == values.len().to_dim(),
                "`{name}` has {} values and the input {columns} columns",
                values.len()
            );
        }
        Ok(tvec!(fact(f32::datum_type(), &input.shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = inputs[0].cast_to::<f32>()?;
        let mut output = input.into_owned();
        let columns = output.shape().last().copied().unwrap_or(1).max(1);
        let of = |values: &[f32], column: usize| if values.len() == 1 { values[0] } else { values[column] };
        for row in output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?.chunks_exact_mut(columns) {
            for (column, value) in row.iter_mut().enumerate() {
                *value = (*value - of(&self.offset, column)) * of(&self.scale, column);
            }
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{floats, node, run_node};
    use super::*;

    #[test]
    fn columns_are_scaled_each_with_its_own_numbers() {
        let scaler = node("Scaler", 1, 1, vec![floats("offset", &[1.0, 2.0]), floats("scale", &[10.0, 0.5])]);
        let outputs = run_node(scaler, &[tensor2(&[[1.0_f32, 4.0], [3.0, 2.0]])]).unwrap();
        assert_eq!(outputs, [tensor2(&[[0.0_f32, 1.0], [20.0, 0.0]])]);
    }

    #[test]
    fn a_scale_of_another_width_is_refused() {
        let scaler = node("Scaler", 1, 1, vec![floats("scale", &[10.0, 0.5, 1.0])]);
        let error = run_node(scaler, &[tensor2(&[[1.0_f32, 4.0]])]).unwrap_err().to_string();
        assert!(error.contains("`scale` has 3 values and the input 2 columns"), "{error}");
    }
}
