//! What an ONNX file says of itself, for the programs that build and check packages.
//!
//! Reads names, shapes, classes and operators of the graph as the engine gets it, without maps and sequences, and asks the
//! engine of every node whether it takes it. Runs nothing, and loads nothing that could run: that takes an approved
//! package.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dunlin_model_package::InputSpec;
use dunlin_model_package::manifest::Dtype;
use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, ValueInfoProto, type_proto};
use tract_onnx::prelude::*;

use super::tract::{build_error, catching, read_proto};
use super::window_tensors::input_fact;
use super::{EngineError, limits, operators, rewrite};

/// An input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphTensor {
    /// Its name.
    pub name: String,
    /// Its element type, where an input of a package may have it.
    pub dtype: Option<Dtype>,
    /// Its element type as ONNX names it, as in `float`.
    pub element: String,
    /// Its axes; `None` is an axis of any length. Nothing where the file does not say.
    pub axes: Option<Vec<Option<u32>>>,
}

/// A node that the engine does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedNode {
    /// Its name, or that of its first output.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Shape of its first output, as in `[batch, 2]`; `?` where the file does not say.
    pub shape: String,
    /// Why it is not taken.
    pub reason: String,
}

/// A decoded ONNX file within the limits.
pub struct OnnxFile {
    proto: ModelProto,
    engine: Onnx,
    classes: HashMap<String, Vec<String>>,
}

impl OnnxFile {
    /// Decodes a file.
    ///
    /// *Errors*: it is no ONNX model, or beyond a limit.
    pub fn read(model: &[u8]) -> Result<Self, EngineError> {
        catching(|| {
            let engine = operators::onnx();
            let mut proto = read_proto(&engine, model)?;
            limits::check(&proto, limits::INITIALISER_BYTES_MAX)?;
            let mut classes = HashMap::new();
            if let Some(graph) = &mut proto.graph {
                classes = rewrite::class_names(graph);
                rewrite::to_tensors(graph)?;
            }
            Ok(Self { proto, engine, classes })
        })
    }

    /// Returns the inputs, constants apart, in order.
    #[must_use]
    pub fn inputs(&self) -> Vec<GraphTensor> {
        let Some(graph) = &self.proto.graph else { return Vec::new() };
        let is_constant = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
        graph.input.iter().filter(|input| !is_constant(&input.name)).map(tensor).collect()
    }

    /// Returns the outputs, in order.
    #[must_use]
    pub fn outputs(&self) -> Vec<GraphTensor> {
        self.proto.graph.iter().flat_map(|graph| &graph.output).map(tensor).collect()
    }

    /// Returns the names of an output's classes, in the order of its values, where the file holds them: those of the
    /// classifier that makes it.
    #[must_use]
    pub fn class_names(&self, output: &str) -> Option<&[String]> {
        self.classes.get(output).map(Vec::as_slice)
    }

    /// Drops all outputs but these, and what only the others depend on, as loading the package does.
    pub fn keep_outputs(&mut self, names: &[&str]) {
        if let Some(graph) = &mut self.proto.graph {
            rewrite::keep(graph, names);
        }
    }

    /// Returns the operators of all nodes, each once.
    #[must_use]
    pub fn operators(&self) -> Vec<String> {
        let mut found = BTreeSet::new();
        if let Some(graph) = &self.proto.graph {
            collect_operators(graph, &mut found);
        }
        found.into_iter().collect()
    }

    /// Returns name and operator of each node of the outer graph, as the engine names them, in the file's order.
    #[must_use]
    pub fn nodes(&self) -> Vec<(String, String)> {
        let nodes = self.proto.graph.iter().flat_map(|graph| &graph.node);
        nodes.map(|node| (name_of(node).to_owned(), node.op_type.clone())).collect()
    }

    /// Returns every node that the engine does not take: operators that it does not know, and attributes that it
    /// refuses. An empty list does not promise that the whole graph can be prepared.
    #[must_use]
    pub fn refused_nodes(&self) -> Vec<RefusedNode> {
        let mut found = Vec::new();
        if let Some(graph) = &self.proto.graph {
            self.collect_refused(graph, &[], &mut found);
        }
        found
    }

    /// Returns the shapes of the outputs without the batch, for one window of these inputs. `None` is a shape that
    /// only a run shows.
    ///
    /// *Errors*: the engine cannot prepare the graph.
    pub fn output_shapes(&self, inputs: &[InputSpec]) -> Result<Vec<Option<Vec<u32>>>, EngineError> {
        catching(|| {
            let mut model = self.engine.model_for_proto_model(&self.proto).map_err(build_error)?;
            for (position, input) in self.inputs().iter().enumerate() {
                if let Some(spec) = inputs.iter().find(|spec| spec.name == input.name) {
                    model.set_input_fact(position, input_fact(spec, 1)).map_err(build_error)?;
                }
            }
            let typed = model.into_typed().map_err(build_error)?;
            let count = typed.output_outlets().map_err(build_error)?.len();
            (0..count)
                .map(|position| {
                    let fact = typed.output_fact(position).map_err(build_error)?;
                    let shape = fact.shape.as_concrete();
                    Ok(shape.map(|shape| {
                        shape.iter().skip(1).map(|&n| u32::try_from(n).unwrap_or(u32::MAX)).collect()
                    }))
                })
                .collect()
        })
    }

    fn collect_refused<'g>(
        &'g self,
        graph: &'g GraphProto,
        parents: &[&'g GraphProto],
        found: &mut Vec<RefusedNode>,
    ) {
        let shapes: BTreeMap<&str, &ValueInfoProto> =
            graph.value_info.iter().chain(&graph.output).map(|value| (value.name.as_str(), value)).collect();
        let mut around = parents.to_vec();
        around.push(graph);
        for node in &graph.node {
            if let Some(reason) = self.refusal(node, &around) {
                let first = node.output.first().map(String::as_str).unwrap_or_default();
                let shape = shapes.get(first).and_then(|value| tensor(value).axes);
                found.push(RefusedNode {
                    node: name_of(node).to_owned(),
                    operator: node.op_type.clone(),
                    shape: shape.map_or_else(|| "?".to_owned(), |axes| axes_text(&axes)),
                    reason,
                });
            }
            for inner in
                node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
            {
                self.collect_refused(inner, &around, found);
            }
        }
    }

    fn refusal(&self, node: &NodeProto, around: &[&GraphProto]) -> Option<String> {
        let graph = around.last()?;
        if let Some(reason) = operators::refusal(node, graph, &self.proto, &self.engine) {
            return Some(reason);
        }
        let builder = self.engine.op_register.0.get(&node.op_type)?;
        let is_default = |domain: &str| domain.is_empty() || domain == "ai.onnx";
        let opset = self.proto.opset_import.iter().find(|import| is_default(&import.domain));
        let context = ParsingContext {
            onnx_operator_set_version: opset.map_or(0, |import| import.version),
            framework: &self.engine,
            model: &self.proto,
            parent_graphs: around.to_vec(),
            model_dir: None,
            template: InferenceModel::default(),
        };
        catching(|| builder(&context, node).map(drop).map_err(build_error)).err().map(|error| match error {
            EngineError::Build(why) | EngineError::Panicked(why) => why,
            other => other.to_string(),
        })
    }
}

/// Returns a node's name, or that of its first output.
fn name_of(node: &NodeProto) -> &str {
    if node.name.is_empty() { node.output.first().unwrap_or(&node.name) } else { &node.name }
}

fn collect_operators(graph: &GraphProto, into: &mut BTreeSet<String>) {
    for node in &graph.node {
        into.insert(node.op_type.clone());
        for inner in node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
            collect_operators(inner, into);
        }
    }
}

fn tensor(value: &ValueInfoProto) -> GraphTensor {
    let mut found =
        GraphTensor { name: value.name.clone(), dtype: None, element: "none".to_owned(), axes: None };
    let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return found;
    };
    let element = DataType::try_from(tensor.elem_type);
    found.dtype = match element {
        Ok(DataType::Float) => Some(Dtype::F32),
        Ok(DataType::Double) => Some(Dtype::F64),
        Ok(DataType::Int32) => Some(Dtype::I32),
        Ok(DataType::Int64) => Some(Dtype::I64),
        _ => None,
    };
    found.element =
        element.map_or_else(|_| tensor.elem_type.to_string(), |e| e.as_str_name().to_ascii_lowercase());
    found.axes = tensor.shape.as_ref().map(|shape| {
        let axis = |value: &Option<dimension::Value>| match value {
            Some(dimension::Value::DimValue(length)) => {
                u32::try_from(*length).ok().filter(|length| *length > 0)
            }
            _ => None,
        };
        shape.dim.iter().map(|dim| axis(&dim.value)).collect()
    });
    found
}

/// Returns axes as text; the first free one is the batch.
#[must_use]
pub fn axes_text(axes: &[Option<u32>]) -> String {
    let text = |(position, axis): (usize, &Option<u32>)| match axis {
        Some(length) => length.to_string(),
        None if position == 0 => "batch".to_owned(),
        None => "any".to_owned(),
    };
    format!("[{}]", axes.iter().enumerate().map(text).collect::<Vec<_>>().join(", "))
}
