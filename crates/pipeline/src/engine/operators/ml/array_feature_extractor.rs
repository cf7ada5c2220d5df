//! `ArrayFeatureExtractor`: some columns, by their positions.
//!
//! *Source*: ai.onnx.ml 1, ArrayFeatureExtractor; an input of one axis becomes one row, as in ONNX Runtime.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::rows::tensor;

#[derive(Debug)]
struct ArrayFeatureExtractor;

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &[])?;
    built(ArrayFeatureExtractor)
}

fn extract<T: Datum + Clone>(input: &Tensor, positions: &[usize], shape: &[usize]) -> TractResult<Tensor> {
    let columns = input.shape().last().copied().unwrap_or(1).max(1);
    let rows = input.try_as_plain_ram()?.as_slice::<T>()?.chunks_exact(columns);
    tensor(shape, rows.flat_map(|row| positions.iter().map(|&position| row[position].clone())).collect())
}

impl Kernel for ArrayFeatureExtractor {
    fn name(&self) -> &'static str {
        "ArrayFeatureExtractor"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input, positions] = inputs else { bail!("it takes two inputs, not {}", inputs.len()) };
        ensure!(
            positions.datum_type == i64::datum_type(),
            "positions are of type {:?}",
            positions.datum_type
        );
        let count: TDim = positions.shape.iter().product();
        let mut shape: TVec<TDim> = input.shape.to_tvec();
        match shape.len() {
            0 => bail!("it takes at least one axis"),
            1 => shape = tvec!(1.to_dim(), count),
            axes => shape[axes - 1] = count,
        }
        Ok(tvec!(fact(input.datum_type, &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = &inputs[0];
        let columns = input.shape().last().copied().unwrap_or(1);
        let given = inputs[1].try_as_plain_ram()?;
        let given = given.as_slice::<i64>()?;
        ensure!(!given.is_empty(), "ArrayFeatureExtractor was given no position");
        let within = |position: &i64| usize::try_from(*position).ok().filter(|position| *position < columns);
        let positions = given.iter().map(|position| {
            within(position).ok_or_else(|| format_err!("position {position} is not one of {columns} columns"))
        });
        let positions = positions.collect::<TractResult<Vec<usize>>>()?;
        let mut shape = input.shape().to_vec();
        match shape.len() {
            1 => shape = vec![1, positions.len()],
            axes => shape[axes - 1] = positions.len(),
        }
        let output = match input.datum_type() {
            DatumType::F32 => extract::<f32>(input, &positions, &shape),
            DatumType::F64 => extract::<f64>(input, &positions, &shape),
            DatumType::I32 => extract::<i32>(input, &positions, &shape),
            DatumType::I64 => extract::<i64>(input, &positions, &shape),
            DatumType::String => extract::<String>(input, &positions, &shape),
            other => bail!("it does not take elements of type {other:?}"),
        };
        Ok(tvec!(output?.into_tvalue()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{node, run_node};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn columns_stand_where_they_are_asked_for(positions in proptest::collection::vec(-1..6_i64, 0..5), rows in 1..4_usize) {
            let value = |row: usize, column: i64| row as f32 * 10.0 + column as f32;
            let values = (0..rows).flat_map(|row| (0..5).map(move |column| value(row, column))).collect();
            let input = tensor(&[rows, 5], values).unwrap();
            let outputs = run_node(node("ArrayFeatureExtractor", 2, 1, vec![]), &[input, tensor1(&positions)]);
            if positions.is_empty() || positions.iter().any(|position| !(0..5).contains(position)) {
                prop_assert!(outputs.is_err());
            } else {
                let want = (0..rows).flat_map(|row| positions.iter().map(move |&column| value(row, column))).collect();
                prop_assert_eq!(outputs.unwrap(), [tensor(&[rows, positions.len()], want).unwrap()]);
            }
        }
    }

    #[test]
    fn one_axis_becomes_one_row_of_texts_too() {
        let classes = tensor1(&["a".to_owned(), "b".to_owned()]);
        let chosen = tensor(&[3, 1], vec![1_i64, 0, 1]).unwrap();
        let outputs = run_node(node("ArrayFeatureExtractor", 2, 1, vec![]), &[classes, chosen]).unwrap();
        assert_eq!(outputs, [tensor(&[1, 3], ["b", "a", "b"].map(str::to_owned).to_vec()).unwrap()]);
    }
}
