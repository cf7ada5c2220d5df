//! The walk of a recurrent operator through its sequences.
//!
//! Packs the weights when the plan is made, projects the inputs of many steps in one product, and walks each
//! direction step by step; rows that are shorter than the others keep their last state and give zeros after it. Never
//! computes a gate: the cells do.

use std::sync::Arc;

use tract_onnx::tract_core::internal::*;

use super::super::kernel::{Kernel, Prepared};
use super::cell::{Cell, Running, State, floats, floats_mut};
use super::form::{Direction, Form, Inputs, Kind, Layout};
use super::gru::Gru;
use super::lstm::{self, Lstm};
use super::product::{Addend, Weights};
use super::rnn::Rnn;

/// Most projected values held at once: 64 KiB, which with the weights stay in the second cache of a small core, and
/// which bounds the memory of long sequences.
const PROJECTED_VALUES_MAX: usize = 16 * 1024;

/// A recurrent operator.
#[derive(Debug)]
pub(super) struct Recurrent {
    form: Form,
    /// Weights that are constants, packed.
    sides: Option<Arc<Sides>>,
}

/// The weights of a node for one number of steps and rows.
#[derive(Debug)]
struct Sides {
    size: usize,
    hidden: usize,
    steps: usize,
    batch: usize,
    /// Steps that are projected at once.
    projected_steps: usize,
    sides: Vec<Side>,
}

/// The weights of one direction.
#[derive(Debug)]
struct Side {
    direction: Direction,
    input: Weights,
    /// A value a gate's row.
    bias: Tensor,
    cell: Box<dyn Cell>,
}

/// The tensors that a direction writes.
struct Written {
    steps: Option<Tensor>,
    last_h: Option<Tensor>,
    last_c: Option<Tensor>,
}

impl Recurrent {
    pub(super) const fn new(form: Form) -> Self {
        Self { form, sides: None }
    }

    fn pack(&self, tensors: &[&Tensor], shape: (usize, usize), sizes: (usize, usize)) -> TractResult<Sides> {
        let (steps, batch) = shape;
        let rows = self.form.kind.gates() * sizes.1;
        let at_once = (PROJECTED_VALUES_MAX / (rows * batch).max(1)).clamp(1, steps.max(1));
        // Evenly, so that the last part is nearly as long as the others.
        let projected_steps = steps.div_ceil(steps.div_ceil(at_once).max(1)).max(1);
        let directions = self.form.directions.iter().enumerate();
        let sides = directions
            .map(|(position, &direction)| {
                let (input, bias, cell) = self.pack_cell(tensors, position, batch)?;
                Ok(Side { direction, input: Weights::pack(&input, projected_steps * batch)?, bias, cell })
            })
            .collect::<TractResult<_>>()?;
        Ok(Sides { size: sizes.0, hidden: sizes.1, steps, batch, projected_steps, sides })
    }

    fn pack_cell(
        &self,
        tensors: &[&Tensor],
        position: usize,
        batch: usize,
    ) -> TractResult<(Tensor, Tensor, Box<dyn Cell>)> {
        let form = &self.form;
        let of_direction = |tensor: &Tensor| -> TractResult<Tensor> {
            let mut slice = tensor.slice(0, position, position + 1)?;
            slice.remove_axis(0)?;
            Ok(slice)
        };
        let (mut input, mut recurrent) = (of_direction(tensors[1])?, of_direction(tensors[2])?);
        let rows = recurrent.shape()[0];
        let (mut bias, recurrent_bias) = match form.inputs.bias {
            Some(b) => {
                let both = of_direction(tensors[b])?;
                (both.slice(0, 0, rows)?, both.slice(0, rows, 2 * rows)?)
            }
            None => (Tensor::zero::<f32>(&[rows])?, Tensor::zero::<f32>(&[rows])?),
        };
        if form.kind != Kind::Gru {
            for (bias, recurrent) in floats_mut(&mut bias)?.iter_mut().zip(floats(&recurrent_bias)?) {
                *bias += recurrent;
            }
        }
        let cell: Box<dyn Cell> = match form.kind {
            Kind::Lstm => {
                let peepholes =
                    form.inputs.peepholes.map(|p| lstm::peepholes(tensors[p], position)).transpose()?;
                let matrices = [&mut input, &mut recurrent, &mut bias];
                Box::new(Lstm::prepare(form, position, matrices, peepholes, batch)?)
            }
            Kind::Gru => {
                Box::new(Gru::prepare(form, position, &recurrent, &mut bias, recurrent_bias, batch)?)
            }
            Kind::Rnn => Box::new(Rnn::prepare(form, position, &recurrent, batch)?),
        };
        Ok((input, bias, cell))
    }

    /// Returns the positions of inputs that are weights.
    fn weights(&self) -> Vec<usize> {
        [Some(1), Some(2), self.form.inputs.bias, self.form.inputs.peepholes].into_iter().flatten().collect()
    }

    fn lengths(&self, inputs: &[TValue], steps: usize, batch: usize) -> TractResult<Vec<usize>> {
        let Some(position) = self.form.inputs.lengths else { return Ok(vec![steps; batch]) };
        let lengths = inputs[position].try_as_plain_ram()?;
        let length = |&length: &i32| {
            let length = usize::try_from(length).ok().filter(|&length| length <= steps);
            length.with_context(|| format!("a value of `sequence_lens` is not from 0 to {steps}"))
        };
        lengths.as_slice::<i32>()?.iter().map(length).collect()
    }
}

impl Kernel for Recurrent {
    fn name(&self) -> &'static str {
        match self.form.kind {
            Kind::Lstm => "LSTM",
            Kind::Gru => "GRU",
            Kind::Rnn => "RNN",
        }
    }

    fn outputs(&self) -> usize {
        self.form.output_count()
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let sizes = match &self.sides {
            Some(sides) => (sides.size, sides.hidden),
            None => self.form.check_weights(inputs)?,
        };
        self.form.output_facts(inputs, sizes)
    }

    fn prepared(&self, inputs: &[&TypedFact]) -> TractResult<Option<Prepared>> {
        let weights = if self.sides.is_none() { self.weights() } else { return Ok(None) };
        let is_constant = weights.iter().all(|&position| inputs[position].konst.is_some());
        let Some(shape) = inputs[0].shape.as_concrete().filter(|_| is_constant) else { return Ok(None) };
        let sizes = self.form.check_weights(inputs)?;
        let nothing = Tensor::default();
        let tensors: Vec<&Tensor> =
            inputs.iter().map(|fact| fact.konst.as_deref().unwrap_or(&nothing)).collect();
        let sides = self.pack(&tensors, self.form.steps_and_batch(shape), sizes)?;
        let kept: Vec<usize> = (0..inputs.len()).filter(|position| !weights.contains(position)).collect();
        let moved = |position: Option<usize>| position.and_then(|old| kept.iter().position(|&k| k == old));
        let (old, mut form) = (&self.form.inputs, self.form.clone());
        form.inputs = Inputs {
            bias: None,
            lengths: moved(old.lengths),
            initial_h: moved(old.initial_h),
            initial_c: moved(old.initial_c),
            peepholes: None,
        };
        let kernel = Arc::new(Self { form, sides: Some(Arc::new(sides)) });
        Ok(Some(Prepared { kernel, inputs: kept }))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (steps, batch) = self.form.steps_and_batch(inputs[0].shape());
        let sides = match &self.sides {
            Some(sides) => Arc::clone(sides),
            None => {
                let facts: Vec<TypedFact> = inputs.iter().map(|input| fact_of(input)).collect();
                let sizes = self.form.check_weights(&facts.iter().collect::<Vec<_>>())?;
                let tensors: Vec<&Tensor> = inputs.iter().map(|input| &**input).collect();
                Arc::new(self.pack(&tensors, (steps, batch), sizes)?)
            }
        };
        ensure!(
            (steps, batch) == (sides.steps, sides.batch),
            "{steps} steps of {batch} rows are not those planned"
        );
        let lengths = self.lengths(&inputs, steps, batch)?;
        let mut written = self.written(&sides)?;
        if batch > 0 {
            for (position, side) in sides.sides.iter().enumerate() {
                let mut state = self.initial_state(&inputs, &sides, position)?;
                let walk = Walk { form: &self.form, sides: &sides, side, position, lengths: &lengths };
                walk.run(floats(&inputs[0])?, &mut state, written.steps.as_mut())?;
                let finals = [(&mut written.last_h, state.h()?), (&mut written.last_c, &state.c)];
                for (last, values) in finals {
                    let Some(last) = last else { continue };
                    let last = floats_mut(last)?;
                    let rows = values.chunks_exact(sides.hidden).zip(&lengths).enumerate();
                    // A row of no steps has no last state: ONNX Runtime gives zeros, whatever the initial state.
                    for (row, (values, _)) in rows.filter(|(_, (_, length))| **length > 0) {
                        let start = self.state_row(&sides, position, row) * sides.hidden;
                        last[start..start + sides.hidden].copy_from_slice(values);
                    }
                }
            }
        }
        let outputs = [written.steps, written.last_h, written.last_c].into_iter().flatten();
        Ok(outputs.map(IntoTValue::into_tvalue).collect())
    }
}

fn fact_of(tensor: &Tensor) -> TypedFact {
    tensor.datum_type().fact(tensor.shape())
}

impl Recurrent {
    fn written(&self, sides: &Sides) -> TractResult<Written> {
        let Sides { steps, batch, hidden, .. } = *sides;
        let directions = sides.sides.len();
        let (all, state) = match self.form.layout {
            Layout::StepsFirst => ([steps, directions, batch, hidden], [directions, batch, hidden]),
            Layout::BatchFirst => ([batch, steps, directions, hidden], [batch, directions, hidden]),
        };
        let tensor =
            |output: Option<usize>, shape: &[usize]| output.map(|_| Tensor::zero::<f32>(shape)).transpose();
        let outputs = &self.form.outputs;
        Ok(Written {
            steps: tensor(outputs.steps, &all)?,
            last_h: tensor(outputs.last_h, &state)?,
            last_c: tensor(outputs.last_c, &state)?,
        })
    }

    /// Returns where the state of a row stands, counted in rows.
    fn state_row(&self, sides: &Sides, position: usize, row: usize) -> usize {
        match self.form.layout {
            Layout::StepsFirst => position * sides.batch + row,
            Layout::BatchFirst => row * sides.sides.len() + position,
        }
    }

    fn initial_state(&self, inputs: &[TValue], sides: &Sides, position: usize) -> TractResult<State> {
        let (batch, hidden) = (sides.batch, sides.hidden);
        let fill = |values: &mut [f32], input: Option<usize>| -> TractResult<()> {
            let Some(input) = input else { return Ok(()) };
            let from = floats(&inputs[input])?;
            for (row, values) in values.chunks_exact_mut(hidden).enumerate() {
                let start = self.state_row(sides, position, row) * hidden;
                values.copy_from_slice(&from[start..start + hidden]);
            }
            Ok(())
        };
        let mut h = Tensor::zero::<f32>(&[batch, hidden])?;
        fill(floats_mut(&mut h)?, self.form.inputs.initial_h)?;
        let mut c = vec![0.0; if self.form.kind == Kind::Lstm { batch * hidden } else { 0 }];
        fill(&mut c, self.form.inputs.initial_c)?;
        Ok(State { h, c, hidden })
    }
}

/// One direction of one run.
struct Walk<'a> {
    form: &'a Form,
    sides: &'a Sides,
    side: &'a Side,
    /// Of the direction among the others.
    position: usize,
    lengths: &'a [usize],
}

impl Walk<'_> {
    fn run(&self, x: &[f32], state: &mut State, mut written: Option<&mut Tensor>) -> TractResult<()> {
        let Sides { size, steps, batch, projected_steps, .. } = *self.sides;
        let columns = projected_steps * batch;
        let rows = self.side.bias.len();
        let mut rows_in = Tensor::zero::<f32>(&[columns, size])?;
        let mut gates = Tensor::zero::<f32>(&[columns, rows])?;
        let mut projection = self.side.input.product(columns)?;
        let mut recurrence = self.side.cell.started(batch)?;
        // Beyond the longest row there is nothing to do.
        let steps = self.lengths.iter().copied().max().unwrap_or(0).min(steps);
        for first in (0..steps).step_by(projected_steps) {
            let count = projected_steps.min(steps - first);
            self.gather(x, floats_mut(&mut rows_in)?, first..first + count);
            gates.set_shape(&[columns, rows])?;
            projection.run(&self.side.input, &rows_in, Addend::Bias(&self.side.bias), &mut gates, &[])?;
            gates.set_shape(&[projected_steps, batch, rows])?;
            for at in 0..count {
                let running = Running { lengths: self.lengths, step: first + at };
                recurrence.step(&mut gates, at, state, running)?;
                if let Some(written) = written.as_deref_mut() {
                    self.write(floats_mut(written)?, state, running)?;
                }
            }
        }
        Ok(())
    }

    /// Copies the inputs of some steps, in the order of the walk.
    fn gather(&self, x: &[f32], into: &mut [f32], steps: std::ops::Range<usize>) {
        let Sides { size, batch, .. } = *self.sides;
        for (block, step) in into.chunks_exact_mut(batch * size).zip(steps) {
            let running = Running { lengths: self.lengths, step };
            for (row, into) in block.chunks_exact_mut(size).enumerate() {
                if running.includes(row) {
                    let start = self.input_row(row, self.time(running, row)) * size;
                    into.copy_from_slice(&x[start..start + size]);
                }
            }
        }
    }

    fn write(&self, y: &mut [f32], state: &State, running: Running<'_>) -> TractResult<()> {
        let directions = self.sides.sides.len();
        for (row, h) in state.h()?.chunks_exact(state.hidden).enumerate() {
            if running.includes(row) {
                let time = self.time(running, row);
                let at = match self.form.layout {
                    Layout::StepsFirst => (time * directions + self.position) * self.sides.batch + row,
                    Layout::BatchFirst => (row * self.sides.steps + time) * directions + self.position,
                };
                y[at * state.hidden..(at + 1) * state.hidden].copy_from_slice(h);
            }
        }
        Ok(())
    }

    /// Returns where in the sequence a row's step lies: a reverse walk begins at the row's own end.
    fn time(&self, running: Running<'_>, row: usize) -> usize {
        match self.side.direction {
            Direction::Forward => running.step,
            Direction::Reverse => self.lengths[row] - 1 - running.step,
        }
    }

    fn input_row(&self, row: usize, time: usize) -> usize {
        match self.form.layout {
            Layout::StepsFirst => time * self.sides.batch + row,
            Layout::BatchFirst => row * self.sides.steps + time,
        }
    }
}
