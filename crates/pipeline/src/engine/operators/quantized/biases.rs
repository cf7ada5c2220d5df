//! Biases of floats beside quantised factors, rounded to integers as ONNX Runtime rounds them.
//!
//! *Source*: ONNX Runtime's `WeightBiasQuantization`: where a Conv or Gemm stands between quantisers and its bias is a
//! constant of floats, the bias becomes 32-bit integers in units of the product of the factors' scales. The sum is then
//! a whole number, and rounding it again falls on another side than the float sum where that is near a tie. Never
//! touches a bias that is already quantised. Runs before fusing.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::constants::tensor;
use super::fuse::{View, integer};

/// Rounds every such bias.
pub(super) fn round(graph: &mut GraphProto) {
    let view = View::of(graph);
    let found: Vec<(usize, Rounded)> = graph
        .node
        .iter()
        .enumerate()
        .filter_map(|(position, node)| Some((position, rounded(&view, graph, node)?)))
        .collect();
    // Backwards: a dequantiser goes in front of its node and moves all after it.
    for (position, bias) in found.into_iter().rev() {
        graph.node[position].input[2].clone_from(&bias.node.output[0]);
        graph.initializer.extend(bias.constants);
        graph.node.insert(position, bias.node);
    }
}

struct Rounded {
    /// The DequantizeLinear that makes the bias.
    node: NodeProto,
    constants: [TensorProto; 2],
}

fn rounded(view: &View<'_>, graph: &GraphProto, node: &NodeProto) -> Option<Rounded> {
    let is_gemm = node.op_type == "Gemm";
    let is_plain = node.domain.is_empty() || node.domain == "ai.onnx";
    (is_plain && (is_gemm || node.op_type == "Conv")).then_some(())?;
    let [input, weights, bias] = node.input.as_slice() else { return None };
    let bias_tensor = view.constants.get(bias.as_str())?;
    (bias_tensor.data_type == DataType::Float as i32 && bias_tensor.dims.len() == 1).then_some(())?;
    let biases = view.numbers(bias)?;
    let input = view.number(view.dequantised(input)?.scale)?;
    let weights = view.dequantised(weights)?;
    let scales = view.numbers(weights.scale)?;
    let is_turned = node.attribute.iter().any(|attribute| attribute.name == "transB" && attribute.i != 0);
    let channels = if is_gemm && !is_turned { 1 } else { 0 };
    let rank = if is_gemm { 2 } else { view.constants.get(weights.values)?.dims.len() as i64 };
    let axis = weights.axis.unwrap_or(1);
    let is_by_channel = (axis == channels || axis + rank == channels) && scales.len() == biases.len();
    (scales.len() == 1 || is_by_channel).then_some(())?;
    leads_to_quantiser(view, node).then_some(())?;
    let units: Vec<f32> = scales.iter().map(|scale| input * scale).collect();
    let mut integers = Vec::with_capacity(biases.len() * 4);
    for (i, bias) in biases.iter().enumerate() {
        let steps = (bias / units[i % units.len()]).round_ties_even();
        // Beyond 32 bits it is not known what becomes of it there.
        (steps.abs() < i32::MAX as f32).then_some(())?;
        integers.extend((steps as i32).to_le_bytes());
    }
    let of = |part: &str| format!("{}.bias-{part}", node.output[0]);
    let names = ["integers", "units", "rounded"].map(of);
    let is_taken = |name: &String| {
        graph.initializer.iter().any(|tensor| tensor.name == *name)
            || view.readers.contains_key(name.as_str())
            || view.makers.contains_key(name.as_str())
    };
    (!names.iter().any(is_taken)).then_some(())?;
    let [integers_name, units_name, output] = names;
    let shape: &[usize] = if units.len() == 1 { &[] } else { &[units.len()] };
    let unit_bytes = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let dequantiser = NodeProto {
        op_type: "DequantizeLinear".to_owned(),
        name: output.clone(),
        input: vec![integers_name.clone(), units_name.clone()],
        output: vec![output],
        attribute: vec![integer("axis", 0)],
        ..NodeProto::default()
    };
    let constants = [
        tensor(&integers_name, DataType::Int32, &[biases.len()], integers),
        tensor(&units_name, DataType::Float, shape, unit_bytes),
    ];
    Some(Rounded { node: dequantiser, constants })
}

/// Tells whether a QuantizeLinear alone reads a node's output, behind any Relu or Clip.
fn leads_to_quantiser(view: &View<'_>, node: &NodeProto) -> bool {
    let mut current = node;
    // Each step is one node further on in the graph.
    for _ in 0..view.graph.node.len() {
        let [output] = current.output.as_slice() else { return false };
        let Some(reader) = view.only_reader(output) else { return false };
        current = &view.graph.node[reader];
        match current.op_type.as_str() {
            "QuantizeLinear" => return true,
            "Relu" | "Clip" => {}
            _ => return false,
        }
    }
    false
}
