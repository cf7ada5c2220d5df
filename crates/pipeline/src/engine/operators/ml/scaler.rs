//! `Scaler`: `(x - offset) * scale`, by column or for all columns alike; standardising and min-max scaling.
//!
//! *Source*: ai.onnx.ml 1, Scaler.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::rows::{NUMBERS, floats, only, require_type, rows_and_columns};

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
        let input = only(inputs)?;
        require_type(input, NUMBERS)?;
        let (_, columns) = rows_and_columns(input)?;
        for (name, values) in [("offset", &self.offset), ("scale", &self.scale)] {
            ensure!(
                values.len() == 1 || columns == values.len().to_dim(),
                "`{name}` has {} values and the input {columns} columns",
                values.len()
            );
        }
        Ok(tvec!(fact(f32::datum_type(), &input.shape)))
    }

    fn writes_outputs(&self) -> bool {
        true
    }

    fn run_into(&self, inputs: &[&Tensor], outputs: &mut [&mut Tensor]) -> TractResult<()> {
        let ([input], [output]) = (inputs, outputs) else { bail!("it takes one input and makes one output") };
        let columns = input.shape().last().copied().unwrap_or(1).max(1);
        let mut output = output.try_as_plain_ram_mut()?;
        let output = output.as_slice_mut::<f32>()?.chunks_exact_mut(columns);
        if input.datum_type() == DatumType::F64 {
            // Scaled as it came: the difference of two large doubles is lost in single precision.
            let values = input.try_as_plain_ram()?.as_slice::<f64>()?.chunks_exact(columns);
            self.scale(values, output, |x, offset, scale| {
                ((x - f64::from(offset)) * f64::from(scale)) as f32
            });
        } else {
            let values = floats(input)?;
            self.scale(values.chunks_exact(columns), output, |x, offset, scale| (x - offset) * scale);
        }
        Ok(())
    }
}

impl Scaler {
    fn scale<'r, T: Copy + 'r>(
        &self,
        rows: impl Iterator<Item = &'r [T]>,
        output: impl Iterator<Item = &'r mut [f32]>,
        scaled: impl Fn(T, f32, f32) -> f32,
    ) {
        for (row, output) in rows.zip(output) {
            for (column, (x, output)) in row.iter().zip(output).enumerate() {
                *output = scaled(*x, of(&self.offset, column), of(&self.scale, column));
            }
        }
    }
}

fn of(values: &[f32], column: usize) -> f32 {
    if values.len() == 1 { values[0] } else { values[column] }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{floats, node, run_node};
    use super::super::rows::tensor;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn columns_are_scaled_each_with_its_own_numbers(
            values in proptest::collection::vec(-1e4..1e4_f64, 6), offset: [i8; 3], scale: [i8; 3], kind in 0..4_usize,
        ) {
            let (offset, scale) = (offset.map(f32::from), scale.map(|x| f32::from(x) / 16.0));
            let input = match kind {
                0 => tensor(&[2, 3], values.clone()),
                1 => tensor(&[2, 3], values.iter().map(|x| *x as f32).collect()),
                2 => tensor(&[2, 3], values.iter().map(|x| *x as i64).collect()),
                _ => tensor(&[2, 3], values.iter().map(|x| *x as i32).collect()),
            }
            .unwrap();
            let given = input.cast_to::<f64>().unwrap().into_owned();
            let scaler = node("Scaler", 1, 1, vec![floats("offset", &offset), floats("scale", &scale)]);
            let found = run_node(scaler, &[input]).unwrap().remove(0);
            let found = found.try_as_plain_ram().unwrap();
            let given = given.try_as_plain_ram().unwrap();
            for (at, x) in given.as_slice::<f64>().unwrap().iter().enumerate() {
                let want = (x - f64::from(offset[at % 3])) * f64::from(scale[at % 3]);
                let found = f64::from(found.as_slice::<f32>().unwrap()[at]);
                prop_assert!((want - found).abs() <= 1e-6 * x.abs().max(1.0) * 8.0, "{want} {found}");
            }
        }
    }

    #[test]
    fn doubles_are_scaled_before_they_are_rounded() {
        let scaler = node("Scaler", 1, 1, vec![floats("offset", &[1e9]), floats("scale", &[1.0])]);
        let outputs = run_node(scaler, &[tensor2(&[[1_000_000_001.5_f64]])]).unwrap();
        assert_eq!(outputs, [tensor2(&[[1.5_f32]])]);
    }

    #[test]
    fn a_scale_of_another_width_is_refused() {
        let scaler = node("Scaler", 1, 1, vec![floats("scale", &[10.0, 0.5, 1.0])]);
        let error = run_node(scaler, &[tensor2(&[[1.0_f32, 4.0]])]).unwrap_err().to_string();
        assert!(error.contains("`scale` has 3 values and the input 2 columns"), "{error}");
    }
}
