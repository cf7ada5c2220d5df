//! What a repository's folder says of a model: the number of its last release, and whose signatures a release has.
//!
//! Reads unverified metadata and trusts nothing of it: `dunlin publish` and every gateway verify. To choose the next number
//! and to show.

use std::collections::BTreeSet;
use std::path::Path;

use dunlin_model_package::Digest;
use serde_json::Value;

use super::read;
use crate::command::CommandError;

/// Longest file of metadata that is looked at: that of the verifier's limit on targets.
const METADATA_BYTES_MAX: u64 = 16 << 20;

/// Returns the highest release counter of a model in a repository, or 0 where it has none.
///
/// *Errors*: the folder or a file of it cannot be read.
pub(super) fn release_counter(repository: &Path, model: &str) -> Result<u64, CommandError> {
    let mut highest = 0;
    for file in metadata(repository)? {
        let targets = file.pointer("/signed/targets").and_then(Value::as_object);
        let notes = targets
            .into_iter()
            .flat_map(|targets| targets.values())
            .filter_map(|target| target.get("custom"));
        for note in notes.filter(|note| note.get("model").and_then(Value::as_str) == Some(model)) {
            highest = highest.max(note.get("release_counter").and_then(Value::as_u64).unwrap_or(0));
        }
    }
    Ok(highest)
}

/// Returns the ids of the keys whose signatures stand under metadata that name this manifest, each once.
///
/// *Errors*: the folder or a file of it cannot be read.
pub(super) fn signers(
    repository: &Path,
    target: &str,
    digest: &Digest,
) -> Result<BTreeSet<String>, CommandError> {
    let mut found = BTreeSet::new();
    for file in metadata(repository)? {
        let described = file.pointer("/signed/targets").and_then(|targets| targets.get(target));
        let named = described.and_then(|target| target.pointer("/hashes/sha256")).and_then(Value::as_str);
        if named == Some(digest.to_string().as_str()) {
            let signatures = file.get("signatures").and_then(Value::as_array);
            let ids = signatures
                .into_iter()
                .flatten()
                .filter_map(|one| one.get("keyid")?.as_str().map(str::to_owned));
            found.extend(ids);
        }
    }
    Ok(found)
}

/// Returns the files of metadata that are JSON.
fn metadata(repository: &Path) -> Result<Vec<Value>, CommandError> {
    let folder = repository.join("metadata");
    let folder = if folder.is_dir() { folder } else { repository.to_owned() };
    let entries = std::fs::read_dir(&folder).map_err(|error| {
        CommandError::failed(format!("cannot read the repository `{}`", folder.display()), error)
    })?;
    let mut files = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().ends_with(".json") {
            files.extend(serde_json::from_slice(&read(&entry.path(), METADATA_BYTES_MAX)?).ok());
        }
    }
    Ok(files)
}
