//! `DynamicQuantizeLinear`: to `u8`, by the range of the very values.
//!
//! *Source*: ai.onnx 11. The range spans the whole tensor, and with it all windows of a batch: what one window yields
//! would depend on the others, so graphs with such operators run one window at a time ([`is_batch_dependent`]).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact, typed};
use super::assembly::{Built, Inputs};
use super::numbers::{Grid, blank, rounded};

/// Operators that quantise by the range of the values of a run.
const BY_RANGE: [&str; 3] = ["DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"];

/// Tells whether a window's outputs depend on the other windows of its batch.
pub(in crate::engine) fn is_batch_dependent(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| {
        BY_RANGE.contains(&node.op_type.as_str())
            || node.attribute.iter().any(|a| a.g.iter().chain(&a.graphs).any(is_batch_dependent))
    })
}

#[derive(Debug)]
struct DynamicQuantize;

pub(super) fn linear(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &[])?;
    Inputs::of(node, 1, 1)?;
    ensure!(
        node.output.len() == 3 && node.output.iter().all(|name| !name.is_empty()),
        "it has three outputs"
    );
    built(DynamicQuantize)
}

/// Returns the grid of `u8` that spans values and 0. NaN is passed over.
pub(super) fn spanning(values: &[f32]) -> Grid {
    let low = values.iter().fold(0.0_f32, |low, &value| if value < low { value } else { low });
    let high = values.iter().fold(0.0_f32, |high, &value| if value > high { value } else { high });
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    Grid { scale, zero: zero as i32 }
}

/// Quantises values on a grid of `u8`.
pub(super) fn on_grid(values: &[f32], grid: Grid, into: &mut [u8]) {
    for (into, value) in into.iter_mut().zip(values) {
        *into = rounded(value / grid.scale, grid.zero);
    }
}

impl Kernel for DynamicQuantize {
    fn name(&self) -> &'static str {
        "DynamicQuantizeLinear"
    }

    fn outputs(&self) -> usize {
        3
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        ensure!(input.datum_type == DatumType::F32, "it takes f32, not {:?}", input.datum_type);
        Ok(tvec!(fact(u8::datum_type(), &input.shape), f32::fact([0; 0]), u8::fact([0; 0])))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let values = inputs[0].try_as_plain_ram()?.as_slice::<f32>()?;
        let grid = spanning(values);
        let mut output = blank::<u8>(inputs[0].shape())?;
        on_grid(values, grid, output.try_as_plain_ram_mut()?.as_slice_mut::<u8>()?);
        Ok(tvec!(
            output.into_tvalue(),
            tensor0(grid.scale).into_tvalue(),
            tensor0(grid.zero as u8).into_tvalue()
        ))
    }
}

/// Adds the operator to a graph; returns numbers, scale and zero point.
pub(super) fn wire(prefix: &str, model: &mut TypedModel, input: OutletId) -> TractResult<TVec<OutletId>> {
    model.wire_node(prefix, typed(DynamicQuantize), &[input])
}
