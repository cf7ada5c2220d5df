//! Loops over the rows of a table that compute distances, written as the one operator that does.
//!
//! Exporters of nearest neighbours and Gaussian processes write distances as a `Scan`, whose body takes one row of the
//! table at a time; a loop costs the engine a hundred times what it computes. Never touches a body that does anything
//! else. Runs before the engine reads the graph.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    type_proto,
};

use super::batch_norm::readers;
use super::operator;

/// Most loops that are looked at: each costs a walk over the graph, and a file has a few.
const LOOKED_AT_MAX: usize = 100;

/// Replaces every such loop.
pub(super) fn unroll(graph: &mut GraphProto) {
    let (mut position, mut looked_at) = (0, 0);
    while position < graph.node.len() && looked_at < LOOKED_AT_MAX {
        looked_at += usize::from(graph.node[position].op_type == "Scan");
        if let Some(nodes) = distances(graph, position) {
            graph.node.splice(position..=position, nodes);
        }
        position += 1;
    }
}

/// Returns the nodes in place of a loop: distances of every row to every one of the table, and turned, since a loop puts
/// the table's rows first.
fn distances(graph: &GraphProto, position: usize) -> Option<[NodeProto; 2]> {
    let scan = &graph.node[position];
    let is_loop = scan.op_type == "Scan" && matches!(&*scan.domain, "" | "ai.onnx");
    let ([rows, table], [last, found]) = (&scan.input[..], &scan.output[..]) else { return None };
    if !is_loop || !last.is_empty() && readers(graph, last) != 0 {
        return None;
    }
    let mut body = None;
    for attribute in &scan.attribute {
        match attribute.name.as_str() {
            "body" => body = attribute.g.as_ref(),
            "num_scan_inputs" if attribute.i == 1 => {}
            _ if attribute.name.starts_with("scan_") && attribute.ints.iter().all(|value| *value == 0) => {}
            _ => return None,
        }
    }
    let metric = metric(body?, graph)?;
    let between = format!("{found}.turned");
    let mut distances = operator("CDist", found, &[rows, table], &between);
    distances.domain = "com.microsoft".to_owned();
    distances.attribute.push(AttributeProto {
        name: "metric".to_owned(),
        r#type: AttributeType::String as i32,
        s: metric.as_bytes().to_vec(),
        ..AttributeProto::default()
    });
    let mut turned = operator("Transpose", &between, &[&between], found);
    turned.attribute.push(AttributeProto {
        name: "perm".to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: vec![1, 0],
        ..AttributeProto::default()
    });
    Some([distances, turned])
}

/// Returns what a body computes, if it is a distance of each row to the one that it is given.
fn metric(body: &GraphProto, graph: &GraphProto) -> Option<&'static str> {
    let ([rows, row], [handed_on, found]) = (&body.input[..], &body.output[..]) else { return None };
    if rank(rows) != Some(2) || rank(row) != Some(1) {
        return None;
    }
    let maker = |name: &str| body.node.iter().find(|node| node.output.iter().any(|output| output == name));
    let source = |name: &str| {
        let mut name = name.to_owned();
        // As many steps as there are nodes: names may go in circles.
        for _ in 0..body.node.len() {
            match maker(&name) {
                Some(node) if node.op_type == "Identity" && node.input.len() == 1 => {
                    name.clone_from(&node.input[0])
                }
                _ => break,
            }
        }
        name
    };
    let plain = |node: &NodeProto| matches!(&*node.domain, "" | "ai.onnx") && node.output.len() == 1;
    if source(&handed_on.name) != rows.name {
        return None;
    }
    let sum = maker(&source(&found.name)).filter(|node| plain(node) && is_over_columns(node, body, graph))?;
    let inner = maker(&source(sum.input.first()?)).filter(|node| plain(node))?;
    let (metric, difference) = match (sum.op_type.as_str(), inner.op_type.as_str()) {
        ("ReduceSumSquare", "Sub") => ("sqeuclidean", inner),
        ("ReduceSum", "Abs") => {
            let difference = maker(&source(inner.input.first()?)).filter(|node| plain(node))?;
            ("cityblock", difference)
        }
        _ => return None,
    };
    let [a, b] = &difference.input[..] else { return None };
    let (a, b) = (source(a), source(b));
    let is_difference = difference.op_type == "Sub"
        && difference.attribute.is_empty()
        && (a == rows.name && b == row.name || a == row.name && b == rows.name);
    is_difference.then_some(metric)
}

/// Returns the axes of a tensor of floats.
fn rank(value: &ValueInfoProto) -> Option<usize> {
    let TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. } = value.r#type.as_ref()? else {
        return None;
    };
    let is_float = tensor.elem_type == DataType::Float as i32 || tensor.elem_type == DataType::Double as i32;
    Some(tensor.shape.as_ref()?.dim.len()).filter(|_| is_float)
}

/// Whether a sum goes over the second axis and takes it out.
fn is_over_columns(sum: &NodeProto, body: &GraphProto, graph: &GraphProto) -> bool {
    let attribute = |name: &str| sum.attribute.iter().find(|attribute| attribute.name == name);
    let constant = |name: &String| {
        let inner = body.initializer.iter().find(|tensor| tensor.name == *name);
        let tensor = inner.or_else(|| graph.initializer.iter().find(|tensor| tensor.name == *name))?;
        let bytes = <[u8; 8]>::try_from(&tensor.raw_data[..]).ok();
        let value =
            if tensor.int64_data.len() == 1 { tensor.int64_data[0] } else { i64::from_le_bytes(bytes?) };
        (tensor.data_type == DataType::Int64 as i32 && tensor.dims.iter().product::<i64>() == 1)
            .then_some(value)
    };
    let given = match (&sum.input[..], attribute("axes")) {
        ([_], Some(axes)) => axes.ints == [1],
        ([_, axes], None) => constant(axes) == Some(1),
        _ => false,
    };
    let known = |name: &str| matches!(name, "axes" | "keepdims" | "noop_with_empty_axes");
    given
        && sum.attribute.iter().all(|attribute| known(&attribute.name))
        && attribute("keepdims").is_some_and(|keepdims| keepdims.i == 0)
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::ModelProto;
    use tract_onnx::prelude::*;

    use super::super::super::samples::{
        self, F32, Proto, graph, model, node, value, with_graph, with_int, with_ints,
    };
    use super::super::super::{operators, tract::read_proto};
    use super::*;

    const SQUARES: &[(&str, &[&str], &str)] = &[
        ("Identity", &["rows"], "rows_on"),
        ("Sub", &["rows", "row"], "difference"),
        ("ReduceSumSquare", &["difference"], "sums"),
        ("Identity", &["sums"], "found"),
    ];

    /// A loop over three rows of a table whose body has these nodes; sums go over `axis`.
    fn proto(body: &[(&str, &[&str], &str)], axis: i64, keeps: i64) -> ModelProto {
        let nodes: Vec<Proto> = body
            .iter()
            .map(|(operator, inputs, output)| {
                let node = node(operator, inputs, &[output]);
                match *operator {
                    "ReduceSumSquare" => with_int(with_ints(node, "axes", &[axis]), "keepdims", keeps),
                    "ReduceSum" => with_int(node, "keepdims", keeps),
                    _ => node,
                }
            })
            .collect();
        let body = graph(
            &nodes,
            &[samples::longs("axes", &[1], &[axis])],
            &[value("rows", F32, &[2, 2]), value("row", F32, &[2])],
            &[value("rows_on", F32, &[2, 2]), value("found", F32, &[2])],
        );
        let scan = with_int(node("Scan", &["x", "table"], &["last", "y"]), "num_scan_inputs", 1);
        let table = samples::floats("table", &[3, 2], &[0.5, -1.0, 2.0, 0.25, 1.5, -0.5]);
        let inputs = [value("x", F32, &[2, 2])];
        let graph = graph(&[with_graph(scan, "body", &body)], &[table], &inputs, &[value("y", F32, &[3, 2])]);
        read_proto(&operators::onnx(), &model(&graph)).unwrap()
    }

    fn outputs(proto: &ModelProto) -> Tensor {
        let model = operators::onnx().model_for_proto_model(proto).unwrap();
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let x = Tensor::from_shape(&[2, 2], &[1.0_f32, -2.0, 0.5, 3.0]).unwrap();
        plan.run(tvec!(x.into_tvalue())).unwrap().remove(0).into_tensor()
    }

    #[test]
    fn a_loop_of_distances_gives_what_the_operator_gives() {
        let sizes: &[(&str, &[&str], &str)] = &[
            ("Identity", &["rows"], "rows_on"),
            ("Sub", &["row", "rows"], "difference"),
            ("Abs", &["difference"], "size"),
            ("ReduceSum", &["size", "axes"], "found"),
        ];
        for body in [SQUARES, sizes] {
            let mut proto = proto(body, 1, 0);
            let expected = outputs(&proto);
            unroll(proto.graph.as_mut().unwrap());
            let nodes = &proto.graph.as_ref().unwrap().node;
            assert_eq!(nodes.iter().map(|node| &*node.op_type).collect::<Vec<_>>(), ["CDist", "Transpose"]);
            outputs(&proto).close_enough(&expected, true).unwrap();
        }
    }

    #[test]
    fn a_loop_that_does_anything_else_is_left_as_it_is() {
        let mut bodies = vec![(SQUARES.to_vec(), 0, 0), (SQUARES.to_vec(), 1, 1)];
        for (at, other) in [
            (0, ("Identity", &["difference"][..], "rows_on")),
            (0, ("Abs", &["rows"], "rows_on")),
            (1, ("Add", &["rows", "row"], "difference")),
            (1, ("Sub", &["rows", "rows"], "difference")),
            (2, ("ReduceSum", &["difference", "axes"], "sums")),
            (3, ("Identity", &["found"], "found")),
        ] {
            let mut body = SQUARES.to_vec();
            body[at] = other;
            bodies.push((body, 1, 0));
        }
        for (body, axis, keeps) in bodies {
            let mut proto = proto(&body, axis, keeps);
            let before = proto.clone();
            unroll(proto.graph.as_mut().unwrap());
            assert_eq!(proto, before, "{body:?}");
        }
    }
}
