//! LSTM: input, output and forget gate and a cell beside the state.
//!
//! *Source*: ONNX operator set 7, 14, 22, LSTM. The equations of the text, gate for gate; where nothing but the standard
//! functions is asked for, in a form of its own.

use tract_onnx::tract_core::internal::*;

use super::super::super::vectors::Arithmetic;
use super::activation::{Activation, sigmoid, tanh};
use super::cell::{Buffers, Cell, Place, add_scaled, clipped, floats, load, store};
use super::form::{ForgetGate, Form};
use super::panels::{Panels, Part};

#[derive(Debug)]
pub(super) struct Lstm {
    weights: Part,
    rule: Rule,
}

/// What becomes of the gates' sums.
#[derive(Debug)]
enum Rule {
    /// Sigmoid and tanh and nothing else.
    Plain,
    Full(Box<Full>),
}

#[derive(Debug)]
struct Full {
    /// Of the gates, of the candidate, and of the cell on its way out.
    activations: [Activation; 3],
    clip: Option<f32>,
    forget: ForgetGate,
    /// Of input, output and forget gate.
    peepholes: Option<Panels>,
}

impl Lstm {
    /// Prepares a direction.
    ///
    /// *Shape*: `weights` are `[4 · hidden, size]` and `[4 · hidden, hidden]`, `bias` is `[4 · hidden]`, `peepholes` are
    /// `[3 · hidden]`.
    pub(super) fn prepare(
        form: &Form,
        direction: usize,
        weights: [&Tensor; 2],
        bias: &[f32],
        peepholes: Option<&[f32]>,
    ) -> TractResult<Self> {
        let &[gate, candidate, out] = &form.activations[direction][..] else {
            bail!("an LSTM has three functions")
        };
        let hidden = weights[1].shape()[1];
        let is_standard = [gate, candidate, out] == [Activation::Sigmoid, Activation::Tanh, Activation::Tanh];
        let is_plain =
            is_standard && form.clip.is_none() && peepholes.is_none() && form.forget == ForgetGate::Own;
        let rule = if is_plain {
            Rule::Plain
        } else {
            Rule::Full(Box::new(Full {
                activations: [gate, candidate, out],
                clip: form.clip,
                forget: form.forget,
                peepholes: peepholes.map(|peepholes| Panels::pack(peepholes, hidden, 1, 0..3)),
            }))
        };
        Ok(Self { weights: Part::pack(weights, bias, 0..4)?, rule })
    }
}

impl Cell for Lstm {
    #[inline(always)]
    fn step<A: Arithmetic, const WIDTH: usize, const ROWS: usize>(
        &self,
        place: &Place<'_, ROWS>,
        buffers: &mut Buffers,
    ) {
        let h = buffers.states::<ROWS>(place.row);
        let sums = self.weights.sums::<A, 4, WIDTH, ROWS>(place.panel, place.x, h);
        for (at, sums) in sums.into_iter().enumerate() {
            let start = buffers.start::<WIDTH>(place.row + at, place.panel);
            if !place.runs[at] {
                buffers.keep::<WIDTH>(start);
                continue;
            }
            let c = load::<WIDTH>(&buffers.c, start);
            let (c, h) = match &self.rule {
                Rule::Plain => plain::<A, WIDTH>(sums, c),
                Rule::Full(rule) => rule.next::<A, WIDTH>(place.panel, sums, c),
            };
            store(&mut buffers.c, start, &c);
            store(&mut buffers.next, start, &h);
        }
    }
}

/// Returns cell and state after a step.
#[inline(always)]
fn plain<A: Arithmetic, const WIDTH: usize>(
    [i, o, f, g]: [[f32; WIDTH]; 4],
    mut c: [f32; WIDTH],
) -> ([f32; WIDTH], [f32; WIDTH]) {
    let mut h = [0.0; WIDTH];
    for lane in 0..WIDTH {
        let added = sigmoid::<A>(i[lane]) * tanh::<A>(g[lane]);
        c[lane] = A::add_product(added, sigmoid::<A>(f[lane]), c[lane]);
        h[lane] = sigmoid::<A>(o[lane]) * tanh::<A>(c[lane]);
    }
    (c, h)
}

impl Full {
    /// Returns cell and state after a step.
    #[inline(always)]
    fn next<A: Arithmetic, const WIDTH: usize>(
        &self,
        panel: usize,
        [mut i, mut o, mut f, g]: [[f32; WIDTH]; 4],
        mut c: [f32; WIDTH],
    ) -> ([f32; WIDTH], [f32; WIDTH]) {
        let [gate, candidate, out] = &self.activations;
        let peepholes = self.peepholes.as_ref().map(|peepholes| &peepholes.panel::<3, WIDTH>(panel)[0]);
        if let Some([of_input, _, of_forget]) = peepholes {
            i = add_scaled::<A, WIDTH>(i, of_input, &c);
            f = add_scaled::<A, WIDTH>(f, of_forget, &c);
        }
        let i = gate.of(clipped(i, self.clip));
        let g = candidate.of(clipped(g, self.clip));
        let f = match self.forget {
            ForgetGate::Own => gate.of(clipped(f, self.clip)),
            ForgetGate::OfInput => i.map(|i| 1.0 - i),
        };
        for lane in 0..WIDTH {
            c[lane] = f[lane] * c[lane] + i[lane] * g[lane];
        }
        if let Some([_, of_output, _]) = peepholes {
            o = add_scaled::<A, WIDTH>(o, of_output, &c);
        }
        let o = gate.of(clipped(o, self.clip));
        let mut h = out.of(clipped(c, self.clip));
        for (h, o) in h.iter_mut().zip(o) {
            *h *= o;
        }
        (c, h)
    }
}

/// Returns the peepholes of a direction.
pub(super) fn peepholes(tensor: &Tensor, direction: usize) -> TractResult<&[f32]> {
    let length = tensor.shape()[1];
    Ok(&floats(tensor)?[direction * length..(direction + 1) * length])
}
