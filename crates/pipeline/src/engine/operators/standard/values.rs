//! Tensors as flat lists of one wide type and back, for kernels that need no speed.
//!
//! Floats go through f64, integers and truth values through i128: both hold every value of the narrower types. Never
//! takes texts.

use tract_onnx::tract_core::internal::*;

/// Returns the values of a float tensor.
pub(super) fn floats(tensor: &Tensor) -> TractResult<Vec<f64>> {
    let wide = tensor.cast_to::<f64>()?;
    Ok(wide.try_as_plain_ram()?.as_slice::<f64>()?.to_vec())
}

/// Returns a float tensor of a type with these values.
pub(super) fn of_floats(datum_type: DatumType, shape: &[usize], values: &[f64]) -> TractResult<Tensor> {
    Ok(Tensor::from_shape(shape, values)?.cast_to_dt(datum_type)?.into_owned())
}

/// Returns the values of a tensor of integers or truth values.
///
/// *Errors*: it is of neither.
pub(super) fn integers(tensor: &Tensor) -> TractResult<Vec<i128>> {
    fn wide<T: Datum + Copy>(tensor: &Tensor) -> TractResult<Vec<i128>>
    where
        i128: From<T>,
    {
        Ok(tensor.try_as_plain_ram()?.as_slice::<T>()?.iter().map(|&value| i128::from(value)).collect())
    }
    match tensor.datum_type() {
        DatumType::Bool => wide::<bool>(tensor),
        DatumType::U8 => wide::<u8>(tensor),
        DatumType::U16 => wide::<u16>(tensor),
        DatumType::U32 => wide::<u32>(tensor),
        DatumType::U64 => wide::<u64>(tensor),
        DatumType::I8 => wide::<i8>(tensor),
        DatumType::I16 => wide::<i16>(tensor),
        DatumType::I32 => wide::<i32>(tensor),
        DatumType::I64 => wide::<i64>(tensor),
        other => bail!("it does not take values of {other:?}"),
    }
}

/// Returns a tensor of integers or truth values of a type; what does not fit wraps around, as in C.
///
/// *Errors*: the type is of neither.
pub(super) fn of_integers(datum_type: DatumType, shape: &[usize], values: &[i128]) -> TractResult<Tensor> {
    macro_rules! narrow {
        ($type:ty) => {
            Tensor::from_shape(shape, &values.iter().map(|&value| value as $type).collect::<Vec<_>>())
        };
    }
    match datum_type {
        DatumType::Bool => {
            Tensor::from_shape(shape, &values.iter().map(|&value| value != 0).collect::<Vec<_>>())
        }
        DatumType::U8 => narrow!(u8),
        DatumType::U16 => narrow!(u16),
        DatumType::U32 => narrow!(u32),
        DatumType::U64 => narrow!(u64),
        DatumType::I8 => narrow!(i8),
        DatumType::I16 => narrow!(i16),
        DatumType::I32 => narrow!(i32),
        DatumType::I64 => narrow!(i64),
        other => bail!("it does not take values of {other:?}"),
    }
}

/// Returns an axis as a position from the front.
///
/// *Errors*: there is no such axis.
pub(super) fn axis_of(axis: i64, rank: usize) -> TractResult<usize> {
    let count = rank as i64;
    ensure!((-count..count).contains(&axis), "axis {axis} is outside a tensor of {rank} axes");
    Ok(axis.rem_euclid(count) as usize)
}

/// Returns lengths before an axis, of it, and after it.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// Returns integers as tract computes shapes with them as plain ones.
pub(super) fn without_sizes(name: &str, model: &mut TypedModel, input: OutletId) -> TractResult<OutletId> {
    if model.outlet_fact(input)?.datum_type != TDim::datum_type() {
        return Ok(input);
    }
    let cast = tract_onnx::tract_core::ops::cast::cast(i64::datum_type());
    Ok(model.wire_node(format!("{name}.plain.{}.{}", input.node, input.slot), cast, &[input])?[0])
}
