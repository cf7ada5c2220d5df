//! GRU: update and reset gate and a candidate.
//!
//! *Source*: ONNX operator set 7, 14, 22, GRU, with `linear_before_reset` of both values.

use tract_onnx::tract_core::internal::*;

use super::super::super::vectors::Arithmetic;
use super::activation::{Activation, sigmoid, tanh};
use super::cell::{Buffers, Cell, Place, clipped, load, store};
use super::form::{Form, Reset};
use super::panels::{Panels, Part, add_products};

#[derive(Debug)]
pub(super) struct Gru {
    weights: Weights,
    rule: Rule,
}

#[derive(Debug)]
enum Weights {
    /// Of gates and candidate at once, with the candidate's bias that goes through the reset gate.
    Whole { part: Part, candidate_bias: Panels },
    /// Of the gates, then of the candidate on the state that was reset.
    Split { gates: Part, candidate: Part },
}

/// What becomes of the sums.
#[derive(Debug)]
enum Rule {
    /// Sigmoid and tanh and nothing else.
    Plain,
    Full {
        /// Of the gates, and of the candidate.
        activations: [Activation; 2],
        clip: Option<f32>,
    },
}

impl Gru {
    /// Prepares a direction; moves what of `recurrent_bias` does not go through the reset gate to `bias`.
    ///
    /// *Shape*: `weights` are `[3 · hidden, size]` and `[3 · hidden, hidden]`, both biases are `[3 · hidden]`.
    pub(super) fn prepare(
        form: &Form,
        direction: usize,
        weights: [&Tensor; 2],
        bias: &mut [f32],
        recurrent_bias: &mut [f32],
    ) -> TractResult<Self> {
        let hidden = weights[1].shape()[1];
        let &[gate, candidate] = &form.activations[direction][..] else { bail!("a GRU has two functions") };
        let moved = match form.reset {
            Reset::State => 3 * hidden,
            Reset::Product => 2 * hidden,
        };
        for (bias, moved) in bias.iter_mut().zip(&mut recurrent_bias[..moved]) {
            *bias += std::mem::take(moved);
        }
        let is_plain = [gate, candidate] == [Activation::Sigmoid, Activation::Tanh] && form.clip.is_none();
        let rule = if is_plain {
            Rule::Plain
        } else {
            Rule::Full { activations: [gate, candidate], clip: form.clip }
        };
        let weights = match form.reset {
            Reset::Product => Weights::Whole {
                part: Part::pack(weights, bias, 0..3)?,
                candidate_bias: Panels::pack(recurrent_bias, hidden, 1, 2..3),
            },
            Reset::State => Weights::Split {
                gates: Part::pack(weights, bias, 0..2)?,
                candidate: Part::pack(weights, bias, 2..3)?,
            },
        };
        Ok(Self { weights, rule })
    }
}

impl Cell for Gru {
    #[inline(always)]
    fn passes(&self) -> usize {
        match self.weights {
            Weights::Whole { .. } => 1,
            Weights::Split { .. } => 2,
        }
    }

    #[inline(always)]
    fn step<A: Arithmetic, const WIDTH: usize, const ROWS: usize>(
        &self,
        place: &Place<'_, ROWS>,
        buffers: &mut Buffers,
    ) {
        match &self.weights {
            Weights::Whole { part, candidate_bias } => {
                self.whole::<A, WIDTH, ROWS>(part, candidate_bias, place, buffers);
            }
            Weights::Split { gates, .. } if place.pass == 0 => {
                self.gates::<A, WIDTH, ROWS>(gates, place, buffers);
            }
            Weights::Split { candidate, .. } => self.candidate::<A, WIDTH, ROWS>(candidate, place, buffers),
        }
    }
}

impl Gru {
    #[inline(always)]
    fn whole<A: Arithmetic, const WIDTH: usize, const ROWS: usize>(
        &self,
        part: &Part,
        candidate_bias: &Panels,
        place: &Place<'_, ROWS>,
        buffers: &mut Buffers,
    ) {
        let panel = place.panel;
        let sums = [part.bias.panel::<3, WIDTH>(panel)[0]; ROWS];
        let of_input = add_products::<A, 3, WIDTH, ROWS>(sums, part.input.panel(panel), place.x);
        let mut sums = of_input;
        for sums in &mut sums {
            sums[2] = candidate_bias.panel::<1, WIDTH>(panel)[0][0];
        }
        let h = buffers.states::<ROWS>(place.row);
        let sums = add_products::<A, 3, WIDTH, ROWS>(sums, part.recurrent.panel(panel), h);
        for at in 0..ROWS {
            let start = buffers.start::<WIDTH>(place.row + at, panel);
            let ([update, reset, product], [_, _, input]) = (sums[at], of_input[at]);
            let (update, reset) = (self.gate::<A, WIDTH>(update), self.gate::<A, WIDTH>(reset));
            let mut candidate = [0.0; WIDTH];
            for lane in 0..WIDTH {
                candidate[lane] = A::add_product(input[lane], reset[lane], product[lane]);
            }
            self.finish::<A, WIDTH>(place.runs[at], start, &update, candidate, buffers);
        }
    }

    #[inline(always)]
    fn gates<A: Arithmetic, const WIDTH: usize, const ROWS: usize>(
        &self,
        part: &Part,
        place: &Place<'_, ROWS>,
        buffers: &mut Buffers,
    ) {
        let h = buffers.states::<ROWS>(place.row);
        let sums = part.sums::<A, 2, WIDTH, ROWS>(place.panel, place.x, h);
        for (at, [update, reset]) in sums.into_iter().enumerate() {
            let start = buffers.start::<WIDTH>(place.row + at, place.panel);
            store(&mut buffers.c, start, &self.gate::<A, WIDTH>(update));
            let mut reset = self.gate::<A, WIDTH>(reset);
            for (reset, h) in reset.iter_mut().zip(load::<WIDTH>(&buffers.h, start)) {
                *reset *= h;
            }
            store(&mut buffers.reset, start, &reset);
        }
    }

    #[inline(always)]
    fn candidate<A: Arithmetic, const WIDTH: usize, const ROWS: usize>(
        &self,
        part: &Part,
        place: &Place<'_, ROWS>,
        buffers: &mut Buffers,
    ) {
        let reset = buffers.resets::<ROWS>(place.row);
        let sums = part.sums::<A, 1, WIDTH, ROWS>(place.panel, place.x, reset);
        for (at, [candidate]) in sums.into_iter().enumerate() {
            let start = buffers.start::<WIDTH>(place.row + at, place.panel);
            let update = load::<WIDTH>(&buffers.c, start);
            self.finish::<A, WIDTH>(place.runs[at], start, &update, candidate, buffers);
        }
    }

    #[inline(always)]
    fn gate<A: Arithmetic, const WIDTH: usize>(&self, mut values: [f32; WIDTH]) -> [f32; WIDTH] {
        match &self.rule {
            Rule::Plain => {
                for value in &mut values {
                    *value = sigmoid::<A>(*value);
                }
                values
            }
            Rule::Full { activations: [gate, _], clip } => gate.of(clipped(values, *clip)),
        }
    }

    /// Writes the state after a step.
    #[inline(always)]
    fn finish<A: Arithmetic, const WIDTH: usize>(
        &self,
        runs: bool,
        start: usize,
        update: &[f32; WIDTH],
        mut candidate: [f32; WIDTH],
        buffers: &mut Buffers,
    ) {
        if !runs {
            return buffers.keep::<WIDTH>(start);
        }
        match &self.rule {
            Rule::Plain => {
                for value in &mut candidate {
                    *value = tanh::<A>(*value);
                }
            }
            Rule::Full { activations: [_, function], clip } => {
                candidate = function.of(clipped(candidate, *clip));
            }
        }
        let mut h = load::<WIDTH>(&buffers.h, start);
        for ((h, update), candidate) in h.iter_mut().zip(update).zip(candidate) {
            *h = A::add_product((1.0 - update) * candidate, *update, *h);
        }
        store(&mut buffers.next, start, &h);
    }
}
