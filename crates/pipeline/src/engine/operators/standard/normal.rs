//! `LayerNormalization`, `InstanceNormalization` and `GroupNormalization` as one walk over the values.
//!
//! tract takes them apart into a dozen operators, each of which walks over all values. Parts of the tensor that are
//! contiguous are normalised one after the other: mean, then variance of what is left, both in f32 as ONNX says. Other
//! types than f32, and outputs beside the first, stay with tract.
//!
//! *Source*: ai.onnx 17 (LayerNormalization), 6 (InstanceNormalization), 18 and 21 (GroupNormalization).

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::super::super::vectors::{Arithmetic, Loops, on_widest};
use super::super::attributes::require_only;
use super::super::kernel::{Kernel, fact, wired};
use super::guarded::of_tract;
use super::values::axis_of;

/// What is normalised together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parts {
    /// All axes from this one on; a factor a value.
    Layer(i64),
    /// A channel; a factor each.
    Instance,
    /// So many groups of channels; a factor a channel or a group.
    Group(usize),
}

#[derive(Debug, Clone)]
struct Normalization {
    parts: Parts,
    epsilon: f32,
    /// tract's own, for what is not done here.
    tract: Box<dyn Expansion>,
    /// Whether attributes and outputs are such that it can be done here.
    is_plain: bool,
}

pub(super) fn build(
    context: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let (parts, known): (Parts, &[&str]) = match node.op_type.as_str() {
        "LayerNormalization" => {
            (Parts::Layer(node.get_attr_opt("axis")?.unwrap_or(-1)), &["axis", "epsilon", "stash_type"])
        }
        "InstanceNormalization" => (Parts::Instance, &["epsilon"]),
        "GroupNormalization" => {
            let groups = usize::try_from(node.get_attr::<i64>("num_groups")?).ok();
            let groups = groups.filter(|&groups| groups > 0).context("`num_groups` is not positive")?;
            (Parts::Group(groups), &["epsilon", "num_groups", "stash_type"])
        }
        other => bail!("`{other}` normalises nothing"),
    };
    require_only(node, known)?;
    let (operator, closures) = of_tract(context, node)?;
    let tract = operator.as_op().downcast_ref::<Box<dyn Expansion>>().cloned();
    let is_single = node.output.iter().skip(1).all(String::is_empty);
    let is_plain = is_single && node.get_attr_opt::<i64>("stash_type")?.unwrap_or(1) == 1;
    Ok((
        expand(Normalization {
            parts,
            epsilon: node.get_attr_opt("epsilon")?.unwrap_or(1e-5),
            tract: tract.context("tract's operator is of another kind")?,
            is_plain,
        }),
        closures,
    ))
}

impl Expansion for Normalization {
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
        let facts = inputs.iter().map(|input| Ok(model.outlet_fact(*input)?.clone()));
        let facts = facts.collect::<TractResult<Vec<_>>>()?;
        match self.walk(&facts)? {
            Some(walk) => wired(prefix, model, walk, inputs),
            None => self.tract.wire(prefix, model, inputs),
        }
    }
}

impl Normalization {
    /// Returns the kernel for such inputs, if it is done here.
    fn walk(&self, facts: &[TypedFact]) -> TractResult<Option<Walk>> {
        let is_single = facts.iter().all(|fact| fact.datum_type == DatumType::F32);
        let shapes: Option<Vec<&[usize]>> = facts.iter().map(|fact| fact.shape.as_concrete()).collect();
        let Some(shapes) = shapes.filter(|_| is_single && self.is_plain) else { return Ok(None) };
        let [shape, factors @ ..] = &shapes[..] else { bail!("it has no input") };
        ensure!(matches!(factors.len(), 1 | 2), "it takes 2 or 3 inputs, not {}", shapes.len());
        let (span, run, per_part) = match self.parts {
            Parts::Layer(axis) => {
                let axis = axis_of(axis, shape.len())?;
                if factors.iter().any(|factor| **factor != shape[axis..]) {
                    return Ok(None);
                }
                let span = shape[axis..].iter().product();
                (span, 1, span)
            }
            Parts::Instance | Parts::Group(_) => {
                ensure!(shape.len() >= 2, "a tensor of {} axes has no channels", shape.len());
                let (channels, inner) = (shape[1], shape[2..].iter().product::<usize>());
                let groups = if let Parts::Group(groups) = self.parts { groups } else { channels };
                let divides = groups > 0 && channels % groups == 0;
                ensure!(divides, "{channels} channels are not {groups} groups of one size");
                let channels_each = channels / groups;
                let span = channels_each * inner;
                let is = |length: usize| factors.iter().all(|factor| **factor == [length]);
                if is(channels) {
                    (span, inner, channels_each)
                } else if is(groups) {
                    (span, span, 1)
                } else {
                    return Ok(None);
                }
            }
        };
        let factors: usize = factors[0].iter().product();
        Ok((span > 0 && run > 0).then_some(Walk {
            name: match self.parts {
                Parts::Layer(_) => "LayerNormalization",
                Parts::Instance => "InstanceNormalization",
                Parts::Group(_) => "GroupNormalization",
            },
            span,
            run,
            per_part,
            factors,
            epsilon: self.epsilon,
        }))
    }
}

/// Normalises each `span` values.
#[derive(Debug)]
struct Walk {
    name: &'static str,
    span: usize,
    /// Values that share a factor.
    run: usize,
    /// Factors a span.
    per_part: usize,
    /// All factors; spans go through them and begin again.
    factors: usize,
    epsilon: f32,
}

/// Sums in sixteen lanes, which the compiler keeps in vectors; `with` adds what is made of a value.
#[inline(always)]
fn sum(values: &[f32], with: impl Fn(f32, f32) -> f32) -> f32 {
    let (blocks, rest) = values.as_chunks::<16>();
    let mut lanes = [0.0_f32; 16];
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane = with(*lane, *value);
        }
    }
    let mut width = 8;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    let blocks = lanes[0];
    rest.iter().fold(blocks, |sum, value| with(sum, *value))
}

/// One run over a tensor.
struct Parted<'a> {
    walk: &'a Walk,
    values: &'a mut [f32],
    scale: &'a [f32],
    shift: Option<&'a [f32]>,
}

impl Loops for Parted<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { walk, values, scale, shift } = self;
        let mut start = 0;
        for part in values.chunks_exact_mut(walk.span) {
            let end = start + walk.per_part;
            walk.normalise::<A>(part, &scale[start..end], shift.map(|shift| &shift[start..end]));
            start = if end == walk.factors { 0 } else { end };
        }
    }
}

impl Walk {
    #[inline(always)]
    fn normalise<A: Arithmetic>(&self, values: &mut [f32], scale: &[f32], shift: Option<&[f32]>) {
        let count = self.span as f32;
        let mean = sum(values, |sum, value| sum + value) / count;
        let variance = sum(values, |sum, value| A::add_product(sum, value - mean, value - mean)) / count;
        let inverse = 1.0 / (variance + self.epsilon).sqrt();
        if self.run == 1 {
            match shift {
                Some(shift) => {
                    for ((value, scale), shift) in values.iter_mut().zip(scale).zip(shift) {
                        *value = (*value - mean) * inverse * scale + shift;
                    }
                }
                None => {
                    for (value, scale) in values.iter_mut().zip(scale) {
                        *value = (*value - mean) * inverse * scale;
                    }
                }
            }
            return;
        }
        for (position, values) in values.chunks_exact_mut(self.run).enumerate() {
            let (scale, shift) = (scale[position] * inverse, shift.map_or(0.0, |shift| shift[position]));
            values.iter_mut().for_each(|value| *value = (*value - mean) * scale + shift);
        }
    }
}

impl Kernel for Walk {
    fn name(&self) -> &'static str {
        self.name
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(fact(inputs[0].datum_type, &inputs[0].shape)))
    }

    fn run(&self, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shift = if inputs.len() > 2 { inputs.pop() } else { None };
        let (Some(scale), Some(values)) = (inputs.pop(), inputs.pop()) else { bail!("it takes 2 inputs") };
        let scale = scale.try_as_plain_ram()?;
        let scale = scale.as_slice::<f32>()?;
        let shift = shift.as_ref().map(|shift| shift.try_as_plain_ram()).transpose()?;
        let shift = shift.as_ref().map(|shift| shift.as_slice::<f32>()).transpose()?;
        let has_factors = |factors: &[f32]| factors.len() == self.factors;
        ensure!(has_factors(scale) && shift.is_none_or(has_factors), "factors of another length");
        let mut values = values.into_tensor();
        let mut plain = values.try_as_plain_ram_mut()?;
        on_widest(Parted { walk: self, values: plain.as_slice_mut::<f32>()?, scale, shift });
        Ok(tvec!(values.into_tvalue()))
    }
}
