//! The numbers of tree ensembles: lists of an attribute in either precision, and what is computed with them.
//!
//! Reads attributes strictly: another type or a length that does not match is an error by name. Knows nothing of
//! trees.

use std::fmt::Debug;
use std::ops::{AddAssign, Div};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType};
use tract_onnx::tract_core::internal::*;

/// A number that thresholds and weights are stored in, or that rows and sums are of.
pub(super) trait Real:
    Copy + Debug + Default + PartialOrd + AddAssign + Div<Output = Self> + Datum + From<f32> + Into<f64>
{
    const INFINITE: Self;

    /// Returns the nearest number of this type.
    fn near(value: f64) -> Self;
    fn is_missing(self) -> bool;
    fn exponential(self) -> Self;
    /// Returns the nearest number in single precision, in which ONNX Runtime computes some transforms.
    fn single(self) -> f32;
}

impl Real for f32 {
    const INFINITE: Self = Self::INFINITY;

    #[expect(clippy::cast_possible_truncation, reason = "the nearest number is meant")]
    fn near(value: f64) -> Self {
        value as Self
    }

    fn is_missing(self) -> bool {
        self.is_nan()
    }

    fn exponential(self) -> Self {
        self.exp()
    }

    fn single(self) -> f32 {
        self
    }
}

impl Real for f64 {
    const INFINITE: Self = Self::INFINITY;

    fn near(value: f64) -> Self {
        value
    }

    fn is_missing(self) -> bool {
        self.is_nan()
    }

    fn exponential(self) -> Self {
        self.exp()
    }

    #[expect(clippy::cast_possible_truncation, reason = "the nearest number is meant")]
    fn single(self) -> f32 {
        self as f32
    }
}

/// Numbers of an attribute as the file has them.
#[derive(Debug, Clone)]
pub(super) enum Numbers {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Numbers {
    pub(super) fn none() -> Self {
        Self::Single(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Single(values) => values.len(),
            Self::Double(values) => values.len(),
        }
    }

    pub(super) fn is_double(&self) -> bool {
        matches!(self, Self::Double(_))
    }

    pub(super) fn has_negative(&self) -> bool {
        match self {
            Self::Single(values) => values.iter().any(|value| *value < 0.0),
            Self::Double(values) => values.iter().any(|value| *value < 0.0),
        }
    }

    /// Returns the numbers in one precision; doubles become singles only where no double was seen.
    pub(super) fn into_vec<T: Real>(self) -> Vec<T> {
        match self {
            Self::Single(values) => values.into_iter().map(T::from).collect(),
            Self::Double(values) => values.into_iter().map(T::near).collect(),
        }
    }
}

fn find<'a>(node: &'a NodeProto, name: &str, kind: AttributeType) -> TractResult<Option<&'a AttributeProto>> {
    let Some(attribute) = node.attribute.iter().find(|attribute| attribute.name == name) else {
        return Ok(None);
    };
    ensure!(attribute.r#type == kind as i32, "attribute `{name}` is not of the type that ONNX gives it");
    Ok(Some(attribute))
}

/// Returns a list of integers, empty where it is absent.
pub(super) fn ints<'a>(node: &'a NodeProto, name: &str) -> TractResult<&'a [i64]> {
    Ok(find(node, name, AttributeType::Ints)?.map_or(&[], |attribute| &attribute.ints))
}

/// Returns an integer.
pub(super) fn int(node: &NodeProto, name: &str) -> TractResult<Option<i64>> {
    Ok(find(node, name, AttributeType::Int)?.map(|attribute| attribute.i))
}

/// Returns a list of texts, empty where it is absent.
pub(super) fn texts<'a>(node: &'a NodeProto, name: &str) -> TractResult<&'a [Vec<u8>]> {
    Ok(find(node, name, AttributeType::Strings)?.map_or(&[], |attribute| &attribute.strings))
}

/// Returns a text, or the given one where it is absent.
pub(super) fn text<'a>(node: &'a NodeProto, name: &str, absent: &'a str) -> TractResult<&'a str> {
    let Some(attribute) = find(node, name, AttributeType::String)? else { return Ok(absent) };
    std::str::from_utf8(&attribute.s).map_err(|_| format_err!("attribute `{name}` is not UTF-8"))
}

/// Returns the numbers of a list `name` or of a tensor `name_as_tensor`.
///
/// *Errors*: both have numbers.
pub(super) fn list_or_tensor(node: &NodeProto, name: &str) -> TractResult<Numbers> {
    let floats = find(node, name, AttributeType::Floats)?.map_or(&[][..], |attribute| &attribute.floats);
    let of_tensor = tensor(node, &format!("{name}_as_tensor"))?;
    ensure!(floats.is_empty() || of_tensor.len() == 0, "`{name}` and `{name}_as_tensor` both have values");
    Ok(if of_tensor.len() == 0 { Numbers::Single(floats.to_vec()) } else { of_tensor })
}

/// Returns the numbers of a tensor, none where it is absent.
pub(super) fn tensor(node: &NodeProto, name: &str) -> TractResult<Numbers> {
    let Some(tensor) = tensor_of(node, name)? else { return Ok(Numbers::none()) };
    let numbers = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => Numbers::Single(elements(tensor, &tensor.float_data, f32::from_le_bytes)),
        Ok(DataType::Double) => Numbers::Double(elements(tensor, &tensor.double_data, f64::from_le_bytes)),
        _ => bail!("tensor `{name}` is neither of float nor of double"),
    };
    check_length(tensor, name, numbers.len())?;
    Ok(numbers)
}

/// Returns the bytes of a tensor of `uint8`, none where it is absent.
pub(super) fn bytes(node: &NodeProto, name: &str) -> TractResult<Vec<u8>> {
    let Some(tensor) = tensor_of(node, name)? else { return Ok(Vec::new()) };
    ensure!(tensor.data_type == DataType::Uint8 as i32, "tensor `{name}` is not of uint8");
    let values = if tensor.raw_data.is_empty() {
        let narrow = tensor.int32_data.iter().map(|value| u8::try_from(*value));
        narrow.collect::<Result<_, _>>().map_err(|_| format_err!("tensor `{name}` is not of uint8"))?
    } else {
        tensor.raw_data.clone()
    };
    check_length(tensor, name, values.len())?;
    Ok(values)
}

fn tensor_of<'a>(node: &'a NodeProto, name: &str) -> TractResult<Option<&'a TensorProto>> {
    Ok(find(node, name, AttributeType::Tensor)?.and_then(|attribute| attribute.t.as_ref()))
}

fn elements<T: Copy, const BYTES: usize>(
    tensor: &TensorProto,
    typed: &[T],
    read: fn([u8; BYTES]) -> T,
) -> Vec<T> {
    if tensor.raw_data.is_empty() {
        return typed.to_vec();
    }
    let (chunks, rest) = tensor.raw_data.as_chunks::<BYTES>();
    // A rest makes the length wrong whatever the shape says.
    if rest.is_empty() { chunks.iter().map(|chunk| read(*chunk)).collect() } else { Vec::new() }
}

fn check_length(tensor: &TensorProto, name: &str, length: usize) -> TractResult<()> {
    let mut elements = 1_usize;
    for axis in &tensor.dims {
        elements = elements.saturating_mul(usize::try_from(*axis).unwrap_or(usize::MAX));
    }
    ensure!(elements == length, "tensor `{name}` holds {length} values and its shape asks for {elements}");
    Ok(())
}
