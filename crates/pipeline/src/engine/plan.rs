//! An optimised plan for one batch size, with the state that its runs share.
//!
//! Keeps the state of a run for the next one where no operator remembers anything; making it costs as much as a small
//! model. Never keeps one of a run that failed.

use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::plan::SimpleState;

type State = SimpleState<TypedFact, Box<dyn TypedOp>>;

/// A plan that can be run again and again.
pub(super) struct Plan {
    runnable: Arc<TypedRunnableModel>,
    kept: Option<State>,
}

impl Plan {
    /// Prepares an optimised graph.
    ///
    /// *Errors*: the engine's.
    pub(super) fn new(model: TypedModel) -> TractResult<Self> {
        Ok(Self { runnable: model.into_runnable()?, kept: None })
    }

    /// Runs the plan.
    ///
    /// *Errors*: the engine's; the plan can be run again.
    pub(super) fn run(&mut self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut state = match self.kept.take() {
            Some(state) => state,
            None => self.runnable.spawn()?,
        };
        let outputs = state.run(inputs)?;
        // What an operator remembers of one window, as a loop's body does, is not for the next one.
        if state.op_states.iter().all(Option::is_none) {
            self.kept = Some(state);
        }
        Ok(outputs)
    }

    /// Returns a state of its own, for runs that are watched.
    ///
    /// *Errors*: the engine's.
    pub(super) fn spawn(&self) -> TractResult<State> {
        self.runnable.spawn()
    }

    /// Returns the prepared graph.
    pub(super) fn model(&self) -> &TypedModel {
        self.runnable.model()
    }

    /// Whether every output for a batch is that of single windows, which `single` gives, one after the other.
    pub(super) fn has_batch_first(&self, single: &Self, batch: usize) -> bool {
        let outputs = self.model().output_outlets().map_or(0, <[OutletId]>::len);
        (0..outputs).all(|position| {
            let shape =
                |plan: &Self| Some(plan.model().output_fact(position).ok()?.shape.as_concrete()?.to_vec());
            let (Some(single), Some(many)) = (shape(single), shape(self)) else { return true };
            let Some(axis) = single.iter().zip(&many).position(|(one, many)| one != many) else {
                return false;
            };
            single.len() == many.len()
                && single[..axis].iter().all(|length| *length == 1)
                && single[axis] * batch == many[axis]
                && single[axis + 1..] == many[axis + 1..]
        })
    }
}
