//! Which operators the engine runs: those of tract that run right, and our own beside them.
//!
//! Registers ours over tract's of the same name, and refuses a graph with an operator that neither has: all at once,
//! before anything is built. Never judges a shape, which the engine does while it prepares.

mod attributes;
mod kernel;
mod ml;
#[cfg(test)]
mod testing;
mod trees;

use std::collections::BTreeSet;

use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::prelude::TractResult;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::EngineError;

/// Most nodes that an error names.
const NAMED_MAX: usize = 16;

/// Reads a node's attributes and makes its operator; with it come the names that its inner graphs read.
type Builder = fn(&ParsingContext<'_>, &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// Returns the engine's reader of ONNX files with all operators.
pub(super) fn onnx() -> Onnx {
    let mut onnx = tract_onnx::onnx();
    let own: [&[(&'static str, Builder)]; 2] = [ml::OPERATORS, trees::OPERATORS];
    for (name, builder) in own.into_iter().flatten() {
        onnx.op_register.insert(name, *builder);
    }
    onnx
}

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
