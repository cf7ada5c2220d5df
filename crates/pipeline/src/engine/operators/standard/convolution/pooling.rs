//! Pooling over windows of an image, and over a whole one: the largest value, or the mean.
//!
//! Reads a padded copy of one channel at a time, laid out as for a convolution. A window that reaches beyond the image
//! counts in a mean only what is inside, which stays with tract.
//!
//! *Source*: ai.onnx 22, MaxPool and AveragePool; ai.onnx 22, GlobalAveragePool.

use std::sync::Mutex;

use pulp::{Simd, WithSimd};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::{MaxPool, PoolSpec, SumPool};

use super::super::super::super::vectors::{self, Arithmetic, Loops};
use super::super::super::kernel::{Kernel, fact};
use super::layout::{Axis, Layout};
use super::{Images, axes};

/// What is taken of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Max,
    Mean,
}

/// A pooling of a known size.
#[derive(Debug)]
pub(super) struct Pooling {
    kind: Kind,
    images: Images,
    /// Of one channel.
    layout: Layout,
    /// Buffers wait here for the next run; runs at the same time make their own.
    kept: Mutex<Option<Buffers>>,
}

#[derive(Debug)]
struct Buffers {
    channel: Vec<f32>,
    found: Vec<f32>,
}

impl Pooling {
    /// Returns the pooling that a node of tract is, where that can be.
    pub(super) fn of(node: &TypedNode, input: &TypedFact) -> Option<Self> {
        let shape = input.shape.as_concrete().filter(|_| input.datum_type == DatumType::F32)?;
        let spec_of = |spec: &PoolSpec| Some((spec.input_channels, axes(spec, shape)?));
        let (kind, (channels, axes)) = if let Some(pool) = node.op_as::<MaxPool>() {
            (Kind::Max, spec_of(&pool.pool_spec).filter(|_| pool.with_index_outputs.is_none())?)
        } else {
            let pool = node.op_as::<SumPool>().filter(|pool| pool.normalize)?;
            let (channels, axes) = spec_of(&pool.pool_spec)?;
            let is_inside = |axis: &Axis| {
                let last = axis.output.saturating_sub(1) * axis.stride + (axis.kernel - 1) * axis.dilation;
                axis.kernel > 0 && axis.before == 0 && last < axis.input
            };
            if !axes.iter().all(is_inside) {
                return None;
            }
            (Kind::Mean, (channels, axes))
        };
        let layout = Layout::new(1, axes)?;
        let images = Images { batch: shape[0], channels, outputs: channels, axes, spatial: shape.len() - 2 };
        (images.batch > 0 && channels == shape[1]).then(|| Self {
            kind,
            images,
            layout,
            kept: Mutex::new(None),
        })
    }

    fn buffers(&self) -> Buffers {
        // tract's and ONNX Runtime's least value too: a window of padding alone gives it.
        let padding = if self.kind == Kind::Max { f32::MIN } else { 0.0 };
        // A row ends with a vector of any machine.
        let found = vec![0.0; self.layout.positions().next_multiple_of(16)];
        Buffers { channel: self.layout.buffer(padding), found }
    }
}

impl Kernel for Pooling {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Max => "MaxPool",
            Kind::Mean => "AveragePool",
        }
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.images.output_facts(inputs)
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut output = Tensor::zero::<f32>(&self.images.output())?;
        let waiting = self.kept.try_lock().ok().and_then(|mut kept| kept.take());
        let mut buffers = waiting.unwrap_or_else(|| self.buffers());
        vectors::in_vectors(Walk {
            pooling: self,
            buffers: &mut buffers,
            from: inputs[0].try_as_plain_ram()?.as_slice()?,
            into: output.try_as_plain_ram_mut()?.as_slice_mut()?,
        });
        if let Ok(mut kept) = self.kept.try_lock() {
            *kept = Some(buffers);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

struct Walk<'a> {
    pooling: &'a Pooling,
    buffers: &'a mut Buffers,
    from: &'a [f32],
    into: &'a mut [f32],
}

impl WithSimd for Walk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { pooling: Pooling { kind, layout, .. }, buffers, from, into } = self;
        let [rows, columns] = layout.output();
        let positions = layout.positions();
        let factor = simd.splat_f32s(1.0 / layout.taps.len() as f32);
        let (values, image) = (layout.sample(), rows * columns);
        for channel in 0..into.len() / image {
            layout.fill(&from[channel * values..(channel + 1) * values], &mut buffers.channel);
            let mut at = 0;
            while at < positions {
                let mut found = simd.splat_f32s(if *kind == Kind::Max { f32::MIN } else { 0.0 });
                for tap in &layout.taps {
                    let value = S::as_simd_f32s(&buffers.channel[tap + at..][..S::F32_LANES]).0[0];
                    found = match kind {
                        // Never picks NaN, as tract.
                        Kind::Max => simd.select_f32s(simd.less_than_f32s(found, value), value, found),
                        Kind::Mean => simd.add_f32s(found, value),
                    };
                }
                if *kind == Kind::Mean {
                    found = simd.mul_f32s(found, factor);
                }
                S::as_mut_simd_f32s(&mut buffers.found[at..at + S::F32_LANES]).0[0] = found;
                at += S::F32_LANES;
            }
            for row in 0..rows {
                let into = &mut into[channel * image + row * columns..][..columns];
                super::layout::copy(&buffers.found[row * layout.width..][..columns], into);
            }
        }
    }
}

/// The mean of each channel's image.
#[derive(Debug)]
pub(super) struct GlobalMean {
    shape: TVec<usize>,
}

impl GlobalMean {
    /// Returns the mean over images of such an input.
    pub(super) fn of(input: &TypedFact) -> Option<Self> {
        let shape = input.shape.as_concrete().filter(|shape| shape.len() > 2 && !shape.contains(&0))?;
        (input.datum_type == DatumType::F32).then(|| Self { shape: shape.into() })
    }

    fn output(&self) -> TVec<usize> {
        self.shape.iter().enumerate().map(|(axis, length)| if axis < 2 { *length } else { 1 }).collect()
    }
}

impl Kernel for GlobalMean {
    fn name(&self) -> &'static str {
        "GlobalAveragePool"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let is_planned = |input: &&&TypedFact| {
            input.datum_type == DatumType::F32 && input.shape.as_concrete() == Some(&self.shape[..])
        };
        ensure!(
            inputs.first().is_some_and(|input| is_planned(&input)),
            "it is not of shape {:?}",
            self.shape
        );
        let output: TVec<TDim> = self.output().iter().map(|length| length.to_dim()).collect();
        Ok(tvec!(fact(f32::datum_type(), &output)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut output = Tensor::zero::<f32>(&self.output())?;
        vectors::on_widest(Means {
            image: self.shape[2..].iter().product(),
            from: inputs[0].try_as_plain_ram()?.as_slice()?,
            into: output.try_as_plain_ram_mut()?.as_slice_mut()?,
        });
        Ok(tvec!(output.into_tvalue()))
    }
}

struct Means<'a> {
    image: usize,
    from: &'a [f32],
    into: &'a mut [f32],
}

impl Loops for Means<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let factor = 1.0 / self.image as f32;
        for (image, into) in self.from.chunks_exact(self.image).zip(self.into) {
            let (many, rest) = image.as_chunks::<16>();
            let mut sums = [0.0; 16];
            for values in many {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += value;
                }
            }
            let mut sum = rest.iter().sum::<f32>();
            for half in 0..8 {
                sums[half] += sums[half + 8];
            }
            for quarter in 0..4 {
                sums[quarter] += sums[quarter + 4];
            }
            sum += (sums[0] + sums[2]) + (sums[1] + sums[3]);
            *into = sum * factor;
        }
    }
}
