//! Sequences of tensors: followed by name through the graph, and replaced by their tensors.
//!
//! Knows what exporters write: `SequenceConstruct`, `SequenceEmpty`, `SequenceInsert` at the end, `SequenceAt` with a
//! constant position, `SplitToSequence` of which single parts are taken, and `Identity`. An output that is a sequence `p`
//! becomes the outputs `p.0`, `p.1` and so on. What else uses a sequence stays, and is refused as an unknown operator.
//!
//! *Source*: ai.onnx 11, the operators of these names.

use std::collections::HashMap;
use std::rc::Rc;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, attribute_proto};

use super::super::EngineError;
use super::{identity, operator};

/// Longest sequence: the outputs that a package may have.
const LENGTH_MAX: usize = dunlin_model_package::manifest::TENSORS_MAX;

/// What a name of a sequence stands for.
#[derive(Clone)]
enum Sequence {
    /// These tensors.
    Tensors(Vec<Rc<str>>),
    /// Slices of length 1 of a tensor along an axis.
    Slices { of: Rc<str>, axis: i64, keeps_axis: KeepsAxis },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeepsAxis {
    Yes,
    No,
}

/// Takes the sequences out of a graph.
///
/// *Errors*: one is longer than the outputs that a package may have.
pub(super) fn take_out(graph: &mut GraphProto) -> Result<(), EngineError> {
    if !graph.node.iter().any(|node| node.op_type.contains("Sequence")) {
        return Ok(());
    }
    let constants = scalars(graph);
    let mut known: HashMap<String, Sequence> = HashMap::new();
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        match made_by(&node, &known, &constants) {
            Some(sequence) => {
                if matches!(&sequence, Sequence::Tensors(tensors) if tensors.len() > LENGTH_MAX) {
                    return Err(EngineError::Limit(format!(
                        "sequence `{}` has more than {LENGTH_MAX} tensors",
                        node.output[0]
                    )));
                }
                known.insert(node.output[0].clone(), sequence);
            }
            None => match taken_from(&node, &known, &constants, graph) {
                Some(replaced) => nodes.push(replaced),
                None => nodes.push(node),
            },
        }
    }
    for output in std::mem::take(&mut graph.output) {
        let Some(Sequence::Tensors(tensors)) = known.get(&output.name) else {
            graph.output.push(output);
            continue;
        };
        for (position, tensor) in tensors.iter().enumerate() {
            let name = format!("{}.{position}", output.name);
            nodes.push(identity(tensor, &name));
            graph.output.push(ValueInfoProto { name, ..ValueInfoProto::default() });
        }
    }
    graph.node = nodes;
    Ok(())
}

/// Returns the sequence that a node makes, where it is one that is followed.
fn made_by(
    node: &NodeProto,
    known: &HashMap<String, Sequence>,
    constants: &HashMap<String, i64>,
) -> Option<Sequence> {
    if node.output.len() != 1 {
        return None;
    }
    let input = |position: usize| node.input.get(position).filter(|name| !name.is_empty());
    match node.op_type.as_str() {
        "SequenceConstruct" => {
            // Cut above the limit, which is refused then.
            let names = node.input.iter().take(LENGTH_MAX + 1);
            Some(Sequence::Tensors(names.map(|name| Rc::from(name.as_str())).collect()))
        }
        "SequenceEmpty" => Some(Sequence::Tensors(Vec::new())),
        "Identity" => known.get(input(0)?).cloned(),
        "SequenceInsert" => {
            let Sequence::Tensors(mut tensors) = known.get(input(0)?)?.clone() else { return None };
            let at = match input(2) {
                None => tensors.len(),
                Some(name) => usize::try_from(*constants.get(name)?).ok()?,
            };
            if at != tensors.len() {
                return None;
            }
            tensors.push(Rc::from(input(1)?.as_str()));
            Some(Sequence::Tensors(tensors))
        }
        // Parts of given lengths are not followed: no exporter of models writes them.
        "SplitToSequence" if node.input.len() == 1 => {
            let attribute = |name: &str, absent| {
                node.attribute.iter().find(|attribute| attribute.name == name).map_or(absent, |found| found.i)
            };
            let keeps_axis = if attribute("keepdims", 1) == 0 { KeepsAxis::No } else { KeepsAxis::Yes };
            Some(Sequence::Slices {
                of: Rc::from(input(0)?.as_str()),
                axis: attribute("axis", 0),
                keeps_axis,
            })
        }
        _ => None,
    }
}

/// Returns what stands for a node that takes one tensor of a sequence.
fn taken_from(
    node: &NodeProto,
    known: &HashMap<String, Sequence>,
    constants: &HashMap<String, i64>,
    graph: &mut GraphProto,
) -> Option<NodeProto> {
    if node.op_type != "SequenceAt" || node.output.len() != 1 {
        return None;
    }
    let [sequence, position] = node.input.as_slice() else { return None };
    let position = *constants.get(position)?;
    let output = &node.output[0];
    match known.get(sequence)? {
        Sequence::Tensors(tensors) => {
            let length = i64::try_from(tensors.len()).ok()?;
            let at = if position < 0 { position.checked_add(length)? } else { position };
            let tensor = tensors.get(usize::try_from(at).ok()?)?;
            Some(identity(tensor, output))
        }
        Sequence::Slices { of, axis, keeps_axis } => {
            let index = format!("{output}.position");
            let dims = if *keeps_axis == KeepsAxis::Yes { vec![1] } else { Vec::new() };
            graph.initializer.push(TensorProto {
                name: index.clone(),
                data_type: DataType::Int64 as i32,
                dims,
                int64_data: vec![position],
                ..TensorProto::default()
            });
            let mut gather = operator("Gather", output, &[of, &index], output);
            gather.attribute.push(AttributeProto {
                name: "axis".to_owned(),
                r#type: attribute_proto::AttributeType::Int as i32,
                i: *axis,
                ..AttributeProto::default()
            });
            Some(gather)
        }
    }
}

/// Returns the integer constants of one element.
fn scalars(graph: &GraphProto) -> HashMap<String, i64> {
    let held = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor));
    let made = graph.node.iter().filter(|node| node.op_type == "Constant").filter_map(|node| {
        let tensor = node.attribute.iter().find(|attribute| attribute.name == "value")?.t.as_ref()?;
        Some((node.output.first()?.as_str(), tensor))
    });
    held.chain(made).filter_map(|(name, tensor)| Some((name.to_owned(), scalar(tensor)?))).collect()
}

fn scalar(tensor: &TensorProto) -> Option<i64> {
    if tensor.dims.iter().any(|axis| *axis != 1) {
        return None;
    }
    match DataType::try_from(tensor.data_type).ok()? {
        DataType::Int64 if tensor.raw_data.is_empty() => tensor.int64_data.first().copied(),
        DataType::Int64 => Some(i64::from_le_bytes(tensor.raw_data.as_slice().try_into().ok()?)),
        DataType::Int32 if tensor.raw_data.is_empty() => {
            tensor.int32_data.first().map(|value| i64::from(*value))
        }
        DataType::Int32 => Some(i64::from(i32::from_le_bytes(tensor.raw_data.as_slice().try_into().ok()?))),
        _ => None,
    }
}
