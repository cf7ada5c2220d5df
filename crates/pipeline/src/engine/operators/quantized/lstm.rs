//! `DynamicQuantizeLSTM`: an LSTM with 8-bit weights whose input and state are quantised by their range.
//!
//! *Source*: com.microsoft 1. The input is quantised once over all steps, the state at every step over the batch.
//! Other activations than the default ones, clipping, peepholes, coupled gates and sequence lengths are refused.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::tract_linalg::Func;
use tract_onnx::tract_core::tract_linalg::element_wise::ElementWise;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, Prepared, built, fact};
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
    /// The weights of each direction, of the input and of the state, once they are known to be constant.
    ready: Option<Arc<[[Weights; 2]]>>,
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
    built(Lstm { inputs, direction, hidden, outputs, ready: None })
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

    fn all_weights(&self, tensors: &[&Tensor]) -> TractResult<Arc<[[Weights; 2]]>> {
        if let Some(ready) = &self.ready {
            return Ok(Arc::clone(ready));
        }
        (0..self.directions())
            .map(|direction| Ok([self.weights(tensors, 1, direction)?, self.weights(tensors, 2, direction)?]))
            .collect()
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
#[derive(Debug)]
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
            add_rows(row, grid.zero, &self.centred, &mut room.sums);
            for ((into, sum), scale) in into.iter_mut().zip(&room.sums).zip(&self.scales) {
                *into += sum * (grid.scale * scale);
            }
        }
    }
}

/// Adds rows of weights times centred numbers. All are whole and their sums exact: their order does not matter.
fn add_rows(row: &[u8], zero: i32, weights: &[f32], sums: &mut [f32]) {
    let columns = sums.len();
    let value = |quantum: u8| (i32::from(quantum) - zero) as f32;
    // Four rows at once: each sum is read and written a fourth as often.
    let (fours, rest) = row.as_chunks::<4>();
    let (four_rows, rest_rows) = weights.split_at((fours.len() * 4 * columns).min(weights.len()));
    for (quanta, rows) in fours.iter().zip(four_rows.chunks_exact(4 * columns)) {
        let [a, b, c, d] = quanta.map(value);
        let (first, second) = rows.split_at(2 * columns);
        let ((w, x), (y, z)) = (first.split_at(columns), second.split_at(columns));
        for ((((sum, w), x), y), z) in sums.iter_mut().zip(w).zip(x).zip(y).zip(z) {
            *sum += a * w + b * x + (c * y + d * z);
        }
    }
    for (quantum, weights) in rest.iter().zip(rest_rows.chunks_exact(columns)) {
        let value = value(*quantum);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum += value * weight;
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

    fn prepared(&self, inputs: &[&TypedFact]) -> TractResult<Option<Prepared>> {
        if self.ready.is_some() {
            return Ok(None);
        }
        // What is not constant is replaced by its place among the inputs, which is not read.
        let absent = Tensor::default();
        let constants: Vec<&Tensor> =
            inputs.iter().map(|fact| fact.konst.as_deref().unwrap_or(&absent)).collect();
        let is_constant = |at: usize| self.inputs.get(inputs, at).is_some_and(|fact| fact.konst.is_some());
        if ![1, 2, 8, 9, 10, 11].into_iter().all(is_constant) {
            return Ok(None);
        }
        let weights = self.all_weights(&constants)?;
        let kernel = Lstm {
            inputs: self.inputs.clone(),
            direction: self.direction,
            hidden: self.hidden,
            outputs: self.outputs.clone(),
            ready: Some(weights),
        };
        Ok(Some(Prepared { kernel: Arc::new(kernel), inputs: (0..inputs.len()).collect() }))
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
        let weights = self.all_weights(&tensors)?;
        for (direction, [of_input, recurrent]) in weights.iter().enumerate() {
            let mut pass = Pass {
                recurrent,
                state: self.state(&tensors, 5, direction, batch)?,
                cell: self.state(&tensors, 6, direction, batch)?,
                hidden,
                room: Room::default(),
                sigmoid: Func::Sigmoid.ew_f32()?,
                tanh: Func::Tanh.ew_f32()?,
            };
            let mut gates = self.biases(&tensors, direction, steps * batch)?;
            of_input.add_product(values, width, &mut gates, &mut pass.room);
            let is_reverse = self.direction == Direction::Reverse || direction == 1;
            let mut view = all.try_as_plain_ram_mut()?;
            let into = view.as_slice_mut::<f32>()?;
            for step in 0..steps {
                let step = if is_reverse { steps - 1 - step } else { step };
                let columns = size * GATES;
                pass.step(&mut gates[step * columns..(step + 1) * columns])?;
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
struct Pass<'w> {
    recurrent: &'w Weights,
    state: Vec<f32>,
    cell: Vec<f32>,
    hidden: usize,
    room: Room,
    sigmoid: Box<dyn ElementWise<f32>>,
    tanh: Box<dyn ElementWise<f32>>,
}

impl Pass<'_> {
    fn step(&mut self, gates: &mut [f32]) -> TractResult<()> {
        let hidden = self.hidden;
        self.recurrent.add_product(&self.state, hidden, gates, &mut self.room);
        let rows = self.state.chunks_exact_mut(hidden).zip(self.cell.chunks_exact_mut(hidden));
        for ((state, cell), gates) in rows.zip(gates.chunks_exact_mut(GATES * hidden)) {
            // Tract's kernels make a bound of NaN, which finite numbers do not yield here.
            if !gates.iter().chain(&*cell).all(|value| value.is_finite()) {
                exactly(gates, state, cell);
                continue;
            }
            let (sigmoids, candidate) = gates.split_at_mut(3 * hidden);
            self.sigmoid.run(sigmoids)?;
            self.tanh.run(candidate)?;
            for i in 0..hidden {
                cell[i] = sigmoids[2 * hidden + i] * cell[i] + sigmoids[i] * candidate[i];
                state[i] = cell[i];
            }
            self.tanh.run(state)?;
            for (state, gate) in state.iter_mut().zip(&sigmoids[hidden..2 * hidden]) {
                *state *= gate;
            }
        }
        Ok(())
    }
}

/// A step of one row by the functions that keep NaN.
fn exactly(gates: &[f32], state: &mut [f32], cell: &mut [f32]) {
    let hidden = state.len();
    for i in 0..hidden {
        let gate = |at: usize| gates[at * hidden + i];
        cell[i] = sigmoid(gate(2)) * cell[i] + sigmoid(gate(0)) * gate(3).tanh();
        state[i] = sigmoid(gate(1)) * cell[i].tanh();
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::int;
    use super::super::tests::{floats, octets, run_graph, wired};
    use super::*;

    const STEPS: usize = 5;
    const WIDTH: usize = 3;
    const HIDDEN: usize = 6;
    const COLUMNS: usize = GATES * HIDDEN;

    fn spread(count: usize, factor: i64) -> Vec<i64> {
        (0..count as i64).map(|i| (i * factor + 11) % 255 - 127).collect()
    }

    /// Numbers after one another on the grid of their range, as whole numbers, and the grid's step.
    fn whole(values: &[f64]) -> (Vec<f64>, f64) {
        let low = values.iter().copied().fold(0.0, f64::min);
        let high = values.iter().copied().fold(0.0, f64::max);
        let step = if low == high { 1.0 } else { (high - low) / 255.0 };
        let zero = (-low / step).round_ties_even();
        let on_grid = |value: &f64| ((value / step).round_ties_even() + zero).clamp(0.0, 255.0) - zero;
        (values.iter().map(on_grid).collect(), step)
    }

    /// The states of all steps, from the definition.
    fn slow(x: &[f32], w: &[i64], r: &[i64], bias: &[f32]) -> Vec<f64> {
        let product = |whole: &[f64], step: f64, weights: &[i64], column: usize| {
            let terms = whole.iter().enumerate().map(|(row, n)| n * weights[row * COLUMNS + column] as f64);
            terms.sum::<f64>() * step * f64::from(0.01_f32)
        };
        let sigmoid = |value: f64| 1.0 / (1.0 + (-value).exp());
        let (inputs, input_step) = whole(&x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        let (mut state, mut cell, mut all) = (vec![0.0; HIDDEN], vec![0.0; HIDDEN], Vec::new());
        for input in inputs.chunks_exact(WIDTH) {
            let (states, state_step) = whole(&state);
            let gate = |column: usize| {
                f64::from(bias[column] + bias[COLUMNS + column])
                    + product(input, input_step, w, column)
                    + product(&states, state_step, r, column)
            };
            let [input, output, forget, candidate] =
                [0, 1, 2, 3].map(|at| (0..HIDDEN).map(|i| gate(at * HIDDEN + i)).collect::<Vec<f64>>());
            for i in 0..HIDDEN {
                cell[i] = sigmoid(forget[i]) * cell[i] + sigmoid(input[i]) * candidate[i].tanh();
                state[i] = sigmoid(output[i]) * f64::tanh(cell[i]);
            }
            all.extend(&state);
        }
        all
    }

    #[test]
    fn states_are_those_of_the_definition_whether_or_not_the_weights_are_constant() {
        // No value is near a tie of the grid.
        let x: Vec<f32> = (0..STEPS * WIDTH).map(|i| ((i * 7) % 11) as f32 * 0.29 - 1.13).collect();
        let bias: Vec<f32> = (0..2 * COLUMNS).map(|i| ((i * 5) % 13) as f32 * 0.05 - 0.3).collect();
        let (w, r) = (spread(WIDTH * COLUMNS, 37), spread(HIDDEN * COLUMNS, 53));
        let x_tensor = Tensor::from_shape(&[STEPS, 1, WIDTH], &x).unwrap();
        let weights = octets(&[1, WIDTH, COLUMNS], &w, true);
        let constants = [
            ("r", octets(&[1, HIDDEN, COLUMNS], &r, true)),
            ("b", Tensor::from_shape(&[1, 2 * COLUMNS], &bias).unwrap()),
            ("s", tensor1(&[0.01_f32])),
            ("z", tensor1(&[0_i8])),
        ];
        let names = ["x", "w", "r", "b", "", "", "", "", "s", "z", "s", "z"];
        let run = |inputs: &[(&str, Tensor)], constants: &[(&str, Tensor)]| {
            let node = wired("DynamicQuantizeLSTM", &names, "y", vec![int("hidden_size", HIDDEN as i64)]);
            floats(&run_graph(vec![node], inputs, constants, "y").unwrap())
        };
        let fixed =
            run(&[("x", x_tensor.clone())], &[constants.as_slice(), &[("w", weights.clone())]].concat());
        let given = run(&[("x", x_tensor), ("w", weights)], &constants);
        assert_eq!(fixed, given);
        for (got, expected) in fixed.iter().zip(slow(&x, &w, &r, &bias)) {
            assert!((f64::from(*got) - expected).abs() < 1e-5, "{got} is not {expected}");
        }
    }
}
