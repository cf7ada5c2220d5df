//! Releases for tests: a package folder with golden vectors, approved by a key of the test alone.
//!
//! Writes what it is told, right or wrong; runs nothing. The model takes `a` and `b` of messages `{"t", "a", "b"}` on
//! `t/{k}` and gives `y`.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part, and a test's helpers fail the test"
)]

use std::path::Path;
use std::time::Duration;

use dunlin_daemon::config::settings::{InferenceSettings, Isolation};
use dunlin_daemon::slot::{SlotSpec, TryLedger};
use dunlin_model_package::{Blobs, Digest, Manifest, Package};
use dunlin_pipeline::prediction::ModelIndex;
use dunlin_trust::sign::Development;
use serde_json::{Value, json};

/// Event time of the first golden message: 2025-01-01.
const START_MS: i64 = 1_735_689_600_000;

/// Counts nothing.
pub(crate) struct NoLedger;

impl TryLedger for NoLedger {
    fn record_start(&self, _: &str, _: &Digest) -> u32 {
        1
    }

    fn record_ready(&self, _: &str, _: &Digest) {}
}

/// The files of a package before it is approved.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) manifest: Value,
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// A window and the outputs that it must have.
pub(crate) type Vector<'v> = ([f32; 2], &'v [f32]);

impl Draft {
    /// Returns a package with golden vectors; `outputs` values are declared for a window.
    pub(crate) fn new(model: &[u8], outputs: u32, golden: &[Vector<'_>]) -> Self {
        let manifest = json!({
            "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
            "inputs": [{ "name": "x", "shape": ["batch", 2], "features": [{ "name": "a" }, { "name": "b" }] }],
            "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", outputs] }],
            "budgets": { "resident_bytes": 128 << 20, "deadline": "10s" }
        });
        let files =
            vec![("model.onnx".to_owned(), model.to_vec()), ("golden.jsonl".to_owned(), golden_file(golden))];
        Self { manifest, files }
    }

    /// Returns the same with another value at a JSON pointer of the manifest; `/-` at its end adds a key.
    pub(crate) fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match self.manifest.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
            parent => parent[key] = value,
        }
        self
    }

    /// Returns the same with another file, or without it.
    pub(crate) fn with_file(mut self, name: &str, bytes: Option<Vec<u8>>) -> Self {
        self.files.retain(|(file, _)| file != name);
        self.files.extend(bytes.map(|bytes| (name.to_owned(), bytes)));
        self
    }

    /// Writes the files into a folder and returns the manifest, which names them.
    pub(crate) fn write(&self, folder: &Path) -> Vec<u8> {
        let mut manifest = self.manifest.clone();
        for (name, bytes) in &self.files {
            dunlin_kit::atomic_file::write(&folder.join(name), bytes).unwrap();
            let named = &mut manifest["blobs"][name.as_str()];
            if named.is_null() {
                *named = json!({ "sha256": Digest::of(bytes), "bytes": bytes.len() });
            }
        }
        manifest.to_string().into_bytes()
    }

    /// Writes and approves the package.
    pub(crate) fn approve(&self, folder: &Path) -> Package {
        approve(folder, self.write(folder)).unwrap()
    }
}

/// Returns golden vectors, one message and one expectation each.
pub(crate) fn golden_file(vectors: &[Vector<'_>]) -> Vec<u8> {
    let mut text = golden_header().to_string();
    for (n, (values, outputs)) in vectors.iter().enumerate() {
        let ms = START_MS + n as i64 * 1_000;
        let payload = json!({ "t": ms, "a": values[0], "b": values[1] }).to_string();
        let message = json!({ "message": { "topic": "t/1", "arrival_ms": ms, "payload": payload } });
        let expect = json!({ "expect": {
            "key": { "k": "1" }, "window_end_us": ms * 1_000, "outputs": { "y": outputs }
        } });
        text.push_str(&format!("\n{message}\n{expect}"));
    }
    text.into_bytes()
}

/// Returns the header of golden vectors.
pub(crate) fn golden_header() -> Value {
    json!({
        "golden": 1,
        "sources": [{
            "name": "s", "topics": ["t/{k}"], "format": "json",
            "time": { "pointer": "/t", "format": "unix-ms", "fallback": "reject", "skew_max": "5m" },
            "fields": { "a": { "pointer": "/a" }, "b": { "pointer": "/b" } }
        }],
        "model": { "name": "m", "package": ".", "key": ["k"], "inputs": { "x": ["a", "b"] } }
    })
}

/// Has a key of this test alone approve a manifest, whatever it says; the error is the code with what it says.
pub(crate) fn approve(folder: &Path, manifest: Vec<u8>) -> Result<Package, String> {
    let path = Manifest::parse(&manifest).map_or("models/m/1/manifest.json".to_owned(), |m| m.target_path());
    let (evidence, anchor) = Development::new().sign(&path, &manifest, None);
    let file = evidence.verify(&anchor, manifest).map_err(|failure| failure.to_string())?;
    Package::open(file, Blobs::ByName(folder.to_owned()))
        .map_err(|error| dunlin_kit::error_chain::Chain(&error).to_string())
}

/// Returns how a slot runs a package.
pub(crate) fn slot_spec(package: Package, isolation: Isolation) -> SlotSpec {
    SlotSpec {
        role: None,
        model: ModelIndex(0),
        name: "m".to_owned(),
        package,
        inference: InferenceSettings {
            isolation,
            batch_max: 32,
            tries: 2,
            restart_max: Duration::from_secs(1),
        },
        worker_program: env!("CARGO_BIN_EXE_dunlind").into(),
        tries: std::sync::Arc::new(NoLedger),
    }
}
