//! Weights that a file keeps as floats in front of their quantiser, quantised once.
//!
//! Exports of quantisation-aware training compute a weight's scale and its 8-bit integers in the graph, of constants
//! alone. Puts the results in the file's place, so that what follows is seen to be constant. Never touches what an
//! input of the graph reaches, and leaves as it is what the engine cannot compute. Runs before fusing.

use std::collections::{BTreeSet, HashMap, HashSet};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceModelExt;

/// Operators with one output that stand between a weight and its integers. None makes more values than it reads but by
/// broadcasting, which the engine's own limit of an output's size bounds.
const BETWEEN: [&str; 16] = [
    "Abs",
    "Cast",
    "Clip",
    "Constant",
    "Div",
    "Flatten",
    "Identity",
    "Max",
    "Mul",
    "Neg",
    "QuantizeLinear",
    "ReduceMax",
    "ReduceMin",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// Most nodes between a weight and its integers.
const DEPTH_MAX: usize = 32;

/// Replaces the inputs of DequantizeLinear that follow from constants by initialisers.
pub(super) fn quantise(graph: &mut GraphProto, opset: i64) {
    let Some((part, targets)) = constant_part(graph) else { return };
    let names: Vec<String> = targets.iter().cloned().collect();
    let Ok(values) = computed(part, &names, opset) else { return };
    let Some(tensors) = names.iter().zip(values).map(|(name, value)| initializer(name, &value)).collect()
    else {
        return;
    };
    let tensors: Vec<TensorProto> = tensors;
    graph.node.retain(|node| !matches!(node.output.as_slice(), [output] if targets.contains(output)));
    graph.initializer.extend(tensors);
}

/// Returns the graph of what leads from constants to inputs of DequantizeLinear, and those inputs.
fn constant_part(graph: &GraphProto) -> Option<(GraphProto, BTreeSet<String>)> {
    let inputs: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    let outputs: HashSet<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    let fixed = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    let fixed: HashSet<&str> = fixed.filter(|name| !inputs.contains(name)).collect();
    let single = graph.node.iter().enumerate().filter(|(_, node)| is_between(node));
    let makers = single.map(|(position, node)| (node.output[0].as_str(), position)).collect();
    let sources = Sources { graph, fixed, makers };
    let mut nodes = BTreeSet::new();
    let mut targets = BTreeSet::new();
    for node in graph.node.iter().filter(|node| node.op_type == "DequantizeLinear") {
        for name in node.input.iter().filter(|name| !name.is_empty() && !outputs.contains(name.as_str())) {
            let mut found = BTreeSet::new();
            let is_computed = sources.maker(name).is_some_and(|(_, maker)| maker.op_type != "Constant");
            if is_computed && sources.follow(name, DEPTH_MAX, &mut found) {
                nodes.extend(found);
                targets.insert(name.clone());
            }
        }
    }
    if targets.is_empty() {
        return None;
    }
    let node: Vec<NodeProto> = nodes.into_iter().map(|position| graph.node[position].clone()).collect();
    let read: HashSet<&str> = node.iter().flat_map(|node| &node.input).map(String::as_str).collect();
    let initializer =
        graph.initializer.iter().filter(|tensor| read.contains(tensor.name.as_str())).cloned().collect();
    let output = targets
        .iter()
        .map(|name| ValueInfoProto { name: name.clone(), ..ValueInfoProto::default() })
        .collect();
    Some((GraphProto { node, initializer, output, ..GraphProto::default() }, targets))
}

fn is_between(node: &NodeProto) -> bool {
    node.domain.is_empty()
        && BETWEEN.contains(&node.op_type.as_str())
        && node.output.len() == 1
        && node.attribute.iter().all(|attribute| attribute.g.is_none() && attribute.graphs.is_empty())
}

/// Where values come from.
struct Sources<'g> {
    graph: &'g GraphProto,
    fixed: HashSet<&'g str>,
    makers: HashMap<&'g str, usize>,
}

impl<'g> Sources<'g> {
    fn maker(&self, name: &str) -> Option<(usize, &'g NodeProto)> {
        self.makers.get(name).map(|&position| (position, &self.graph.node[position]))
    }

    /// Collects the nodes that a value follows from; tells whether it follows from constants alone.
    fn follow(&self, name: &str, depth: usize, found: &mut BTreeSet<usize>) -> bool {
        if name.is_empty() || self.fixed.contains(name) {
            return true;
        }
        let Some((position, node)) = self.maker(name) else { return false };
        // A node that was seen is on its way or done: either way it need not be followed again.
        depth > 0
            && (!found.insert(position)
                || node.input.iter().all(|input| self.follow(input, depth - 1, found)))
    }
}

fn computed(part: GraphProto, outputs: &[String], opset: i64) -> TractResult<TVec<TValue>> {
    let proto = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { version: opset, ..OperatorSetIdProto::default() }],
        graph: Some(part),
        ..ModelProto::default()
    };
    let model = super::super::onnx().model_for_proto_model(&proto)?;
    let values = model.into_typed()?.into_runnable()?.run(tvec!())?;
    ensure!(values.len() == outputs.len(), "{} results for {} names", values.len(), outputs.len());
    Ok(values)
}

fn initializer(name: &str, value: &Tensor) -> Option<TensorProto> {
    let element = match value.datum_type() {
        DatumType::F32 => DataType::Float,
        DatumType::U8 => DataType::Uint8,
        DatumType::I8 => DataType::Int8,
        DatumType::I32 => DataType::Int32,
        _ => return None,
    };
    Some(tensor(name, element, value.shape(), value.as_bytes().to_vec()))
}

/// Returns a constant of a graph. Bytes are little-endian, as on every machine that the engine runs on.
pub(super) fn tensor(name: &str, element: DataType, shape: &[usize], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: shape.iter().map(|&length| length as i64).collect(),
        data_type: element as i32,
        raw_data: bytes,
        ..TensorProto::default()
    }
}
