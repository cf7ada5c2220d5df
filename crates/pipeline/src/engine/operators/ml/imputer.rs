//! `Imputer`: one value of a column replaced by another; what missing values were filled with in training.
//!
//! *Source*: ai.onnx.ml 1, Imputer, for floats and 64-bit integers, as ONNX Runtime has it. A value to replace that is
//! NaN stands for all that are none.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::rows::{only, require_type, rows_and_columns};

#[derive(Debug)]
enum Imputer {
    Floats { replaced: f32, by: Vec<f32> },
    Integers { replaced: i64, by: Vec<i64> },
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(
        node,
        &["imputed_value_floats", "imputed_value_int64s", "replaced_value_float", "replaced_value_int64"],
    )?;
    let floats: Vec<f32> = node.get_attr_opt_vec("imputed_value_floats")?.unwrap_or_default();
    let integers: Vec<i64> = node.get_attr_opt_vec("imputed_value_int64s")?.unwrap_or_default();
    built(match (floats.is_empty(), integers.is_empty()) {
        (false, true) => Imputer::Floats {
            replaced: node.get_attr_opt("replaced_value_float")?.unwrap_or(0.0),
            by: floats,
        },
        (true, false) => Imputer::Integers {
            replaced: node.get_attr_opt("replaced_value_int64")?.unwrap_or(0),
            by: integers,
        },
        _ => bail!("not one of `imputed_value_floats` and `imputed_value_int64s` has values"),
    })
}

fn impute<T: Datum + Copy>(input: TValue, by: &[T], is_replaced: impl Fn(T) -> bool) -> TractResult<TValue> {
    let mut output = input.into_tensor();
    let columns = output.shape().last().copied().unwrap_or(1).max(1);
    for row in output.try_as_plain_ram_mut()?.as_slice_mut::<T>()?.chunks_exact_mut(columns) {
        for (column, value) in row.iter_mut().enumerate() {
            if is_replaced(*value) {
                *value = if by.len() == 1 { by[0] } else { by[column] };
            }
        }
    }
    Ok(output.into_tvalue())
}

impl Kernel for Imputer {
    fn name(&self) -> &'static str {
        "Imputer"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = only(inputs)?;
        let (datum_type, count) = match self {
            Self::Floats { by, .. } => (f32::datum_type(), by.len()),
            Self::Integers { by, .. } => (i64::datum_type(), by.len()),
        };
        require_type(input, &[datum_type])?;
        let (_, columns) = rows_and_columns(input)?;
        ensure!(
            count == 1 || columns == count.to_dim(),
            "there are {count} values to impute and the input has {columns} columns"
        );
        Ok(tvec!(fact(datum_type, &input.shape)))
    }

    fn run(&self, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = inputs.remove(0);
        Ok(tvec!(match self {
            Self::Floats { replaced, by } if replaced.is_nan() => impute(input, by, f32::is_nan),
            Self::Floats { replaced, by } => impute(input, by, |value| value == *replaced),
            Self::Integers { replaced, by } => impute(input, by, |value| value == *replaced),
        }?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{float, floats, int, ints, node, run_node};
    use super::super::rows::tensor;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![Just(f32::NAN), Just(0.0), Just(-0.0), Just(1.0), Just(f32::INFINITY), -3.0..3.0_f32]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_value_is_replaced_by_that_of_its_column(
            values in proptest::collection::vec(value(), 8), replaced in value(), by in proptest::collection::vec(value(), 2),
        ) {
            let imputer = node("Imputer", 1, 1, vec![floats("imputed_value_floats", &by), float("replaced_value_float", replaced)]);
            let found = run_node(imputer, &[tensor(&[4, 2], values.clone()).unwrap()]).unwrap().remove(0);
            for (position, found) in found.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().iter().enumerate() {
                let x = values[position];
                let is_replaced = x == replaced || x.is_nan() && replaced.is_nan();
                let want = if is_replaced { by[position % 2] } else { x };
                prop_assert!(want == *found || want.is_nan() && found.is_nan());
            }
        }

        #[test]
        fn integers_are_replaced_too(values in proptest::collection::vec(-2..3_i64, 6), replaced in -2..3_i64, by: i64) {
            let imputer = node("Imputer", 1, 1, vec![ints("imputed_value_int64s", &[by]), int("replaced_value_int64", replaced)]);
            let found = run_node(imputer, &[tensor(&[6], values.clone()).unwrap()]).unwrap().remove(0);
            let want: Vec<i64> = values.iter().map(|x| if *x == replaced { by } else { *x }).collect();
            prop_assert_eq!(found, tensor(&[6], want).unwrap());
        }
    }

    #[test]
    fn values_for_another_width_or_of_another_type_are_refused() {
        let of = |attributes| {
            run_node(node("Imputer", 1, 1, attributes), &[tensor(&[1, 2], vec![1.0_f32, 2.0]).unwrap()])
        };
        assert!(
            of(vec![floats("imputed_value_floats", &[1.0; 3])]).unwrap_err().to_string().contains("3 values")
        );
        assert!(of(vec![ints("imputed_value_int64s", &[1])]).unwrap_err().to_string().contains("type F32"));
        assert!(of(vec![]).is_err());
        assert!(
            of(vec![floats("imputed_value_floats", &[1.0]), ints("imputed_value_int64s", &[1])]).is_err()
        );
    }
}
