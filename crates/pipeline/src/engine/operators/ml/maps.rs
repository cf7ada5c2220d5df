//! Operators whose input is a map: no model can reach them here.
//!
//! *Source*: ai.onnx.ml 1, DictVectorizer and CastMap.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

/// Refuses the node: a model's inputs are tensors, and what makes a map of a tensor is taken out of the graph.
pub(super) fn refuse(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    bail!(
        "{} takes a map, and the inputs of a model are tensors here; train on columns of numbers",
        node.op_type
    )
}
