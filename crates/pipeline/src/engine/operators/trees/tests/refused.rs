//! Attributes that lie: each is refused by name when the model is built, or the ensemble runs; nothing panics or hangs.

use proptest::prelude::*;
use tract_onnx::pb::AttributeProto;
use tract_onnx::prelude::*;

use super::super::super::testing::{float, floats, int, ints, node, run_node, text, texts};
use super::{octets, singles, tensor_attribute};

/// A regressor with one tree: a branch (node 0), a branch (1), three leaves (2, 3, 4).
fn regressor() -> Vec<AttributeProto> {
    let leaf = "LEAF";
    vec![
        ints("nodes_treeids", &[7; 5]),
        ints("nodes_nodeids", &[0, 1, 2, 3, 4]),
        ints("nodes_featureids", &[0, 1, 0, 0, 0]),
        floats("nodes_values", &[0.5, -1.0, 0.0, 0.0, 0.0]),
        texts("nodes_modes", &["BRANCH_LEQ", "BRANCH_LEQ", leaf, leaf, leaf]),
        ints("nodes_truenodeids", &[1, 3, 0, 0, 0]),
        ints("nodes_falsenodeids", &[2, 4, 0, 0, 0]),
        ints("target_treeids", &[7; 3]),
        ints("target_nodeids", &[2, 3, 4]),
        ints("target_ids", &[0, 0, 0]),
        floats("target_weights", &[1.0, 2.0, 3.0]),
        int("n_targets", 1),
    ]
}

/// A classifier of the same tree with two classes.
fn classifier() -> Vec<AttributeProto> {
    let mut attributes = regressor();
    attributes.retain(|attribute| attribute.name != "n_targets");
    for attribute in &mut attributes {
        attribute.name = attribute.name.replace("target_", "class_");
    }
    attributes.push(ints("classlabels_int64s", &[3, 8]));
    attributes
}

/// A `TreeEnsemble` of the same tree.
fn splits() -> Vec<AttributeProto> {
    vec![
        ints("tree_roots", &[0]),
        ints("nodes_featureids", &[0, 1]),
        tensor_attribute("nodes_splits", singles(&[0.5, -1.0])),
        tensor_attribute("nodes_modes", octets(&[0, 6])),
        tensor_attribute("membership_values", singles(&[-1.0, 4.0, f32::NAN])),
        ints("nodes_truenodeids", &[1, 1]),
        ints("nodes_trueleafs", &[0, 1]),
        ints("nodes_falsenodeids", &[0, 2]),
        ints("nodes_falseleafs", &[1, 1]),
        ints("leaf_targetids", &[0, 0, 0]),
        tensor_attribute("leaf_weights", singles(&[1.0, 2.0, 3.0])),
        int("n_targets", 1),
    ]
}

fn with(mut attributes: Vec<AttributeProto>, change: AttributeProto) -> Vec<AttributeProto> {
    attributes.retain(|attribute| attribute.name != change.name);
    attributes.push(change);
    attributes
}

fn run(operator: &str, attributes: Vec<AttributeProto>) -> Result<Vec<Tensor>, String> {
    let outputs = if operator.ends_with("Classifier") { 2 } else { 1 };
    let input = tensor2(&[[0.0_f32, -1.0], [0.0, 0.0], [1.0, 0.0], [f32::NAN, 4.0], [0.0, 4.0]]);
    run_node(node(operator, 1, outputs, attributes), &[input]).map_err(|error| error.to_string())
}

#[test]
fn ensembles_that_are_right_run() {
    let values = run("TreeEnsembleRegressor", regressor()).unwrap();
    assert_eq!(values, [tensor2(&[[2.0_f32], [3.0], [1.0], [1.0], [3.0]])]);
    let values = run("TreeEnsemble", splits()).unwrap();
    assert_eq!(values, [tensor2(&[[2.0_f32], [3.0], [1.0], [1.0], [2.0]])]);
    let values = run("TreeEnsembleClassifier", classifier()).unwrap();
    assert_eq!(values[0], tensor1(&[8_i64; 5]));
}

#[test]
fn nodes_in_any_order_with_any_ids_are_the_same_tree() {
    let shuffled = [
        ints("nodes_treeids", &[i64::MIN; 5]),
        ints("nodes_nodeids", &[-9, 30, i64::MAX, 5, 0]),
        ints("nodes_featureids", &[0, 0, 0, 1, 0]),
        floats("nodes_values", &[0.0, 0.0, 0.5, -1.0, 0.0]),
        texts("nodes_modes", &["LEAF", "LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF"]),
        ints("nodes_truenodeids", &[0, 0, 5, 30, 0]),
        ints("nodes_falsenodeids", &[0, 0, -9, 0, 0]),
        ints("target_treeids", &[i64::MIN; 3]),
        ints("target_nodeids", &[0, 30, -9]),
        floats("target_weights", &[3.0, 2.0, 1.0]),
    ];
    let attributes = shuffled.into_iter().fold(regressor(), with);
    assert_eq!(run("TreeEnsembleRegressor", attributes), run("TreeEnsembleRegressor", regressor()));
}

#[test]
fn chains_of_equalities_may_share_their_true_child() {
    let attributes = [
        texts("nodes_modes", &["BRANCH_EQ", "BRANCH_EQ", "LEAF", "LEAF", "LEAF"]),
        ints("nodes_featureids", &[1, 1, 0, 0, 0]),
        floats("nodes_values", &[4.0, -1.0, 0.0, 0.0, 0.0]),
        ints("nodes_truenodeids", &[2, 2, 0, 0, 0]),
        ints("nodes_falsenodeids", &[1, 3, 0, 0, 0]),
        ints("nodes_treeids", &[7, 7, 7, 7, 8]),
        ints("target_treeids", &[7, 7, 8]),
    ];
    let attributes = attributes.into_iter().fold(regressor(), with);
    let values = run("TreeEnsembleRegressor", attributes).unwrap();
    assert_eq!(values, [tensor2(&[[4.0_f32], [5.0], [5.0], [4.0], [4.0]])]);
}

#[test]
fn lies_in_node_lists_are_refused_by_name() {
    let cases = [
        (ints("nodes_truenodeids", &[0, 3, 0, 0, 0]), "no root leads to branch 0"),
        (ints("nodes_truenodeids", &[1, 0, 0, 0, 0]), "no root leads to branch 0"),
        (ints("nodes_falsenodeids", &[3, 4, 0, 0, 0]), "several roots"),
        (ints("nodes_falsenodeids", &[9, 4, 0, 0, 0]), "leads to node 9, which is not there"),
        (ints("nodes_nodeids", &[0, 1, 2, 2, 4]), "two nodes 2"),
        (ints("nodes_treeids", &[7, 7, 7, 7]), "`nodes_nodeids` has 5 values and `nodes_treeids` 4"),
        (ints("nodes_treeids", &[]), "`nodes_treeids` is empty"),
        (ints("nodes_featureids", &[0, -1, 0, 0, 0]), "asks for column -1"),
        (ints("nodes_featureids", &[0, 2, 0, 0, 0]), "asks for column 2 of 2"),
        (floats("nodes_values", &[0.5, f32::NAN, 0.0, 0.0, 0.0]), "NaN"),
        (texts("nodes_modes", &["BRANCH_LEQ", "BRANCH_MEMBER", "LEAF", "LEAF", "LEAF"]), "BRANCH_MEMBER"),
        (ints("nodes_missing_value_tracks_true", &[1]), "`nodes_missing_value_tracks_true` has 1"),
        (ints("nodes_missing_value_tracks_true", &[2, 0, 0, 0, 0]), "holds 2"),
        (ints("target_nodeids", &[2, 3, 3]), "several weights for the one target"),
        (ints("target_nodeids", &[2, 3, 5]), "node 5 of tree 7, which is not there"),
        (ints("target_ids", &[0, 0, 1]), "target 1 of 1"),
        (ints("target_ids", &[0, 0]), "`target_treeids` has 3 values and `target_ids` 2"),
        (int("n_targets", 0), "`n_targets` is 0"),
        (int("n_targets", i64::MAX), "`n_targets` is 9223372036854775807"),
        (floats("base_values", &[1.0, 2.0]), "`base_values` has 2 values for 1 targets"),
        (text("aggregate_function", "MEDIAN"), "MEDIAN"),
        (text("post_transform", "CLOGLOG"), "CLOGLOG"),
        (float("n_targets", 1.0), "attribute `n_targets` is not of the type"),
        (tensor_attribute("nodes_values_as_tensor", singles(&[0.0; 5])), "both have values"),
        (int("surprise", 1), "`surprise` is not known"),
    ];
    for (change, expected) in cases {
        let name = change.name.clone();
        let error = run("TreeEnsembleRegressor", with(regressor(), change)).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn classifiers_that_onnx_runtime_leaves_undefined_are_refused() {
    let cases = [
        (ints("classlabels_int64s", &[]), "neither"),
        (ints("class_ids", &[0, 1, 0]), "other labels than the 0 and 1"),
        (ints("class_ids", &[2, 2, 2]), "target 2 of 2"),
        (text("post_transform", "PROBIT"), "undefined in ONNX Runtime"),
        (floats("base_values", &[0.0; 3]), "`base_values` has 3 values for 2 classes"),
        (texts("classlabels_strings", &["a"]), "both have values"),
    ];
    for (change, expected) in cases {
        let name = change.name.clone();
        let error = run("TreeEnsembleClassifier", with(classifier(), change)).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn lies_in_split_lists_are_refused_by_name() {
    let cases = [
        (ints("tree_roots", &[]), "no trees"),
        (ints("tree_roots", &[2]), "names node 2"),
        (ints("tree_roots", &[1]), "no root leads to branch 0"),
        (ints("tree_roots", &[0, 0]), "two nodes lead to branch 0"),
        (ints("nodes_truenodeids", &[0, 1]), "two nodes lead to branch 0"),
        (ints("nodes_falsenodeids", &[3, 2]), "leads to position 3"),
        (ints("nodes_trueleafs", &[2, 1]), "holds 2"),
        (ints("leaf_targetids", &[0, 0, 1]), "target beyond 1"),
        (tensor_attribute("nodes_modes", octets(&[0, 7])), "has 7"),
        (tensor_attribute("nodes_splits", singles(&[f32::NAN, 0.0])), "NaN"),
        (tensor_attribute("membership_values", singles(&[f32::NAN])), "no values for node 1"),
        (tensor_attribute("membership_values", singles(&[1.0, f32::NAN, 2.0])), "more sets"),
        (int("post_transform", 1), "ONNX Runtime the reverse"),
        (int("post_transform", 9), "none of ONNX"),
        (int("aggregate_function", 4), "none of ONNX"),
    ];
    for (change, expected) in cases {
        let name = change.name.clone();
        let error = run("TreeEnsemble", with(splits(), change)).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_tree_as_deep_as_it_has_nodes_is_walked() {
    let depth = 200_000_i64;
    let branches = (0..depth).map(|node| if node == depth - 1 { 1 } else { 0 });
    let attributes = [
        ints("nodes_featureids", &vec![0; depth as usize]),
        tensor_attribute("nodes_splits", singles(&vec![0.5; depth as usize])),
        tensor_attribute("nodes_modes", octets(&vec![0; depth as usize])),
        tensor_attribute("membership_values", singles(&[])),
        ints("nodes_truenodeids", &(1..depth).chain([1]).collect::<Vec<_>>()),
        ints("nodes_trueleafs", &branches.collect::<Vec<_>>()),
        ints("nodes_falsenodeids", &vec![0; depth as usize]),
        ints("nodes_falseleafs", &vec![1; depth as usize]),
    ];
    let values = run("TreeEnsemble", attributes.into_iter().fold(splits(), with)).unwrap();
    assert_eq!(values, [tensor2(&[[2.0_f32], [2.0], [1.0], [1.0], [2.0]])]);
}

/// Changes one value of one attribute.
fn spoil(attributes: &mut [AttributeProto], which: usize, at: usize, value: i64) {
    let count = attributes.len();
    let attribute = &mut attributes[which % count];
    let number = match value {
        0 => f32::NAN,
        other => other as f32,
    };
    if !attribute.ints.is_empty() {
        let length = attribute.ints.len();
        attribute.ints[at % length] = value;
    } else if !attribute.floats.is_empty() {
        let length = attribute.floats.len();
        attribute.floats[at % length] = number;
    } else if !attribute.strings.is_empty() {
        let length = attribute.strings.len();
        let modes: [&[u8]; 3] = [b"LEAF", b"BRANCH_EQ", b"BRANCH_GT"];
        attribute.strings[at % length] = modes[value.unsigned_abs() as usize % 3].to_vec();
    } else if let Some(tensor) = &mut attribute.t {
        let length = tensor.raw_data.len().max(1);
        if let Some(byte) = tensor.raw_data.get_mut(at % length) {
            *byte = value as u8;
        } else {
            tensor.dims = vec![value];
        }
    } else {
        attribute.i = value;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spoilt_attributes_give_an_error_or_an_ensemble(
        operator in 0..3_usize,
        changes in prop::collection::vec(
            (any::<usize>(), any::<usize>(), prop_oneof![-2..9_i64, Just(i64::MIN), Just(i64::MAX)]),
            1..5,
        ),
    ) {
        let (name, mut attributes) = match operator {
            0 => ("TreeEnsembleRegressor", regressor()),
            1 => ("TreeEnsembleClassifier", classifier()),
            _ => ("TreeEnsemble", splits()),
        };
        for (which, at, value) in changes {
            spoil(&mut attributes, which, at, value);
        }
        if let Err(error) = run(name, attributes) {
            prop_assert!(!error.contains("panicked"), "{}", error);
        }
    }
}
