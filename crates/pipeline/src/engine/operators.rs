//! Which operators of a model the engine lacks: all at once, before anything is built.
//!
//! Compares names with the engine's register; never judges attributes, which the engine does while it prepares.

use std::collections::BTreeSet;

use tract_onnx::Onnx;
use tract_onnx::pb::GraphProto;

use super::EngineError;

/// Most nodes that an error names.
const NAMED_MAX: usize = 16;

/// Refuses a graph with operators that the engine does not know.
///
/// *Errors*: one text a node, with operator and node name.
pub(super) fn check(graph: &GraphProto, engine: &Onnx) -> Result<(), EngineError> {
    let mut missing = BTreeSet::new();
    collect(graph, engine, &mut missing);
    if missing.is_empty() {
        return Ok(());
    }
    Err(EngineError::Unsupported(missing.into_iter().take(NAMED_MAX).collect()))
}

fn collect(graph: &GraphProto, engine: &Onnx, missing: &mut BTreeSet<String>) {
    for node in &graph.node {
        if !engine.op_register.0.contains_key(&node.op_type) {
            let name =
                if node.name.is_empty() { node.output.first().unwrap_or(&node.name) } else { &node.name };
            let operator: String = node.op_type.chars().take(64).collect();
            let name: String = name.chars().take(128).collect();
            missing.insert(format!("operator `{operator}` of node `{name}`"));
        }
        for attribute in &node.attribute {
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                collect(graph, engine, missing);
            }
        }
    }
}
