//! RNN: one function of input and state.
//!
//! *Source*: ONNX operator set 7, 14, 22, RNN.

use tract_onnx::tract_core::internal::*;

use super::super::super::vectors::Arithmetic;
use super::activation::{Activation, tanh};
use super::cell::{Buffers, Cell, Place, clipped, store};
use super::form::Form;
use super::panels::Part;

#[derive(Debug)]
pub(super) struct Rnn {
    weights: Part,
    activation: Activation,
    clip: Option<f32>,
}

impl Rnn {
    /// Prepares a direction.
    ///
    /// *Shape*: `weights` are `[hidden, size]` and `[hidden, hidden]`, `bias` is `[hidden]`.
    pub(super) fn prepare(
        form: &Form,
        direction: usize,
        weights: [&Tensor; 2],
        bias: &[f32],
    ) -> TractResult<Self> {
        let &[activation] = &form.activations[direction][..] else { bail!("an RNN has one function") };
        Ok(Self { weights: Part::pack(weights, bias, 0..1)?, activation, clip: form.clip })
    }
}

impl Cell for Rnn {
    #[inline(always)]
    fn step<A: Arithmetic, const WIDTH: usize, const ROWS: usize>(
        &self,
        place: &Place<'_, ROWS>,
        buffers: &mut Buffers,
    ) {
        let h = buffers.states::<ROWS>(place.row);
        let sums = self.weights.sums::<A, 1, WIDTH, ROWS>(place.panel, place.x, h);
        for (at, [sums]) in sums.into_iter().enumerate() {
            let start = buffers.start::<WIDTH>(place.row + at, place.panel);
            if !place.runs[at] {
                buffers.keep::<WIDTH>(start);
                continue;
            }
            let mut h = clipped(sums, self.clip);
            match self.activation {
                Activation::Tanh => {
                    for value in &mut h {
                        *value = tanh::<A>(*value);
                    }
                }
                Activation::Relu => {
                    for value in &mut h {
                        *value = if *value < 0.0 { 0.0 } else { *value };
                    }
                }
                other => h = other.of(h),
            }
            store(&mut buffers.next, start, &h);
        }
    }
}
