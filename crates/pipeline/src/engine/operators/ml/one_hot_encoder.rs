//! `OneHotEncoder`: a category as a row of zeros with a one at its place.
//!
//! *Source*: ai.onnx.ml 1, OneHotEncoder. Numbers are cut to integers before they are looked up; the last of equal
//! categories has the place, as in ONNX Runtime.

use std::collections::HashMap;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::rows::{NUMBERS, only, require_type, tensor};

#[derive(Debug)]
struct OneHotEncoder {
    places: Places,
    categories: usize,
    unknown: Unknown,
}

#[derive(Debug)]
enum Places {
    Texts(HashMap<String, usize>),
    Integers(HashMap<i64, usize>),
}

/// What a value that is no category becomes.
#[derive(Debug, PartialEq, Eq)]
enum Unknown {
    Zeros,
    Error,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["cats_int64s", "cats_strings", "zeros"])?;
    let integers: Vec<i64> = node.get_attr_opt_vec("cats_int64s")?.unwrap_or_default();
    let texts: Vec<String> = node.get_attr_opt_vec("cats_strings")?.unwrap_or_default();
    let categories = integers.len().max(texts.len());
    let numbered = |count: usize| 0..count;
    let places = match (integers.is_empty(), texts.is_empty()) {
        (false, true) => Places::Integers(integers.into_iter().zip(numbered(categories)).collect()),
        (true, false) => Places::Texts(texts.into_iter().zip(numbered(categories)).collect()),
        _ => bail!("not one of `cats_int64s` and `cats_strings` has categories"),
    };
    let is_quiet = node.get_attr_opt::<i64>("zeros")?.unwrap_or(1) != 0;
    built(OneHotEncoder {
        places,
        categories,
        unknown: if is_quiet { Unknown::Zeros } else { Unknown::Error },
    })
}

/// Cuts a number to an integer; what is beyond all of them becomes the lowest, as processors of ONNX Runtime do.
fn cut(value: f64) -> i64 {
    // Both ends are powers of two, and exact.
    let lowest = i64::MIN as f64;
    if (lowest..-lowest).contains(&value) { value as i64 } else { i64::MIN }
}

impl OneHotEncoder {
    fn rows<T: Datum>(
        &self,
        input: &Tensor,
        place: impl Fn(&T) -> Option<usize>,
    ) -> TractResult<TVec<TValue>> {
        let values = input.try_as_plain_ram()?.as_slice::<T>()?;
        let mut output = vec![0.0_f32; values.len() * self.categories];
        for (value, row) in values.iter().zip(output.chunks_exact_mut(self.categories)) {
            match place(value) {
                Some(place) => row[place] = 1.0,
                None => {
                    ensure!(self.unknown == Unknown::Zeros, "OneHotEncoder was given an unknown category")
                }
            }
        }
        let shape: Vec<usize> = input.shape().iter().copied().chain([self.categories]).collect();
        Ok(tvec!(tensor(&shape, output)?.into_tvalue()))
    }
}

impl Kernel for OneHotEncoder {
    fn name(&self) -> &'static str {
        "OneHotEncoder"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = only(inputs)?;
        ensure!(input.rank() <= 2, "it takes at most two axes, not {}", input.rank());
        match self.places {
            Places::Texts(_) => require_type(input, &[DatumType::String])?,
            Places::Integers(_) => require_type(input, NUMBERS)?,
        }
        let shape: TVec<TDim> = input.shape.iter().cloned().chain([self.categories.to_dim()]).collect();
        Ok(tvec!(fact(f32::datum_type(), &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = &*inputs[0];
        match (&self.places, input.datum_type()) {
            (Places::Texts(places), _) => self.rows::<String>(input, |text| places.get(text).copied()),
            (Places::Integers(places), DatumType::I64) => self.rows::<i64>(input, |x| places.get(x).copied()),
            (Places::Integers(places), DatumType::I32) => {
                self.rows::<i32>(input, |x| places.get(&i64::from(*x)).copied())
            }
            (Places::Integers(places), DatumType::F64) => {
                self.rows::<f64>(input, |x| places.get(&cut(*x)).copied())
            }
            (Places::Integers(places), _) => {
                self.rows::<f32>(input, |x| places.get(&cut(f64::from(*x))).copied())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{int, ints, node, run_node, texts};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_category_is_a_one_at_its_place(
            values in proptest::collection::vec(prop_oneof![-4.0..4.0_f32, any::<f32>()], 6),
            categories in proptest::collection::vec(-4..4_i64, 1..6),
            zeros in 0..2_i64,
        ) {
            let encoder = node("OneHotEncoder", 1, 1, vec![ints("cats_int64s", &categories), int("zeros", zeros)]);
            let outputs = run_node(encoder, &[tensor(&[2, 3], values.clone()).unwrap()]);
            let place = |x: f32| categories.iter().rposition(|category| x.trunc() == *category as f32);
            if zeros == 0 && values.iter().any(|x| place(*x).is_none()) {
                prop_assert!(outputs.is_err());
            } else {
                let one = |x: f32| (0..categories.len()).map(move |at| f32::from(u8::from(place(x) == Some(at))));
                let want = values.iter().flat_map(|x| one(*x)).collect();
                prop_assert_eq!(outputs.unwrap(), [tensor(&[2, 3, categories.len()], want).unwrap()]);
            }
        }
    }

    #[test]
    fn texts_are_looked_up_as_they_are() {
        let encoder = node("OneHotEncoder", 1, 1, vec![texts("cats_strings", &["on", "off"])]);
        let outputs = run_node(encoder, &[tensor1(&["off".to_owned(), "Off".to_owned()])]).unwrap();
        assert_eq!(outputs, [tensor2(&[[0.0_f32, 1.0], [0.0, 0.0]])]);
    }

    #[test]
    fn categories_of_both_kinds_or_none_or_for_other_values_are_refused() {
        for attributes in [
            vec![],
            vec![ints("cats_int64s", &[1]), texts("cats_strings", &["a"])],
            vec![texts("cats_strings", &["a"])],
        ] {
            assert!(run_node(node("OneHotEncoder", 1, 1, attributes), &[tensor1(&[1.0_f32])]).is_err());
        }
    }
}
