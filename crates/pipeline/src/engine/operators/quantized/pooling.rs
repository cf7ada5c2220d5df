//! `QLinearAveragePool` and `QLinearGlobalAveragePool`.
//!
//! *Source*: com.microsoft 1. The average pool sums and divides floats and rounds with the zero point added; the
//! global one sums integers and scales the sum. Channels come second; the layouts with channels last are refused.

use std::ops::Range;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::PaddingSpec;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::assembly::{Built, Inputs};
use super::numbers::{Grid, Quantum, blank, by_octet, octet_range, rounded, rounded_whole};
use crate::engine::vectors::{Arithmetic, Loops, on_widest};

/// Largest stride, dilation, padding or kernel: none is larger than an axis, and none overflows a sum of them.
const EXTENT_MAX: i64 = 1 << 24;

/// The attributes of a window that moves over the spatial axes.
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub(super) kernel: Option<Vec<usize>>,
    pub(super) strides: Option<TVec<usize>>,
    pub(super) dilations: Option<TVec<usize>>,
    pub(super) padding: PaddingSpec,
}

impl Window {
    /// Reads the attributes.
    ///
    /// *Errors*: a length that is negative, zero where none may be, or enormous.
    pub(super) fn read(node: &NodeProto) -> TractResult<Self> {
        let lengths = |name: &str, least: i64| -> TractResult<Option<TVec<usize>>> {
            let Some(values) = node.get_attr_opt_tvec::<i64>(name)? else { return Ok(None) };
            ensure!(
                values.iter().all(|value| (least..=EXTENT_MAX).contains(value)),
                "`{name}` {values:?} is not within {least} to {EXTENT_MAX}"
            );
            Ok(Some(values.iter().map(|&value| value as usize).collect()))
        };
        let pads = lengths("pads", 0)?;
        let padding = match node.get_attr_opt::<&str>("auto_pad")?.unwrap_or("NOTSET") {
            "NOTSET" => match pads {
                Some(pads) => {
                    ensure!(pads.len() % 2 == 0, "`pads` are an odd count");
                    let (before, after) = pads.split_at(pads.len() / 2);
                    PaddingSpec::Explicit(before.into(), after.into())
                }
                None => PaddingSpec::Valid,
            },
            "VALID" => PaddingSpec::Valid,
            "SAME_UPPER" => PaddingSpec::SameUpper,
            "SAME_LOWER" => PaddingSpec::SameLower,
            other => bail!("`auto_pad` {:?} is not known", other.chars().take(32).collect::<String>()),
        };
        Ok(Self {
            kernel: lengths("kernel_shape", 1)?.map(|kernel| kernel.to_vec()),
            strides: lengths("strides", 1)?,
            dilations: lengths("dilations", 1)?,
            padding,
        })
    }
}

#[derive(Debug)]
struct AveragePool {
    inputs: Inputs,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    padding: PaddingSpec,
    has_ceiling: bool,
    counts_padding: bool,
    /// Whether signed numbers are rounded as unsigned ones; see [`THROUGH_UNSIGNED`].
    through_unsigned: bool,
}

/// Set by [`super::fuse`] on operators that round with the zero point added: ONNX Runtime on x86-64 turns signed
/// tensors between QuantizeLinear and DequantizeLinear into unsigned ones, whose larger zero point rounds otherwise
/// where a number lies half-way between two.
pub(super) const THROUGH_UNSIGNED: &str = "dunlin_through_unsigned";

/// Returns signed numbers as unsigned ones, or the other way, 128 apart.
pub(super) fn flipped(tensor: &Tensor) -> TractResult<Tensor> {
    let shape = tensor.shape();
    if tensor.datum_type() == DatumType::I8 {
        let values = tensor.try_as_plain_ram()?.as_slice::<i8>()?;
        return Tensor::from_shape(shape, &values.iter().map(|&v| v as u8 ^ 0x80).collect::<Vec<u8>>());
    }
    let values = tensor.try_as_plain_ram()?.as_slice::<u8>()?;
    Tensor::from_shape(shape, &values.iter().map(|&v| (v ^ 0x80) as i8).collect::<Vec<i8>>())
}

pub(super) fn average(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(
        node,
        &[
            THROUGH_UNSIGNED,
            "auto_pad",
            "ceil_mode",
            "channels_last",
            "count_include_pad",
            "dilations",
            "kernel_shape",
            "pads",
            "strides",
        ],
    )?;
    refuse_channels_last(node)?;
    let window = Window::read(node)?;
    ensure!(
        window.dilations.iter().flatten().all(|&dilation| dilation == 1),
        "`dilations` other than 1 are not computed here"
    );
    let kernel = window.kernel.context("`kernel_shape` is absent")?;
    let taps = kernel.iter().try_fold(1_usize, |taps, &length| taps.checked_mul(length));
    ensure!(taps.is_some_and(|taps| taps <= EXTENT_MAX as usize), "`kernel_shape` {kernel:?} is enormous");
    let strides = window.strides.map_or_else(|| vec![1; kernel.len()], |strides| strides.to_vec());
    ensure!(strides.len() == kernel.len(), "`strides` and `kernel_shape` are of different counts");
    built(AveragePool {
        inputs: Inputs::of(node, 4, 5)?,
        kernel,
        strides,
        padding: window.padding,
        has_ceiling: node.get_attr_opt::<i64>("ceil_mode")?.unwrap_or(0) != 0,
        counts_padding: node.get_attr_opt::<i64>("count_include_pad")?.unwrap_or(0) != 0,
        through_unsigned: node.get_attr_opt::<i64>(THROUGH_UNSIGNED)?.unwrap_or(0) != 0,
    })
}

fn refuse_channels_last(node: &NodeProto) -> TractResult<()> {
    let last: i64 = node.get_attr_opt("channels_last")?.unwrap_or(0);
    ensure!(last == 0, "`channels_last` is not computed here");
    Ok(())
}

/// Where the windows of one axis start and how many there are.
#[derive(Debug, Clone, Copy)]
struct Steps {
    count: usize,
    before: usize,
}

impl AveragePool {
    fn steps(&self, axis: usize, length: usize) -> TractResult<Steps> {
        let (kernel, stride) = (self.kernel[axis], self.strides[axis]);
        let same = |is_upper: bool| {
            let count = length.div_ceil(stride);
            let padding = ((count.max(1) - 1) * stride + kernel).saturating_sub(length);
            Steps { count, before: if is_upper { padding / 2 } else { padding.div_ceil(2) } }
        };
        let (before, after) = match &self.padding {
            PaddingSpec::Explicit(before, after) => {
                ensure!(before.len() == self.kernel.len(), "`pads` and `kernel_shape` differ in count");
                (before[axis], after[axis])
            }
            PaddingSpec::SameUpper => return Ok(same(true)),
            PaddingSpec::SameLower => return Ok(same(false)),
            _ => (0, 0),
        };
        ensure!(before < kernel && after < kernel, "`pads` are not smaller than the kernel");
        let padded = length + before + after;
        ensure!(padded >= kernel, "the kernel is larger than the padded input");
        let mut count = (padded - kernel) / stride + 1;
        // A further window must start before the padding at the end.
        if self.has_ceiling && !(padded - kernel).is_multiple_of(stride) && count * stride < length + before {
            count += 1;
        }
        Ok(Steps { count, before })
    }

    fn all_steps(&self, shape: &[usize]) -> TractResult<Vec<Steps>> {
        ensure!(
            shape.len() == self.kernel.len() + 2,
            "{} axes for a kernel of {}",
            shape.len(),
            self.kernel.len()
        );
        shape[2..].iter().enumerate().map(|(axis, &length)| self.steps(axis, length)).collect()
    }

    /// Sums one channel's windows in the order of rows, divides and rounds.
    fn pool<Q: Quantum>(&self, input: &Tensor, from: Grid, to: Grid) -> TractResult<Tensor> {
        let shape = input.shape();
        let steps = self.all_steps(shape)?;
        let mut output_shape = shape[..2].to_vec();
        output_shape.extend(steps.iter().map(|steps| steps.count));
        let mut output = blank::<Q>(&output_shape)?;
        let image: usize = shape[2..].iter().product();
        let pooled: usize = output_shape[2..].iter().product();
        let floats: Vec<f32> =
            input.try_as_plain_ram()?.as_slice::<Q>()?.iter().map(|q| from.value(q.integer())).collect();
        let mut view = output.try_as_plain_ram_mut()?;
        let into = view.as_slice_mut::<Q>()?;
        let channels = floats.chunks_exact(image.max(1)).zip(into.chunks_exact_mut(pooled.max(1)));
        let (width, last) = (shape[shape.len() - 1], steps.len() - 1);
        let mut row = Row { sums: vec![0.0; steps[last].count], columns: self.columns(steps[last], width) };
        for (floats, into) in channels {
            let mut place = vec![0; last];
            for into in into.chunks_exact_mut(steps[last].count.max(1)) {
                let rows = self.sum_rows(floats, &shape[2..], &steps, &place, &mut row.sums);
                for ((into, sum), columns) in into.iter_mut().zip(&row.sums).zip(&row.columns) {
                    let counted =
                        if self.counts_padding { self.kernel.iter().product() } else { rows * columns };
                    *into = rounded_whole(sum / counted as f32 / to.scale + to.zero as f32);
                }
                advance(&mut place, |axis| 0..steps[axis].count);
            }
        }
        Ok(output)
    }

    /// Returns how many columns of the input each window of a row covers.
    fn columns(&self, steps: Steps, width: usize) -> Vec<usize> {
        let axis = self.kernel.len() - 1;
        (0..steps.count).map(|step| self.covered(axis, steps, step, width).len()).collect()
    }

    /// Returns the places of the input that a window covers along an axis.
    fn covered(&self, axis: usize, steps: Steps, step: usize, length: usize) -> Range<usize> {
        let start = step * self.strides[axis];
        let end = (start + self.kernel[axis]).saturating_sub(steps.before).min(length);
        start.saturating_sub(steps.before)..end
    }

    /// Sums the windows of one row of the output, each in the order of the input's rows and columns; returns how many
    /// rows of the input they cover.
    fn sum_rows(
        &self,
        floats: &[f32],
        image: &[usize],
        steps: &[Steps],
        place: &[usize],
        sums: &mut [f32],
    ) -> usize {
        let last = image.len() - 1;
        let ranges: TVec<Range<usize>> =
            (0..last).map(|axis| self.covered(axis, steps[axis], place[axis], image[axis])).collect();
        let rows = ranges.iter().map(ExactSizeIterator::len).product();
        let mut row: TVec<usize> = ranges.iter().map(|range| range.start).collect();
        let (width, stride, before) = (image[last], self.strides[last], steps[last].before);
        // Other taps meet padding alone.
        let reach = sums.len().saturating_sub(1) * stride;
        let taps = before.saturating_sub(reach)..self.kernel[last].min(width + before);
        sums.fill(0.0);
        for _ in 0..rows {
            let start =
                row.iter().zip(image).fold(0, |start, (place, length)| start * length + place) * width;
            let values = &floats[start..start + width];
            for tap in taps.clone() {
                // The first window whose tap is not in the padding.
                let first = before.saturating_sub(tap).div_ceil(stride).min(sums.len());
                let from = (first * stride + tap).saturating_sub(before).min(width);
                if stride == 1 {
                    sums[first..].iter_mut().zip(&values[from..]).for_each(|(sum, value)| *sum += value);
                } else {
                    let values = values[from..].iter().step_by(stride);
                    sums[first..].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            }
            advance(&mut row, |axis| ranges[axis].clone());
        }
        rows
    }
}

/// What the windows of one row of the output sum up.
struct Row {
    sums: Vec<f32>,
    /// Columns of the input that each covers.
    columns: Vec<usize>,
}

/// Moves to the next place within ranges, in the order of rows.
fn advance(place: &mut [usize], range: impl Fn(usize) -> Range<usize>) {
    for axis in (0..place.len()).rev() {
        place[axis] += 1;
        if place[axis] < range(axis).end {
            return;
        }
        place[axis] = range(axis).start;
    }
}

/// Returns the grids of input and output of an operator with inputs `x`, its scale and zero, and the output's.
pub(super) fn unary_grids(inputs: &Inputs, tensors: &[&Tensor]) -> TractResult<(Grid, Grid)> {
    let from = Grid::read(inputs.need(tensors, 1)?, inputs.get(tensors, 2))?;
    Ok((from, Grid::read(inputs.need(tensors, 3)?, inputs.get(tensors, 4))?))
}

/// Checks the types of such an operator and returns the input.
pub(super) fn unary_fact<'f>(inputs: &Inputs, facts: &[&'f TypedFact]) -> TractResult<&'f TypedFact> {
    let input = inputs.need(facts, 0)?;
    octet_range(input.datum_type)?;
    for position in [2, 4] {
        if let Some(zero) = inputs.get(facts, position) {
            ensure!(zero.datum_type == input.datum_type, "a zero point is of type {:?}", zero.datum_type);
        }
    }
    Ok(input)
}

impl Kernel for AveragePool {
    fn name(&self) -> &'static str {
        "QLinearAveragePool"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = unary_fact(&self.inputs, inputs)?;
        let shape: TVec<usize> = input.shape.iter().map(|dim| dim.to_usize()).collect::<Result<_, _>>()?;
        let mut output: TVec<TDim> = shape.iter().take(2).map(|length| length.to_dim()).collect();
        output.extend(self.all_steps(&shape)?.iter().map(|steps| steps.count.to_dim()));
        Ok(tvec!(fact(input.datum_type, &output)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let tensors: TVec<&Tensor> = inputs.iter().map(|input| &**input).collect();
        let (from, to) = unary_grids(&self.inputs, &tensors)?;
        let input = self.inputs.need(&tensors, 0)?;
        let output = match input.datum_type() {
            DatumType::U8 => self.pool::<u8>(input, from, to)?,
            _ if self.through_unsigned => {
                let unsigned = flipped(input)?;
                flipped(&self.pool::<u8>(&unsigned, from.unsigned(), to.unsigned())?)?
            }
            _ => self.pool::<i8>(input, from, to)?,
        };
        Ok(tvec!(output.into_tvalue()))
    }
}

#[derive(Debug)]
struct GlobalAveragePool {
    inputs: Inputs,
}

pub(super) fn global_average(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &["channels_last"])?;
    refuse_channels_last(node)?;
    built(GlobalAveragePool { inputs: Inputs::of(node, 4, 5)? })
}

impl Kernel for GlobalAveragePool {
    fn name(&self) -> &'static str {
        "QLinearGlobalAveragePool"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = unary_fact(&self.inputs, inputs)?;
        ensure!(input.rank() > 2, "an input of {} axes has no image", input.rank());
        let shape: TVec<TDim> = (0..input.rank())
            .map(|axis| if axis < 2 { input.shape[axis].clone() } else { 1.into() })
            .collect();
        Ok(tvec!(fact(input.datum_type, &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let tensors: TVec<&Tensor> = inputs.iter().map(|input| &**input).collect();
        let (from, to) = unary_grids(&self.inputs, &tensors)?;
        let input = self.inputs.need(&tensors, 0)?;
        Ok(tvec!(by_octet!(input.datum_type(), pool_globally(input, from, to))?.into_tvalue()))
    }
}

fn pool_globally<Q: Quantum>(input: &Tensor, from: Grid, to: Grid) -> TractResult<Tensor> {
    let mut shape = input.shape().to_vec();
    let image: usize = shape[2..].iter().product();
    shape[2..].fill(1);
    let mut output = blank::<Q>(&shape)?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    let scale = from.scale / (to.scale * image as f32);
    let values = input.try_as_plain_ram()?.as_slice::<Q>()?;
    on_widest(Means { values, image: image.max(1), zero: from.zero, scale, to: to.zero, into });
    Ok(output)
}

struct Means<'a, Q> {
    values: &'a [Q],
    image: usize,
    zero: i32,
    scale: f32,
    to: i32,
    into: &'a mut [Q],
}

/// Most values whose sum is within 32 bits.
const SUMMED_MAX: usize = 1 << 22;

impl<Q: Quantum> Loops for Means<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for i in 0..self.into.len() {
            let Some(values) = self.values.get(i * self.image..(i + 1) * self.image) else { return };
            let mut sum = 0_i64;
            for values in values.chunks(SUMMED_MAX) {
                let mut part = 0_i32;
                for value in values {
                    part += value.integer() - self.zero;
                }
                sum += i64::from(part);
            }
            self.into[i] = rounded(sum as f32 * self.scale, self.to);
        }
    }
}
