//! Dense layers joined with the activation that follows.
//!
//! Makes `FusedGemm` of com.microsoft out of `Gemm` and what alone reads it, as ONNX Runtime does: the values are then
//! in the first cache still. Never joins what another node reads too. Runs before the engine reads the graph.

use std::collections::HashMap;

use tract_onnx::pb::{AttributeProto, GraphProto, attribute_proto::AttributeType};

use super::batch_norm::readers;

/// Activations that `FusedGemm` takes here.
const ACTIVATIONS: [&str; 3] = ["Relu", "Sigmoid", "Tanh"];

/// Most pairs that are joined: each costs a walk over the graph, and networks have a few hundred layers.
const JOINED_MAX: usize = 1_000;

/// Joins every pair that can be.
pub(super) fn fuse(graph: &mut GraphProto) {
    let layers: HashMap<String, usize> = (graph.node.iter().enumerate())
        .filter(|(_, node)| node.op_type == "Gemm" && is_default(&node.domain) && node.output.len() == 1)
        .map(|(position, node)| (node.output[0].clone(), position))
        .collect();
    let mut joined = Vec::new();
    for position in 0..graph.node.len() {
        let node = &graph.node[position];
        let is_activation = ACTIVATIONS.contains(&node.op_type.as_str())
            && is_default(&node.domain)
            && node.attribute.is_empty();
        let ([input], [output]) = (&node.input[..], &node.output[..]) else { continue };
        let Some(&layer) = layers.get(input).filter(|_| is_activation && joined.len() < JOINED_MAX) else {
            continue;
        };
        if readers(graph, input) != 1 {
            continue;
        }
        let (activation, output) = (node.op_type.clone(), output.clone());
        let layer = &mut graph.node[layer];
        layer.op_type = "FusedGemm".to_owned();
        layer.domain = "com.microsoft".to_owned();
        layer.output[0] = output;
        layer.attribute.push(AttributeProto {
            name: "activation".to_owned(),
            r#type: AttributeType::String as i32,
            s: activation.into_bytes(),
            ..AttributeProto::default()
        });
        joined.push(position);
    }
    let mut position = 0;
    graph.node.retain(|_| {
        position += 1;
        joined.binary_search(&(position - 1)).is_err()
    });
}

fn is_default(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
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
        let constants = [
            samples::floats("w", &[2, 3], &[0.5, -1.0, 2.0, 0.25, 1.5, -0.5]),
            samples::floats("b", &[3], &[0.1, -0.2, 0.3]),
        ];
        let graph = graph(&nodes, &constants, &[value("x", F32, &[2, 2])], &[value("y", F32, &[2, 3])]);
        read_proto(&operators::onnx(), &model(&graph)).unwrap()
    }

    fn outputs(proto: &ModelProto) -> Vec<f32> {
        let model = operators::onnx().model_for_proto_model(proto).unwrap();
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let x = Tensor::from_shape(&[2, 2], &[1.0_f32, -2.0, f32::NAN, 3.0]).unwrap();
        let outputs = plan.run(tvec!(x.into_tvalue())).unwrap();
        outputs[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
    }

    #[test]
    fn a_joined_layer_gives_what_its_activation_made_of_it() {
        for activation in ACTIVATIONS {
            let mut proto = proto(activation, &[]);
            let expected = outputs(&proto);
            fuse(proto.graph.as_mut().unwrap());
            let nodes = &proto.graph.as_ref().unwrap().node;
            assert_eq!(nodes.iter().map(|node| node.op_type.as_str()).collect::<Vec<_>>(), ["FusedGemm"]);
            for (value, expected) in outputs(&proto).iter().zip(&expected) {
                let is_same = value.is_nan() && expected.is_nan() || (value - expected).abs() <= 1e-6;
                assert!(is_same, "{activation}: {value} is not {expected}");
            }
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
