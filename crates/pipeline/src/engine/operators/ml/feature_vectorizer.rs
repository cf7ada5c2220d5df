//! `FeatureVectorizer`: several inputs beside each other in one row of features.
//!
//! *Source*: ai.onnx.ml 1, FeatureVectorizer; as in ONNX Runtime an input that is wider than its dimension is cut, and
//! one that is narrower is filled with zeros.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::super::limits::AXIS_MAX;
use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::rows::{NUMBERS, floats, require_type, rows_and_columns, tensor};

#[derive(Debug)]
struct FeatureVectorizer {
    /// Columns that each input fills.
    widths: Vec<usize>,
    /// Their sum.
    total: usize,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["inputdimensions"])?;
    let widths: Vec<i64> = node.get_attr_opt_vec("inputdimensions")?.unwrap_or_default();
    ensure!(
        widths.len() == node.input.len(),
        "`inputdimensions` is for {} inputs and there are {}",
        widths.len(),
        node.input.len()
    );
    let total = widths.iter().try_fold(0_i64, |sum, width| sum.checked_add(*width));
    ensure!(
        widths.iter().all(|width| *width >= 1) && total.is_some_and(|total| total <= AXIS_MAX),
        "`inputdimensions` are not 1 to {AXIS_MAX} columns together"
    );
    let widths: Vec<usize> = widths.iter().filter_map(|width| usize::try_from(*width).ok()).collect();
    let total = widths.iter().sum();
    built(FeatureVectorizer { widths, total })
}

impl Kernel for FeatureVectorizer {
    fn name(&self) -> &'static str {
        "FeatureVectorizer"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(
            inputs.len() == self.widths.len(),
            "it takes {} inputs, not {}",
            self.widths.len(),
            inputs.len()
        );
        let (rows, _) = rows_and_columns(inputs[0])?;
        for input in inputs {
            require_type(input, NUMBERS)?;
            let (others, _) = rows_and_columns(input)?;
            ensure!(others == rows, "one input has {rows} rows and another {others}");
        }
        Ok(tvec!(fact(f32::datum_type(), &[rows, self.total.to_dim()])))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let rows = if inputs[0].rank() == 1 { 1 } else { inputs[0].shape()[0] };
        let mut output = vec![0.0; rows * self.total];
        let mut start = 0;
        for (input, width) in inputs.iter().zip(&self.widths) {
            let values = floats(input)?;
            let columns = input.shape().last().copied().unwrap_or(1).max(1);
            let taken = columns.min(*width);
            for (row, into) in values.chunks_exact(columns).zip(output.chunks_exact_mut(self.total)) {
                into[start..start + taken].copy_from_slice(&row[..taken]);
            }
            start += width;
        }
        Ok(tvec!(tensor(&[rows, self.total], output)?.into_tvalue()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{ints, node, run_node};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn inputs_stand_beside_each_other(widths in proptest::collection::vec((1..4_usize, 1..4_i64), 1..4), rows in 1..4_usize) {
            let dimensions: Vec<i64> = widths.iter().map(|(_, dimension)| *dimension).collect();
            let inputs: Vec<Tensor> = widths
                .iter()
                .enumerate()
                .map(|(input, (width, _))| {
                    let values = (0..rows * width).map(|n| (input * 100 + n) as i64).collect();
                    tensor(&[rows, *width], values).unwrap()
                })
                .collect();
            let vectorizer = node("FeatureVectorizer", inputs.len(), 1, vec![ints("inputdimensions", &dimensions)]);
            let outputs = run_node(vectorizer, &inputs).unwrap();
            let mut want: Vec<f32> = Vec::new();
            for row in 0..rows {
                for (input, (width, dimension)) in widths.iter().enumerate() {
                    for column in 0..*dimension as usize {
                        want.push(if column < *width { (input * 100 + row * width + column) as f32 } else { 0.0 });
                    }
                }
            }
            prop_assert_eq!(outputs, [tensor(&[rows, dimensions.iter().sum::<i64>() as usize], want).unwrap()]);
        }

        #[test]
        fn any_dimensions_are_taken_or_refused(dimensions: [i64; 2]) {
            let inputs = [tensor1(&[1.0_f32]), tensor1(&[2.0_f32])];
            prop_assume!(dimensions.iter().any(|d| !(1..1_000).contains(d)));
            let vectorizer = node("FeatureVectorizer", 2, 1, vec![ints("inputdimensions", &dimensions)]);
            prop_assert!(run_node(vectorizer, &inputs).is_err());
        }
    }
}
