//! A package of a model, as the engine demands one.
//!
//! Writes manifest and model into a folder of the comparison, approved by a development key of this process. What the
//! manifest says of the outputs is what ONNX Runtime gave: our engine has no part in it.

use std::path::Path;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::package::MODEL_FILE;
use dunlin_model_package::{Blobs, Digest, Manifest, Package};
use dunlin_trust::sign::Development;
use ort::value::TensorElementType;
use serde_json::{Value, json};

use crate::peer::{Column, Peer, Values};
use crate::rows::{Input, Rows};

/// Most features of an input that are named one by one; more values are rows of a longer window.
const FEATURES_MAX: usize = 4_096;
/// Memory that a model may take, in bytes: the zoo's largest is far below.
const RESIDENT_BYTES: u64 = 1 << 30;

/// Returns the manifest of a model.
///
/// *Errors*: an input's type is none that a package may have.
pub(crate) fn manifest(model: &[u8], peer: &Peer, rows: &Rows, outputs: &[Column]) -> Result<Value, String> {
    let length = window_length(&rows.inputs);
    let inputs = rows.inputs.iter().zip(peer.input_types());
    let inputs: Vec<Value> =
        inputs.map(|(input, kind)| input_entry(input, *kind, length)).collect::<Result<_, _>>()?;
    let outputs: Vec<Value> = outputs.iter().map(output_entry).collect();
    Ok(json!({
        "schema": 1, "name": "zoo", "version": "1.0.0", "release_counter": 1,
        "window": { "length": length },
        "inputs": inputs,
        "outputs": outputs,
        "budgets": { "resident_bytes": RESIDENT_BYTES },
        "blobs": { MODEL_FILE: { "sha256": Digest::of(model), "bytes": model.len() } }
    }))
}

/// Writes the package's files.
///
/// *Errors*: those of the file system.
pub(crate) fn write(folder: &Path, model: &[u8], manifest: &Value) -> Result<(), String> {
    let write = |name: &str, bytes: &[u8]| {
        dunlin_kit::atomic_file::write(&folder.join(name), bytes).map_err(|error| Chain(&error).to_string())
    };
    write(MODEL_FILE, model)?;
    write("manifest.json", manifest.to_string().as_bytes())
}

/// Opens the package in a folder, approved by a key of this call alone.
///
/// *Errors*: the manifest or the package is refused.
pub(crate) fn open(folder: &Path) -> Result<Package, String> {
    let path = folder.join("manifest.json");
    let text = std::fs::read(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let manifest = Manifest::parse(&text).map_err(|error| error.to_string())?;
    let (evidence, anchor) =
        Development::new().sign(&manifest.target_path(), &text, Some(&manifest.release_note()));
    let file = evidence.verify(&anchor, text).map_err(|error| Chain(&error).to_string())?;
    Package::open(file, Blobs::ByName(folder.to_owned())).map_err(|error| Chain(&error).to_string())
}

fn window_length(inputs: &[Input]) -> usize {
    if inputs.iter().all(|input| input.width() <= FEATURES_MAX) {
        return 1;
    }
    let divides = |length: &usize| inputs.iter().all(|input| input.width() % length == 0);
    (2..=FEATURES_MAX)
        .find(|length| divides(length) && inputs.iter().all(|i| i.width() / length <= FEATURES_MAX))
        .unwrap_or(1)
}

fn input_entry(input: &Input, kind: TensorElementType, length: usize) -> Result<Value, String> {
    let dtype = match kind {
        TensorElementType::Float32 => "f32",
        TensorElementType::Float64 => "f64",
        TensorElementType::Int32 => "i32",
        TensorElementType::Int64 => "i64",
        other => return Err(format!("an input has elements of type {other}; a window has numbers only")),
    };
    let features: Vec<Value> =
        (0..input.width() / length).map(|n| json!({ "name": format!("f{n}") })).collect();
    Ok(json!({ "name": input.name, "dtype": dtype, "shape": shape(&input.axes), "features": features }))
}

/// Texts are the classes of a label output, each known by the rows; all else are plain values.
fn output_entry(column: &Column) -> Value {
    match &column.values {
        Values::Texts(_) => json!({
            "name": column.name, "kind": "classification", "shape": ["batch"], "post": { "labels": labels(column) }
        }),
        _ => json!({ "name": column.name, "kind": "vector", "shape": shape(&column.axes) }),
    }
}

/// Returns the classes of a label output in the order in which the package has them. A label output has two at least.
pub(crate) fn labels(column: &Column) -> Vec<String> {
    let Values::Texts(texts) = &column.values else { return Vec::new() };
    let mut labels = texts.clone();
    labels.sort_unstable();
    labels.dedup();
    if labels.len() == 1 {
        labels.push(format!("not {}", labels[0]));
    }
    labels
}

fn shape(axes: &[usize]) -> Value {
    std::iter::once(json!("batch")).chain(axes.iter().map(|axis| json!(axis))).collect()
}
