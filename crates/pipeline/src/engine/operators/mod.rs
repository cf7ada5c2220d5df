//! Which operators the engine runs: those of tract that run right, and our own beside them.
//!
//! Registers ours over tract's of the same name, and refuses a graph with an operator that neither has: all at once,
//! before anything is built. Never judges a shape, which the engine does while it prepares.

mod attributes;
mod conditions;
pub(super) mod kernel;
mod ml;
#[cfg(test)]
mod node_tests;
pub(super) mod quantized;
mod recurrent;
pub(super) mod small;
mod standard;
#[cfg(test)]
mod testing;
mod trees;

use std::collections::BTreeSet;

use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};
use tract_onnx::prelude::TractResult;
use tract_onnx::tract_hir::infer::InferenceOp;

use conditions::Surroundings;
pub(super) use standard::LINEAR;

use super::EngineError;

/// Most nodes that an error names.
const NAMED_MAX: usize = 16;

/// Reads a node's attributes and makes its operator; with it come the names that its inner graphs read.
type Builder = fn(&ParsingContext<'_>, &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// All operators of our own.
const OWN: [&[(&str, Builder)]; 5] =
    [ml::OPERATORS, quantized::OPERATORS, recurrent::OPERATORS, standard::OPERATORS, trees::OPERATORS];

/// Operators of tract that have a faster way for what is known when a plan is made: what tract does not do right is
/// refused as with tract's own.
const FASTER: &[(&str, Builder)] = standard::FASTER;

/// Returns the engine's reader of ONNX files with all operators.
pub(super) fn onnx() -> Onnx {
    // Shapes follow from the inputs; those in files name axes that are fixed here, and tract takes them for others.
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    for (name, builder) in OWN.into_iter().flatten().chain(FASTER) {
        onnx.op_register.insert(name, *builder);
    }
    onnx
}

/// Refuses a model with nodes that the engine does not take.
///
/// *Errors*: one text a node, with operator, node and reason.
pub(super) fn check(model: &ModelProto, engine: &Onnx) -> Result<(), EngineError> {
    let mut refused = BTreeSet::new();
    if let Some(graph) = &model.graph {
        collect(model, graph, engine, &mut refused);
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(EngineError::Unsupported(refused.into_iter().take(NAMED_MAX).collect()))
}

/// Returns why the engine does not take a node of a graph, if it does not. Building the node may still fail.
pub(super) fn refusal(
    node: &NodeProto,
    graph: &GraphProto,
    model: &ModelProto,
    engine: &Onnx,
) -> Option<String> {
    // A file cannot name what only a rewrite makes.
    let is_inner = quantized::INNER.contains(&node.op_type.as_str()) || node.op_type == LINEAR;
    if is_inner || !engine.op_register.0.contains_key(&node.op_type) {
        return Some(UNKNOWN.to_owned());
    }
    // Left over where no function is around the node: it has no value.
    if let Some(attribute) = node.attribute.iter().find(|attribute| !attribute.ref_attr_name.is_empty()) {
        let name: String = attribute.name.chars().take(64).collect();
        return Some(format!("its attribute `{name}` refers to one of a function"));
    }
    if let Some(inner) = node.attribute.iter().find(|attribute| attribute.name.starts_with(INNER_PREFIX)) {
        let name: String = inner.name.chars().take(64).collect();
        return Some(format!("its attribute `{name}` is none of a file's"));
    }
    let is_own = OWN.into_iter().flatten().any(|(name, _)| *name == node.op_type);
    conditions::refusal(node, Surroundings { model, graph }, is_own)
}

/// How attributes begin that the engine gives to nodes while it rewrites a graph: none of a file does.
const INNER_PREFIX: &str = "dunlin_";

/// What is said of an operator that nobody registered.
const UNKNOWN: &str = "the engine does not know the operator";

fn collect(model: &ModelProto, graph: &GraphProto, engine: &Onnx, refused: &mut BTreeSet<String>) {
    for node in &graph.node {
        if let Some(reason) = refusal(node, graph, model, engine) {
            let name =
                if node.name.is_empty() { node.output.first().unwrap_or(&node.name) } else { &node.name };
            let operator: String = node.op_type.chars().take(64).collect();
            let name: String = name.chars().take(128).collect();
            let named = format!("operator `{operator}` of node `{name}`");
            refused.insert(if reason == UNKNOWN { named } else { format!("{named} ({reason})") });
        }
        for attribute in &node.attribute {
            for inner in attribute.g.iter().chain(&attribute.graphs) {
                collect(model, inner, engine, refused);
            }
        }
    }
}
