//! Golden vectors for packages of the tests' own: what the pipeline makes of their messages.
//!
//! Approves the folder with a key that is thrown away, runs the product's pipeline and writes `golden.jsonl`. Never
//! judges: the gateway compares.

use std::path::Path;

use dunlin_model_package::golden::{GoldenHeader, RecordedMessage};
use dunlin_model_package::manifest::BlobSpec;
use dunlin_model_package::{Blobs, Digest, Golden, GoldenRecord, Manifest, ModelSpec, Package, SourceSpec};
use dunlin_pipeline::runner::{expectation, golden_runner, recorded_message};
use dunlin_trust::sign::Development;

use crate::failure::{Failure, Outcome};
use crate::package::write;
use crate::stream::Message;

/// Adds golden vectors to the package in a folder: these messages, through the sources and the model of this name in a
/// configuration's text.
///
/// *Errors*: those of the file system; the package, the configuration or the engine refuses.
pub fn add_golden(folder: &Path, config: &str, model: &str, messages: &[Message]) -> Outcome<()> {
    let mut golden = Golden { header: header(config, model)?, records: Vec::new() };
    let package = approve(folder)?;
    let mut runner = golden_runner(&package, &golden).map_err(Failure::of("make the golden runner"))?;
    for message in messages {
        let recorded = RecordedMessage {
            topic: message.topic.clone(),
            arrival_ms: Some(message.event_ms),
            payload: Some(String::from_utf8_lossy(&message.payload).into_owned()),
            payload_hex: None,
            retained: false,
        };
        let taken = recorded_message(&recorded.topic, &message.payload, recorded.arrival_ms, false);
        let (predicted, _) = runner.take(&taken);
        golden.records.push(GoldenRecord::Message(recorded));
        golden
            .records
            .extend(predicted.iter().map(|one| GoldenRecord::Expect(expectation(package.manifest(), one))));
    }
    let bytes = golden.to_bytes();
    write(&folder.join("golden.jsonl"), &bytes)?;
    let mut manifest = package.manifest().clone();
    let blob = BlobSpec { sha256: Digest::of(&bytes), bytes: bytes.len() as u64 };
    manifest.blobs.insert("golden.jsonl".to_owned(), blob);
    write(&folder.join("manifest.json"), &serde_json::to_vec(&manifest)?)
}

/// Opens the package in a folder, approved by a key of this call alone.
///
/// *Errors*: those of the file system; the package is refused.
pub fn approve(folder: &Path) -> Outcome<Package> {
    let text = std::fs::read(folder.join("manifest.json"))?;
    let manifest = Manifest::parse(&text).map_err(Failure::of("read the manifest"))?;
    let (evidence, anchor) =
        Development::new().sign(&manifest.target_path(), &text, Some(&manifest.release_note()));
    let file = evidence.verify(&anchor, text).map_err(Failure::of("verify the package"))?;
    Package::open(file, Blobs::ByName(folder.to_owned())).map_err(Failure::of("open the package"))
}

fn header(config: &str, name: &str) -> Outcome<GoldenHeader> {
    #[derive(serde::Deserialize)]
    struct Part {
        source: Vec<SourceSpec>,
        model: Vec<ModelSpec>,
    }
    let part: Part = toml::from_str(config).map_err(Failure::of("read the configuration"))?;
    let model = part.model.into_iter().find(|model| model.name == name);
    let model = model.ok_or_else(|| Failure::new(format!("the configuration has no model `{name}`")))?;
    Ok(GoldenHeader { golden: 1, sources: part.source, model: ModelSpec { package: None, ..model } })
}
