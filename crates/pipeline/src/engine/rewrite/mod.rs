//! What is made of a graph before the engine sees it: tensors alone, only what is needed, in the form that runs fastest.
//!
//! Inlines local functions; takes out maps and sequences, which exporters put around the outputs of classifiers, so that
//! each of their tensors is an output of its own; drops what no kept output needs; joins what ONNX Runtime joins too.
//! Never changes a number by more than its rounding.

mod batch_norm;
mod class_names;
mod dense;
mod distances;
pub(super) mod functions;
mod last_state;
mod prune;
mod sequences;
mod zip_map;

pub(super) use class_names::class_names;
pub(super) use prune::keep;

use tract_onnx::pb::{GraphProto, NodeProto};

use super::EngineError;
use super::operators::quantized;

/// Rewrites a decoded graph to one of tensors.
///
/// *Errors*: a sequence that is longer than any exporter writes.
pub(super) fn to_tensors(graph: &mut GraphProto) -> Result<(), EngineError> {
    zip_map::take_out(graph);
    sequences::take_out(graph)
}

/// Joins nodes that are one operation: normalisation with the convolution before it, what stands between quantisers, dense
/// layers with their activations, and loops over rows that compute distances; takes the last states of recurrent operators
/// directly.
/// What is left over is not dropped.
pub(super) fn simplify(graph: &mut GraphProto, opset: i64) {
    batch_norm::fold(graph);
    quantized::fuse(graph, opset);
    dense::fuse(graph);
    last_state::shorten(graph);
    distances::unroll(graph);
}

/// Returns a node that hands one tensor on under another name.
fn identity(from: &str, to: &str) -> NodeProto {
    operator("Identity", to, &[from], to)
}

/// Returns a node of the default operator set with one output.
fn operator(op_type: &str, name: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        name: name.to_owned(),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}
