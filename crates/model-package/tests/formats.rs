//! The formats of a package, frozen: files that were written once are read for ever and written back the same.
//!
//! Reads the files in `tests/golden`, and bytes that nobody wrote. A file there is never changed: a new format gets a
//! new number and files of its own.

#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

use std::path::{Path, PathBuf};

use dunlin_model_package::golden::RECORDS_MAX;
use dunlin_model_package::manifest::{
    BLOBS_MAX, FEATURES_MAX, OUTPUT_VALUES_MAX, TENSORS_MAX, WINDOW_LENGTH_MAX, manifest_schema_json,
};
use dunlin_model_package::package::{BLOB_BYTES_MAX, MANIFEST_BYTES_MAX};
use dunlin_model_package::{Golden, Manifest};
use proptest::prelude::*;
use serde_json::{Value, json};

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn manifests() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(golden_folder()).unwrap();
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("manifest-v1-"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    found.sort();
    found
}

fn minimal() -> Value {
    serde_json::from_slice(&std::fs::read(golden_folder().join("manifest-v1-minimal.json")).unwrap()).unwrap()
}

fn findings(value: &Value) -> Vec<String> {
    Manifest::parse(value.to_string().as_bytes()).err().map_or_else(Vec::new, |error| error.0)
}

#[track_caller]
fn assert_refused(value: &Value, expected: &str) {
    let found = findings(value);
    assert!(found.iter().any(|finding| finding.contains(expected)), "{expected}: {found:?}");
}

#[test]
fn every_manifest_of_version_1_is_written_back_byte_for_byte() {
    let all = manifests();
    assert_eq!(all.len(), 7);
    for (name, bytes) in all {
        let manifest = Manifest::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut written = serde_json::to_vec_pretty(&manifest).unwrap();
        written.push(b'\n');
        assert_eq!(Manifest::parse(&written).unwrap(), manifest, "{name}");
        if name == "manifest-v1-shortest.json" {
            // What is left out has its default, which is written: the file is that of the minimal manifest.
            assert_eq!(written, std::fs::read(golden_folder().join("manifest-v1-minimal.json")).unwrap());
        } else {
            assert_eq!(String::from_utf8(written).unwrap(), String::from_utf8(bytes).unwrap(), "{name}");
        }
    }
}

#[test]
fn golden_vectors_of_version_1_are_written_back_byte_for_byte() {
    let bytes = std::fs::read(golden_folder().join("golden-v1.jsonl")).unwrap();
    let golden = Golden::parse(&bytes).unwrap();
    assert_eq!(golden.records.len(), 4);
    assert_eq!(String::from_utf8(golden.to_bytes()).unwrap(), String::from_utf8(bytes).unwrap());
}

#[test]
fn golden_vectors_that_name_a_package_are_read() {
    // Written before releases were signed; the place of the package has no meaning in it.
    let old = b"{\"golden\":1,\"sources\":[],\"model\":{\"name\":\"m\",\"package\":\".\"}}\n";
    assert_eq!(Golden::parse(old).unwrap().header.model.name, "m");
}

#[test]
fn formats_from_the_future_are_refused_by_their_number() {
    let mut value = minimal();
    value["schema"] = json!(2);
    assert_refused(&value, "schema is 2, this build reads 1");
    let golden = b"{\"golden\":2,\"sources\":[],\"model\":{\"name\":\"m\"}}\n";
    assert!(Golden::parse(golden).unwrap_err().reason.contains("format 2"));
}

#[test]
fn a_key_that_nobody_knows_is_refused_wherever_it_stands() {
    for place in [
        "",
        "/window",
        "/inputs/0",
        "/inputs/0/features/0",
        "/outputs/0",
        "/outputs/0/post",
        "/requirements",
        "/budgets",
        "/blobs/model.onnx",
    ] {
        let mut value = minimal();
        value.pointer_mut(place).unwrap()["surprise"] = json!(1);
        assert_refused(&value, "surprise");
    }
}

#[test]
fn counts_and_sizes_end_at_their_limits() {
    let at_most = |set: &dyn Fn(&mut Value, usize), limit: usize, expected: &str| {
        let mut value = minimal();
        set(&mut value, limit);
        assert!(!findings(&value).iter().any(|found| found.contains(expected)), "{expected} at the limit");
        set(&mut value, limit + 1);
        assert_refused(&value, expected);
    };
    at_most(&|v, n| v["window"]["length"] = json!(n), WINDOW_LENGTH_MAX as usize, "window is not 1 to");
    at_most(&|v, n| v["inputs"] = json!(vec![v["inputs"][0].clone(); n]), TENSORS_MAX, "inputs and outputs");
    at_most(
        &|v, n| v["outputs"] = json!(vec![v["outputs"][0].clone(); n]),
        TENSORS_MAX,
        "inputs and outputs",
    );
    at_most(
        &|v, n| v["inputs"][0]["features"] = json!(vec![json!({ "name": "a" }); n]),
        FEATURES_MAX,
        "has not 1 to 4096 features",
    );
    at_most(&|v, n| v["outputs"][0]["shape"][1] = json!(n), OUTPUT_VALUES_MAX, "more than 65536 values");
    at_most(&|v, n| v["name"] = json!("n".repeat(n)), 64, "name `");
    at_most(&|v, n| v["version"] = json!("1".repeat(n)), 64, "version `");
    at_most(&|v, n| v["blobs"]["model.onnx"]["bytes"] = json!(n), BLOB_BYTES_MAX as usize, "is longer than");
    at_most(&|v, n| v["budgets"]["resident_bytes"] = json!(n), 4 << 30, "resident_bytes");
    let blob = minimal()["blobs"]["model.onnx"].clone();
    let blobs = |v: &mut Value, n: usize| {
        v["blobs"] = (1..n)
            .map(|i| (format!("b{i}"), blob.clone()))
            .chain([("model.onnx".to_owned(), blob.clone())])
            .collect();
    };
    at_most(&blobs, BLOBS_MAX, "more than 64 files");
}

#[test]
fn limits_hold_over_all_inputs_and_outputs_together() {
    let mut value = minimal();
    value["window"]["length"] = json!(4_096);
    let input = json!({ "name": "x", "shape": ["batch", 4_096, 4_096], "features": vec![json!({ "name": "a" }); 4_096] });
    value["inputs"] = json!([input]);
    assert_eq!(findings(&value), Vec::<String>::new());
    let second = json!({ "name": "z", "shape": ["batch", 4_096], "features": [{ "name": "a" }] });
    value["inputs"].as_array_mut().unwrap().push(second);
    assert_refused(&value, "a window has more than");
    let mut value = minimal();
    let half = json!({ "name": "y", "kind": "vector", "shape": ["batch", 40_000] });
    value["outputs"] = json!([half.clone(), half]);
    assert_refused(&value, "a prediction has more than 65536 values");
}

#[test]
fn evidence_says_something_or_is_left_out() {
    let mut value = minimal();
    value["evidence"] = json!({ "rows": 0, "worst": 0.0, "tolerance": 1e-4 });
    assert_refused(&value, "evidence");
    value["evidence"] = json!({ "rows": 3, "worst": 0.5, "tolerance": 1e-4 });
    assert_refused(&value, "evidence");
    value["evidence"] = json!({ "rows": 3, "worst": 1e-5, "tolerance": 1e-4 });
    assert_eq!(findings(&value), Vec::<String>::new());
}

#[test]
fn a_manifest_beyond_its_length_is_not_read() {
    let mut text = minimal().to_string().into_bytes();
    text.resize(MANIFEST_BYTES_MAX as usize, b' ');
    Manifest::parse(&text).unwrap();
    text.push(b' ');
    assert!(Manifest::parse(&text).unwrap_err().to_string().contains("longer than"));
}

#[test]
fn golden_vectors_end_at_their_limit() {
    let mut text = b"{\"golden\":1,\"sources\":[],\"model\":{\"name\":\"m\"}}\n".to_vec();
    for _ in 0..RECORDS_MAX {
        text.extend(b"{\"message\":{\"topic\":\"t\",\"payload\":\"1\"}}\n");
    }
    assert_eq!(Golden::parse(&text).unwrap().records.len(), RECORDS_MAX);
    text.extend(b"{\"message\":{\"topic\":\"t\",\"payload\":\"1\"}}\n");
    assert_eq!(Golden::parse(&text).unwrap_err().line, RECORDS_MAX + 2);
}

#[test]
fn docs_hold_the_schema_that_the_types_give() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manifest.schema.json");
    let generated = manifest_schema_json();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        dunlin_kit::atomic_file::write(&path, generated.as_bytes()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == generated,
        "docs/manifest.schema.json is out of date: run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn every_key_of_the_frozen_manifests_is_in_the_schema() {
    let schema = manifest_schema_json();
    let mut keys = Vec::new();
    for (_, bytes) in manifests() {
        collect_keys(&serde_json::from_slice(&bytes).unwrap(), &mut keys);
    }
    for key in keys.iter().filter(|key| {
        !["model.onnx", "golden.jsonl", "profile.json", "pi-4", "pi-zero-2"].contains(&key.as_str())
    }) {
        assert!(schema.contains(&format!("\"{key}\"")), "{key}");
    }
}

fn collect_keys(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(key, inner)| {
            into.push(key.clone());
            collect_keys(inner, into);
        }),
        Value::Array(elements) => elements.iter().for_each(|inner| collect_keys(inner, into)),
        _ => {}
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = (Manifest::parse(&bytes), Golden::parse(&bytes));
    }

    #[test]
    fn damaged_files_are_read_or_refused(at in any::<usize>(), with in proptest::collection::vec(any::<u8>(), 1..8), which in 0..7_usize) {
        let mut files = manifests();
        let (_, mut bytes) = files.swap_remove(which);
        let at = at % bytes.len();
        for (byte, new) in bytes[at..].iter_mut().zip(&with) {
            *byte = *new;
        }
        if let Ok(manifest) = Manifest::parse(&bytes) {
            let written = serde_json::to_vec(&manifest).unwrap();
            prop_assert_eq!(Manifest::parse(&written).unwrap(), manifest);
        }
        let mut golden = std::fs::read(golden_folder().join("golden-v1.jsonl")).unwrap();
        let at = at % golden.len();
        golden.splice(at..at, with);
        let _ = Golden::parse(&golden);
    }
}
