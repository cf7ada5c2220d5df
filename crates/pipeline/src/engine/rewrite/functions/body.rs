//! The nodes of a function as one call means them: with its names, and its attributes filled in.
//!
//! Copies the nodes of one function for one call, graphs inside them included. Never looks at what the nodes do, and
//! leaves calls of other functions as they are.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};

use super::super::super::EngineError;
use super::super::identity;
use super::{Budget, Function, NAME_CHARS, bytes_of, plain_domain};

/// What a name takes beside its text: pointer, length and capacity.
const NAME_BYTES: usize = 24;

/// Refuses a function whose names do not mean one thing each.
///
/// *Errors*: the function's name and what of it occurs twice.
pub(super) fn check(function: &Function) -> Result<(), EngineError> {
    let proto = &function.proto;
    let mut inputs = HashSet::new();
    let mut outputs = HashSet::new();
    let mut attributes = HashSet::new();
    let declared = proto.attribute.iter().chain(function.defaults.iter().map(|default| &default.name));
    let twice = proto
        .input
        .iter()
        .find(|name| name.is_empty() || !inputs.insert(name.as_str()))
        .or_else(|| proto.output.iter().find(|name| name.is_empty() || !outputs.insert(name.as_str())))
        .or_else(|| declared.into_iter().find(|name| !attributes.insert(name.as_str())));
    if let Some(name) = twice {
        return function.refused(&format!("it names `{}` twice or not at all", shown(name)));
    }
    let mut made = inputs.clone();
    for name in proto.node.iter().flat_map(|node| &node.output) {
        if !name.is_empty() && !made.insert(name) {
            return function.refused(&format!("it makes `{}` twice", shown(name)));
        }
    }
    if let Some(name) = proto.node.iter().find_map(|node| redefined(node, &inputs)) {
        return function.refused(&format!("a graph in it makes its input `{}` again", shown(name)));
    }
    let mut imports = HashMap::new();
    for import in &proto.opset_import {
        let domain = plain_domain(&import.domain);
        if *imports.entry(domain).or_insert(import.version) != import.version {
            return function.refused(&format!("it imports several operator sets of `{}`", shown(domain)));
        }
    }
    if let Some(default) = function.defaults.iter().find(|default| {
        default.g.is_some() || !default.graphs.is_empty() || !default.ref_attr_name.is_empty()
    }) {
        return function
            .refused(&format!("the default of its attribute `{}` is not a value", shown(&default.name)));
    }
    Ok(())
}

/// Returns the first of these names that a graph inside a node gives another meaning.
fn redefined<'g>(node: &'g NodeProto, names: &HashSet<&str>) -> Option<&'g str> {
    let graphs = node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
    graphs.into_iter().find_map(|graph| {
        let inputs = graph.input.iter().map(|input| &input.name);
        let constants = graph.initializer.iter().map(|tensor| &tensor.name);
        let made = graph.node.iter().flat_map(|inner| &inner.output);
        let mut all = inputs.chain(constants).chain(made).map(String::as_str);
        all.find(|name| names.contains(name))
            .or_else(|| graph.node.iter().find_map(|inner| redefined(inner, names)))
    })
}

fn shown(name: &str) -> String {
    name.chars().take(NAME_CHARS).collect()
}

/// A function as one node calls it.
pub(super) struct Body<'c> {
    function: &'c Function,
    call: &'c NodeProto,
    prefix: &'c str,
    /// What stands for the function's inputs and outputs; nothing for an input that is not given.
    values: HashMap<&'c str, String>,
    /// What stands for the function's attributes, by name.
    attributes: HashMap<&'c str, &'c AttributeProto>,
    budget: &'c mut Budget,
}

impl<'c> Body<'c> {
    /// Binds inputs, outputs and attributes.
    ///
    /// *Errors*: the call gives more than the function takes, or one thing twice.
    pub(super) fn of(
        function: &'c Function,
        call: &'c NodeProto,
        prefix: &'c str,
        budget: &'c mut Budget,
    ) -> Result<Self, EngineError> {
        let proto = &function.proto;
        if call.input.len() > proto.input.len() || call.output.len() > proto.output.len() {
            return function.refused(&format!(
                "node `{}` gives it {} inputs and takes {} outputs; it has {} and {}",
                shown(&call.name),
                call.input.len(),
                call.output.len(),
                proto.input.len(),
                proto.output.len()
            ));
        }
        let mut seen: HashSet<&str> = call.input.iter().map(String::as_str).collect();
        if let Some(name) = call.output.iter().find(|name| !name.is_empty() && !seen.insert(name)) {
            return function.refused(&format!("node `{}` makes `{}` twice", shown(&call.name), shown(name)));
        }
        // What is bound takes time and memory for every call.
        let bound = proto.input.iter().chain(&proto.output).chain(&proto.attribute).chain(&call.input);
        budget.copy(bound.map(|name| NAME_BYTES + name.len()).sum::<usize>())?;
        budget.copy((function.defaults.len() + call.attribute.len()) * NAME_BYTES)?;
        let mut attributes: HashMap<&str, &AttributeProto> =
            function.defaults.iter().map(|default| (default.name.as_str(), default)).collect();
        let declared: HashSet<&str> =
            proto.attribute.iter().map(String::as_str).chain(attributes.keys().copied()).collect();
        let mut given = HashSet::new();
        for attribute in &call.attribute {
            let name = attribute.name.as_str();
            if !declared.contains(name) || !given.insert(name) || !attribute.ref_attr_name.is_empty() {
                return function.refused(&format!(
                    "node `{}` gives it the attribute `{}`, which it does not declare, twice or without a value",
                    shown(&call.name),
                    shown(name)
                ));
            }
            attributes.insert(name, attribute);
        }
        let mut values = HashMap::new();
        for (position, formal) in proto.output.iter().enumerate() {
            let actual = call.output.get(position).filter(|name| !name.is_empty());
            let own = || format!("{prefix}{formal}");
            values.insert(formal.as_str(), actual.cloned().unwrap_or_else(own));
        }
        // An output that is an input, too, is handed on by a node of its own.
        for (position, formal) in proto.input.iter().enumerate() {
            values.insert(formal.as_str(), call.input.get(position).cloned().unwrap_or_default());
        }
        Ok(Self { function, call, prefix, values, attributes, budget })
    }

    /// Returns the nodes of the call.
    ///
    /// *Errors*: the function does not make an output that the call takes; an attribute of another type than the
    /// function takes; more bytes than may be copied.
    pub(super) fn nodes(mut self) -> Result<Vec<NodeProto>, EngineError> {
        let proto = &self.function.proto;
        let mut nodes = Vec::with_capacity(proto.node.len());
        for node in &proto.node {
            nodes.push(self.node(node)?);
        }
        let made: HashSet<&str> =
            proto.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        for (formal, actual) in proto.output.iter().zip(&self.call.output) {
            if actual.is_empty() || made.contains(formal.as_str()) {
                continue;
            }
            let input = proto.input.iter().position(|input| input == formal);
            match input.and_then(|input| self.call.input.get(input)).filter(|name| !name.is_empty()) {
                Some(input) => nodes.push(identity(input, actual)),
                None => {
                    return self
                        .function
                        .refused(&format!("it does not make its output `{}`", shown(formal)));
                }
            }
        }
        Ok(nodes)
    }

    fn node(&mut self, node: &NodeProto) -> Result<NodeProto, EngineError> {
        self.budget.copy(node.op_type.len() + node.domain.len() + node.attribute.len() * NAME_BYTES)?;
        let mut attribute = Vec::with_capacity(node.attribute.len());
        for found in &node.attribute {
            attribute.extend(self.attribute(found)?);
        }
        Ok(NodeProto {
            input: node.input.iter().map(|name| self.value(name)).collect::<Result<_, _>>()?,
            output: node.output.iter().map(|name| self.value(name)).collect::<Result<_, _>>()?,
            name: self.own(&node.name)?,
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            attribute,
            doc_string: String::new(),
        })
    }

    /// Returns an attribute, or nothing where it refers to one that neither the call nor the function gives.
    fn attribute(&mut self, attribute: &AttributeProto) -> Result<Option<AttributeProto>, EngineError> {
        if !attribute.ref_attr_name.is_empty() {
            let Some(&given) = self.attributes.get(attribute.ref_attr_name.as_str()) else { return Ok(None) };
            if attribute.r#type != 0 && given.r#type != attribute.r#type {
                return self.function.refused(&format!(
                    "its attribute `{}` is of another type than its nodes take",
                    shown(&attribute.ref_attr_name)
                ));
            }
            self.budget.copy(bytes_of(given))?;
            return Ok(Some(AttributeProto { name: attribute.name.clone(), ..given.clone() }));
        }
        if attribute.g.is_none() && attribute.graphs.is_empty() {
            self.budget.copy(bytes_of(attribute))?;
            return Ok(Some(attribute.clone()));
        }
        let g = attribute.g.as_ref().map(|graph| self.graph(graph)).transpose()?;
        let graphs = attribute.graphs.iter().map(|graph| self.graph(graph)).collect::<Result<_, _>>()?;
        Ok(Some(AttributeProto {
            name: attribute.name.clone(),
            r#type: attribute.r#type,
            g,
            graphs,
            ..AttributeProto::default()
        }))
    }

    fn graph(&mut self, graph: &GraphProto) -> Result<GraphProto, EngineError> {
        let mut initializer = Vec::with_capacity(graph.initializer.len());
        for tensor in &graph.initializer {
            self.budget.copy(bytes_of(tensor))?;
            let mut tensor = tensor.clone();
            tensor.name = self.value(&tensor.name)?;
            initializer.push(tensor);
        }
        for tensor in &graph.sparse_initializer {
            self.budget.copy(bytes_of(tensor))?;
        }
        self.budget.copy(graph.name.len())?;
        Ok(GraphProto {
            name: graph.name.clone(),
            node: graph.node.iter().map(|node| self.node(node)).collect::<Result<_, _>>()?,
            initializer,
            sparse_initializer: graph.sparse_initializer.clone(),
            input: self.infos(&graph.input)?,
            output: self.infos(&graph.output)?,
            ..GraphProto::default()
        })
    }

    fn infos(&mut self, values: &[ValueInfoProto]) -> Result<Vec<ValueInfoProto>, EngineError> {
        let mut renamed = Vec::with_capacity(values.len());
        for value in values {
            self.budget.copy(bytes_of(value))?;
            let mut value = value.clone();
            let name = self.value(&value.name)?;
            if name.is_empty() {
                return self.function.refused(&format!(
                    "a graph in it hands on `{}`, which is not given",
                    shown(&value.name)
                ));
            }
            value.name = name;
            renamed.push(value);
        }
        Ok(renamed)
    }

    /// Returns what stands for the name of a value.
    fn value(&mut self, name: &str) -> Result<String, EngineError> {
        match self.values.get(name).cloned() {
            Some(bound) => {
                self.budget.copy(NAME_BYTES + bound.len())?;
                Ok(bound)
            }
            None => self.own(name),
        }
    }

    /// Returns a name with the prefix of the call; none stays none.
    fn own(&mut self, name: &str) -> Result<String, EngineError> {
        self.budget.copy(NAME_BYTES + self.prefix.len() + name.len())?;
        if name.is_empty() {
            return Ok(String::new());
        }
        Ok(format!("{}{name}", self.prefix))
    }
}
