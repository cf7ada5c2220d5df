//! `Clip`: values kept between two bounds; NaN stays NaN.
//!
//! *Source*: ai.onnx 6 (bounds as attributes) and 11 to 13 (as inputs). A bound that is not given is the type's largest
//! finite value, so that infinities are clipped too.

use tract_onnx::model::{ParsingContext, optional_inputs};
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::change_axes::wire_with_rank_broadcast;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, fact, wired};
use super::activation::{Map, mapped};
use super::values::{floats, of_floats};

#[derive(Debug, Clone, Copy)]
enum Bound {
    Absent,
    Value(f32),
    /// The input's position.
    Input(usize),
}

#[derive(Debug, Clone)]
struct Clip {
    low: Bound,
    high: Bound,
}

pub(super) fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    if context.onnx_operator_set_version < 11 {
        require_only(node, &["min", "max"])?;
        let bound = |name: &str| -> TractResult<Bound> {
            Ok(node.get_attr_opt::<f32>(name)?.map_or(Bound::Absent, Bound::Value))
        };
        return Ok((expand(Clip { low: bound("min")?, high: bound("max")? }), Vec::new()));
    }
    require_only(node, &[])?;
    let bound =
        |position: usize| optional_inputs(node).nth(position).flatten().map_or(Bound::Absent, Bound::Input);
    Ok((expand(Clip { low: bound(1), high: bound(2) }), Vec::new()))
}

impl Clip {
    /// Returns a bound where it is known when the plan is made.
    fn known(bound: Bound, absent: f64, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Option<f64>> {
        Ok(match bound {
            Bound::Absent => Some(absent),
            Bound::Value(value) => Some(f64::from(value)),
            Bound::Input(position) => match &model.outlet_fact(inputs[position])?.konst {
                Some(constant) => Some(constant.cast_to_scalar::<f64>()?),
                None => None,
            },
        })
    }
}

impl Expansion for Clip {
    fn name(&self) -> StaticName {
        "Clip".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let datum_type = model.outlet_fact(inputs[0])?.datum_type;
        let largest = match datum_type {
            DatumType::F16 => f64::from(f16::MAX.to_f32()),
            DatumType::F32 => f64::from(f32::MAX),
            DatumType::F64 => f64::MAX,
            _ => return self.wire_integers(prefix, model, inputs),
        };
        let low = Self::known(self.low, -largest, model, inputs)?;
        let high = Self::known(self.high, largest, model, inputs)?;
        if let (Some(low), Some(high)) = (low, high) {
            return mapped(prefix, model, Map::Clip(low, high), inputs[0]);
        }
        let position = |bound| if let Bound::Input(position) = bound { Some(position) } else { None };
        let kernel = Dynamic { low: position(self.low), high: position(self.high), largest };
        wired(prefix, model, kernel, inputs)
    }
}

impl Clip {
    fn wire_integers(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        use tract_onnx::tract_core::ops::math::{max, min};
        let mut value = inputs[0];
        let datum_type = model.outlet_fact(value)?.datum_type;
        for (name, bound, operator) in [("min", self.low, max()), ("max", self.high, min())] {
            let other = match bound {
                Bound::Absent => continue,
                Bound::Value(number) => {
                    let number = tensor0(number).cast_to_dt(datum_type)?.into_owned();
                    model.add_const(format!("{prefix}.{name}.bound"), number)?
                }
                Bound::Input(position) => {
                    let cast = tract_onnx::tract_core::ops::cast::cast(datum_type);
                    model.wire_node(format!("{prefix}.{name}.cast"), cast, &[inputs[position]])?[0]
                }
            };
            value =
                wire_with_rank_broadcast(format!("{prefix}.{name}"), model, operator, &[value, other])?[0];
        }
        Ok(tvec!(value))
    }
}

/// Bounds that other nodes compute.
#[derive(Debug)]
struct Dynamic {
    low: Option<usize>,
    high: Option<usize>,
    largest: f64,
}

impl Kernel for Dynamic {
    fn name(&self) -> &'static str {
        "Clip"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(fact(inputs[0].datum_type, &inputs[0].shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let bound = |position: Option<usize>, absent: f64| -> TractResult<f64> {
            position.map_or(Ok(absent), |position| inputs[position].cast_to_scalar::<f64>())
        };
        let (low, high) = (bound(self.low, -self.largest)?, bound(self.high, self.largest)?);
        let mut values = floats(&inputs[0])?;
        for value in &mut values {
            *value = if *value < low { low } else { *value };
            *value = if *value > high { high } else { *value };
        }
        Ok(tvec!(of_floats(inputs[0].datum_type(), inputs[0].shape(), &values)?.into_tvalue()))
    }
}
