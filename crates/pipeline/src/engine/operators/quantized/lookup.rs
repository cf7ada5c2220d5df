//! Operators that are a table of 256 numbers: `QLinearSigmoid`, `QLinearLeakyRelu`, `QLinearConcat`, `QLinearWhere`.
//!
//! *Source*: com.microsoft 1. Each entry is dequantised, computed as `f32` and quantised as `QuantizeLinear` does.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_core::internal::*;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::assembly::{Built, Inputs};
use super::elementwise::broadcast;
use super::numbers::{Grid, Quantum, blank, by_octet, octet_range, rounded};
use super::pooling::{unary_fact, unary_grids};

/// Returns the output for each input, by the input's position above the lowest number.
fn table<Q: Quantum>(from: Grid, to: Grid, compute: impl Fn(f32) -> f32) -> Vec<Q> {
    (Q::LOW..=Q::HIGH).map(|integer| rounded(compute(from.value(integer)) / to.scale, to.zero)).collect()
}

fn looked_up<Q: Quantum>(table: &[Q], value: Q) -> Q {
    table[(value.integer() - Q::LOW) as usize]
}

#[derive(Debug, Clone, Copy)]
enum Function {
    Sigmoid,
    LeakyRelu(f32),
}

impl Function {
    fn of(self, value: f32) -> f32 {
        match self {
            Self::Sigmoid => 1.0 / (1.0 + (-value).exp()),
            Self::LeakyRelu(slope) => {
                if value >= 0.0 {
                    value
                } else {
                    slope * value
                }
            }
        }
    }
}

#[derive(Debug)]
struct Unary {
    function: Function,
    inputs: Inputs,
}

pub(super) fn sigmoid(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &[])?;
    built(Unary { function: Function::Sigmoid, inputs: Inputs::of(node, 2, 5)? })
}

pub(super) fn leaky_relu(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &["alpha"])?;
    let slope = node.get_attr_opt("alpha")?.unwrap_or(0.01);
    built(Unary { function: Function::LeakyRelu(slope), inputs: Inputs::of(node, 2, 5)? })
}

impl Kernel for Unary {
    fn name(&self) -> &'static str {
        match self.function {
            Function::Sigmoid => "QLinearSigmoid",
            Function::LeakyRelu(_) => "QLinearLeakyRelu",
        }
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = unary_fact(&self.inputs, inputs)?;
        self.inputs.need(inputs, 3)?;
        Ok(tvec!(fact(input.datum_type, &input.shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let tensors: TVec<&Tensor> = inputs.iter().map(|input| &**input).collect();
        let (from, to) = unary_grids(&self.inputs, &tensors)?;
        let input = self.inputs.need(&tensors, 0)?;
        let output = by_octet!(input.datum_type(), mapped(input, from, to, self.function))?;
        Ok(tvec!(output.into_tvalue()))
    }
}

fn mapped<Q: Quantum>(input: &Tensor, from: Grid, to: Grid, function: Function) -> TractResult<Tensor> {
    let values = input.try_as_plain_ram()?.as_slice::<Q>()?;
    let mut output = blank::<Q>(input.shape())?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    if values.len() < 256 {
        // A table costs more than the values alone.
        for (into, value) in into.iter_mut().zip(values) {
            *into = rounded(function.of(from.value(value.integer())) / to.scale, to.zero);
        }
        return Ok(output);
    }
    let table = table::<Q>(from, to, |value| function.of(value));
    into.iter_mut().zip(values).for_each(|(into, value)| *into = looked_up(&table, *value));
    Ok(output)
}

/// Inputs: scale and zero point of the output, then a tensor with its scale and zero point, and so on.
#[derive(Debug)]
struct Concat {
    axis: i64,
}

pub(super) fn concat(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &["axis"])?;
    let count = node.input.len();
    ensure!(count >= 5 && count % 3 == 2, "{count} inputs are not a scale, a zero point and triples");
    ensure!(node.input.iter().all(|name| !name.is_empty()), "an input is absent");
    built(Concat { axis: node.get_attr("axis")? })
}

impl Concat {
    fn axis(&self, rank: usize) -> TractResult<usize> {
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        ensure!((0..rank as i64).contains(&axis), "`axis` {} is none of {rank}", self.axis);
        Ok(axis as usize)
    }
}

impl Kernel for Concat {
    fn name(&self) -> &'static str {
        "QLinearConcat"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let output = inputs[1].datum_type;
        octet_range(output)?;
        let first = inputs[2];
        let axis = self.axis(first.rank())?;
        let mut shape = first.shape.to_tvec();
        shape[axis] = 0.into();
        for part in inputs[2..].chunks(3) {
            ensure!(
                part[0].datum_type == output && part[2].datum_type == output,
                "parts of other types than {output:?}"
            );
            ensure!(part[0].rank() == shape.len(), "parts with different axes");
            let same = part[0].shape.iter().enumerate().all(|(i, dim)| i == axis || *dim == first.shape[i]);
            ensure!(same, "parts of shapes {:?} and {:?}", part[0].shape, first.shape);
            shape[axis] += &part[0].shape[axis];
        }
        Ok(tvec!(fact(output, &shape)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let to = Grid::read(&inputs[0], Some(&inputs[1]))?;
        let axis = self.axis(inputs[2].rank())?;
        let mut parts = Vec::new();
        for part in inputs[2..].chunks(3) {
            let from = Grid::read(&part[1], Some(&part[2]))?;
            parts.push(if from == to {
                part[0].clone().into_tensor()
            } else {
                by_octet!(part[0].datum_type(), regridded(&part[0], from, to))?
            });
        }
        Ok(tvec!(Tensor::stack_tensors(axis, &parts)?.into_tvalue()))
    }
}

fn regridded<Q: Quantum>(input: &Tensor, from: Grid, to: Grid) -> TractResult<Tensor> {
    let table = table::<Q>(from, to, |value| value);
    let mut output = blank::<Q>(input.shape())?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    for (into, value) in into.iter_mut().zip(input.try_as_plain_ram()?.as_slice::<Q>()?) {
        *into = looked_up(&table, *value);
    }
    Ok(output)
}

/// Inputs: condition, `x` with scale and zero point, `y` with both, and both of the output.
#[derive(Debug)]
struct Choose;

pub(super) fn choose(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    require_only(node, &[])?;
    Inputs::of(node, 9, 9)?;
    built(Choose)
}

impl Kernel for Choose {
    fn name(&self) -> &'static str {
        "QLinearWhere"
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs.len() == 9, "it takes nine inputs, not {}", inputs.len());
        ensure!(
            inputs[0].datum_type == DatumType::Bool,
            "its condition is of type {:?}",
            inputs[0].datum_type
        );
        let output = inputs[1].datum_type;
        octet_range(output)?;
        ensure!([3, 4, 6, 8].iter().all(|&at| inputs[at].datum_type == output), "inputs of several types");
        let shapes = [0, 1, 4].map(|at| inputs[at].shape.to_tvec());
        Ok(tvec!(fact(output, &multi_broadcast(&shapes)?)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let grid = |at: usize| Grid::read(&inputs[at], Some(&inputs[at + 1]));
        let grids = [grid(2)?, grid(5)?, grid(7)?];
        let output = by_octet!(inputs[1].datum_type(), chosen(&inputs[0], [&inputs[1], &inputs[4]], grids))?;
        Ok(tvec!(output.into_tvalue()))
    }
}

fn chosen<Q: Quantum>(
    condition: &Tensor,
    [x, y]: [&Tensor; 2],
    [from_x, from_y, to]: [Grid; 3],
) -> TractResult<Tensor> {
    let shape = multi_broadcast(&[condition.shape(), x.shape(), y.shape()])?;
    let condition = broadcast::<bool>(condition, &shape)?;
    let (x, y) = (regridded::<Q>(x, from_x, to)?, regridded::<Q>(y, from_y, to)?);
    let (x, y) = (broadcast::<Q>(&x, &shape)?, broadcast::<Q>(&y, &shape)?);
    let mut output = blank::<Q>(&shape)?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    for (i, into) in into.iter_mut().enumerate() {
        *into = if condition[i] { x[i] } else { y[i] };
    }
    Ok(output)
}
