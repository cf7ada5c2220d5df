//! What tract's reading of a file passes over of its local functions: overloads and defaults of attributes.
//!
//! Reads these fields alone from the same bytes, which tract has decoded already. Never judges them.
//!
//! *Source*: `onnx.proto`, IR version 9 (`FunctionProto.attribute_proto`) and 10 (`overload`).

use std::collections::HashSet;

use prost::Message;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto};

use super::super::super::EngineError;
use super::plain_domain;

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<Function>,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(message, repeated, tag = "7")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "11")]
    attribute_proto: Vec<AttributeProto>,
    #[prost(string, tag = "13")]
    overload: String,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
    #[prost(string, tag = "8")]
    overload: String,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(message, optional, tag = "6")]
    g: Option<Graph>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Graph>,
}

/// Reads the attributes with defaults of each function, and writes overloads into the names of functions and of what
/// calls them, as in `name:overload`.
///
/// *Errors*: the bytes are no model.
pub(super) fn complete(model: &mut ModelProto, file: &[u8]) -> Result<Vec<Vec<AttributeProto>>, EngineError> {
    let read = Model::decode(file).map_err(|error| EngineError::Unreadable(error.to_string()))?;
    let names: HashSet<(String, String)> = model
        .functions
        .iter()
        .map(|function| (plain_domain(function.domain()).to_owned(), function.name().to_owned()))
        .collect();
    if let (Some(graph), Some(read)) = (&mut model.graph, &read.graph) {
        name_graph(graph, read, &names);
    }
    let mut defaults = Vec::with_capacity(read.functions.len());
    for (function, read) in model.functions.iter_mut().zip(read.functions) {
        name_nodes(&mut function.node, &read.node, &names);
        if !read.overload.is_empty() {
            function.name = Some(format!("{}:{}", function.name(), read.overload));
        }
        defaults.push(read.attribute_proto);
    }
    Ok(defaults)
}

fn name_graph(graph: &mut GraphProto, read: &Graph, names: &HashSet<(String, String)>) {
    name_nodes(&mut graph.node, &read.node, names);
}

fn name_nodes(nodes: &mut [NodeProto], read: &[Node], names: &HashSet<(String, String)>) {
    for (node, read) in nodes.iter_mut().zip(read) {
        let name = (plain_domain(&node.domain).to_owned(), node.op_type.clone());
        if !read.overload.is_empty() && names.contains(&name) {
            node.op_type = format!("{}:{}", node.op_type, read.overload);
        }
        for (attribute, read) in node.attribute.iter_mut().zip(&read.attribute) {
            if let (Some(graph), Some(read)) = (&mut attribute.g, &read.g) {
                name_graph(graph, read, names);
            }
            for (graph, read) in attribute.graphs.iter_mut().zip(&read.graphs) {
                name_graph(graph, read, names);
            }
        }
    }
}
