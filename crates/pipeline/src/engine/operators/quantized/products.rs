//! Exact sums of products of 8-bit integers, by tract's `f32` kernels.
//!
//! Zero points are taken off first. A sum whose terms' magnitudes add up to less than 2^24 is the same integer in
//! `f32`, in whatever order it is added; longer ones are cut into parts, which [`super::finish`] adds as integers.
//! Matrix and convolution kernels of `f32` are the fastest that tract has on every gateway's processor.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::Slice;
use tract_onnx::tract_hir::ops::cnn::Conv;
use tract_onnx::tract_hir::ops::expandable::Expansion;
use tract_onnx::tract_hir::ops::matmul::MatMulInference;

use super::super::kernel::{Kernel, fact, typed};
use super::numbers::{Quantum, blank, by_octet, integers, magnitude_max, zero_point};

/// Up to here all whole numbers are in `f32`.
pub(super) const EXACT_MAX: i64 = 1 << 24;
/// Most parts of a sum: more than a hundred thousand terms.
const PARTS_MAX: usize = 512;

/// Partial sums whose total is the integer sum.
pub(super) struct Sums {
    /// Tensors of `f32` with whole numbers, all of the output's shape.
    pub(super) parts: TVec<OutletId>,
    /// Largest magnitude of the one part; nothing where there are several.
    pub(super) magnitude_max: Option<i64>,
}

/// A tensor of quantised numbers and its zero point.
#[derive(Clone, Copy)]
pub(super) struct Factor {
    pub(super) values: OutletId,
    pub(super) zero: Option<OutletId>,
}

/// How a matrix product reads its factors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Turned {
    pub(super) left: bool,
    pub(super) right: bool,
}

/// Adds the product of two stacks of matrices to a graph.
///
/// *Errors*: types, shapes or zero points that do not fit; a sum too long.
pub(super) fn wire_matmul(
    prefix: &str,
    model: &mut TypedModel,
    left: Factor,
    right: Factor,
    turned: Turned,
) -> TractResult<Sums> {
    let left_zero = single_zero(model, left)?;
    let left_max = magnitude_max(model.outlet_fact(left.values)?.datum_type, left_zero)?;
    let left_rank = model.outlet_fact(left.values)?.rank();
    let left_axis = if turned.left { left_rank.saturating_sub(2) } else { left_rank - 1 };
    let right_fact = model.outlet_fact(right.values)?.clone();
    let right_axis = match (right_fact.rank(), turned.right) {
        (0, _) => bail!("a factor has no axes"),
        (1, _) => 0,
        (rank, true) => rank - 1,
        (rank, false) => rank - 2,
    };
    let length = right_fact.shape[right_axis].to_usize()?;
    let a = wire_centred(&format!("{prefix}.left"), model, left)?;
    let (b, cuts, total) = if let Some(constant) = &right_fact.konst {
        let columns = if right_fact.rank() < 2 { None } else { Some(right_fact.rank() * 2 - 3 - right_axis) };
        let centred = centred_constant(constant, &zeros(model, right.zero)?, columns)?;
        let (cuts, total) = cuts_of_weights(&centred, right_axis, Follows::Columns, left_max)?;
        (model.add_const(format!("{prefix}.right"), centred)?, cuts, total)
    } else {
        let right_max = magnitude_max(right_fact.datum_type, single_zero(model, right)?)?;
        let terms = usize::try_from((EXACT_MAX - 1) / (left_max * right_max).max(1))?;
        let cuts = (0..length).step_by(terms).chain([length]).collect();
        (wire_centred(&format!("{prefix}.right"), model, right)?, cuts, length as i64 * left_max * right_max)
    };
    let product = MatMulInference { a_trans: turned.left, b_trans: turned.right, c_trans: false };
    let parts = parts(prefix, model, [(a, left_axis), (b, right_axis)], &cuts, |prefix, model, factors| {
        product.wire(prefix, model, factors)
    })?;
    Ok(Sums { magnitude_max: (parts.len() == 1).then_some(total), parts })
}

/// Adds a convolution to a graph. The weights are constants in the order of ONNX.
///
/// *Errors*: types, shapes or zero points that do not fit; a kernel too large.
pub(super) fn wire_convolution(
    prefix: &str,
    model: &mut TypedModel,
    input: Factor,
    weights: Factor,
    convolution: &Conv,
) -> TractResult<Sums> {
    let input_zero = single_zero(model, input)?;
    let input_max = magnitude_max(model.outlet_fact(input.values)?.datum_type, input_zero)?;
    let constant = super::assembly::constant(model, weights.values)?;
    let centred = centred_constant(&constant, &zeros(model, weights.zero)?, Some(0))?;
    let (cuts, total) = cuts_of_weights(&centred, 1, Follows::Taps, input_max)?;
    ensure!(
        cuts.len() == 2 || convolution.group.unwrap_or(1) == 1,
        "a kernel in groups has more terms than are summed exactly"
    );
    let x = wire_centred(&format!("{prefix}.input"), model, input)?;
    let w = model.add_const(format!("{prefix}.weights"), centred)?;
    let parts = parts(prefix, model, [(x, 1), (w, 1)], &cuts, |prefix, model, factors| {
        convolution.wire(prefix, model, factors)
    })?;
    Ok(Sums { magnitude_max: (parts.len() == 1).then_some(total), parts })
}

/// Adds a product for every part of the summed axis.
fn parts(
    prefix: &str,
    model: &mut TypedModel,
    factors: [(OutletId, usize); 2],
    cuts: &[usize],
    mut wire: impl FnMut(&str, &mut TypedModel, &[OutletId]) -> TractResult<TVec<OutletId>>,
) -> TractResult<TVec<OutletId>> {
    ensure!(cuts.len() - 1 <= PARTS_MAX, "a sum of more than {PARTS_MAX} parts");
    if cuts.len() <= 2 {
        let factors = factors.map(|(outlet, _)| outlet);
        return wire(&format!("{prefix}.product"), model, &factors);
    }
    let mut sums = tvec!();
    for (part, cut) in cuts.windows(2).enumerate() {
        let mut sliced = tvec!();
        for (side, (outlet, axis)) in factors.iter().enumerate() {
            let name = format!("{prefix}.slice-{part}-{side}");
            sliced.extend(model.wire_node(name, Slice::new(*axis, cut[0], cut[1]), &[*outlet])?);
        }
        sums.extend(wire(&format!("{prefix}.product-{part}"), model, &sliced)?);
    }
    Ok(sums)
}

/// What the axes after the summed one are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    Columns,
    Taps,
}

/// Returns where to cut the summed axis, first and last place included, and the largest magnitude of all sums.
///
/// What follows the axis is either one more axis of sums (a matrix's columns) or summed as well (a kernel's taps).
fn cuts_of_weights(
    weights: &Tensor,
    axis: usize,
    follows: Follows,
    other_max: i64,
) -> TractResult<(Vec<usize>, i64)> {
    let shape = weights.shape();
    let length = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    let values = weights.try_as_plain_ram()?.as_slice::<f32>()?;
    let rows = if follows == Follows::Taps { 1 } else { inner.max(1) };
    let outer: usize = shape[..axis].iter().product();
    let mut open = vec![0_i64; outer * rows];
    let mut total = vec![0_i64; outer * rows];
    let mut cuts = vec![0];
    for place in 0..length {
        let mut terms = vec![0_i64; outer * rows];
        for group in 0..outer {
            let start = (group * length + place) * inner;
            for (i, value) in values[start..start + inner].iter().enumerate() {
                terms[group * rows + i % rows] += value.abs() as i64 * other_max;
            }
        }
        ensure!(
            terms.iter().all(|&term| term < EXACT_MAX),
            "a kernel has more terms than are summed exactly"
        );
        if open.iter().zip(&terms).any(|(open, term)| open + term >= EXACT_MAX) {
            cuts.push(place);
            open.fill(0);
        }
        for ((open, total), term) in open.iter_mut().zip(&mut total).zip(&terms) {
            *open += term;
            *total += term;
        }
    }
    cuts.push(length);
    Ok((cuts, total.into_iter().max().unwrap_or(0)))
}

/// Returns where to cut sums over rows of `depth` weights, first and last place included, so that each part is exact, and
/// the largest magnitude of a whole sum.
pub(super) fn cuts_of_rows(weights: &[f32], depth: usize, other_max: i64) -> (Vec<usize>, i64) {
    let mut open = vec![0_i64; weights.len() / depth];
    let mut total = open.clone();
    let mut cuts = vec![0];
    for place in 0..depth {
        let term = |row: usize| weights[row * depth + place].abs() as i64 * other_max;
        if open.iter().enumerate().any(|(row, open)| open + term(row) >= EXACT_MAX) {
            cuts.push(place);
            open.fill(0);
        }
        for (row, (open, total)) in open.iter_mut().zip(&mut total).enumerate() {
            *open += term(row);
            *total += term(row);
        }
    }
    cuts.push(depth);
    (cuts, total.into_iter().max().unwrap_or(0))
}

/// Returns zero points; no tensor is a 0.
pub(super) fn zeros(model: &TypedModel, outlet: Option<OutletId>) -> TractResult<Vec<i32>> {
    outlet.map_or(Ok(vec![0]), |outlet| integers(&*super::assembly::constant(model, outlet)?))
}

/// Returns a zero point that is known, and nothing where it is computed.
pub(super) fn single_zero(model: &TypedModel, factor: Factor) -> TractResult<Option<i32>> {
    let Some(zero) = factor.zero else { return Ok(Some(0)) };
    let zero_fact = model.outlet_fact(zero)?;
    let same = zero_fact.datum_type == model.outlet_fact(factor.values)?.datum_type;
    ensure!(same, "a zero point is of type {:?}, other than its tensor", zero_fact.datum_type);
    ensure!(zero_fact.shape.volume().is_one(), "zero points by row are not computed here");
    zero_fact.konst.as_deref().map(zero_point).transpose()
}

/// Takes the zero points off weights; more than one are those of the places of `axis`.
fn centred_constant(weights: &Tensor, zeros: &[i32], axis: Option<usize>) -> TractResult<Tensor> {
    let integers = by_octet!(weights.datum_type(), octets(weights))?;
    let mut output = blank::<f32>(weights.shape())?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<f32>()?;
    if zeros.len() == 1 {
        into.iter_mut().zip(&integers).for_each(|(into, value)| *into = (value - zeros[0]) as f32);
        return Ok(output);
    }
    let axis = axis.context("zero points by column for a vector")?;
    let places = weights.shape()[axis];
    ensure!(zeros.len() == places, "{} zero points for {places} places", zeros.len());
    let inner: usize = weights.shape()[axis + 1..].iter().product();
    for (i, (into, value)) in into.iter_mut().zip(&integers).enumerate() {
        *into = (value - zeros[i / inner % places]) as f32;
    }
    Ok(output)
}

fn octets<Q: Quantum>(tensor: &Tensor) -> TractResult<Vec<i32>> {
    Ok(tensor.try_as_plain_ram()?.as_slice::<Q>()?.iter().map(|value| value.integer()).collect())
}

/// Adds a node that takes the zero point off.
pub(super) fn wire_centred(prefix: &str, model: &mut TypedModel, factor: Factor) -> TractResult<OutletId> {
    let known = single_zero(model, factor)?;
    let mut inputs = tvec!(factor.values);
    if known.is_none() {
        inputs.extend(factor.zero);
    }
    Ok(model.wire_node(format!("{prefix}.centred"), typed(Centred { zero: known }), &inputs)?[0])
}

/// The integers without their zero point, as `f32`.
#[derive(Debug)]
struct Centred {
    /// The zero point, unless it is the second input.
    zero: Option<i32>,
}

impl Kernel for Centred {
    fn name(&self) -> &'static str {
        "Centred"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(fact(f32::datum_type(), &inputs[0].shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let zero = match self.zero {
            Some(zero) => zero,
            None => zero_point(&inputs[1])?,
        };
        Ok(tvec!(by_octet!(inputs[0].datum_type(), centred(&inputs[0], zero))?.into_tvalue()))
    }
}

fn centred<Q: Quantum>(input: &Tensor, zero: i32) -> TractResult<Tensor> {
    let mut output = blank::<f32>(input.shape())?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<f32>()?;
    for (into, value) in into.iter_mut().zip(input.try_as_plain_ram()?.as_slice::<Q>()?) {
        *into = (value.integer() - zero) as f32;
    }
    Ok(output)
}
