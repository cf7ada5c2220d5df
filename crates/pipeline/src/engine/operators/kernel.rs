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
pub(in crate::engine) trait Kernel: Debug + Send + Sync + 'static {
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

    /// Returns the kernel that is to run in place of this one, made for inputs whose constants are known; nothing
    /// where this one runs itself. Called once the graph is final.
    ///
    /// *Errors*: a constant is outside what the operator takes.
    fn prepared(&self, _inputs: &[&TypedFact]) -> TractResult<Option<Prepared>> {
        Ok(None)
    }

    /// Returns the kernel that does also what `next` does, which alone reads the output of this one; nothing where it
    /// is not the faster way. `others` are the further inputs of `next`, which the kernel takes after its own.
    ///
    /// *Errors*: none but of the preparation.
    fn joined(&self, _next: &TypedNode, _others: &[&TypedFact]) -> TractResult<Option<Arc<dyn Kernel>>> {
        Ok(None)
    }

    /// Whether [`Kernel::run_into`] is there. A plan then keeps the outputs from run to run.
    fn writes_outputs(&self) -> bool {
        false
    }

    /// Computes the outputs into tensors that are there already, of the types and shapes of [`Kernel::output_facts`].
    /// What they hold is of no meaning, and every value is to be written.
    ///
    /// *Errors*: as of [`Kernel::run`]; what the outputs then hold is dropped.
    fn run_into(&self, _inputs: &[&Tensor], _outputs: &mut [&mut Tensor]) -> TractResult<()> {
        bail!("`{}` makes its outputs itself", self.name())
    }

    /// Computes the outputs.
    ///
    /// *Errors*: a value that only a run shows is outside what the operator takes.
    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let facts = inputs.iter().map(|input| TypedFact::shape_and_dt_of(input));
        let facts: TVec<TypedFact> = facts.collect();
        let mut outputs = TVec::new();
        for fact in self.output_facts(&facts.iter().collect::<TVec<_>>())? {
            outputs.push(blank(fact.datum_type, &fact.shape.eval_to_usize(&SymbolValues::default())?)?);
        }
        let inputs: TVec<&Tensor> = inputs.iter().map(|input| &**input).collect();
        self.run_into(&inputs, &mut outputs.iter_mut().collect::<TVec<_>>())?;
        Ok(outputs.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

/// Returns a tensor that is to be written: zeros, or empty texts.
pub(in crate::engine) fn blank(datum_type: DatumType, shape: &[usize]) -> TractResult<Tensor> {
    if datum_type == DatumType::String {
        return Ok(tract_ndarray::ArrayD::<String>::default(shape).into_tensor());
    }
    Tensor::zero_dt(datum_type, shape)
}

/// Returns the kernel of a node that writes into given outputs, if it does.
pub(in crate::engine) fn writing(op: &dyn TypedOp) -> Option<Arc<dyn Kernel>> {
    let op = op.downcast_ref::<KernelOp>()?;
    op.0.writes_outputs().then(|| op.0.clone())
}

/// A kernel that has taken constants into itself.
pub(in crate::engine) struct Prepared {
    /// The kernel.
    pub(super) kernel: Arc<dyn Kernel>,
    /// The positions of the inputs that it still takes, rising; the others are dropped with their constants.
    pub(super) inputs: Vec<usize>,
}

/// Returns a kernel as tract takes it from a builder.
pub(super) fn built(kernel: impl Kernel) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(KernelOp(Arc::new(kernel))), Vec::new()))
}

/// Adds a kernel to a graph whose types are known: for operators that are built of several nodes.
pub(super) fn wired(
    name: &str,
    model: &mut TypedModel,
    kernel: impl Kernel,
    inputs: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    model.wire_node(name, KernelOp(Arc::new(kernel)), inputs)
}

/// Most values of one output: what a graph claims is not made before it is known to be sane. 64 million values of f64
/// take half a gigabyte, more than a gateway has for one tensor.
const VALUES_MAX: usize = 1 << 26;

/// Refuses outputs that are too large to be made.
fn check_size(name: &str, facts: &[TypedFact]) -> TractResult<()> {
    for shape in facts.iter().filter_map(|fact| fact.shape.as_concrete()) {
        let values = shape.iter().try_fold(1_usize, |values, length| values.checked_mul(*length));
        ensure!(
            values.is_some_and(|values| values <= VALUES_MAX),
            "`{name}` makes a tensor of shape {shape:?}, more than {VALUES_MAX} values"
        );
    }
    Ok(())
}

/// Returns a kernel as a node of a graph that is being put together.
pub(super) fn typed(kernel: impl Kernel) -> Box<dyn TypedOp> {
    Box::new(KernelOp(Arc::new(kernel)))
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
        let facts = self.0.output_facts(inputs)?;
        check_size(self.0.name(), &facts)?;
        Ok(facts)
    }

    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let outlet = OutletId::from(node.id);
        let [output] = &node.outputs[..] else { return Ok(None) };
        let ([reader], false) = (&output.successors[..], model.output_outlets()?.contains(&outlet)) else {
            return Ok(None);
        };
        let next = model.node(reader.node);
        let others: Vec<OutletId> = next.inputs.iter().copied().filter(|input| *input != outlet).collect();
        let facts: Vec<&TypedFact> =
            others.iter().map(|other| model.outlet_fact(*other)).collect::<TractResult<_>>()?;
        let Some(kernel) = self.0.joined(next, &facts)? else { return Ok(None) };
        let mut patch = TypedModelPatch::default();
        let inputs: Vec<OutletId> = node.inputs.iter().chain(&others).copied().collect();
        let inputs = patch.taps(model, &inputs)?;
        let joined = patch.wire_node(&next.name, Self(kernel), &inputs)?[0];
        patch.shunt_outside(model, next.id.into(), joined)?;
        Ok(Some(patch))
    }

    fn codegen(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        let Some(prepared) = self.0.prepared(&model.node_input_facts(node.id)?)? else { return Ok(None) };
        let inputs: Vec<OutletId> = prepared.inputs.iter().map(|&input| node.inputs[input]).collect();
        TypedModelPatch::replace_single_op(model, node, &inputs, Self(prepared.kernel)).map(Some)
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
