//! What every operator of our own has in common with tract's: the frame around a kernel.
//!
//! Gives a kernel to tract as one node, from the reading of the file to the run. Never looks into an attribute or a
//! value: the kernels do. Shapes are known when a plan is made, since the engine fixes the batch.

use std::fmt::Debug;
use std::sync::Arc;

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

/// An operator with its attributes read and checked.
pub(super) trait Kernel: Debug + Send + Sync + 'static {
    /// Returns the operator's name in ONNX.
    fn name(&self) -> &'static str;

    /// Returns the number of outputs.
    fn outputs(&self) -> usize {
        1
    }

    /// Returns element types and shapes of the outputs for those of the inputs.
    ///
    /// *Errors*: the operator does not take such inputs.
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>>;

    /// Computes the outputs.
    ///
    /// *Errors*: a value that only a run shows is outside what the operator takes.
    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>>;
}

/// Returns a kernel as tract takes it from a builder.
pub(super) fn built(kernel: impl Kernel) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(KernelOp(Arc::new(kernel))), Vec::new()))
}

/// Returns the fact of a tensor whose shape is known.
pub(super) fn fact(datum_type: DatumType, shape: &[TDim]) -> TypedFact {
    datum_type.fact(shape)
}

#[derive(Debug, Clone)]
struct KernelOp(Arc<dyn Kernel>);

impl PartialEq for KernelOp {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for KernelOp {}

impl Op for KernelOp {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    op_as_typed_op!();
}

impl EvalOp for KernelOp {
    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.run(inputs)
    }

    op_out_of_plan!();
}

impl TypedOp for KernelOp {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.0.output_facts(inputs)
    }

    as_op!();
}

impl Expansion for KernelOp {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.0.outputs())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.given_all(inputs.iter().map(|input| &input.datum_type), move |solver, types| {
            solver.given_all(inputs.iter().map(|input| &input.shape), move |solver, shapes| {
                let inputs: Vec<TypedFact> = types
                    .iter()
                    .zip(&shapes)
                    .map(|(datum_type, shape)| fact(without_sizes(*datum_type), shape))
                    .collect();
                let facts = self.0.output_facts(&inputs.iter().collect::<Vec<_>>())?;
                for (output, fact) in outputs.iter().zip(facts) {
                    solver.equals(&output.datum_type, fact.datum_type)?;
                    solver.equals(&output.shape, fact.shape.to_tvec())?;
                }
                Ok(())
            })
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let mut plain: TVec<OutletId> = inputs.into();
        for (position, input) in plain.iter_mut().enumerate() {
            let datum_type = model.outlet_fact(*input)?.datum_type;
            if datum_type != without_sizes(datum_type) {
                let name = format!("{prefix}.integers-{position}");
                *input = model.wire_node(name, cast(without_sizes(datum_type)), &[*input])?[0];
            }
        }
        model.wire_node(prefix, self.clone(), &plain)
    }
}

/// Returns the type that a kernel sees: tract keeps 64-bit integers that may be sizes in a type of its own.
fn without_sizes(datum_type: DatumType) -> DatumType {
    if datum_type == DatumType::TDim { DatumType::I64 } else { datum_type }
}
