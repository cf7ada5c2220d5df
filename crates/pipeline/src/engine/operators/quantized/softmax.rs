//! `QLinearSoftmax`: from a table of exponentials, shifted so that the largest input of a row takes the last entry.
//!
//! *Source*: com.microsoft 1. Below opset 13 all axes from `axis` on are one row. Signed outputs saturate; ONNX
//! Runtime lets a probability of 1 wrap to -128 where the output's scale is 1/256.

use std::sync::Mutex;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::assembly::{Built, Inputs};
use super::numbers::{Grid, Quantum, blank, by_octet, rounded};
use super::pooling::{unary_fact, unary_grids};
use crate::engine::vectors::{Arithmetic, Loops, on_widest};

/// From this operator set on, a softmax is along one axis.
const ONE_AXIS_OPSET: i64 = 13;

#[derive(Debug)]
struct Softmax {
    inputs: Inputs,
    axis: i64,
    is_along_one_axis: bool,
    /// The table of the last run, with the scale and the length that it is for.
    kept: Mutex<Option<Kept>>,
}

type Kept = (u32, usize, Arc<[f32]>);

pub(super) fn build(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &["axis", "opset"])?;
    let is_along_one_axis = node.get_attr::<i64>("opset")? >= ONE_AXIS_OPSET;
    let absent = if is_along_one_axis { -1 } else { 1 };
    let axis = node.get_attr_opt("axis")?.unwrap_or(absent);
    built(Softmax { inputs: Inputs::of(node, 4, 5)?, axis, is_along_one_axis, kept: Mutex::default() })
}

impl Softmax {
    fn table(&self, scale: f32, length: usize) -> Arc<[f32]> {
        let made = || -> Arc<[f32]> { exponentials(scale, length).into() };
        let Ok(mut kept) = self.kept.try_lock() else { return made() };
        match &*kept {
            Some((bits, count, table)) if *bits == scale.to_bits() && *count == length => Arc::clone(table),
            _ => {
                let table = made();
                *kept = Some((scale.to_bits(), length, Arc::clone(&table)));
                table
            }
        }
    }

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
        let table = self.table(from.scale, length);
        Ok(tvec!(by_octet!(input.datum_type(), softmax(input, (length, inner), &table, to))?.into_tvalue()))
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
    table: &[f32],
    to: Grid,
) -> TractResult<Tensor> {
    let values = input.try_as_plain_ram()?.as_slice::<Q>()?;
    let mut output = blank::<Q>(input.shape())?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    if values.is_empty() {
        return Ok(output);
    }
    on_widest(Rows { table, values, into, length, inner, steps: (1.0 / to.scale).floor(), zero: to.zero });
    Ok(output)
}

struct Rows<'a, Q> {
    table: &'a [f32],
    values: &'a [Q],
    into: &'a mut [Q],
    length: usize,
    inner: usize,
    steps: f32,
    zero: i32,
}

impl<Q: Quantum> Loops for Rows<'_, Q> {
    type Output = ();

    #[expect(clippy::needless_range_loop, reason = "loops over several slices of one length")]
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { length, inner, steps, zero, .. } = self;
        let Some(table) = self.table.first_chunk::<256>() else { return };
        let mut exponentials = vec![0.0_f32; length];
        for row in 0..self.values.len() / length {
            let start = row / inner * length * inner + row % inner;
            let mut largest = Q::LOW;
            for i in 0..length {
                largest = largest.max(self.values[start + i * inner].integer());
            }
            // In this order, as ONNX Runtime sums.
            let mut sum = 0.0;
            for i in 0..length {
                let below = largest - self.values[start + i * inner].integer();
                exponentials[i] = table[255 - (below & 255) as usize];
                sum += exponentials[i];
            }
            if inner == 1 {
                let into = &mut self.into[start..][..length];
                let exponentials = &exponentials[..length];
                for i in 0..length {
                    into[i] = rounded(exponentials[i] * steps / sum, zero);
                }
            } else {
                for i in 0..length {
                    self.into[start + i * inner] = rounded(exponentials[i] * steps / sum, zero);
                }
            }
        }
    }
}
