//! What a recurrent operator does at one step.
//!
//! The frame that LSTM, GRU and RNN share: the state between steps, which rows still run, and a step's face. Never
//! knows where in the sequence a step lies: `sequence` walks.

use std::fmt::Debug;

use tract_onnx::tract_core::internal::*;

/// What one step hands to the next.
pub(super) struct State {
    /// *Shape*: `[batch, hidden]`
    pub(super) h: Tensor,
    /// The LSTM's cells, `[batch, hidden]`; empty with the others.
    pub(super) c: Vec<f32>,
    pub(super) hidden: usize,
}

impl State {
    pub(super) fn h(&self) -> TractResult<&[f32]> {
        floats(&self.h)
    }
}

/// Which rows of a batch have a step left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running<'a> {
    pub(super) lengths: &'a [usize],
    pub(super) step: usize,
}

impl Running<'_> {
    pub(super) fn includes(&self, row: usize) -> bool {
        self.step < self.lengths[row]
    }
}

/// An operator's recurrence in one direction, its weights packed.
pub(super) trait Cell: Debug + Send + Sync {
    /// Returns the recurrence with buffers for a batch.
    fn started<'a>(&'a self, batch: usize) -> TractResult<Box<dyn Steps + 'a>>;
}

/// A recurrence under way.
pub(super) trait Steps {
    /// Takes one step: the state of the rows that run is replaced by the next.
    ///
    /// *Shape*: `gates` is `[steps, batch, rows]`; block `at` of it holds the projected input with its bias and may be
    /// written over.
    fn step(
        &mut self,
        gates: &mut Tensor,
        at: usize,
        state: &mut State,
        running: Running<'_>,
    ) -> TractResult<()>;
}

/// Returns block `at` of `[steps, batch, rows]`.
pub(super) fn block<'a>(gates: &'a mut PlainViewMut<'_>, at: usize) -> TractResult<&'a mut [f32]> {
    let length: usize = gates.shape()[1..].iter().product();
    Ok(&mut gates.as_slice_mut::<f32>()?[at * length..(at + 1) * length])
}

pub(super) fn floats(tensor: &Tensor) -> TractResult<&[f32]> {
    tensor.try_as_plain_ram()?.as_slice::<f32>()
}

pub(super) fn floats_mut(tensor: &mut Tensor) -> TractResult<&mut [f32]> {
    tensor.to_plain_array_view_mut::<f32>()?.into_slice().context("a tensor that is not contiguous")
}

/// Bounds the values that go into an activation; NaN stays.
pub(super) fn clip(values: &mut [f32], bound: Option<f32>) {
    if let Some(bound) = bound {
        for value in values {
            *value = value.clamp(-bound, bound);
        }
    }
}

/// Adds `factors · values` to a gate.
pub(super) fn add_scaled(gate: &mut [f32], factors: &[f32], values: &[f32]) {
    for ((gate, factor), value) in gate.iter_mut().zip(factors).zip(values) {
        *gate += factor * value;
    }
}
