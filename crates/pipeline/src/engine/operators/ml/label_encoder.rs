//! `LabelEncoder` and `CategoryMapper`: each value looked up in a list of keys and replaced by what stands beside it.
//!
//! *Source*: ai.onnx.ml 1, 2 and 4, LabelEncoder; 1, CategoryMapper. As in ONNX Runtime the first of equal keys counts
//! (the last one of `classes_strings` and of categories), and a key that is NaN is found from version 4 on.

mod attributes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::rows::only;

/// Where keys stand in the list of values.
#[derive(Debug)]
enum Places {
    Texts(HashMap<String, usize>),
    /// Integers of any length.
    Integers(HashMap<i64, usize>),
    /// Numbers of either precision by their bits, as [`bits`] gives them.
    Numbers(HashMap<u64, usize>, NanKey),
}

/// Whether a value that is no number is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NanKey {
    Found,
    Unknown,
}

/// Values of one element type, the last one for what is no key.
#[derive(Debug, Clone)]
enum Values {
    Texts(Vec<String>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    I16(Vec<i16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Values {
    fn datum_type(&self) -> DatumType {
        match self {
            Self::Texts(_) => DatumType::String,
            Self::I64(_) => DatumType::I64,
            Self::I32(_) => DatumType::I32,
            Self::I16(_) => DatumType::I16,
            Self::F32(_) => DatumType::F32,
            Self::F64(_) => DatumType::F64,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Texts(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Appends the last value of others of the same type.
    fn push_last(&mut self, other: Self) -> TractResult<()> {
        match (self, other) {
            (Self::Texts(into), Self::Texts(from)) => into.extend(from.into_iter().next_back()),
            (Self::I64(into), Self::I64(from)) => into.extend(from.last()),
            (Self::I32(into), Self::I32(from)) => into.extend(from.last()),
            (Self::I16(into), Self::I16(from)) => into.extend(from.last()),
            (Self::F32(into), Self::F32(from)) => into.extend(from.last()),
            (Self::F64(into), Self::F64(from)) => into.extend(from.last()),
            (into, other) => {
                bail!(
                    "the default is of type {:?} and the values of {:?}",
                    other.datum_type(),
                    into.datum_type()
                )
            }
        }
        Ok(())
    }

    /// Writes the values at these places.
    fn write(&self, output: &mut Tensor, places: impl Iterator<Item = Option<usize>>) -> TractResult<()> {
        fn gather<T: Datum + Clone>(
            values: &[T],
            output: &mut Tensor,
            places: impl Iterator<Item = Option<usize>>,
        ) -> TractResult<()> {
            let Some((other, _)) = values.split_last() else { bail!("there are no values") };
            let mut output = output.try_as_plain_ram_mut()?;
            for (output, place) in output.as_slice_mut::<T>()?.iter_mut().zip(places) {
                output.clone_from(place.map_or(other, |place| &values[place]));
            }
            Ok(())
        }
        match self {
            Self::Texts(values) => gather(values, output, places),
            Self::I64(values) => gather(values, output, places),
            Self::I32(values) => gather(values, output, places),
            Self::I16(values) => gather(values, output, places),
            Self::F32(values) => gather(values, output, places),
            Self::F64(values) => gather(values, output, places),
        }
    }
}

/// Returns what equal numbers have in common: zero has one sign, and what is no number one pattern.
fn bits(value: f64) -> u64 {
    if value.is_nan() { u64::MAX } else { (value + 0.0).to_bits() }
}

/// One list of keys with its values.
#[derive(Debug)]
struct Mapping {
    keys: DatumType,
    places: Places,
    values: Values,
}

impl Mapping {
    /// Joins keys, values and default; of equal keys the first counts.
    ///
    /// *Errors*: not as many values as keys, or a default of another type.
    fn new(keys: Values, mut values: Values, default: Values, nan_key: NanKey) -> TractResult<Self> {
        ensure!(keys.len() == values.len(), "there are {} keys and {} values", keys.len(), values.len());
        values.push_last(default)?;
        fn first<K: Hash + Eq>(
            keys: impl DoubleEndedIterator<Item = K> + ExactSizeIterator,
        ) -> HashMap<K, usize> {
            keys.enumerate().rev().map(|(place, key)| (key, place)).collect()
        }
        let datum_type = keys.datum_type();
        let places = match keys {
            Values::Texts(keys) => Places::Texts(first(keys.into_iter())),
            Values::I64(keys) => Places::Integers(first(keys.into_iter())),
            Values::I32(keys) => Places::Integers(first(keys.into_iter().map(i64::from))),
            Values::I16(keys) => Places::Integers(first(keys.into_iter().map(i64::from))),
            Values::F32(keys) => {
                Places::Numbers(first(keys.into_iter().map(|key| bits(key.into()))), nan_key)
            }
            Values::F64(keys) => Places::Numbers(first(keys.into_iter().map(bits)), nan_key),
        };
        Ok(Self { keys: datum_type, places, values })
    }

    fn look_up(&self, input: &Tensor, output: &mut Tensor) -> TractResult<()> {
        let view = input.try_as_plain_ram()?;
        let number = |map: &HashMap<u64, usize>, nan_key: NanKey, x: f64| {
            if x.is_nan() && nan_key == NanKey::Unknown { None } else { map.get(&bits(x)).copied() }
        };
        let whole = |map: &HashMap<i64, usize>, x: i64| map.get(&x).copied();
        let values = &self.values;
        match (&self.places, input.datum_type()) {
            (Places::Texts(map), DatumType::String) => {
                values.write(output, view.as_slice::<String>()?.iter().map(|x| map.get(x).copied()))
            }
            (Places::Integers(map), DatumType::I64) => {
                values.write(output, view.as_slice::<i64>()?.iter().map(|x| whole(map, *x)))
            }
            (Places::Integers(map), DatumType::I32) => {
                values.write(output, view.as_slice::<i32>()?.iter().map(|x| whole(map, i64::from(*x))))
            }
            (Places::Integers(map), DatumType::I16) => {
                values.write(output, view.as_slice::<i16>()?.iter().map(|x| whole(map, i64::from(*x))))
            }
            (Places::Numbers(map, nan_key), DatumType::F32) => {
                let numbers = view.as_slice::<f32>()?.iter();
                values.write(output, numbers.map(|x| number(map, *nan_key, f64::from(*x))))
            }
            (Places::Numbers(map, nan_key), DatumType::F64) => {
                values.write(output, view.as_slice::<f64>()?.iter().map(|x| number(map, *nan_key, *x)))
            }
            (_, other) => bail!("its keys are of type {:?} and the input of {other:?}", self.keys),
        }
    }
}

/// The mappings of a node: one, or one for texts and one for integers, by the input's type.
#[derive(Debug)]
struct LabelEncoder {
    name: &'static str,
    mappings: Vec<Mapping>,
}

impl LabelEncoder {
    fn mapping(&self, input: DatumType) -> TractResult<&Mapping> {
        let found = self.mappings.iter().find(|mapping| mapping.keys == input);
        found.ok_or_else(|| {
            format_err!("its keys are of type {:?} and the input of {input:?}", self.mappings[0].keys)
        })
    }
}

/// Returns the mappings between texts and integers in both directions; of equal ones the last counts.
fn both_ways(
    name: &'static str,
    mut texts: Vec<String>,
    mut integers: Vec<i64>,
    node: &NodeProto,
) -> TractResult<LabelEncoder> {
    texts.reverse();
    integers.reverse();
    let text = node.get_attr_opt::<&str>("default_string")?.unwrap_or("_Unused").to_owned();
    let integer = node.get_attr_opt::<i64>("default_int64")?.unwrap_or(-1);
    let (texts, integers) = (Values::Texts(texts), Values::I64(integers));
    let forth = Mapping::new(texts.clone(), integers.clone(), Values::I64(vec![integer]), NanKey::Unknown)?;
    let back = Mapping::new(integers, texts, Values::Texts(vec![text]), NanKey::Unknown)?;
    Ok(LabelEncoder { name, mappings: vec![forth, back] })
}

pub(super) fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let version = super::ml_version(context);
    if version < 2 {
        require_only(node, &["classes_strings", "default_int64", "default_string"])?;
        let classes: Vec<String> = node.get_attr_vec("classes_strings")?;
        let positions = (0_i64..).take(classes.len()).collect();
        return built(both_ways("LabelEncoder", classes, positions, node)?);
    }
    let (keys, values, default) = attributes::read(node, version)?;
    let nan_key = if version < 4 { NanKey::Unknown } else { NanKey::Found };
    built(LabelEncoder {
        name: "LabelEncoder",
        mappings: vec![Mapping::new(keys, values, default, nan_key)?],
    })
}

pub(super) fn build_category_mapper(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["cats_int64s", "cats_strings", "default_int64", "default_string"])?;
    let texts: Vec<String> = node.get_attr_vec("cats_strings")?;
    let integers: Vec<i64> = node.get_attr_vec("cats_int64s")?;
    built(both_ways("CategoryMapper", texts, integers, node)?)
}

impl Kernel for LabelEncoder {
    fn name(&self) -> &'static str {
        self.name
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = only(inputs)?;
        let mapping = self.mapping(input.datum_type)?;
        Ok(tvec!(fact(mapping.values.datum_type(), &input.shape)))
    }

    fn writes_outputs(&self) -> bool {
        true
    }

    fn run_into(&self, inputs: &[&Tensor], outputs: &mut [&mut Tensor]) -> TractResult<()> {
        let ([input], [output]) = (inputs, outputs) else { bail!("it takes one input and makes one output") };
        self.mapping(input.datum_type())?.look_up(input, output)
    }
}
