//! `QuantizeLinear` and `DequantizeLinear`: for a whole tensor, by the places of an axis, or by blocks along it.
//!
//! *Source*: ai.onnx 10, 13, 19, 21, 23; types u8, i8, u16, i16 and, dequantised, i32. Division by the scale, rounding
//! to the nearest (ties to even) before the zero point is added.

use std::ops::Range;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::assembly::{Built, Inputs};
use super::numbers::{Quantum, blank, integers, rounded, scales};
use crate::engine::vectors::{Arithmetic, Loops, on_widest};

#[derive(Debug)]
struct Linear {
    inputs: Inputs,
    axis: i64,
    block: usize,
    /// The type that an attribute asks for.
    output: Option<DatumType>,
}

#[derive(Debug)]
struct Quantize(Linear);

#[derive(Debug)]
struct Dequantize(Linear);

fn read(node: &NodeProto) -> TractResult<Linear> {
    require_only(node, &["axis", "block_size", "output_dtype", "precision", "saturate"])?;
    let block = node.get_attr_opt::<i64>("block_size")?.unwrap_or(0);
    let types: i64 = node.get_attr_opt("output_dtype")?.unwrap_or(0);
    let precision: i64 = node.get_attr_opt("precision")?.unwrap_or(0);
    ensure!(precision == 0 || precision == 1, "`precision` {precision} is not float");
    Ok(Linear {
        inputs: Inputs::of(node, 2, 3)?,
        axis: node.get_attr_opt("axis")?.unwrap_or(1),
        block: usize::try_from(block).context("`block_size` is negative")?,
        output: if types == 0 { None } else { node.get_attr_opt::<DatumType>("output_dtype")? },
    })
}

pub(super) fn quantize(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    built(Quantize(read(node)?))
}

pub(super) fn dequantize(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    built(Dequantize(read(node)?))
}

impl Linear {
    /// Returns the zero points' type after the shapes were checked.
    fn zero_type(&self, inputs: &[&TypedFact]) -> TractResult<Option<DatumType>> {
        let scale = self.inputs.need(inputs, 1)?;
        ensure!(scale.datum_type == DatumType::F32, "scales are of type {:?}, not f32", scale.datum_type);
        let zero = self.inputs.get(inputs, 2);
        if let Some(zero) = zero {
            let same = zero.shape == scale.shape || (is_single(&zero.shape) && is_single(&scale.shape));
            ensure!(same, "zero points have shape {:?} and scales {:?}", zero.shape, scale.shape);
        }
        Ok(zero.map(|zero| zero.datum_type))
    }

    /// Returns the numbers of scale and zero point with the runs of values that they hold for.
    fn runs(&self, shape: &[usize], scale: &[usize]) -> TractResult<Runs> {
        if scale.iter().product::<usize>() == 1 && self.block == 0 {
            return Ok(Runs {
                outer: 1,
                places: 1,
                inner: shape.iter().product(),
                block: 1,
                by_inner: false,
            });
        }
        let rank = shape.len() as i64;
        let axis = if self.axis < 0 { self.axis + rank } else { self.axis };
        ensure!((0..rank).contains(&axis), "`axis` {} is none of {rank} axes", self.axis);
        let axis = axis as usize;
        let (places, inner) = (shape[axis], shape[axis + 1..].iter().product());
        let outer = shape[..axis].iter().product();
        if self.block == 0 {
            ensure!(scale == [places], "scales have shape {scale:?} for {places} places of axis {axis}");
            return Ok(Runs { outer, places, inner, block: 1, by_inner: false });
        }
        let mut expected = shape.to_vec();
        expected[axis] = places.div_ceil(self.block);
        ensure!(scale == expected, "scales have shape {scale:?} where blocks ask for {expected:?}");
        Ok(Runs { outer, places, inner, block: self.block, by_inner: true })
    }
}

fn is_single(shape: &ShapeFact) -> bool {
    shape.iter().all(|dim| dim.is_one())
}

/// How values share numbers: `outer` times `places` times `inner` values.
struct Runs {
    outer: usize,
    places: usize,
    inner: usize,
    /// Places that share a number.
    block: usize,
    /// Whether each value of `outer` and `inner` has numbers of its own.
    by_inner: bool,
}

impl Runs {
    /// Calls for every run of values with the position of its numbers.
    fn each(&self, mut run: impl FnMut(Range<usize>, usize)) {
        let blocks = self.places.div_ceil(self.block.max(1));
        for outer in 0..self.outer {
            for place in 0..self.places {
                let start = (outer * self.places + place) * self.inner;
                if self.by_inner {
                    let first = (outer * blocks + place / self.block) * self.inner;
                    (0..self.inner).for_each(|i| run(start + i..start + i + 1, first + i));
                } else {
                    run(start..start + self.inner, place);
                }
            }
        }
    }
}

impl Kernel for Quantize {
    fn name(&self) -> &'static str {
        "QuantizeLinear"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = self.0.inputs.need(inputs, 0)?;
        let values = input.datum_type;
        ensure!(values == DatumType::F32 || values == DatumType::I32, "it takes f32 or i32, not {values:?}");
        let zero = self.0.zero_type(inputs)?;
        if let (Some(zero), Some(asked)) = (zero, self.0.output) {
            ensure!(zero == asked, "`output_dtype` is {asked:?} and zero points are {zero:?}");
        }
        let output = zero.or(self.0.output).unwrap_or(DatumType::U8);
        let known = [DatumType::U8, DatumType::I8, DatumType::U16, DatumType::I16];
        ensure!(known.contains(&output), "it does not quantise to {output:?}");
        Ok(tvec!(fact(output, &input.shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let tensors: TVec<&Tensor> = inputs.iter().map(|input| &**input).collect();
        let (input, scale) = (self.0.inputs.need(&tensors, 0)?, self.0.inputs.need(&tensors, 1)?);
        let zero = self.0.inputs.get(&tensors, 2);
        let runs = self.0.runs(input.shape(), scale.shape())?;
        let output = zero.map(|zero| zero.datum_type()).or(self.0.output).unwrap_or(DatumType::U8);
        let quantised = match output {
            DatumType::U8 => quantized::<u8>(input, &runs, scale, zero),
            DatumType::I8 => quantized::<i8>(input, &runs, scale, zero),
            DatumType::U16 => quantized::<u16>(input, &runs, scale, zero),
            _ => quantized::<i16>(input, &runs, scale, zero),
        };
        Ok(tvec!(quantised?.into_tvalue()))
    }
}

fn quantized<Q: Quantum>(
    input: &Tensor,
    runs: &Runs,
    scale: &Tensor,
    zero: Option<&Tensor>,
) -> TractResult<Tensor> {
    let scales = scales(scale)?;
    let zeros = zero.map_or_else(|| Ok(vec![0; scales.len()]), integers)?;
    let values = input.cast_to::<f32>()?;
    let values = values.try_as_plain_ram()?.as_slice::<f32>()?;
    let mut output = blank::<Q>(input.shape())?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    runs.each(|run, number| {
        let (scale, zero) = (scales[number], zeros[number]);
        on_widest(QuantizeRun { from: &values[run.clone()], scale, zero, into: &mut into[run] });
    });
    Ok(output)
}

impl Kernel for Dequantize {
    fn name(&self) -> &'static str {
        "DequantizeLinear"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = self.0.inputs.need(inputs, 0)?;
        let known = [DatumType::U8, DatumType::I8, DatumType::U16, DatumType::I16, DatumType::I32];
        ensure!(known.contains(&input.datum_type), "it does not dequantise {:?}", input.datum_type);
        if let Some(zero) = self.0.zero_type(inputs)? {
            ensure!(zero == input.datum_type, "zero points are {zero:?} and values {:?}", input.datum_type);
        }
        ensure!(self.0.output.is_none_or(|output| output == DatumType::F32), "its output is f32");
        Ok(tvec!(fact(f32::datum_type(), &input.shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let tensors: TVec<&Tensor> = inputs.iter().map(|input| &**input).collect();
        let (input, scale) = (self.0.inputs.need(&tensors, 0)?, self.0.inputs.need(&tensors, 1)?);
        let zero = self.0.inputs.get(&tensors, 2);
        let runs = self.0.runs(input.shape(), scale.shape())?;
        let values = match input.datum_type() {
            DatumType::U8 => dequantized::<u8>(input, &runs, scale, zero),
            DatumType::I8 => dequantized::<i8>(input, &runs, scale, zero),
            DatumType::U16 => dequantized::<u16>(input, &runs, scale, zero),
            DatumType::I16 => dequantized::<i16>(input, &runs, scale, zero),
            _ => dequantized_words(input, &runs, scale, zero),
        };
        Ok(tvec!(values?.into_tvalue()))
    }
}

fn dequantized<Q: Quantum>(
    input: &Tensor,
    runs: &Runs,
    scale: &Tensor,
    zero: Option<&Tensor>,
) -> TractResult<Tensor> {
    let scales = scales(scale)?;
    let zeros = zero.map_or_else(|| Ok(vec![0; scales.len()]), integers)?;
    let values = input.try_as_plain_ram()?.as_slice::<Q>()?;
    let mut output = blank::<f32>(input.shape())?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<f32>()?;
    runs.each(|run, number| {
        let (scale, zero) = (scales[number], zeros[number]);
        on_widest(DequantizeRun { from: &values[run.clone()], scale, zero, into: &mut into[run] });
    });
    Ok(output)
}

/// Values that share a scale and a zero point.
struct QuantizeRun<'a, Q> {
    from: &'a [f32],
    scale: f32,
    zero: i32,
    into: &'a mut [Q],
}

impl<Q: Quantum> Loops for QuantizeRun<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let count = self.from.len().min(self.into.len());
        let (from, into) = (&self.from[..count], &mut self.into[..count]);
        for i in 0..count {
            into[i] = rounded(from[i] / self.scale, self.zero);
        }
    }
}

/// Numbers that share a scale and a zero point.
struct DequantizeRun<'a, Q> {
    from: &'a [Q],
    scale: f32,
    zero: i32,
    into: &'a mut [f32],
}

impl<Q: Quantum> Loops for DequantizeRun<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let count = self.from.len().min(self.into.len());
        let (from, into) = (&self.from[..count], &mut self.into[..count]);
        for i in 0..count {
            into[i] = (from[i].integer() - self.zero) as f32 * self.scale;
        }
    }
}

/// Of 32-bit integers, which are biases.
fn dequantized_words(
    input: &Tensor,
    runs: &Runs,
    scale: &Tensor,
    zero: Option<&Tensor>,
) -> TractResult<Tensor> {
    let scales = scales(scale)?;
    let zeros = zero.map_or_else(|| Ok(vec![0; scales.len()]), integers)?;
    let values = input.try_as_plain_ram()?.as_slice::<i32>()?;
    let mut output = blank::<f32>(input.shape())?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<f32>()?;
    runs.each(|run, number| {
        for (into, value) in into[run.clone()].iter_mut().zip(&values[run]) {
            *into = value.wrapping_sub(zeros[number]) as f32 * scales[number];
        }
    });
    Ok(output)
}
