//! Small ONNX models for tests, written as protobuf by hand.
//!
//! Encodes only the fields that these models need; field numbers are those of `onnx.proto`. Holds good, odd and
//! hostile models; used by the tests of engine and slots.
#![allow(dead_code, reason = "each test binary uses other models")]

/// A protobuf message under construction.
#[derive(Clone, Default)]
pub(crate) struct Proto(Vec<u8>);

impl Proto {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn int(self, field: u64, value: i64) -> Self {
        self.varint(field << 3).varint(value as u64)
    }

    pub(crate) fn float(self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5).raw(&value.to_le_bytes())
    }

    pub(crate) fn bytes(self, field: u64, value: &[u8]) -> Self {
        let mut message = self.varint(field << 3 | 2).varint(value.len() as u64);
        message.0.extend_from_slice(value);
        message
    }

    pub(crate) fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(crate) fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    pub(crate) fn finished(self) -> Vec<u8> {
        self.0
    }
}

pub(crate) const F32: i64 = 1;
pub(crate) const I32: i64 = 6;
pub(crate) const I64: i64 = 7;
pub(crate) const F64: i64 = 11;
pub(crate) const BOOL: i64 = 9;
pub(crate) const STRING: i64 = 8;

/// A value of the graph; an axis of 0 is the free batch axis.
pub(crate) fn value(name: &str, dtype: i64, axes: &[i64]) -> Proto {
    let shape = axes.iter().fold(Proto::default(), |shape, &axis| {
        let dim = Proto::default();
        shape.message(1, &if axis == 0 { dim.text(2, "batch") } else { dim.int(1, axis) })
    });
    let tensor = Proto::default().int(1, dtype).message(2, &shape);
    Proto::default().text(1, name).message(2, &Proto::default().message(1, &tensor))
}

pub(crate) fn tensor(name: &str, dtype: i64, axes: &[i64], raw: &[u8]) -> Proto {
    let dims = axes.iter().fold(Proto::default(), |proto, &axis| proto.int(1, axis));
    dims.int(2, dtype).text(8, name).bytes(9, raw)
}

pub(crate) fn floats(name: &str, axes: &[i64], values: &[f32]) -> Proto {
    tensor(name, F32, axes, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

pub(crate) fn longs(name: &str, axes: &[i64], values: &[i64]) -> Proto {
    tensor(name, I64, axes, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

pub(crate) fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Proto {
    let proto = inputs.iter().fold(Proto::default(), |proto, input| proto.text(1, input));
    let proto = outputs.iter().fold(proto, |proto, output| proto.text(2, output));
    let name = format!("{}_{}", operator.to_lowercase(), outputs.first().unwrap_or(&"nothing"));
    proto.text(3, &name).text(4, operator)
}

/// A node of `ai.onnx.ml`.
pub(crate) fn ml_node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Proto {
    node(operator, inputs, outputs).text(7, "ai.onnx.ml")
}

pub(crate) fn with_int(node: Proto, name: &str, value: i64) -> Proto {
    node.message(5, &Proto::default().text(1, name).int(3, value).int(20, 2))
}

pub(crate) fn with_graph(node: Proto, name: &str, graph: &Proto) -> Proto {
    node.message(5, &Proto::default().text(1, name).message(6, graph).int(20, 5))
}

/// An attribute of a list of integers.
pub(crate) fn attribute_ints(name: &str, values: &[i64]) -> Proto {
    values.iter().fold(Proto::default().text(1, name).int(20, 7), |proto, &value| proto.int(8, value))
}

pub(crate) fn with_ints(node: Proto, name: &str, values: &[i64]) -> Proto {
    node.message(5, &attribute_ints(name, values))
}

pub(crate) fn with_text(node: Proto, name: &str, value: &str) -> Proto {
    node.message(5, &Proto::default().text(1, name).text(4, value).int(20, 3))
}

/// Adds an attribute of a list of texts.
pub(crate) fn with_texts(node: Proto, name: &str, values: &[&str]) -> Proto {
    let attribute =
        values.iter().fold(Proto::default().text(1, name).int(20, 8), |proto, value| proto.text(9, value));
    node.message(5, &attribute)
}

/// Adds an attribute of a list of floats.
pub(crate) fn with_floats(node: Proto, name: &str, values: &[f32]) -> Proto {
    let attribute =
        values.iter().fold(Proto::default().text(1, name).int(20, 6), |proto, value| proto.float(7, *value));
    node.message(5, &attribute)
}

pub(crate) fn with_tensor(node: Proto, name: &str, value: &Proto) -> Proto {
    node.message(5, &Proto::default().text(1, name).message(5, value).int(20, 4))
}

pub(crate) fn graph(nodes: &[Proto], constants: &[Proto], inputs: &[Proto], outputs: &[Proto]) -> Proto {
    let mut graph = nodes.iter().fold(Proto::default(), |graph, node| graph.message(1, node)).text(2, "g");
    graph = constants.iter().fold(graph, |graph, constant| graph.message(5, constant));
    graph = inputs.iter().fold(graph, |graph, input| graph.message(11, input));
    outputs.iter().fold(graph, |graph, output| graph.message(12, output))
}

pub(crate) fn model(graph: &Proto) -> Vec<u8> {
    model_of(graph, "", 13)
}

/// A model that imports this version of an operator set, and version 3 of `ai.onnx.ml`.
pub(crate) fn model_of(graph: &Proto, domain: &str, version: i64) -> Vec<u8> {
    let opset = |domain, version| Proto::default().text(1, domain).int(2, version);
    let model = Proto::default().int(1, 8).message(7, graph).message(8, &opset(domain, version));
    model.message(8, &opset("ai.onnx.ml", 3)).0
}

/// `y = x · [1, 2]`, two values in, one out.
pub(crate) fn weighted_sum() -> Vec<u8> {
    weighted_sum_of(0)
}

/// The same with this batch axis: 0 is free.
pub(crate) fn weighted_sum_of(batch: i64) -> Vec<u8> {
    model(&graph(
        &[node("MatMul", &["x", "w"], &["y"])],
        &[floats("w", &[2, 1], &[1.0, 2.0])],
        &[value("x", F32, &[batch, 2])],
        &[value("y", F32, &[batch, 1])],
    ))
}

/// A classifier of two features with texts as labels, `x0 > x1` for `sound`; its scores as dictionaries.
pub(crate) fn dictionaries() -> Vec<u8> {
    let labels = ["worn", "sound"];
    let classifier = ml_node("LinearClassifier", &["x"], &["label", "scores"]);
    let classifier = with_texts(classifier, "classlabels_strings", &labels);
    let classifier = with_floats(classifier, "coefficients", &[0.0, 1.0, 1.0, 0.0]);
    let classifier = with_floats(classifier, "intercepts", &[0.0, 0.0]);
    let zip = with_texts(ml_node("ZipMap", &["scores"], &["probability"]), "classlabels_strings", &labels);
    let graph = graph(
        &[classifier, node("Identity", &["label"], &["output_label"]), zip],
        &[],
        &[value("x", F32, &[0, 2])],
        &[value("output_label", STRING, &[0]), Proto::default().text(1, "probability")],
    );
    let opset = |domain: &str, version| Proto::default().text(1, domain).int(2, version);
    let model = Proto::default().int(1, 8).message(7, &graph).message(8, &opset("", 17));
    model.message(8, &opset("ai.onnx.ml", 1)).finished()
}

/// `y = [1, 2, 3][int(x)]`: a panic of the engine where a value is not 0 to 2.
pub(crate) fn lookup() -> Vec<u8> {
    let cast = with_int(node("Cast", &["x"], &["i"]), "to", I64);
    model(&graph(
        &[cast, node("Gather", &["t", "i"], &["y"])],
        &[floats("t", &[3], &[1.0, 2.0, 3.0])],
        &[value("x", F32, &[0, 2])],
        &[value("y", F32, &[0, 2])],
    ))
}

/// `y = 100 / int(x)`: an error of the engine where a value rounds to 0.
pub(crate) fn integer_division() -> Vec<u8> {
    let cast = |from, to, dtype| with_int(node("Cast", &[from], &[to]), "to", dtype);
    model(&graph(
        &[cast("x", "xi", I64), node("Div", &["hundred", "xi"], &["q"]), cast("q", "y", F32)],
        &[longs("hundred", &[1, 1], &[100])],
        &[value("x", F32, &[0, 2])],
        &[value("y", F32, &[0, 2])],
    ))
}

/// `y = x / x`: NaN where x is 0.
pub(crate) fn not_a_number() -> Vec<u8> {
    model(&graph(
        &[node("Div", &["x", "x"], &["y"])],
        &[],
        &[value("x", F32, &[0, 2])],
        &[value("y", F32, &[0, 2])],
    ))
}

/// Takes eight bytes times the highest value times `unit` at every run: a bomb that only the data lights.
pub(crate) fn memory_bomb(unit: i64) -> Vec<u8> {
    let cast = |from, to, dtype| with_int(node("Cast", &[from], &[to]), "to", dtype);
    model(&graph(
        &[
            with_int(node("ReduceMax", &["x"], &["top"]), "keepdims", 0),
            cast("top", "units", I64),
            node("Mul", &["units", "unit"], &["length"]),
            node("Range", &["zero", "length", "unit_step"], &["huge"]),
            with_int(node("ReduceMin", &["huge"], &["lowest"]), "keepdims", 0),
            cast("lowest", "addend", F32),
            node("Add", &["x", "addend"], &["y"]),
        ],
        &[longs("unit", &[], &[unit]), longs("zero", &[], &[0]), longs("unit_step", &[], &[1])],
        &[value("x", F32, &[0, 2])],
        &[value("y", F32, &[0, 2])],
    ))
}

/// Squares a matrix `rounds` times wherever the model runs: seconds to hours of work.
pub(crate) fn endless(rounds: usize) -> Vec<u8> {
    let mut nodes = vec![with_int(node("ReduceMax", &["x"], &["top"]), "keepdims", 0)];
    nodes.extend(squares(rounds));
    nodes.push(node("Add", &["x", "end"], &["y"]));
    model(&graph(&nodes, &[square()], &[value("x", F32, &[0, 2])], &[value("y", F32, &[0, 2])]))
}

/// The same, only where the highest value is above 100.
pub(crate) fn endless_above_a_hundred(rounds: usize) -> Vec<u8> {
    let out = value("end", F32, &[]);
    let long = graph(&squares(rounds), &[square()], &[], &[out]);
    let short = graph(&[node("Identity", &["top"], &["same"])], &[], &[], &[value("same", F32, &[])]);
    let choice = with_graph(node("If", &["above"], &["addend"]), "then_branch", &long);
    let nodes = [
        with_int(node("ReduceMax", &["x"], &["top"]), "keepdims", 0),
        node("Greater", &["top", "hundred"], &["above"]),
        with_graph(choice, "else_branch", &short),
        node("Add", &["x", "addend"], &["y"]),
    ];
    let hundred = floats("hundred", &[], &[100.0]);
    model(&graph(&nodes, &[hundred], &[value("x", F32, &[0, 2])], &[value("y", F32, &[0, 2])]))
}

const SIDE: i64 = 1_024;

fn square() -> Proto {
    floats("m", &[SIDE, SIDE], &vec![0.0; (SIDE * SIDE) as usize])
}

fn squares(rounds: usize) -> Vec<Proto> {
    let mut nodes = vec![node("Add", &["top", "m"], &["m0"])];
    for round in 0..rounds {
        let (from, to) = (format!("m{round}"), format!("m{}", round + 1));
        nodes.push(node("MatMul", &[&from, &from], &[&to]));
    }
    let last = format!("m{rounds}");
    nodes.push(with_int(node("ReduceMax", &[&last], &["end"]), "keepdims", 0));
    nodes
}

/// Holds an operator that nobody knows.
pub(crate) fn unknown_operator() -> Vec<u8> {
    model(&graph(
        &[node("Frobnicate", &["x"], &["y"])],
        &[],
        &[value("x", F32, &[0, 2])],
        &[value("y", F32, &[0, 2])],
    ))
}
