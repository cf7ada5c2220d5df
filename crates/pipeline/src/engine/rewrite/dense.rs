//! Dense layers joined with what follows: a `MatMul` with its bias, and both it and `Gemm` with their activation.
//!
//! Makes one layer out of nodes that alone read each other, as ONNX Runtime does: the values are then in the first cache
//! still. `Gemm` becomes `FusedGemm` of com.microsoft; a product of any number of axes has no such operator and gets a name
//! of its own. Never joins what another node reads too. Runs before the engine reads the graph.

use std::collections::HashMap;

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType};

use super::super::operators::LINEAR;
use super::batch_norm::readers;

/// Activations that layers take: as in the file, and as the layer's attribute.
const ACTIVATIONS: [(&str, &str); 6] = [
    ("Relu", "Relu"),
    ("Sigmoid", "Sigmoid"),
    ("Tanh", "Tanh"),
    ("LeakyRelu", "LeakyRelu"),
    ("QuickGelu", "QuickGelu"),
    ("Gelu", "FastGelu"),
];

/// Most pairs that are joined: each costs a walk over the graph, and networks have a few hundred layers.
const JOINED_MAX: usize = 1_000;

/// Joins every pair that can be.
pub(super) fn fuse(graph: &mut GraphProto) {
    join_swish(graph);
    join_biases(graph);
    join_activations(graph);
}

/// Makes one node of `x * Sigmoid(x)`.
fn join_swish(graph: &mut GraphProto) {
    let gates: HashMap<String, usize> = (graph.node.iter().enumerate())
        .filter(|(_, node)| node.op_type == "Sigmoid" && is_plain(node) && node.input.len() == 1)
        .map(|(position, node)| (node.output[0].clone(), position))
        .collect();
    let mut joined = Vec::new();
    for position in 0..graph.node.len() {
        let node = &graph.node[position];
        let [a, b] = &node.input[..] else { continue };
        if node.op_type != "Mul" || !is_plain(node) || joined.len() >= JOINED_MAX {
            continue;
        }
        let found = [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
            let gate = *gates.get(gate)?;
            (graph.node[gate].input[0] == *x).then_some(gate)
        });
        let Some(gate) = found.filter(|gate| readers(graph, &graph.node[*gate].output[0]) == 1) else {
            continue;
        };
        let x = graph.node[gate].input[0].clone();
        let node = &mut graph.node[position];
        node.op_type = "QuickGelu".to_owned();
        node.domain = "com.microsoft".to_owned();
        node.input = vec![x];
        node.attribute.push(AttributeProto {
            name: "alpha".to_owned(),
            r#type: AttributeType::Float as i32,
            f: 1.0,
            ..AttributeProto::default()
        });
        joined.push(gate);
    }
    joined.sort_unstable();
    without(graph, &joined);
}

/// Makes layers of products with constants, and adds the constants that are added to them.
fn join_biases(graph: &mut GraphProto) {
    let constants: HashMap<String, Vec<i64>> = (graph.initializer.iter())
        .filter(|tensor| tensor.data_type == DataType::Float as i32)
        .map(|tensor: &TensorProto| (tensor.name.clone(), tensor.dims.clone()))
        .collect();
    let mut layers = HashMap::new();
    for (position, node) in graph.node.iter_mut().enumerate() {
        let [_, weights] = &node.input[..] else { continue };
        let is_matrix = constants.get(weights).is_some_and(|dims| dims.len() == 2);
        if node.op_type == "MatMul" && is_plain(node) && is_matrix {
            node.op_type = LINEAR.to_owned();
            layers.insert(node.output[0].clone(), position);
        }
    }
    let mut joined = Vec::new();
    for position in 0..graph.node.len() {
        let node = &graph.node[position];
        let [a, b] = &node.input[..] else { continue };
        if node.op_type != "Add" || !is_plain(node) || joined.len() >= JOINED_MAX {
            continue;
        }
        let found = [(a, b), (b, a)].into_iter().find_map(|(sum, bias)| {
            let is_row =
                |dims: &Vec<i64>| dims.len() <= 2 && dims.iter().rev().skip(1).all(|length| *length == 1);
            let layer = *layers.get(sum)?;
            let is_bias = constants.get(bias).is_some_and(is_row);
            (is_bias && graph.node[layer].input.len() == 2).then_some((layer, bias.clone()))
        });
        let Some((layer, bias)) =
            found.filter(|(layer, _)| readers(graph, &graph.node[*layer].output[0]) == 1)
        else {
            continue;
        };
        let output = node.output[0].clone();
        let layer = &mut graph.node[layer];
        layer.input.push(bias);
        layer.output[0] = output;
        joined.push(position);
    }
    without(graph, &joined);
}

fn join_activations(graph: &mut GraphProto) {
    let is_layer = |node: &NodeProto| {
        node.output.len() == 1 && is_default(&node.domain) && matches!(&*node.op_type, "Gemm" | LINEAR)
    };
    let layers: HashMap<String, usize> = (graph.node.iter().enumerate())
        .filter(|(_, node)| is_layer(node))
        .map(|(position, node)| (node.output[0].clone(), position))
        .collect();
    let mut joined = Vec::new();
    for position in 0..graph.node.len() {
        let node = &graph.node[position];
        let ([input], [output]) = (&node.input[..], &node.output[..]) else { continue };
        let Some(&layer) = layers.get(input).filter(|_| joined.len() < JOINED_MAX) else { continue };
        let Some(attributes) = activation(node).filter(|_| readers(graph, input) == 1) else { continue };
        let output = output.clone();
        let layer = &mut graph.node[layer];
        if layer.op_type == "Gemm" {
            layer.op_type = "FusedGemm".to_owned();
            layer.domain = "com.microsoft".to_owned();
        }
        layer.output[0] = output;
        layer.attribute.extend(attributes);
        joined.push(position);
    }
    without(graph, &joined);
}

/// Returns a layer's attributes for an activation that follows, if it is one that layers take.
fn activation(node: &NodeProto) -> Option<Vec<AttributeProto>> {
    let (_, name) = ACTIVATIONS.iter().find(|(operator, _)| *operator == node.op_type)?;
    let is_known = is_default(&node.domain) || node.op_type == "QuickGelu";
    let mut attributes = vec![AttributeProto {
        name: "activation".to_owned(),
        r#type: AttributeType::String as i32,
        s: name.as_bytes().to_vec(),
        ..AttributeProto::default()
    }];
    match (&node.attribute[..], *name) {
        ([approximate], "FastGelu") if approximate.name == "approximate" && approximate.s == b"tanh" => {}
        ([], name) if name != "FastGelu" => {}
        ([alpha], "LeakyRelu" | "QuickGelu") if alpha.name == "alpha" => {
            attributes.push(AttributeProto { name: "activation_alpha".to_owned(), ..alpha.clone() });
        }
        _ => return None,
    }
    is_known.then_some(attributes)
}

/// Drops the nodes at some positions, which rise.
fn without(graph: &mut GraphProto, positions: &[usize]) {
    let mut position = 0;
    graph.node.retain(|_| {
        position += 1;
        positions.binary_search(&(position - 1)).is_err()
    });
}

fn is_default(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Whether a node is of the default operator set, without attributes, and has one output.
fn is_plain(node: &NodeProto) -> bool {
    is_default(&node.domain) && node.attribute.is_empty() && node.output.len() == 1
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::ModelProto;
    use tract_onnx::prelude::*;

    use super::super::super::samples::{self, F32, Proto, graph, model, node, value};
    use super::super::super::{operators, tract::read_proto};
    use super::*;

    fn proto(activation: &str, more: &[Proto]) -> ModelProto {
        let mut nodes = vec![node("Gemm", &["x", "w", "b"], &["s"]), node(activation, &["s"], &["y"])];
        nodes.extend_from_slice(more);
        of(&nodes, &[2, 2])
    }

    fn of(nodes: &[Proto], shape: &[i64]) -> ModelProto {
        let constants = [
            samples::floats("w", &[2, 3], &[0.5, -1.0, 2.0, 0.25, 1.5, -0.5]),
            samples::floats("b", &[3], &[0.1, -0.2, 0.3]),
            samples::floats("c", &[1, 3], &[0.1, -0.2, 0.3]),
            samples::floats("d", &[2, 1], &[0.1, -0.2]),
        ];
        let mut out = shape.to_vec();
        if let Some(last) = out.last_mut() {
            *last = 3;
        }
        let graph = graph(nodes, &constants, &[value("x", F32, shape)], &[value("y", F32, &out)]);
        read_proto(&operators::onnx(), &model(&graph)).unwrap()
    }

    fn outputs(proto: &ModelProto, shape: &[usize]) -> Vec<f32> {
        let model = operators::onnx().model_for_proto_model(proto).unwrap();
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let x = Tensor::from_shape(shape, &[1.0_f32, -2.0, f32::NAN, 3.0]).unwrap();
        let outputs = plan.run(tvec!(x.into_tvalue())).unwrap();
        outputs[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
    }

    fn same(proto: &mut ModelProto, shape: &[usize], joined: &[&str]) {
        let expected = outputs(proto, shape);
        fuse(proto.graph.as_mut().unwrap());
        let nodes = &proto.graph.as_ref().unwrap().node;
        assert_eq!(nodes.iter().map(|node| node.op_type.as_str()).collect::<Vec<_>>(), joined);
        let found = outputs(proto, shape);
        assert_eq!(found.len(), expected.len());
        for (value, expected) in found.iter().zip(&expected) {
            let is_same = value.is_nan() && expected.is_nan() || (value - expected).abs() <= 1e-6;
            assert!(is_same, "{joined:?}: {value} is not {expected}");
        }
    }

    #[test]
    fn a_joined_layer_gives_what_its_activation_made_of_it() {
        for (activation, _) in &ACTIVATIONS[..4] {
            same(&mut proto(activation, &[]), &[2, 2], &["FusedGemm"]);
        }
    }

    #[test]
    fn a_product_with_constants_is_joined_with_its_bias_and_its_activation() {
        for shape in [&[2_i64, 2][..], &[1, 2, 2], &[2, 1, 2]] {
            let plain: Vec<usize> = shape.iter().map(|&length| usize::try_from(length).unwrap()).collect();
            for bias in ["b", "c"] {
                for inputs in [["p", bias], [bias, "p"]] {
                    let mut nodes = vec![node("MatMul", &["x", "w"], &["p"]), node("Add", &inputs, &["y"])];
                    same(&mut of(&nodes, shape), &plain, &[LINEAR]);
                    nodes[1] = node("Add", &inputs, &["s"]);
                    nodes.push(node("Tanh", &["s"], &["y"]));
                    same(&mut of(&nodes, shape), &plain, &[LINEAR]);
                }
            }
            let nodes = [node("MatMul", &["x", "w"], &["y"])];
            same(&mut of(&nodes, shape), &plain, &[LINEAR]);
        }
    }

    #[test]
    fn a_sum_that_is_no_bias_stays_a_sum() {
        for other in ["d", "x2"] {
            let mut nodes = vec![node("MatMul", &["x", "w"], &["p"]), node("Add", &["p", other], &["y"])];
            if other == "x2" {
                nodes.insert(0, node("MatMul", &["x", "w"], &["x2"]));
                same(&mut of(&nodes, &[2, 2]), &[2, 2], &[LINEAR, LINEAR, "Add"]);
            } else {
                same(&mut of(&nodes, &[2, 2]), &[2, 2], &[LINEAR, "Add"]);
            }
        }
    }

    #[test]
    fn a_value_times_its_sigmoid_is_one_activation() {
        for inputs in [["s", "g"], ["g", "s"]] {
            let nodes = [
                node("Gemm", &["x", "w", "b"], &["s"]),
                node("Sigmoid", &["s"], &["g"]),
                node("Mul", &inputs, &["y"]),
            ];
            same(&mut of(&nodes, &[2, 2]), &[2, 2], &["FusedGemm"]);
        }
    }

    #[test]
    fn a_layer_that_others_read_is_left_as_it_is() {
        for (activation, more) in [("Relu", &[node("Identity", &["s"], &["z"])][..]), ("Exp", &[])] {
            let mut proto = proto(activation, more);
            let before = proto.clone();
            fuse(proto.graph.as_mut().unwrap());
            assert_eq!(proto, before);
        }
    }
}
