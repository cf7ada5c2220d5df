//! tract's own operators behind a guard that refuses what they do wrong.
//!
//! A guard sees types, shapes and constants when the plan is made; what an attribute alone shows is refused earlier, by
//! the conditions. Never changes what an operator computes.

use std::sync::{Arc, LazyLock};

use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{
    InferenceModel, InferenceNode, InferenceOp, InferenceResult, Solver, TensorProxy,
};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::attributes::require_only;

/// tract's operators, without ours over them.
static TRACT: LazyLock<Onnx> = LazyLock::new(tract_onnx::onnx);

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;
type Guard = Arc<dyn Fn(&[TypedFact]) -> TractResult<()> + Send + Sync>;

/// Returns tract's own operator for a node.
pub(super) fn of_tract(context: &ParsingContext<'_>, node: &NodeProto) -> Built {
    let builder = TRACT.op_register.0.get(&node.op_type);
    builder.with_context(|| format!("tract has no operator `{}`", node.op_type))?(context, node)
}

#[derive(Clone)]
struct Guarded {
    inner: Box<dyn Expansion>,
    guard: Guard,
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Guarded {
    fn check(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<()> {
        let facts = inputs.iter().map(|input| Ok(model.outlet_fact(*input)?.clone()));
        (self.guard)(&facts.collect::<TractResult<Vec<_>>>()?)
    }
}

impl Expansion for Guarded {
    fn name(&self) -> StaticName {
        self.inner.name()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.inner.nboutputs()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.inner.rules(solver, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        self.check(model, inputs)?;
        self.inner.wire(prefix, model, inputs)
    }

    fn wire_with_inference_model_and_node(
        &self,
        prefix: &str,
        model: &InferenceModel,
        node: &InferenceNode,
        typed: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        self.check(typed, inputs)?;
        self.inner.wire_with_inference_model_and_node(prefix, model, node, typed, inputs)
    }
}

fn guarded(
    context: &ParsingContext<'_>,
    node: &NodeProto,
    guard: impl Fn(&[TypedFact]) -> TractResult<()> + Send + Sync + 'static,
) -> Built {
    let (operator, closures) = of_tract(context, node)?;
    let inner = operator.as_op().downcast_ref::<Box<dyn Expansion>>().cloned();
    let inner = inner.context("tract's operator cannot be guarded")?;
    Ok((expand(Guarded { inner, guard: Arc::new(guard) }), closures))
}

fn constants<T: Datum + Copy>(fact: &TypedFact) -> TractResult<Option<Vec<T>>> {
    let Some(constant) = &fact.konst else { return Ok(None) };
    let cast = constant.cast_to::<T>()?;
    Ok(Some(cast.try_as_plain_ram()?.as_slice::<T>()?.to_vec()))
}

/// tract reads negative pads as huge ones, and a constant's value as mode `constant` whatever the mode.
pub(super) fn pad(context: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(
        node,
        if context.onnx_operator_set_version < 11 { &["mode", "pads", "value"] } else { &["mode"] },
    )?;
    let mode: &str = node.get_attr_opt("mode")?.unwrap_or("constant");
    let has_value = context.onnx_operator_set_version >= 11
        && tract_onnx::model::optional_inputs(node).nth(2).flatten().is_some();
    if mode != "constant" && has_value {
        bail!("mode `{mode}` with a constant's value; export the node without the value");
    }
    let attribute: Vec<i64> = node.get_attr_opt_vec("pads")?.unwrap_or_default();
    ensure!(attribute.iter().all(|pad| *pad >= 0), "negative pads; use Slice");
    if context.onnx_operator_set_version < 11 {
        return of_tract(context, node);
    }
    guarded(context, node, |facts| {
        ensure!(facts[0].datum_type != DatumType::Bool, "it does not take truth values");
        if let Some(pads) = facts.get(1) {
            let pads = constants::<i64>(pads)?.context("pads that are no constant")?;
            ensure!(pads.iter().all(|pad| *pad >= 0), "negative pads; use Slice");
        }
        Ok(())
    })
}

/// Sampling between aligned corners depends on the output's length before it is cut to an integer, which tract drops:
/// right for whole scales and for given sizes.
pub(super) fn resize(context: &ParsingContext<'_>, node: &NodeProto) -> Built {
    let known = [
        "antialias",
        "axes",
        "coordinate_transformation_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "extrapolation_value",
        "keep_aspect_ratio_policy",
        "mode",
        "nearest_mode",
    ];
    require_only(node, &known)?;
    let mode: &str = node.get_attr_opt("coordinate_transformation_mode")?.unwrap_or("half_pixel");
    ensure!(mode != "tf_crop_and_resize", "`coordinate_transformation_mode` is `tf_crop_and_resize`");
    let version = context.onnx_operator_set_version;
    let scales = tract_onnx::model::optional_inputs(node).nth(if version == 10 { 1 } else { 2 }).flatten();
    let needs_whole = mode == "align_corners" || version == 10;
    guarded(context, node, move |facts| {
        if let Some(scales) = scales.filter(|_| needs_whole) {
            let scales = constants::<f32>(&facts[scales])?.context("scales that are no constant")?;
            ensure!(scales.iter().all(|scale| scale.fract() == 0.0), "scales with fractions; give sizes");
        }
        Ok(())
    })
}
