//! Where the values of a padded input lie, so that a convolution reads whole vectors alone.
//!
//! A channel is split by the strides into phases, each a small padded image of its own: a step of the output is then a step
//! of one value in every phase, and image rows follow one another, so that outputs are counted through as if they stood in
//! one row. Never computes a product.

#![expect(
    clippy::manual_memcpy,
    reason = "iterators of the standard library stay calls in code for wider vectors"
)]

/// Most values that a padded input may take, 16 MiB: beyond it tract's way, which makes no copy of its own, is taken.
const VALUES_MAX: usize = 1 << 22;

/// Values that may be read behind the last one: vectors begin at every output, and are read some at a time.
const BEHIND: usize = 128;

/// One axis of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) input: usize,
    pub(super) output: usize,
    /// Padding before the first value.
    pub(super) before: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
}

impl Axis {
    /// An axis of one value, in place of one that there is not.
    pub(super) const NONE: Self = Self { input: 1, output: 1, before: 0, kernel: 1, stride: 1, dilation: 1 };

    /// Returns the phases that a kernel reads, rising.
    fn phases(&self) -> Vec<usize> {
        let mut phases: Vec<usize> = (0..self.kernel).map(|k| k * self.dilation % self.stride).collect();
        phases.sort_unstable();
        phases.dedup();
        phases
    }

    /// Returns the values of a phase that are read.
    fn phase_length(&self) -> usize {
        self.output + (self.kernel - 1) * self.dilation / self.stride
    }

    /// Returns what of a phase comes from the input: its first value there, the input's, and how many.
    fn inside(&self, phase: usize) -> (usize, usize, usize) {
        let first = self.before.saturating_sub(phase).div_ceil(self.stride);
        let from = (first * self.stride + phase) - self.before;
        let present = self.input.saturating_sub(from).div_ceil(self.stride);
        (first, from, present.min(self.phase_length().saturating_sub(first)))
    }
}

/// Values that are copied to one place: each `step`th of the input.
#[derive(Debug, Clone, Copy)]
struct Run {
    to: usize,
    from: usize,
    count: usize,
}

/// The layout of one sample.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    axes: [Axis; 2],
    channels: usize,
    /// Values of a row of a phase.
    pub(super) width: usize,
    /// Values of a channel with all its phases.
    pub(super) channel: usize,
    /// Of one channel.
    runs: Vec<Run>,
    /// Where each element of the kernel begins to read, from the channel's start.
    pub(super) taps: Vec<usize>,
}

impl Layout {
    /// Returns the layout of a sample; nothing where it is empty or too large.
    pub(super) fn new(channels: usize, axes: [Axis; 2]) -> Option<Self> {
        let is_empty = |axis: &Axis| [axis.input, axis.output, axis.kernel, axis.stride].contains(&0);
        if channels == 0 || axes.iter().any(is_empty) {
            return None;
        }
        let [high, wide] = axes;
        let reach = |axis: &Axis| {
            let last = (axis.kernel - 1).checked_mul(axis.dilation)?;
            axis.output.checked_add(last)?.checked_mul(axis.stride.min(axis.kernel))
        };
        let values = reach(&high)?.checked_mul(reach(&wide)?)?.checked_mul(channels)?;
        if values > VALUES_MAX {
            return None;
        }
        let (high_phases, wide_phases) = (high.phases(), wide.phases());
        let (rows, width) = (high.phase_length(), wide.phase_length());
        let mut runs = Vec::new();
        for (row_phase, &phase) in high_phases.iter().enumerate() {
            let (first_row, from_row, present) = high.inside(phase);
            for (column_phase, &phase) in wide_phases.iter().enumerate() {
                let (first, from, count) = wide.inside(phase);
                let start = (row_phase * wide_phases.len() + column_phase) * rows * width;
                runs.extend((0..present).filter(|_| count > 0).map(|row| Run {
                    to: start + (first_row + row) * width + first,
                    from: (from_row + row * high.stride) * wide.input + from,
                    count,
                }));
            }
        }
        let place = |phases: &[usize], axis: &Axis, k: usize| {
            let reach = k * axis.dilation;
            let phase = phases.partition_point(|phase| *phase < reach % axis.stride);
            (phase, reach / axis.stride)
        };
        let tap = |k: usize, l: usize| {
            let ((row_phase, row), (column_phase, column)) =
                (place(&high_phases, &high, k), place(&wide_phases, &wide, l));
            ((row_phase * wide_phases.len() + column_phase) * rows + row) * width + column
        };
        let taps = (0..high.kernel).flat_map(|k| (0..wide.kernel).map(move |l| (k, l)));
        let taps = taps.map(|(k, l)| tap(k, l)).collect();
        let channel = high_phases.len() * wide_phases.len() * rows * width;
        Some(Self { axes, channels, width, channel, runs: joined(runs, wide.stride), taps })
    }

    /// Returns the values of a sample's channel in the input.
    const fn input_channel(&self) -> usize {
        self.axes[0].input * self.axes[1].input
    }

    /// Returns the values of a sample of the input.
    pub(super) const fn sample(&self) -> usize {
        self.channels * self.input_channel()
    }

    /// Returns rows and columns of the output.
    pub(super) const fn output(&self) -> [usize; 2] {
        [self.axes[0].output, self.axes[1].output]
    }

    /// Returns how many outputs are counted through, with those between the end of a row and the next.
    pub(super) const fn positions(&self) -> usize {
        (self.axes[0].output - 1) * self.width + self.axes[1].output
    }

    /// Returns a buffer for a sample whose padding has this value.
    pub(super) fn buffer(&self, padding: f32) -> Vec<f32> {
        vec![padding; self.channels * self.channel + BEHIND]
    }

    /// Puts a sample into a buffer; the padding stands there.
    #[inline(always)]
    pub(super) fn fill(&self, sample: &[f32], buffer: &mut [f32]) {
        let values = self.input_channel();
        for channel in 0..self.channels {
            let from = &sample[channel * values..(channel + 1) * values];
            let into = &mut buffer[channel * self.channel..(channel + 1) * self.channel];
            for run in &self.runs {
                let into = &mut into[run.to..run.to + run.count];
                match self.axes[1].stride {
                    1 => copy(&from[run.from..run.from + run.count], into),
                    2 => every_second(&from[run.from..run.from + 2 * run.count - 1], into),
                    stride => {
                        for at in 0..run.count {
                            into[at] = from[run.from + at * stride];
                        }
                    }
                }
            }
        }
    }
}

/// Joins runs that follow one another on both sides.
fn joined(runs: Vec<Run>, stride: usize) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last)
                if stride == 1 && last.to + last.count == run.to && last.from + last.count == run.from =>
            {
                last.count += run.count;
            }
            _ => joined.push(run),
        }
    }
    joined
}

/// Values that are moved at once: rows are short, and a call for each would cost more than the moving. The loops below
/// stand on indices alone, since iterators of the standard library stay calls in code for wider vectors.
const AT_ONCE: usize = 8;

/// Copies short rows.
#[inline(always)]
pub(super) fn copy(from: &[f32], into: &mut [f32]) {
    let count = into.len();
    let from = &from[..count];
    if count >= 8 * AT_ONCE {
        into.copy_from_slice(from);
        return;
    }
    if count < AT_ONCE {
        for at in 0..count {
            into[at] = from[at];
        }
        return;
    }
    let last = count - AT_ONCE;
    let mut at = 0;
    while at < last {
        put(&from[at..at + AT_ONCE], &mut into[at..at + AT_ONCE]);
        at += AT_ONCE;
    }
    // The last eight, some of them again: no rest is left.
    put(&from[last..], &mut into[last..]);
}

#[inline(always)]
fn put(from: &[f32], into: &mut [f32]) {
    let (from, into) = (&from[..AT_ONCE], &mut into[..AT_ONCE]);
    let mut values = [0.0; AT_ONCE];
    for lane in 0..AT_ONCE {
        values[lane] = from[lane];
    }
    for lane in 0..AT_ONCE {
        into[lane] = values[lane];
    }
}

#[inline(always)]
fn every_second(from: &[f32], into: &mut [f32]) {
    let count = into.len();
    let mut at = 0;
    while at + AT_ONCE <= count {
        let (from, into) = (&from[2 * at..][..2 * AT_ONCE - 1], &mut into[at..][..AT_ONCE]);
        let mut values = [0.0; AT_ONCE];
        for lane in 0..AT_ONCE {
            values[lane] = from[2 * lane];
        }
        for lane in 0..AT_ONCE {
            into[lane] = values[lane];
        }
        at += AT_ONCE;
    }
    while at < count {
        into[at] = from[2 * at];
        at += 1;
    }
}
