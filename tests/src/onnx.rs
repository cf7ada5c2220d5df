//! Small ONNX models, written field by field: one that is right by inspection, one that is hostile, one with the
//! work of a real autoencoder.
//!
//! Encodes the little of the format that these need (onnx.proto, IR version 8, operator set 13). Runs nothing.

/// The operator set that the models name.
const OPERATOR_SET: u64 = 13;
/// `TensorProto.DataType.FLOAT`.
const FLOAT: u64 = 1;
/// `TensorProto.DataType.INT32`.
const INT32: u64 = 6;

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
    let mut graph = Vec::new();
    nodes.iter().for_each(|node| push_bytes(&mut graph, 1, node));
    push_bytes(&mut graph, 2, b"g");
    initializers.iter().for_each(|tensor| push_bytes(&mut graph, 5, tensor));
    push_bytes(&mut graph, 11, input);
    push_bytes(&mut graph, 12, output);
    let mut operators = Vec::new();
    push_bytes(&mut operators, 1, b"");
    push_number(&mut operators, 2, OPERATOR_SET);
    let mut model = Vec::new();
    push_number(&mut model, 1, 8);
    push_bytes(&mut model, 7, &graph);
    push_bytes(&mut model, 8, &operators);
    model
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

fn attribute_ints(name: &str, number: u64) -> Vec<u8> {
    let mut attribute = Vec::new();
    push_bytes(&mut attribute, 1, name.as_bytes());
    push_number(&mut attribute, 8, number);
    push_number(&mut attribute, 20, 7);
    attribute
}

/// A float input or output `[batch, sizes…]`.
fn value(name: &str, sizes: &[usize]) -> Vec<u8> {
    let mut shape = Vec::new();
    let mut batch = Vec::new();
    push_bytes(&mut batch, 2, b"batch");
    push_bytes(&mut shape, 1, &batch);
    for size in sizes {
        let mut dim = Vec::new();
        push_number(&mut dim, 1, *size as u64);
        push_bytes(&mut shape, 1, &dim);
    }
    let mut tensor = Vec::new();
    push_number(&mut tensor, 1, FLOAT);
    push_bytes(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    push_bytes(&mut kind, 1, &tensor);
    let mut value = Vec::new();
    push_bytes(&mut value, 1, name.as_bytes());
    push_bytes(&mut value, 2, &kind);
    value
}

/// Small weights of both signs, the same in every run.
fn initializer(name: &str, sizes: &[usize]) -> Vec<u8> {
    let count: usize = sizes.iter().product();
    let raw: Vec<u8> =
        (0..count).flat_map(|n| (((n * 37 % 101) as f32 - 50.0) / 1_000.0).to_le_bytes()).collect();
    let mut tensor = Vec::new();
    sizes.iter().for_each(|size| push_number(&mut tensor, 1, *size as u64));
    push_number(&mut tensor, 2, FLOAT);
    push_bytes(&mut tensor, 8, name.as_bytes());
    push_bytes(&mut tensor, 9, &raw);
    tensor
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
