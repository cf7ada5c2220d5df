//! Limits on a decoded model, checked before the engine builds anything of it.
//!
//! Counts nodes, bytes, axes and nesting of the protobuf, local functions inlined; never allocates by what the model
//! claims. Runs first in loading; what passes may still misbehave, which the worker process contains.

use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, tensor_proto::DataType,
    tensor_shape_proto::dimension, type_proto,
};

use super::EngineError;

/// Longest model file: that of a package's blob.
pub const MODEL_BYTES_MAX: usize = dunlin_model_package::package::BLOB_BYTES_MAX as usize;
/// Most nodes over all graphs: ten times those of a 24-layer transformer (about 2,000); preparing this many takes a
/// few seconds.
pub const NODES_MAX: usize = 20_000;
/// Most bytes of all constants once in memory, whatever the budget: the file cannot hold more.
pub const INITIALISER_BYTES_MAX: u64 = dunlin_model_package::package::BLOB_BYTES_MAX;
/// Most axes of a tensor: ONNX operators define five for 3-d convolution, exporters' reshapes use up to seven.
pub const RANK_MAX: usize = 8;
/// Largest axis: a whole window as one axis.
pub(super) const AXIS_MAX: i64 = dunlin_model_package::manifest::WINDOW_VALUES_MAX as i64;
/// Deepest nesting of graphs in `If`, `Loop` and `Scan`: exporters reach two, each level costs the engine a stack
/// frame and a copy of the names outside.
pub const SUBGRAPH_DEPTH_MAX: usize = 4;
/// Longest symbolic size: names like `batch_size` or `(s0 + 1)//2`; the engine parses them recursively.
pub(super) const AXIS_NAME_BYTES_MAX: usize = 128;

/// What was counted of a model.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ModelSize {
    /// Nodes over all graphs.
    pub(super) nodes: usize,
    /// Bytes of all constants once in memory.
    pub(super) constant_bytes: u64,
}

/// Checks a decoded model against the limits and its budget in bytes.
///
/// *Errors*: the first limit that is passed, with the object that passes it.
pub(super) fn check(model: &ModelProto, budget_bytes: u64) -> Result<ModelSize, EngineError> {
    let mut size = ModelSize::default();
    let graph =
        model.graph.as_ref().ok_or_else(|| EngineError::Unreadable("it holds no graph".to_owned()))?;
    check_graph(graph, 1, &mut size)?;
    if size.constant_bytes > budget_bytes {
        return refuse(format!(
            "its constants take {} bytes and `budgets.resident_bytes` allows {budget_bytes}; raise the budget or quantise the model",
            size.constant_bytes
        ));
    }
    Ok(size)
}

fn refuse<T>(why: String) -> Result<T, EngineError> {
    Err(EngineError::Limit(why))
}

fn check_graph(graph: &GraphProto, depth: usize, size: &mut ModelSize) -> Result<(), EngineError> {
    if depth > SUBGRAPH_DEPTH_MAX {
        return refuse(format!("graph `{}` is nested deeper than {SUBGRAPH_DEPTH_MAX}", graph.name));
    }
    size.nodes += graph.node.len();
    if size.nodes > NODES_MAX {
        return refuse(format!("it has more than {NODES_MAX} nodes"));
    }
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |values| values.name.as_str());
        return Err(EngineError::Unsupported(vec![format!("sparse initialiser `{name}`")]));
    }
    graph.initializer.iter().try_for_each(|tensor| check_tensor(tensor, size))?;
    for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
        check_value(value)?;
    }
    for node in &graph.node {
        node.attribute.iter().try_for_each(|attribute| check_attribute(attribute, depth, size))?;
    }
    Ok(())
}

fn check_attribute(
    attribute: &AttributeProto,
    depth: usize,
    size: &mut ModelSize,
) -> Result<(), EngineError> {
    if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
        return Err(EngineError::Unsupported(vec![format!("sparse attribute `{}`", attribute.name)]));
    }
    attribute.t.iter().chain(&attribute.tensors).try_for_each(|tensor| check_tensor(tensor, size))?;
    attribute.g.iter().chain(&attribute.graphs).try_for_each(|graph| check_graph(graph, depth + 1, size))
}

fn check_value(value: &ValueInfoProto) -> Result<(), EngineError> {
    let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Ok(());
    };
    let axes = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    if axes.len() > RANK_MAX {
        return refuse(format!("tensor `{}` has more than {RANK_MAX} axes", value.name));
    }
    for axis in axes {
        match &axis.value {
            Some(dimension::Value::DimValue(length)) if *length > AXIS_MAX => {
                return refuse(format!("tensor `{}` has an axis longer than {AXIS_MAX}", value.name));
            }
            Some(dimension::Value::DimParam(name)) if name.len() > AXIS_NAME_BYTES_MAX => {
                return refuse(format!("tensor `{}` has an axis with an overlong name", value.name));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_tensor(tensor: &TensorProto, size: &mut ModelSize) -> Result<(), EngineError> {
    let name = &tensor.name;
    if tensor.data_location.unwrap_or(0) != 0 || !tensor.external_data.is_empty() {
        return refuse(format!(
            "constant `{name}` lies in another file; save the model with all data in `model.onnx`"
        ));
    }
    if tensor.dims.len() > RANK_MAX {
        return refuse(format!("constant `{name}` has more than {RANK_MAX} axes"));
    }
    let mut elements = 1_u64;
    for axis in &tensor.dims {
        let Ok(axis) = u64::try_from(*axis) else {
            return refuse(format!("constant `{name}` has a negative axis"));
        };
        elements = elements.saturating_mul(axis);
    }
    let bytes = elements.saturating_mul(element_bytes(tensor.data_type));
    size.constant_bytes = size.constant_bytes.saturating_add(bytes);
    if size.constant_bytes > INITIALISER_BYTES_MAX {
        return refuse(format!("its constants up to `{name}` take more than {INITIALISER_BYTES_MAX} bytes"));
    }
    Ok(())
}

fn element_bytes(data_type: i32) -> u64 {
    match DataType::try_from(data_type) {
        Ok(DataType::Bool | DataType::Int8 | DataType::Uint8) => 1,
        Ok(DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16) => 2,
        Ok(DataType::Float | DataType::Int32 | DataType::Uint32) => 4,
        Ok(DataType::Complex128) => 16,
        // A text takes a pointer, length and capacity beside its bytes, which the file holds.
        Ok(DataType::String) => 24,
        _ => 8,
    }
}
