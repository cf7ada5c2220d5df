//! LSTM: input, output and forget gate and a cell beside the state.
//!
//! *Source*: ONNX operator set 7, 14, 22, LSTM. The equations of the text, gate for gate; where nothing but the
//! standard functions is asked for, all gates go through one sigmoid, since `tanh(x) = 2 · sigmoid(2x) - 1`.

use tract_onnx::tract_core::internal::*;

use super::activation::Activation;
use super::cell::{Cell, Running, State, Steps, add_scaled, block, clip, floats, floats_mut};
use super::form::{ForgetGate, Form};
use super::product::{Addend, Product, Weights};

/// How the gates are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gates {
    /// One sigmoid over all, the candidate's weights being doubled.
    Fused,
    /// One by one, as the text says.
    Single,
}

#[derive(Debug)]
pub(super) struct Lstm {
    recurrent: Weights,
    gates: Gates,
    /// Of the gates, of the candidate, and of the cell on its way out.
    activations: [Activation; 3],
    clip: Option<f32>,
    forget: ForgetGate,
    /// Of input, output and forget gate.
    peepholes: Option<Vec<f32>>,
    hidden: usize,
}

struct LstmSteps<'a> {
    cell: &'a Lstm,
    product: Product,
    bounded: Vec<f32>,
}

impl Lstm {
    /// Prepares a direction; doubles the candidate's rows of the weights where that is what the gates want.
    ///
    /// *Shape*: `input` is `[4 · hidden, size]`, `recurrent` is `[4 · hidden, hidden]`, `bias` is `[4 · hidden]`.
    pub(super) fn prepare(
        form: &Form,
        direction: usize,
        [input, recurrent, bias]: [&mut Tensor; 3],
        peepholes: Option<Vec<f32>>,
        batch: usize,
    ) -> TractResult<Self> {
        let hidden = recurrent.shape()[1];
        let [gate, candidate, out] = &form.activations[direction][..] else {
            bail!("an LSTM has three functions")
        };
        let is_plain = form.clip.is_none() && peepholes.is_none() && form.forget == ForgetGate::Own;
        let gates =
            if is_plain && gate.is_sigmoid() && candidate.is_tanh() { Gates::Fused } else { Gates::Single };
        if gates == Gates::Fused {
            for matrix in [input, &mut *recurrent, bias] {
                let width: usize = matrix.shape()[1..].iter().product();
                floats_mut(matrix)?[3 * hidden * width..].iter_mut().for_each(|value| *value *= 2.0);
            }
        }
        Ok(Self {
            recurrent: Weights::pack(recurrent, batch)?,
            gates,
            activations: [gate.clone(), candidate.clone(), out.clone()],
            clip: form.clip,
            forget: form.forget,
            peepholes,
            hidden,
        })
    }
}

impl Cell for Lstm {
    fn started<'a>(&'a self, batch: usize) -> TractResult<Box<dyn Steps + 'a>> {
        let product = self.recurrent.product(batch)?;
        Ok(Box::new(LstmSteps { cell: self, product, bounded: vec![0.0; batch * self.hidden] }))
    }
}

impl Steps for LstmSteps<'_> {
    fn step(
        &mut self,
        gates: &mut Tensor,
        at: usize,
        state: &mut State,
        running: Running<'_>,
    ) -> TractResult<()> {
        self.product.run(&self.cell.recurrent, &state.h, Addend::Target, gates, &[at])?;
        let mut gates = gates.try_as_plain_ram_mut()?;
        let gates = block(&mut gates, at)?;
        match self.cell.gates {
            Gates::Fused => self.fused(gates, state, running),
            Gates::Single => self.single(gates, state, running),
        }
    }
}

impl LstmSteps<'_> {
    fn fused(&mut self, gates: &mut [f32], state: &mut State, running: Running<'_>) -> TractResult<()> {
        let hidden = self.cell.hidden;
        self.cell.activations[0].apply(gates)?;
        for (row, (gates, c)) in
            gates.chunks_exact(4 * hidden).zip(state.c.chunks_exact_mut(hidden)).enumerate()
        {
            if running.includes(row) {
                let [input, _, forget, candidate] = quarters(gates, hidden);
                let gates = input.iter().zip(forget).zip(candidate);
                for (c, ((input, forget), candidate)) in c.iter_mut().zip(gates) {
                    *c = forget * *c + input * (2.0 * candidate - 1.0);
                }
            }
        }
        self.bounded.copy_from_slice(&state.c);
        self.cell.activations[2].apply(&mut self.bounded)?;
        let mut h = state.h.try_as_plain_ram_mut()?;
        let h = h.as_slice_mut::<f32>()?;
        let rows = gates.chunks_exact(4 * hidden).zip(self.bounded.chunks_exact(hidden));
        for (row, (h, (gates, bounded))) in h.chunks_exact_mut(hidden).zip(rows).enumerate() {
            if running.includes(row) {
                let output = &gates[hidden..2 * hidden];
                for ((h, output), bounded) in h.iter_mut().zip(output).zip(bounded) {
                    *h = output * bounded;
                }
            }
        }
        Ok(())
    }

    fn single(&mut self, gates: &mut [f32], state: &mut State, running: Running<'_>) -> TractResult<()> {
        let Lstm { hidden, clip: bound, activations: [gate, candidate, out], .. } = self.cell;
        let (hidden, bound) = (*hidden, *bound);
        let mut h = state.h.try_as_plain_ram_mut()?;
        let h = h.as_slice_mut::<f32>()?;
        let bounded = &mut self.bounded[..hidden];
        let rows = gates.chunks_exact_mut(4 * hidden).zip(state.c.chunks_exact_mut(hidden));
        for (row, ((gates, c), h)) in rows.zip(h.chunks_exact_mut(hidden)).enumerate() {
            if !running.includes(row) {
                continue;
            }
            let (i, rest) = gates.split_at_mut(hidden);
            let (o, rest) = rest.split_at_mut(hidden);
            let (f, g) = rest.split_at_mut(hidden);
            if let Some(peepholes) = &self.cell.peepholes {
                add_scaled(i, &peepholes[..hidden], c);
                add_scaled(f, &peepholes[2 * hidden..], c);
            }
            for gate in [&mut *i, &mut *f, &mut *g] {
                clip(gate, bound);
            }
            gate.apply(i)?;
            candidate.apply(g)?;
            match self.cell.forget {
                ForgetGate::Own => gate.apply(f)?,
                ForgetGate::OfInput => f.iter_mut().zip(&*i).for_each(|(f, i)| *f = 1.0 - i),
            }
            for k in 0..hidden {
                c[k] = f[k] * c[k] + i[k] * g[k];
            }
            if let Some(peepholes) = &self.cell.peepholes {
                add_scaled(o, &peepholes[hidden..2 * hidden], c);
            }
            clip(o, bound);
            gate.apply(o)?;
            bounded.copy_from_slice(c);
            clip(bounded, bound);
            out.apply(bounded)?;
            for k in 0..hidden {
                h[k] = o[k] * bounded[k];
            }
        }
        Ok(())
    }
}

fn quarters(gates: &[f32], hidden: usize) -> [&[f32]; 4] {
    let (first, second) = gates.split_at(2 * hidden);
    let ((a, b), (c, d)) = (first.split_at(hidden), second.split_at(hidden));
    [a, b, c, &d[..hidden]]
}

/// Returns the peepholes of a direction.
pub(super) fn peepholes(tensor: &Tensor, direction: usize) -> TractResult<Vec<f32>> {
    let length = tensor.shape()[1];
    Ok(floats(tensor)?[direction * length..(direction + 1) * length].to_vec())
}
