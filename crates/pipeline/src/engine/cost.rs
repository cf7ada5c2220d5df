//! What each node of a plan costs, for the programs that build and check packages.
//!
//! Runs a plan node by node and asks the caller for the time; never part of a run whose outputs count. The nodes are
//! those of the optimised plan, which carry the names of the graph's nodes that they were made of.

use std::collections::HashMap;

use tract_onnx::prelude::Tensor;
use tract_onnx::tract_core::plan;

use super::tract::{TractEngine, catching, run_error};
use super::{EngineError, PLAN_SIZES};

/// What one node of a plan takes in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCost {
    /// The node's name: that of the graph's node, or that with what the engine added, as in `conv1.pad`.
    pub node: String,
    /// The operator that the engine runs for it.
    pub operator: String,
    /// Time of all runs together, in nanoseconds.
    pub nanoseconds: u64,
}

impl TractEngine {
    /// Runs one window `runs` times on `values` and returns what each node took, the dearest first. `now` is a clock
    /// in nanoseconds that does not go back; its own reading is part of what a node takes.
    ///
    /// *Errors*: the model failed on the window.
    pub fn node_costs(
        &self,
        values: &[f32],
        runs: usize,
        now: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<NodeCost>, EngineError> {
        let single = PLAN_SIZES[0];
        catching(|| {
            let plan = self.plan(single)?;
            let mut state = plan.spawn().map_err(run_error)?;
            let mut taken: HashMap<usize, u64> = HashMap::new();
            for _ in 0..runs {
                let write =
                    |input: usize, tensor: &mut Tensor| self.tensors().write_input(input, values, tensor);
                let inputs = plan.inputs(write).map_err(run_error)?;
                let timed = state.run_plan_with_eval(inputs, |context, node_state, node, inputs| {
                    let start = now();
                    let outputs = plan::eval(context, node_state, node, inputs);
                    *taken.entry(node.id).or_default() += now().saturating_sub(start);
                    outputs
                });
                timed.map_err(run_error)?;
            }
            let nodes = &plan.model().nodes;
            let mut costs: Vec<NodeCost> = taken
                .into_iter()
                // Inputs of the graph are handed on.
                .filter(|(id, _)| !nodes[*id].inputs.is_empty())
                .map(|(id, nanoseconds)| NodeCost {
                    node: nodes[id].name.clone(),
                    operator: nodes[id].op.name().into_owned(),
                    nanoseconds,
                })
                .collect();
            costs.sort_unstable_by(|one, other| {
                other.nanoseconds.cmp(&one.nanoseconds).then_with(|| one.node.cmp(&other.node))
            });
            Ok(costs)
        })
    }
}
