//! Convolutions of quantised numbers by constant weights, straight from the image.
//!
//! Spreads each channel's padded image into planes, one for each remainder of a place by the stride, so that a tap reads
//! neighbouring places for neighbouring outputs: a row of outputs is then one row of vectors, whatever the kernel. Places at
//! the border are computed and dropped. Sums are exact as in [`super::dense`]. Never takes weights that a run computes.

use tract_onnx::tract_core::internal::*;

use super::ending::Source;
use crate::engine::vectors::{Arithmetic, Loops};

/// Values of the widest vector there is; planes are read up to [`SLACK`] values beyond their end.
pub(super) const LANES: usize = 16;
/// Vectors of neighbouring outputs that are computed together at most, and the values that are read of them.
pub(super) const VECTORS: usize = 4;
const SLACK: usize = LANES * VECTORS;

/// Values of all planes that a level-1 cache holds beside the weights: as many windows are computed together.
const TOGETHER_VALUES: usize = 8 * 1024;

/// How many times as many values the planes may have as input and output together. Beyond it most of them are padding, as
/// with dilations that hardly meet the image.
const SPREAD_MAX: usize = 8;

/// A convolution's lengths along the spatial axes.
pub(super) struct Lengths<'a> {
    pub(super) input: &'a [usize],
    pub(super) output: &'a [usize],
    pub(super) kernel: &'a [usize],
    pub(super) strides: &'a [usize],
    pub(super) dilations: &'a [usize],
    pub(super) before: &'a [usize],
}

/// A run of an image's values and where it lies among a channel's planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Move {
    from: usize,
    to: usize,
    count: usize,
}

/// Where all values of a window lie.
#[derive(Debug)]
pub(super) struct Planes {
    /// Windows that are computed together.
    pub(super) together: usize,
    /// Values of a window in a plane.
    pub(super) plane: usize,
    /// Values from one plane to the next.
    pitch: usize,
    /// Planes of a channel.
    phases: usize,
    channels: usize,
    image: usize,
    moves: Vec<Move>,
    /// Values of the image from one that is moved to the next.
    step: usize,
    /// For each tap, how far from an output's place it reads.
    pub(super) taps: Vec<usize>,
    /// Where rows of the output begin.
    pub(super) rows: Vec<usize>,
    /// Values of a row of the output.
    pub(super) width: usize,
}

/// Calls with every place of a shape, in the order of rows.
fn each_place(shape: &[usize], mut one: impl FnMut(&[usize])) {
    let mut place: TVec<usize> = shape.iter().map(|_| 0).collect();
    for _ in 0..shape.iter().product() {
        one(&place);
        for axis in (0..shape.len()).rev() {
            place[axis] += 1;
            if place[axis] < shape[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
}

fn flat(place: &[usize], shape: &[usize]) -> usize {
    place.iter().zip(shape).fold(0, |start, (place, length)| start * length + place)
}

impl Planes {
    /// Lays out planes; nothing where they take much more room than the image.
    pub(super) fn new(
        lengths: &Lengths<'_>,
        (windows, channels, outputs): (usize, usize, usize),
    ) -> Option<Self> {
        let rank = lengths.input.len();
        let count = |shape: &[usize]| shape.iter().try_fold(1_usize, |all, length| all.checked_mul(*length));
        let (image, output) = (count(lengths.input)?, count(lengths.output)?);
        (image > 0 && output > 0 && windows > 0).then_some(())?;
        let mut reach: TVec<usize> = tvec!();
        for axis in 0..rank {
            let steps = (lengths.output[axis] - 1).checked_mul(lengths.strides[axis])?;
            let kernel = (lengths.kernel[axis] - 1).checked_mul(lengths.dilations[axis])?;
            reach.push(steps.checked_add(kernel)?.checked_add(1)?);
        }
        let sides: TVec<usize> =
            reach.iter().zip(lengths.strides).map(|(reach, s)| reach.div_ceil(*s)).collect();
        let plane = count(&sides)?;
        let mut slots: Vec<TVec<usize>> = Vec::new();
        let mut taps = Vec::new();
        each_place(lengths.kernel, |tap| {
            let at: TVec<usize> = tap.iter().zip(lengths.dilations).map(|(tap, d)| tap * d).collect();
            let phase: TVec<usize> = at.iter().zip(lengths.strides).map(|(at, s)| at % s).collect();
            let place: TVec<usize> = at.iter().zip(lengths.strides).map(|(at, s)| at / s).collect();
            let slot = slots.iter().position(|known| *known == phase).unwrap_or_else(|| {
                slots.push(phase);
                slots.len() - 1
            });
            taps.push((slot, flat(&place, &sides)));
        });
        let values = plane.checked_mul(slots.len())?.checked_mul(channels)?;
        let known = image.checked_mul(channels)?.checked_add(output.checked_mul(outputs)?)?;
        (values <= known.checked_mul(SPREAD_MAX)?.checked_add(TOGETHER_VALUES)?).then_some(())?;
        let together = (TOGETHER_VALUES / values.max(1)).clamp(1, windows);
        let furthest = taps.iter().map(|(_, place)| *place).max()?;
        let pitch = together.checked_mul(plane)?.checked_add(furthest)?.checked_add(SLACK)?;
        let mut planes = Self {
            together,
            plane,
            pitch,
            phases: slots.len(),
            channels,
            image,
            moves: Vec::new(),
            step: lengths.strides[rank - 1],
            taps: taps.into_iter().map(|(slot, place)| slot * pitch + place).collect(),
            rows: Vec::new(),
            width: lengths.output[rank - 1],
        };
        planes.lay_out(lengths, &reach, &sides, &slots);
        let width = lengths.output[rank - 1];
        each_place(&lengths.output[..rank - 1], |place| {
            planes.rows.push(flat(place, &sides[..rank - 1]) * sides[rank - 1]);
        });
        if planes.rows.iter().enumerate().all(|(row, start)| *start == row * width) {
            planes.width = output;
            planes.rows = vec![0];
        }
        Some(planes)
    }

    fn lay_out(&mut self, lengths: &Lengths<'_>, reach: &[usize], sides: &[usize], slots: &[TVec<usize>]) {
        let last = sides.len() - 1;
        let (width, stride, before) = (lengths.input[last], lengths.strides[last], lengths.before[last]);
        each_place(&lengths.input[..last], |place| {
            let padded = |axis: usize| place[axis] + lengths.before[axis];
            if (0..last).any(|axis| padded(axis) >= reach[axis]) {
                return;
            }
            for (slot, phase) in slots.iter().enumerate() {
                if (0..last).any(|axis| padded(axis) % lengths.strides[axis] != phase[axis]) {
                    continue;
                }
                let row =
                    (0..last).fold(0, |row, axis| row * sides[axis] + padded(axis) / lengths.strides[axis]);
                let first = (phase[last] + stride - before % stride) % stride;
                let end = width.min(reach[last].saturating_sub(before));
                if first >= end {
                    continue;
                }
                let next = Move {
                    from: flat(place, lengths.input) * width + first,
                    to: slot * self.pitch + row * sides[last] + (first + before) / stride,
                    count: (end - first).div_ceil(stride),
                };
                match self.moves.last_mut() {
                    Some(Move { from, to, count })
                        if stride == 1 && *from + *count == next.from && *to + *count == next.to =>
                    {
                        *count += next.count;
                    }
                    _ => self.moves.push(next),
                }
            }
        });
    }

    /// Returns the number of values of all planes, which are 0 where nothing is written.
    pub(super) fn values(&self) -> usize {
        self.channels * self.channel()
    }

    /// Returns the number of values from one channel's planes to the next one's.
    pub(super) fn channel(&self) -> usize {
        self.phases * self.pitch
    }

    /// Returns the number of places that are computed for some windows, the last of them an output.
    pub(super) fn places(&self, windows: usize) -> usize {
        (windows - 1) * self.plane + self.rows.last().map_or(0, |start| start + self.width)
    }

    /// Returns how many values of the input one window has.
    pub(super) fn window(&self) -> usize {
        self.channels * self.image
    }
}

/// Writes windows into planes, the first of them as the window `first`.
pub(super) struct Fill<'a, S: Source> {
    pub(super) planes: &'a Planes,
    pub(super) source: S,
    pub(super) from: &'a [S::Value],
    pub(super) into: &'a mut [f32],
}

impl<S: Source> Loops for Fill<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Planes { channels, image, step, plane, .. } = *self.planes;
        for (window, from) in self.from.chunks_exact(channels * image).enumerate() {
            for (from, into) in
                from.chunks_exact(image).zip(self.into.chunks_exact_mut(self.planes.channel()))
            {
                for place in &self.planes.moves {
                    let into = &mut into[place.to + window * plane..][..place.count];
                    if step == 1 {
                        let from = &from[place.from..][..place.count];
                        for i in 0..place.count {
                            into[i] = self.source.centred(from[i]);
                        }
                    } else {
                        for i in 0..place.count {
                            into[i] = self.source.centred(from[place.from + i * step]);
                        }
                    }
                }
            }
        }
    }
}
