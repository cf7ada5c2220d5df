//! `DynamicQuantizeLinear`: to `u8`, by the range of the very values.
//!
//! *Source*: ai.onnx 11. The range spans the whole tensor, and with it all windows of a batch; [`super::windows`] sees to
//! it that no window depends on the others.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact, typed};
use super::assembly::{Built, Inputs};
use super::ending::Span;
use super::numbers::{Grid, blank, rounded};
use crate::engine::vectors::{Arithmetic, Loops, on_widest};

/// Set by [`super::windows`] on operators whose range is that of each place of the first axis, which is a window.
pub(super) const BY_WINDOW: &str = "dunlin_by_window";

/// Returns what the range of an operator spans.
pub(super) fn span(node: &NodeProto) -> TractResult<Span> {
    let is_by_window = node.get_attr_opt::<i64>(BY_WINDOW)?.unwrap_or(0) != 0;
    Ok(if is_by_window { Span::Window } else { Span::Tensor })
}

/// Tells whether the range of a tensor is that of all its values.
pub(super) fn is_one_range(model: &TypedModel, input: OutletId, span: Span) -> TractResult<bool> {
    let first = model.outlet_fact(input)?.shape.first().cloned();
    Ok(span == Span::Tensor || first.is_some_and(|windows| windows == 1.to_dim()))
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

/// Returns the lowest and the highest of values and 0.
struct Range<'a>(&'a [f32]);

impl Loops for Range<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<A: Arithmetic>(self) -> (f32, f32) {
        let lower = |low: f32, value: f32| if value < low { value } else { low };
        let higher = |high: f32, value: f32| if value > high { value } else { high };
        let (chunks, rest) = self.0.as_chunks::<16>();
        let (mut lows, mut highs) = ([0.0; 16], [0.0; 16]);
        for chunk in chunks {
            for lane in 0..16 {
                lows[lane] = lower(lows[lane], chunk[lane]);
                highs[lane] = higher(highs[lane], chunk[lane]);
            }
        }
        let low = rest.iter().chain(&lows).fold(0.0, |low, &value| lower(low, value));
        (low, rest.iter().chain(&highs).fold(0.0, |high, &value| higher(high, value)))
    }
}

/// Returns the grid of `u8` that spans values and 0. NaN is passed over.
pub(super) fn spanning(values: &[f32]) -> Grid {
    let (low, high) = on_widest(Range(values));
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
