//! `Gemm`: `alpha * A * B + beta * C`, with `A` and `B` turned where asked.
//!
//! tract keeps both factors in f32, which fails in the run of a model in f64.
//!
//! *Source*: ai.onnx 13, Gemm.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::change_axes::wire_with_rank_broadcast;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::{add, mul};
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::attributes::require_only;

#[derive(Debug, Clone)]
struct Gemm {
    alpha: f32,
    beta: f32,
    turns_a: bool,
    turns_b: bool,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["alpha", "beta", "transA", "transB"])?;
    let flag = |name: &str| -> TractResult<bool> { Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0) };
    Ok((
        expand(Gemm {
            alpha: node.get_attr_opt("alpha")?.unwrap_or(1.0),
            beta: node.get_attr_opt("beta")?.unwrap_or(1.0),
            turns_a: flag("transA")?,
            turns_b: flag("transB")?,
        }),
        Vec::new(),
    ))
}

impl Gemm {
    fn scaled(name: &str, model: &mut TypedModel, factor: f32, input: OutletId) -> TractResult<OutletId> {
        if factor == 1.0 {
            return Ok(input);
        }
        let fact = model.outlet_fact(input)?.clone();
        ensure!(fact.datum_type.is_float(), "a factor {factor} of integers");
        let factor =
            tensor0(factor).cast_to_dt(fact.datum_type)?.into_owned().broadcast_into_rank(fact.rank())?;
        let factor = model.add_const(format!("{name}.factor"), factor)?;
        Ok(model.wire_node(name, mul(), &[input, factor])?[0])
    }
}

impl Expansion for Gemm {
    fn name(&self) -> StaticName {
        "Gemm".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let (rows, inner_a) = if self.turns_a { (1, 0) } else { (0, 1) };
        let (inner_b, columns) = if self.turns_b { (1, 0) } else { (0, 1) };
        solver.equals(&inputs[0].rank, 2)?;
        solver.equals(&inputs[1].rank, 2)?;
        solver.equals(&outputs[0].rank, 2)?;
        for input in inputs {
            solver.equals(&input.datum_type, &outputs[0].datum_type)?;
        }
        solver.equals(&inputs[0].shape[rows], &outputs[0].shape[0])?;
        solver.equals(&inputs[0].shape[inner_a], &inputs[1].shape[inner_b])?;
        solver.equals(&inputs[1].shape[columns], &outputs[0].shape[1])
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let datum_type = model.outlet_fact(inputs[0])?.datum_type;
        let axes = AxesMapping::for_numpy_matmul(2, self.turns_a, self.turns_b, false)?;
        let product = EinSum::new(axes, datum_type);
        let product = model.wire_node(format!("{prefix}.product"), product, &inputs[..2])?[0];
        let product = Self::scaled(&format!("{prefix}.alpha"), model, self.alpha, product)?;
        let Some(added) = inputs.get(2).filter(|_| self.beta != 0.0) else { return Ok(tvec!(product)) };
        let added = Self::scaled(&format!("{prefix}.beta"), model, self.beta, *added)?;
        wire_with_rank_broadcast(prefix, model, add(), &[product, added])
    }
}
