//! `Gemm`: `alpha * A * B + beta * C`, with `A` and `B` turned where asked.
//!
//! tract keeps both factors in f32, which fails in the run of a model in f64. A product with constants is a dense layer,
//! which has a kernel of its own; the others stay with tract.
//!
//! A `MatMul` with constants comes here as well, from [`super::super::super::rewrite`], with what is added to it: under a name
//! that no file may use.
//!
//! *Source*: ai.onnx 13, Gemm and MatMul; com.microsoft 1, FusedGemm with the activations that stand below.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::change_axes::wire_with_rank_broadcast;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::{add, mul};
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};
use tract_onnx::tract_hir::ops::matmul::{MatMulInference, compute_shapes};

use super::super::attributes::require_only;
use super::super::kernel::wired;
use super::activation::{Map, mapped};
use super::dense::Dense;

#[derive(Debug, Clone)]
struct Gemm {
    alpha: f32,
    beta: f32,
    turns_a: bool,
    turns_b: bool,
    /// Of what the product gives.
    activation: Option<Map>,
}

pub(super) fn build(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let activation = if node.op_type == "FusedGemm" {
        require_only(node, &["activation", "activation_alpha", "alpha", "beta", "transA", "transB"])?;
        Some(activation_of(node)?)
    } else {
        require_only(node, &["alpha", "beta", "transA", "transB"])?;
        None
    };
    let flag = |name: &str| -> TractResult<bool> { Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0) };
    Ok((
        expand(Gemm {
            alpha: node.get_attr_opt("alpha")?.unwrap_or(1.0),
            beta: node.get_attr_opt("beta")?.unwrap_or(1.0),
            turns_a: flag("transA")?,
            turns_b: flag("transB")?,
            activation,
        }),
        Vec::new(),
    ))
}

/// Reads which activation a layer ends with.
///
/// *Errors*: one that is not joined with layers.
fn activation_of(node: &NodeProto) -> TractResult<Map> {
    let alpha = |absent: f32| -> TractResult<f64> {
        Ok(f64::from(node.get_attr_opt::<f32>("activation_alpha")?.unwrap_or(absent)))
    };
    Ok(match node.get_attr_opt::<&str>("activation")?.unwrap_or("") {
        "Relu" => Map::Relu,
        "Sigmoid" => Map::Sigmoid,
        "Tanh" => Map::Tanh,
        "LeakyRelu" => Map::LeakyRelu(alpha(0.01)?),
        "QuickGelu" => Map::QuickGelu(alpha(1.702)?),
        "FastGelu" => Map::GeluTanh,
        other => bail!("`activation` is `{other}`"),
    })
}

/// Returns what a layer adds to each row, if it is one row of constants or a single one.
fn bias_of(added: Option<&Tensor>, outputs: usize, factor: f32) -> TractResult<Option<Vec<f32>>> {
    let is_row = |added: &&Tensor| {
        let last = added.shape().last().copied().unwrap_or(1);
        added.datum_type() == DatumType::F32 && added.len() == last && [1, outputs].contains(&last)
    };
    let Some(added) = added.filter(is_row) else { return Ok(None) };
    let added = added.try_as_plain_ram()?;
    let added = added.as_slice::<f32>()?;
    Ok(Some(added.iter().cycle().take(outputs).map(|added| factor * added).collect()))
}

/// `x * weights + bias`, of any number of leading axes.
#[derive(Debug, Clone)]
struct Linear {
    activation: Option<Map>,
}

pub(super) fn build_linear(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    require_only(node, &["activation", "activation_alpha"])?;
    let activation = if node.attribute.is_empty() { None } else { Some(activation_of(node)?) };
    Ok((expand(Linear { activation }), Vec::new()))
}

impl Linear {
    fn layer(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Option<Dense>> {
        let (x, weights) = (model.outlet_fact(inputs[0])?, model.outlet_fact(inputs[1])?);
        let (Some(shape), Some(weights)) = (x.shape.as_concrete(), &weights.konst) else { return Ok(None) };
        let is_single = x.datum_type == DatumType::F32 && weights.datum_type() == DatumType::F32;
        if !is_single || shape.len() < 2 || weights.rank() != 2 || shape.contains(&0) || weights.len() == 0 {
            return Ok(None);
        }
        let weights = Tensor::clone(weights).permute_axes(&[1, 0])?;
        let &[outputs, depth] = weights.shape() else { return Ok(None) };
        if shape[shape.len() - 1] != depth {
            return Ok(None);
        }
        let bias = match inputs.get(2) {
            Some(added) => {
                let added = model.outlet_fact(*added)?.konst.as_deref();
                bias_of(added.filter(|added| added.rank() <= shape.len()), outputs, 1.0)?
            }
            None => Some(vec![0.0; outputs]),
        };
        let Some(bias) = bias else { return Ok(None) };
        Dense::prepare(&weights, &bias, shape, self.activation).map(Some)
    }
}

impl Expansion for Linear {
    fn name(&self) -> StaticName {
        "MatMul".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        for input in inputs {
            solver.equals(&input.datum_type, &outputs[0].datum_type)?;
        }
        solver.given_all(inputs.iter().map(|input| &input.shape), move |solver, shapes| {
            let [x, weights, added @ ..] = &shapes[..] else { bail!("it takes 2 or 3 inputs") };
            let (_, _, _, product) = compute_shapes(x.clone(), weights.clone(), false, false, false)?;
            let mut shapes = vec![product];
            shapes.extend_from_slice(added);
            solver.equals(&outputs[0].shape, multi_broadcast(&shapes)?)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        if let Some(layer) = self.layer(model, inputs)? {
            return wired(prefix, model, layer, &inputs[..1]);
        }
        let product = MatMulInference::default();
        let mut output = product.wire(&format!("{prefix}.product"), model, &inputs[..2])?;
        if let Some(added) = inputs.get(2) {
            let sum = format!("{prefix}.sum");
            output = wire_with_rank_broadcast(sum, model, add(), &[output[0], *added])?;
        }
        match self.activation {
            Some(activation) => mapped(prefix, model, activation, output[0]),
            None => Ok(output),
        }
    }
}

impl Gemm {
    fn scaled(name: &str, model: &mut TypedModel, factor: f32, input: OutletId) -> TractResult<OutletId> {
        if factor == 1.0 {
            return Ok(input);
        }
        let fact = model.outlet_fact(input)?.clone();
        ensure!(fact.datum_type.is_float(), "a factor {factor} of integers");
        let factor =
            tensor0(factor).cast_to_dt(fact.datum_type)?.into_owned().broadcast_into_rank(fact.rank())?;
        let factor = model.add_const(format!("{name}.factor"), factor)?;
        Ok(model.wire_node(name, mul(), &[input, factor])?[0])
    }

    /// Returns the layer that this is, if the weights are constants and the shapes are those of a layer.
    fn layer(&self, model: &TypedModel, inputs: &[OutletId]) -> TractResult<Option<Dense>> {
        let (x, weights) = (model.outlet_fact(inputs[0])?, model.outlet_fact(inputs[1])?);
        let is_single = x.datum_type == DatumType::F32 && weights.datum_type == DatumType::F32;
        let (Some(&[rows, depth]), Some(weights)) = (x.shape.as_concrete(), &weights.konst) else {
            return Ok(None);
        };
        if !is_single || self.turns_a || weights.rank() != 2 {
            return Ok(None);
        }
        let weights = Tensor::clone(weights);
        let mut weights = if self.turns_b { weights } else { weights.permute_axes(&[1, 0])? };
        let outputs = weights.shape()[0];
        if [rows, depth, outputs].contains(&0) || weights.shape()[1] != depth {
            return Ok(None);
        }
        if self.alpha != 1.0 {
            let mut weights = weights.try_as_plain_ram_mut()?;
            weights.as_slice_mut::<f32>()?.iter_mut().for_each(|weight| *weight *= self.alpha);
        }
        let bias = match inputs.get(2).filter(|_| self.beta != 0.0) {
            Some(added) => bias_of(model.outlet_fact(*added)?.konst.as_deref(), outputs, self.beta)?,
            None => Some(vec![0.0; outputs]),
        };
        let Some(bias) = bias else { return Ok(None) };
        Dense::prepare(&weights, &bias, &[rows, depth], self.activation).map(Some)
    }

    fn wire_plain(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let datum_type = model.outlet_fact(inputs[0])?.datum_type;
        let axes = AxesMapping::for_numpy_matmul(2, self.turns_a, self.turns_b, false)?;
        let product = EinSum::new(axes, datum_type);
        let product = model.wire_node(format!("{prefix}.product"), product, &inputs[..2])?[0];
        let product = Self::scaled(&format!("{prefix}.alpha"), model, self.alpha, product)?;
        let Some(added) = inputs.get(2).filter(|_| self.beta != 0.0) else { return Ok(tvec!(product)) };
        let added = Self::scaled(&format!("{prefix}.beta"), model, self.beta, *added)?;
        wire_with_rank_broadcast(format!("{prefix}.sum"), model, add(), &[product, added])
    }
}

impl Expansion for Gemm {
    fn name(&self) -> StaticName {
        "Gemm".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let (rows, inner_a) = if self.turns_a { (1, 0) } else { (0, 1) };
        let (inner_b, columns) = if self.turns_b { (1, 0) } else { (0, 1) };
        solver.equals(&inputs[0].rank, 2)?;
        solver.equals(&inputs[1].rank, 2)?;
        solver.equals(&outputs[0].rank, 2)?;
        for input in inputs {
            solver.equals(&input.datum_type, &outputs[0].datum_type)?;
        }
        solver.equals(&inputs[0].shape[rows], &outputs[0].shape[0])?;
        solver.equals(&inputs[0].shape[inner_a], &inputs[1].shape[inner_b])?;
        solver.equals(&inputs[1].shape[columns], &outputs[0].shape[1])
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        if let Some(layer) = self.layer(model, inputs)? {
            return wired(prefix, model, layer, &inputs[..1]);
        }
        let output = self.wire_plain(prefix, model, inputs)?;
        match self.activation {
            Some(activation) => mapped(prefix, model, activation, output[0]),
            None => Ok(output),
        }
    }
}
