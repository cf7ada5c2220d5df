//! The two ends of an exact product: how quantised numbers become whole `f32`, and what becomes of the integer sum.
//!
//! Each is one expression, written so that a loop over it becomes one of vectors. Never sums anything: [`super::dense`]
//! and [`super::planes`] do.

use std::marker::PhantomData;

use tract_onnx::tract_core::internal::*;

use super::finish::To;
use super::numbers::{Grid, Quantum, integers, nearest, rounded, whole};
use super::products::EXACT_MAX;
use crate::engine::vectors::{Arithmetic, Loops, on_widest};

/// What values are before they are multiplied.
pub(super) trait Source: Copy {
    /// The type of a value.
    type Value: Datum + Copy;

    /// Returns a value as a whole number without its zero point.
    fn centred(self, value: Self::Value) -> f32;
}

/// Numbers that are quantised already.
#[derive(Clone, Copy)]
pub(super) struct Quanta<Q> {
    zero: i32,
    of: PhantomData<Q>,
}

impl<Q> Quanta<Q> {
    pub(super) fn new(zero: i32) -> Self {
        Self { zero, of: PhantomData }
    }
}

impl<Q: Quantum> Source for Quanta<Q> {
    type Value = Q;

    #[inline(always)]
    fn centred(self, value: Q) -> f32 {
        (value.integer() - self.zero) as f32
    }
}

/// Floats that are quantised on a grid of `u8` first.
#[derive(Clone, Copy)]
pub(super) struct Floats(pub(super) Grid);

impl Source for Floats {
    type Value = f32;

    #[inline(always)]
    fn centred(self, value: f32) -> f32 {
        let (low, high) = ((u8::LOW - self.0.zero) as f32, (u8::HIGH - self.0.zero) as f32);
        nearest(value / self.0.scale, low, high) as f32
    }
}

/// Writes values one after the other as centred numbers.
pub(super) fn centre<S: Source>(source: S, from: &[S::Value], into: &mut [f32]) {
    on_widest(Centre { source, from, into });
}

struct Centre<'a, S: Source> {
    source: S,
    from: &'a [S::Value],
    into: &'a mut [f32],
}

impl<S: Source> Loops for Centre<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let count = self.into.len().min(self.from.len());
        let (into, from) = (&mut self.into[..count], &self.from[..count]);
        for i in 0..count {
            into[i] = self.source.centred(from[i]);
        }
    }
}

/// What a sum becomes.
pub(super) trait Ending: Copy {
    /// The type of the result.
    type Value: Datum + Copy + Default;

    /// Returns what a sum with its bias becomes on a channel: a whole number, or the one next to it.
    fn of(self, total: f32, scale: f32, bias: f32) -> Self::Value;

    /// Returns what a sum with its bias becomes that `f32` may not hold.
    #[inline(always)]
    fn of_integer(self, total: i32, scale: f32, bias: f32) -> Self::Value {
        self.of(total as f32, scale, bias)
    }
}

/// The sum itself.
#[derive(Clone, Copy)]
pub(super) struct Whole;

impl Ending for Whole {
    type Value = i32;

    #[inline(always)]
    fn of(self, total: f32, _: f32, _: f32) -> i32 {
        whole(total)
    }

    #[inline(always)]
    fn of_integer(self, total: i32, _: f32, _: f32) -> i32 {
        total
    }
}

/// The sum in units of its channel, and a bias of floats.
#[derive(Clone, Copy)]
pub(super) struct Scaled;

impl Ending for Scaled {
    type Value = f32;

    #[inline(always)]
    fn of(self, total: f32, scale: f32, bias: f32) -> f32 {
        total * scale + bias
    }
}

/// The sum rounded to a quantised number.
#[derive(Clone, Copy)]
pub(super) struct Rounded<Q> {
    zero: i32,
    of: PhantomData<Q>,
}

impl<Q> Rounded<Q> {
    pub(super) fn new(zero: i32) -> Self {
        Self { zero, of: PhantomData }
    }
}

impl<Q: Quantum + Default> Ending for Rounded<Q> {
    type Value = Q;

    #[inline(always)]
    fn of(self, total: f32, scale: f32, _: f32) -> Q {
        rounded(total * scale, self.zero)
    }
}

/// Where the zero point and the unit of the values on the left are known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// They are quantised, and their zero point is a constant.
    Known(i32),
    /// They are quantised, and their zero point is the second input.
    Given,
    /// They are floats, quantised by the range of all of them, or of each window.
    Ranged(Span),
}

/// What a range spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// The whole tensor.
    Tensor,
    /// Each place of the first axis by itself.
    Window,
}

impl Left {
    /// Returns the number of parts of a tensor that have ranges of their own.
    pub(super) fn ranges(self, shape: &[usize]) -> usize {
        match self {
            Self::Ranged(Span::Window) => shape.first().copied().unwrap_or(1).max(1),
            _ => 1,
        }
    }

    /// Returns the zero point of a run.
    pub(super) fn zero(self, inputs: &[TValue]) -> TractResult<i32> {
        match self {
            Self::Known(zero) => Ok(zero),
            Self::Given => super::numbers::zero_point(&inputs[1]),
            Self::Ranged(_) => Ok(0),
        }
    }

    /// Returns the unit of a run, where the product is one of floats and its left factor has no range of its own.
    pub(super) fn factor(self, to: &To, inputs: &[TValue]) -> TractResult<f32> {
        match (self, to) {
            (Self::Ranged(_), _) | (_, To::Integers | To::Quantised(..)) => Ok(1.0),
            (_, To::Floats(_)) => super::numbers::scale(inputs.last().context("the unit is absent")?),
        }
    }
}

/// Scales and biases, one a channel.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) scales: Vec<f32>,
    pub(super) totals: Vec<i32>,
    pub(super) floats: Vec<f32>,
    /// The same as `totals`.
    pub(super) whole: Vec<f32>,
    /// Whether `f32` holds every sum with its bias.
    pub(super) is_exact: bool,
}

impl Ends {
    /// Returns those of `channels` channels, filled up with zeros to `room`; `sum_max` is the largest magnitude of a sum.
    pub(super) fn spread(
        (scales, bias): (&[f32], &[i32]),
        to: &To,
        (channels, room): (usize, usize),
        sum_max: i64,
    ) -> TractResult<Self> {
        let floats = if let To::Floats(floats) = to { floats.as_slice() } else { &[] };
        let bias_max = bias.iter().map(|&bias| i64::from(bias).abs()).max().unwrap_or(0);
        let totals: Vec<i32> = spread(bias, channels, room)?;
        Ok(Self {
            scales: spread(scales, channels, room)?,
            whole: totals.iter().map(|&total| total as f32).collect(),
            totals,
            floats: spread(floats, channels, room)?,
            is_exact: sum_max.saturating_add(bias_max) < EXACT_MAX,
        })
    }
}

fn spread<T: Copy + Default>(few: &[T], channels: usize, room: usize) -> TractResult<Vec<T>> {
    ensure!(few.len() <= 1 || few.len() == channels, "{} numbers for {channels} channels", few.len());
    let mut all = vec![T::default(); room];
    for (i, all) in all.iter_mut().take(channels).enumerate() {
        *all = few.get(if few.len() == 1 { 0 } else { i }).copied().unwrap_or_default();
    }
    Ok(all)
}

/// Returns constant weights without their zero points, which are one or one a place of `axis`.
///
/// *Errors*: not as many zero points as places.
pub(super) fn centred_weights(weights: &Tensor, zeros: &[i32], axis: usize) -> TractResult<Vec<f32>> {
    let places = weights.shape()[axis];
    ensure!(zeros.len() == 1 || zeros.len() == places, "{} zero points for {places} places", zeros.len());
    let inner: usize = weights.shape()[axis + 1..].iter().product();
    let zero = |i: usize| if zeros.len() == 1 { zeros[0] } else { zeros[i / inner % places] };
    Ok(integers(weights)?.iter().enumerate().map(|(i, value)| (value - zero(i)) as f32).collect())
}
