//! The state after the last step, taken from where a recurrent operator gives it.
//!
//! Exporters read the last step of all states, which the engine would first write, turn round and then throw away. Never
//! touches what depends on lengths or on a second direction, where the last state is another step's. Runs before the
//! engine reads the graph.
//!
//! *Source*: PyTorch's `output[:, -1]` as `torch.onnx` writes it: LSTM, GRU or RNN, Squeeze, Transpose, Gather.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::batch_norm::readers;

/// Most places that are looked at: each costs some walks over the graph, and a network has a few.
const LOOKED_AT_MAX: usize = 1_000;

/// Takes last states directly, and the names from outputs of recurrent operators that nobody reads.
pub(super) fn shorten(graph: &mut GraphProto) {
    let is_gather = |node: &NodeProto| is_operator(node, &["Gather"]) && integer(node, "axis") == Some(1);
    let gathers = graph.node.iter().enumerate().filter(|(_, node)| is_gather(node));
    let gathers: Vec<usize> = gathers.map(|(position, _)| position).take(LOOKED_AT_MAX).collect();
    let mut dropped = Vec::new();
    for position in gathers {
        let Some(found) = found(graph, position) else { continue };
        let recurrent = &mut graph.node[found.recurrent];
        recurrent.output.resize(recurrent.output.len().max(2), String::new());
        recurrent.output[1].clone_from(&found.state);
        let gather = &mut graph.node[position];
        gather.input[0] = found.state;
        // The state is `[1, batch, hidden]`, whose only block is the last one too.
        gather.attribute.iter_mut().filter(|a| a.name == "axis").for_each(|axis| axis.i = 0);
        dropped.extend(found.between);
    }
    dropped.sort_unstable();
    let mut position = 0;
    graph.node.retain(|_| {
        position += 1;
        dropped.binary_search(&(position - 1)).is_err()
    });
    let is_recurrent = |node: &NodeProto| is_operator(node, &["LSTM", "GRU", "RNN"]);
    let recurrent = graph.node.iter().enumerate().filter(|(_, node)| is_recurrent(node));
    let recurrent: Vec<usize> = recurrent.map(|(position, _)| position).take(LOOKED_AT_MAX).collect();
    for position in recurrent {
        let outputs = &graph.node[position].output;
        let is_read: Vec<bool> = outputs.iter().map(|name| readers(graph, name) > 0).collect();
        // One that gives nothing at all is for `keep` to drop.
        if is_read.contains(&true) {
            let outputs = graph.node[position].output.iter_mut().zip(is_read);
            outputs.filter(|(_, is_read)| !is_read).for_each(|(name, _)| name.clear());
        }
    }
}

/// A last step that is the last state.
struct Found {
    recurrent: usize,
    /// What stands between, and is needed no more.
    between: [usize; 2],
    /// The name of the state.
    state: String,
}

fn found(graph: &GraphProto, position: usize) -> Option<Found> {
    let [steps, index] = &graph.node[position].input[..] else { return None };
    if constant(graph, index)? != (0, vec![-1]) {
        return None;
    }
    let transpose = single_maker(graph, steps, "Transpose")?;
    if integers(&graph.node[transpose], "perm")? != [1, 0, 2] {
        return None;
    }
    let squeeze = single_maker(graph, graph.node[transpose].input.first()?, "Squeeze")?;
    let squeezed = &graph.node[squeeze];
    let is_of_directions = match &squeezed.input[..] {
        [_] => integers(squeezed, "axes")? == [1],
        [_, axes] => constant(graph, axes)? == (1, vec![1]),
        _ => false,
    };
    let all = squeezed.input.first().filter(|_| is_of_directions)?;
    let recurrent = maker(graph, all)?;
    let node = &graph.node[recurrent];
    let is_forward = node.attribute.iter().filter(|a| a.name == "direction").all(|a| a.s == b"forward");
    let has_lengths = node.input.get(4).is_some_and(|name| !name.is_empty());
    let is_plain = is_operator(node, &["LSTM", "GRU", "RNN"])
        && node.output[0] == *all
        && is_forward
        && !has_lengths
        && integer(node, "layout").unwrap_or(0) == 0;
    let state = match node.output.get(1) {
        Some(name) if !name.is_empty() => name.clone(),
        _ => Some(format!("{all}.last")).filter(|n| readers(graph, n) == 0 && maker(graph, n).is_none())?,
    };
    is_plain.then_some(Found { recurrent, between: [squeeze, transpose], state })
}

fn is_operator(node: &NodeProto, names: &[&str]) -> bool {
    matches!(node.domain.as_str(), "" | "ai.onnx") && names.contains(&node.op_type.as_str())
}

fn integer(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.i)
}

fn integers<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [i64]> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| &attribute.ints[..])
}

fn maker(graph: &GraphProto, name: &str) -> Option<usize> {
    graph.node.iter().position(|node| !name.is_empty() && node.output.iter().any(|output| output == name))
}

/// Returns the node that makes a value for one reader alone.
fn single_maker(graph: &GraphProto, name: &str, operator: &str) -> Option<usize> {
    let position = maker(graph, name).filter(|_| readers(graph, name) == 1)?;
    is_operator(&graph.node[position], &[operator]).then_some(position)
}

/// Returns rank and values of integers that nobody can replace.
fn constant(graph: &GraphProto, name: &str) -> Option<(usize, Vec<i64>)> {
    let is_input = graph.input.iter().any(|input| input.name == name);
    let stored = graph.initializer.iter().find(|tensor| tensor.name == name && !is_input);
    let tensor: &TensorProto = match stored {
        Some(tensor) => tensor,
        None => {
            let node = &graph.node[maker(graph, name)?];
            let value = node.attribute.iter().find(|attribute| attribute.name == "value");
            value.filter(|_| is_operator(node, &["Constant"]))?.t.as_ref()?
        }
    };
    if tensor.data_type != DataType::Int64 as i32 || !tensor.external_data.is_empty() {
        return None;
    }
    let (octets, _) = tensor.raw_data.as_chunks::<8>();
    let values = if tensor.raw_data.is_empty() {
        tensor.int64_data.clone()
    } else {
        octets.iter().map(|octets| i64::from_le_bytes(*octets)).collect()
    };
    Some((tensor.dims.len(), values))
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::ModelProto;
    use tract_onnx::prelude::*;

    use super::super::super::samples::{self, F32, Proto, graph, model, node, value};
    use super::super::super::{operators, tract::read_proto};
    use super::*;

    /// The last step of three, of two rows, as it is exported; the operator may be another.
    fn proto(recurrent: Proto, index: i64, more: &[Proto]) -> ModelProto {
        let mut nodes = vec![
            recurrent,
            node("Squeeze", &["all", "one"], &["squeezed"]),
            samples::with_ints(node("Transpose", &["squeezed"], &["rows"]), "perm", &[1, 0, 2]),
            samples::with_int(node("Gather", &["rows", "index"], &["y"]), "axis", 1),
        ];
        nodes.extend_from_slice(more);
        let weights = |count: usize, seed: f32| -> Vec<f32> {
            (0..count).map(|at| (at as f32 * seed).sin() * 0.7).collect()
        };
        let constants = [
            samples::floats("w", &[1, 6, 3], &weights(18, 1.3)),
            samples::floats("r", &[1, 6, 2], &weights(12, 2.1)),
            samples::longs("one", &[1], &[1]),
            samples::longs("index", &[], &[index]),
        ];
        let outputs = [value("y", F32, &[2, 2])];
        let graph = graph(&nodes, &constants, &[value("x", F32, &[3, 2, 3])], &outputs);
        read_proto(&operators::onnx(), &model(&graph)).unwrap()
    }

    fn gru() -> Proto {
        samples::with_int(node("GRU", &["x", "w", "r"], &["all", "last"]), "linear_before_reset", 1)
    }

    fn outputs(proto: &ModelProto) -> Vec<f32> {
        let model = operators::onnx().model_for_proto_model(proto).unwrap();
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let values: Vec<f32> = (0..18).map(|at| (at as f32).cos()).collect();
        let x = Tensor::from_shape(&[3, 2, 3], &values).unwrap();
        let outputs = plan.run(tvec!(x.into_tvalue())).unwrap();
        assert_eq!(outputs[0].shape(), [2, 2]);
        outputs[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
    }

    #[test]
    fn the_last_step_of_all_is_the_last_state() {
        for recurrent in [gru(), node("GRU", &["x", "w", "r"], &["all"])] {
            let mut proto = proto(recurrent, -1, &[]);
            let expected = outputs(&proto);
            shorten(proto.graph.as_mut().unwrap());
            let nodes = &proto.graph.as_ref().unwrap().node;
            assert_eq!(nodes.iter().map(|node| node.op_type.as_str()).collect::<Vec<_>>(), ["GRU", "Gather"]);
            assert_eq!(nodes[0].output[0], "");
            assert_eq!(outputs(&proto), expected);
        }
    }

    #[test]
    fn a_step_that_is_not_the_last_state_is_read_as_before() {
        let reverse = samples::with_text(gru(), "direction", "reverse");
        let lengths = node("GRU", &["x", "w", "r", "", "lengths"], &["all", "last"]);
        let read_again = [node("Identity", &["squeezed"], &["again"])];
        for (recurrent, index, more) in
            [(gru(), 1, &[][..]), (reverse, -1, &[]), (lengths, -1, &[]), (gru(), -1, &read_again)]
        {
            let mut proto = proto(recurrent, index, more);
            let before = proto.clone();
            shorten(proto.graph.as_mut().unwrap());
            let nodes = &proto.graph.as_ref().unwrap().node;
            let before = &before.graph.as_ref().unwrap().node;
            assert_eq!(nodes[1..], before[1..]);
            assert_eq!(nodes[0].output, ["all", ""]);
        }
    }
}
