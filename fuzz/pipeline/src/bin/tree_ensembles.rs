//! Tree ensembles: whatever the attributes say, the node is built or refused, and nothing panics.
//!
//! The first byte chooses the operator; every attribute then takes a byte for its length and a byte a value.

#![no_main]

use dunlin_pipeline::engine::OnnxFile;
use libfuzzer_sys::fuzz_target;

/// Longest list: enough for a few trees.
const LIST_MAX: usize = 12;
/// Numbers of ONNX's `AttributeProto.type`.
const FLOAT_LIST: u64 = 6;
const INT_LIST: u64 = 7;
const TEXT_LIST: u64 = 8;
const TENSOR: u64 = 4;
const INT: u64 = 2;

const NODES: [(&str, u64); 8] = [
    ("nodes_treeids", INT_LIST),
    ("nodes_nodeids", INT_LIST),
    ("nodes_featureids", INT_LIST),
    ("nodes_truenodeids", INT_LIST),
    ("nodes_falsenodeids", INT_LIST),
    ("nodes_modes", TEXT_LIST),
    ("nodes_values", FLOAT_LIST),
    ("base_values", FLOAT_LIST),
];
const CLASSES: [(&str, u64); 5] = [
    ("class_treeids", INT_LIST),
    ("class_nodeids", INT_LIST),
    ("class_ids", INT_LIST),
    ("class_weights", FLOAT_LIST),
    ("classlabels_int64s", INT_LIST),
];
const TARGETS: [(&str, u64); 5] = [
    ("target_treeids", INT_LIST),
    ("target_nodeids", INT_LIST),
    ("target_ids", INT_LIST),
    ("target_weights", FLOAT_LIST),
    ("n_targets", INT),
];
const SPLITS: [(&str, u64); 12] = [
    ("tree_roots", INT_LIST),
    ("nodes_featureids", INT_LIST),
    ("nodes_truenodeids", INT_LIST),
    ("nodes_trueleafs", INT_LIST),
    ("nodes_falsenodeids", INT_LIST),
    ("nodes_falseleafs", INT_LIST),
    ("leaf_targetids", INT_LIST),
    ("nodes_splits", TENSOR),
    ("leaf_weights", TENSOR),
    ("membership_values", TENSOR),
    ("nodes_modes", TENSOR),
    ("n_targets", INT),
];
const MODES: [&str; 7] =
    ["LEAF", "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];

/// A protobuf message under construction.
#[derive(Default)]
struct Proto(Vec<u8>);

impl Proto {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn int(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }
}

fn signed(byte: u8) -> u64 {
    match byte as i8 {
        i8::MAX => i64::MAX as u64,
        i8::MIN => i64::MIN as u64,
        other => i64::from(other) as u64,
    }
}

fn float(byte: u8) -> f32 {
    match byte as i8 {
        i8::MAX => f32::NAN,
        i8::MIN => f32::INFINITY,
        other => f32::from(other) / 2.0,
    }
}

fn tensor(name: &str, values: &[u8]) -> Proto {
    let mut tensor = Proto::default();
    tensor.int(1, values.len() as u64);
    if name == "nodes_modes" {
        tensor.int(2, 2);
        tensor.bytes(9, values);
    } else {
        tensor.int(2, 1);
        let raw: Vec<u8> = values.iter().flat_map(|value| float(*value).to_le_bytes()).collect();
        tensor.bytes(9, &raw);
    }
    tensor
}

fn attribute(name: &str, kind: u64, values: &[u8]) -> Proto {
    let mut attribute = Proto::default();
    attribute.bytes(1, name.as_bytes());
    attribute.int(20, kind);
    match kind {
        INT => attribute.int(3, values.first().copied().map_or(1, signed)),
        INT_LIST => values.iter().for_each(|value| attribute.int(8, signed(*value))),
        FLOAT_LIST => {
            let raw: Vec<u8> = values.iter().flat_map(|value| float(*value).to_le_bytes()).collect();
            attribute.bytes(7, &raw);
        }
        TEXT_LIST => {
            let mode = |value: &u8| MODES[usize::from(*value) % MODES.len()].as_bytes();
            values.iter().for_each(|value| attribute.bytes(9, mode(value)));
        }
        _ => attribute.bytes(5, &tensor(name, values).0),
    }
    attribute
}

fn model(operator: &str, attributes: &[(&str, u64)], mut data: &[u8]) -> Vec<u8> {
    let mut node = Proto::default();
    node.bytes(1, b"x");
    node.bytes(2, b"y");
    node.bytes(4, operator.as_bytes());
    for (name, kind) in attributes {
        let Some((length, rest)) = data.split_first() else { break };
        let length = (usize::from(*length) % (LIST_MAX + 1)).min(rest.len());
        let (values, rest) = rest.split_at(length);
        data = rest;
        if !values.is_empty() {
            node.bytes(5, &attribute(name, *kind, values).0);
        }
    }
    let mut graph = Proto::default();
    graph.bytes(1, &node.0);
    let mut opset = Proto::default();
    opset.bytes(1, b"ai.onnx.ml");
    opset.int(2, 5);
    let mut model = Proto::default();
    model.int(1, 8);
    model.bytes(7, &graph.0);
    model.bytes(8, &opset.0);
    model.0
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let (operator, attributes) = match choice % 3 {
        0 => ("TreeEnsembleClassifier", [&NODES[..], &CLASSES].concat()),
        1 => ("TreeEnsembleRegressor", [&NODES[..], &TARGETS].concat()),
        _ => ("TreeEnsemble", SPLITS.to_vec()),
    };
    let file = OnnxFile::read(&model(operator, &attributes, data)).expect("the message is a model");
    for node in file.refused_nodes() {
        assert!(!node.reason.contains("panicked"), "{}", node.reason);
    }
});
