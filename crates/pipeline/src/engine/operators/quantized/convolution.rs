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
use super::super::kernel::fact;
use super::assembly::{Assembly, Built, Inputs, assembled, constant};
use super::finish::{Channels, wire_integers, wire_requantised};
use super::numbers::{Grid, integers, octet_range, scale, scales};
use super::products::{Factor, wire_convolution};

#[derive(Debug)]
struct Convolution {
    inputs: Inputs,
    convolution: Conv,
    /// Of the attribute; the weights must have it.
    kernel: Option<Vec<usize>>,
    form: Form,
}

pub(super) fn integer(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
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
}

fn build(node: &NodeProto, inputs: Inputs, form: Form) -> Built {
    require_only(node, &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])?;
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
        octet_range(input.datum_type)?;
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
        let output = if self.form == Form::Linear {
            self.inputs.need(inputs, 7)?.datum_type
        } else {
            i32::datum_type()
        };
        Ok(fact(output, &shape))
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<OutletId> {
        let at = if self.form == Form::Linear { [0, 2, 3, 5] } else { [0, 2, 1, 3] };
        let factor = |values, zero| -> TractResult<Factor> {
            Ok(Factor { values: self.inputs.need(inputs, values)?, zero: self.inputs.get(inputs, zero) })
        };
        let (input, weights) = (factor(at[0], at[1])?, factor(at[2], at[3])?);
        let sums = wire_convolution(prefix, model, input, weights, &self.convolution)?;
        if self.form == Form::Integer {
            return wire_integers(prefix, model, &sums);
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
        let channels = Channels { axis: 1, scales, bias };
        wire_requantised(prefix, model, &sums, channels, (y_zero.datum_type(), grid.zero))
    }
}
