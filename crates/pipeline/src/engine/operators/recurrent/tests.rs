//! Recurrent operators against the equations of the ONNX text, in f64 and value by value.
//!
//! Every attribute and every optional input and output in random company, with weights as constants and as inputs.

use proptest::prelude::*;
use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::prelude::*;

use super::super::testing::{float, floats, int, ints, node, run_node_with, text, texts};
use super::form::Kind;

/// Functions with their values of alpha and beta, as ONNX names them.
const FUNCTIONS: [(&str, &[f64]); 11] = [
    ("Sigmoid", &[]),
    ("Tanh", &[]),
    ("Relu", &[]),
    ("Affine", &[0.7, 0.1]),
    ("LeakyRelu", &[0.3]),
    ("ThresholdedRelu", &[0.2]),
    ("ScaledTanh", &[0.8, 1.5]),
    ("HardSigmoid", &[0.3, 0.4]),
    ("Elu", &[0.9]),
    ("Softsign", &[]),
    ("Softplus", &[]),
];

fn function(which: usize, x: f64) -> f64 {
    match which {
        0 => 1.0 / (1.0 + (-x).exp()),
        1 => x.tanh(),
        2 => x.max(0.0),
        3 => 0.7 * x + 0.1,
        4 => {
            if x < 0.0 {
                0.3 * x
            } else {
                x
            }
        }
        5 => {
            if x > 0.2 {
                x
            } else {
                0.0
            }
        }
        6 => 0.8 * (1.5 * x).tanh(),
        7 => (0.3 * x + 0.4).clamp(0.0, 1.0),
        8 => {
            if x < 0.0 {
                0.9 * (x.exp() - 1.0)
            } else {
                x
            }
        }
        9 => x / (1.0 + x.abs()),
        _ => (1.0 + x.exp()).ln(),
    }
}

#[derive(Debug, Clone)]
struct Case {
    kind: usize,
    /// 0 is forward, 1 reverse, 2 both.
    direction: usize,
    batch_first: bool,
    steps: usize,
    batch: usize,
    size: usize,
    hidden: usize,
    clip: Option<f32>,
    /// For each direction and place, a function; the defaults where there is none.
    functions: Option<Vec<usize>>,
    switch: bool,
    /// Which of B, sequence_lens, initial_h, initial_c, P are there.
    optional: [bool; 5],
    outputs: [bool; 3],
    lengths: Vec<i32>,
    constant: bool,
    seed: u32,
}

impl Case {
    fn kind(&self) -> Kind {
        [Kind::Lstm, Kind::Gru, Kind::Rnn][self.kind]
    }

    fn directions(&self) -> usize {
        1 + self.direction / 2
    }

    fn functions_of(&self, direction: usize) -> Vec<usize> {
        let defaults: &[usize] = [&[0, 1, 1][..], &[0, 1], &[1]][self.kind];
        match &self.functions {
            Some(functions) => functions[direction * defaults.len()..][..defaults.len()].to_vec(),
            None => defaults.to_vec(),
        }
    }

    fn state_shape(&self) -> [usize; 3] {
        let (d, b) = (self.directions(), self.batch);
        if self.batch_first { [b, d, self.hidden] } else { [d, b, self.hidden] }
    }

    /// X, W, R, B, sequence_lens, initial_h, initial_c, P; what is absent is there all the same, for the reference.
    fn tensors(&self) -> Vec<Tensor> {
        let mut state = self.seed | 1;
        // Weights fall with the size, as trained ones do: with larger ones the state is chaotic.
        let bound = 1.0 / (self.hidden.max(4) as f64 / 4.0).sqrt();
        let mut random = |shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product())
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    ((f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0) * bound) as f32
                })
                .collect();
            Tensor::from_shape(shape, &values).unwrap()
        };
        let (d, h, gates) = (self.directions(), self.hidden, self.kind().gates());
        let (first, second) =
            if self.batch_first { (self.batch, self.steps) } else { (self.steps, self.batch) };
        vec![
            random(&[first, second, self.size]),
            random(&[d, gates * h, self.size]),
            random(&[d, gates * h, h]),
            random(&[d, 2 * gates * h]),
            Tensor::from_shape(&[self.batch], &self.lengths[..self.batch]).unwrap(),
            random(&self.state_shape()),
            random(&self.state_shape()),
            random(&[d, 3 * h]),
        ]
    }

    fn attributes(&self) -> Vec<AttributeProto> {
        let mut attributes = vec![text("direction", ["forward", "reverse", "bidirectional"][self.direction])];
        attributes.extend(self.batch_first.then(|| int("layout", 1)));
        attributes.extend(self.seed.is_multiple_of(2).then(|| int("hidden_size", self.hidden as i64)));
        attributes.extend(self.clip.map(|clip| float("clip", clip)));
        let switch = ["input_forget", "linear_before_reset", ""][self.kind];
        attributes.extend((self.switch && !switch.is_empty()).then(|| int(switch, 1)));
        if let Some(functions) = &self.functions {
            let of = |place: usize| -> Vec<f32> {
                functions.iter().filter_map(|&f| FUNCTIONS[f].1.get(place)).map(|&v| v as f32).collect()
            };
            attributes
                .push(texts("activations", &functions.iter().map(|&f| FUNCTIONS[f].0).collect::<Vec<_>>()));
            attributes.push(floats("activation_alpha", &of(0)));
            attributes.push(floats("activation_beta", &of(1)));
        }
        attributes
    }

    fn node(&self) -> NodeProto {
        let operator = ["LSTM", "GRU", "RNN"][self.kind];
        let is_lstm = self.kind() == Kind::Lstm;
        let (inputs, outputs) = if is_lstm { (8, 3) } else { (6, 2) };
        let mut node = node(operator, inputs, outputs, self.attributes());
        for (position, _) in self.optional[..inputs - 3].iter().enumerate().filter(|(_, there)| !**there) {
            node.input[3 + position].clear();
        }
        for (position, _) in self.outputs[..outputs].iter().enumerate().filter(|(_, there)| !**there) {
            node.output[position].clear();
        }
        if node.output.iter().all(String::is_empty) {
            node.output[0] = "y0".to_owned();
        }
        node
    }

    fn run(&self) -> Vec<Tensor> {
        let node = self.node();
        let present = node.input.iter().enumerate().filter(|(_, name)| !name.is_empty()).map(|(at, _)| at);
        let present: Vec<usize> = present.collect();
        let all = self.tensors();
        let inputs: Vec<Tensor> = present.iter().map(|&at| all[at].clone()).collect();
        let is_weight = |at: &usize| [1, 2, 3, 7].contains(at);
        let constants = present.iter().enumerate().filter(|(_, at)| is_weight(at)).map(|(place, _)| place);
        let constants: Vec<usize> = if self.constant { constants.collect() } else { vec![] };
        run_node_with(node, &inputs, &constants).unwrap()
    }

    /// The outputs that are there, by the equations of the text.
    fn expected(&self) -> Vec<Vec<f64>> {
        let tensors = self.tensors();
        let flat = |at: usize| -> Vec<f64> {
            let there = at < 3 || self.optional[at - 3];
            let values = tensors[at].cast_to::<f64>().unwrap().into_owned();
            let values = values.try_as_plain_ram().unwrap().as_slice::<f64>().unwrap().to_vec();
            values.into_iter().map(|value| if there { value } else { 0.0 }).collect()
        };
        let lengths: Vec<usize> = (0..self.batch)
            .map(|row| if self.optional[1] { self.lengths[row] as usize } else { self.steps })
            .collect();
        let (d, h, b) = (self.directions(), self.hidden, self.batch);
        let inputs = Inputs { x: flat(0), w: flat(1), r: flat(2), bias: flat(3), p: flat(7) };
        let (h0, c0) = (flat(5), flat(6));
        let mut y = vec![0.0; self.steps * d * b * h];
        let (mut last_h, mut last_c) = (vec![0.0; d * b * h], vec![0.0; d * b * h]);
        for direction in 0..d {
            let is_reverse = self.direction == 1 || direction == 1;
            for (row, &length) in lengths.iter().enumerate() {
                let place = if self.batch_first { row * d + direction } else { direction * b + row };
                let mut state = h0[place * h..][..h].to_vec();
                let mut cell = c0[place * h..][..h].to_vec();
                for step in 0..length {
                    let time = if is_reverse { length - 1 - step } else { step };
                    let from = if self.batch_first { row * self.steps + time } else { time * b + row };
                    let x = &inputs.x[from * self.size..][..self.size];
                    self.step(direction, &inputs, x, &mut state, &mut cell);
                    let to = if self.batch_first {
                        (row * self.steps + time) * d + direction
                    } else {
                        (time * d + direction) * b + row
                    };
                    y[to * h..][..h].copy_from_slice(&state);
                }
                if length == 0 {
                    continue;
                }
                last_h[place * h..][..h].copy_from_slice(&state);
                last_c[place * h..][..h].copy_from_slice(&cell);
            }
        }
        let names = self.node().output;
        [y, last_h, last_c]
            .into_iter()
            .zip(names)
            .filter(|(_, name)| !name.is_empty())
            .map(|(v, _)| v)
            .collect()
    }

    fn step(&self, direction: usize, inputs: &Inputs, x: &[f64], state: &mut [f64], cell: &mut [f64]) {
        let (h, gates) = (self.hidden, self.kind().gates());
        let functions = self.functions_of(direction);
        let clip = |v: f64| self.clip.map_or(v, |c| v.clamp(-f64::from(c), f64::from(c)));
        let of_x = |gate: usize, k: usize| -> f64 {
            let row = direction * gates * h + gate * h + k;
            x.iter().zip(&inputs.w[row * self.size..]).map(|(x, w)| x * w).sum()
        };
        let of = |values: &[f64], gate: usize, k: usize| -> f64 {
            let row = direction * gates * h + gate * h + k;
            values.iter().zip(&inputs.r[row * h..]).map(|(s, r)| s * r).sum()
        };
        let wb = |gate: usize, k: usize| inputs.bias[direction * 2 * gates * h + gate * h + k];
        let rb = |gate: usize, k: usize| inputs.bias[direction * 2 * gates * h + (gates + gate) * h + k];
        let before = state.to_vec();
        match self.kind() {
            Kind::Rnn => {
                for (k, state) in state.iter_mut().enumerate() {
                    *state =
                        function(functions[0], clip(of_x(0, k) + of(&before, 0, k) + wb(0, k) + rb(0, k)));
                }
            }
            Kind::Gru => {
                let gate = |g: usize, k: usize| {
                    function(functions[0], clip(of_x(g, k) + of(&before, g, k) + wb(g, k) + rb(g, k)))
                };
                let reset: Vec<f64> = (0..h).map(|k| gate(1, k)).collect();
                let after: Vec<f64> = before.iter().zip(&reset).map(|(s, r)| s * r).collect();
                for k in 0..h {
                    let inner = if self.switch {
                        of_x(2, k) + reset[k] * (of(&before, 2, k) + rb(2, k)) + wb(2, k)
                    } else {
                        of_x(2, k) + of(&after, 2, k) + rb(2, k) + wb(2, k)
                    };
                    let z = gate(0, k);
                    state[k] = (1.0 - z) * function(functions[1], clip(inner)) + z * before[k];
                }
            }
            Kind::Lstm => {
                let p = |gate: usize, k: usize| inputs.p[direction * 3 * h + gate * h + k];
                for k in 0..h {
                    let sum = |g: usize| of_x(g, k) + of(&before, g, k) + wb(g, k) + rb(g, k);
                    let i = function(functions[0], clip(sum(0) + p(0, k) * cell[k]));
                    let f = function(functions[0], clip(sum(2) + p(2, k) * cell[k]));
                    let f = if self.switch { 1.0 - i } else { f };
                    let c = function(functions[1], clip(sum(3)));
                    cell[k] = f * cell[k] + i * c;
                    let o = function(functions[0], clip(sum(1) + p(1, k) * cell[k]));
                    state[k] = o * function(functions[2], clip(cell[k]));
                }
            }
        }
    }
}

struct Inputs {
    x: Vec<f64>,
    w: Vec<f64>,
    r: Vec<f64>,
    bias: Vec<f64>,
    p: Vec<f64>,
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (0..9_usize, 1..6_usize, 1..7_usize, prop_oneof![4 => 1..9_usize, 1 => 15..50_usize]);
    let form = (0..3_usize, 0..3_usize, any::<bool>(), any::<bool>(), any::<bool>());
    let functions = proptest::option::of(proptest::collection::vec(0..FUNCTIONS.len(), 6));
    let clip = proptest::option::weighted(0.3, 0.1..2.0_f32);
    let there = (any::<[bool; 5]>(), any::<[bool; 3]>());
    (shape, form, functions, clip, there, proptest::collection::vec(0..9_i32, 5), any::<u32>()).prop_map(
        |((steps, batch, size, hidden), form, functions, clip, (optional, outputs), lengths, seed)| {
            let (kind, direction, batch_first, switch, constant) = form;
            let places = [3, 2, 1][kind] * (1 + direction / 2);
            let functions = functions.map(|all| all[..places].to_vec());
            let lengths = lengths.into_iter().map(|length| length.min(steps as i32)).collect();
            Case {
                kind,
                direction,
                batch_first,
                steps,
                batch,
                size,
                hidden,
                clip,
                functions,
                switch,
                optional,
                outputs,
                lengths,
                constant,
                seed,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_form_gives_what_the_equations_say(case in cases()) {
        let (outputs, expected) = (case.run(), case.expected());
        prop_assert_eq!(outputs.len(), expected.len());
        for (output, expected) in outputs.iter().zip(&expected) {
            let output = output.try_as_plain_ram().unwrap();
            let output = output.as_slice::<f32>().unwrap();
            prop_assert_eq!(output.len(), expected.len());
            // Unbounded functions grow from step to step, and so do their errors.
            prop_assume!(expected.iter().all(|value| value.abs() < 1e4));
            let range = expected.iter().fold(1.0_f64, |range, value| range.max(value.abs()));
            for (a, e) in output.iter().zip(expected) {
                prop_assert!((f64::from(*a) - e).abs() <= 1e-4 * range, "{a} is not {e}");
            }
        }
    }

    #[test]
    fn attributes_at_random_give_errors_and_no_panic(
        case in cases(),
        name in proptest::sample::select(vec![
            "direction", "layout", "hidden_size", "clip", "input_forget", "linear_before_reset", "activations",
            "activation_alpha", "output_sequence", "x",
        ]),
        (number, word, kind) in (any::<i64>(), "[a-z]{0,8}", 0..5_usize),
    ) {
        let mut node = case.node();
        node.attribute.retain(|attribute| attribute.name != name);
        node.attribute.push(match kind {
            0 => int(name, number),
            1 => float(name, number as f32 * f32::MIN_POSITIVE),
            2 => text(name, &word),
            3 => ints(name, &[number]),
            _ => texts(name, &[&word]),
        });
        let all = case.tensors();
        let inputs: Vec<Tensor> =
            node.input.iter().zip(&all).filter(|(name, _)| !name.is_empty()).map(|(_, t)| t.clone()).collect();
        if let Err(error) = run_node_with(node, &inputs, &[]) {
            prop_assert!(!error.to_string().contains("panicked"), "{error}");
        }
    }
}

fn plain(kind: usize) -> Case {
    Case {
        kind,
        direction: 0,
        batch_first: false,
        steps: 40,
        batch: 3,
        size: 5,
        hidden: 130,
        clip: None,
        functions: None,
        switch: false,
        optional: [true, false, false, false, false],
        outputs: [true; 3],
        lengths: vec![40; 5],
        constant: true,
        seed: 9,
    }
}

fn refusal(node: NodeProto, tensors: &[Tensor]) -> String {
    run_node_with(node, tensors, &[]).unwrap_err().to_string()
}

/// Hidden sizes of several panels, and more steps than the properties try.
#[test]
fn long_sequences_give_what_the_equations_say() {
    for kind in 0..3 {
        let case = plain(kind);
        for (output, expected) in case.run().iter().zip(case.expected()) {
            let output = output.try_as_plain_ram().unwrap();
            for (a, e) in output.as_slice::<f32>().unwrap().iter().zip(expected) {
                assert!((f64::from(*a) - e).abs() <= 1e-5, "{a} is not {e}");
            }
        }
    }
}

#[test]
fn a_value_that_is_no_number_stays_in_its_row() {
    for kind in 0..3 {
        let case = Case { steps: 4, hidden: 7, ..plain(kind) };
        let mut tensors = case.tensors();
        tensors.truncate(4);
        let mut x = tensors[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
        // Step 1 of row 1.
        x[(3 + 1) * 5] = f32::NAN;
        tensors[0] = Tensor::from_shape(&[4, 3, 5], &x).unwrap();
        let outputs = run_node_with(case.node(), &tensors, &[1, 2, 3]).unwrap();
        let y = outputs[0].try_as_plain_ram().unwrap();
        for (place, value) in y.as_slice::<f32>().unwrap().iter().enumerate() {
            let (step, row) = (place / 7 / 3, place / 7 % 3);
            assert_eq!(value.is_nan(), row == 1 && step >= 1, "kind {kind}, step {step}, row {row}: {value}");
        }
    }
}

#[test]
fn a_length_beyond_the_sequence_is_an_error() {
    let case = Case { steps: 4, hidden: 3, optional: [false, true, false, false, false], ..plain(0) };
    let mut tensors = case.tensors();
    tensors.remove(3);
    tensors.truncate(4);
    for length in [-1, 5, i32::MAX] {
        tensors[3] = Tensor::from_shape(&[3], &[0, length, 4]).unwrap();
        let error = refusal(case.node(), &tensors);
        assert!(error.contains("a value of `sequence_lens` is not from 0 to 4"), "{error}");
    }
}

#[test]
fn what_is_not_implemented_is_refused_with_its_name() {
    let case = Case { steps: 2, hidden: 3, optional: [false; 5], ..plain(0) };
    let tensors = &case.tensors()[..3];
    let with = |attribute: AttributeProto| {
        let mut node = case.node();
        node.attribute.retain(|other| other.name != attribute.name);
        node.attribute.push(attribute);
        node
    };
    for (attribute, reason) in [
        (text("direction", "sideways"), "`direction` is `sideways`"),
        (texts("activations", &["Sigmoid", "Tanh"]), "`activations` names 2 functions, not 3"),
        (texts("activations", &["Sigmoid", "Gelu", "Tanh"]), "activation `gelu` is not known here"),
        (texts("activations", &["Sigmoid", "Affine", "Tanh"]), "activation `affine` lacks its value"),
        (float("clip", -1.0), "`clip` is Some(-1.0), not above 0"),
        (int("layout", 2), "`layout` is 2, neither 0 nor 1"),
        (int("hidden_size", 4), "`hidden_size` is Some(4) and R has 3"),
        (int("output_sequence", 1), "attribute `output_sequence` is not known here"),
        (int("linear_before_reset", 1), "attribute `linear_before_reset` is not known here"),
    ] {
        let error = refusal(with(attribute), tensors);
        assert!(error.contains(reason), "{error}");
    }
    let doubles: Vec<Tensor> = tensors.iter().map(|t| t.cast_to::<f64>().unwrap().into_owned()).collect();
    let error = refusal(case.node(), &doubles);
    assert!(error.contains("only f32 runs here"), "{error}");
}
