//! `OneHot`: a position among several as a row of two values; a position outside is a row without the second.
//!
//! tract panics for positions outside.
//!
//! *Source*: ai.onnx 11.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, fact, wired};
use super::values::{axis_of, floats, integers, of_floats, of_integers, without_sizes};

#[derive(Debug, Clone)]
struct OneHot {
    axis: i64,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["axis"])?;
    Ok((expand(OneHot { axis: node.get_attr_opt("axis")?.unwrap_or(-1) }), Vec::new()))
}

fn depth_of(depth: &Tensor) -> TractResult<i64> {
    let depth = depth.cast_to::<i64>()?;
    let first = depth.try_as_plain_ram()?.as_slice::<i64>()?.first().copied();
    first.filter(|depth| *depth > 0).context("`depth` is not positive")
}

impl Expansion for OneHot {
    fn name(&self) -> StaticName {
        "OneHot".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&inputs[2].datum_type, &outputs[0].datum_type)?;
        solver.given_2(&inputs[0].shape, &inputs[1].value, move |solver, shape, depth| {
            let mut shape = shape;
            shape.insert(axis_of(self.axis, shape.len() + 1)?, depth_of(&depth)?.to_dim());
            solver.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let constant = |input: usize| -> TractResult<Arc<Tensor>> {
            model.outlet_fact(inputs[input])?.konst.clone().context("`depth` or `values` are no constants")
        };
        let (depth, values) = (depth_of(&*constant(1)?)?, constant(2)?);
        ensure!(values.len() == 2, "{} values, not two", values.len());
        let positions = without_sizes(prefix, model, inputs[0])?;
        let axis = axis_of(self.axis, model.outlet_fact(positions)?.rank() + 1)?;
        wired(prefix, model, Rows { axis, depth: depth as usize, values }, &[positions])
    }
}

#[derive(Debug)]
struct Rows {
    axis: usize,
    depth: usize,
    /// Off and on.
    values: Arc<Tensor>,
}

impl Rows {
    fn fill<T: Copy>(&self, positions: &[i128], shape: &[usize], values: &[T]) -> Vec<T> {
        let inner: usize = shape[self.axis..].iter().product();
        let outer: usize = shape[..self.axis].iter().product();
        let depth = self.depth as i128;
        let mut filled = vec![values[0]; outer * self.depth * inner];
        for (at, position) in positions.iter().enumerate() {
            if (-depth..depth).contains(position) {
                let position = position.rem_euclid(depth) as usize;
                filled[(at / inner * self.depth + position) * inner + at % inner] = values[1];
            }
        }
        filled
    }
}

impl Kernel for Rows {
    fn name(&self) -> &'static str {
        "OneHot"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let is_number = inputs[0].datum_type.is_float() || inputs[0].datum_type.is_integer();
        ensure!(is_number, "positions of {:?}", inputs[0].datum_type);
        ensure!(self.values.datum_type() != String::datum_type(), "texts as values");
        let mut shape = inputs[0].shape.to_tvec();
        shape.insert(self.axis, self.depth.to_dim());
        Ok(tvec!(fact(self.values.datum_type(), &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = &inputs[0];
        let positions = if input.datum_type().is_float() {
            floats(input)?.into_iter().map(|position| position as i128).collect()
        } else {
            integers(input)?
        };
        let mut shape: TVec<usize> = input.shape().into();
        shape.insert(self.axis, self.depth);
        let datum_type = self.values.datum_type();
        let output = if datum_type.is_float() {
            of_floats(datum_type, &shape, &self.fill(&positions, input.shape(), &floats(&self.values)?))?
        } else {
            of_integers(datum_type, &shape, &self.fill(&positions, input.shape(), &integers(&self.values)?))?
        };
        Ok(tvec!(output.into_tvalue()))
    }
}
