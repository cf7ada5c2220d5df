//! An optimised plan for one batch size, with what its runs share.
//!
//! Runs a graph as steps where no operator remembers anything, and else by tract's own state. Keeps the tensors and the
//! state of a run for the next one; never those of a run that failed, and none that the caller of a run still reads.

use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::TractErrorContext;
use tract_onnx::tract_core::plan::SimpleState;

use super::operators::kernel;
use super::steps::Steps;

pub(super) type State = SimpleState<TypedFact, Box<dyn TypedOp>>;

/// A plan that can be run again and again.
pub(super) struct Plan {
    runnable: Arc<TypedRunnableModel>,
    /// Types and shapes of the inputs.
    inputs: Vec<(DatumType, TVec<usize>)>,
    /// Nothing where an operator has a state or a shape is known only in a run.
    steps: Option<Steps>,
    kept: Option<State>,
}

impl Plan {
    /// Prepares an optimised graph, whose inputs have known shapes.
    ///
    /// *Errors*: the engine's.
    pub(super) fn new(model: TypedModel) -> TractResult<Self> {
        let mut inputs = Vec::new();
        for outlet in model.input_outlets()? {
            let fact = model.outlet_fact(*outlet)?;
            let shape = fact.shape.as_concrete().context("the shape of an input is not known")?;
            inputs.push((fact.datum_type, shape.into()));
        }
        let runnable = model.into_runnable()?;
        let steps = Steps::of(&runnable)?;
        Ok(Self { runnable, inputs, steps, kept: None })
    }

    /// Runs the plan: `write` fills each input, every value of it, and `read` is given the outputs.
    ///
    /// *Errors*: the engine's; the plan can be run again.
    pub(super) fn run<T>(
        &mut self,
        write: impl FnMut(usize, &mut Tensor) -> TractResult<()>,
        read: impl FnOnce(&[&Tensor]) -> T,
    ) -> TractResult<T> {
        if let Some(steps) = &mut self.steps {
            return steps.run(write, read);
        }
        let inputs = self.inputs(write)?;
        let mut state = match self.kept.take() {
            Some(state) => state,
            None => self.runnable.spawn()?,
        };
        let outputs = state.run(inputs)?;
        // What an operator remembers of one window, as a loop's body does, is not for the next one.
        if state.op_states.iter().all(Option::is_none) {
            self.kept = Some(state);
        }
        Ok(read(&outputs.iter().map(|output| &**output).collect::<TVec<_>>()))
    }

    /// Returns inputs that `write` has filled, for a state of tract.
    ///
    /// *Errors*: those of `write`.
    pub(super) fn inputs(
        &self,
        mut write: impl FnMut(usize, &mut Tensor) -> TractResult<()>,
    ) -> TractResult<TVec<TValue>> {
        let made = self.inputs.iter().enumerate().map(|(position, (datum_type, shape))| {
            let mut tensor = kernel::blank(*datum_type, shape)?;
            write(position, &mut tensor)?;
            Ok(tensor.into_tvalue())
        });
        made.collect()
    }

    /// Whether the plan is run by steps.
    #[cfg(test)]
    pub(super) const fn is_of_steps(&self) -> bool {
        self.steps.is_some()
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
