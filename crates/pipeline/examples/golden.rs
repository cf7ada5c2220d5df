//! Makes a package's golden vectors from a recorded stream: `golden PACKAGE_FOLDER CONFIG_JSON STREAM_NDJSON`.
//!
//! CONFIG_JSON is the header line of the golden file (sources and model). Writes `golden.jsonl` and names it in the
//! manifest. `cargo xtask golden` calls it.

use std::path::Path;
use std::process::ExitCode;

use dunlin_model_package::golden::{GoldenHeader, GoldenRecord, RecordedMessage};
use dunlin_model_package::manifest::BlobSpec;
use dunlin_model_package::{Digest, Golden, Package};
use dunlin_pipeline::runner::{expectation, golden_runner, recorded_message, run_golden};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [package, header, stream] = arguments.as_slice() else {
        eprintln!("usage: golden PACKAGE_FOLDER HEADER_JSON STREAM_NDJSON");
        return ExitCode::from(2);
    };
    match make(Path::new(package), Path::new(header), Path::new(stream)) {
        Ok(text) => {
            eprintln!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("golden: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(folder: &Path, header: &Path, stream: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let header: GoldenHeader = serde_json::from_slice(&std::fs::read(header)?)?;
    let package = Package::open(folder).or_else(|_| without_golden(folder))?;
    let mut golden = Golden { header, records: Vec::new() };
    let mut runner = golden_runner(&package, &golden)?;
    for line in std::fs::read_to_string(stream)?.lines().filter(|line| !line.trim().is_empty()) {
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
    manifest.blobs.insert(
        "golden.jsonl".to_owned(),
        BlobSpec { sha256: Digest::of(&bytes), bytes: bytes.len() as u64 },
    );
    write_manifest(folder, &manifest)?;
    let report = run_golden(&Package::open(folder)?)?.ok_or("the package has no golden vectors")?;
    Ok(format!(
        "{} golden predictions, worst difference on a second run {:.1e}",
        report.predictions, report.worst
    ))
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
