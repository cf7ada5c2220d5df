//! A matrix product with constant weights: from quantised rows, or from floats that it quantises, to its end result.
//!
//! Computes exact sums in `f32`: whole numbers whose terms' magnitudes add up to less than 2^24 in each part of the sum,
//! the parts added as 32-bit integers. Weights lie in panels of outputs, a vector wide, and rows go through them together.
//! Never takes weights that a run computes; [`super::products`] does.

use std::sync::Mutex;

use pulp::{Simd, WithSimd};
use tract_onnx::tract_core::internal::*;

use super::super::kernel::{Kernel, fact};
use super::dynamic::spanning;
use super::ending::{Ending, Ends, Floats, Left, Quanta, Rounded, Scaled, Whole, centre};
use super::finish::To;
use super::numbers::{blank, whole};
use super::products::cuts_of_rows;
use crate::engine::vectors::{in_vectors, lanes};

/// Rows that go through two panels together: their sums, the weights and a value fit the registers of AVX2.
const ROWS: usize = 4;
/// Panels that a row alone goes through together, so that more sums are under way.
const PANELS: usize = 4;

/// A product by weights of `depth` rows and `columns` columns.
#[derive(Debug)]
pub(super) struct Dense {
    left: Left,
    to: To,
    /// *Shape*: `[panels, depth, lanes]`, as many lanes as a vector of the machine has.
    panels: Vec<f32>,
    depth: usize,
    columns: usize,
    /// Where parts of the sum begin and end.
    cuts: Vec<usize>,
    ends: Ends,
    /// Buffers wait here for the next run; runs at the same time make their own.
    room: Mutex<Room>,
}

#[derive(Debug, Default)]
struct Room {
    rows: Vec<f32>,
    factors: Vec<f32>,
    sums: Vec<f32>,
    totals: Vec<i32>,
}

impl Dense {
    /// Prepares a product.
    ///
    /// *Shape*: `weights` are `[columns, depth]`, without zero points; `left_max` is the largest magnitude on the left.
    ///
    /// *Errors*: counts of scales or biases that do not fit.
    pub(super) fn prepare(
        (left, left_max): (Left, i64),
        (weights, depth): (&[f32], usize),
        (scales, bias): (&[f32], &[i32]),
        to: To,
    ) -> TractResult<Self> {
        let columns = weights.len() / depth;
        let (cuts, sum_max) = cuts_of_rows(weights, depth, left_max);
        let value = |column: usize, k: usize| weights.get(column * depth + k).copied().unwrap_or(0.0);
        let lanes = lanes();
        let count = columns.div_ceil(lanes);
        let place = |i: usize| (i / lanes / depth * lanes + i % lanes, i / lanes % depth);
        let panels = (0..count * depth * lanes).map(place).map(|(column, k)| value(column, k)).collect();
        Ok(Self {
            left,
            panels,
            depth,
            columns,
            cuts,
            ends: Ends::spread((scales, bias), &to, (columns, count * lanes), sum_max)?,
            to,
            room: Mutex::default(),
        })
    }

    /// Writes the rows as centred numbers, and the unit of each.
    fn fill(&self, inputs: &[TValue], room: &mut Room) -> TractResult<()> {
        let input = inputs[0].try_as_plain_ram()?;
        let count = inputs[0].len() / self.depth;
        room.rows.resize(inputs[0].len(), 0.0);
        room.factors.clear();
        if let Left::Ranged(_) = self.left {
            let part = (inputs[0].len() / self.left.ranges(inputs[0].shape())).max(1);
            let values = input.as_slice::<f32>()?;
            for (values, into) in values.chunks_exact(part).zip(room.rows.chunks_exact_mut(part)) {
                let grid = spanning(values);
                centre(Floats(grid), values, into);
                let rows = room.factors.len() + part / self.depth;
                room.factors.resize(rows, grid.scale);
            }
            return Ok(());
        }
        let zero = self.left.zero(inputs)?;
        match inputs[0].datum_type() {
            DatumType::U8 => centre(Quanta::<u8>::new(zero), input.as_slice()?, &mut room.rows),
            _ => centre(Quanta::<i8>::new(zero), input.as_slice()?, &mut room.rows),
        }
        room.factors.resize(count, self.left.factor(&self.to, inputs)?);
        Ok(())
    }

    fn sum<E: Ending>(&self, ending: E, room: &mut Room, shape: &[usize]) -> TractResult<Tensor> {
        let mut output = blank::<E::Value>(shape)?;
        let mut view = output.try_as_plain_ram_mut()?;
        let into = view.as_slice_mut::<E::Value>()?;
        let Room { rows, factors, sums, totals } = room;
        sums.resize(factors.len() * self.ends.scales.len(), 0.0);
        totals.clear();
        if !self.ends.is_exact {
            totals.resize(sums.len(), 0);
        }
        in_vectors(Sum { dense: self, ending, rows, factors, sums, totals, into });
        Ok(output)
    }
}

struct Sum<'a, E: Ending> {
    dense: &'a Dense,
    ending: E,
    rows: &'a [f32],
    factors: &'a [f32],
    /// *Shape*: `[rows, columns]`, up to whole panels.
    sums: &'a mut [f32],
    totals: &'a mut [i32],
    into: &'a mut [E::Value],
}

impl<E: Ending> WithSimd for Sum<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let ends = &self.dense.ends;
        for cut in self.dense.cuts.windows(2) {
            self.part(simd, [cut[0], cut[1]]);
            if !ends.is_exact {
                let count = self.sums.len();
                let (totals, sums) = (&mut self.totals[..count], &self.sums[..count]);
                for i in 0..count {
                    totals[i] = totals[i].wrapping_add(whole(sums[i]));
                }
            }
        }
        let (columns, room) = (self.dense.columns, ends.scales.len());
        let (scales, floats) = (&ends.scales[..columns], &ends.floats[..columns]);
        for (row, into) in self.into.chunks_exact_mut(columns).enumerate() {
            let (factor, start) = (self.factors[row], row * room);
            let into = &mut into[..columns];
            if ends.is_exact {
                let (sums, biases) = (&self.sums[start..][..columns], &ends.whole[..columns]);
                for i in 0..columns {
                    into[i] = self.ending.of(sums[i] + biases[i], factor * scales[i], floats[i]);
                }
            } else {
                let (totals, biases) = (&self.totals[start..][..columns], &ends.totals[..columns]);
                for i in 0..columns {
                    let total = totals[i].wrapping_add(biases[i]);
                    into[i] = self.ending.of_integer(total, factor * scales[i], floats[i]);
                }
            }
        }
    }
}

impl<E: Ending> Sum<'_, E> {
    /// Sums a part of the terms of all rows.
    #[inline(always)]
    fn part<S: Simd>(&mut self, simd: S, cut: [usize; 2]) {
        let panels = self.dense.ends.scales.len() / S::F32_LANES;
        let rows = self.factors.len();
        let mut row = 0;
        while row + ROWS <= rows {
            let mut panel = 0;
            while panel + 2 <= panels {
                self.block::<S, ROWS, 2>(simd, [row, panel], cut);
                panel += 2;
            }
            if panel < panels {
                self.block::<S, ROWS, 1>(simd, [row, panel], cut);
            }
            row += ROWS;
        }
        while row < rows {
            let mut panel = 0;
            while panel + PANELS <= panels {
                self.block::<S, 1, PANELS>(simd, [row, panel], cut);
                panel += PANELS;
            }
            while panel < panels {
                self.block::<S, 1, 1>(simd, [row, panel], cut);
                panel += 1;
            }
            row += 1;
        }
    }

    #[expect(
        clippy::needless_range_loop,
        clippy::manual_memcpy,
        reason = "loops of constant counts over all arrays at once become registers; a copied array lies in memory"
    )]
    #[inline(always)]
    fn block<S: Simd, const R: usize, const P: usize>(
        &mut self,
        simd: S,
        [row, panel]: [usize; 2],
        [start, end]: [usize; 2],
    ) {
        let (depth, length) = (self.dense.depth, end - start);
        let mut rows: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            rows[r] = &self.rows[(row + r) * depth + start..][..length];
        }
        let mut weights: [&[S::f32s]; P] = [&[]; P];
        for p in 0..P {
            let first = ((panel + p) * depth + start) * S::F32_LANES;
            let values = &self.dense.panels[first..first + length * S::F32_LANES];
            weights[p] = &S::as_simd_f32s(values).0[..length];
        }
        let mut sums = [[simd.splat_f32s(0.0); P]; R];
        for k in 0..length {
            for r in 0..R {
                let value = simd.splat_f32s(rows[r][k]);
                for p in 0..P {
                    sums[r][p] = simd.mul_add_e_f32s(value, weights[p][k], sums[r][p]);
                }
            }
        }
        let room = self.dense.ends.scales.len();
        for r in 0..R {
            let place = (row + r) * room + panel * S::F32_LANES;
            let into = S::as_mut_simd_f32s(&mut self.sums[place..place + P * S::F32_LANES]).0;
            // Not as a whole array, which would then lie in memory all the way.
            for p in 0..P {
                into[p] = sums[r][p];
            }
        }
    }
}

impl Kernel for Dense {
    fn name(&self) -> &'static str {
        "QuantisedDense"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        let last = shape.last_mut().context("rows of no axes")?;
        ensure!(*last == self.depth.to_dim(), "rows of {last} values for weights of {}", self.depth);
        *last = self.columns.to_dim();
        Ok(tvec!(fact(self.to.datum_type(), &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut shape: TVec<usize> = inputs[0].shape().into();
        if let Some(last) = shape.last_mut() {
            *last = self.columns;
        }
        let mut room = self.room.try_lock().map(|mut room| std::mem::take(&mut *room)).unwrap_or_default();
        self.fill(&inputs, &mut room)?;
        let output = match self.to {
            To::Integers => self.sum(Whole, &mut room, &shape)?,
            To::Floats(_) => self.sum(Scaled, &mut room, &shape)?,
            To::Quantised(DatumType::U8, zero) => self.sum(Rounded::<u8>::new(zero), &mut room, &shape)?,
            To::Quantised(_, zero) => self.sum(Rounded::<i8>::new(zero), &mut room, &shape)?,
        };
        if let Ok(mut kept) = self.room.try_lock() {
            *kept = room;
        }
        Ok(tvec!(output.into_tvalue()))
    }
}
