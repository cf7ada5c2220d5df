//! Operators that are put together of other nodes, once scales and zero points are known.
//!
//! Gives such an operator to tract, which asks it for its nodes when the graph is prepared. Nothing of it is left when
//! the graph runs; kernels (`kernel.rs`) are what runs.

use std::fmt::Debug;

use tract_onnx::model::optional_inputs;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

/// An operator that other nodes compute.
pub(super) trait Assembly: Debug + Send + Sync + 'static {
    /// Returns the operator's name in ONNX.
    fn name(&self) -> &'static str;

    /// Returns element type and shape of the one output for those of the inputs.
    ///
    /// *Errors*: the operator does not take such inputs.
    fn output_fact(&self, inputs: &[&TypedFact]) -> TractResult<TypedFact>;

    /// Adds the nodes to a graph and returns the output.
    ///
    /// *Errors*: a scale, zero point or shape is not one that is computed here.
    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<OutletId>;
}

/// What a builder returns.
pub(super) type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// Returns an assembly as tract takes it from a builder.
pub(super) fn assembled(assembly: impl Assembly) -> Built {
    Ok((expand(Assembled(Arc::new(assembly))), Vec::new()))
}

/// Where the inputs of a node stand once the absent ones are left out.
#[derive(Debug, Clone)]
pub(super) struct Inputs(Vec<Option<usize>>);

impl Inputs {
    /// Returns the places of a node's inputs.
    ///
    /// *Errors*: fewer or more than the operator has, or one of the first `required` is absent.
    pub(super) fn of(node: &NodeProto, required: usize, all: usize) -> TractResult<Self> {
        ensure!(node.input.len() <= all, "it has {} inputs where at most {all} are taken", node.input.len());
        let places: Vec<Option<usize>> = optional_inputs(node).take(all).collect();
        ensure!(
            places.iter().take(required).all(Option::is_some),
            "one of its first {required} inputs is absent"
        );
        Ok(Self(places))
    }

    /// Returns an input by its place in the operator's text.
    pub(super) fn get<T: Copy>(&self, inputs: &[T], position: usize) -> Option<T> {
        self.0.get(position).copied().flatten().and_then(|place| inputs.get(place).copied())
    }

    /// Returns an input that is there.
    pub(super) fn need<T: Copy>(&self, inputs: &[T], position: usize) -> TractResult<T> {
        self.get(inputs, position).with_context(|| format!("its input {position} is absent"))
    }
}

/// Returns a constant of a graph.
///
/// *Errors*: the value is computed, and only constants are taken here.
pub(super) fn constant(model: &TypedModel, outlet: OutletId) -> TractResult<Arc<Tensor>> {
    model
        .outlet_fact(outlet)?
        .konst
        .clone()
        .with_context(|| format!("`{}` is computed where a constant is taken", model.node(outlet.node).name))
}

#[derive(Debug, Clone)]
struct Assembled(Arc<dyn Assembly>);

impl Expansion for Assembled {
    fn name(&self) -> StaticName {
        self.0.name().into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        ensure!(outputs.len() == 1, "it has one output, not {}", outputs.len());
        solver.given_all(inputs.iter().map(|input| &input.datum_type), move |solver, types| {
            solver.given_all(inputs.iter().map(|input| &input.shape), move |solver, shapes| {
                let inputs: Vec<TypedFact> =
                    types.iter().zip(&shapes).map(|(datum_type, shape)| datum_type.fact(shape)).collect();
                let fact = self.0.output_fact(&inputs.iter().collect::<Vec<_>>())?;
                solver.equals(&outputs[0].datum_type, fact.datum_type)?;
                solver.equals(&outputs[0].shape, fact.shape.to_tvec())
            })
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        Ok(tvec!(self.0.wire(prefix, model, inputs)?))
    }
}
