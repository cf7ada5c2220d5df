//! Runs single nodes in the tests of operators: built as from a file, prepared and optimised as in a package.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto, tensor_shape_proto, type_proto,
};
use tract_onnx::prelude::*;

use super::super::EngineError;
use super::super::tract::{build_error, catching, run_error};

/// Returns a node of an operator with inputs `x0`, `x1`… and outputs `y0`, `y1`….
pub(crate) fn node(
    operator: &str,
    inputs: usize,
    outputs: usize,
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        op_type: operator.to_owned(),
        input: (0..inputs).map(|i| format!("x{i}")).collect(),
        output: (0..outputs).map(|i| format!("y{i}")).collect(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

/// Returns an attribute of floats.
pub(crate) fn floats(name: &str, values: &[f32]) -> AttributeProto {
    let mut attribute = named(name, attribute_proto::AttributeType::Floats);
    attribute.floats = values.to_vec();
    attribute
}

/// Returns an attribute of integers.
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    let mut attribute = named(name, attribute_proto::AttributeType::Ints);
    attribute.ints = values.to_vec();
    attribute
}

/// Returns an attribute of texts.
pub(crate) fn texts(name: &str, values: &[&str]) -> AttributeProto {
    let mut attribute = named(name, attribute_proto::AttributeType::Strings);
    attribute.strings = values.iter().map(|value| value.as_bytes().to_vec()).collect();
    attribute
}

/// Returns an attribute of one text.
pub(crate) fn text(name: &str, value: &str) -> AttributeProto {
    let mut attribute = named(name, attribute_proto::AttributeType::String);
    attribute.s = value.as_bytes().to_vec();
    attribute
}

/// Returns an attribute of one integer.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    let mut attribute = named(name, attribute_proto::AttributeType::Int);
    attribute.i = value;
    attribute
}

/// Returns an attribute of one float.
pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    let mut attribute = named(name, attribute_proto::AttributeType::Float);
    attribute.f = value;
    attribute
}

fn named(name: &str, kind: attribute_proto::AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: kind as i32, ..AttributeProto::default() }
}

/// Runs a node on inputs, prepared and optimised as a package's graph.
pub(crate) fn run_node(node: NodeProto, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
    run_model(node, inputs, &[], 3)
}

/// Runs a node of a model that imports this version of `ai.onnx.ml`.
pub(crate) fn run_node_of(
    node: NodeProto,
    inputs: &[Tensor],
    ml_version: i64,
) -> Result<Vec<Tensor>, EngineError> {
    run_model(node, inputs, &[], ml_version)
}

/// Runs a node on inputs and constants; these stand at the given positions among the inputs whose names are not empty.
pub(crate) fn run_node_with(
    node: NodeProto,
    inputs: &[Tensor],
    constants: &[usize],
) -> Result<Vec<Tensor>, EngineError> {
    run_model(node, inputs, constants, 3)
}

fn run_model(
    node: NodeProto,
    inputs: &[Tensor],
    constants: &[usize],
    ml_version: i64,
) -> Result<Vec<Tensor>, EngineError> {
    catching(|| {
        let mut graph = GraphProto { node: vec![node.clone()], ..GraphProto::default() };
        let mut given = TVec::new();
        let present = node.input.iter().filter(|name| !name.is_empty());
        for (position, (name, input)) in present.zip(inputs).enumerate() {
            if constants.contains(&position) {
                graph.initializer.push(constant(name, input));
            } else {
                graph.input.push(value(name, input));
                given.push(input.clone().into_tvalue());
            }
        }
        let names = node.output.iter().filter(|name| !name.is_empty());
        let outputs = names.map(|name| ValueInfoProto { name: name.clone(), ..ValueInfoProto::default() });
        graph.output = outputs.collect();
        let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
        let proto = ModelProto {
            ir_version: 8,
            opset_import: vec![opset("", 18), opset("ai.onnx.ml", ml_version), opset("com.microsoft", 1)],
            graph: Some(graph),
            ..ModelProto::default()
        };
        let model = super::onnx().model_for_proto_model(&proto).map_err(build_error)?;
        let plan = model.into_optimized().and_then(IntoRunnable::into_runnable).map_err(build_error)?;
        let outputs = plan.run(given).map_err(run_error)?;
        Ok(outputs.into_iter().map(IntoTensor::into_tensor).collect())
    })
}

fn constant(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: tensor.shape().iter().map(|&length| length as i64).collect(),
        data_type: element(tensor) as i32,
        raw_data: tensor.try_as_plain_ram().expect("plain values").as_bytes().to_vec(),
        ..TensorProto::default()
    }
}

/// Returns a graph input of the type and shape of a tensor.
pub(crate) fn value(name: &str, tensor: &Tensor) -> ValueInfoProto {
    let element = element(tensor);
    let axes = tensor.shape().iter().map(|&length| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(length as i64)),
        ..tensor_shape_proto::Dimension::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: element as i32,
        shape: Some(TensorShapeProto { dim: axes.collect() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn element(tensor: &Tensor) -> DataType {
    let types = [
        (DatumType::F32, DataType::Float),
        (DatumType::F64, DataType::Double),
        (DatumType::F16, DataType::Float16),
        (DatumType::U8, DataType::Uint8),
        (DatumType::I8, DataType::Int8),
        (DatumType::I16, DataType::Int16),
        (DatumType::I32, DataType::Int32),
        (DatumType::I64, DataType::Int64),
        (DatumType::Bool, DataType::Bool),
        (DatumType::String, DataType::String),
    ];
    types.iter().find(|(kind, _)| *kind == tensor.datum_type()).expect("a type of ONNX").1
}
