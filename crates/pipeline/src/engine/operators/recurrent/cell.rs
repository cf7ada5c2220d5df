//! What a recurrent operator does at one step.
//!
//! The frame that LSTM, GRU and RNN share: the buffers between steps and a step's face. Never knows where in the sequence
//! a step lies: `walk` does.

use std::fmt::Debug;

use tract_onnx::tract_core::internal::*;

use super::super::super::vectors::Arithmetic;

/// What one step hands to the next, and within a step one pass to the next.
///
/// *Shape*: each `[batch, stride]`, of which the first `hidden` of a row count; empty where the operator has no use for
/// it.
pub(super) struct Buffers {
    pub(super) hidden: usize,
    pub(super) stride: usize,
    /// The state before the step.
    pub(super) h: Vec<f32>,
    /// The state after it.
    pub(super) next: Vec<f32>,
    /// The LSTM's cells; the GRU's update gates.
    pub(super) c: Vec<f32>,
    /// The GRU's states behind the reset gate.
    pub(super) reset: Vec<f32>,
}

/// Rows that go through a panel together.
pub(super) struct Place<'a, const ROWS: usize> {
    pub(super) pass: usize,
    pub(super) panel: usize,
    /// The first row.
    pub(super) row: usize,
    /// Their inputs at this step.
    pub(super) x: [&'a [f32]; ROWS],
    /// Which have this step; the others keep their state.
    pub(super) runs: [bool; ROWS],
}

/// An operator's recurrence in one direction, its weights packed.
pub(super) trait Cell: Debug + Send + Sync {
    /// Returns how often a step goes over all panels: a later pass needs what all panels of an earlier one left.
    fn passes(&self) -> usize {
        1
    }

    /// Computes a panel's units for some rows, from `h` to `next`.
    fn step<A: Arithmetic, const WIDTH: usize, const ROWS: usize>(
        &self,
        place: &Place<'_, ROWS>,
        buffers: &mut Buffers,
    );
}

impl Buffers {
    /// Returns rows of the state.
    #[inline(always)]
    pub(super) fn states<const ROWS: usize>(&self, row: usize) -> [&[f32]; ROWS] {
        rows(&self.h, row, self)
    }

    /// Returns rows of the state behind the reset gate.
    #[inline(always)]
    pub(super) fn resets<const ROWS: usize>(&self, row: usize) -> [&[f32]; ROWS] {
        rows(&self.reset, row, self)
    }

    /// Returns where a row's panel stands.
    #[inline(always)]
    pub(super) fn start<const WIDTH: usize>(&self, row: usize, panel: usize) -> usize {
        row * self.stride + panel * WIDTH
    }

    /// Lets a row keep its state.
    #[inline(always)]
    pub(super) fn keep<const WIDTH: usize>(&mut self, start: usize) {
        self.next[start..start + WIDTH].copy_from_slice(&self.h[start..start + WIDTH]);
    }
}

#[inline(always)]
fn rows<'a, const ROWS: usize>(values: &'a [f32], row: usize, sizes: &Buffers) -> [&'a [f32]; ROWS] {
    let mut rows = [&values[..0]; ROWS];
    for (at, row) in (row..).zip(&mut rows) {
        *row = &values[at * sizes.stride..][..sizes.hidden];
    }
    rows
}

/// Returns a vector of values.
#[inline(always)]
pub(super) fn load<const WIDTH: usize>(values: &[f32], start: usize) -> [f32; WIDTH] {
    let mut vector = [0.0; WIDTH];
    vector.copy_from_slice(&values[start..start + WIDTH]);
    vector
}

/// Writes a vector of values.
#[inline(always)]
pub(super) fn store<const WIDTH: usize>(values: &mut [f32], start: usize, vector: &[f32; WIDTH]) {
    values[start..start + WIDTH].copy_from_slice(vector);
}

/// Bounds what goes into an activation; NaN stays.
#[inline(always)]
pub(super) fn clipped<const WIDTH: usize>(mut values: [f32; WIDTH], bound: Option<f32>) -> [f32; WIDTH] {
    if let Some(bound) = bound {
        for value in &mut values {
            *value = value.clamp(-bound, bound);
        }
    }
    values
}

/// Returns `sums + factors · values`.
#[inline(always)]
pub(super) fn add_scaled<A: Arithmetic, const WIDTH: usize>(
    mut sums: [f32; WIDTH],
    factors: &[f32; WIDTH],
    values: &[f32; WIDTH],
) -> [f32; WIDTH] {
    for (sum, (factor, value)) in sums.iter_mut().zip(factors.iter().zip(values)) {
        *sum = A::add_product(*sum, *factor, *value);
    }
    sums
}

pub(super) fn floats(tensor: &Tensor) -> TractResult<&[f32]> {
    tensor.try_as_plain_ram()?.as_slice::<f32>()
}

pub(super) fn floats_mut(tensor: &mut Tensor) -> TractResult<&mut [f32]> {
    tensor.to_plain_array_view_mut::<f32>()?.into_slice().context("a tensor that is not contiguous")
}
