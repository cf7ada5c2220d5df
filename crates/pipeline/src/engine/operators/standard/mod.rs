//! Operators of `ai.onnx` where tract computes another value than ONNX says, or fails in the run.
//!
//! One module a family: kernels of our own, or tract's operator behind a guard that refuses what it does wrong. Never
//! replaces what runs right: `cargo xtask nodes` and `docs/models.md` tell what was found.

mod activation;
mod arg;
mod axis_wise;
mod branches;
mod cast;
mod clip;
mod convolution;
pub(super) mod curves;
mod dense;
mod distance;
mod elementwise;
mod gemm;
mod guarded;
mod indices;
mod normal;
mod one_hot;
mod product;
mod reduce;
#[cfg(test)]
mod tests;
mod top_k;
mod values;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::TractResult;
use tract_onnx::tract_core::internal::{Tensor, tensor0};
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::ops::array::ConstantOfShape;
use tract_onnx::tract_hir::ops::expandable::expand;

use super::Builder;

/// What a rewritten graph calls `MatMul` with constant weights, a bias and an activation.
pub(in super::super) const LINEAR: &str = "dunlin.Linear";

/// All of them.
pub(super) const OPERATORS: &[(&str, Builder)] = &[
    ("ArgMax", arg::build),
    ("ArgMin", arg::build),
    ("BitShift", elementwise::build),
    ("CDist", distance::build),
    ("Cast", cast::build),
    ("Celu", activation::build),
    ("Clip", clip::build),
    ("ConstantOfShape", constant_of_shape),
    ("Div", elementwise::build_div),
    ("Equal", elementwise::build_equal),
    ("FastGelu", activation::build),
    ("FusedGemm", gemm::build),
    ("GatherND", indices::gather_nd),
    ("Gelu", activation::build),
    ("Gemm", gemm::build),
    ("GroupNormalization", normal::build),
    ("HardSigmoid", activation::build),
    ("HardSwish", activation::build),
    ("Hardmax", axis_wise::build),
    ("If", branches::build),
    ("InstanceNormalization", normal::build),
    ("IsInf", activation::build_classify),
    ("IsNaN", activation::build_classify),
    ("LayerNormalization", normal::build),
    ("LeakyRelu", activation::build),
    (LINEAR, gemm::build_linear),
    ("LogSoftmax", axis_wise::build),
    ("Max", elementwise::build),
    ("Min", elementwise::build),
    ("Mod", elementwise::build),
    ("OneHot", one_hot::build),
    ("Pad", guarded::pad),
    ("Pow", elementwise::build_pow),
    ("QuickGelu", activation::build),
    ("ReduceL1", reduce::build),
    ("ReduceL2", reduce::build),
    ("ReduceLogSum", reduce::build),
    ("ReduceLogSumExp", reduce::build),
    ("ReduceMax", reduce::build),
    ("ReduceMean", reduce::build),
    ("ReduceMin", reduce::build),
    ("ReduceProd", reduce::build),
    ("ReduceSum", reduce::build),
    ("ReduceSumSquare", reduce::build),
    ("Relu", activation::build),
    ("Resize", guarded::resize),
    ("Round", activation::build),
    ("ScatterND", indices::scatter_nd),
    ("Sigmoid", activation::build),
    ("Softplus", activation::build),
    ("Tanh", activation::build),
    ("TopK", top_k::build),
];

/// Operators of tract that are replaced where their shapes and constants allow it.
pub(super) const FASTER: &[(&str, Builder)] = &[
    ("AveragePool", convolution::build),
    ("Conv", convolution::build),
    ("GlobalAveragePool", convolution::build),
    ("MaxPool", convolution::build),
];

/// tract's fills with zeros of f64 where the attribute is absent; ONNX says f32.
fn constant_of_shape(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    super::attributes::require_only(node, &["value"])?;
    let value: Tensor = match node.attribute.iter().find(|attribute| attribute.name == "value") {
        Some(attribute) => {
            let tensor = attribute.t.clone().unwrap_or_default();
            context.load_tensor(&tensor)?.nth(0)?
        }
        None => tensor0(0.0_f32),
    };
    Ok((expand(ConstantOfShape::new(value.into())), Vec::new()))
}
