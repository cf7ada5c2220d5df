//! Makes the golden vectors of an example: `golden EXAMPLE_FOLDER`.
//!
//! Reads the folder's `dunlind.toml` (sources and the first model), runs its `generate.py` and the pipeline over the
//! stream, writes `package/golden.jsonl` and names it in the manifest. `cargo xtask golden` calls it.

#![expect(clippy::print_stderr, reason = "a program for developers: it says what it made")]

use std::path::Path;
use std::process::{Command, ExitCode};

use dunlin_model_package::golden::{GoldenHeader, GoldenRecord, RecordedMessage};
use dunlin_model_package::manifest::BlobSpec;
use dunlin_model_package::{Digest, Golden, ModelSpec, Package, SourceSpec};
use dunlin_pipeline::runner::{expectation, golden_runner, recorded_message, run_golden};

/// Messages of a golden file: enough for full windows, gaps, late and missing values.
const MESSAGES: usize = 160;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = arguments.as_slice() else {
        eprintln!("usage: golden EXAMPLE_FOLDER");
        return ExitCode::from(2);
    };
    match make(Path::new(folder)) {
        Ok(text) => {
            eprintln!("{folder}: {text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{folder}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(example: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let folder = example.join("package");
    let mut golden = Golden { header: header(&example.join("dunlind.toml"))?, records: Vec::new() };
    let package = Package::open(&folder).or_else(|_| without_golden(&folder))?;
    let mut runner = golden_runner(&package, &golden)?;
    for line in stream(&example.join("generate.py"))?.lines().take(MESSAGES) {
        let recorded: RecordedMessage = serde_json::from_str(line)?;
        let payload = recorded.payload_bytes()?;
        let (predicted, _) =
            runner.take(&recorded_message(&recorded.topic, &payload, recorded.arrival_ms, recorded.retained));
        golden.records.push(GoldenRecord::Message(recorded.clone()));
        golden
            .records
            .extend(predicted.iter().map(|one| GoldenRecord::Expect(expectation(&package.manifest, one))));
    }
    let bytes = golden.to_bytes();
    dunlin_kit::atomic_file::write(&folder.join("golden.jsonl"), &bytes)?;
    let mut manifest = package.manifest.clone();
    let blob = BlobSpec { sha256: Digest::of(&bytes), bytes: bytes.len() as u64 };
    manifest.blobs.insert("golden.jsonl".to_owned(), blob);
    write_manifest(&folder, &manifest)?;
    let report = run_golden(&Package::open(&folder)?)?.ok_or("the package has no golden vectors")?;
    Ok(format!(
        "{} golden predictions, worst difference on a second run {:.1e}",
        report.predictions, report.worst
    ))
}

fn header(configuration: &Path) -> Result<GoldenHeader, Box<dyn std::error::Error>> {
    #[derive(serde::Deserialize)]
    struct Part {
        source: Vec<SourceSpec>,
        model: Vec<ModelSpec>,
    }
    let part: Part = toml::from_str(&std::fs::read_to_string(configuration)?)?;
    let mut model = part.model.into_iter().next().ok_or("the configuration has no model")?;
    model.package = ".".to_owned();
    Ok(GoldenHeader { golden: 1, sources: part.source, model })
}

fn stream(generator: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let output = Command::new("python3").arg(generator).output()?;
    if !output.status.success() {
        return Err(
            format!("`{}` failed: {}", generator.display(), String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Opens a package whose golden file is missing or out of date: it is about to be made.
fn without_golden(folder: &Path) -> Result<Package, Box<dyn std::error::Error>> {
    let mut manifest: dunlin_model_package::Manifest =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json"))?)?;
    manifest.blobs.remove("golden.jsonl");
    write_manifest(folder, &manifest)?;
    Ok(Package::open(folder)?)
}

fn write_manifest(
    folder: &Path,
    manifest: &dunlin_model_package::Manifest,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut text = serde_json::to_string_pretty(manifest)?;
    text.push('\n');
    dunlin_kit::atomic_file::write(&folder.join("manifest.json"), text.as_bytes())?;
    Ok(())
}
