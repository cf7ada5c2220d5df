//! `SVMRegressor`: a weighted sum of kernel values, or of features; with `one_class` its sign.
//!
//! *Source*: ai.onnx.ml 1, SVMRegressor. ONNX Runtime passes over `post_transform`; here another one than NONE is refused.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;

use super::super::super::attributes::require_only;
use super::super::super::kernel::{Kernel, built, fact};
use super::super::post_transform::PostTransform;
use super::super::rows::{NUMBERS, dot, floats, only, require_type, rows_of, tensor};
use super::support_vectors::SupportVectors;

#[derive(Debug)]
struct SvmRegressor {
    /// None: the coefficients are those of the features.
    vectors: Option<SupportVectors>,
    coefficients: Vec<f32>,
    rho: f32,
    output: Output,
}

#[derive(Debug, PartialEq, Eq)]
enum Output {
    Value,
    Sign,
}

pub(in super::super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(
        node,
        &[
            "coefficients",
            "kernel_params",
            "kernel_type",
            "n_supports",
            "one_class",
            "post_transform",
            "rho",
            "support_vectors",
        ],
    )?;
    ensure!(PostTransform::read(node)? == PostTransform::None, "`post_transform` is not NONE");
    let coefficients: Vec<f32> = node.get_attr_vec("coefficients")?;
    ensure!(!coefficients.is_empty(), "`coefficients` is empty");
    let rho: Vec<f32> = node.get_attr_vec("rho")?;
    let &[rho] = rho.as_slice() else { bail!("`rho` has {} values, not one", rho.len()) };
    let vectors = match node.get_attr_opt::<usize>("n_supports")?.unwrap_or(0) {
        0 => None,
        count => {
            ensure!(
                coefficients.len() == count,
                "there are {} coefficients for {count} vectors",
                coefficients.len()
            );
            Some(SupportVectors::read(node, count)?)
        }
    };
    let is_sign = node.get_attr_opt::<i64>("one_class")?.unwrap_or(0) != 0;
    let output = if is_sign { Output::Sign } else { Output::Value };
    built(SvmRegressor { vectors, coefficients, rho, output })
}

impl SvmRegressor {
    fn columns(&self) -> usize {
        self.vectors.as_ref().map_or(self.coefficients.len(), SupportVectors::columns)
    }
}

impl Kernel for SvmRegressor {
    fn name(&self) -> &'static str {
        "SVMRegressor"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = only(inputs)?;
        require_type(input, NUMBERS)?;
        let rows = rows_of(input, self.columns())?;
        Ok(tvec!(fact(f32::datum_type(), &[rows, 1.to_dim()])))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = floats(&inputs[0])?;
        let mut kernels = Vec::new();
        let value = |row: &[f32]| {
            let weighted = match &self.vectors {
                Some(vectors) => {
                    vectors.kernels(row, &mut kernels);
                    dot(&kernels, &self.coefficients)
                }
                None => dot(row, &self.coefficients),
            };
            let value = weighted + self.rho;
            match self.output {
                Output::Value => value,
                Output::Sign if value > 0.0 => 1.0,
                Output::Sign => -1.0,
            }
        };
        let values: Vec<f32> = input.chunks_exact(self.columns()).map(value).collect();
        Ok(tvec!(tensor(&[values.len(), 1], values)?.into_tvalue()))
    }
}
