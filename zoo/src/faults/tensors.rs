//! Tensors of any element type as numbers: from the index of the faults, into both libraries and out of them.
//!
//! Compares them and writes them as text. Never runs anything. Integers beyond 2^53 do not occur in the faults.

use ort::session::SessionInputValue;
use ort::value::{DynValue, Tensor as PeerTensor, TensorElementType, ValueType};
use serde::Deserialize;
use tract_onnx::prelude::{DatumType, IntoTValue, TValue, Tensor, TractResult};

/// Most values of a tensor that a text shows.
const SHOWN_MAX: usize = 16;
/// Largest difference of floats, relative to the largest finite value of the right tensor.
const TOLERANCE: f64 = 1e-4;

/// A tensor.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Values {
    #[serde(default)]
    pub(super) name: String,
    /// The element type as NumPy names it.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) shape: Vec<usize>,
    #[serde(deserialize_with = "numbers")]
    pub(super) values: Vec<f64>,
}

/// JSON has no number for what is not finite: it stands there as a text.
fn numbers<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Finite(f64),
        Other(String),
    }
    let all = Vec::<Number>::deserialize(from)?.into_iter().map(|number| match number {
        Number::Finite(value) => Ok(value),
        Number::Other(text) => text.parse().map_err(serde::de::Error::custom),
    });
    all.collect()
}

/// Writes a `match` with an arm for each element type: its name and its Rust type.
macro_rules! by_kind {
    ($kind:expr, $with:ident, $otherwise:expr) => {
        match $kind {
            "float32" => $with!(f32),
            "float64" => $with!(f64),
            "int8" => $with!(i8),
            "int16" => $with!(i16),
            "int32" => $with!(i32),
            "int64" => $with!(i64),
            "uint8" => $with!(u8),
            "uint16" => $with!(u16),
            "uint32" => $with!(u32),
            "uint64" => $with!(u64),
            _ => $otherwise,
        }
    };
}

impl Values {
    /// Returns the tensor as tract takes it.
    ///
    /// *Errors*: the element type is none of the faults'.
    pub(super) fn to_tract(&self) -> Result<TValue, String> {
        macro_rules! made {
            ($type:ty) => {
                Tensor::from_shape(&self.shape, &self.values.iter().map(|&v| v as $type).collect::<Vec<_>>())
            };
        }
        let truths = || self.values.iter().map(|&value| value != 0.0).collect::<Vec<_>>();
        let tensor = match self.kind.as_str() {
            "bool" => Tensor::from_shape(&self.shape, &truths()),
            kind => by_kind!(kind, made, return Err(self.unknown())),
        };
        tensor.map(IntoTValue::into_tvalue).map_err(|error| format!("{error:#}"))
    }

    /// Returns the tensor as ONNX Runtime takes it.
    ///
    /// *Errors*: the element type is none of the faults'.
    pub(super) fn to_peer(&self) -> Result<SessionInputValue<'static>, String> {
        let shape: Vec<i64> = self.shape.iter().map(|&axis| axis as i64).collect();
        macro_rules! made {
            ($type:ty) => {
                PeerTensor::from_array((shape, self.values.iter().map(|&v| v as $type).collect::<Vec<_>>()))
                    .map(SessionInputValue::from)
            };
        }
        let truths = || self.values.iter().map(|&value| value != 0.0).collect::<Vec<_>>();
        let tensor = match self.kind.as_str() {
            "bool" => PeerTensor::from_array((shape, truths())).map(SessionInputValue::from),
            kind => by_kind!(kind, made, return Err(self.unknown())),
        };
        tensor.map_err(|error| error.to_string())
    }

    fn unknown(&self) -> String {
        format!("`{}` has elements of type `{}`", self.name, self.kind)
    }

    /// Reads a result of tract's. Sizes of tensors are integers of 64 bits, quantised ones those that they are stored as.
    ///
    /// *Errors*: tract's; elements that are no numbers.
    pub(super) fn of_tract(tensor: &Tensor) -> Result<Self, String> {
        let text = |error: tract_onnx::prelude::TractError| format!("{error:#}");
        let stored = tensor.datum_type().unquantized();
        let kind = match stored {
            DatumType::F32 => "float32",
            DatumType::F64 => "float64",
            DatumType::I8 => "int8",
            DatumType::I16 => "int16",
            DatumType::I32 => "int32",
            DatumType::I64 | DatumType::TDim => "int64",
            DatumType::U8 => "uint8",
            DatumType::U16 => "uint16",
            DatumType::U32 => "uint32",
            DatumType::U64 => "uint64",
            DatumType::Bool => "bool",
            other => return Err(format!("a result has elements of type {other:?}")),
        };
        let plain = if stored == DatumType::TDim { DatumType::I64 } else { stored };
        let tensor = tensor.cast_to_dt(plain).map_err(text)?;
        let values = read(&tensor, kind).map_err(text)?;
        Ok(Self { name: String::new(), kind: kind.to_owned(), shape: tensor.shape().to_vec(), values })
    }

    /// Reads a result of ONNX Runtime's.
    ///
    /// *Errors*: the runtime's; it is no tensor of numbers.
    pub(super) fn of_peer(value: &DynValue) -> Result<Self, String> {
        let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
            return Err(format!("a result is a {:?}", value.dtype()));
        };
        let shape = shape.iter().map(|&axis| axis as usize).collect();
        macro_rules! read {
            ($name:expr, $type:ty) => {{
                let found = value.try_extract_tensor::<$type>().map_err(|error| error.to_string())?.1;
                ($name, found.iter().map(|&value| value as f64).collect())
            }};
        }
        let (kind, values) = match ty {
            TensorElementType::Float32 => read!("float32", f32),
            TensorElementType::Float64 => read!("float64", f64),
            TensorElementType::Int8 => read!("int8", i8),
            TensorElementType::Int16 => read!("int16", i16),
            TensorElementType::Int32 => read!("int32", i32),
            TensorElementType::Int64 => read!("int64", i64),
            TensorElementType::Uint8 => read!("uint8", u8),
            TensorElementType::Uint16 => read!("uint16", u16),
            TensorElementType::Uint32 => read!("uint32", u32),
            TensorElementType::Uint64 => read!("uint64", u64),
            TensorElementType::Bool => {
                let found = value.try_extract_tensor::<bool>().map_err(|error| error.to_string())?.1;
                ("bool", found.iter().map(|&value| f64::from(u8::from(value))).collect())
            }
            other => return Err(format!("a result has elements of type {other}")),
        };
        Ok(Self { name: String::new(), kind: kind.to_owned(), shape, values })
    }

    /// Tells whether this is the right tensor: of its type and shape, and each value that one.
    pub(super) fn is(&self, right: &Self) -> bool {
        self.kind == right.kind
            && self.shape == right.shape
            && agree(&self.values, &right.values, right.is_float())
    }

    /// Tells whether the elements are floats, which need not be equal to the last bit.
    pub(super) fn is_float(&self) -> bool {
        self.kind.starts_with("float")
    }
}

fn read(tensor: &Tensor, kind: &str) -> TractResult<Vec<f64>> {
    let plain = tensor.try_as_plain_ram()?;
    macro_rules! read {
        ($type:ty) => {
            plain.as_slice::<$type>()?.iter().map(|&value| value as f64).collect()
        };
    }
    Ok(by_kind!(
        kind,
        read,
        plain.as_slice::<bool>()?.iter().map(|&value| f64::from(u8::from(value))).collect()
    ))
}

/// Tells whether values are the right ones: what is not finite the same, floats within the tolerance, all else equal.
pub(super) fn agree(given: &[f64], right: &[f64], are_floats: bool) -> bool {
    let largest =
        right.iter().filter(|value| value.is_finite()).fold(0.0_f64, |most, value| most.max(value.abs()));
    let allowed = if are_floats { TOLERANCE * largest } else { 0.0 };
    let is_one = |(a, b): (&f64, &f64)| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= allowed;
    given.len() == right.len() && given.iter().zip(right).all(is_one)
}

impl std::fmt::Display for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if self.values.len() > SHOWN_MAX {
            return write!(
                f,
                "{:?} {}…",
                self.shape,
                nested(&[SHOWN_MAX], &self.values[..SHOWN_MAX]).trim_end_matches(']')
            );
        }
        f.write_str(&nested(&self.shape, &self.values))
    }
}

fn nested(shape: &[usize], values: &[f64]) -> String {
    let Some((&length, inner)) = shape.split_first() else {
        return values.first().map_or_else(String::new, |&value| number(value));
    };
    if length == 0 || values.is_empty() {
        return "[]".to_owned();
    }
    let parts: Vec<String> =
        values.chunks(inner.iter().product::<usize>().max(1)).map(|part| nested(inner, part)).collect();
    format!("[{}]", parts.join(", "))
}

/// Six digits do: what differs by less is no fault.
fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() || value == 0.0 || value.fract() == 0.0 && size < 1e12 {
        return value.to_string().to_lowercase();
    }
    if (1e-4..1e9).contains(&size) {
        let digits = (5 - size.log10().floor() as i64).max(0) as usize;
        return format!("{value:.digits$}").trim_end_matches('0').to_owned();
    }
    let text = format!("{value:.5e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_nan_and_an_infinity_is_no_large_number() {
        assert!(agree(&[f64::NAN, 1.0], &[f64::NAN, 1.00001], true));
        assert!(!agree(&[f64::NAN], &[0.0], true) && !agree(&[3.4e38], &[f64::INFINITY], true));
        assert!(!agree(&[2.0], &[2.0001], false) && !agree(&[1.0, 1.0], &[1.0], true));
    }

    #[test]
    fn a_text_shows_the_axes_and_six_digits() {
        let values = |shape: &[usize], values: &[f64]| Values {
            name: String::new(),
            kind: "float32".to_owned(),
            shape: shape.to_vec(),
            values: values.to_vec(),
        };
        assert_eq!(
            values(&[2, 2], &[1.0, -2.5, f64::NAN, 1.0 / 3.0]).to_string(),
            "float32 [[1, -2.5], [nan, 0.333333]]"
        );
        assert_eq!(values(&[1], &[f64::from(f32::MIN)]).to_string(), "float32 [-3.40282e38]");
        assert_eq!(values(&[], &[3e9]).to_string(), "float32 3000000000");
    }
}
