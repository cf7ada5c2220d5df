//! `DynamicQuantizeLSTM`: an LSTM with 8-bit weights whose input and state are quantised by their range.
//!
//! *Source*: com.microsoft 1. The input is quantised once over all steps, the state at every step over the batch.
//! Other activations than the default ones, clipping, peepholes, coupled gates and sequence lengths are refused.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::assembly::{Built, Inputs};
use super::dynamic::{on_grid, spanning};
use super::numbers::Quantum;
use super::numbers::{EXACT_TERMS_MAX, blank, by_octet, integers, octet_range, scales};

/// Input, output, forget and cell gates.
const GATES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Reverse,
    Both,
}

#[derive(Debug)]
struct Lstm {
    inputs: Inputs,
    direction: Direction,
    hidden: usize,
    /// Which of all outputs, the last hidden and the last cell state are there.
    outputs: Vec<usize>,
}

pub(super) fn build(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &["direction", "hidden_size", "input_forget", "activations"])?;
    ensure!(
        node.get_attr_opt::<i64>("input_forget")?.unwrap_or(0) == 0,
        "`input_forget` is not computed here"
    );
    let direction = match node.get_attr_opt::<&str>("direction")?.unwrap_or("forward") {
        "forward" => Direction::Forward,
        "reverse" => Direction::Reverse,
        "bidirectional" => Direction::Both,
        other => bail!("`direction` {:?} is not known", other.chars().take(32).collect::<String>()),
    };
    let activations: Vec<String> = node.get_attr_opt_vec("activations")?.unwrap_or_default();
    let expected = ["sigmoid", "tanh", "tanh"].iter().cycle();
    ensure!(
        activations.iter().zip(expected).all(|(given, known)| given.eq_ignore_ascii_case(known)),
        "`activations` other than Sigmoid, Tanh, Tanh are not computed here"
    );
    let hidden: i64 = node.get_attr("hidden_size")?;
    let hidden = usize::try_from(hidden).ok().filter(|&n| n > 0).context("`hidden_size` is not positive")?;
    let inputs = Inputs::of(node, 3, 12)?;
    let is_present = |at: usize| node.input.get(at).is_some_and(|name| !name.is_empty());
    ensure!(!is_present(4), "sequence lengths are not computed here");
    ensure!(!is_present(7), "peepholes are not computed here");
    ensure!((8..12).all(is_present), "scales and zero points of the weights are absent");
    let outputs: Vec<usize> =
        node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()).map(|(at, _)| at).collect();
    ensure!(outputs.iter().all(|&at| at < 3), "it has three outputs");
    built(Lstm { inputs, direction, hidden, outputs })
}

impl Lstm {
    fn directions(&self) -> usize {
        if self.direction == Direction::Both { 2 } else { 1 }
    }

    fn check_weights(&self, inputs: &[&TypedFact], at: usize, rows: &TDim) -> TractResult<()> {
        let weights = self.inputs.need(inputs, at)?;
        octet_range(weights.datum_type)?;
        let columns = GATES * self.hidden;
        let expected = [self.directions().to_dim(), rows.clone(), columns.to_dim()];
        ensure!(
            weights.shape.to_tvec()[..] == expected,
            "weights have shape {:?}, not {expected:?}",
            weights.shape
        );
        // Sums stay exact in `f32`, whatever the zero points.
        ensure!(rows.to_usize()? <= EXACT_TERMS_MAX, "more than {EXACT_TERMS_MAX} rows of weights");
        let (scale_at, zero_at) = if at == 1 { (8, 9) } else { (10, 11) };
        for number in [self.inputs.need(inputs, scale_at)?, self.inputs.need(inputs, zero_at)?] {
            let count = number.shape.volume().to_usize()?;
            let known = [self.directions(), self.directions() * columns];
            ensure!(known.contains(&count), "{count} scales or zero points of weights");
        }
        let zero = self.inputs.need(inputs, zero_at)?;
        ensure!(zero.datum_type == weights.datum_type, "zero points are of type {:?}", zero.datum_type);
        Ok(())
    }

    fn weights(&self, tensors: &[&Tensor], at: usize, direction: usize) -> TractResult<Weights> {
        let tensor = self.inputs.need(tensors, at)?;
        let (scale_at, zero_at) = if at == 1 { (8, 9) } else { (10, 11) };
        let columns = GATES * self.hidden;
        let scales = scales(self.inputs.need(tensors, scale_at)?)?;
        let zeros = integers(self.inputs.need(tensors, zero_at)?)?;
        let number = |count: usize, column: usize| {
            if count == self.directions() { direction } else { direction * columns + column }
        };
        let all = by_octet!(tensor.datum_type(), octets(tensor))?;
        let size = tensor.shape()[1] * columns;
        let centred = all[direction * size..(direction + 1) * size]
            .iter()
            .enumerate()
            .map(|(i, value)| (value - zeros[number(zeros.len(), i % columns)]) as f32)
            .collect();
        let scales = (0..columns).map(|column| scales[number(scales.len(), column)]).collect();
        Ok(Weights { centred, scales })
    }

    fn state(&self, tensors: &[&Tensor], at: usize, direction: usize, batch: usize) -> TractResult<Vec<f32>> {
        let size = batch * self.hidden;
        let Some(tensor) = self.inputs.get(tensors, at) else { return Ok(vec![0.0; size]) };
        let values = tensor.try_as_plain_ram()?.as_slice::<f32>()?;
        ensure!(values.len() == size * self.directions(), "a first state of {} numbers", values.len());
        Ok(values[direction * size..(direction + 1) * size].to_vec())
    }
}

fn octets<Q: Quantum>(tensor: &Tensor) -> TractResult<Vec<i32>> {
    Ok(tensor.try_as_plain_ram()?.as_slice::<Q>()?.iter().map(|value| value.integer()).collect())
}

/// Weights of one direction without zero points, by rows of the factor on the left.
struct Weights {
    centred: Vec<f32>,
    scales: Vec<f32>,
}

impl Weights {
    /// Adds the product of rows, quantised over all of them, to `into`.
    fn add_product(&self, rows: &[f32], width: usize, into: &mut [f32], room: &mut Room) {
        let grid = spanning(rows);
        room.quanta.resize(rows.len(), 0);
        on_grid(rows, grid, &mut room.quanta);
        let columns = self.scales.len();
        for (row, into) in room.quanta.chunks_exact(width).zip(into.chunks_exact_mut(columns)) {
            room.sums.clear();
            room.sums.resize(columns, 0.0);
            for (quantum, weights) in row.iter().zip(self.centred.chunks_exact(columns)) {
                let value = (i32::from(*quantum) - grid.zero) as f32;
                for (sum, weight) in room.sums.iter_mut().zip(weights) {
                    *sum += value * weight;
                }
            }
            for ((into, sum), scale) in into.iter_mut().zip(&room.sums).zip(&self.scales) {
                *into += sum * (grid.scale * scale);
            }
        }
    }
}

/// Memory that every step uses again.
#[derive(Default)]
struct Room {
    quanta: Vec<u8>,
    sums: Vec<f32>,
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

impl Kernel for Lstm {
    fn name(&self) -> &'static str {
        "DynamicQuantizeLSTM"
    }

    fn outputs(&self) -> usize {
        self.outputs.len()
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = self.inputs.need(inputs, 0)?;
        ensure!(input.datum_type == DatumType::F32, "it takes f32, not {:?}", input.datum_type);
        ensure!(input.rank() == 3, "its input has {} axes, not three", input.rank());
        self.check_weights(inputs, 1, &input.shape[2])?;
        self.check_weights(inputs, 2, &self.hidden.to_dim())?;
        let (directions, hidden) = (self.directions().to_dim(), self.hidden.to_dim());
        if let Some(bias) = self.inputs.get(inputs, 3) {
            let expected = [directions.clone(), (2 * GATES * self.hidden).to_dim()];
            ensure!(bias.shape.to_tvec()[..] == expected, "biases have shape {:?}", bias.shape);
        }
        for at in [3, 5, 6] {
            let floats = self.inputs.get(inputs, at).is_none_or(|fact| fact.datum_type == DatumType::F32);
            ensure!(floats, "input {at} is not f32");
        }
        let (steps, batch) = (input.shape[0].clone(), input.shape[1].clone());
        let last = [directions.clone(), batch.clone(), hidden.clone()];
        Ok(self
            .outputs
            .iter()
            .map(|&output| match output {
                0 => {
                    let all = [steps.clone(), directions.clone(), batch.clone(), hidden.clone()];
                    fact(f32::datum_type(), &all)
                }
                _ => fact(f32::datum_type(), &last),
            })
            .collect())
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let tensors: TVec<&Tensor> = inputs.iter().map(|input| &**input).collect();
        let input = self.inputs.need(&tensors, 0)?;
        let [steps, batch, width] = input.shape() else { bail!("its input has no three axes") };
        let (steps, batch, width) = (*steps, *batch, *width);
        let (directions, hidden) = (self.directions(), self.hidden);
        let values = input.try_as_plain_ram()?.as_slice::<f32>()?;
        let mut all = blank::<f32>(&[steps, directions, batch, hidden])?;
        let mut last = blank::<f32>(&[directions, batch, hidden])?;
        let mut last_cell = blank::<f32>(&[directions, batch, hidden])?;
        let size = batch * hidden;
        for direction in 0..directions {
            let mut pass = Pass {
                recurrent: self.weights(&tensors, 2, direction)?,
                state: self.state(&tensors, 5, direction, batch)?,
                cell: self.state(&tensors, 6, direction, batch)?,
                hidden,
                room: Room::default(),
            };
            let mut gates = self.biases(&tensors, direction, steps * batch)?;
            self.weights(&tensors, 1, direction)?.add_product(values, width, &mut gates, &mut pass.room);
            let is_reverse = self.direction == Direction::Reverse || direction == 1;
            let mut view = all.try_as_plain_ram_mut()?;
            let into = view.as_slice_mut::<f32>()?;
            for step in 0..steps {
                let step = if is_reverse { steps - 1 - step } else { step };
                let columns = size * GATES;
                pass.step(&mut gates[step * columns..(step + 1) * columns]);
                let start = (step * directions + direction) * size;
                into[start..start + size].copy_from_slice(&pass.state);
            }
            let place = direction * size..(direction + 1) * size;
            last.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?[place.clone()].copy_from_slice(&pass.state);
            last_cell.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?[place].copy_from_slice(&pass.cell);
        }
        let outputs = [all, last, last_cell];
        Ok(self.outputs.iter().map(|&output| outputs[output].clone().into_tvalue()).collect())
    }
}

impl Lstm {
    /// Returns the gates of all rows with nothing but the two biases.
    fn biases(&self, tensors: &[&Tensor], direction: usize, rows: usize) -> TractResult<Vec<f32>> {
        let columns = GATES * self.hidden;
        let Some(tensor) = self.inputs.get(tensors, 3) else { return Ok(vec![0.0; rows * columns]) };
        let values = tensor.try_as_plain_ram()?.as_slice::<f32>()?;
        let (input, recurrent) =
            values[direction * 2 * columns..(direction + 1) * 2 * columns].split_at(columns);
        let both: Vec<f32> = input.iter().zip(recurrent).map(|(a, b)| a + b).collect();
        Ok(both.repeat(rows))
    }
}

/// One direction on its way through the steps.
struct Pass {
    recurrent: Weights,
    state: Vec<f32>,
    cell: Vec<f32>,
    hidden: usize,
    room: Room,
}

impl Pass {
    fn step(&mut self, gates: &mut [f32]) {
        let hidden = self.hidden;
        self.recurrent.add_product(&self.state, hidden, gates, &mut self.room);
        let rows = self.state.chunks_exact_mut(hidden).zip(self.cell.chunks_exact_mut(hidden));
        for ((state, cell), gates) in rows.zip(gates.chunks_exact(GATES * hidden)) {
            for i in 0..hidden {
                let gate = |at: usize| gates[at * hidden + i];
                cell[i] = sigmoid(gate(2)) * cell[i] + sigmoid(gate(0)) * gate(3).tanh();
                state[i] = sigmoid(gate(1)) * cell[i].tanh();
            }
        }
    }
}
