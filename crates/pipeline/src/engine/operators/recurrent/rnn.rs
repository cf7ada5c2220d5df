//! RNN: one function of input and state.
//!
//! *Source*: ONNX operator set 7, 14, 22, RNN.

use tract_onnx::tract_core::internal::*;

use super::activation::Activation;
use super::cell::{Cell, Running, State, Steps, block, clip};
use super::form::Form;
use super::product::{Addend, Product, Weights};

#[derive(Debug)]
pub(super) struct Rnn {
    recurrent: Weights,
    activation: Activation,
    clip: Option<f32>,
    hidden: usize,
}

struct RnnSteps<'a> {
    cell: &'a Rnn,
    product: Product,
}

impl Rnn {
    /// Prepares a direction.
    ///
    /// *Shape*: `recurrent` is `[hidden, hidden]`.
    pub(super) fn prepare(
        form: &Form,
        direction: usize,
        recurrent: &Tensor,
        batch: usize,
    ) -> TractResult<Self> {
        let [activation] = &form.activations[direction][..] else { bail!("an RNN has one function") };
        Ok(Self {
            recurrent: Weights::pack(recurrent, batch)?,
            activation: activation.clone(),
            clip: form.clip,
            hidden: recurrent.shape()[1],
        })
    }
}

impl Cell for Rnn {
    fn started<'a>(&'a self, batch: usize) -> TractResult<Box<dyn Steps + 'a>> {
        Ok(Box::new(RnnSteps { cell: self, product: self.recurrent.product(batch)? }))
    }
}

impl Steps for RnnSteps<'_> {
    fn step(
        &mut self,
        gates: &mut Tensor,
        at: usize,
        state: &mut State,
        running: Running<'_>,
    ) -> TractResult<()> {
        self.product.run(&self.cell.recurrent, &state.h, Addend::Target, gates, &[at])?;
        let mut gates = gates.try_as_plain_ram_mut()?;
        let next = block(&mut gates, at)?;
        clip(next, self.cell.clip);
        self.cell.activation.apply(next)?;
        let hidden = self.cell.hidden;
        let mut h = state.h.try_as_plain_ram_mut()?;
        let rows = h.as_slice_mut::<f32>()?.chunks_exact_mut(hidden).zip(next.chunks_exact(hidden));
        for (row, (h, next)) in rows.enumerate() {
            if running.includes(row) {
                h.copy_from_slice(next);
            }
        }
        Ok(())
    }
}
