//! `QLinearAdd` and `QLinearMul`, with broadcasting.
//!
//! *Source*: com.microsoft 1. Computes in `f32` and rounds with the zero point added, as ONNX Runtime does on x86-64;
//! its 64-bit ARM kernel adds in fixed point, up to one quantum apart where a sum lies between two.

use std::borrow::Cow;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::assembly::{Built, Inputs};
use super::numbers::{Grid, Quantum, blank, by_octet, octet_range, rounded_whole};
use super::pooling::{THROUGH_UNSIGNED, flipped};
use crate::engine::vectors::{Arithmetic, Loops, on_widest};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Add,
    Mul,
}

#[derive(Debug)]
struct Elementwise {
    operation: Operation,
    inputs: Inputs,
    through_unsigned: bool,
}

pub(super) fn add(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    build(node, Operation::Add)
}

pub(super) fn mul(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    build(node, Operation::Mul)
}

fn build(node: &NodeProto, operation: Operation) -> Built {
    require_only(node, &[THROUGH_UNSIGNED])?;
    let through_unsigned = node.get_attr_opt::<i64>(THROUGH_UNSIGNED)?.unwrap_or(0) != 0;
    let inputs = Inputs::of(node, 2, 8)?;
    for position in [3, 4, 6] {
        ensure!(node.input.get(position).is_some_and(|name| !name.is_empty()), "input {position} is absent");
    }
    built(Elementwise { operation, inputs, through_unsigned })
}

impl Kernel for Elementwise {
    fn name(&self) -> &'static str {
        match self.operation {
            Operation::Add => "QLinearAdd",
            Operation::Mul => "QLinearMul",
        }
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let (a, b) = (self.inputs.need(inputs, 0)?, self.inputs.need(inputs, 3)?);
        octet_range(a.datum_type)?;
        for position in [2, 3, 5, 7] {
            if let Some(other) = self.inputs.get(inputs, position) {
                ensure!(
                    other.datum_type == a.datum_type,
                    "inputs of types {:?} and {:?}",
                    a.datum_type,
                    other.datum_type
                );
            }
        }
        let shape = multi_broadcast(&[&a.shape.to_tvec(), &b.shape.to_tvec()])?;
        Ok(tvec!(fact(a.datum_type, &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let tensors: TVec<&Tensor> = inputs.iter().map(|input| &**input).collect();
        let grid = |at: usize| Grid::read(self.inputs.need(&tensors, at)?, self.inputs.get(&tensors, at + 1));
        let grids = [grid(1)?, grid(4)?, grid(6)?];
        let (a, b) = (self.inputs.need(&tensors, 0)?, self.inputs.need(&tensors, 3)?);
        let output = if self.through_unsigned && a.datum_type() == DatumType::I8 {
            let grids = grids.map(Grid::unsigned);
            flipped(&computed::<u8>(self.operation, &flipped(a)?, &flipped(b)?, grids)?)?
        } else {
            by_octet!(a.datum_type(), computed(self.operation, a, b, grids))?
        };
        Ok(tvec!(output.into_tvalue()))
    }
}

fn computed<Q: Quantum>(
    operation: Operation,
    a: &Tensor,
    b: &Tensor,
    [from_a, from_b, to]: [Grid; 3],
) -> TractResult<Tensor> {
    let shape = multi_broadcast(&[a.shape(), b.shape()])?;
    let mut output = blank::<Q>(&shape)?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    let a = broadcast::<Q>(a, &shape)?;
    let b = broadcast::<Q>(b, &shape)?;
    on_widest(Pairs { operation, a: &a, b: &b, grids: [from_a, from_b, to], into });
    Ok(output)
}

struct Pairs<'a, Q> {
    operation: Operation,
    a: &'a [Q],
    b: &'a [Q],
    grids: [Grid; 3],
    into: &'a mut [Q],
}

impl<Q: Quantum> Loops for Pairs<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let [from_a, from_b, to] = self.grids;
        let count = self.into.len().min(self.a.len()).min(self.b.len());
        let (into, a, b) = (&mut self.into[..count], &self.a[..count], &self.b[..count]);
        match self.operation {
            Operation::Add => {
                let (of_a, of_b) = (from_a.scale / to.scale, from_b.scale / to.scale);
                let fixed = to.zero as f32 - (of_a * from_a.zero as f32 + of_b * from_b.zero as f32);
                for i in 0..count {
                    let (a, b) = (a[i].integer() as f32, b[i].integer() as f32);
                    into[i] = rounded_whole(fixed + a * of_a + b * of_b);
                }
            }
            Operation::Mul => {
                let of_both = from_a.scale * from_b.scale / to.scale;
                for i in 0..count {
                    let product = (a[i].integer() - from_a.zero) * (b[i].integer() - from_b.zero);
                    into[i] = rounded_whole(product as f32 * of_both + to.zero as f32);
                }
            }
        }
    }
}

/// Returns the values of a tensor in a larger shape.
pub(super) fn broadcast<'t, T: Datum + Copy>(
    tensor: &'t Tensor,
    shape: &[usize],
) -> TractResult<Cow<'t, [T]>> {
    if tensor.len() == shape.iter().product::<usize>() {
        return Ok(Cow::Borrowed(tensor.try_as_plain_ram()?.as_slice::<T>()?));
    }
    let spread = tensor.broadcast_to_shape(shape)?;
    Ok(spread.try_as_plain_ram()?.as_slice::<T>()?.to_vec().into())
}
