//! The sums of products of a convolution: some output channels at some positions at a time, all in registers.
//!
//! A lane is a position, a weight goes to all lanes; what was summed is finished on the way out. Never pads and never
//! packs.

#![expect(
    clippy::manual_memcpy,
    clippy::needless_range_loop,
    reason = "iterators of the standard library stay calls in code for wider vectors"
)]

use pulp::{Simd, WithSimd};

use super::layout::Layout;

/// Output channels that are summed together.
#[derive(Debug)]
pub(super) struct Block {
    /// Where the input channels of the group begin in a padded sample.
    pub(super) input: usize,
    /// The first output channel.
    pub(super) output: usize,
    /// Output channels: 8, 4, 2 or 1.
    pub(super) width: usize,
    /// Where the weights of the block begin.
    pub(super) weights: usize,
}

/// What becomes of a sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Finish {
    Nothing,
    /// Kept between two values.
    Between(f32, f32),
    /// Scaled where negative.
    Leaky(f32),
}

/// A convolution of a known size with its constants.
#[derive(Debug)]
pub(super) struct Products {
    pub(super) layout: Layout,
    /// Where each input channel of a group and each element of the kernel begins to read, from the group's start.
    pub(super) taps: Vec<usize>,
    pub(super) blocks: Vec<Block>,
    /// *Shape*: of each block `[taps, width]`
    pub(super) weights: Vec<f32>,
    /// *Shape*: `[outputs]`
    pub(super) bias: Vec<f32>,
    pub(super) finish: Finish,
}

/// Buffers of a run.
#[derive(Debug)]
pub(super) struct Buffers {
    input: Vec<f32>,
    /// Sums of a block. *Shape*: `[8, row]`
    sums: Vec<f32>,
}

/// Most output channels of a block.
const WIDTH_MAX: usize = 8;

/// Most vectors of positions that are summed at once, of up to 16 lanes.
const VECTORS_MAX: usize = 4;

impl Products {
    pub(super) fn buffers(&self) -> Buffers {
        Buffers { input: self.layout.buffer(0.0), sums: vec![0.0; WIDTH_MAX * self.row()] }
    }

    /// Returns the length of a row of sums: it ends with a vector of any machine.
    fn row(&self) -> usize {
        self.layout.positions().next_multiple_of(16 * VECTORS_MAX)
    }
}

/// A convolution of some samples.
pub(super) struct Convolving<'a> {
    pub(super) products: &'a Products,
    pub(super) buffers: &'a mut Buffers,
    /// *Shape*: `[batch, channels, rows, columns]`
    pub(super) from: &'a [f32],
    /// Added to the sums, where there is such. *Shape*: the output's
    pub(super) added: Option<&'a [f32]>,
    /// *Shape*: `[batch, outputs, rows, columns]`
    pub(super) into: &'a mut [f32],
}

impl WithSimd for Convolving<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { products, buffers, from, added, into } = self;
        let layout = &products.layout;
        let [rows, columns] = layout.output();
        let image = rows * columns;
        let (values, outputs) = (layout.sample(), products.bias.len() * image);
        for (at, (sample, into)) in from.chunks_exact(values).zip(into.chunks_exact_mut(outputs)).enumerate()
        {
            layout.fill(sample, &mut buffers.input);
            let added = added.map(|added| &added[at * outputs..(at + 1) * outputs]);
            for block in &products.blocks {
                products.sum(simd, block, buffers);
                let channels = block.output * image..(block.output + block.width) * image;
                let added = added.map(|added| &added[channels.clone()]);
                products.finish(simd, &buffers.sums, added, &mut into[channels]);
            }
        }
    }
}

impl Products {
    /// Sums a block.
    #[inline(always)]
    fn sum<S: Simd>(&self, simd: S, block: &Block, buffers: &mut Buffers) {
        let vectors = self.layout.positions().div_ceil(S::F32_LANES);
        // Sums, weights and inputs are to fit the registers.
        let is_roomy = S::REGISTER_COUNT >= 32;
        match (block.width, vectors) {
            (8, 2..) if is_roomy => self.sum_of::<S, 8, 2>(simd, block, buffers),
            (8, _) => self.sum_of::<S, 8, 1>(simd, block, buffers),
            (4, 4..) if is_roomy => self.sum_of::<S, 4, 4>(simd, block, buffers),
            (4, 2..) => self.sum_of::<S, 4, 2>(simd, block, buffers),
            (4, _) => self.sum_of::<S, 4, 1>(simd, block, buffers),
            (2, 4..) => self.sum_of::<S, 2, 4>(simd, block, buffers),
            (2, 2..) => self.sum_of::<S, 2, 2>(simd, block, buffers),
            (2, _) => self.sum_of::<S, 2, 1>(simd, block, buffers),
            (_, 4..) => self.sum_of::<S, 1, 4>(simd, block, buffers),
            (_, 2..) => self.sum_of::<S, 1, 2>(simd, block, buffers),
            _ => self.sum_of::<S, 1, 1>(simd, block, buffers),
        }
    }

    #[inline(always)]
    fn sum_of<S: Simd, const WIDTH: usize, const VECTORS: usize>(
        &self,
        simd: S,
        block: &Block,
        buffers: &mut Buffers,
    ) {
        let weights = &self.weights[block.weights..block.weights + WIDTH * self.taps.len()];
        let (weights, _) = weights.as_chunks::<WIDTH>();
        let mut bias = [0.0; WIDTH];
        for channel in 0..WIDTH {
            bias[channel] = self.bias[block.output + channel];
        }
        let from = &buffers.input[block.input..];
        let (positions, row) = (self.layout.positions(), self.row());
        let mut at = 0;
        while at + (VECTORS - 1) * S::F32_LANES < positions {
            let sums = sums::<S, WIDTH, VECTORS>(simd, from, at, &self.taps, weights, &bias);
            put::<S, WIDTH, VECTORS>(&sums, at, row, &mut buffers.sums);
            at += VECTORS * S::F32_LANES;
        }
        while at < positions {
            let sums = sums::<S, WIDTH, 1>(simd, from, at, &self.taps, weights, &bias);
            put::<S, WIDTH, 1>(&sums, at, row, &mut buffers.sums);
            at += S::F32_LANES;
        }
    }

    /// Takes the sums of a block to the output.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, sums: &[f32], added: Option<&[f32]>, into: &mut [f32]) {
        let [rows, columns] = self.layout.output();
        // Rows without anything between them are one.
        let (rows, columns) =
            if columns == self.layout.width { (1, rows * columns) } else { (rows, columns) };
        for channel in 0..into.len() / (rows * columns) {
            let sums = &sums[channel * self.row()..];
            for row in 0..rows {
                let sums = &sums[row * self.layout.width..][..columns];
                let at = (channel * rows + row) * columns;
                let added = added.map(|added| &added[at..at + columns]);
                self.finish_row(simd, sums, added, &mut into[at..at + columns]);
            }
        }
    }

    #[inline(always)]
    fn finish_row<S: Simd>(&self, simd: S, sums: &[f32], added: Option<&[f32]>, into: &mut [f32]) {
        let (into, into_rest) = S::as_mut_simd_f32s(into);
        let (sums, sums_rest) = S::as_simd_f32s(sums);
        let (added, added_rest) = match added {
            Some(added) => {
                let (added, rest) = S::as_simd_f32s(added);
                (Some(added), rest)
            }
            None => (None, &[][..]),
        };
        for at in 0..into.len() {
            let sum = match added {
                Some(added) => simd.add_f32s(sums[at], added[at]),
                None => sums[at],
            };
            into[at] = finished(simd, self.finish, sum);
        }
        if !into_rest.is_empty() {
            let mut sum = simd.partial_load_f32s(sums_rest);
            if added.is_some() {
                sum = simd.add_f32s(sum, simd.partial_load_f32s(added_rest));
            }
            simd.partial_store_f32s(into_rest, finished(simd, self.finish, sum));
        }
    }
}

/// Comparisons that are false for NaN let it through.
#[inline(always)]
fn finished<S: Simd>(simd: S, finish: Finish, sum: S::f32s) -> S::f32s {
    match finish {
        Finish::Nothing => sum,
        Finish::Between(low, high) => {
            let (low, high) = (simd.splat_f32s(low), simd.splat_f32s(high));
            let sum = simd.select_f32s(simd.less_than_f32s(sum, low), low, sum);
            simd.select_f32s(simd.greater_than_f32s(sum, high), high, sum)
        }
        Finish::Leaky(slope) => {
            let below = simd.mul_f32s(sum, simd.splat_f32s(slope));
            simd.select_f32s(simd.less_than_f32s(sum, simd.splat_f32s(0.0)), below, sum)
        }
    }
}

#[inline(always)]
fn sums<S: Simd, const WIDTH: usize, const VECTORS: usize>(
    simd: S,
    from: &[f32],
    at: usize,
    taps: &[usize],
    weights: &[[f32; WIDTH]],
    bias: &[f32; WIDTH],
) -> [[S::f32s; VECTORS]; WIDTH] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; WIDTH];
    for channel in 0..WIDTH {
        let bias = simd.splat_f32s(bias[channel]);
        for vector in 0..VECTORS {
            sums[channel][vector] = bias;
        }
    }
    let weights = &weights[..taps.len()];
    for tap in 0..taps.len() {
        let values = &from[taps[tap] + at..][..VECTORS * S::F32_LANES];
        let (values, _) = S::as_simd_f32s(values);
        let weights = &weights[tap];
        for channel in 0..WIDTH {
            let weight = simd.splat_f32s(weights[channel]);
            for vector in 0..VECTORS {
                let sum = &mut sums[channel][vector];
                *sum = simd.mul_add_e_f32s(weight, values[vector], *sum);
            }
        }
    }
    sums
}

#[inline(always)]
fn put<S: Simd, const WIDTH: usize, const VECTORS: usize>(
    sums: &[[S::f32s; VECTORS]; WIDTH],
    at: usize,
    row: usize,
    into: &mut [f32],
) {
    for channel in 0..WIDTH {
        let into = &mut into[channel * row + at..][..VECTORS * S::F32_LANES];
        let (into, _) = S::as_mut_simd_f32s(into);
        for vector in 0..VECTORS {
            into[vector] = sums[channel][vector];
        }
    }
}
