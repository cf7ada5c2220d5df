//! `Normalizer`: each row divided by its largest value, its sum of magnitudes or its length.
//!
//! *Source*: ai.onnx.ml 1, Normalizer; as in ONNX Runtime, MAX is the largest value and not the largest magnitude, a row
//! whose norm is zero stays as it is, and sums are of single precision.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::rows::{NUMBERS, only, require_type, rows_and_columns};

#[derive(Debug, Clone, Copy)]
enum Normalizer {
    Max,
    L1,
    L2,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["norm"])?;
    built(match node.get_attr_opt::<&str>("norm")?.unwrap_or("MAX") {
        "MAX" => Normalizer::Max,
        "L1" => Normalizer::L1,
        "L2" => Normalizer::L2,
        other => bail!("`norm` is `{}`, which is none", other.chars().take(64).collect::<String>()),
    })
}

/// What a norm needs of a number of any element type.
trait Number: Datum + Copy {
    fn single(self) -> f32;
    /// The magnitude, taken in its own type.
    fn magnitude(self) -> f32;
    /// The square, taken in its own type.
    fn square(self) -> f32;
}

macro_rules! number {
    ($type:ty, $magnitude:expr, $square:expr) => {
        impl Number for $type {
            fn single(self) -> f32 {
                self as f32
            }

            fn magnitude(self) -> f32 {
                ($magnitude)(self) as f32
            }

            fn square(self) -> f32 {
                ($square)(self) as f32
            }
        }
    };
}

number!(f32, f32::abs, |x: f32| x * x);
number!(f64, f64::abs, |x: f64| x * x);
number!(i32, i32::wrapping_abs, |x: i32| x.wrapping_mul(x));
number!(i64, i64::wrapping_abs, |x: i64| x.wrapping_mul(x));

impl Normalizer {
    fn write_rows<T: Number>(self, input: &Tensor, output: &mut Tensor) -> TractResult<()> {
        let values = input.try_as_plain_ram()?.as_slice::<T>()?;
        let columns = input.shape().last().copied().unwrap_or(1).max(1);
        let mut output = output.try_as_plain_ram_mut()?;
        let output = output.as_slice_mut::<f32>()?;
        for (row, output) in values.chunks_exact(columns).zip(output.chunks_exact_mut(columns)) {
            let norm = match self {
                Self::Max => row
                    .iter()
                    .fold(f32::MIN, |largest, x| if largest < x.single() { x.single() } else { largest }),
                Self::L1 => row.iter().map(|x| x.magnitude()).sum(),
                Self::L2 => row.iter().map(|x| x.square()).sum::<f32>(),
            };
            let pairs = output.iter_mut().zip(row);
            match self {
                _ if norm == 0.0 => pairs.for_each(|(output, x)| *output = x.single()),
                Self::Max | Self::L1 => pairs.for_each(|(output, x)| *output = x.single() / norm),
                Self::L2 => pairs.for_each(|(output, x)| {
                    let part = (x.square() / norm).sqrt();
                    *output = if x.single() < 0.0 { -part } else { part };
                }),
            }
        }
        Ok(())
    }
}

impl Kernel for Normalizer {
    fn name(&self) -> &'static str {
        "Normalizer"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = only(inputs)?;
        require_type(input, NUMBERS)?;
        rows_and_columns(input)?;
        Ok(tvec!(fact(f32::datum_type(), &input.shape)))
    }

    fn writes_outputs(&self) -> bool {
        true
    }

    fn run_into(&self, inputs: &[&Tensor], outputs: &mut [&mut Tensor]) -> TractResult<()> {
        let ([input], [output]) = (inputs, outputs) else { bail!("it takes one input and makes one output") };
        match input.datum_type() {
            DatumType::F64 => self.write_rows::<f64>(input, output),
            DatumType::I32 => self.write_rows::<i32>(input, output),
            DatumType::I64 => self.write_rows::<i64>(input, output),
            _ => self.write_rows::<f32>(input, output),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{node, run_node, text};
    use super::super::rows::tensor;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn rows_are_divided_by_their_norm(
            values in proptest::collection::vec(prop_oneof![Just(0.0), -50.0..50.0_f64], 12), kind in 0..3_usize, is_double: bool,
        ) {
            let norm = ["MAX", "L1", "L2"][kind];
            let singles: Vec<f32> = values.iter().map(|value| *value as f32).collect();
            let input = if is_double { tensor(&[4, 3], values.clone()) } else { tensor(&[4, 3], singles) };
            let outputs = run_node(node("Normalizer", 1, 1, vec![text("norm", norm)]), &[input.unwrap()]).unwrap();
            let found = outputs[0].try_as_plain_ram().unwrap();
            for (row, found) in values.chunks(3).zip(found.as_slice::<f32>().unwrap().chunks(3)) {
                let size = match kind {
                    0 => row.iter().copied().fold(f64::MIN, f64::max),
                    1 => row.iter().map(|x| x.abs()).sum(),
                    _ => row.iter().map(|x| x * x).sum::<f64>().sqrt(),
                };
                for (x, found) in row.iter().zip(found) {
                    let want = if size == 0.0 { *x } else { x / size };
                    prop_assert!((want - f64::from(*found)).abs() <= 1e-4 * want.abs().max(1.0), "{norm} {row:?}: {found}");
                }
            }
        }
    }

    #[test]
    fn another_norm_or_a_third_axis_is_refused() {
        let input = tensor(&[1, 1, 2], vec![1.0_f32, 2.0]).unwrap();
        let error = run_node(node("Normalizer", 1, 1, vec![]), std::slice::from_ref(&input)).unwrap_err();
        assert!(error.to_string().contains("one or two axes"), "{error}");
        assert!(run_node(node("Normalizer", 1, 1, vec![text("norm", "L3")]), &[input]).is_err());
    }
}
