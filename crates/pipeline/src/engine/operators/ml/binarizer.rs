//! `Binarizer`: 1 above a threshold, else 0.
//!
//! *Source*: ai.onnx.ml 1, Binarizer, for floats as ONNX Runtime has it: what is no number is an error.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::rows::{only, require_type};

#[derive(Debug)]
struct Binarizer {
    threshold: f32,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["threshold"])?;
    built(Binarizer { threshold: node.get_attr_opt("threshold")?.unwrap_or(0.0) })
}

impl Kernel for Binarizer {
    fn name(&self) -> &'static str {
        "Binarizer"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = only(inputs)?;
        require_type(input, &[f32::datum_type()])?;
        Ok(tvec!(fact(f32::datum_type(), &input.shape)))
    }

    fn run(&self, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut output = inputs.remove(0).into_tensor();
        for value in output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()? {
            ensure!(!value.is_nan(), "Binarizer was given a value that is no number");
            *value = f32::from(u8::from(*value > self.threshold));
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{float, node, run_node};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn only_what_is_above_the_threshold_is_one(values: [f32; 6], threshold in prop_oneof![Just(None), any::<f32>().prop_map(Some)]) {
            let attributes = threshold.map(|threshold| float("threshold", threshold)).into_iter().collect();
            let outputs = run_node(node("Binarizer", 1, 1, attributes), &[tensor1(&values)]);
            if values.iter().any(|value| value.is_nan()) {
                prop_assert!(outputs.is_err());
            } else {
                let want = values.map(|value| if value > threshold.unwrap_or(0.0) { 1.0_f32 } else { 0.0 });
                prop_assert_eq!(outputs.unwrap(), [tensor1(&want)]);
            }
        }
    }
}
