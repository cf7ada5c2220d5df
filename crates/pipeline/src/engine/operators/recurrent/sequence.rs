//! A recurrent operator over whole sequences.
//!
//! Packs the weights when the plan is made, lays out states and outputs, and has each direction walked. Never takes a step:
//! `walk` and the cells do.

use std::sync::Arc;

use tract_onnx::tract_core::internal::*;

use super::super::kernel::{Kernel, Prepared};
use super::cell::{Buffers, floats, floats_mut};
use super::form::{Direction, Form, Inputs, Kind, Layout, Reset};
use super::gru::Gru;
use super::lstm::{self, Lstm};
use super::panels::panel_width;
use super::rnn::Rnn;
use super::walk::{Places, Walk};

/// A recurrent operator.
#[derive(Debug)]
pub(super) struct Recurrent {
    form: Form,
    /// Weights that are constants, packed.
    sides: Option<Arc<Sides>>,
}

/// The weights of a node.
#[derive(Debug)]
struct Sides {
    size: usize,
    hidden: usize,
    sides: Vec<Side>,
}

/// The weights of one direction.
#[derive(Debug)]
struct Side {
    direction: Direction,
    cell: Packed,
}

#[derive(Debug)]
enum Packed {
    Lstm(Lstm),
    Gru(Gru),
    Rnn(Rnn),
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

    fn pack(&self, tensors: &[&Tensor], (size, hidden): (usize, usize)) -> TractResult<Sides> {
        let directions = self.form.directions.iter().enumerate();
        let sides = directions
            .map(|(position, &direction)| Ok(Side { direction, cell: self.pack_cell(tensors, position)? }))
            .collect::<TractResult<_>>()?;
        Ok(Sides { size, hidden, sides })
    }

    fn pack_cell(&self, tensors: &[&Tensor], position: usize) -> TractResult<Packed> {
        let form = &self.form;
        let of_direction = |tensor: &Tensor| -> TractResult<Tensor> {
            let mut slice = tensor.slice(0, position, position + 1)?;
            slice.remove_axis(0)?;
            Ok(slice)
        };
        let (input, recurrent) = (of_direction(tensors[1])?, of_direction(tensors[2])?);
        let rows = recurrent.shape()[0];
        let mut biases = match form.inputs.bias {
            Some(bias) => floats(&of_direction(tensors[bias])?)?.to_vec(),
            None => vec![0.0; 2 * rows],
        };
        let (bias, recurrent_bias) = biases.split_at_mut(rows);
        if form.kind != Kind::Gru {
            for (bias, recurrent) in bias.iter_mut().zip(&*recurrent_bias) {
                *bias += recurrent;
            }
        }
        let weights = [&input, &recurrent];
        Ok(match form.kind {
            Kind::Lstm => {
                let peepholes =
                    form.inputs.peepholes.map(|p| lstm::peepholes(tensors[p], position)).transpose()?;
                Packed::Lstm(Lstm::prepare(form, position, weights, bias, peepholes)?)
            }
            Kind::Gru => Packed::Gru(Gru::prepare(form, position, weights, bias, recurrent_bias)?),
            Kind::Rnn => Packed::Rnn(Rnn::prepare(form, position, weights, bias)?),
        })
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
        if !is_constant {
            return Ok(None);
        }
        let sizes = self.form.check_weights(inputs)?;
        let nothing = Tensor::default();
        let tensors: Vec<&Tensor> =
            inputs.iter().map(|fact| fact.konst.as_deref().unwrap_or(&nothing)).collect();
        let sides = self.pack(&tensors, sizes)?;
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
                Arc::new(self.pack(&tensors, sizes)?)
            }
        };
        let lengths = self.lengths(&inputs, steps, batch)?;
        let run = Run { form: &self.form, inputs: &inputs, sides: &sides, lengths: &lengths, steps, batch };
        let mut written = run.written()?;
        if batch > 0 {
            for position in 0..sides.sides.len() {
                run.walk(position, &mut written)?;
            }
        }
        let outputs = [written.steps, written.last_h, written.last_c].into_iter().flatten();
        Ok(outputs.map(IntoTValue::into_tvalue).collect())
    }
}

fn fact_of(tensor: &Tensor) -> TypedFact {
    tensor.datum_type().fact(tensor.shape())
}

/// One run.
struct Run<'a> {
    form: &'a Form,
    inputs: &'a [TValue],
    sides: &'a Sides,
    /// Steps of each row.
    lengths: &'a [usize],
    steps: usize,
    batch: usize,
}

impl Run<'_> {
    fn written(&self) -> TractResult<Written> {
        let (steps, batch, hidden) = (self.steps, self.batch, self.sides.hidden);
        let directions = self.sides.sides.len();
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

    /// Walks one direction and writes its part of the outputs.
    fn walk(&self, position: usize, written: &mut Written) -> TractResult<()> {
        let side = &self.sides.sides[position];
        let mut buffers = self.buffers(position)?;
        let places = Places {
            layout: self.form.layout,
            direction: side.direction,
            position,
            directions: self.sides.sides.len(),
            steps: self.steps,
            batch: self.batch,
            size: self.sides.size,
        };
        let x = floats(&self.inputs[0])?;
        let (lengths, buffers) = (self.lengths, &mut buffers);
        let steps = written.steps.as_mut().map(floats_mut).transpose()?;
        match &side.cell {
            Packed::Lstm(cell) => Walk { cell, places, lengths, x, buffers, written: steps }.run(),
            Packed::Gru(cell) => Walk { cell, places, lengths, x, buffers, written: steps }.run(),
            Packed::Rnn(cell) => Walk { cell, places, lengths, x, buffers, written: steps }.run(),
        }
        let hidden = buffers.hidden;
        for (last, values) in [(&mut written.last_h, &buffers.h), (&mut written.last_c, &buffers.c)] {
            let Some(last) = last else { continue };
            let last = floats_mut(last)?;
            let rows = values.chunks_exact(buffers.stride).zip(self.lengths).enumerate();
            // A row of no steps has no last state: ONNX Runtime gives zeros, whatever the initial state.
            for (row, (values, _)) in rows.filter(|(_, (_, length))| **length > 0) {
                let start = self.state_row(position, row) * hidden;
                last[start..start + hidden].copy_from_slice(&values[..hidden]);
            }
        }
        Ok(())
    }

    /// Returns where the state of a row stands, counted in rows.
    fn state_row(&self, position: usize, row: usize) -> usize {
        match self.form.layout {
            Layout::StepsFirst => position * self.batch + row,
            Layout::BatchFirst => row * self.sides.sides.len() + position,
        }
    }

    /// Returns the initial state of a direction.
    fn buffers(&self, position: usize) -> TractResult<Buffers> {
        let hidden = self.sides.hidden;
        let stride = hidden.next_multiple_of(panel_width());
        let zeros = |is_used: bool| vec![0.0; if is_used { self.batch * stride } else { 0 }];
        let kind = self.form.kind;
        let has_reset = kind == Kind::Gru && self.form.reset == Reset::State;
        let mut buffers = Buffers {
            hidden,
            stride,
            h: zeros(true),
            next: zeros(true),
            c: zeros(kind == Kind::Lstm || has_reset),
            reset: zeros(has_reset),
        };
        let given = [self.form.inputs.initial_h, self.form.inputs.initial_c];
        for (values, input) in [&mut buffers.h, &mut buffers.c].into_iter().zip(given) {
            let Some(input) = input else { continue };
            let from = floats(&self.inputs[input])?;
            for (row, values) in values.chunks_exact_mut(stride).enumerate() {
                let start = self.state_row(position, row) * hidden;
                values[..hidden].copy_from_slice(&from[start..start + hidden]);
            }
        }
        Ok(buffers)
    }
}
