//! `QLinearSoftmax`: from a table of exponentials, shifted so that the largest input of a row takes the last entry.
//!
//! *Source*: com.microsoft 1. Below opset 13 all axes from `axis` on are one row. Signed outputs saturate; ONNX
//! Runtime lets a probability of 1 wrap to -128 where the output's scale is 1/256.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::assembly::{Built, Inputs};
use super::numbers::{Grid, Quantum, blank, by_octet};
use super::pooling::{unary_fact, unary_grids};

/// From this operator set on, a softmax is along one axis.
const ONE_AXIS_OPSET: i64 = 13;

#[derive(Debug)]
struct Softmax {
    inputs: Inputs,
    axis: i64,
    is_along_one_axis: bool,
}

pub(super) fn build(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &["axis", "opset"])?;
    let is_along_one_axis = node.get_attr::<i64>("opset")? >= ONE_AXIS_OPSET;
    let absent = if is_along_one_axis { -1 } else { 1 };
    let axis = node.get_attr_opt("axis")?.unwrap_or(absent);
    built(Softmax { inputs: Inputs::of(node, 4, 5)?, axis, is_along_one_axis })
}

impl Softmax {
    fn axis(&self, rank: usize) -> TractResult<usize> {
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        ensure!((0..rank as i64).contains(&axis), "`axis` {} is none of {rank}", self.axis);
        Ok(axis as usize)
    }
}

impl Kernel for Softmax {
    fn name(&self) -> &'static str {
        "QLinearSoftmax"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = unary_fact(&self.inputs, inputs)?;
        self.axis(input.rank())?;
        Ok(tvec!(fact(input.datum_type, &input.shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let tensors: TVec<&Tensor> = inputs.iter().map(|input| &**input).collect();
        let (from, to) = unary_grids(&self.inputs, &tensors)?;
        let input = self.inputs.need(&tensors, 0)?;
        let axis = self.axis(input.rank())?;
        let shape = input.shape();
        let (length, inner) = if self.is_along_one_axis {
            (shape[axis], shape[axis + 1..].iter().product())
        } else {
            (shape[axis..].iter().product(), 1)
        };
        Ok(tvec!(by_octet!(input.datum_type(), softmax(input, (length, inner), from, to))?.into_tvalue()))
    }
}

/// Returns the exponentials of the 256 distances from the largest number, the largest last.
///
/// They are lifted as far as a sum of `length` of them stays below the largest `f32`, five powers of e to spare.
fn exponentials(scale: f32, length: usize) -> Vec<f32> {
    let room = f64::from(f32::MAX / length as f32).ln();
    let lift = (room - 5.0).max(0.0) / f64::from(scale);
    (0..256).map(|i| ((f64::from(i) - 255.0 + lift) * f64::from(scale)).exp() as f32).collect()
}

fn softmax<Q: Quantum>(
    input: &Tensor,
    (length, inner): (usize, usize),
    from: Grid,
    to: Grid,
) -> TractResult<Tensor> {
    let values = input.try_as_plain_ram()?.as_slice::<Q>()?;
    let mut output = blank::<Q>(input.shape())?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    if values.is_empty() {
        return Ok(output);
    }
    let table = exponentials(from.scale, length);
    let steps = (1.0 / to.scale).floor();
    for group in 0..values.len() / (length * inner) {
        for column in 0..inner {
            let at = |i: usize| (group * length + i) * inner + column;
            let integer = |i: usize| values[at(i)].integer();
            let largest = (0..length).map(integer).max().unwrap_or(0);
            let exponential = |i: usize| table[(255 - (largest - integer(i))) as usize];
            let sum: f32 = (0..length).map(exponential).sum();
            for i in 0..length {
                let share = (exponential(i) * steps / sum).round_ties_even() as i32;
                into[at(i)] = Q::of(share.saturating_add(to.zero).clamp(Q::LOW, Q::HIGH));
            }
        }
    }
    Ok(output)
}
