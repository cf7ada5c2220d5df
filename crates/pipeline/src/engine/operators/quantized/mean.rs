//! `GlobalAveragePool` of floats that are quantised by their range afterwards.
//!
//! *Source*: ai.onnx 1. Sums in the order of ONNX Runtime on x86-64: every fourth value in a sum of its own, these in two
//! pairs, then what is left over. A mean next to a tie would otherwise be rounded to another number. Never takes the place
//! of the operator in graphs without such ranges ([`take`]).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::assembly::{Built, Inputs};
use super::numbers::blank;

/// The operator's name among ours.
pub(super) const OPERATOR: &str = "OrderedGlobalAveragePool";

/// Gives this operator the nodes of a graph in which values are quantised by their range.
pub(super) fn take(graph: &mut GraphProto) {
    if graph.node.iter().any(super::windows::is_by_range) {
        let pools = graph.node.iter_mut().filter(|node| node.op_type == "GlobalAveragePool");
        pools.for_each(|node| OPERATOR.clone_into(&mut node.op_type));
    }
}

#[derive(Debug)]
struct GlobalAveragePool;

pub(super) fn build(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &[])?;
    Inputs::of(node, 1, 1)?;
    built(GlobalAveragePool)
}

/// Returns the mean of values, summed in the order of ONNX Runtime.
fn mean(values: &[f32]) -> f32 {
    let (fours, rest) = values.as_chunks::<4>();
    let mut sums = [0.0_f32; 4];
    for four in fours {
        sums.iter_mut().zip(four).for_each(|(sum, value)| *sum += value);
    }
    let sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    rest.iter().fold(sum, |sum, value| sum + value) / values.len() as f32
}

impl Kernel for GlobalAveragePool {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        ensure!(input.datum_type == DatumType::F32, "it takes f32, not {:?}", input.datum_type);
        ensure!(input.rank() > 2, "an input of {} axes has no image", input.rank());
        let one = |axis: usize| if axis < 2 { input.shape[axis].clone() } else { 1.into() };
        Ok(tvec!(fact(f32::datum_type(), &(0..input.rank()).map(one).collect::<TVec<TDim>>())))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut shape = inputs[0].shape().to_vec();
        let image: usize = shape[2..].iter().product();
        shape[2..].fill(1);
        let mut output = blank::<f32>(&shape)?;
        let values = inputs[0].try_as_plain_ram()?.as_slice::<f32>()?;
        let mut view = output.try_as_plain_ram_mut()?;
        let into = view.as_slice_mut::<f32>()?;
        if image == 0 {
            into.fill(f32::NAN);
        }
        for (into, values) in into.iter_mut().zip(values.chunks_exact(image.max(1))) {
            *into = mean(values);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_sums_are_added_in_pairs_and_the_rest_after_them() {
        let values: Vec<f32> = (0..11).map(|i| (i * 7 % 5) as f32 * 0.3 + 0.1).collect();
        let lane = |at: usize| values[at] + values[at + 4];
        let sum = (lane(0) + lane(2)) + (lane(1) + lane(3));
        assert_eq!(mean(&values), (((sum + values[8]) + values[9]) + values[10]) / 11.0);
        assert_eq!(mean(&values[..2]), (values[0] + values[1]) / 2.0);
    }
}
