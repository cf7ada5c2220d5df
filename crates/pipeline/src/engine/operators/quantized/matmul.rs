//! Products of quantised matrices: `MatMulInteger`, `QLinearMatMul`, `QGemm`, `MatMulIntegerToFloat` and
//! `DynamicQuantizeMatMul`.
//!
//! *Source*: ai.onnx 10 (MatMulInteger), 10 and 21 (QLinearMatMul); com.microsoft 1. Zero points and scales by column
//! are taken for the right factor; by row, or beyond two axes, they are refused.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::ops::matmul::compute_shapes;

use super::super::attributes::require_only;
use super::super::kernel::{fact, typed};
use super::assembly::{Assembly, Built, Inputs, assembled, constant};
use super::dense::Dense;
use super::dynamic::{BY_WINDOW, is_one_range, span};
use super::ending::{Left, Span, centred_weights};
use super::finish::{Channels, To, wire_integers, wire_requantised, wire_scaled};
use super::numbers::{Grid, integers, magnitude_max, octet_range, scale, scales};
use super::products::{Factor, Turned, single_zero, wire_matmul, zeros};

/// Where a product finds its inputs, and what it makes of the sums.
#[derive(Debug)]
enum Form {
    Integer,
    Linear,
    Gemm { alpha: f32, turned: Turned },
    ToFloat,
}

#[derive(Debug)]
struct MatMul {
    name: &'static str,
    form: Form,
    inputs: Inputs,
}

pub(super) fn integer(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &[])?;
    let inputs = Inputs::of(node, 2, 4)?;
    assembled(MatMul { name: "MatMulInteger", form: Form::Integer, inputs })
}

pub(super) fn linear(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &[])?;
    let inputs = Inputs::of(node, 8, 8)?;
    assembled(MatMul { name: "QLinearMatMul", form: Form::Linear, inputs })
}

pub(super) fn integer_to_float(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &[])?;
    let inputs = Inputs::of(node, 4, 7)?;
    assembled(MatMul { name: "MatMulIntegerToFloat", form: Form::ToFloat, inputs })
}

pub(super) fn gemm(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &["alpha", "transA", "transB"])?;
    let turned = |name: &str| -> TractResult<bool> { Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0) };
    let form = Form::Gemm {
        alpha: node.get_attr_opt("alpha")?.unwrap_or(1.0),
        turned: Turned { left: turned("transA")?, right: turned("transB")? },
    };
    assembled(MatMul { name: "QGemm", form, inputs: Inputs::of(node, 6, 9)? })
}

impl MatMul {
    /// Positions of the left and right factors with their zero points.
    fn factors<T: Copy>(&self, inputs: &[T]) -> TractResult<[(T, Option<T>); 2]> {
        let [a, a_zero, b, b_zero] = match self.form {
            Form::Integer => [0, 2, 1, 3],
            Form::Linear | Form::Gemm { .. } => [0, 2, 3, 5],
            Form::ToFloat => [0, 4, 1, 5],
        };
        let factor = |values, zero| -> TractResult<(T, Option<T>)> {
            Ok((self.inputs.need(inputs, values)?, self.inputs.get(inputs, zero)))
        };
        Ok([factor(a, a_zero)?, factor(b, b_zero)?])
    }

    fn turned(&self) -> Turned {
        if let Form::Gemm { turned, .. } = self.form { turned } else { Turned::default() }
    }

    fn output_type(&self, inputs: &[&TypedFact]) -> TractResult<DatumType> {
        Ok(match self.form {
            Form::Integer => i32::datum_type(),
            Form::Linear => self.inputs.need(inputs, 7)?.datum_type,
            Form::ToFloat => f32::datum_type(),
            Form::Gemm { .. } => match (self.inputs.get(inputs, 7), self.inputs.get(inputs, 8)) {
                (Some(_), Some(zero)) => zero.datum_type,
                (None, None) => f32::datum_type(),
                _ => bail!("scale and zero point of its output come together"),
            },
        })
    }

    /// Returns the scale of the left factor with the scales of the right one.
    fn scales(
        &self,
        model: &TypedModel,
        inputs: &[OutletId],
        positions: [usize; 2],
    ) -> TractResult<(f32, Vec<f32>)> {
        let [a, b] = positions;
        let left = scale(&*constant(model, self.inputs.need(inputs, a)?)?)?;
        Ok((left, scales(&*constant(model, self.inputs.need(inputs, b)?)?)?))
    }

    fn output_grid(
        &self,
        model: &TypedModel,
        inputs: &[OutletId],
        at: usize,
    ) -> TractResult<(DatumType, Grid)> {
        let y_scale = constant(model, self.inputs.need(inputs, at)?)?;
        let y_zero = constant(model, self.inputs.need(inputs, at + 1)?)?;
        Ok((y_zero.datum_type(), Grid::read(&y_scale, Some(&y_zero))?))
    }

    /// Returns the end result of a product, and the unit of its floats.
    fn result(
        &self,
        model: &mut TypedModel,
        inputs: &[OutletId],
        axis: usize,
    ) -> TractResult<(Becomes, Option<OutletId>)> {
        let given = |scales, bias, to| Becomes { channels: Channels { axis, scales, bias }, to };
        match self.form {
            Form::Integer => Ok((given(vec![1.0], Vec::new(), To::Integers), None)),
            Form::Linear => {
                let (left, right) = self.scales(model, inputs, [1, 4])?;
                let (output, grid) = self.output_grid(model, inputs, 6)?;
                let scales = right.iter().map(|right| left * right / grid.scale).collect();
                Ok((given(scales, Vec::new(), To::Quantised(output, grid.zero)), None))
            }
            Form::Gemm { alpha, .. } => {
                let bias = self.gemm_bias(model, inputs)?;
                let (left, right) = self.scales(model, inputs, [1, 4])?;
                let mut scales: Vec<f32> = right.iter().map(|right| alpha * left * right).collect();
                if self.inputs.get(inputs, 7).is_none() {
                    let name = format!("{}.one", model.nodes().len());
                    let one = model.add_const(name, tensor0(1.0_f32))?;
                    return Ok((given(scales, bias, To::Floats(Vec::new())), Some(one)));
                }
                let (output, grid) = self.output_grid(model, inputs, 7)?;
                scales.iter_mut().for_each(|scale| *scale /= grid.scale);
                Ok((given(scales, bias, To::Quantised(output, grid.zero)), None))
            }
            Form::ToFloat => {
                let scales = scales(&*constant(model, self.inputs.need(inputs, 3)?)?)?;
                let bias = self.inputs.get(inputs, 6).map(|bias| constant(model, bias)).transpose()?;
                let bias = bias.map_or(Ok(Vec::new()), |bias| super::numbers::scales(&bias))?;
                Ok((given(scales, Vec::new(), To::Floats(bias)), Some(self.inputs.need(inputs, 2)?)))
            }
        }
    }

    fn gemm_bias(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Vec<i32>> {
        let Some(bias) = self.inputs.get(inputs, 6) else { return Ok(Vec::new()) };
        let bias = constant(model, bias)?;
        let is_row = bias.len() == 1 || bias.shape().last() == Some(&bias.len());
        ensure!(is_row, "a bias of shape {:?}: only one row is taken", bias.shape());
        ensure!(bias.datum_type() == DatumType::I32, "a bias of type {:?}, not i32", bias.datum_type());
        integers(&bias)
    }
}

/// What a product's sums become.
struct Becomes {
    channels: Channels,
    to: To,
}

impl Assembly for MatMul {
    fn name(&self) -> &'static str {
        self.name
    }

    fn output_fact(&self, inputs: &[&TypedFact]) -> TractResult<TypedFact> {
        let [(a, _), (b, _)] = self.factors(inputs)?;
        octet_range(a.datum_type)?;
        octet_range(b.datum_type)?;
        ensure!(a.rank() > 0 && b.rank() > 0, "a factor has no axes");
        let turned = self.turned();
        if matches!(self.form, Form::Gemm { .. }) {
            ensure!(a.rank() == 2 && b.rank() == 2, "it takes matrices");
        }
        let (.., shape) =
            compute_shapes(a.shape.to_tvec(), b.shape.to_tvec(), turned.left, turned.right, false)?;
        Ok(fact(self.output_type(inputs)?, &shape))
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<OutletId> {
        let [left, right] = self.factors(inputs)?.map(|(values, zero)| Factor { values, zero });
        if let Some(zero) = right.zero {
            let by_column = model.outlet_fact(zero)?.rank() < 2;
            ensure!(by_column, "zero points of the right factor are a number or a row");
        }
        let axis = model.outlet_fact(left.values)?.rank().max(model.outlet_fact(right.values)?.rank());
        let (result, factor) = self.result(model, inputs, axis.saturating_sub(1))?;
        let left_zero = single_zero(model, left)?;
        let from = left_zero.map_or(Left::Given, Left::Known);
        let left_max = magnitude_max(model.outlet_fact(left.values)?.datum_type, left_zero)?;
        if !self.turned().left
            && let Some(dense) =
                dense(model, (left.values, right), self.turned().right, (from, left_max), &result)?
        {
            let mut given = tvec!(left.values);
            given.extend(left.zero.filter(|_| from == Left::Given));
            given.extend(factor);
            return Ok(model.wire_node(format!("{prefix}.dense"), typed(dense), &given)?[0]);
        }
        let sums = wire_matmul(prefix, model, left, right, self.turned())?;
        let Becomes { channels, to } = result;
        match to {
            To::Integers => wire_integers(prefix, model, &sums),
            To::Quantised(output, zero) => wire_requantised(prefix, model, &sums, channels, (output, zero)),
            To::Floats(bias) => {
                let factor = factor.context("the unit of floats is absent")?;
                wire_scaled(prefix, model, &sums, channels, (factor, bias))
            }
        }
    }
}

/// Returns the kernel of a product with a constant matrix on the right; nothing where it is not one, or is empty.
fn dense(
    model: &TypedModel,
    (left, right): (OutletId, Factor),
    is_turned: bool,
    from: (Left, i64),
    result: &Becomes,
) -> TractResult<Option<Dense>> {
    let fact = model.outlet_fact(right.values)?;
    let Some(weights) = fact.konst.as_ref().filter(|weights| weights.rank() == 2 && weights.len() > 0) else {
        return Ok(None);
    };
    // A vector alone is left to the other way: its product is a vector as well.
    if model.outlet_fact(left)?.rank() < 2 {
        return Ok(None);
    }
    let zeros = zeros(model, right.zero)?;
    let columns_axis = usize::from(!is_turned);
    let centred = centred_weights(weights, &zeros, columns_axis)?;
    let &[first, second] = weights.shape() else { return Ok(None) };
    let (by_column, depth) = if is_turned {
        (centred, second)
    } else {
        ((0..first * second).map(|i| centred[i % first * second + i / first]).collect(), first)
    };
    let channels = (result.channels.scales.as_slice(), result.channels.bias.as_slice());
    Dense::prepare(from, (&by_column, depth), channels, result.to.clone()).map(Some)
}

/// `DynamicQuantizeMatMul`: the left factor is quantised by its own range.
#[derive(Debug)]
struct Dynamic {
    inputs: Inputs,
    span: Span,
    product: MatMul,
}

pub(super) fn dynamic(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &[BY_WINDOW])?;
    let inputs = Inputs::of(node, 3, 5)?;
    let span = span(node)?;
    // The inputs of MatMulIntegerToFloat: a, b, scale of a, scale of b, zero of a, zero of b, bias.
    let mut like = NodeProto { input: vec!["present".to_owned(); 5], ..NodeProto::default() };
    for position in [3, 4] {
        let present = node.input.get(position).is_some_and(|name| !name.is_empty());
        like.input.push(if present { "present".to_owned() } else { String::new() });
    }
    let product =
        MatMul { name: "MatMulIntegerToFloat", form: Form::ToFloat, inputs: Inputs::of(&like, 5, 7)? };
    assembled(Dynamic { inputs, span, product })
}

impl Assembly for Dynamic {
    fn name(&self) -> &'static str {
        "DynamicQuantizeMatMul"
    }

    fn output_fact(&self, inputs: &[&TypedFact]) -> TractResult<TypedFact> {
        let (a, b) = (self.inputs.need(inputs, 0)?, self.inputs.need(inputs, 1)?);
        ensure!(a.datum_type == DatumType::F32, "it takes f32, not {:?}", a.datum_type);
        octet_range(b.datum_type)?;
        ensure!(a.rank() > 0 && b.rank() > 0, "a factor has no axes");
        let (.., shape) = compute_shapes(a.shape.to_tvec(), b.shape.to_tvec(), false, false, false)?;
        Ok(fact(f32::datum_type(), &shape))
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<OutletId> {
        let a = self.inputs.need(inputs, 0)?;
        let right = Factor { values: self.inputs.need(inputs, 1)?, zero: self.inputs.get(inputs, 3) };
        if let Some(zero) = right.zero {
            ensure!(model.outlet_fact(zero)?.rank() < 2, "zero points of its weights are a number or a row");
        }
        if model.outlet_fact(self.inputs.need(inputs, 2)?)?.konst.is_some() {
            let scales = scales(&*constant(model, self.inputs.need(inputs, 2)?)?)?;
            let bias = self.inputs.get(inputs, 4).map(|bias| constant(model, bias)).transpose()?;
            let bias = bias.map_or(Ok(Vec::new()), |bias| super::numbers::scales(&bias))?;
            let channels = Channels { axis: 0, scales, bias: Vec::new() };
            let becomes = Becomes { channels, to: To::Floats(bias) };
            let from = (Left::Ranged(self.span), i64::from(u8::MAX));
            if let Some(dense) = dense(model, (a, right), false, from, &becomes)? {
                return Ok(model.wire_node(format!("{prefix}.dense"), typed(dense), &[a])?[0]);
            }
        }
        ensure!(
            is_one_range(model, a, self.span)?,
            "its weights are computed, which several windows are not for"
        );
        let quantised = super::dynamic::wire(&format!("{prefix}.quantised"), model, a)?;
        let mut given = tvec!(quantised[0], self.inputs.need(inputs, 1)?, quantised[1]);
        given.push(self.inputs.need(inputs, 2)?);
        given.push(quantised[2]);
        given.extend(self.inputs.get(inputs, 3));
        given.extend(self.inputs.get(inputs, 4));
        self.product.wire(prefix, model, &given)
    }
}
