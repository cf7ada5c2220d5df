//! What follows an exact sum of products: bias, scale, and rounding to quantised numbers where the operator asks.
//!
//! Adds bias and parts as integers (wrapping, as 32-bit accumulators do), multiplies the sum as `f32` by one scale or
//! one a channel, rounds to the nearest, ties to even. Never computes a product of integers.

use std::borrow::Cow;

use tract_onnx::tract_core::internal::*;

use super::super::kernel::{Kernel, fact, typed};
use super::numbers::{Quantum, blank, by_octet, rounded, scale};
use super::products::{EXACT_MAX, Sums};

/// Scales and biases of a product's channels.
#[derive(Debug, Clone, Default)]
pub(super) struct Channels {
    /// The axis of channels in the output.
    pub(super) axis: usize,
    /// One scale, or one a channel.
    pub(super) scales: Vec<f32>,
    /// No bias, one, or one a channel.
    pub(super) bias: Vec<i32>,
}

impl Channels {
    /// Checks the counts against the shape of the output.
    fn check(&self, shape: &ShapeFact) -> TractResult<()> {
        let channels = shape.get(self.axis).cloned().unwrap_or_else(|| 1.into());
        for count in [self.scales.len(), self.bias.len()] {
            ensure!(
                count <= 1 || channels == count.to_dim(),
                "{count} scales or biases for {channels} channels"
            );
        }
        Ok(())
    }
}

/// Adds the node that makes quantised numbers of sums.
pub(super) fn wire_requantised(
    prefix: &str,
    model: &mut TypedModel,
    sums: &Sums,
    channels: Channels,
    (output, zero): (DatumType, i32),
) -> TractResult<OutletId> {
    channels.check(&model.outlet_fact(sums.parts[0])?.shape)?;
    let finish = Finish::of(sums, channels, To::Quantised(output, zero));
    Ok(model.wire_node(prefix, typed(finish), &sums.parts)?[0])
}

/// Adds the node that makes 32-bit integers of sums.
pub(super) fn wire_integers(prefix: &str, model: &mut TypedModel, sums: &Sums) -> TractResult<OutletId> {
    let finish = Finish::of(sums, Channels::default(), To::Integers);
    Ok(model.wire_node(prefix, typed(finish), &sums.parts)?[0])
}

/// Adds the node that makes numbers of sums: the sum times the channel's scale times the scale of `factor`, and a bias.
pub(super) fn wire_scaled(
    prefix: &str,
    model: &mut TypedModel,
    sums: &Sums,
    channels: Channels,
    (factor, bias): (OutletId, Vec<f32>),
) -> TractResult<OutletId> {
    let shape = model.outlet_fact(sums.parts[0])?.shape.clone();
    channels.check(&shape)?;
    let places = shape.get(channels.axis).cloned().unwrap_or_else(|| 1.into());
    ensure!(bias.len() <= 1 || places == bias.len().to_dim(), "{} biases for {places} channels", bias.len());
    let finish = Finish::of(sums, channels, To::Floats(bias));
    let mut inputs = sums.parts.clone();
    inputs.push(factor);
    Ok(model.wire_node(prefix, typed(finish), &inputs)?[0])
}

/// What sums become.
#[derive(Debug, Clone)]
pub(super) enum To {
    /// Numbers of this type around this zero point.
    Quantised(DatumType, i32),
    /// 32-bit integers.
    Integers,
    /// With a bias of floats: none, one, or one a column.
    Floats(Vec<f32>),
}

#[derive(Debug)]
struct Finish {
    channels: Channels,
    parts: usize,
    /// Whether sum and bias are whole numbers that `f32` holds.
    is_exact: bool,
    to: To,
}

impl Finish {
    fn of(sums: &Sums, channels: Channels, to: To) -> Self {
        let bias_max = channels.bias.iter().map(|&bias| i64::from(bias).abs()).max().unwrap_or(0);
        let is_exact = sums.magnitude_max.is_some_and(|sum| sum + bias_max < EXACT_MAX);
        Self { channels, parts: sums.parts.len(), is_exact, to }
    }

    /// Returns the sums as `f32`, and the bias that is yet to be added.
    fn sums<'i>(&self, inputs: &'i [TValue], layout: Layout) -> TractResult<(Cow<'i, [f32]>, &[i32])> {
        if self.is_exact {
            let sums = inputs[0].try_as_plain_ram()?.as_slice::<f32>()?;
            return Ok((Cow::Borrowed(sums), &self.channels.bias));
        }
        let sums = self.integer_sums(inputs, layout)?;
        Ok((Cow::Owned(sums.into_iter().map(|sum| sum as f32).collect()), &[]))
    }

    /// Returns the sums of all parts and the bias.
    fn integer_sums(&self, inputs: &[TValue], layout: Layout) -> TractResult<Vec<i32>> {
        let first = inputs[0].try_as_plain_ram()?.as_slice::<f32>()?;
        let mut sums: Vec<i32> = first.iter().map(|&sum| sum as i32).collect();
        for part in &inputs[1..self.parts] {
            for (sum, part) in sums.iter_mut().zip(part.try_as_plain_ram()?.as_slice::<f32>()?) {
                *sum = sum.wrapping_add(*part as i32);
            }
        }
        if let bias @ [_, ..] = self.channels.bias.as_slice() {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = sum.wrapping_add(bias[layout.channel(i) % bias.len()]);
            }
        }
        Ok(sums)
    }
}

/// Channels and the values that follow each.
#[derive(Debug, Clone, Copy)]
struct Layout {
    channels: usize,
    inner: usize,
}

impl Layout {
    fn of(shape: &[usize], axis: usize) -> Self {
        let inner = shape.get(axis + 1..).map_or(1, |shape| shape.iter().product());
        Self { channels: shape.get(axis).copied().unwrap_or(1).max(1), inner: usize::max(inner, 1) }
    }

    fn channel(self, position: usize) -> usize {
        position / self.inner % self.channels
    }

    /// Calls `one` on every value with its sum, scale and bias.
    #[inline(always)]
    fn each<T: Copy>(
        self,
        sums: &[f32],
        scales: &[f32],
        bias: &[f32],
        into: &mut [T],
        one: impl Fn(f32, f32, f32) -> T,
    ) {
        if self.inner > 1 || (scales.len() == 1 && bias.len() == 1) {
            let run = if scales.len() == 1 && bias.len() == 1 { sums.len().max(1) } else { self.inner };
            for (channel, (into, sums)) in into.chunks_mut(run).zip(sums.chunks(run)).enumerate() {
                let channel = channel % self.channels;
                let (scale, bias) = (scales[channel % scales.len()], bias[channel % bias.len()]);
                for (into, sum) in into.iter_mut().zip(sums) {
                    *into = one(*sum, scale, bias);
                }
            }
            return;
        }
        let spread = |few: &[f32]| -> Vec<f32> { (0..self.channels).map(|i| few[i % few.len()]).collect() };
        let (scales, bias) = (spread(scales), spread(bias));
        for (into, sums) in into.chunks_mut(self.channels).zip(sums.chunks(self.channels)) {
            for (((into, sum), scale), bias) in into.iter_mut().zip(sums).zip(&scales).zip(&bias) {
                *into = one(*sum, *scale, *bias);
            }
        }
    }
}

impl To {
    /// Returns the type of the output.
    pub(super) fn datum_type(&self) -> DatumType {
        match self {
            Self::Quantised(datum_type, _) => *datum_type,
            Self::Integers => i32::datum_type(),
            Self::Floats(_) => f32::datum_type(),
        }
    }
}

impl Kernel for Finish {
    fn name(&self) -> &'static str {
        "QuantisedSum"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(fact(self.to.datum_type(), &inputs[0].shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shape = inputs[0].shape().to_vec();
        let layout = Layout::of(&shape, self.channels.axis);
        let (sums, bias) = self.sums(&inputs, layout)?;
        let sums = &*sums;
        let bias: Vec<f32> =
            if bias.is_empty() { vec![0.0] } else { bias.iter().map(|&b| b as f32).collect() };
        let output = match &self.to {
            To::Integers => Tensor::from_shape(&shape, &self.integer_sums(&inputs, layout)?)?,
            To::Quantised(datum_type, zero) => by_octet!(
                *datum_type,
                requantised(&shape, layout, sums, &self.channels.scales, &bias, *zero)
            )?,
            To::Floats(floats) => {
                let factor = scale(&inputs[self.parts])?;
                let scales: Vec<f32> = self.channels.scales.iter().map(|scale| factor * scale).collect();
                let floats = if floats.is_empty() { &[0.0] } else { floats.as_slice() };
                let mut output = blank::<f32>(&shape)?;
                let mut view = output.try_as_plain_ram_mut()?;
                let into = view.as_slice_mut::<f32>()?;
                if self.channels.bias.is_empty() {
                    layout.each(sums, &scales, floats, into, |sum, scale, bias| sum * scale + bias);
                } else {
                    layout.each(sums, &scales, &bias, into, |sum, scale, bias| (sum + bias) * scale);
                }
                output
            }
        };
        Ok(tvec!(output.into_tvalue()))
    }
}

fn requantised<Q: Quantum>(
    shape: &[usize],
    layout: Layout,
    sums: &[f32],
    scales: &[f32],
    bias: &[f32],
    zero: i32,
) -> TractResult<Tensor> {
    let mut output = blank::<Q>(shape)?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    layout.each(sums, scales, bias, into, |sum, scale, bias| rounded((sum + bias) * scale, zero));
    Ok(output)
}
