//! Whether a graph's inputs and outputs are those that the manifest declares.
//!
//! Compares names, element types and shapes of the protobuf with the manifest; builds nothing. Gives the order in
//! which the engine's inputs stand to the manifest's, and whether the batch axis is free.

use dunlin_model_package::manifest::{Dim, Dtype};
use dunlin_model_package::{InputSpec, Manifest};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{GraphProto, ValueInfoProto, type_proto};

use super::EngineError;

/// Whether a model takes several windows at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchAxis {
    /// Any number of windows.
    Free,
    /// One window a run.
    One,
}

/// How the graph's inputs stand to the manifest's.
#[derive(Debug)]
pub(super) struct Signature {
    /// For each input of the graph, its position in the manifest.
    pub(super) inputs: Vec<usize>,
    /// Whether the batch axis is free.
    pub(super) batch: BatchAxis,
}

/// Compares a graph with its manifest.
///
/// *Errors*: the first input or output that differs, by name, with what the model has instead.
pub(super) fn compare(graph: &GraphProto, manifest: &Manifest) -> Result<Signature, EngineError> {
    let is_constant = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|input| !is_constant(&input.name)).collect();
    let mut batch = BatchAxis::Free;
    for spec in &manifest.inputs {
        let Some(input) = inputs.iter().find(|input| input.name == spec.name) else {
            return mismatch(format!("it has no input `{}`, only {}", spec.name, names(&inputs)));
        };
        if compare_input(input, spec)? == BatchAxis::One {
            batch = BatchAxis::One;
        }
    }
    let mut order = Vec::with_capacity(inputs.len());
    for input in &inputs {
        let Some(position) = manifest.inputs.iter().position(|spec| spec.name == input.name) else {
            return mismatch(format!("its input `{}` is not in the manifest", input.name));
        };
        order.push(position);
    }
    if order.len() != manifest.inputs.len() {
        return mismatch("an input's name occurs twice".to_owned());
    }
    for (position, spec) in manifest.outputs.iter().enumerate() {
        if !graph.output.iter().any(|output| output.name == spec.name) {
            let all: Vec<_> = graph.output.iter().collect();
            return mismatch(format!("it has no output `{}`, only {}", spec.name, names(&all)));
        }
        if manifest.outputs[..position].iter().any(|other| other.name == spec.name) {
            return mismatch(format!("output `{}` occurs twice in the manifest", spec.name));
        }
    }
    Ok(Signature { inputs: order, batch })
}

fn mismatch<T>(why: String) -> Result<T, EngineError> {
    Err(EngineError::Mismatch(why))
}

fn names(values: &[&ValueInfoProto]) -> String {
    let names: Vec<_> = values.iter().take(16).map(|value| format!("`{}`", value.name)).collect();
    if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
}

fn compare_input(input: &ValueInfoProto, spec: &InputSpec) -> Result<BatchAxis, EngineError> {
    let name = &spec.name;
    let Some(type_proto::Value::TensorType(tensor)) = input.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return mismatch(format!("input `{name}` is no tensor"));
    };
    let (expected, text) = match spec.dtype {
        Dtype::F32 => (DataType::Float, "f32"),
        Dtype::F64 => (DataType::Double, "f64"),
        Dtype::I32 => (DataType::Int32, "i32"),
        Dtype::I64 => (DataType::Int64, "i64"),
    };
    if tensor.elem_type != expected as i32 {
        let actual = DataType::try_from(tensor.elem_type)
            .map_or_else(|_| tensor.elem_type.to_string(), |t| t.as_str_name().to_ascii_lowercase());
        return mismatch(format!("input `{name}` has elements of type {actual}, the manifest says {text}"));
    }
    let Some(shape) = &tensor.shape else {
        return Ok(BatchAxis::Free);
    };
    let differs = || {
        let axes: Vec<String> = shape
            .dim
            .iter()
            .map(|axis| match &axis.value {
                Some(dimension::Value::DimValue(length)) => length.to_string(),
                Some(dimension::Value::DimParam(name)) => name.clone(),
                None => "?".to_owned(),
            })
            .collect();
        mismatch(format!(
            "input `{name}` has shape [{}], the manifest says {}",
            axes.join(", "),
            shape_text(&spec.shape)
        ))
    };
    if shape.dim.len() != spec.shape.len() {
        return differs();
    }
    let mut batch = BatchAxis::Free;
    for (axis, expected) in shape.dim.iter().zip(&spec.shape) {
        match (&axis.value, expected) {
            (Some(dimension::Value::DimValue(1)), Dim::Named(_)) => batch = BatchAxis::One,
            // Some exporters write 0 or -1 for an axis of any length.
            (Some(dimension::Value::DimValue(length)), Dim::Named(_)) if *length > 0 => return differs(),
            (Some(dimension::Value::DimValue(length)), Dim::Fixed(size))
                if *length > 0 && *length != i64::from(*size) =>
            {
                return differs();
            }
            _ => {}
        }
    }
    Ok(batch)
}

/// Returns a manifest shape as text.
pub(super) fn shape_text(shape: &[Dim]) -> String {
    let axes: Vec<String> = shape
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => size.to_string(),
            Dim::Named(name) => name.clone(),
        })
        .collect();
    format!("[{}]", axes.join(", "))
}
