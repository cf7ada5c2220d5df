//! `MaxPool` of quantised numbers.
//!
//! *Source*: ai.onnx 12. Takes the highest number under a window over one or two axes, rows first; padding never wins.
//! Computes neither indices nor dilations: [`take`] leaves such nodes, and those of floats, as they are.

use std::collections::HashSet;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::cnn::PaddingSpec;

use super::super::attributes::require_only;
use super::super::kernel::{Kernel, built, fact};
use super::assembly::{Built, Inputs};
use super::numbers::{Quantum, blank, by_octet, octet_range};
use super::pooling::Window;
use crate::engine::vectors::{Arithmetic, Loops, on_widest};

/// The operator's name among ours.
pub(super) const OPERATOR: &str = "QuantisedMaxPool";

/// Operators whose output is one of 8-bit integers where they have the zero point at this place.
const QUANTISING: [(&str, usize); 4] =
    [("QuantizeLinear", 2), ("QLinearConv", 7), ("QLinearAdd", 7), ("QLinearMul", 7)];

/// Gives this operator the nodes of a graph that it computes.
pub(super) fn take(graph: &mut GraphProto) {
    let is_octet = |tensor: &TensorProto| {
        tensor.data_type == DataType::Uint8 as i32 || tensor.data_type == DataType::Int8 as i32
    };
    let mut octets: HashSet<String> = graph
        .initializer
        .iter()
        .filter(|tensor| is_octet(tensor))
        .map(|tensor| tensor.name.clone())
        .collect();
    for position in 0..graph.node.len() {
        let node = &graph.node[position];
        let Some(output) = node.output.first().cloned() else { continue };
        let quantising = QUANTISING.iter().find(|(operator, _)| *operator == node.op_type);
        if let Some((_, zero)) = quantising {
            if node.input.get(*zero).is_some_and(|zero| octets.contains(zero)) {
                octets.insert(output);
            }
        } else if node.op_type == "Constant" {
            let value = node.attribute.iter().find(|attribute| attribute.name == "value");
            if value.and_then(|value| value.t.as_ref()).is_some_and(is_octet) {
                octets.insert(output);
            }
        } else if node.op_type == "MaxPool" && node.input.first().is_some_and(|x| octets.contains(x)) {
            if is_taken(node) {
                OPERATOR.clone_into(&mut graph.node[position].op_type);
            }
            octets.insert(output);
        }
    }
}

fn is_taken(node: &NodeProto) -> bool {
    let find = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    let Some(kernel) = find("kernel_shape").map(|attribute| attribute.ints.as_slice()) else { return false };
    let are = |name: &str, value: i64| find(name).is_none_or(|a| a.ints.iter().all(|&int| int == value));
    let is_zero = |name: &str| find(name).is_none_or(|a| a.i == 0);
    let is_narrow = find("pads").is_none_or(|pads| {
        pads.ints.len() == 2 * kernel.len()
            && pads.ints.iter().enumerate().all(|(i, &pad)| pad >= 0 && pad < kernel[i % kernel.len()])
    });
    let auto = find("auto_pad").is_none_or(|a| a.s == b"NOTSET" || a.s == b"VALID");
    let is_valid_alone = find("auto_pad").is_none_or(|a| a.s == b"NOTSET") || find("pads").is_none();
    (1..=2).contains(&kernel.len())
        && node.output.len() == 1
        && are("dilations", 1)
        && is_zero("ceil_mode")
        && is_zero("storage_order")
        && is_narrow
        && auto
        && is_valid_alone
}

#[derive(Debug)]
struct MaxPool {
    /// Of rows and columns.
    kernel: [usize; 2],
    strides: [usize; 2],
    before: [usize; 2],
    after: [usize; 2],
}

pub(super) fn build(_: &ParsingContext<'_>, node: &NodeProto) -> Built {
    let known = ["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"];
    require_only(node, &known)?;
    ensure!(is_taken(node), "it is not computed on quantised numbers");
    Inputs::of(node, 1, 1)?;
    let window = Window::read(node)?;
    let kernel = window.kernel.context("`kernel_shape` is absent")?;
    let both = |given: &[usize], absent: usize| -> TractResult<[usize; 2]> {
        match *given {
            [columns] => Ok([absent, columns]),
            [rows, columns] => Ok([rows, columns]),
            _ => bail!("{given:?} is not for one or two axes"),
        }
    };
    let ones: TVec<usize> = kernel.iter().map(|_| 1).collect();
    let (before, after) = match &window.padding {
        PaddingSpec::Explicit(before, after) => (both(before, 0)?, both(after, 0)?),
        _ => ([0; 2], [0; 2]),
    };
    let strides = window.strides.unwrap_or(ones);
    ensure!(strides.len() == kernel.len(), "`strides` and `kernel_shape` are of different counts");
    built(MaxPool { kernel: both(&kernel, 1)?, strides: both(&strides, 1)?, before, after })
}

impl MaxPool {
    /// Returns the lengths of the image with its rows and columns.
    fn image(shape: &[usize]) -> TractResult<[usize; 2]> {
        match *shape {
            [_, _, columns] => Ok([1, columns]),
            [_, _, rows, columns] => Ok([rows, columns]),
            _ => bail!("an input of {} axes", shape.len()),
        }
    }

    fn out(&self, image: [usize; 2]) -> TractResult<[usize; 2]> {
        let out = |axis: usize| -> TractResult<usize> {
            let padded = image[axis] + self.before[axis] + self.after[axis];
            let room =
                padded.checked_sub(self.kernel[axis]).context("the window is larger than the image")?;
            Ok(room / self.strides[axis] + 1)
        };
        Ok([out(0)?, out(1)?])
    }

    fn shape(&self, input: &[usize]) -> TractResult<TVec<usize>> {
        let out = self.out(Self::image(input)?)?;
        let mut shape: TVec<usize> = input[..2].into();
        shape.extend_from_slice(&out[4 - input.len()..]);
        Ok(shape)
    }
}

impl Kernel for MaxPool {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [input] = inputs else { bail!("it takes one input, not {}", inputs.len()) };
        octet_range(input.datum_type)?;
        let shape: TVec<usize> = input.shape.iter().map(|dim| dim.to_usize()).collect::<Result<_, _>>()?;
        let axes = 2 + if self.kernel[0] == 1 && shape.len() == 3 { 1 } else { 2 };
        ensure!(shape.len() == axes, "an input of {} axes", shape.len());
        let output: TVec<TDim> = self.shape(&shape)?.iter().map(|length| length.to_dim()).collect();
        Ok(tvec!(fact(input.datum_type, &output)))
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(by_octet!(inputs[0].datum_type(), pooled(self, &inputs[0]))?.into_tvalue()))
    }
}

fn pooled<Q: Quantum + Ord>(pool: &MaxPool, input: &Tensor) -> TractResult<Tensor> {
    let image = MaxPool::image(input.shape())?;
    let out = pool.out(image)?;
    let mut output = blank::<Q>(&pool.shape(input.shape())?)?;
    let mut view = output.try_as_plain_ram_mut()?;
    let into = view.as_slice_mut::<Q>()?;
    let from = input.try_as_plain_ram()?.as_slice::<Q>()?;
    if !into.is_empty() && !from.is_empty() {
        on_widest(Pool { pool, image, out, from, highest: &mut vec![Q::of(Q::LOW); image[1]], into });
    }
    Ok(output)
}

struct Pool<'a, Q> {
    pool: &'a MaxPool,
    image: [usize; 2],
    out: [usize; 2],
    from: &'a [Q],
    /// Of each column, over the rows under a window.
    highest: &'a mut [Q],
    into: &'a mut [Q],
}

impl<Q: Quantum + Ord> Loops for Pool<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let ([rows, columns], [out_rows, out_columns]) = (self.image, self.out);
        let MaxPool { kernel, strides, before, .. } = *self.pool;
        let images = self.into.len() / (out_rows * out_columns);
        for at in 0..images * out_rows {
            let (image, row) = (at / out_rows, at % out_rows);
            let first = (row * strides[0]).saturating_sub(before[0]);
            let end = (row * strides[0] + kernel[0]).saturating_sub(before[0]).min(rows);
            let highest = &mut self.highest[..columns];
            highest.fill(Q::of(Q::LOW));
            for row in first..end {
                let from = &self.from[(image * rows + row) * columns..][..columns];
                for i in 0..columns {
                    highest[i] = highest[i].max(from[i]);
                }
            }
            let into = &mut self.into[at * out_columns..][..out_columns];
            into.fill(Q::of(Q::LOW));
            for tap in 0..kernel[1] {
                // The outputs whose tap is not padding.
                let from = before[1].saturating_sub(tap).div_ceil(strides[1]);
                let inside = (columns + before[1]).saturating_sub(tap).div_ceil(strides[1]).min(out_columns);
                if strides[1] == 2 {
                    for i in from..inside {
                        into[i] = into[i].max(highest[i * 2 + tap - before[1]]);
                    }
                } else {
                    for i in from..inside {
                        into[i] = into[i].max(highest[i * strides[1] + tap - before[1]]);
                    }
                }
            }
        }
    }
}
