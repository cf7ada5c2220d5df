//! `dunlin package inspect`: what a package's folder holds, for a person or a program.
//!
//! Reads and prints; judges nothing but whether the files are those that the manifest names.

use std::path::PathBuf;

use dunlin_model_package::golden::GoldenRecord;
use dunlin_model_package::package::{GOLDEN_FILE, MANIFEST_BYTES_MAX, read_blob};
use dunlin_model_package::profile::{PROFILE_FILE, Profile};
use dunlin_model_package::{Digest, Golden, Manifest};
use serde_json::{Value, json};

use super::published::signers;
use super::{Format, MANIFEST_FILE, read};
use crate::command::CommandError;
use crate::print;

/// Arguments of `dunlin package inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The package's folder
    #[arg(value_name = "FOLDER", default_value = "package")]
    package: PathBuf,
    /// Folder with the metadata that may name the package, to tell who signed it
    #[arg(long, value_name = "FOLDER")]
    repository: Option<PathBuf>,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Prints what is in the folder.
///
/// *Errors*: there is no manifest (exit code 3), or it is refused (5).
pub(super) fn run(args: &Args) -> Result<(), CommandError> {
    let bytes = read(&args.package.join(MANIFEST_FILE), MANIFEST_BYTES_MAX)?;
    let manifest = Manifest::parse(&bytes).map_err(|error| CommandError::CheckFailed(error.to_string()))?;
    let files: Vec<Value> = manifest
        .blobs
        .iter()
        .map(|(name, blob)| {
            let state = if read_blob(&args.package.join(name), blob).is_ok() {
                "present"
            } else {
                "missing or changed"
            };
            json!({ "name": name, "bytes": blob.bytes, "sha256": blob.sha256, "state": state })
        })
        .collect();
    let signers = match &args.repository {
        Some(repository) => Some(signers(repository, &manifest.target_path(), &Digest::of(&bytes))?),
        None => None,
    };
    let (messages, predictions) = golden_counts(args, &manifest);
    let seen = json!({
        "digest": Digest::of(&bytes),
        "target": manifest.target_path(),
        "manifest": manifest,
        "files": files,
        "signed_by": signers,
        "golden": { "messages": messages, "predictions": predictions },
        "profile": profile(args, &manifest),
    });
    match args.output {
        Format::Json => print::line(&format!("{seen:#}")),
        Format::Text => print_text(&manifest, &seen),
    }
    Ok(())
}

/// Returns what the reference profile is of; null where there is none that can be read.
fn profile(args: &Args, manifest: &Manifest) -> Value {
    let blob = manifest.blobs.get(PROFILE_FILE);
    let bytes = blob.and_then(|blob| read_blob(&args.package.join(PROFILE_FILE), blob).ok());
    let Some(profile) = bytes.and_then(|bytes| Profile::parse(&bytes).ok()) else { return Value::Null };
    json!({
        "rows": profile.made_of.rows,
        "series": profile.made_of.series,
        "fields": profile.features.keys().collect::<Vec<_>>(),
        "outputs": profile.outputs.keys().collect::<Vec<_>>(),
        "metrics": profile.metrics,
    })
}

fn golden_counts(args: &Args, manifest: &Manifest) -> (usize, usize) {
    let bytes = manifest
        .blobs
        .get(GOLDEN_FILE)
        .and_then(|blob| read_blob(&args.package.join(GOLDEN_FILE), blob).ok());
    let Some(golden) = bytes.and_then(|bytes| Golden::parse(&bytes).ok()) else { return (0, 0) };
    let messages = golden.records.iter().filter(|record| matches!(record, GoldenRecord::Message(_))).count();
    (messages, golden.records.len() - messages)
}

fn print_text(manifest: &Manifest, seen: &Value) {
    print::line(&format!("{} {}, release {}", manifest.name, manifest.version, manifest.release_counter));
    print::line(&format!("  digest    {}", seen["digest"].as_str().unwrap_or_default()));
    print::line(&format!("  target    {}", manifest.target_path()));
    if let Some(builder) = &manifest.built_by {
        print::line(&format!("  built by  {builder}"));
    }
    print::line(&format!("  window    {} row(s), hop {}", manifest.window.length, manifest.window.hop));
    for input in &manifest.inputs {
        print::line(&format!("  input     {}", input.name));
        for feature in &input.features {
            let unit = feature.unit.as_deref().unwrap_or("no unit");
            let range = feature
                .range
                .map_or_else(|| "any range".to_owned(), |[low, high]| format!("{low} to {high}"));
            print::line(&format!("              {}  {unit}, {range}", feature.name));
        }
    }
    for output in &manifest.outputs {
        let kind = serde_json::to_value(output.kind).unwrap_or_default();
        let labels = output.post.labels.join(", ");
        print::line(&format!("  output    {}  {} {labels}", output.name, kind.as_str().unwrap_or_default()));
    }
    for file in seen["files"].as_array().into_iter().flatten() {
        print::line(&format!(
            "  file      {}  {} bytes  {}  {}",
            file["name"].as_str().unwrap_or_default(),
            file["bytes"],
            file["sha256"].as_str().unwrap_or_default(),
            file["state"].as_str().unwrap_or_default()
        ));
    }
    print::line(&format!(
        "  golden    {} predictions of {} messages",
        seen["golden"]["predictions"], seen["golden"]["messages"]
    ));
    match seen["profile"]["fields"].as_array() {
        Some(fields) => print::line(&format!(
            "  profile   {} field(s), of {} readings of {} series",
            fields.len(),
            seen["profile"]["rows"],
            seen["profile"]["series"]
        )),
        None => print::line("  profile   none"),
    }
    match &manifest.evidence {
        Some(evidence) => print::line(&format!(
            "  evidence  {} row(s) of the training framework, worst difference {:.1e}",
            evidence.rows, evidence.worst
        )),
        None => print::line("  evidence  none"),
    }
    if let Some(signers) = seen["signed_by"].as_array() {
        let ids: Vec<&str> = signers.iter().filter_map(Value::as_str).collect();
        let text = if ids.is_empty() {
            "by nobody in this repository".to_owned()
        } else {
            format!("by {}", ids.join(", "))
        };
        print::line(&format!("  signed    {text}"));
    }
}
