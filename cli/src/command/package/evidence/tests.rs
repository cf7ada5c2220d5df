//! Rows that agree and rows that do not.

use super::*;
use serde_json::json;

fn manifest() -> Manifest {
    let text = json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
        "inputs": [{ "name": "x", "shape": ["batch", 1], "features": [{ "name": "a" }] }],
        "outputs": [{ "name": "p", "kind": "vector", "shape": ["batch", 2] }, { "name": "q", "kind": "vector", "shape": ["batch"] }],
        "blobs": { "model.onnx": { "sha256": "00".repeat(32), "bytes": 0 } }
    });
    Manifest::parse(text.to_string().as_bytes()).unwrap()
}

fn windows(count: i64) -> Vec<SampleWindow> {
    (0..count)
        .map(|n| SampleWindow { window_end_us: n * 1_000_000, outputs: vec![n as f32, 0.5, 100.0] })
        .collect()
}

fn rows(times_ms: Option<Vec<i64>>, values: &[[f64; 3]]) -> Rows {
    Rows { times_ms, values: values.iter().map(|row| row.to_vec()).collect() }
}

#[test]
fn rows_agree_within_the_tolerance_relative_to_large_values() {
    let expected = rows(None, &[[0.0, 0.5, 100.0], [1.0, 0.5, 100.05]]);
    let found = Comparison::new(&manifest(), 1e-3).windows(&expected, &windows(2)).unwrap();
    assert_eq!(found.rows, 2);
    assert!(found.worst > 4e-4 && found.worst < 6e-4, "{}", found.worst);
}

#[test]
fn the_first_value_that_differs_is_named() {
    let expected = rows(None, &[[0.0, 0.5, 100.0], [1.0, 0.7, 90.0]]);
    let error = Comparison::new(&manifest(), 1e-4).windows(&expected, &windows(2)).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(
        error
            .to_string()
            .starts_with("output `p`, row 2 (window that ends at 1970-01-01T00:00:01Z), value 2: "),
        "{error}"
    );
}

#[test]
fn rows_with_times_may_be_some_of_the_windows() {
    let compare = |times: Vec<i64>, values: &[[f64; 3]]| {
        Comparison::new(&manifest(), 1e-4).windows(&rows(Some(times), values), &windows(3))
    };
    assert_eq!(compare(vec![2_000], &[[2.0, 0.5, 100.0]]).unwrap().rows, 1);
    let twice = compare(vec![2_000, 2_000], &[[2.0, 0.5, 100.0]; 2]).unwrap_err();
    assert!(twice.to_string().contains("row 2 of the evidence"), "{twice}");
    assert!(compare(vec![], &[]).unwrap_err().to_string().contains("no rows"));
}

#[test]
fn other_counts_and_values_that_are_not_finite_are_told_apart() {
    let few = Comparison::new(&manifest(), 1e-4)
        .windows(&rows(None, &[[0.0, 0.5, 100.0]]), &windows(2))
        .unwrap_err();
    assert!(few.to_string().contains("1 row(s), the samples make 2 window(s)"), "{few}");
    let nan = |want: f64, have: f32| difference(want, f64::from(have)) <= 1e-4;
    assert!(nan(f64::NAN, f32::NAN) && nan(f64::INFINITY, f32::INFINITY));
    assert!(
        !nan(f64::NAN, 0.0) && !nan(0.0, f32::NAN) && !nan(f64::INFINITY, 1.0) && !nan(1.0, f32::INFINITY)
    );
}

#[test]
fn another_label_is_named_and_no_tolerance_allows_it() {
    let mut text = serde_json::to_value(manifest()).unwrap();
    text["outputs"][1] = json!({ "name": "q", "kind": "classification", "shape": ["batch"], "post": { "labels": ["sound", "worn"] } });
    let manifest = Manifest::parse(text.to_string().as_bytes()).unwrap();
    let window = SampleWindow { window_end_us: 0, outputs: vec![0.0, 0.5, 1.0] };
    let compare = |label: f64| {
        Comparison::new(&manifest, 10.0)
            .windows(&rows(None, &[[0.0, 0.5, label]]), std::slice::from_ref(&window))
    };
    assert_eq!(compare(1.0).unwrap().rows, 1);
    let error = compare(0.0).unwrap_err().to_string();
    assert!(error.contains("row 1") && error.contains("said `sound`, the engine says `worn`"), "{error}");
}
