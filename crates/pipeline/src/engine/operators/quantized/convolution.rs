//! `QLinearConv` and `ConvInteger`.
//!
//! *Source*: ai.onnx 10. Weights and their zero points (one, or one a channel) are constants. Padding stands for 0,
//! which is the zero point.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::PaddingSpec;
use tract_onnx::tract_hir::ops::cnn::Conv;

use super::super::attributes::require_only;
use super::super::kernel::{fact, typed};
use super::assembly::{Assembly, Built, Inputs, assembled, constant};
use super::convolve::{Convolve, Weights};
use super::dynamic::{BY_WINDOW, is_one_range, span};
use super::ending::{Left, Span, centred_weights};
use super::finish::{Channels, To, wire_integers, wire_requantised, wire_scaled};
use super::numbers::{Grid, integers, magnitude_max, octet_range, scale, scales};
use super::planes::{Lengths, Planes};
use super::products::{Factor, single_zero, wire_convolution, zeros};

#[derive(Debug)]
struct Convolution {
    inputs: Inputs,
    convolution: Conv,
    /// Of the attribute; the weights must have it.
    kernel: Option<Vec<usize>>,
    form: Form,
}

/// Set by [`super::ranged`] on a ConvInteger whose input is one of floats, quantised by its range; behind its weights come
/// their scale and zero point, and a bias of floats.
pub(super) const RANGED: &str = "dunlin_ranged";

pub(super) fn integer(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    if node.get_attr_opt::<i64>(RANGED)?.unwrap_or(0) != 0 {
        return build(node, Inputs::of(node, 3, 5)?, Form::Ranged(span(node)?));
    }
    build(node, Inputs::of(node, 2, 4)?, Form::Integer)
}

pub(super) fn linear(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    build(node, Inputs::of(node, 8, 9)?, Form::Linear)
}

/// What a convolution makes of its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Integer,
    Linear,
    /// Of floats.
    Ranged(Span),
}

fn build(node: &NodeProto, inputs: Inputs, form: Form) -> Built {
    require_only(
        node,
        &[BY_WINDOW, RANGED, "auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"],
    )?;
    let window = super::pooling::Window::read(node)?;
    let group: i64 = node.get_attr_opt("group")?.unwrap_or(1);
    let group = usize::try_from(group).ok().filter(|&group| group > 0).context("`group` is not positive")?;
    let convolution = Conv {
        padding: window.padding.clone(),
        strides: window.strides.clone(),
        dilations: window.dilations.clone(),
        group: Some(group),
        ..Conv::default()
    };
    assembled(Convolution { inputs, convolution, kernel: window.kernel, form })
}

impl Convolution {
    fn weights_at(&self) -> usize {
        if self.form == Form::Linear { 3 } else { 1 }
    }
}

impl Assembly for Convolution {
    fn name(&self) -> &'static str {
        if self.form == Form::Linear { "QLinearConv" } else { "ConvInteger" }
    }

    fn output_fact(&self, inputs: &[&TypedFact]) -> TractResult<TypedFact> {
        let input = self.inputs.need(inputs, 0)?;
        let weights = self.inputs.need(inputs, self.weights_at())?;
        match self.form {
            Form::Ranged(_) => {
                ensure!(input.datum_type == DatumType::F32, "it takes f32, not {:?}", input.datum_type);
            }
            _ => {
                octet_range(input.datum_type)?;
            }
        }
        octet_range(weights.datum_type)?;
        let rank = input.rank();
        ensure!(
            rank > 2 && weights.rank() == rank,
            "weights have {} axes and the input {rank}",
            weights.rank()
        );
        let kernel: TVec<usize> = weights.shape.iter().map(|dim| dim.to_usize()).collect::<Result<_, _>>()?;
        ensure!(kernel.iter().all(|&length| length > 0), "an axis of the weights is empty");
        if let Some(given) = &self.kernel {
            ensure!(
                given[..] == kernel[2..],
                "`kernel_shape` is {given:?} and weights have {:?}",
                &kernel[2..]
            );
        }
        let group = self.convolution.group.unwrap_or(1);
        ensure!(kernel[0].is_multiple_of(group), "{} channels in {group} groups", kernel[0]);
        ensure!(
            input.shape[1] == (kernel[1] * group).to_dim(),
            "the input has {} channels and weights are for {}",
            input.shape[1],
            kernel[1] * group
        );
        let counts = [
            self.convolution.strides.as_ref().map(TVec::len),
            self.convolution.dilations.as_ref().map(TVec::len),
            if let PaddingSpec::Explicit(before, _) = &self.convolution.padding {
                Some(before.len())
            } else {
                None
            },
        ];
        ensure!(counts.into_iter().flatten().all(|count| count == rank - 2), "attributes of another rank");
        let dilation = |axis: usize| self.convolution.dilations.as_ref().map_or(1, |all| all[axis]);
        for axis in 0..rank - 2 {
            let padded = match &self.convolution.padding {
                PaddingSpec::Explicit(before, after) => before[axis] + after[axis],
                PaddingSpec::Valid => 0,
                _ => continue,
            };
            let reach =
                (kernel[axis + 2] - 1).checked_mul(dilation(axis)).context("a dilation is too large")? + 1;
            ensure!(
                input.shape[axis + 2].to_usize()? + padded >= reach,
                "the kernel is larger than the padded input"
            );
        }
        let shape = self.convolution.output_shape(&input.shape.to_tvec(), &kernel)?;
        let output = match self.form {
            Form::Linear => self.inputs.need(inputs, 7)?.datum_type,
            Form::Integer => i32::datum_type(),
            Form::Ranged(_) => f32::datum_type(),
        };
        Ok(fact(output, &shape))
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<OutletId> {
        if let Form::Ranged(span) = self.form {
            return self.wire_ranged(prefix, model, inputs, span);
        }
        let at = if self.form == Form::Linear { [0, 2, 3, 5] } else { [0, 2, 1, 3] };
        let factor = |values, zero| -> TractResult<Factor> {
            Ok(Factor { values: self.inputs.need(inputs, values)?, zero: self.inputs.get(inputs, zero) })
        };
        let (input, weights) = (factor(at[0], at[1])?, factor(at[2], at[3])?);
        let (channels, to) = self.result(model, inputs)?;
        let zero = single_zero(model, input)?;
        let left = zero.map_or(Left::Given, Left::Known);
        let left_max = magnitude_max(model.outlet_fact(input.values)?.datum_type, zero)?;
        let direct =
            direct(model, (input.values, weights), &self.convolution, (left, left_max), (&channels, &to))?;
        if let Some(direct) = direct {
            let mut given = tvec!(input.values);
            given.extend(input.zero.filter(|_| left == Left::Given));
            return Ok(model.wire_node(format!("{prefix}.direct"), typed(direct), &given)?[0]);
        }
        let sums = wire_convolution(prefix, model, input, weights, &self.convolution)?;
        match to {
            To::Quantised(output, zero) => wire_requantised(prefix, model, &sums, channels, (output, zero)),
            _ => wire_integers(prefix, model, &sums),
        }
    }
}

impl Convolution {
    /// Adds a convolution of floats.
    fn wire_ranged(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
        span: Span,
    ) -> TractResult<OutletId> {
        let input = self.inputs.need(inputs, 0)?;
        let weights = Factor { values: self.inputs.need(inputs, 1)?, zero: self.inputs.get(inputs, 3) };
        let scales = scales(&*constant(model, self.inputs.need(inputs, 2)?)?)?;
        let bias = self.inputs.get(inputs, 4).map(|bias| constant(model, bias)).transpose()?;
        let bias = bias.map_or(Ok(Vec::new()), |bias| super::numbers::scales(&bias))?;
        let channels = Channels { axis: 1, scales, bias: Vec::new() };
        let to = To::Floats(bias);
        let left = (Left::Ranged(span), i64::from(u8::MAX));
        if let Some(direct) = direct(model, (input, weights), &self.convolution, left, (&channels, &to))? {
            return Ok(model.wire_node(format!("{prefix}.direct"), typed(direct), &[input])?[0]);
        }
        ensure!(is_one_range(model, input, span)?, "its padding is too large for several windows");
        let To::Floats(bias) = to else { bail!("its output is of floats") };
        let quantised = super::dynamic::wire(&format!("{prefix}.quantised"), model, input)?;
        let values = Factor { values: quantised[0], zero: Some(quantised[2]) };
        let sums = wire_convolution(prefix, model, values, weights, &self.convolution)?;
        wire_scaled(prefix, model, &sums, channels, (quantised[1], bias))
    }

    /// Returns what the sums become.
    fn result(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<(Channels, To)> {
        if self.form == Form::Integer {
            return Ok((Channels { axis: 1, scales: vec![1.0], bias: Vec::new() }, To::Integers));
        }
        let read = |position| constant(model, self.inputs.need(inputs, position)?);
        let input_scale = scale(&*read(1)?)?;
        let (y_scale, y_zero) = (read(6)?, read(7)?);
        let grid = Grid::read(&y_scale, Some(&y_zero))?;
        let scales = scales(&*read(4)?)?.iter().map(|weight| input_scale * weight / grid.scale).collect();
        let bias = self.inputs.get(inputs, 8).map(|bias| constant(model, bias)).transpose()?;
        let bias = bias.map_or(Ok(Vec::new()), |bias| {
            ensure!(bias.datum_type() == DatumType::I32, "a bias of type {:?}, not i32", bias.datum_type());
            integers(&bias)
        })?;
        Ok((Channels { axis: 1, scales, bias }, To::Quantised(y_zero.datum_type(), grid.zero)))
    }
}

/// Returns the kernel of a convolution; nothing where its images would take much more room spread out than as they are,
/// or where it has no output.
fn direct(
    model: &TypedModel,
    (input, weights): (OutletId, Factor),
    convolution: &Conv,
    left: (Left, i64),
    (channels, to): (&Channels, &To),
) -> TractResult<Option<Convolve>> {
    let kernel = constant(model, weights.values)?;
    let centred = centred_weights(&kernel, &zeros(model, weights.zero)?, 0)?;
    let fact = model.outlet_fact(input)?;
    let Some(shape) = fact.shape.as_concrete() else { return Ok(None) };
    let spatial = shape.len() - 2;
    let ones: TVec<usize> = (0..spatial).map(|_| 1).collect();
    let strides = convolution.strides.as_ref().unwrap_or(&ones);
    let dilations = convolution.dilations.as_ref().unwrap_or(&ones);
    let outputs = kernel.shape()[0];
    let padded = convolution.padding.compute(&shape[2..], &kernel.shape()[2..], dilations, strides);
    let before: TVec<usize> = padded.iter().map(|axis| axis.pad_before).collect();
    let after: TVec<usize> = padded.iter().map(|axis| axis.convoluted).collect();
    let lengths = Lengths {
        input: &shape[2..],
        output: &after,
        kernel: &kernel.shape()[2..],
        strides,
        dilations,
        before: &before,
    };
    let Some(planes) = Planes::new(&lengths, (shape[0], shape[1], outputs)) else { return Ok(None) };
    let mut output: TVec<usize> = tvec!(shape[0], outputs);
    output.extend(after);
    let kernel = Weights { values: &centred, groups: convolution.group.unwrap_or(1), outputs };
    let ends = (channels.scales.as_slice(), channels.bias.as_slice());
    Convolve::prepare(left, planes, &kernel, ends, (to.clone(), [shape.into(), output])).map(Some)
}
