//! `GatherND` and `ScatterND` with indices counted from the end, which tract takes for huge ones.
//!
//! Counts them from the front, then leaves the rest to tract; an index outside is an error of the run.
//!
//! *Source*: ai.onnx 13 (GatherND) and 18 (ScatterND).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::GatherNd as TypedGatherNd;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, InferenceRulesOp, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::array::{GatherNd as TractGatherNd, ScatterNd, ScatterReduction};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, fact, wired};
use super::values::without_sizes;

/// Counts indices from the front; their last axis runs over axes of the first input.
#[derive(Debug)]
struct FromFront {
    /// Axes of the first input before those that are indexed.
    skipped: usize,
}

impl Kernel for FromFront {
    fn name(&self) -> &'static str {
        "IndicesFromFront"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [data, indices] = inputs else { bail!("it takes two inputs, not {}", inputs.len()) };
        let width = indices.shape.last().context("indices without axes")?.to_usize()?;
        ensure!(self.skipped + width <= data.rank(), "{width} indices into {} axes", data.rank());
        ensure!(indices.datum_type == DatumType::I64, "indices of {:?}", indices.datum_type);
        Ok(tvec!(fact(i64::datum_type(), &indices.shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shape = inputs[0].shape();
        let width = inputs[1].shape().last().copied().unwrap_or_default().max(1);
        let mut indices = inputs[1].clone().into_tensor();
        let mut plain = indices.try_as_plain_ram_mut()?;
        for index in plain.as_slice_mut::<i64>()?.chunks_exact_mut(width) {
            for (value, length) in index.iter_mut().zip(&shape[self.skipped..]) {
                let length = *length as i64;
                ensure!((-length..length).contains(value), "index {value} into an axis of {length} values");
                *value = value.rem_euclid(length);
            }
        }
        Ok(tvec!(indices.into_tvalue()))
    }
}

fn from_front(
    prefix: &str,
    model: &mut TypedModel,
    skipped: usize,
    data: OutletId,
    indices: OutletId,
) -> TractResult<OutletId> {
    let indices = without_sizes(prefix, model, indices)?;
    Ok(wired(&format!("{prefix}.indices"), model, FromFront { skipped }, &[data, indices])?[0])
}

#[derive(Debug, Clone)]
struct Gather {
    batch_axes: usize,
    tract: TractGatherNd,
}

pub(super) fn gather_nd(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["batch_dims"])?;
    let batch_axes: usize = node.get_attr_opt("batch_dims")?.unwrap_or(0);
    Ok((expand(Gather { batch_axes, tract: TractGatherNd::new(batch_axes) }), Vec::new()))
}

impl Expansion for Gather {
    fn name(&self) -> StaticName {
        "GatherND".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.tract.rules(solver, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let indices = from_front(prefix, model, self.batch_axes, inputs[0], inputs[1])?;
        model.wire_node(prefix, TypedGatherNd::new(self.batch_axes), &[inputs[0], indices])
    }
}

#[derive(Debug, Clone)]
struct Scatter(ScatterNd);

pub(super) fn scatter_nd(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["reduction"])?;
    let reduction = ScatterReduction::parse(node.get_attr_opt("reduction")?.unwrap_or("none"))?;
    Ok((expand(Scatter(ScatterNd::new(reduction))), Vec::new()))
}

impl Expansion for Scatter {
    fn name(&self) -> StaticName {
        "ScatterND".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.0.rules(solver, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let indices = from_front(prefix, model, 0, inputs[0], inputs[1])?;
        self.0.wire(prefix, model, &[inputs[0], indices, inputs[2]])
    }
}
