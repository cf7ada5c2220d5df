//! GRU: update and reset gate and a candidate.
//!
//! *Source*: ONNX operator set 7, 14, 22, GRU, with `linear_before_reset` of both values.

use tract_onnx::tract_core::internal::*;

use super::activation::Activation;
use super::cell::{Cell, Running, State, Steps, block, clip, floats, floats_mut};
use super::form::{Form, Reset};
use super::product::{Addend, Product, Weights};

#[derive(Debug)]
pub(super) struct Gru {
    recurrent: Recurrent,
    /// Of the gates, and of the candidate.
    activations: [Activation; 2],
    clip: Option<f32>,
    hidden: usize,
}

/// The weights on the state.
#[derive(Debug)]
enum Recurrent {
    /// Of gates and candidate at once, with the bias that goes through the reset gate or into the gates.
    Whole { weights: Weights, bias: Tensor },
    /// Of the gates, then of the candidate on the state that was reset.
    Split { gates: Weights, candidate: Weights },
}

#[expect(clippy::large_enum_variant, reason = "there is one a run, behind a box")]
enum Products {
    Whole { product: Product, result: Tensor },
    Split { gates: Product, candidate: Product, result: Tensor, reset: Tensor, on_reset: Tensor },
}

struct GruSteps<'a> {
    cell: &'a Gru,
    products: Products,
    /// Update and reset gate, `[batch, 2 · hidden]`.
    gates: Vec<f32>,
    /// `[batch, hidden]`
    candidate: Vec<f32>,
}

impl Gru {
    /// Prepares a direction; adds to `bias` what of `recurrent_bias` does not go through the reset gate.
    ///
    /// *Shape*: `recurrent` is `[3 · hidden, hidden]`, both biases are `[3 · hidden]`.
    pub(super) fn prepare(
        form: &Form,
        direction: usize,
        recurrent: &Tensor,
        bias: &mut Tensor,
        mut recurrent_bias: Tensor,
        batch: usize,
    ) -> TractResult<Self> {
        let hidden = recurrent.shape()[1];
        let [gate, candidate] = &form.activations[direction][..] else { bail!("a GRU has two functions") };
        let kept = match form.reset {
            Reset::State => 3 * hidden,
            Reset::Product => 2 * hidden,
        };
        let moved = floats_mut(&mut recurrent_bias)?[..kept].iter_mut();
        for (bias, moved) in floats_mut(bias)?.iter_mut().zip(moved) {
            *bias += std::mem::take(moved);
        }
        let recurrent = match form.reset {
            Reset::Product => {
                Recurrent::Whole { weights: Weights::pack(recurrent, batch)?, bias: recurrent_bias }
            }
            Reset::State => Recurrent::Split {
                gates: Weights::pack(&recurrent.slice(0, 0, 2 * hidden)?, batch)?,
                candidate: Weights::pack(&recurrent.slice(0, 2 * hidden, 3 * hidden)?, batch)?,
            },
        };
        Ok(Self { recurrent, activations: [gate.clone(), candidate.clone()], clip: form.clip, hidden })
    }
}

impl Cell for Gru {
    fn started<'a>(&'a self, batch: usize) -> TractResult<Box<dyn Steps + 'a>> {
        let hidden = self.hidden;
        let zero = |rows| Tensor::zero::<f32>(&[batch, rows]);
        let products = match &self.recurrent {
            Recurrent::Whole { weights, .. } => {
                Products::Whole { product: weights.product(batch)?, result: zero(3 * hidden)? }
            }
            Recurrent::Split { gates, candidate } => Products::Split {
                gates: gates.product(batch)?,
                candidate: candidate.product(batch)?,
                result: zero(2 * hidden)?,
                reset: zero(hidden)?,
                on_reset: zero(hidden)?,
            },
        };
        let (gates, candidate) = (vec![0.0; batch * 2 * hidden], vec![0.0; batch * hidden]);
        Ok(Box::new(GruSteps { cell: self, products, gates, candidate }))
    }
}

impl Steps for GruSteps<'_> {
    fn step(
        &mut self,
        gates: &mut Tensor,
        at: usize,
        state: &mut State,
        running: Running<'_>,
    ) -> TractResult<()> {
        let mut inputs = gates.try_as_plain_ram_mut()?;
        let inputs = block(&mut inputs, at)?;
        match (&self.cell.recurrent, &mut self.products) {
            (Recurrent::Whole { weights, bias }, Products::Whole { product, result }) => {
                product.run(weights, &state.h, Addend::Bias(bias), result, &[])?;
            }
            (Recurrent::Split { gates: weights, .. }, Products::Split { gates, result, .. }) => {
                gates.run(weights, &state.h, Addend::Zero, result, &[])?;
            }
            _ => bail!("buffers of another recurrence"),
        }
        self.gates(inputs)?;
        self.candidate(inputs, state)?;
        self.next_state(state, running)
    }
}

impl GruSteps<'_> {
    fn gates(&mut self, inputs: &[f32]) -> TractResult<()> {
        let hidden = self.cell.hidden;
        let (result, width) = match &self.products {
            Products::Whole { result, .. } => (floats(result)?, 3 * hidden),
            Products::Split { result, .. } => (floats(result)?, 2 * hidden),
        };
        let rows = inputs.chunks_exact(3 * hidden).zip(result.chunks_exact(width));
        for (gates, (input, result)) in self.gates.chunks_exact_mut(2 * hidden).zip(rows) {
            for ((gate, input), result) in gates.iter_mut().zip(input).zip(result) {
                *gate = input + result;
            }
        }
        clip(&mut self.gates, self.cell.clip);
        self.cell.activations[0].apply(&mut self.gates)
    }

    fn candidate(&mut self, inputs: &[f32], state: &State) -> TractResult<()> {
        let hidden = self.cell.hidden;
        let resets = self.gates.chunks_exact(2 * hidden).map(|gates| &gates[hidden..2 * hidden]);
        let inputs = inputs.chunks_exact(3 * hidden).map(|input| &input[2 * hidden..3 * hidden]);
        let candidates = self.candidate.chunks_exact_mut(hidden);
        match (&self.cell.recurrent, &mut self.products) {
            (_, Products::Whole { result, .. }) => {
                let results =
                    floats(result)?.chunks_exact(3 * hidden).map(|result| &result[2 * hidden..3 * hidden]);
                for (((candidate, input), reset), result) in candidates.zip(inputs).zip(resets).zip(results) {
                    for (k, candidate) in candidate.iter_mut().enumerate() {
                        *candidate = input[k] + reset[k] * result[k];
                    }
                }
            }
            (
                Recurrent::Split { candidate: weights, .. },
                Products::Split { candidate, reset, on_reset, .. },
            ) => {
                let mut after = reset.try_as_plain_ram_mut()?;
                let rows = after
                    .as_slice_mut::<f32>()?
                    .chunks_exact_mut(hidden)
                    .zip(state.h()?.chunks_exact(hidden));
                for ((after, h), reset) in rows.zip(resets) {
                    for ((after, reset), h) in after.iter_mut().zip(reset).zip(h) {
                        *after = reset * h;
                    }
                }
                candidate.run(weights, reset, Addend::Zero, on_reset, &[])?;
                let results = floats(on_reset)?.chunks_exact(hidden);
                for ((candidate, input), result) in candidates.zip(inputs).zip(results) {
                    for ((candidate, input), result) in candidate.iter_mut().zip(input).zip(result) {
                        *candidate = input + result;
                    }
                }
            }
            _ => bail!("buffers of another recurrence"),
        }
        clip(&mut self.candidate, self.cell.clip);
        self.cell.activations[1].apply(&mut self.candidate)
    }

    fn next_state(&self, state: &mut State, running: Running<'_>) -> TractResult<()> {
        let hidden = self.cell.hidden;
        let rows = self.gates.chunks_exact(2 * hidden).zip(self.candidate.chunks_exact(hidden));
        let mut h = state.h.try_as_plain_ram_mut()?;
        let h = h.as_slice_mut::<f32>()?;
        for (row, (h, (gates, candidate))) in h.chunks_exact_mut(hidden).zip(rows).enumerate() {
            if running.includes(row) {
                for ((h, update), candidate) in h.iter_mut().zip(gates).zip(candidate) {
                    *h = (1.0 - update) * candidate + update * *h;
                }
            }
        }
        Ok(())
    }
}
