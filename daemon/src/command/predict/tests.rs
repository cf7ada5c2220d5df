//! Inputs of every shape, and lines that are refused without stopping the others.

use dunlin_model_package::manifest::Dim;
use serde_json::json;

use super::*;

fn inputs() -> Vec<InputSpec> {
    let input = |name: &str, sizes: &[u32]| {
        let mut shape = vec![Dim::Named("batch".into())];
        shape.extend(sizes.iter().map(|size| Dim::Fixed(*size)));
        serde_json::from_value::<InputSpec>(json!({"name": name, "shape": shape, "features": []})).unwrap()
    };
    vec![input("x", &[2, 2]), input("y", &[1])]
}

fn outputs() -> Vec<OutputSpec> {
    serde_json::from_value(json!([
        {"name": "score", "kind": "regression", "shape": ["batch", 1]},
        {"name": "p", "kind": "vector", "shape": ["batch", 2]},
    ]))
    .unwrap()
}

#[test]
fn nested_and_flat_values_are_the_same_window() {
    let expected = vec![1.0, 2.0, 3.0, 4.0, 5.0];
    for line in [
        "{\"x\":[[1,2],[3,4]],\"y\":[5]}",
        "{\"y\":5,\"x\":[1,2,3,4.0]}",
        "{\"x\":[[[1,2,3],[4]]],\"y\":[[5]]}",
    ] {
        assert_eq!(window_values(&inputs(), line.as_bytes()).unwrap(), expected, "{line}");
    }
    assert!(window_values(&inputs(), b"{\"x\":[1,2,3,null],\"y\":1}").unwrap()[3].is_nan());
}

#[test]
fn what_is_wrong_with_a_line_is_named() {
    for (line, reason) in [
        ("[1]", "not a JSON object"),
        ("{\"x\":[1,2,3,4]}", "input `y` is missing; the inputs are `x`, `y`"),
        ("{\"x\":[1,2,3],\"y\":1}", "input `x` has 3 values, the model takes 4"),
        ("{\"x\":[1,2,3,4],\"y\":1,\"z\":1}", "`z` is no input of the model"),
        ("{\"x\":[1,2,3,\"4\"],\"y\":1}", "not a number"),
        ("{\"x\":[1,2,3,1e39],\"y\":1}", "beyond the range"),
        ("{\"x\":[1,2,3,4],\"y\":[[[[[[[[[1]]]]]]]]]}", "nested more than 8 deep"),
    ] {
        let error = window_values(&inputs(), line.as_bytes()).unwrap_err();
        assert!(error.contains(reason), "{line}: {error}");
    }
    let bomb = format!("{{\"x\":{}", "[".repeat(100_000));
    assert!(window_values(&inputs(), bomb.as_bytes()).is_err());
}

#[test]
fn a_prediction_is_printed_by_output() {
    let mut out = Vec::new();
    let predicted = Predicted { outputs: vec![0.1, f32::NAN, 2.0], label: Some("a\"".into()) };
    push_predicted(&mut out, &outputs(), &predicted);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"outputs\":{\"score\":[0.1],\"p\":[null,2.0]},\"label\":\"a\\\"\"}\n"
    );
}

/// A model whose outputs are the sum of its inputs; fails where that is negative.
struct Sum;

impl PredictModel for Sum {
    fn predict(&mut self, values: &[f32]) -> Result<Predicted, String> {
        let sum: f32 = values.iter().sum();
        if sum < 0.0 { Err("negative".into()) } else { Ok(Predicted { outputs: vec![sum; 3], label: None }) }
    }
}

#[test]
fn a_bad_line_costs_its_own_prediction_alone() {
    let manifest: Manifest = serde_json::from_value(json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": {"length": 1},
        "inputs": [{"name": "x", "shape": ["batch", 1], "features": []}],
        "outputs": outputs(), "blobs": {},
    }))
    .unwrap();
    let mut out = Vec::new();
    let mut input = &b"{\"x\":1}\nnonsense\n\n{\"x\":-1}\n{\"x\":2}"[..];
    assert_eq!(predict_lines(&manifest, &mut input, &mut Sum, &mut out).unwrap(), 2);
    let lines: Vec<Value> = out
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0]["outputs"]["score"], json!([1.0]));
    assert_eq!(lines[2], json!({"error": "negative"}));
    assert_eq!(lines[3]["outputs"]["p"], json!([2.0, 2.0]));
}
