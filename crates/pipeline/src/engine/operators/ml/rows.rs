//! Rows of features: the one shape that operators of `ai.onnx.ml` work on.
//!
//! Reads `[C]` as one row and `[N, C]` as `N`; refuses every other rank, about which implementations disagree.

use std::borrow::Cow;

use tract_onnx::tract_core::internal::*;

/// Returns the only input's fact.
pub(super) fn only<'f>(inputs: &[&'f TypedFact]) -> TractResult<&'f TypedFact> {
    let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
    Ok(input)
}

/// Returns rows and columns of a shape.
pub(super) fn rows_and_columns(fact: &TypedFact) -> TractResult<(TDim, TDim)> {
    match fact.shape.dims() {
        [columns] => Ok((1.to_dim(), columns.clone())),
        [rows, columns] => Ok((rows.clone(), columns.clone())),
        other => bail!("it takes one or two axes, not {}", other.len()),
    }
}

/// Returns the rows of an input that must have this many columns.
pub(super) fn rows_of(fact: &TypedFact, columns: usize) -> TractResult<TDim> {
    let (rows, actual) = rows_and_columns(fact)?;
    ensure!(actual == columns.to_dim(), "it was made for {columns} columns and the input has {actual}");
    Ok(rows)
}

/// Refuses an input of another element type than these.
pub(super) fn require_type(fact: &TypedFact, types: &[DatumType]) -> TractResult<()> {
    ensure!(types.contains(&fact.datum_type), "it does not take elements of type {:?}", fact.datum_type);
    Ok(())
}

/// Element types of features.
pub(super) const NUMBERS: &[DatumType] = &[DatumType::F32, DatumType::F64, DatumType::I64, DatumType::I32];

/// Returns a tensor's values in single precision, rounded to the nearest.
pub(super) fn floats(tensor: &Tensor) -> TractResult<Cow<'_, [f32]>> {
    let view = tensor.try_as_plain_ram()?;
    Ok(match tensor.datum_type() {
        DatumType::F32 => Cow::Borrowed(view.as_slice::<f32>()?),
        DatumType::F64 => view.as_slice::<f64>()?.iter().map(|value| *value as f32).collect(),
        DatumType::I32 => view.as_slice::<i32>()?.iter().map(|value| *value as f32).collect(),
        DatumType::I64 => view.as_slice::<i64>()?.iter().map(|value| *value as f32).collect(),
        other => bail!("it does not take elements of type {other:?}"),
    })
}

/// Returns a tensor of values in row-major order.
pub(super) fn tensor<T: Datum>(shape: &[usize], values: Vec<T>) -> TractResult<Tensor> {
    Ok(tract_ndarray::ArrayD::from_shape_vec(shape, values)?.into_tensor())
}

/// Eight sums beside each other.
pub(super) type Lanes = [f32; 8];

/// Adds a term to each of eight sums.
///
/// Written out, because a compiler that saves space makes vector instructions of straight code alone.
#[inline(always)]
pub(super) fn add_lanes(sums: &Lanes, term: impl Fn(usize) -> f32) -> Lanes {
    [
        sums[0] + term(0),
        sums[1] + term(1),
        sums[2] + term(2),
        sums[3] + term(3),
        sums[4] + term(4),
        sums[5] + term(5),
        sums[6] + term(6),
        sums[7] + term(7),
    ]
}

/// Returns the sum of products of two slices of one length.
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left_parts, left_rest) = left.as_chunks::<8>();
    let (right_parts, right_rest) = right.as_chunks::<8>();
    let mut sums: Lanes = [0.0; 8];
    for (left, right) in left_parts.iter().zip(right_parts) {
        sums = add_lanes(&sums, |lane| left[lane] * right[lane]);
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}
