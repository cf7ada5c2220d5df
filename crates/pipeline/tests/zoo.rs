//! Small models of all families, as exporters write them, against what ONNX Runtime says of their rows.
//!
//! The models and records in `tests/zoo/` are made by `cargo xtask models --subset`; nothing is exported here. What the engine
//! does not run yet stands in `tests/zoo/not-yet.txt`, and a model that runs must leave that list.
#![expect(clippy::unwrap_used, reason = "a record that cannot be read fails the test that names it")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use dunlin_model_package::{Blobs, Manifest, Package};
use dunlin_pipeline::engine::{Engine, TractEngine};
use dunlin_trust::sign::Development;
use serde::Deserialize;
use serde_json::Value;

/// Largest difference of a float that is none, relative to the range of its output over the rows.
const TOLERANCE: f64 = 1e-4;

/// What `zoo record` writes of a model.
#[derive(Deserialize)]
struct Record {
    manifest: Value,
    /// For each output whether it is integers or labels.
    exact: Vec<bool>,
    rows: Vec<Vec<Value>>,
    expected: Vec<Vec<Value>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo")
}

/// The models by name, in order.
fn names() -> Vec<String> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> =
        entries.filter_map(|name| Some(name.to_str()?.strip_suffix(".json")?.to_owned())).collect();
    names.sort();
    names
}

/// What does not run, by name: `refused` or `wrong`.
fn not_yet() -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder().join("not-yet.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, how)| (name.to_owned(), how.to_owned()))
        .collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

/// Loads a model as a gateway does: from a package that is approved.
fn load(name: &str, record: &Record) -> Result<TractEngine, String> {
    let text = record.manifest.to_string().into_bytes();
    let manifest = Manifest::parse(&text).map_err(|error| error.to_string())?;
    let files = tempfile::tempdir().unwrap();
    fs::copy(folder().join(format!("{name}.onnx")), files.path().join("model.onnx")).unwrap();
    let (evidence, anchor) =
        Development::new().sign(&manifest.target_path(), &text, Some(&manifest.release_note()));
    let approved = evidence.verify(&anchor, text).unwrap();
    let package = Package::open(approved, Blobs::ByName(files.path().to_owned())).unwrap();
    TractEngine::load(&package, 32).map_err(|error| error.to_string())
}

/// Runs a model on its rows, all at once and one by one.
///
/// *Errors*: `refused` or `wrong`, and why.
fn outcome(name: &str) -> Result<(), (&'static str, String)> {
    let text = fs::read(folder().join(format!("{name}.json"))).unwrap();
    let record: Record = serde_json::from_slice(&text).unwrap();
    assert!(!record.rows.is_empty() && record.rows.len() == record.expected.len(), "{name}: no rows");
    let mut engine = load(name, &record).map_err(|why| ("refused", why))?;
    let windows: Vec<Vec<f32>> =
        record.rows.iter().map(|row| row.iter().map(|value| number(value) as f32).collect()).collect();
    let together = engine.run(windows.len(), &windows.concat());
    let alone: Result<Vec<_>, _> = windows.iter().map(|window| engine.run(1, window)).collect();
    for outputs in [together, alone.map(|rows| rows.concat())] {
        let outputs = outputs.map_err(|error| ("wrong", error.to_string()))?;
        compare(&record, &outputs).map_err(|why| ("wrong", why))?;
    }
    Ok(())
}

fn compare(record: &Record, outputs: &[f32]) -> Result<(), String> {
    let manifest = Manifest::parse(record.manifest.to_string().as_bytes()).unwrap();
    let row_width = manifest.output_values();
    assert_eq!(record.exact.len(), manifest.outputs.len(), "a flag an output");
    let mut offset = 0;
    for (output, &exact) in manifest.outputs.iter().zip(&record.exact) {
        let places = offset..offset + output.values();
        offset = places.end;
        let expected: Vec<f64> =
            record.expected.iter().flat_map(|row| row[places.clone()].iter().map(number)).collect();
        let got: Vec<f64> = outputs
            .chunks_exact(row_width)
            .flat_map(|row| row[places.clone()].iter().map(|&v| f64::from(v)))
            .collect();
        let allowed = if exact { 0.0 } else { TOLERANCE * range(&expected) };
        assert_eq!(got.len(), expected.len(), "`{}`", output.name);
        for (position, (&got, &expected)) in got.iter().zip(&expected).enumerate() {
            let same =
                got == expected || (got.is_nan() && expected.is_nan()) || (got - expected).abs() <= allowed;
            if !same {
                return Err(format!(
                    "output `{}`, value {position}: {got} instead of {expected}",
                    output.name
                ));
            }
        }
    }
    Ok(())
}

fn range(values: &[f64]) -> f64 {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let largest = finite().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    [high - low, largest].into_iter().find(|range| *range > 0.0).unwrap_or(1.0)
}

#[test]
fn exports_of_all_families_give_what_onnx_runtime_gives() {
    let listed = not_yet();
    let names = names();
    assert!(names.len() >= 25, "{} models", names.len());
    let mut findings = String::new();
    for name in &names {
        match (outcome(name), listed.get(name)) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                writeln!(findings, "{name}: runs; take it off not-yet.txt").unwrap();
            }
            (Err((how, _)), Some(expected)) if how == expected => {}
            (Err((how, why)), _) => writeln!(findings, "{name}: {how}: {why}").unwrap(),
        }
    }
    let gone = listed.keys().filter(|name| !names.contains(name));
    gone.for_each(|name| writeln!(findings, "{name}: stands in not-yet.txt and is no model").unwrap());
    assert!(findings.is_empty(), "\n{findings}");
}

#[test]
fn a_value_that_differs_is_found() {
    let name = "pca";
    let text = fs::read(folder().join(format!("{name}.json"))).unwrap();
    let mut record: Record = serde_json::from_slice(&text).unwrap();
    let right: Vec<f32> = record.expected.iter().flatten().map(|value| number(value) as f32).collect();
    assert_eq!(compare(&record, &right), Ok(()));
    let mut wrong = right.clone();
    let place = wrong.len() - 1;
    wrong[place] += (range(&right.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()) * 2e-4) as f32;
    assert!(compare(&record, &wrong).is_err());
    wrong[place] = f32::NAN;
    assert!(compare(&record, &wrong).is_err());
    record.exact = vec![true; record.exact.len()];
    let next = |value: &f32| f32::from_bits(value.to_bits() + 1);
    assert!(compare(&record, &right.iter().map(next).collect::<Vec<_>>()).is_err());
}
