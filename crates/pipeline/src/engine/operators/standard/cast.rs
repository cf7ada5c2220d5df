//! `Cast`: values in another type.
//!
//! tract turns 64-bit integers into sizes of tensors on the way, through i32: times in milliseconds come out as garbage.
//! A float beyond an integer's range becomes its nearest bound and NaN becomes 0; ONNX leaves both open.
//!
//! *Source*: ai.onnx 13 and 19 (`saturate` and `round_mode` are for types of 8 bits, which there are none of here).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, fact, wired};

#[derive(Debug, Clone)]
struct Cast {
    to: DatumType,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["to", "saturate", "round_mode"])?;
    Ok((expand(Cast { to: node.get_attr("to")? }), Vec::new()))
}

impl Cast {
    /// Sizes of tensors stay such where they only become the integers that they are.
    fn output(&self, from: DatumType) -> DatumType {
        let is_size = from == TDim::datum_type() && self.to == DatumType::I64;
        if is_size { from } else { self.to }
    }
}

impl Expansion for Cast {
    fn name(&self) -> StaticName {
        "Cast".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&outputs[0].shape, &inputs[0].shape)?;
        solver.given(&inputs[0].datum_type, move |solver, from| {
            solver.equals(&outputs[0].datum_type, self.output(from))
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let from = model.outlet_fact(inputs[0])?.datum_type;
        let text = String::datum_type();
        if from == text && self.to != text {
            return wired(prefix, model, Parse { to: self.to }, inputs);
        }
        let is_whole = from.is_integer() || from == text;
        ensure!(self.to != text || is_whole, "texts of {from:?}: ONNX Runtime writes them in its own way");
        model.wire_node(prefix, cast(self.output(from)), inputs)
    }
}

/// Reads numbers of texts.
#[derive(Debug)]
struct Parse {
    to: DatumType,
}

impl Kernel for Parse {
    fn name(&self) -> &'static str {
        "Cast"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let takes = matches!(self.to, DatumType::F32 | DatumType::F64 | DatumType::I32 | DatumType::I64);
        ensure!(takes, "{:?} of texts", self.to);
        Ok(tvec!(fact(self.to, &inputs[0].shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let texts = inputs[0].try_as_plain_ram()?;
        let texts = texts.as_slice::<String>()?;
        let shape = inputs[0].shape();
        let output = if self.to.is_float() {
            let read = |text: &String| text.trim().parse::<f64>().context("a text is no number");
            Tensor::from_shape(shape, &texts.iter().map(read).collect::<TractResult<Vec<_>>>()?)?
        } else {
            let read = |text: &String| text.trim().parse::<i64>().context("a text is no integer");
            let values = texts.iter().map(read).collect::<TractResult<Vec<_>>>()?;
            let fits = |value: &i64| self.to == DatumType::I64 || i32::try_from(*value).is_ok();
            ensure!(values.iter().all(fits), "an integer of a text is beyond 32 bits");
            Tensor::from_shape(shape, &values)?
        };
        Ok(tvec!(output.cast_to_dt(self.to)?.into_owned().into_tvalue()))
    }
}
