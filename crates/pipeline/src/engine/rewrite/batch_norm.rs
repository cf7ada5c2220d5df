//! Batch normalisation folded into the convolution before it.
//!
//! Changes the weights of a decoded graph, so that a convolution gives what the normalisation would make of it; the
//! engine would otherwise walk over the whole result twice more. Never touches a weight that another node reads, and
//! leaves what is odd as it is, for the engine to judge. Runs before the engine reads the graph.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

/// ONNX's value of `epsilon` where a node has none.
const EPSILON: f32 = 1e-5;

/// Most normalisations that are looked at: each costs a walk over the graph, and the deepest known networks have a few
/// hundred.
const LOOKED_AT_MAX: usize = 1_000;

/// Folds every normalisation that can be.
pub(super) fn fold(graph: &mut GraphProto) {
    let (mut position, mut looked_at) = (0, 0);
    while position < graph.node.len() && looked_at < LOOKED_AT_MAX {
        looked_at += usize::from(graph.node[position].op_type == "BatchNormalization");
        if let Some(folded) = folded(graph, position) {
            let output = graph.node[position].output[0].clone();
            let conv = &mut graph.node[folded.conv];
            conv.output[0] = output;
            conv.input.truncate(2);
            conv.input.push(folded.bias.name.clone());
            let weights = conv.input[1].clone();
            if let Some(tensor) = graph.initializer.iter_mut().find(|tensor| tensor.name == weights) {
                *tensor = folded.weights;
            }
            graph.initializer.push(folded.bias);
            graph.node.remove(position);
        } else {
            position += 1;
        }
    }
}

struct Folded {
    conv: usize,
    weights: TensorProto,
    bias: TensorProto,
}

fn folded(graph: &GraphProto, position: usize) -> Option<Folded> {
    let norm = &graph.node[position];
    let is_plain = norm.op_type == "BatchNormalization"
        && norm.domain.is_empty()
        && norm.output.iter().filter(|name| !name.is_empty()).count() == 1
        && norm.attribute.iter().all(|attribute| match attribute.name.as_str() {
            "epsilon" | "momentum" => true,
            "training_mode" => attribute.i == 0,
            "spatial" => attribute.i == 1,
            _ => false,
        });
    let [x, parameters @ ..] = &norm.input[..] else { return None };
    if !is_plain || parameters.len() != 4 || readers(graph, x) != 1 {
        return None;
    }
    let is_source = |node: &NodeProto| {
        node.op_type == "Conv" && node.domain.is_empty() && node.output.len() == 1 && node.output[0] == *x
    };
    let conv_position = graph.node.iter().position(is_source)?;
    let conv = &graph.node[conv_position];
    let weights = initializer(graph, conv.input.get(1)?)?;
    let channels = usize::try_from(*weights.dims.first()?).ok().filter(|&channels| channels > 0)?;
    if readers(graph, &weights.name) != 1 {
        return None;
    }
    let values = |name: &String| floats(initializer(graph, name)?).filter(|v| v.len() == channels);
    let [scale, shift, mean, variance] = [0, 1, 2, 3].map(|at| values(&parameters[at]));
    let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
    let bias = match conv.input.get(2).filter(|name| !name.is_empty()) {
        Some(name) => values(name)?,
        None => vec![0.0; channels],
    };
    let epsilon = norm.attribute.iter().find(|attribute| attribute.name == "epsilon");
    let epsilon = f64::from(epsilon.map_or(EPSILON, |attribute| attribute.f));
    let factors: Vec<f64> =
        scale.iter().zip(&variance).map(|(s, v)| f64::from(*s) / (f64::from(*v) + epsilon).sqrt()).collect();
    let mut matrix = floats(weights).filter(|values| !values.is_empty() && values.len() % channels == 0)?;
    let width = matrix.len() / channels;
    for (row, factor) in matrix.chunks_exact_mut(width).zip(&factors) {
        row.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
    }
    let moved = |k: usize| (f64::from(bias[k]) - f64::from(mean[k])) * factors[k] + f64::from(shift[k]);
    let bias: Vec<f32> = (0..channels).map(|k| moved(k) as f32).collect();
    let name = format!("{}.folded", norm.output[0]);
    let is_new = initializer(graph, &name).is_none() && readers(graph, &name) == 0;
    is_new.then(|| Folded {
        conv: conv_position,
        weights: tensor(&weights.name, &weights.dims, &matrix),
        bias: tensor(&name, &[channels as i64], &bias),
    })
}

/// Returns how many places read a value; a graph inside a node may read any, and counts.
pub(super) fn readers(graph: &GraphProto, name: &str) -> usize {
    let outputs = graph.output.iter().filter(|output| output.name == name).count();
    // An initialiser that is an input as well can be replaced by whoever runs the graph.
    let inputs = graph.input.iter().filter(|input| input.name == name).count();
    let nodes = graph.node.iter().map(|node| {
        let inner = node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
        node.input.iter().filter(|input| *input == name).count()
            + inner.map(|graph| readers(graph, name)).sum::<usize>()
    });
    outputs + inputs + nodes.sum::<usize>()
}

fn initializer<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a TensorProto> {
    graph.initializer.iter().find(|tensor| tensor.name == name)
}

/// Returns the values of a tensor of f32 that stands in the file.
fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    if tensor.data_type != DataType::Float as i32 || !tensor.external_data.is_empty() {
        return None;
    }
    let values: Vec<f32> = if tensor.raw_data.is_empty() {
        tensor.float_data.clone()
    } else {
        tensor.raw_data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let length = tensor.dims.iter().try_fold(1_i64, |length, &dim| length.checked_mul(dim))?;
    (i64::try_from(values.len()) == Ok(length)).then_some(values)
}

fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::ModelProto;
    use tract_onnx::prelude::*;

    use super::super::super::samples::{self, F32, Proto, graph, model, node, value};
    use super::super::super::{operators, tract::read_proto};
    use super::*;

    const WEIGHTS: [f32; 12] = [0.5, -1.0, 2.0, 0.25, 1.5, -0.5, 1.0, 0.0, -2.0, 0.75, 0.125, 3.0];

    /// A convolution of two channels to three and what is normalised of it.
    fn proto(normalised: &str, more: &[Proto]) -> ModelProto {
        let mut nodes = vec![
            node("Conv", &["x", "w", "b"], &["c"]),
            node("BatchNormalization", &[normalised, "scale", "shift", "mean", "variance"], &["y"]),
        ];
        nodes.extend_from_slice(more);
        let constants = [
            samples::floats("w", &[3, 2, 2], &WEIGHTS),
            samples::floats("b", &[3], &[0.1, -0.2, 0.3]),
            samples::floats("scale", &[3], &[1.5, -0.5, 2.0]),
            samples::floats("shift", &[3], &[0.0, 1.0, -1.0]),
            samples::floats("mean", &[3], &[0.5, 0.25, -0.5]),
            samples::floats("variance", &[3], &[0.5, 4.0, 0.01]),
        ];
        let graph = graph(&nodes, &constants, &[value("x", F32, &[1, 2, 4])], &[value("y", F32, &[1, 3, 3])]);
        read_proto(&operators::onnx(), &model(&graph)).unwrap()
    }

    fn outputs(proto: &ModelProto) -> Vec<f32> {
        let model = operators::onnx().model_for_proto_model(proto).unwrap();
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let x = Tensor::from_shape(&[1, 2, 4], &[1.0_f32, -2.0, 0.5, 3.0, 0.0, 4.0, -1.0, 2.0]).unwrap();
        let outputs = plan.run(tvec!(x.into_tvalue())).unwrap();
        outputs[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
    }

    #[test]
    fn a_folded_convolution_gives_what_the_normalisation_made_of_it() {
        let mut proto = proto("c", &[]);
        let expected = outputs(&proto);
        fold(proto.graph.as_mut().unwrap());
        assert_eq!(proto.graph.as_ref().unwrap().node.len(), 1);
        for (value, expected) in outputs(&proto).iter().zip(&expected) {
            assert!((value - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{value} is not {expected}");
        }
    }

    #[test]
    fn what_others_read_is_left_as_it_is() {
        let reader = |name: &str| [node("Identity", &[name], &["z"])];
        for (normalised, more) in [("c", &reader("c")[..]), ("c", &reader("w")), ("x", &[])] {
            let mut proto = proto(normalised, more);
            let before = proto.clone();
            fold(proto.graph.as_mut().unwrap());
            assert_eq!(proto, before);
        }
    }
}
