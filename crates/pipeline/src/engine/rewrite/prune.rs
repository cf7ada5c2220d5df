//! What of a graph its kept outputs depend on.
//!
//! Drops every other node and output before the engine sees the graph, so that a branch that nobody reads is neither
//! built nor run; exporters of classifiers add one that makes labels of texts. Never changes what a kept output is.

use std::collections::{BTreeSet, HashMap};

use tract_onnx::pb::{GraphProto, NodeProto};

/// Keeps these outputs of a graph, in this order, and the nodes that they depend on. The names are the graph's.
pub(in super::super) fn keep(graph: &mut GraphProto, outputs: &[&str]) {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (position, node) in graph.node.iter().enumerate() {
        makers.extend(node.output.iter().map(|name| (name.as_str(), position)));
    }
    let mut needed = BTreeSet::new();
    let mut open: Vec<&str> = outputs.to_vec();
    while let Some(name) = open.pop() {
        let Some(&position) = makers.get(name) else { continue };
        if needed.insert(position) {
            used_names(&graph.node[position], &mut open);
        }
    }
    let mut position = 0;
    graph.node.retain(|_| {
        position += 1;
        needed.contains(&(position - 1))
    });
    let mut all = std::mem::take(&mut graph.output);
    for name in outputs {
        if let Some(found) = all.iter().position(|output| output.name == *name) {
            graph.output.push(all.swap_remove(found));
        }
    }
}

/// Adds all names that a node reads: its inputs, and what the graphs inside it may read of the graph around them.
fn used_names<'g>(node: &'g NodeProto, into: &mut Vec<&'g str>) {
    into.extend(node.input.iter().map(String::as_str));
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            graph.node.iter().for_each(|inner| used_names(inner, into));
            into.extend(graph.output.iter().map(|output| output.name.as_str()));
        }
    }
}
