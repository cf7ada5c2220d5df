//! A plan as a list of steps: what runs where no operator remembers anything and every shape is known.
//!
//! Works out once what an engine for any graph asks at every run: the order, where each value lies, who reads it last,
//! and which tensors can be written anew instead of made. Never gives an operator another input than tract's own state
//! does, and never keeps anything of a run that failed.

use std::ops::Range;
use std::sync::Arc;

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::source::TypedSource;
use tract_onnx::tract_core::plan::SessionId;

use super::operators::kernel::{self, Kernel};
use super::operators::small;
use super::plan::State;

/// Largest tensor that is kept between runs: beyond it the making is little beside the filling.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// Most that a plan keeps: a thousandth of what a gateway has.
const KEPT_BYTES_OF_PLAN_MAX: usize = 512 << 10;

/// The steps of a graph with the values that they hand on.
pub(super) struct Steps {
    runnable: Arc<TypedRunnableModel>,
    steps: Vec<Step>,
    /// By slot, one for every output of a node.
    values: Vec<Option<TValue>>,
    slots: Vec<Slot>,
    /// Slots of the graph's inputs.
    inputs: Vec<usize>,
    /// Slots of the graph's outputs.
    outputs: Vec<usize>,
    /// What operators know a row of runs by; none after a run that failed.
    session: Option<Session>,
}

/// What is known of a value before it is there.
struct Slot {
    datum_type: DatumType,
    shape: TVec<usize>,
    life: Life,
}

/// How long a value is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Until its last reader has it, which may work in place.
    Run,
    /// Nobody reads it.
    Unread,
    /// Until the outputs are read.
    Output,
    /// From run to run: its tensor is written again.
    Kept,
    /// As long as the plan.
    Constant,
}

struct Step {
    node: usize,
    /// Writes into tensors that are there.
    kernel: Option<Arc<dyn Kernel>>,
    inputs: Vec<Input>,
    outputs: Range<usize>,
}

#[derive(Clone, Copy)]
struct Input {
    slot: usize,
    /// Nobody reads the value afterwards.
    is_last: bool,
}

/// A state of tract, of which the steps take the contexts alone.
struct Session {
    state: Box<State>,
    id: SessionId,
}

impl Session {
    /// Opens a session; `None` where an operator has a state of its own.
    fn open(runnable: &Arc<TypedRunnableModel>) -> TractResult<Option<Self>> {
        let mut state = Box::new(runnable.spawn()?);
        if state.op_states.iter().any(Option::is_some) {
            return Ok(None);
        }
        // A state tells its session to the operators alone: the first is asked, and nothing is run.
        let mut id = None;
        let asking = |context: &EvalContext<'_>,
                      _: Option<&mut (dyn OpState + 'static)>,
                      _: &TypedNode,
                      _: TVec<TValue>|
         -> TractResult<TVec<TValue>> {
            id = Some(context.session);
            bail!("the session alone is asked for")
        };
        let _ = state.exec_plan_with_eval(asking);
        state.turn_state.values = Vec::new();
        Ok(id.map(|id| Self { state, id }))
    }
}

impl Steps {
    /// Lays a graph out as steps; `None` where it needs a state or a shape is known only in a run.
    ///
    /// *Errors*: the engine's.
    pub(super) fn of(runnable: &Arc<TypedRunnableModel>) -> TractResult<Option<Self>> {
        let Some(session) = Session::open(runnable)? else { return Ok(None) };
        let model = runnable.model();
        let mut layout =
            Layout { slots: Vec::new(), values: Vec::new(), first: vec![None; model.nodes.len()] };
        for node in model.nodes.iter().filter(|node| node.op_is::<Const>()) {
            layout.constant(node)?;
        }
        let order = runnable.order_without_consts();
        let mut steps = Vec::new();
        for node in order.iter().map(|&id| model.node(id)) {
            let Some(outputs) = layout.node(node) else { return Ok(None) };
            if !node.op_is::<TypedSource>() {
                let inputs = layout.of_all(&node.inputs)?.into_iter();
                let inputs = inputs.map(|slot| Input { slot, is_last: false }).collect();
                let kernel = kernel::writing(&*node.op);
                let small = || {
                    small::of(
                        &*node.op,
                        &model.node_input_facts(node.id).ok()?,
                        &model.node_output_facts(node.id).ok()?,
                    )
                };
                steps.push(Step { node: node.id, kernel: kernel.or_else(small), inputs, outputs });
            }
        }
        // An input that nobody reads is in no order.
        for input in model.input_outlets()? {
            if layout.first[input.node].is_none() && layout.node(model.node(input.node)).is_none() {
                return Ok(None);
            }
        }
        let (inputs, outputs) =
            (layout.of_all(model.input_outlets()?)?, layout.of_all(model.output_outlets()?)?);
        let Layout { mut slots, values, .. } = layout;
        keep(&mut slots, &inputs, &outputs, &steps);
        mark_last(&mut slots, &mut steps);
        let runnable = runnable.clone();
        Ok(Some(Self { runnable, steps, values, slots, inputs, outputs, session: Some(session) }))
    }

    /// Runs the steps: `write` fills each input, and the outputs are then handed to `read`. What `read` returns is of
    /// no meaning for the plan.
    ///
    /// *Errors*: the engine's; the next run begins afresh.
    pub(super) fn run<T>(
        &mut self,
        mut write: impl FnMut(usize, &mut Tensor) -> TractResult<()>,
        read: impl FnOnce(&[&Tensor]) -> T,
    ) -> TractResult<T> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.begin_afresh()?,
        };
        for (position, &slot) in self.inputs.iter().enumerate() {
            let mut tensor = own(&self.slots[slot], self.values[slot].take())?;
            write(position, exclusive(&mut tensor)?)?;
            self.values[slot] = Some(tensor.into_tvalue());
        }
        for step in &self.steps {
            let ran = match &step.kernel {
                Some(kernel) => step.write(&**kernel, &self.slots, &mut self.values),
                None => step.evaluate(self.runnable.model(), &session, &mut self.values),
            };
            ran.with_context(|| format!("Evaluating {}", self.runnable.model().node(step.node)))?;
            #[cfg(debug_assertions)]
            step.check(&self.slots, &self.values)?;
            for slot in step.outputs.clone().filter(|&slot| self.slots[slot].life == Life::Unread) {
                self.values[slot] = None;
            }
        }
        let outputs = self.outputs.iter().map(|&slot| value(&self.values, slot));
        let result = read(&outputs.collect::<TractResult<TVec<&Tensor>>>()?);
        for &slot in &self.outputs {
            if self.slots[slot].life == Life::Output {
                self.values[slot] = None;
            }
        }
        self.session = Some(session);
        Ok(result)
    }

    /// Drops what a run that failed has left.
    fn begin_afresh(&mut self) -> TractResult<Session> {
        for (slot, value) in self.slots.iter().zip(&mut self.values) {
            if slot.life != Life::Constant {
                *value = None;
            }
        }
        Session::open(&self.runnable)?.ok_or_else(|| format_err!("an operator has got a state"))
    }
}

/// Slots as they are given to the outputs of nodes.
struct Layout {
    slots: Vec<Slot>,
    values: Vec<Option<TValue>>,
    /// The first slot of each node.
    first: Vec<Option<usize>>,
}

impl Layout {
    fn constant(&mut self, node: &TypedNode) -> TractResult<()> {
        let tensor = node.op_as::<Const>().context("it is no constant")?.val().clone();
        self.first[node.id] = Some(self.slots.len());
        self.slots.push(Slot {
            datum_type: tensor.datum_type(),
            shape: tensor.shape().into(),
            life: Life::Constant,
        });
        self.values.push(Some(tensor.into_tvalue()));
        Ok(())
    }

    /// Returns the slots of a node's outputs; `None` where a shape is not known.
    fn node(&mut self, node: &TypedNode) -> Option<Range<usize>> {
        let first = self.slots.len();
        self.first[node.id] = Some(first);
        for output in &node.outputs {
            let shape = output.fact.shape.as_concrete()?.into();
            self.slots.push(Slot { datum_type: output.fact.datum_type, shape, life: Life::Run });
            self.values.push(None);
        }
        Some(first..self.slots.len())
    }

    fn of_all(&self, outlets: &[OutletId]) -> TractResult<Vec<usize>> {
        let slot = |outlet: &OutletId| self.first[outlet.node].map(|first| first + outlet.slot);
        outlets.iter().map(|outlet| slot(outlet).context("a value is read before it is there")).collect()
    }
}

/// Decides which values outlive the step that reads them last.
fn keep(slots: &mut [Slot], inputs: &[usize], outputs: &[usize], steps: &[Step]) {
    for &slot in outputs {
        if slots[slot].life == Life::Run {
            slots[slot].life = Life::Output;
        }
    }
    let mut room = KEPT_BYTES_OF_PLAN_MAX;
    let written = steps.iter().filter(|step| step.kernel.is_some()).flat_map(|step| step.outputs.clone());
    for slot in inputs.iter().copied().chain(written) {
        let slot = &mut slots[slot];
        let bytes = slot.datum_type.size_of().saturating_mul(slot.shape.iter().product());
        if slot.life != Life::Constant && bytes <= KEPT_BYTES_MAX.min(room) {
            slot.life = Life::Kept;
            room -= bytes;
        }
    }
}

/// Marks the last reading of every value that only lives for the run, and the values that nobody reads.
fn mark_last(slots: &mut [Slot], steps: &mut [Step]) {
    let mut is_read = vec![false; slots.len()];
    for input in steps.iter_mut().rev().flat_map(|step| step.inputs.iter_mut().rev()) {
        let later = std::mem::replace(&mut is_read[input.slot], true);
        input.is_last = !later && slots[input.slot].life == Life::Run;
    }
    for (slot, _) in
        slots.iter_mut().zip(is_read).filter(|(slot, is_read)| !is_read && slot.life == Life::Run)
    {
        slot.life = Life::Unread;
    }
}

impl Step {
    /// Runs a kernel that writes into tensors that are there.
    fn write(&self, kernel: &dyn Kernel, slots: &[Slot], values: &mut [Option<TValue>]) -> TractResult<()> {
        let mut outputs: TVec<Arc<Tensor>> = TVec::new();
        for slot in self.outputs.clone() {
            outputs.push(own(&slots[slot], values[slot].take())?);
        }
        {
            let mut inputs: TVec<&Tensor> = TVec::new();
            for input in &self.inputs {
                inputs.push(value(values, input.slot)?);
            }
            let mut into: TVec<&mut Tensor> = TVec::new();
            for output in &mut outputs {
                into.push(exclusive(output)?);
            }
            kernel.run_into(&inputs, &mut into)?;
        }
        for input in self.inputs.iter().filter(|input| input.is_last) {
            values[input.slot] = None;
        }
        for (slot, output) in self.outputs.clone().zip(outputs) {
            values[slot] = Some(output.into_tvalue());
        }
        Ok(())
    }

    /// Runs an operator that makes its outputs.
    fn evaluate(
        &self,
        model: &TypedModel,
        session: &Session,
        values: &mut [Option<TValue>],
    ) -> TractResult<()> {
        let mut inputs: TVec<TValue> = TVec::new();
        for input in &self.inputs {
            let found = &mut values[input.slot];
            let found = if input.is_last { found.take() } else { found.clone() };
            inputs.push(found.ok_or_else(absent)?);
        }
        let context = session.state.turn_state.context(session.id, self.node);
        let outputs = model.nodes[self.node].op.eval(&context, inputs)?;
        ensure!(
            outputs.len() == self.outputs.len(),
            "it made {} outputs and not {}",
            outputs.len(),
            self.outputs.len()
        );
        for (slot, output) in self.outputs.clone().zip(outputs) {
            values[slot] = Some(output);
        }
        Ok(())
    }

    /// Finds operators that give something else than they announced, as tract does where it is built for tests.
    #[cfg(debug_assertions)]
    fn check(&self, slots: &[Slot], values: &[Option<TValue>]) -> TractResult<()> {
        for slot in self.outputs.clone().filter(|&slot| slots[slot].life != Life::Unread) {
            let (slot, value) = (&slots[slot], value(values, slot)?);
            ensure!(
                slot.datum_type == value.datum_type() && *slot.shape == *value.shape(),
                "node {} gave {value:?}, and {:?} of {:?} was announced",
                self.node,
                slot.shape,
                slot.datum_type
            );
        }
        Ok(())
    }
}

fn absent() -> TractError {
    format_err!("a value is read before it is there")
}

fn value(values: &[Option<TValue>], slot: usize) -> TractResult<&Tensor> {
    values[slot].as_deref().ok_or_else(absent)
}

/// Returns the tensor that a slot kept, or a new one where it kept none or somebody else has it still.
fn own(slot: &Slot, kept: Option<TValue>) -> TractResult<Arc<Tensor>> {
    if let Some(kept) = kept {
        let mut kept = kept.into_arc_tensor();
        if Arc::get_mut(&mut kept).is_some() {
            return Ok(kept);
        }
    }
    Ok(Arc::new(kernel::blank(slot.datum_type, &slot.shape)?))
}

fn exclusive(tensor: &mut Arc<Tensor>) -> TractResult<&mut Tensor> {
    Arc::get_mut(tensor).context("a tensor that is written has a second reader")
}
