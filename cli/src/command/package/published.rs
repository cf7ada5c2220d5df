//! The number of a model's last release in a repository's folder, to choose the next one by.
//!
//! Reads unverified metadata and trusts nothing of it: a wrong number is refused where the release is published and on
//! every gateway.

use std::path::Path;

use serde_json::Value;

use super::read;
use crate::command::CommandError;

/// Longest file of metadata that is looked at: that of the verifier's limit on targets.
const METADATA_BYTES_MAX: u64 = 16 << 20;

/// Returns the highest release counter of a model in a repository, or 0 where it has none.
///
/// *Errors*: the folder or a file of it cannot be read.
pub(super) fn release_counter(repository: &Path, model: &str) -> Result<u64, CommandError> {
    let folder = repository.join("metadata");
    let folder = if folder.is_dir() { folder } else { repository.to_owned() };
    let entries = std::fs::read_dir(&folder).map_err(|error| {
        CommandError::failed(format!("cannot read the repository `{}`", folder.display()), error)
    })?;
    let mut highest = 0;
    for entry in entries.filter_map(Result::ok) {
        if !entry.file_name().to_string_lossy().ends_with(".json") {
            continue;
        }
        let Ok(value) = serde_json::from_slice::<Value>(&read(&entry.path(), METADATA_BYTES_MAX)?) else {
            continue;
        };
        let targets = value.pointer("/signed/targets").and_then(Value::as_object);
        for note in
            targets.into_iter().flat_map(|targets| targets.values()).filter_map(|target| target.get("custom"))
        {
            if note.get("model").and_then(Value::as_str) == Some(model) {
                highest = highest.max(note.get("release_counter").and_then(Value::as_u64).unwrap_or(0));
            }
        }
    }
    Ok(highest)
}
