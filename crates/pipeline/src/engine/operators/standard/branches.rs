//! `If`, of which tract takes one a graph, and takes the value of a constant branch for the output's.
//!
//! Leaves reading and inference to tract, and runs the branch that the condition names; both are prepared with the plan.
//! Never runs the other one.
//!
//! *Source*: ai.onnx 19 (If).

use std::collections::HashMap;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_hir::infer::{InferenceFact, InferenceModel, InferenceNode, InferenceOp};

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, Prepared, typed};
use super::guarded::of_tract;

pub(super) fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["else_branch", "then_branch"])?;
    let (tract, outside) = of_tract(context, node)?;
    Ok((Box::new(If(tract)), outside))
}

#[derive(Debug, Clone)]
struct If(Box<dyn InferenceOp>);

impl PartialEq for If {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for If {}

impl Op for If {
    fn name(&self) -> StaticName {
        "If".into()
    }

    not_a_typed_op!();
}

impl EvalOp for If {
    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.eval(context, inputs)
    }

    op_out_of_plan!();
}

impl InferenceOp for If {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        self.0.infer_facts(inputs, outputs, observed)
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.0.nboutputs()
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        // tract's node, in a model of its own, where its name is free.
        let mut apart = TypedModel { symbols: target.symbols.clone(), ..TypedModel::default() };
        let mut inputs: TVec<OutletId> = tvec!();
        let mut sources = HashMap::new();
        for (position, input) in node.inputs.iter().enumerate() {
            let outlet = mapping[input];
            let fact = target.outlet_fact(outlet)?.clone();
            sources.insert(*input, apart.add_source(format!("input-{position}"), fact)?);
            inputs.push(outlet);
        }
        let made = self.0.to_typed(source, node, &mut apart, &sources)?;
        let made = made.first().context("an `If` without outputs")?.node;
        let op = apart.node(made).op_as::<IfThenElse>().context("tract makes something else of `If`")?;
        // A known branch takes the place of the node.
        if target.outlet_fact(inputs[0])?.konst.is_some() {
            return target.wire_node(&node.name, op.clone(), &inputs);
        }
        target.wire_node(&node.name, typed(Branches(op.clone())), &inputs)
    }

    as_op!();
}

/// Both branches with the inputs that each takes.
#[derive(Debug, Clone)]
struct Branches(IfThenElse);

impl Kernel for Branches {
    fn name(&self) -> &'static str {
        "If"
    }

    fn outputs(&self) -> usize {
        self.0.then_body.outputs.len()
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let facts = self.0.output_facts(inputs)?;
        // The value of one branch is not that of the output.
        Ok(facts.into_iter().map(|fact| fact.without_value()).collect())
    }

    fn prepared(&self, inputs: &[&TypedFact]) -> TractResult<Option<Prepared>> {
        let runnable = |body: &TypedModel| body.clone().into_optimized()?.into_runnable();
        let kernel = Running {
            outputs: self.output_facts(inputs)?,
            then_body: runnable(&self.0.then_body)?,
            then_inputs: self.0.then_input_mapping.clone(),
            else_body: runnable(&self.0.else_body)?,
            else_inputs: self.0.else_input_mapping.clone(),
        };
        Ok(Some(Prepared { kernel: Arc::new(kernel), inputs: (0..inputs.len()).collect() }))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.0.eval_out_of_plan(inputs)?.context("tract takes `If` for one that keeps state")
    }
}

/// Both branches as plans.
#[derive(Debug)]
struct Running {
    outputs: TVec<TypedFact>,
    then_body: Arc<TypedRunnableModel>,
    then_inputs: Vec<usize>,
    else_body: Arc<TypedRunnableModel>,
    else_inputs: Vec<usize>,
}

impl Kernel for Running {
    fn name(&self) -> &'static str {
        "If"
    }

    fn outputs(&self) -> usize {
        self.outputs.len()
    }

    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.outputs.clone())
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (body, taken) = if inputs[0].cast_to_scalar::<bool>()? {
            (&self.then_body, &self.then_inputs)
        } else {
            (&self.else_body, &self.else_inputs)
        };
        body.run(taken.iter().map(|&position| inputs[position].clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::samples::{
        F32, Proto, floats, graph, model, node, value, with_graph, with_int, with_tensor,
    };
    use super::super::super::super::tract::read_proto;
    use tract_onnx::prelude::InferenceModelExt;

    use super::super::super::onnx;
    use super::*;

    fn branch(nodes: &[Proto], output: &str) -> Proto {
        graph(nodes, &[], &[], &[Proto::default().text(1, output)])
    }

    fn choice(condition: &str, output: &str, then_branch: &Proto, else_branch: &Proto) -> Proto {
        let node = with_graph(node("If", &[condition], &[output]), "then_branch", then_branch);
        with_graph(node, "else_branch", else_branch)
    }

    fn run(nodes: &[Proto], x: [f32; 2]) -> Vec<f32> {
        let above = [
            with_int(node("ReduceMax", &["x"], &["top"]), "keepdims", 0),
            node("Greater", &["top", "zero"], &["above"]),
        ];
        let nodes = [&above, nodes].concat();
        let constants = [floats("zero", &[], &[0.0])];
        let graph = graph(&nodes, &constants, &[value("x", F32, &[1, 2])], &[value("y", F32, &[1, 2])]);
        let proto = read_proto(&onnx(), &model(&graph)).unwrap();
        let plan = onnx().model_for_proto_model(&proto).unwrap().into_optimized().unwrap();
        let plan = plan.into_runnable().unwrap();
        let x = Tensor::from_shape(&[1, 2], &x).unwrap();
        let outputs = plan.run(tvec!(x.into_tvalue())).unwrap();
        outputs[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
    }

    #[test]
    fn a_constant_branch_is_taken_only_where_the_condition_says() {
        let constant = |values: &[f32], name: &str| {
            let value = floats(name, &[1, 2], values);
            branch(&[with_tensor(node("Constant", &[], &[name]), "value", &value)], name)
        };
        let reading = branch(&[node("Neg", &["x"], &["n"])], "n");
        let (one, other) = (constant(&[1.0, 2.0], "c"), constant(&[5.0, 6.0], "d"));
        for (then_branch, else_branch, above, below) in [
            (&one, &other, [-1.0, -2.0], [-5.0, -6.0]),
            (&one, &reading, [-1.0, -2.0], [-1.0, -2.0]),
            (&reading, &other, [1.0, 2.0], [-5.0, -6.0]),
        ] {
            let nodes = [choice("above", "b", then_branch, else_branch), node("Neg", &["b"], &["y"])];
            assert_eq!(run(&nodes, [1.0, 2.0]), above);
            assert_eq!(run(&nodes, [-1.0, -2.0]), below);
        }
    }

    #[test]
    fn a_graph_holds_several_of_them() {
        let same = |from: &str, to: &str| branch(&[node("Identity", &[from], &[to])], to);
        let negated = |from: &str, to: &str| branch(&[node("Neg", &[from], &[to])], to);
        let nodes = [
            choice("above", "a", &same("x", "s"), &negated("x", "n")),
            choice("above", "b", &negated("a", "n"), &same("a", "s")),
            node("Add", &["a", "b"], &["c"]),
            node("Add", &["c", "b"], &["y"]),
        ];
        assert_eq!(run(&nodes, [1.0, 2.0]), [-1.0, -2.0]);
        assert_eq!(run(&nodes, [-1.0, -2.0]), [3.0, 6.0]);
    }
}
