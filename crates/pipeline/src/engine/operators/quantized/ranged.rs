//! Products of floats that are quantised by their range: several nodes of a file as one operator.
//!
//! *Source*: ONNX Runtime's dynamic quantiser writes DynamicQuantizeLinear, MatMulInteger or ConvInteger, Cast, Mul by the
//! product of the scales, and Add of a bias. One operator computes the same numbers, and can take the range of each window
//! ([`super::windows`]). Never joins nodes whose results are read elsewhere. Runs after fusing.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto};

use super::convolution::RANGED;
use super::fuse::{View, integer};

/// Joins all such nodes; those of ranges that nobody reads any more are left for pruning.
pub(super) fn join(graph: &mut GraphProto) {
    let view = View::of(graph);
    let found: Vec<Joined> =
        graph.node.iter().enumerate().filter_map(|(at, node)| joined(&view, at, node)).collect();
    for Joined { node, nodes } in found {
        // The last place: all that the one operator reads is made before it.
        let Some((last, others)) = nodes.split_last() else { continue };
        graph.node[*last] = node;
        others.iter().for_each(|&other| graph.node[other].op_type.clear());
    }
    graph.node.retain(|node| !node.op_type.is_empty());
}

struct Joined {
    node: NodeProto,
    /// The nodes that it replaces, in the order of the graph.
    nodes: Vec<usize>,
}

fn joined(view: &View<'_>, at: usize, product: &NodeProto) -> Option<Joined> {
    let is_convolution = product.op_type == "ConvInteger";
    (is_convolution || product.op_type == "MatMulInteger").then_some(())?;
    let present = |at: usize| product.input.get(at).filter(|name| !name.is_empty());
    let (quantised, weights, zero) = (present(0)?, present(1)?, present(2)?);
    let range = view.maker(quantised).filter(|node| node.op_type == "DynamicQuantizeLinear")?;
    let [values, unit, point] = range.output.as_slice() else { return None };
    (values == quantised && point == zero).then_some(())?;
    let fixed = view.constants.get(weights.as_str())?;
    (is_convolution || fixed.dims.len() == 2).then_some(())?;
    let weights_zero = present(3).cloned().unwrap_or_default();
    (weights_zero.is_empty() || view.constants.contains_key(weights_zero.as_str())).then_some(())?;

    let cast = view.only_reader(product.output.first()?)?;
    let is_float = |node: &NodeProto| {
        node.op_type == "Cast"
            && node.attribute.iter().any(|a| a.name == "to" && a.i == i64::from(DataType::Float as i32))
    };
    let cast_node = Some(&view.graph.node[cast]).filter(|node| is_float(node))?;
    let scaling = view.only_reader(cast_node.output.first()?)?;
    let scaling_node = &view.graph.node[scaling];
    let units = other_input(scaling_node, "Mul", &cast_node.output[0])?;
    let scale = other_input(view.maker(units)?, "Mul", unit)?;
    let scales = view.constants.get(scale)?;
    let fits = if is_convolution { scales.dims.iter().all(|&dim| dim == 1) } else { scales.dims.len() < 2 };
    (fits && scales.data_type == DataType::Float as i32).then_some(())?;

    let mut nodes = vec![at, cast, scaling];
    let mut inputs = vec![range.input.first()?.clone(), weights.clone(), scale.to_owned(), weights_zero];
    let mut output = scaling_node.output.clone();
    if let Some((adding, bias)) = bias(view, output.first()?, fixed.dims.as_slice(), is_convolution) {
        inputs.push(bias.to_owned());
        nodes.push(adding);
        output.clone_from(&view.graph.node[adding].output);
    }
    nodes.is_sorted().then_some(())?;
    let mut node = NodeProto { input: inputs, output, ..product.clone() };
    if is_convolution {
        node.attribute.push(integer(RANGED, 1));
    } else {
        node.op_type = "DynamicQuantizeMatMul".to_owned();
        "com.microsoft".clone_into(&mut node.domain);
    }
    Some(Joined { node, nodes })
}

/// Returns what a node of two inputs takes beside `one`.
fn other_input<'g>(node: &'g NodeProto, operator: &str, one: &str) -> Option<&'g str> {
    (node.op_type == operator && node.attribute.is_empty()).then_some(())?;
    match node.input.as_slice() {
        [a, b] if a == one && b != one => Some(b),
        [a, b] if b == one && a != one => Some(a),
        _ => None,
    }
}

/// Returns the node that adds a bias to a product, and the bias by name: a row of floats.
fn bias<'g>(
    view: &View<'g>,
    product: &str,
    weights: &[i64],
    is_convolution: bool,
) -> Option<(usize, &'g str)> {
    let adding = view.only_reader(product)?;
    let mut name = other_input(&view.graph.node[adding], "Add", product)?;
    let channels = if is_convolution { *weights.first()? } else { *weights.last()? };
    if is_convolution {
        // A row of biases, spread over the axes of an image.
        let reshape =
            view.maker(name).filter(|node| node.op_type == "Reshape" && node.attribute.is_empty())?;
        let shape = view.constants.get(reshape.input.get(1)?.as_str())?;
        let is_integer = shape.data_type == DataType::Int64 as i32;
        let axes: Vec<i64> = if shape.raw_data.is_empty() {
            shape.int64_data.clone()
        } else {
            let (words, _) = shape.raw_data.as_chunks::<8>();
            words.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
        };
        let along_channels = axes.iter().enumerate().all(|(axis, &length)| match axis {
            1 => length == channels || length == -1,
            _ => length == 1,
        });
        (is_integer && axes.len() == weights.len() && along_channels).then_some(())?;
        name = reshape.input.first()?;
    }
    let row = view.constants.get(name)?;
    (row.data_type == DataType::Float as i32 && row.dims == [channels]).then_some((adding, name))
}
