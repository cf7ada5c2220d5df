//! What the nodes of LSTM, GRU and RNN say: attributes, and which optional inputs and outputs are there.
//!
//! Reads a node and compares its inputs' shapes; refuses what ONNX does not define or nobody here implements. Never
//! looks at weights. The kernel in `sequence` runs by what is read here.

use tract_onnx::model::{optional_inputs, optional_outputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::activation::{self, Activation};

/// Which of the operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Lstm,
    Gru,
    Rnn,
}

/// The way through a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Reverse,
}

/// The order of the first two axes of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[steps, batch, ..]`
    StepsFirst,
    /// `[batch, steps, ..]`
    BatchFirst,
}

/// To what the reset gate of a GRU applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    /// The state, before its product with the candidate's weights.
    State,
    /// That product with its bias.
    Product,
}

/// Whether an LSTM's forget gate has weights of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForgetGate {
    Own,
    /// It is one less the input gate.
    OfInput,
}

/// Positions of a node's inputs among those that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inputs {
    pub(super) bias: Option<usize>,
    pub(super) lengths: Option<usize>,
    pub(super) initial_h: Option<usize>,
    pub(super) initial_c: Option<usize>,
    pub(super) peepholes: Option<usize>,
}

/// Positions of a node's outputs among those that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outputs {
    pub(super) steps: Option<usize>,
    pub(super) last_h: Option<usize>,
    pub(super) last_c: Option<usize>,
}

/// A node, read.
#[derive(Debug, Clone)]
pub(super) struct Form {
    pub(super) kind: Kind,
    pub(super) directions: Vec<Direction>,
    pub(super) layout: Layout,
    hidden: Option<usize>,
    /// Bound of what goes into an activation.
    pub(super) clip: Option<f32>,
    /// For each direction, its functions.
    pub(super) activations: Vec<Vec<Activation>>,
    pub(super) reset: Reset,
    pub(super) forget: ForgetGate,
    pub(super) inputs: Inputs,
    pub(super) outputs: Outputs,
}

impl Kind {
    /// Returns how many gates the weights hold.
    pub(super) const fn gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::Gru => 3,
            Self::Rnn => 1,
        }
    }

    const fn activations(self) -> &'static [&'static str] {
        match self {
            Self::Lstm => &["sigmoid", "tanh", "tanh"],
            Self::Gru => &["sigmoid", "tanh"],
            Self::Rnn => &["tanh"],
        }
    }

    const fn attributes(self) -> &'static [&'static str] {
        const COMMON: [&str; 7] = [
            "activation_alpha",
            "activation_beta",
            "activations",
            "clip",
            "direction",
            "hidden_size",
            "layout",
        ];
        const LSTM: [&str; 8] =
            [COMMON[0], COMMON[1], COMMON[2], COMMON[3], COMMON[4], COMMON[5], COMMON[6], "input_forget"];
        const GRU: [&str; 8] = [
            COMMON[0],
            COMMON[1],
            COMMON[2],
            COMMON[3],
            COMMON[4],
            COMMON[5],
            COMMON[6],
            "linear_before_reset",
        ];
        match self {
            Self::Lstm => &LSTM,
            Self::Gru => &GRU,
            Self::Rnn => &COMMON,
        }
    }
}

/// Reads a node of an operator.
///
/// *Errors*: an attribute that is not known, out of its range, or at odds with another.
pub(super) fn read(node: &NodeProto, kind: Kind) -> TractResult<Form> {
    require_only(node, kind.attributes())?;
    let directions = match node.get_attr_opt::<&str>("direction")?.unwrap_or("forward") {
        "forward" => vec![Direction::Forward],
        "reverse" => vec![Direction::Reverse],
        "bidirectional" => vec![Direction::Forward, Direction::Reverse],
        other => bail!("`direction` is `{}`", other.chars().take(64).collect::<String>()),
    };
    let activations = activation::read(node, directions.len(), kind.activations())?;
    let activations = activations.chunks(kind.activations().len()).map(<[Activation]>::to_vec).collect();
    let clip: Option<f32> = node.get_attr_opt("clip")?;
    ensure!(clip.is_none_or(|clip| clip > 0.0), "`clip` is {clip:?}, not above 0");
    let hidden = match node.get_attr_opt::<i64>("hidden_size")? {
        Some(hidden) => {
            Some(usize::try_from(hidden).ok().filter(|&h| h > 0).context("`hidden_size` is not above 0")?)
        }
        None => None,
    };
    ensure!(
        (3..=if kind == Kind::Lstm { 8 } else { 6 }).contains(&node.input.len()),
        "{} inputs",
        node.input.len()
    );
    ensure!(node.input[..3].iter().all(|name| !name.is_empty()), "one of the inputs X, W, R is absent");
    ensure!(node.output.iter().any(|name| !name.is_empty()), "it has no output");
    ensure!(node.output.len() <= if kind == Kind::Lstm { 3 } else { 2 }, "{} outputs", node.output.len());
    let mut inputs = optional_inputs(node).skip(3);
    let mut input = || inputs.next().flatten();
    let mut outputs = optional_outputs(node);
    let mut output = || outputs.next().flatten();
    Ok(Form {
        kind,
        directions,
        layout: if switch(node, "layout")? { Layout::BatchFirst } else { Layout::StepsFirst },
        hidden,
        clip,
        activations,
        reset: if switch(node, "linear_before_reset")? { Reset::Product } else { Reset::State },
        forget: if switch(node, "input_forget")? { ForgetGate::OfInput } else { ForgetGate::Own },
        inputs: Inputs {
            bias: input(),
            lengths: input(),
            initial_h: input(),
            initial_c: input(),
            peepholes: input(),
        },
        outputs: Outputs { steps: output(), last_h: output(), last_c: output() },
    })
}

fn switch(node: &NodeProto, name: &str) -> TractResult<bool> {
    let value: i64 = node.get_attr_opt(name)?.unwrap_or(0);
    ensure!(value == 0 || value == 1, "`{name}` is {value}, neither 0 nor 1");
    Ok(value == 1)
}

impl Form {
    /// Returns the number of outputs.
    pub(super) fn output_count(&self) -> usize {
        [self.outputs.steps, self.outputs.last_h, self.outputs.last_c].iter().flatten().count()
    }

    /// Returns steps and batch of an input's shape.
    pub(super) fn steps_and_batch<D: Clone>(&self, shape: &[D]) -> (D, D) {
        match self.layout {
            Layout::StepsFirst => (shape[0].clone(), shape[1].clone()),
            Layout::BatchFirst => (shape[1].clone(), shape[0].clone()),
        }
    }

    /// Compares the shapes of weights, with their directions, and returns input and hidden size.
    ///
    /// *Errors*: the first input of another type or shape, by name.
    pub(super) fn check_weights(&self, facts: &[&TypedFact]) -> TractResult<(usize, usize)> {
        let directions = self.directions.len();
        let [_, w, r, ..] = facts else { bail!("it takes at least three inputs, not {}", facts.len()) };
        ensure!(w.rank() == 3 && r.rank() == 3, "W and R have {} and {} axes, not 3", w.rank(), r.rank());
        let (size, hidden) = (w.shape[2].to_usize()?, r.shape[2].to_usize()?);
        ensure!(size > 0 && hidden > 0, "W or R is empty");
        ensure!(
            self.hidden.is_none_or(|h| h == hidden),
            "`hidden_size` is {:?} and R has {hidden}",
            self.hidden
        );
        let rows = self.kind.gates().saturating_mul(hidden);
        expect("W", w, &[directions, rows, size])?;
        expect("R", r, &[directions, rows, hidden])?;
        if let Some(b) = self.inputs.bias {
            expect("B", facts[b], &[directions, rows.saturating_mul(2)])?;
        }
        if let Some(p) = self.inputs.peepholes {
            expect("P", facts[p], &[directions, hidden.saturating_mul(3)])?;
        }
        Ok((size, hidden))
    }

    /// Compares the inputs that are not weights and returns the facts of the outputs.
    ///
    /// *Errors*: the first input of another type or shape, by name.
    pub(super) fn output_facts(
        &self,
        facts: &[&TypedFact],
        (size, hidden): (usize, usize),
    ) -> TractResult<TVec<TypedFact>> {
        let x = facts[0];
        ensure!(x.rank() == 3 && x.datum_type == f32::datum_type(), "X is {x:?}, not f32 of three axes");
        ensure!(x.shape[2] == size.to_dim(), "X has {} values a step and W takes {size}", x.shape[2]);
        let (steps, batch) = self.steps_and_batch(&x.shape);
        let (directions, hidden) = (self.directions.len().to_dim(), hidden.to_dim());
        let (state, all) = match self.layout {
            Layout::StepsFirst => (
                [directions.clone(), batch.clone(), hidden.clone()],
                [steps, directions, batch.clone(), hidden],
            ),
            Layout::BatchFirst => (
                [batch.clone(), directions.clone(), hidden.clone()],
                [batch.clone(), steps, directions, hidden],
            ),
        };
        for (name, position) in [("initial_h", self.inputs.initial_h), ("initial_c", self.inputs.initial_c)] {
            let Some(fact) = position.map(|position| facts[position]) else { continue };
            let is_right = fact.datum_type == f32::datum_type() && fact.shape.dims() == &state[..];
            ensure!(is_right, "`{name}` is {fact:?}, not f32 of shape {state:?}");
        }
        if let Some(fact) = self.inputs.lengths.map(|position| facts[position]) {
            let is_right = fact.datum_type == i32::datum_type() && fact.shape.dims() == [batch];
            ensure!(is_right, "`sequence_lens` is {fact:?}, not i32 with a value a row");
        }
        let mut outputs: TVec<TypedFact> = tvec!();
        if self.outputs.steps.is_some() {
            outputs.push(f32::datum_type().fact(all));
        }
        for _ in [self.outputs.last_h, self.outputs.last_c].iter().flatten() {
            outputs.push(f32::datum_type().fact(state.clone()));
        }
        Ok(outputs)
    }
}

fn expect(name: &str, fact: &TypedFact, shape: &[usize]) -> TractResult<()> {
    ensure!(
        fact.datum_type == f32::datum_type(),
        "{name} is of {:?}, and only f32 runs here",
        fact.datum_type
    );
    let is_same = fact.rank() == shape.len() && fact.shape.iter().zip(shape).all(|(a, b)| *a == b.to_dim());
    ensure!(is_same, "{name} has shape {:?}, not {shape:?}", fact.shape);
    Ok(())
}
