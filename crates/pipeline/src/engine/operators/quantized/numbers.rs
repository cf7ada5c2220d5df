//! Quantised numbers: the integer types, rounding into them, and scales and zero points read from tensors.
//!
//! Rounds to the nearest, ties to even, and saturates; NaN becomes the lowest number. Never chooses a scale.

use tract_onnx::tract_core::internal::*;

/// 1.5 * 2^23: added to a number below 2^22 in magnitude it leaves the nearest integer, ties to even, in the low bits.
const ROUNDING: f32 = 12_582_912.0;

/// An integer type of quantised tensors.
pub(super) trait Quantum: Datum + Copy {
    /// The lowest number.
    const LOW: i32;
    /// The highest number.
    const HIGH: i32;
    /// Returns the number of an integer within the range.
    fn of(integer: i32) -> Self;
    /// Returns the number as an integer.
    fn integer(self) -> i32;
}

macro_rules! quantum {
    ($($integer:ty),*) => {$(
        impl Quantum for $integer {
            const LOW: i32 = <$integer>::MIN as i32;
            const HIGH: i32 = <$integer>::MAX as i32;
            #[inline(always)]
            fn of(integer: i32) -> Self {
                integer as $integer
            }
            #[inline(always)]
            fn integer(self) -> i32 {
                i32::from(self)
            }
        }
    )*};
}
quantum!(u8, i8, u16, i16);

/// Calls a function generic over [`Quantum`] with `u8` or `i8`, or fails.
macro_rules! by_octet {
    ($datum_type:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $datum_type {
            DatumType::U8 => $function::<u8>($($argument),*),
            DatumType::I8 => $function::<i8>($($argument),*),
            other => bail!("it takes 8-bit integers, not {other:?}"),
        }
    };
}
pub(super) use by_octet;

/// Returns `saturate(round(value) + zero)`.
#[inline(always)]
pub(super) fn rounded<Q: Quantum>(value: f32, zero: i32) -> Q {
    let (low, high) = ((Q::LOW - zero) as f32, (Q::HIGH - zero) as f32);
    Q::of(nearest(value, low, high) + zero)
}

/// Returns `saturate(round(value))` where the zero point is already part of the value.
#[inline(always)]
pub(super) fn rounded_whole<Q: Quantum>(value: f32) -> Q {
    Q::of(nearest(value, Q::LOW as f32, Q::HIGH as f32))
}

/// Written as comparisons, so that a NaN becomes `low` and each line is one vector instruction.
#[inline(always)]
pub(super) fn nearest(value: f32, low: f32, high: f32) -> i32 {
    let value = if value > low { value } else { low };
    let value = if value < high { value } else { high };
    ((value + ROUNDING).to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32)
}

/// Returns a whole number of at most 2^24 in magnitude as an integer, in two halves: the conversion that the language has
/// is one of single numbers.
#[inline(always)]
pub(super) fn whole(number: f32) -> i32 {
    const HALF: f32 = 4_096.0;
    let high = number * (1.0 / HALF) + ROUNDING;
    let low = number - (high - ROUNDING) * HALF + ROUNDING;
    let integer = |shifted: f32| (shifted.to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32);
    integer(high) * HALF as i32 + integer(low)
}

/// Returns the lowest and the highest number of an 8-bit type.
pub(super) fn octet_range(datum_type: DatumType) -> TractResult<(i32, i32)> {
    match datum_type {
        DatumType::U8 => Ok((0, 255)),
        DatumType::I8 => Ok((-128, 127)),
        other => bail!("it takes 8-bit integers, not {other:?}"),
    }
}

/// Returns the largest magnitude of a centred number of an 8-bit type; of any zero point if none is known.
pub(super) fn magnitude_max(datum_type: DatumType, zero: Option<i32>) -> TractResult<i64> {
    let (low, high) = octet_range(datum_type)?;
    Ok(zero.map_or(255, |zero| i64::from((zero - low).max(high - zero))))
}

/// Returns the one scale of a tensor.
pub(super) fn scale(tensor: &Tensor) -> TractResult<f32> {
    ensure!(tensor.len() == 1, "a scale of {} numbers where one is taken", tensor.len());
    ensure!(tensor.datum_type() == DatumType::F32, "a scale of type {:?}, not f32", tensor.datum_type());
    tensor.cast_to_scalar::<f32>()
}

/// Returns the scales of a tensor.
pub(super) fn scales(tensor: &Tensor) -> TractResult<Vec<f32>> {
    ensure!(tensor.datum_type() == DatumType::F32, "scales of type {:?}, not f32", tensor.datum_type());
    Ok(tensor.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
}

/// Returns the integers of a tensor of quantised numbers or of 32-bit integers.
pub(super) fn integers(tensor: &Tensor) -> TractResult<Vec<i32>> {
    ensure!(tensor.datum_type().is_integer(), "integers of type {:?}", tensor.datum_type());
    Ok(tensor.cast_to::<i32>()?.try_as_plain_ram()?.as_slice::<i32>()?.to_vec())
}

/// Returns the one zero point of a tensor.
pub(super) fn zero_point(tensor: &Tensor) -> TractResult<i32> {
    ensure!(tensor.len() == 1, "a zero point of {} numbers where one is taken", tensor.len());
    Ok(integers(tensor)?[0])
}

/// A scale and a zero point that hold for a whole tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    /// What a step of the integers stands for.
    pub(super) scale: f32,
    /// The integer that stands for 0.
    pub(super) zero: i32,
}

impl Grid {
    /// Returns the grid of two scalar tensors; without a zero point it is 0.
    pub(super) fn read(scale_of: &Tensor, zero: Option<&Tensor>) -> TractResult<Self> {
        Ok(Self { scale: scale(scale_of)?, zero: zero.map_or(Ok(0), zero_point)? })
    }

    /// Returns the grid of the unsigned numbers 128 above signed ones.
    pub(super) fn unsigned(self) -> Self {
        Self { zero: self.zero + 128, ..self }
    }

    /// Returns what an integer stands for.
    #[inline(always)]
    pub(super) fn value(self, integer: i32) -> f32 {
        self.scale * (integer - self.zero) as f32
    }
}

/// Returns an output to be filled.
pub(super) fn blank<T: Datum>(shape: &[usize]) -> TractResult<Tensor> {
    Tensor::zero_dt(T::datum_type(), shape)
}

/// Most products of two centred 8-bit integers whose sum is exact in `f32`: 2^24 / 255^2.
pub(super) const EXACT_TERMS_MAX: usize = 258;
