//! Whether the windows of a batch stay apart in a graph with ranges.
//!
//! An operator that quantises by a range takes that of the tensor it is given, and with it that of all windows of a batch.
//! A window's outputs must not depend on the others: where it is certain that each place of the tensor's first axis is a
//! window and nothing else, the operator is told to take the range of each. Anywhere else the graph runs one window at a
//! time. Never guesses from lengths.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, NodeProto};

use super::convolution::RANGED;
use super::dynamic::BY_WINDOW;
use super::fuse::integer;

/// Operators that quantise by the range of the values of a run.
const BY_RANGE: [&str; 3] = ["DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"];

/// Tells whether an operator quantises by the range of the values of a run.
pub(super) fn is_by_range(node: &NodeProto) -> bool {
    BY_RANGE.contains(&node.op_type.as_str()) || node.attribute.iter().any(|a| a.name == RANGED && a.i != 0)
}

/// Tells whether a window's outputs depend on the other windows of its batch, after every operator was told that can be.
///
/// `are_first` says that the first axis of each input of the graph is that of windows.
pub(in crate::engine) fn are_mixed(graph: &mut GraphProto, are_first: bool) -> bool {
    let is_inside = |node: &NodeProto| {
        node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).any(contains_range)
    };
    if graph.node.iter().any(is_inside) {
        return true;
    }
    if !graph.node.iter().any(is_by_range) {
        return false;
    }
    let known = if are_first { rows(graph) } else { HashMap::new() };
    let is_apart = |node: &NodeProto| {
        node.op_type != "DynamicQuantizeLinear"
            && node.op_type != "DynamicQuantizeLSTM"
            && node.input.first().is_some_and(|input| known.get(input).is_some_and(|rank| *rank > 1))
    };
    let mixed = graph.node.iter().any(|node| is_by_range(node) && !is_apart(node));
    for node in graph.node.iter_mut().filter(|node| is_by_range(node)) {
        node.attribute.retain(|attribute| attribute.name != BY_WINDOW);
        if !mixed {
            node.attribute.push(integer(BY_WINDOW, 1));
        }
    }
    mixed
}

fn contains_range(graph: &GraphProto) -> bool {
    let inside = |node: &NodeProto| {
        node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).any(contains_range)
    };
    graph.node.iter().any(|node| is_by_range(node) || inside(node))
}

/// Returns the tensors whose first axis is that of windows, each made of its window alone, with their count of axes.
fn rows(graph: &GraphProto) -> HashMap<String, usize> {
    let ranks: HashMap<&str, Vec<i64>> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor.dims.clone())).collect();
    let given: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    let mut known = HashMap::new();
    for input in graph.input.iter().filter(|input| !ranks.contains_key(input.name.as_str())) {
        if let Some(rank) = rank_of(input) {
            known.insert(input.name.clone(), rank);
        }
    }
    let fixed = |name: &str| ranks.get(name).filter(|_| !given.contains(name)).map(Vec::as_slice);
    for node in &graph.node {
        if let ([output, ..], Some(rank)) = (node.output.as_slice(), rank_after(node, &known, &fixed)) {
            known.insert(output.clone(), rank);
        }
    }
    known
}

fn rank_of(input: &tract_onnx::pb::ValueInfoProto) -> Option<usize> {
    use tract_onnx::pb::type_proto::Value;
    let Value::TensorType(tensor) = input.r#type.as_ref()?.value.as_ref()?;
    Some(tensor.shape.as_ref()?.dim.len())
}

/// Returns the count of axes of a node's first output if its first axis is that of windows for certain.
fn rank_after<'f>(
    node: &NodeProto,
    known: &HashMap<String, usize>,
    fixed: &impl Fn(&str) -> Option<&'f [i64]>,
) -> Option<usize> {
    let rank = |at: usize| node.input.get(at).and_then(|name| known.get(name)).copied();
    let others_fixed = || node.input.iter().skip(1).all(|name| name.is_empty() || fixed(name).is_some());
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name).map(|a| a.i);
    match node.op_type.as_str() {
        "Abs" | "Cast" | "Clip" | "Elu" | "Erf" | "Exp" | "Gelu" | "HardSigmoid" | "HardSwish"
        | "Identity" | "LeakyRelu" | "Neg" | "Relu" | "Sigmoid" | "Softplus" | "Sqrt" | "Tanh" => {
            rank(0).filter(|_| others_fixed())
        }
        "AveragePool"
        | "BatchNormalization"
        | "Conv"
        | "ConvInteger"
        | "GlobalAveragePool"
        | "GlobalMaxPool"
        | "MaxPool"
        | super::mean::OPERATOR => rank(0).filter(|rank| *rank > 2 && others_fixed()),
        "DynamicQuantizeMatMul" => rank(0).filter(|rank| *rank > 1 && others_fixed()),
        "Flatten" => rank(0).filter(|_| attribute("axis").unwrap_or(1) == 1).map(|_| 2),
        "Gemm" => {
            let is_row = node.input.get(2).is_none_or(|bias| {
                bias.is_empty() || fixed(bias).is_some_and(|dims| dims.len() < 2 || dims[0] == 1)
            });
            let straight = attribute("transA").unwrap_or(0) == 0;
            rank(0).filter(|rank| *rank == 2 && is_row && straight && others_fixed())
        }
        "MatMul" => {
            let is_matrix =
                node.input.get(1).and_then(|name| fixed(name)).is_some_and(|dims| dims.len() == 2);
            rank(0).filter(|rank| *rank > 1 && is_matrix)
        }
        "Add" | "Div" | "Mul" | "Sub" => {
            let beside = |name: &String, all: usize| {
                fixed(name).is_some_and(|dims| dims.len() < all || (dims.len() == all && dims[0] == 1))
            };
            match (rank(0), rank(1)) {
                (Some(a), Some(b)) => (a == b).then_some(a),
                (Some(a), None) => beside(node.input.get(1)?, a).then_some(a),
                (None, Some(b)) => beside(node.input.first()?, b).then_some(b),
                (None, None) => None,
            }
        }
        _ => None,
    }
}
