//! Convolutions with constant weights, and pooling, over images of one or two axes.
//!
//! Sums over a padded copy of the input, sample by sample, so that all stays in the first caches; what alone reads a
//! convolution and is cheap (an activation, a sum with another tensor, a cut) is done on the way out. Weights that a run
//! computes, other types and more axes stay with tract, which also decides what the attributes mean.
//!
//! *Source*: ai.onnx 22, Conv, and what pooling.rs names.

mod layout;
mod pooling;
mod products;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::Slice;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, PoolSpec};
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::Add;
use tract_onnx::tract_core::ops::nn::{DataFormat, LeakyRelu};
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::super::vectors;
use super::super::kernel::{Kernel, fact, wired};
use super::activation::Map;
use super::guarded::of_tract;
use layout::{Axis, Layout};
use pooling::{GlobalMean, Pooling};
use products::{Block, Buffers, Convolving, Finish, Products};

#[derive(Debug, Clone)]
struct Faster {
    tract: Box<dyn Expansion>,
    is_global_mean: bool,
}

pub(super) fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let (operator, closures) = of_tract(context, node)?;
    Ok(match operator.as_op().downcast_ref::<Box<dyn Expansion>>().cloned() {
        Some(tract) => {
            let is_global_mean = node.op_type == "GlobalAveragePool";
            (expand(Faster { tract, is_global_mean }), closures)
        }
        None => (operator, closures),
    })
}

impl Expansion for Faster {
    fn name(&self) -> StaticName {
        self.tract.name()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.tract.nboutputs()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.tract.rules(solver, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        if self.is_global_mean
            && let Some(kernel) = GlobalMean::of(model.outlet_fact(inputs[0])?)
        {
            return wired(prefix, model, kernel, inputs);
        }
        let outputs = self.tract.wire(&format!("{prefix}.tract"), model, inputs)?;
        // tract's nodes, which nothing reads then, are dropped with the rest of what no output needs.
        if let Some(kernel) = convolution(model, &outputs, inputs)? {
            return wired(prefix, model, kernel, &inputs[..1]);
        }
        let [output] = outputs[..] else { return Ok(outputs) };
        match Pooling::of(model.node(output.node), model.outlet_fact(inputs[0])?) {
            Some(kernel) => wired(prefix, model, kernel, inputs),
            None => Ok(outputs),
        }
    }
}

/// Returns the convolution that tract has made, as a kernel of ours where that can be.
fn convolution(
    model: &TypedModel,
    outputs: &[OutletId],
    inputs: &[OutletId],
) -> TractResult<Option<Convolution>> {
    let [output] = outputs else { return Ok(None) };
    let Some(conv) = model.node(output.node).op_as::<Conv>() else { return Ok(None) };
    let constant = |input: OutletId| -> TractResult<Option<Vec<f32>>> {
        let fact = model.outlet_fact(input)?;
        let Some(constant) = fact.konst.as_ref().filter(|_| fact.datum_type == DatumType::F32) else {
            return Ok(None);
        };
        Ok(Some(constant.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
    };
    let x = model.outlet_fact(inputs[0])?;
    let outputs = conv.pool_spec.output_channels;
    let is_plain = conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW
        && x.datum_type == DatumType::F32
        && conv.group > 0
        && outputs % conv.group == 0;
    let (Some(shape), true) = (x.shape.as_concrete(), is_plain) else { return Ok(None) };
    let (Some(weights), Some(axes)) = (constant(inputs[1])?, axes(&conv.pool_spec, shape)) else {
        return Ok(None);
    };
    let bias = match inputs.get(2) {
        Some(bias) => constant(*bias)?,
        None => Some(vec![0.0; outputs]),
    };
    let Some(bias) = bias.filter(|bias| bias.len() == outputs) else { return Ok(None) };
    let images = Images { batch: shape[0], channels: shape[1], outputs, axes, spatial: shape.len() - 2 };
    let constants = Constants { groups: conv.group, weights, bias };
    Ok(Convolution::prepare(images, Arc::new(constants), Finish::Nothing, 1))
}

/// Returns the axes of an image; nothing where there are more than two, or channels are not the second axis.
fn axes(spec: &PoolSpec, shape: &[usize]) -> Option<[Axis; 2]> {
    let image = shape.get(2..).filter(|_| spec.data_format == DataFormat::NCHW)?;
    let padding = spec.computed_padding(image);
    let axis = |axis: usize| Axis {
        input: image[axis],
        output: padding[axis].convoluted,
        before: padding[axis].pad_before,
        kernel: spec.kernel_shape[axis],
        stride: spec.stride(axis),
        dilation: spec.dilation(axis),
    };
    match image.len() {
        1 => Some([Axis::NONE, axis(0)]),
        2 => Some([axis(0), axis(1)]),
        _ => None,
    }
}

/// The sizes of what a kernel takes and gives.
#[derive(Debug, Clone)]
struct Images {
    batch: usize,
    channels: usize,
    outputs: usize,
    axes: [Axis; 2],
    /// How many of the axes there are.
    spatial: usize,
}

impl Images {
    fn shape(&self, channels: usize, length: impl Fn(&Axis) -> usize) -> TVec<usize> {
        let spatial = self.axes[2 - self.spatial..].iter().map(length);
        [self.batch, channels].into_iter().chain(spatial).collect()
    }

    fn input(&self) -> TVec<usize> {
        self.shape(self.channels, |axis| axis.input)
    }

    fn output(&self) -> TVec<usize> {
        self.shape(self.outputs, |axis| axis.output)
    }

    /// Returns the fact of the output for an image, and what has the output's shape.
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        for (input, shape) in inputs.iter().zip([self.input(), self.output()]) {
            let is_planned =
                input.datum_type == DatumType::F32 && input.shape.as_concrete() == Some(&shape[..]);
            ensure!(is_planned, "{input:?} is not of shape {shape:?}");
        }
        let shape: TVec<TDim> = self.output().iter().map(|length| length.to_dim()).collect();
        Ok(tvec!(fact(f32::datum_type(), &shape)))
    }
}

#[derive(Debug)]
struct Constants {
    groups: usize,
    /// *Shape*: `[outputs, channels of a group, kernel rows, kernel columns]`
    weights: Vec<f32>,
    /// *Shape*: `[outputs]`
    bias: Vec<f32>,
}

impl Constants {
    /// Packs the constants for images.
    fn products(&self, images: &Images, finish: Finish) -> Option<Products> {
        let layout = Layout::new(images.channels, images.axes)?;
        let in_group = images.channels / self.groups;
        let (group_outputs, depth) = (images.outputs / self.groups, in_group * layout.taps.len());
        if in_group * self.groups != images.channels || self.weights.len() != images.outputs * depth {
            return None;
        }
        let taps = (0..in_group).flat_map(|channel| layout.taps.iter().map(move |tap| (channel, *tap)));
        let taps = taps.map(|(channel, tap)| channel * layout.channel + tap).collect();
        let (mut blocks, mut weights) = (Vec::new(), Vec::with_capacity(self.weights.len()));
        for group in 0..self.groups {
            let mut done = 0;
            while done < group_outputs {
                let width = [8, 4, 2, 1].into_iter().find(|width| done + width <= group_outputs)?;
                let output = group * group_outputs + done;
                let input = group * in_group * layout.channel;
                blocks.push(Block { input, output, width, weights: weights.len() });
                for tap in 0..depth {
                    let of_tap = |channel| self.weights[(output + channel) * depth + tap];
                    weights.extend((0..width).map(of_tap));
                }
                done += width;
            }
        }
        Some(Products { layout, taps, blocks, weights, bias: self.bias.clone(), finish })
    }
}

#[derive(Debug)]
struct Convolution {
    images: Images,
    constants: Arc<Constants>,
    /// 1, or 2 where the second is added to what is summed.
    inputs: usize,
    products: Products,
    /// Buffers wait here for the next run; runs at the same time make their own.
    kept: Mutex<Option<Buffers>>,
}

impl Convolution {
    /// Prepares a convolution; nothing where it is none or too large.
    fn prepare(images: Images, constants: Arc<Constants>, finish: Finish, inputs: usize) -> Option<Self> {
        let products = constants.products(&images, finish)?;
        (images.batch > 0).then(|| Self { images, constants, inputs, products, kept: Mutex::new(None) })
    }

    /// Returns this with another end.
    fn finished(&self, finish: Finish, inputs: usize) -> Option<Self> {
        Self::prepare(self.images.clone(), Arc::clone(&self.constants), finish, inputs)
    }

    /// Returns this with what is left of the output by a cut.
    fn cut(&self, cut: &Slice) -> Option<Self> {
        let (start, end) = (cut.start.as_usize()?, cut.end.as_usize()?);
        let mut images = self.images.clone();
        let axis = images.axes.get_mut(cut.axis.checked_sub(images.spatial)?).filter(|_| cut.axis >= 2)?;
        // What is cut off before is that of the padding, or a negative one would be needed.
        axis.before = axis.before.checked_sub(start * axis.stride)?;
        axis.output = end.min(axis.output).checked_sub(start)?;
        Self::prepare(images, Arc::clone(&self.constants), self.products.finish, self.inputs)
    }
}

/// Returns the end that an activation is, if it is cheap.
fn finish(operator: &ElementWiseOp) -> Option<Finish> {
    if let Some(leaky) = operator.0.downcast_ref::<LeakyRelu>() {
        let is_relu = leaky.alpha == 0.0;
        return Some(if is_relu { Finish::Between(0.0, f32::INFINITY) } else { Finish::Leaky(leaky.alpha) });
    }
    match *operator.0.downcast_ref::<Map>()? {
        Map::Relu => Some(Finish::Between(0.0, f32::INFINITY)),
        Map::Clip(low, high) => Some(Finish::Between(low as f32, high as f32)),
        Map::LeakyRelu(slope) => Some(Finish::Leaky(slope as f32)),
        _ => None,
    }
}

impl Kernel for Convolution {
    fn name(&self) -> &'static str {
        "Conv"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == self.inputs, "it takes {} inputs, not {}", self.inputs, inputs.len());
        self.images.output_facts(inputs)
    }

    fn joined(&self, next: &TypedNode, others: &[&TypedFact]) -> TractResult<Option<Arc<dyn Kernel>>> {
        let is_open = self.products.finish == Finish::Nothing;
        let joined = match others {
            [] => {
                if let Some(cut) = next.op_as::<Slice>().filter(|_| is_open && self.inputs == 1) {
                    self.cut(cut)
                } else if let Some(activation) = next.op_as::<ElementWiseOp>().filter(|_| is_open) {
                    finish(activation).and_then(|finish| self.finished(finish, self.inputs))
                } else {
                    None
                }
            }
            [other] if is_open && self.inputs == 1 => {
                let is_sum = next.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Add>() && op.1.is_none());
                let is_alike = other.datum_type == DatumType::F32
                    && other.shape.as_concrete() == Some(&self.images.output()[..]);
                if is_sum && is_alike { self.finished(Finish::Nothing, 2) } else { None }
            }
            _ => None,
        };
        Ok(joined.map(|joined| Arc::new(joined) as Arc<dyn Kernel>))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut output = Tensor::zero::<f32>(&self.images.output())?;
        let waiting = self.kept.try_lock().ok().and_then(|mut kept| kept.take());
        let mut buffers = waiting.unwrap_or_else(|| self.products.buffers());
        {
            let from = inputs[0].try_as_plain_ram()?;
            let added = inputs.get(1).map(|added| added.try_as_plain_ram()).transpose()?;
            let added = added.as_ref().map(|added| added.as_slice::<f32>()).transpose()?;
            let mut into = output.try_as_plain_ram_mut()?;
            vectors::in_vectors(Convolving {
                products: &self.products,
                buffers: &mut buffers,
                from: from.as_slice()?,
                added,
                into: into.as_slice_mut()?,
            });
        }
        if let Ok(mut kept) = self.kept.try_lock() {
            *kept = Some(buffers);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}
