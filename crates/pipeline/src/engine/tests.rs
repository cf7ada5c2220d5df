//! What the engine accepts, refuses and survives.
//!
//! Runs real models built by hand; covers limits, the manifest's contract, batching and hostile graphs. Timing is
//! the slots' part.

use dunlin_model_package::{Digest, Manifest};
use proptest::prelude::*;
use serde_json::json;

use super::samples::*;
use super::*;

mod outputs;
mod steps;

fn manifest(outputs: serde_json::Value) -> Manifest {
    manifest_of("f32", outputs)
}

fn manifest_of(dtype: &str, outputs: serde_json::Value) -> Manifest {
    let text = json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
        "inputs": [{ "name": "x", "dtype": dtype, "shape": ["batch", 2], "features": [{ "name": "a" }, { "name": "b" }] }],
        "outputs": outputs,
        "blobs": { "model.onnx": { "sha256": Digest::of(b""), "bytes": 0 } }
    });
    Manifest::parse(text.to_string().as_bytes()).unwrap()
}

fn output(name: &str, axes: &[u32]) -> serde_json::Value {
    let mut shape = vec![json!("batch")];
    shape.extend(axes.iter().map(|axis| json!(axis)));
    json!({ "name": name, "kind": "vector", "shape": shape })
}

fn sum_manifest() -> Manifest {
    manifest(json!([output("y", &[1])]))
}

fn pair_manifest() -> Manifest {
    manifest(json!([output("y", &[2])]))
}

fn load_error(model: &[u8], manifest: &Manifest) -> String {
    TractEngine::load_file(model, manifest, 32).err().expect("the model must be refused").to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_batch_gives_what_its_windows_give_alone(
        windows in proptest::collection::vec((-100.0..100.0_f32, -100.0..100.0_f32), 0..80),
        batch_max in 1..40_usize,
        fixed in 0..2_i64,
    ) {
        let mut engine = TractEngine::load_file(&weighted_sum_of(fixed), &sum_manifest(), batch_max).unwrap();
        let values: Vec<f32> = windows.iter().flat_map(|&(a, b)| [a, b]).collect();
        let outputs = engine.run(windows.len(), &values).unwrap();
        let expected: Vec<f32> = windows.iter().map(|&(a, b)| a + 2.0 * b).collect();
        prop_assert_eq!(outputs.len(), expected.len());
        for (y, e) in outputs.iter().zip(&expected) {
            prop_assert!((y - e).abs() <= 1e-4 * e.abs().max(1.0));
        }
    }
}

#[test]
fn plans_are_made_for_the_sizes_in_use_only() {
    let sizes = |batch, batch_max| {
        let engine = TractEngine::load_file(&weighted_sum_of(batch), &sum_manifest(), batch_max).unwrap();
        engine.plan_sizes().collect::<Vec<_>>()
    };
    assert_eq!(sizes(0, 32), [32, 4, 1]);
    assert_eq!(sizes(0, 31), [4, 1]);
    assert_eq!(sizes(0, 1), [1]);
    assert_eq!(sizes(1, 32), [1]);
}

#[test]
fn several_inputs_and_outputs_stand_in_the_order_of_the_manifest() {
    let graph = graph(
        &[node("Add", &["a", "b"], &["sum"]), node("Sub", &["a", "b"], &["difference"])],
        &[],
        &[value("a", F32, &[0, 1]), value("b", F32, &[0, 1])],
        &[value("sum", F32, &[0, 1]), value("difference", F32, &[0, 1])],
    );
    let feature = |name: &str| json!([{ "name": name }]);
    let text = json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
        "inputs": [
            { "name": "b", "shape": ["batch", 1], "features": feature("fb") },
            { "name": "a", "shape": ["batch", 1], "features": feature("fa") }
        ],
        "outputs": [output("difference", &[1]), output("sum", &[1])],
        "blobs": { "model.onnx": { "sha256": Digest::of(b""), "bytes": 0 } }
    });
    let manifest = Manifest::parse(text.to_string().as_bytes()).unwrap();
    let mut engine = TractEngine::load_file(&model(&graph), &manifest, 4).unwrap();
    // Two windows, each b then a.
    assert_eq!(engine.run(2, &[1.0, 10.0, 2.0, 20.0]).unwrap(), [9.0, 11.0, 18.0, 22.0]);
}

#[test]
fn every_input_type_is_converted_and_every_output_type_becomes_f32() {
    for (dtype, element, expected) in
        [("f32", F32, 2.6), ("f64", F64, 2.6), ("i32", I32, 3.0), ("i64", I64, 3.0)]
    {
        let same = graph(
            &[node("Identity", &["x"], &["y"])],
            &[],
            &[value("x", element, &[0, 2])],
            &[value("y", element, &[0, 2])],
        );
        let manifest = manifest_of(dtype, json!([output("y", &[2])]));
        let mut engine = TractEngine::load_file(&model(&same), &manifest, 1).unwrap();
        assert_eq!(engine.run(1, &[2.6, -1.0]).unwrap(), [expected, -1.0], "{dtype}");
    }
    let above = graph(
        &[node("Greater", &["x", "zero"], &["y"])],
        &[floats("zero", &[1], &[0.0])],
        &[value("x", F32, &[0, 2])],
        &[value("y", BOOL, &[0, 2])],
    );
    let mut engine = TractEngine::load_file(&model(&above), &pair_manifest(), 1).unwrap();
    assert_eq!(engine.run(1, &[2.6, -1.0]).unwrap(), [1.0, 0.0]);
}

#[test]
fn values_that_are_not_finite_are_no_error() {
    let mut engine = TractEngine::load_file(&not_a_number(), &pair_manifest(), 4).unwrap();
    let outputs = engine.run(1, &[0.0, 1.0]).unwrap();
    assert!(outputs[0].is_nan());
    assert_eq!(outputs[1], 1.0);
}

#[test]
fn errors_and_panics_of_the_engine_are_errors_and_it_goes_on() {
    let mut engine = TractEngine::load_file(&integer_division(), &pair_manifest(), 4).unwrap();
    let error = engine.run(1, &[0.0, 1.0]).unwrap_err();
    assert!(matches!(&error, EngineError::Run(text) if text.contains("zero")), "{error}");
    assert_eq!(engine.run(1, &[3.0, 100.0]).unwrap(), [33.0, 1.0]);

    let mut engine = TractEngine::load_file(&lookup(), &pair_manifest(), 4).unwrap();
    let error = engine.run(1, &[7.0, 0.0]).unwrap_err();
    assert!(matches!(&error, EngineError::Panicked(text) if text.contains("out of bounds")), "{error}");
    assert_eq!(engine.run(1, &[2.0, 0.0]).unwrap(), [3.0, 1.0]);
}

#[test]
fn the_hostile_samples_are_harmless_until_their_data_comes() {
    let mut engine = TractEngine::load_file(&memory_bomb(4_000), &pair_manifest(), 4).unwrap();
    assert_eq!(engine.run(1, &[1.0, 0.5]).unwrap(), [1.0, 0.5]);
    for model in [endless(1), endless_above_a_hundred(1)] {
        let mut engine = TractEngine::load_file(&model, &pair_manifest(), 1).unwrap();
        assert_eq!(engine.run(1, &[0.0, 0.0]).unwrap(), [0.0, 0.0]);
    }
}

#[test]
fn a_count_that_is_not_that_of_the_windows_is_an_error() {
    let mut engine = TractEngine::load_file(&weighted_sum(), &sum_manifest(), 4).unwrap();
    assert!(engine.run(2, &[1.0; 3]).is_err());
    assert!(engine.run(usize::MAX, &[1.0; 3]).is_err());
    assert!(engine.run(0, &[]).unwrap().is_empty());
}

#[test]
fn all_unknown_operators_are_named_with_their_nodes() {
    let odd = graph(
        &[node("Frobnicate", &["x"], &["a"]), node("Twiddle", &["a"], &["y"])],
        &[],
        &[value("x", F32, &[0, 2])],
        &[value("y", F32, &[0, 2])],
    );
    let error = load_error(&model(&odd), &pair_manifest());
    assert!(error.contains("operator `Frobnicate` of node `frobnicate_a`"), "{error}");
    assert!(error.contains("operator `Twiddle` of node `twiddle_y`"), "{error}");
}

#[test]
fn inputs_and_outputs_that_differ_from_the_manifest_are_named() {
    let with = |input: Proto, output: &str| {
        model(&graph(&[node("Identity", &["x"], &[output])], &[], &[input], &[value(output, F32, &[0, 2])]))
    };
    for (model, expected) in [
        (with(value("x", F32, &[0, 3]), "y"), "input `x` has shape [batch, 3], the manifest says [batch, 2]"),
        (with(value("x", F32, &[0, 2, 1]), "y"), "input `x` has shape [batch, 2, 1]"),
        (with(value("x", F32, &[7, 2]), "y"), "input `x` has shape [7, 2]"),
        (with(value("x", F64, &[0, 2]), "y"), "input `x` has elements of type double, the manifest says f32"),
        (with(value("x", F32, &[0, 2]), "z"), "no output `y`, only `z`"),
        (with(value("q", F32, &[0, 2]), "y"), "no input `x`, only `q`"),
        (weighted_sum(), "output `y` has shape"),
    ] {
        let error = load_error(&model, &pair_manifest());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_beyond_a_limit_is_refused_before_it_is_built() {
    let io = ([value("x", F32, &[0, 2])], [value("y", F32, &[0, 2])]);
    let of = |nodes: &[Proto], constants: &[Proto]| model(&graph(nodes, constants, &io.0, &io.1));
    let external = floats("w", &[1], &[]).int(14, 1);
    let mut nested = graph(&[], &[], &[], &[]);
    for _ in 0..8 {
        nested = graph(&[with_graph(node("If", &["x"], &["y"]), "then_branch", &nested)], &[], &[], &[]);
    }
    for (model, expected) in [
        (of(&vec![node("Identity", &["x"], &["y"]); NODES_MAX + 1], &[]), "nodes"),
        (of(&[], &[floats("w", &[1 << 38], &[])]), "constants"),
        (of(&[], &[floats("w", &[1 << 27], &[])]), "constants"),
        (of(&[], &[floats("w", &[i64::MAX, i64::MAX], &[])]), "constants"),
        (of(&[], &[floats("w", &[1; 9], &[1.0])]), "axes"),
        (of(&[], &[floats("w", &[-1], &[])]), "negative"),
        (of(&[], &[external]), "another file"),
        (model(&nested), "nested deeper"),
    ] {
        let error = load_error(&model, &pair_manifest());
        assert!(error.contains("limit") && error.contains(expected), "{error}");
    }
}

proptest! {
    #[test]
    fn damaged_models_are_errors(cut in 0..200_usize, flip in 0..200_usize, bit in 0..8_u8) {
        let mut bytes = weighted_sum();
        bytes.truncate(cut.max(1));
        let position = flip % bytes.len();
        bytes[position] ^= 1 << bit;
        // A flipped bit may leave a good model: only a panic or an abort would be wrong.
        let _ = TractEngine::load_file(&bytes, &sum_manifest(), 4);
    }
}

#[test]
fn a_branch_that_no_kept_output_needs_is_neither_built_nor_refused() {
    let odd = graph(
        &[node("Relu", &["x"], &["y"]), node("Frobnicate", &["y"], &["label"])],
        &[],
        &[value("x", F32, &[0, 2])],
        &[value("label", I64, &[0]), value("y", F32, &[0, 2])],
    );
    let mut engine = TractEngine::load_file(&model(&odd), &pair_manifest(), 1).unwrap();
    assert_eq!(engine.run(1, &[-1.0, 2.0]).unwrap(), [0.0, 2.0]);
    let both = manifest(json!([output("y", &[2]), output("label", &[])]));
    assert!(load_error(&model(&odd), &both).contains("Frobnicate"));
    let twice = manifest(json!([output("y", &[2]), output("y", &[2])]));
    assert!(load_error(&model(&odd), &twice).contains("twice"));
}

#[test]
fn a_branch_that_only_a_graph_inside_reads_is_kept() {
    let choice = |from: &str, to: &str| {
        graph(&[node("Identity", &[from], &[to])], &[], &[], &[value(to, F32, &[0, 2])])
    };
    let chosen = with_graph(node("If", &["yes"], &["y"]), "then_branch", &choice("double", "a"));
    let odd = graph(
        &[node("Add", &["x", "x"], &["double"]), with_graph(chosen, "else_branch", &choice("x", "b"))],
        &[tensor("yes", BOOL, &[], &[1])],
        &[value("x", F32, &[0, 2])],
        &[value("y", F32, &[0, 2])],
    );
    let mut engine = TractEngine::load_file(&model(&odd), &pair_manifest(), 1).unwrap();
    assert_eq!(engine.run(1, &[1.0, 2.0]).unwrap(), [2.0, 4.0]);
}

#[test]
fn a_file_tells_its_signature_and_every_node_that_is_refused() {
    let cast_to_nothing = with_int(node("Cast", &["x"], &["b"]), "to", 77);
    let odd = graph(
        &[node("Frobnicate", &["x"], &["a"]), cast_to_nothing, node("Add", &["a", "b"], &["y"])],
        &[],
        &[value("x", F32, &[0, 2])],
        &[value("y", F32, &[0, 2]), value("a", F32, &[0, 3])],
    );
    let mut file = OnnxFile::read(&model(&odd)).unwrap();
    assert_eq!(file.inputs()[0].axes, Some(vec![None, Some(2)]));
    assert_eq!(file.operators(), ["Add", "Cast", "Frobnicate"]);
    let refused = file.refused_nodes();
    let seen: Vec<_> = refused.iter().map(|node| (node.node.as_str(), node.shape.as_str())).collect();
    assert_eq!(seen, [("frobnicate_a", "[batch, 3]"), ("cast_b", "?")]);
    file.keep_outputs(&["a"]);
    assert_eq!(file.operators(), ["Frobnicate"]);
}

#[test]
fn a_file_tells_the_shapes_of_its_outputs_for_given_inputs() {
    let file = OnnxFile::read(&weighted_sum()).unwrap();
    let shapes = file.output_shapes(&sum_manifest().inputs).unwrap();
    assert_eq!(shapes, [Some(vec![1])]);
}

#[test]
fn every_node_of_a_run_has_its_cost() {
    let engine = TractEngine::load_file(&weighted_sum_of(0), &sum_manifest(), 32).unwrap();
    let mut reads = 0;
    let mut now = || {
        reads += 10;
        reads
    };
    let costs = engine.node_costs(&[1.0, 2.0], 3, &mut now).unwrap();
    assert!(!costs.is_empty());
    assert!(costs.iter().all(|cost| cost.nanoseconds == 30), "{costs:?}");
}
