//! Small ONNX models, written field by field: one that is right by inspection, some that go wrong at once or on a live
//! value, one with the work of a real autoencoder.
//!
//! Encodes the little of the format that these need (onnx.proto, IR version 8, operator set 13). Runs nothing.

/// The operator set that the models name.
const OPERATOR_SET: u64 = 13;
/// `TensorProto.DataType.FLOAT`.
const FLOAT: u64 = 1;
/// `TensorProto.DataType.INT32`.
const INT32: u64 = 6;
/// `TensorProto.DataType.INT64`.
const INT64: u64 = 7;

/// Returns a model `[batch, 1] → [batch, 1]` that doubles its input: its outputs are known without any engine.
#[must_use]
pub fn doubling() -> Vec<u8> {
    let nodes = [node("Add", &["x", "x"], "y", &[])];
    model(&nodes, &[], &value("x", &[1]), &value("y", &[1]))
}

/// Returns a model `[batch, 1] → [batch, 1]` that divides an integer by zero on every run: engines panic on it.
#[must_use]
pub fn dividing_by_zero() -> Vec<u8> {
    let nodes = [
        node("Cast", &["x"], "i", &[attribute_int("to", INT32)]),
        node("Sub", &["i", "i"], "zero", &[]),
        node("Div", &["i", "zero"], "q", &[]),
        node("Cast", &["q"], "y", &[attribute_int("to", FLOAT)]),
    ];
    model(&nodes, &[], &value("x", &[1]), &value("y", &[1]))
}

/// Returns a model that doubles its input, and divides an integer by zero where the input is `poison`: the engine fails
/// on that window. *Range*: a whole number.
#[must_use]
pub fn doubling_but_failing_at(poison: i64) -> Vec<u8> {
    // 1 / (2 · distance) is zero in whole numbers, except at the poison.
    let nodes = [
        node("Cast", &["x"], "i", &[attribute_int("to", INT64)]),
        node("Sub", &["i", "poison"], "distance", &[]),
        node("Add", &["distance", "distance"], "divisor", &[]),
        node("Div", &["one", "divisor"], "nothing", &[]),
        node("Cast", &["nothing"], "zero", &[attribute_int("to", FLOAT)]),
        node("Add", &["x", "x"], "double", &[]),
        node("Add", &["double", "zero"], "y", &[]),
    ];
    let constants = [whole("poison", poison), whole("one", 1)];
    model(&nodes, &constants, &value("x", &[1]), &value("y", &[1]))
}

/// Returns a model that doubles its input up to `limit` and asks for 8 MiB for each unit above it: the engine
/// gets none beyond its budget. *Range*: a whole number.
#[must_use]
pub fn doubling_but_bursting_above(limit: i64) -> Vec<u8> {
    // Counts to 2^20 for each unit above the limit, 8 bytes each.
    let nodes = [
        node("ReduceMax", &["x"], "top", &[attribute_int("keepdims", 0)]),
        node("Cast", &["top"], "i", &[attribute_int("to", INT64)]),
        node("Sub", &["i", "limit"], "above", &[]),
        node("Max", &["above", "none"], "units", &[]),
        node("Mul", &["units", "unit"], "more", &[]),
        node("Add", &["more", "one"], "length", &[]),
        node("Range", &["none", "length", "one"], "count", &[]),
        node("ReduceMin", &["count"], "lowest", &[attribute_int("keepdims", 0)]),
        node("Cast", &["lowest"], "zero", &[attribute_int("to", FLOAT)]),
        node("Add", &["x", "x"], "double", &[]),
        node("Add", &["double", "zero"], "y", &[]),
    ];
    let constants = [whole("limit", limit), whole("none", 0), whole("one", 1), whole("unit", 1 << 20)];
    model(&nodes, &constants, &value("x", &[1]), &value("y", &[1]))
}

/// Returns a model that doubles its input up to `limit` and answers NaN above it.
#[must_use]
pub fn doubling_but_no_number_above(limit: f32) -> Vec<u8> {
    // The square root of limit - x is no number where that is negative.
    let nodes = [
        node("Sub", &["limit", "x"], "room", &[]),
        node("Sqrt", &["room"], "root", &[]),
        node("Sub", &["root", "root"], "zero", &[]),
        node("Add", &["x", "x"], "double", &[]),
        node("Add", &["double", "zero"], "y", &[]),
    ];
    model(&nodes, &[number("limit", limit)], &value("x", &[1]), &value("y", &[1]))
}

/// Returns a model that doubles its input, and multiplies matrices of 256 × 256 `rounds` times where the highest input
/// of the batch is above `limit`: some 34 million operations a round.
#[must_use]
pub fn doubling_but_slow_above(limit: f32, rounds: usize) -> Vec<u8> {
    doubling_but_multiplying_above(limit, 256, rounds)
}

/// Returns a model that doubles its input, and is busy for half a second and longer where the highest input of the batch is
/// above `limit`. Its graph is short: preparing a long one takes a build with debug checks many seconds.
#[must_use]
pub fn doubling_but_hanging_above(limit: f32) -> Vec<u8> {
    doubling_but_multiplying_above(limit, 1_024, 40)
}

fn doubling_but_multiplying_above(limit: f32, side: usize, rounds: usize) -> Vec<u8> {
    let mut work = vec![node("Add", &["top", "matrix"], "m0", &[])];
    for round in 0..rounds {
        let (from, to) = (format!("m{round}"), format!("m{}", round + 1));
        work.push(node("MatMul", &[&from, "matrix"], &to, &[]));
    }
    work.push(node("ReduceMax", &[&format!("m{rounds}")], "end", &[attribute_int("keepdims", 0)]));
    let slow = graph(&work, &[zeros("matrix", &[side, side])], &[], &[value_of("end", &[])]);
    let quick = graph(&[node("Sub", &["top", "top"], "none", &[])], &[], &[], &[value_of("none", &[])]);
    let nodes = [
        node("ReduceMax", &["x"], "top", &[attribute_int("keepdims", 0)]),
        node("Greater", &["top", "limit"], "above", &[]),
        node(
            "If",
            &["above"],
            "zero",
            &[attribute_graph("then_branch", &slow), attribute_graph("else_branch", &quick)],
        ),
        node("Add", &["x", "x"], "double", &[]),
        node("Add", &["double", "zero"], "y", &[]),
    ];
    model(&nodes, &[number("limit", limit)], &value("x", &[1]), &value("y", &[1]))
}

/// Returns a model that doubles its input up to `limit` and gives three times the input above it: no fault that a
/// gateway could see by itself, and a difference to another model beside it. With a threshold of its manifest between the
/// two it has the wrong label.
#[must_use]
pub fn doubling_but_wrong_above(limit: f32) -> Vec<u8> {
    let nodes = [
        node("Greater", &["x", "limit"], "above", &[]),
        node("Cast", &["above"], "more", &[attribute_int("to", FLOAT)]),
        node("Mul", &["x", "more"], "once", &[]),
        node("Add", &["x", "x"], "double", &[]),
        node("Add", &["double", "once"], "y", &[]),
    ];
    model(&nodes, &[number("limit", limit)], &value("x", &[1]), &value("y", &[1]))
}

/// Returns a model that doubles its input where it is alone in its batch: each window is added to the highest of the batch,
/// as exports do that forgot the batch axis.
#[must_use]
pub fn doubling_but_alone() -> Vec<u8> {
    let nodes = [
        node("ReduceMax", &["x"], "top", &[attribute_int("keepdims", 0)]),
        node("Add", &["x", "top"], "y", &[]),
    ];
    model(&nodes, &[], &value("x", &[1]), &value("y", &[1]))
}

/// Returns a dense autoencoder's score `[batch, rows, columns] → [batch, 1]` with fixed weights.
#[must_use]
pub fn autoencoder(rows: usize, columns: usize) -> Vec<u8> {
    let inputs = rows * columns;
    let sizes = [inputs, 64, 16, 64, inputs];
    let mut nodes = vec![node("Flatten", &["x"], "h0", &[attribute_int("axis", 1)])];
    let mut weights = Vec::new();
    for (layer, pair) in sizes.windows(2).enumerate() {
        let (weight, bias, sum) = (format!("w{layer}"), format!("b{layer}"), format!("s{layer}"));
        weights.push(initializer(&weight, &[pair[0], pair[1]]));
        weights.push(initializer(&bias, &[pair[1]]));
        nodes.push(node("Gemm", &[&format!("h{layer}"), &weight, &bias], &sum, &[]));
        nodes.push(node("Relu", &[&sum], &format!("h{}", layer + 1), &[]));
    }
    nodes.push(node("Sub", &["h4", "h0"], "d", &[]));
    nodes.push(node("Mul", &["d", "d"], "e", &[]));
    nodes.push(node("ReduceMean", &["e"], "y", &[attribute_ints("axes", 1), attribute_int("keepdims", 1)]));
    model(&nodes, &weights, &value("x", &[rows, columns]), &value("y", &[1]))
}

fn model(nodes: &[Vec<u8>], initializers: &[Vec<u8>], input: &[u8], output: &[u8]) -> Vec<u8> {
    let graph = graph(nodes, initializers, &[input.to_vec()], &[output.to_vec()]);
    let mut operators = Vec::new();
    push_bytes(&mut operators, 1, b"");
    push_number(&mut operators, 2, OPERATOR_SET);
    let mut model = Vec::new();
    push_number(&mut model, 1, 8);
    push_bytes(&mut model, 7, &graph);
    push_bytes(&mut model, 8, &operators);
    model
}

fn graph(nodes: &[Vec<u8>], initializers: &[Vec<u8>], inputs: &[Vec<u8>], outputs: &[Vec<u8>]) -> Vec<u8> {
    let mut graph = Vec::new();
    nodes.iter().for_each(|node| push_bytes(&mut graph, 1, node));
    push_bytes(&mut graph, 2, b"g");
    initializers.iter().for_each(|tensor| push_bytes(&mut graph, 5, tensor));
    inputs.iter().for_each(|input| push_bytes(&mut graph, 11, input));
    outputs.iter().for_each(|output| push_bytes(&mut graph, 12, output));
    graph
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut node = Vec::new();
    inputs.iter().for_each(|input| push_bytes(&mut node, 1, input.as_bytes()));
    push_bytes(&mut node, 2, output.as_bytes());
    push_bytes(&mut node, 3, format!("{operator}-{output}").as_bytes());
    push_bytes(&mut node, 4, operator.as_bytes());
    attributes.iter().for_each(|attribute| push_bytes(&mut node, 5, attribute));
    node
}

fn attribute_int(name: &str, number: u64) -> Vec<u8> {
    let mut attribute = Vec::new();
    push_bytes(&mut attribute, 1, name.as_bytes());
    push_number(&mut attribute, 3, number);
    push_number(&mut attribute, 20, 2);
    attribute
}

fn attribute_graph(name: &str, graph: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::new();
    push_bytes(&mut attribute, 1, name.as_bytes());
    push_bytes(&mut attribute, 6, graph);
    push_number(&mut attribute, 20, 5);
    attribute
}

fn attribute_ints(name: &str, number: u64) -> Vec<u8> {
    let mut attribute = Vec::new();
    push_bytes(&mut attribute, 1, name.as_bytes());
    push_number(&mut attribute, 8, number);
    push_number(&mut attribute, 20, 7);
    attribute
}

/// A float input or output `[batch, sizes…]`.
fn value(name: &str, sizes: &[usize]) -> Vec<u8> {
    let mut batch = Vec::new();
    push_bytes(&mut batch, 2, b"batch");
    let mut shape = Vec::new();
    push_bytes(&mut shape, 1, &batch);
    push_sizes(&mut shape, sizes);
    float_value(name, &shape)
}

/// A float value of these sizes alone.
fn value_of(name: &str, sizes: &[usize]) -> Vec<u8> {
    let mut shape = Vec::new();
    push_sizes(&mut shape, sizes);
    float_value(name, &shape)
}

fn push_sizes(shape: &mut Vec<u8>, sizes: &[usize]) {
    for size in sizes {
        let mut dim = Vec::new();
        push_number(&mut dim, 1, *size as u64);
        push_bytes(shape, 1, &dim);
    }
}

fn float_value(name: &str, shape: &[u8]) -> Vec<u8> {
    let mut tensor = Vec::new();
    push_number(&mut tensor, 1, FLOAT);
    push_bytes(&mut tensor, 2, shape);
    let mut kind = Vec::new();
    push_bytes(&mut kind, 1, &tensor);
    let mut value = Vec::new();
    push_bytes(&mut value, 1, name.as_bytes());
    push_bytes(&mut value, 2, &kind);
    value
}

/// A constant whole number without axes.
fn whole(name: &str, number: i64) -> Vec<u8> {
    constant(name, INT64, &[], &number.to_le_bytes())
}

/// A constant number without axes.
fn number(name: &str, number: f32) -> Vec<u8> {
    constant(name, FLOAT, &[], &number.to_le_bytes())
}

fn zeros(name: &str, sizes: &[usize]) -> Vec<u8> {
    constant(name, FLOAT, sizes, &vec![0; 4 * sizes.iter().product::<usize>()])
}

fn constant(name: &str, dtype: u64, sizes: &[usize], raw: &[u8]) -> Vec<u8> {
    let mut tensor = Vec::new();
    sizes.iter().for_each(|size| push_number(&mut tensor, 1, *size as u64));
    push_number(&mut tensor, 2, dtype);
    push_bytes(&mut tensor, 8, name.as_bytes());
    push_bytes(&mut tensor, 9, raw);
    tensor
}

/// Small weights of both signs, the same in every run.
fn initializer(name: &str, sizes: &[usize]) -> Vec<u8> {
    let count: usize = sizes.iter().product();
    let raw: Vec<u8> =
        (0..count).flat_map(|n| (((n * 37 % 101) as f32 - 50.0) / 1_000.0).to_le_bytes()).collect();
    constant(name, FLOAT, sizes, &raw)
}

fn push_number(out: &mut Vec<u8>, field: u64, number: u64) {
    push_varint(out, field << 3);
    push_varint(out, number);
}

fn push_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    push_varint(out, field << 3 | 2);
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 & 0x7f | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::approve;
    use crate::package::{PackagePlan, write_package};
    use dunlin_pipeline::engine::{Engine, TractEngine};

    /// Loads a model as a package of one value.
    fn engine(model: &[u8]) -> TractEngine {
        let folder = tempfile::tempdir().unwrap();
        let plan = PackagePlan::of_one_value("m");
        write_package(folder.path(), &plan, model).unwrap();
        TractEngine::load(&approve(folder.path()).unwrap(), 32).unwrap()
    }

    #[test]
    fn every_late_fault_doubles_small_values_alone_and_in_batches() {
        for model in [
            doubling(),
            doubling_but_failing_at(100),
            doubling_but_bursting_above(100),
            doubling_but_no_number_above(100.0),
            doubling_but_slow_above(100.0, 3),
            doubling_but_wrong_above(100.0),
        ] {
            let mut engine = engine(&model);
            assert_eq!(engine.plan_sizes().collect::<Vec<_>>(), [32, 4, 1]);
            for batch in [1, 4, 32, 37] {
                let values: Vec<f32> = (0..batch).map(|n| n as f32 / 4.0).collect();
                let doubled: Vec<f32> = values.iter().map(|value| 2.0 * value).collect();
                assert_eq!(engine.run(batch, &values).unwrap(), doubled);
            }
        }
    }

    #[test]
    fn every_late_fault_shows_on_its_live_values_alone() {
        let mut failing = engine(&doubling_but_failing_at(100));
        assert!(failing.run(1, &[100.0]).unwrap_err().to_string().contains("zero"));
        assert_eq!(failing.run(1, &[101.0]).unwrap(), [202.0]);
        let refused = engine(&doubling_but_bursting_above(100)).run(1, &[4_194_404.0]).unwrap_err();
        assert!(refused.to_string().contains("more memory"), "{refused}");
        assert!(engine(&doubling_but_no_number_above(100.0)).run(1, &[101.0]).unwrap()[0].is_nan());
        assert_eq!(engine(&doubling_but_slow_above(100.0, 3)).run(1, &[101.0]).unwrap(), [202.0]);
        assert_eq!(engine(&doubling_but_wrong_above(100.0)).run(1, &[101.0]).unwrap(), [303.0]);
        let mut alone = engine(&doubling_but_alone());
        assert_eq!(alone.run(1, &[101.0]).unwrap(), [202.0]);
        // 32 windows are one batch.
        let mut windows = [1.0; 32];
        windows[0] = 101.0;
        assert_eq!(alone.run(32, &windows).unwrap()[..2], [202.0, 102.0]);
    }
}
