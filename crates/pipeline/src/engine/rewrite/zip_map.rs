//! `ZipMap`: a row of scores as a dictionary by class, which says nothing that the row does not.
//!
//! *Source*: ai.onnx.ml 1, ZipMap. Its output becomes the plain array `[N, classes]`; what consumes a map is no operator of
//! the engine and refused.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{GraphProto, NodeProto, TensorShapeProto, TypeProto, type_proto};

/// Puts an `Identity` in the place of each.
pub(super) fn take_out(graph: &mut GraphProto) {
    for node in graph.node.iter_mut().filter(|node| node.op_type == "ZipMap") {
        let classes = classes(node);
        for output in graph.output.iter_mut().filter(|output| node.output.contains(&output.name)) {
            output.r#type = Some(array(classes));
        }
        node.op_type = "Identity".to_owned();
        node.domain = String::new();
        node.attribute.clear();
    }
}

fn classes(node: &NodeProto) -> usize {
    node.attribute
        .iter()
        .map(|attribute| attribute.strings.len().max(attribute.ints.len()))
        .max()
        .unwrap_or(0)
}

/// Returns the type of an array with a row a window; of unknown shape where the classes are not named.
fn array(classes: usize) -> TypeProto {
    let axis = |value| Dimension { value, ..Dimension::default() };
    let shape = i64::try_from(classes).ok().filter(|classes| *classes > 0).map(|classes| TensorShapeProto {
        dim: vec![axis(None), axis(Some(dimension::Value::DimValue(classes)))],
    });
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }
}
