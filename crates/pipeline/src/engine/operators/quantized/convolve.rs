//! The kernel of a convolution over [`super::planes`]: quantised numbers or floats in, its end result out.
//!
//! A few channels of the output go through a row of places together. Sums are exact, as in [`super::dense`]. Never lays
//! out an image: the planes do.

use std::sync::Mutex;

use pulp::{Simd, WithSimd};
use tract_onnx::tract_core::internal::*;

use super::super::kernel::{Kernel, fact};
use super::dynamic::spanning;
use super::ending::{Ending, Ends, Floats, Left, Quanta, Rounded, Scaled, Source, Whole};
use super::finish::To;
use super::numbers::{blank, whole};
use super::planes::{Fill, LANES, Planes, VECTORS};
use super::products::cuts_of_rows;
use crate::engine::vectors::{in_vectors, on_widest};

/// Channels of the output that are computed together at most: with two vectors of places, their sums, the values and a
/// weight fit the registers of AVX2.
const BLOCK: usize = 4;

/// A convolution of images of a known shape.
#[derive(Debug)]
pub(super) struct Convolve {
    left: Left,
    to: To,
    planes: Planes,
    groups: usize,
    /// Channels of the output in a group.
    outputs: usize,
    /// Channels that are computed together.
    block: usize,
    /// *Shape*: `[groups, blocks, terms, block]`
    weights: Vec<f32>,
    /// For each term of a sum, how far from an output's place it is read.
    terms: Vec<usize>,
    /// Values from one group's planes to the next one's.
    group: usize,
    cuts: Vec<usize>,
    ends: Ends,
    /// *Shape*: of the input and of the output
    shapes: [TVec<usize>; 2],
    /// Planes wait here for the next run; runs at the same time make their own.
    room: Mutex<Vec<f32>>,
}

/// A convolution's weights: without zero points, in ONNX's order.
pub(super) struct Weights<'a> {
    pub(super) values: &'a [f32],
    pub(super) groups: usize,
    /// Channels of the output, of all groups.
    pub(super) outputs: usize,
}

impl Convolve {
    /// Prepares a convolution; `left_max` is the largest magnitude on the left.
    ///
    /// *Errors*: counts of scales or biases that do not fit.
    pub(super) fn prepare(
        (left, left_max): (Left, i64),
        planes: Planes,
        kernel: &Weights<'_>,
        (scales, bias): (&[f32], &[i32]),
        (to, shapes): (To, [TVec<usize>; 2]),
    ) -> TractResult<Self> {
        let depth = kernel.values.len() / kernel.outputs;
        let (cuts, sum_max) = cuts_of_rows(kernel.values, depth, left_max);
        let outputs = kernel.outputs / kernel.groups;
        let block = match outputs {
            1 | 2 => outputs,
            _ => BLOCK,
        };
        let mut weights = Vec::with_capacity(kernel.groups * outputs.div_ceil(block) * depth * block);
        for rows in kernel.values.chunks_exact(depth * outputs) {
            for rows in rows.chunks(depth * block) {
                let value = |k: usize, row: usize| rows.get(row * depth + k).copied().unwrap_or(0.0);
                weights.extend((0..depth * block).map(|i| value(i / block, i % block)));
            }
        }
        let channels = depth / planes.taps.len();
        let channel = planes.channel();
        let terms =
            (0..channels).flat_map(|c| planes.taps.iter().map(move |tap| c * channel + tap)).collect();
        Ok(Self {
            left,
            group: channels * channel,
            planes,
            groups: kernel.groups,
            outputs,
            block,
            weights,
            terms,
            cuts,
            ends: Ends::spread((scales, bias), &to, (kernel.outputs, kernel.outputs), sum_max)?,
            to,
            shapes,
            room: Mutex::default(),
        })
    }

    fn fill<S: Source>(
        &self,
        source: S,
        from: &Tensor,
        windows: [usize; 2],
        into: &mut [f32],
    ) -> TractResult<()> {
        let window = self.planes.window();
        let from =
            &from.try_as_plain_ram()?.as_slice::<S::Value>()?[windows[0] * window..windows[1] * window];
        on_widest(Fill { planes: &self.planes, source, from, into });
        Ok(())
    }

    /// Writes windows into planes and returns their unit.
    fn spread(&self, inputs: &[TValue], windows: [usize; 2], into: &mut [f32]) -> TractResult<f32> {
        let input = &inputs[0];
        if let Left::Ranged(_) = self.left {
            let window = self.planes.window();
            let values = input.try_as_plain_ram()?.as_slice::<f32>()?;
            let is_whole = self.left.ranges(input.shape()) == 1;
            let spanned = if is_whole { values } else { &values[windows[0] * window..windows[1] * window] };
            let grid = spanning(spanned);
            self.fill(Floats(grid), input, windows, into)?;
            return Ok(grid.scale);
        }
        let zero = self.left.zero(inputs)?;
        match input.datum_type() {
            DatumType::U8 => self.fill(Quanta::<u8>::new(zero), input, windows, into)?,
            _ => self.fill(Quanta::<i8>::new(zero), input, windows, into)?,
        }
        self.left.factor(&self.to, inputs)
    }

    fn compute<E: Ending>(&self, ending: E, inputs: &[TValue], room: &mut [f32]) -> TractResult<Tensor> {
        let [input, output] = &self.shapes;
        let windows = input[0];
        let together = if self.left.ranges(input) > 1 { 1 } else { self.planes.together };
        let mut result = blank::<E::Value>(output)?;
        let size = result.len() / windows;
        let places = self.block * self.planes.places(together).next_multiple_of(LANES);
        let totals = if self.ends.is_exact { Vec::new() } else { vec![0; places] };
        let mut rows = Rows { sums: vec![0.0; places], totals, ends: vec![E::Value::default(); places] };
        let mut view = result.try_as_plain_ram_mut()?;
        let into = view.as_slice_mut::<E::Value>()?;
        for (part, into) in into.chunks_mut(together * size).enumerate() {
            let first = part * together;
            let count = into.len() / size;
            let factor = self.spread(inputs, [first, first + count], room)?;
            let rows = &mut rows;
            in_vectors(Sum { convolve: self, ending, factor, planes: room, windows: count, rows, into });
        }
        Ok(result)
    }
}

struct Sum<'a, E: Ending> {
    convolve: &'a Convolve,
    ending: E,
    factor: f32,
    planes: &'a [f32],
    windows: usize,
    rows: &'a mut Rows<E::Value>,
    into: &'a mut [E::Value],
}

/// The channels that are computed together, at all places up to a whole vector.
struct Rows<T> {
    sums: Vec<f32>,
    totals: Vec<i32>,
    ends: Vec<T>,
}

impl<E: Ending> WithSimd for Sum<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match self.convolve.block {
            1 => self.all::<S, 1>(simd),
            2 => self.all::<S, 2>(simd),
            _ => self.all::<S, BLOCK>(simd),
        }
    }
}

impl<E: Ending> Sum<'_, E> {
    #[inline(always)]
    fn all<S: Simd, const B: usize>(&mut self, simd: S) {
        let Convolve { groups, outputs, .. } = *self.convolve;
        let terms = self.convolve.terms.len();
        let places = self.convolve.planes.places(self.windows).next_multiple_of(S::F32_LANES);
        let blocks = outputs.div_ceil(B);
        for group in 0..groups {
            for block in 0..blocks {
                let start = (group * blocks + block) * terms * B;
                let weights = self.convolve.weights[start..start + terms * B].as_chunks::<B>().0;
                let channel = group * outputs + block * B;
                let count = B.min(outputs - block * B);
                let is_exact = self.convolve.ends.is_exact;
                if !is_exact {
                    self.rows.totals[..B * places].fill(0);
                }
                for cut in self.convolve.cuts.windows(2) {
                    let terms = &self.convolve.terms[cut[0]..cut[1]];
                    self.part::<S, B>(simd, (&weights[cut[0]..cut[1]], terms), group, places);
                    if !is_exact {
                        let (totals, sums) =
                            (&mut self.rows.totals[..B * places], &self.rows.sums[..B * places]);
                        for i in 0..B * places {
                            totals[i] = totals[i].wrapping_add(whole(sums[i]));
                        }
                    }
                }
                for b in 0..count {
                    self.end(channel + b, b * places, places);
                }
                self.write(channel, count, places);
            }
        }
    }

    /// Sums some terms at all places.
    #[inline(always)]
    fn part<S: Simd, const B: usize>(
        &mut self,
        simd: S,
        terms: (&[[f32; B]], &[usize]),
        group: usize,
        places: usize,
    ) {
        let lanes = S::F32_LANES;
        let mut place = 0;
        if B < BLOCK {
            while place + VECTORS * lanes <= places {
                self.block::<S, B, VECTORS>(simd, terms, group, [place, places]);
                place += VECTORS * lanes;
            }
        }
        while place + 2 * lanes <= places {
            self.block::<S, B, 2>(simd, terms, group, [place, places]);
            place += 2 * lanes;
        }
        if place < places {
            self.block::<S, B, 1>(simd, terms, group, [place, places]);
        }
    }

    /// Sums some terms at neighbouring places.
    #[expect(
        clippy::needless_range_loop,
        clippy::manual_memcpy,
        reason = "loops of constant counts over all arrays at once become registers; a copied array lies in memory"
    )]
    #[inline(always)]
    fn block<S: Simd, const B: usize, const V: usize>(
        &mut self,
        simd: S,
        (weights, terms): (&[[f32; B]], &[usize]),
        group: usize,
        [place, places]: [usize; 2],
    ) {
        let planes = &self.planes[group * self.convolve.group + place..];
        let mut sums = [[simd.splat_f32s(0.0); V]; B];
        for (weights, term) in weights.iter().zip(terms) {
            let values = S::as_simd_f32s(&planes[*term..*term + V * S::F32_LANES]).0;
            let values = &values[..V];
            for b in 0..B {
                let weight = simd.splat_f32s(weights[b]);
                for v in 0..V {
                    sums[b][v] = simd.mul_add_e_f32s(weight, values[v], sums[b][v]);
                }
            }
        }
        for b in 0..B {
            let into = &mut self.rows.sums[b * places + place..][..V * S::F32_LANES];
            let into = S::as_mut_simd_f32s(into).0;
            // Not as a whole array, which would then lie in memory all the way.
            for v in 0..V {
                into[v] = sums[b][v];
            }
        }
    }

    /// Makes end results of a channel's sums.
    #[inline(always)]
    fn end(&mut self, channel: usize, start: usize, places: usize) {
        let all = &self.convolve.ends;
        let (scale, float) = (self.factor * all.scales[channel], all.floats[channel]);
        let ends = &mut self.rows.ends[start..][..places];
        if all.is_exact {
            let (sums, bias) = (&self.rows.sums[start..][..places], all.whole[channel]);
            for i in 0..places {
                ends[i] = self.ending.of(sums[i] + bias, scale, float);
            }
        } else {
            let (totals, bias) = (&self.rows.totals[start..][..places], all.totals[channel]);
            for i in 0..places {
                ends[i] = self.ending.of_integer(totals[i].wrapping_add(bias), scale, float);
            }
        }
    }

    /// Copies the rows of outputs from among all places.
    #[inline(always)]
    fn write(&mut self, channel: usize, count: usize, places: usize) {
        let Planes { plane, width, rows, .. } = &self.convolve.planes;
        let channels = self.convolve.groups * self.convolve.outputs;
        for b in 0..count {
            let ends = &self.rows.ends[b * places..][..places];
            for window in 0..self.windows {
                let first = (window * channels + channel + b) * rows.len() * width;
                let into = &mut self.into[first..][..rows.len() * width];
                for row in 0..rows.len() {
                    let from = &ends[window * plane + rows[row]..][..*width];
                    into[row * width..][..*width].copy_from_slice(from);
                }
            }
        }
    }
}

impl Kernel for Convolve {
    fn name(&self) -> &'static str {
        "QuantisedConvolution"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input, output] = &self.shapes;
        ensure!(
            inputs[0].shape.as_concrete() == Some(input),
            "an input of shape {:?} where {input:?} was planned",
            inputs[0].shape
        );
        let shape: TVec<TDim> = output.iter().map(|length| length.to_dim()).collect();
        Ok(tvec!(fact(self.to.datum_type(), &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut room = self.room.try_lock().map(|mut room| std::mem::take(&mut *room)).unwrap_or_default();
        // Padding is 0, and no run writes to it.
        room.resize(self.planes.values(), 0.0);
        let output = match self.to {
            To::Integers => self.compute(Whole, &inputs, &mut room)?,
            To::Floats(_) => self.compute(Scaled, &inputs, &mut room)?,
            To::Quantised(DatumType::U8, zero) => {
                self.compute(Rounded::<u8>::new(zero), &inputs, &mut room)?
            }
            To::Quantised(_, zero) => self.compute(Rounded::<i8>::new(zero), &inputs, &mut room)?,
        };
        if let Ok(mut kept) = self.room.try_lock() {
            *kept = room;
        }
        Ok(tvec!(output.into_tvalue()))
    }
}
