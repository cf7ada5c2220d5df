//! Dequantisers moved behind what only moves or picks values.
//!
//! *Source*: ONNX Runtime's `PropagateQDQ`: a MaxPool, Reshape, Slice, Squeeze, Transpose or Unsqueeze of dequantised
//! numbers is one of the integers, dequantised afterwards, which gives the same numbers and lets the operator behind it
//! read integers. Never moves past any other operator: what ONNX Runtime computes of floats stays one of floats. Runs
//! before fusing.

use tract_onnx::pb::{GraphProto, NodeProto};

use super::fuse::View;

/// Most nodes that are moved past: each costs an index of the graph, and the deepest known networks have a few hundred.
const MOVED_MAX: usize = 1_000;

/// Moves every dequantiser as far down as it goes.
pub(super) fn sink(graph: &mut GraphProto, opset: i64) {
    // A node is one of the integers once its dequantiser is behind it: each is moved past once.
    let mut position = 0;
    for _ in 0..MOVED_MAX {
        let Some((at, dequantiser)) = next(graph, position, opset) else { return };
        let inner = format!("{}.integers", graph.node[at].output[0]);
        let node = &mut graph.node[at];
        node.input[0].clone_from(&dequantiser.input[0]);
        let output = std::mem::replace(&mut node.output[0], inner.clone());
        let mut behind = NodeProto { name: format!("{output}.numbers"), output: vec![output], ..dequantiser };
        behind.input[0] = inner;
        graph.node.insert(at + 1, behind);
        position = at + 1;
    }
}

/// Returns the next node to move past, and its dequantiser.
fn next(graph: &GraphProto, from: usize, opset: i64) -> Option<(usize, NodeProto)> {
    // A pass over a graph with nothing to move costs no index of it.
    let is_mover = |node: &NodeProto| {
        let known = match node.op_type.as_str() {
            "MaxPool" => opset >= 12,
            "Identity" | "Reshape" | "Slice" | "Squeeze" | "Transpose" | "Unsqueeze" => true,
            _ => false,
        };
        known && (node.domain.is_empty() || node.domain == "ai.onnx") && node.output.len() == 1
    };
    let mut rest = graph.node.iter().enumerate().skip(from).filter(|(_, node)| is_mover(node)).peekable();
    rest.peek()?;
    let view = View::of(graph);
    rest.find_map(|(at, node)| {
        let numbers = view.activation(node.input.first()?)?;
        let dequantiser = view.maker(node.input.first()?)?;
        // The largest number is the largest integer's.
        (view.number(numbers.scale)? > 0.0).then_some(())?;
        let inner = format!("{}.integers", node.output.first()?);
        let is_taken =
            view.makers.contains_key(inner.as_str()) || view.constants.contains_key(inner.as_str());
        let stays = is_taken
            || view
                .only_reader(&node.output[0])
                .is_some_and(|reader| graph.node[reader].op_type == "QuantizeLinear");
        (!stays).then(|| (at, dequantiser.clone()))
    })
}
