//! What the owner signs: the image repository, the director's roots, releases and settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Signed files on their way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFiles {
    /// The files by name, as in `2.root.json` and `5.targets.json`, byte for byte as texts.
    pub files: BTreeMap<String, String>,
    /// Why, in words for those who read the audit log.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}

/// What became of signed files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakenFiles {
    /// Names of the files that are new, the server's own among them; none where all were here.
    pub files: Vec<String>,
    /// Digests of the releases that are new.
    pub releases: Vec<String>,
}

/// Signed files that are here: all roots, and the newest file of each other role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldFiles {
    /// The files by name, byte for byte as texts.
    pub files: BTreeMap<String, String>,
}

/// A blob that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakenBlob {
    /// Its SHA-256.
    pub sha256: String,
    /// Its length.
    pub size_bytes: u64,
}

/// A release of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// SHA-256 of its manifest: what gateways report.
    pub digest: String,
    /// The model.
    pub model: String,
    /// Version for people.
    pub version: String,
    /// Strictly rising number of the release.
    pub counter: u64,
    /// Path of the target in the image repository.
    pub path: String,
    /// When it came here.
    pub published: String,
    /// Who brought it.
    pub published_by: String,
    /// When the owner named it no more: it can be given to no gateway since.
    pub removed: Option<String>,
    /// Ids of the keys that approved it.
    pub signers: Vec<String>,
}

/// A release with its manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseDetail {
    /// The release.
    #[serde(flatten)]
    pub release: Release,
    /// The manifest.
    pub manifest: serde_json::Value,
}

/// A file of settings that the owner approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SettingsRelease {
    /// SHA-256 of the file.
    pub digest: String,
    /// Path of the target in the image repository, as in `settings/plant.toml`.
    pub path: String,
    /// Its length.
    pub size_bytes: u64,
    /// When it came here.
    pub published: String,
    /// Who brought it.
    pub published_by: String,
    /// When the owner named it no more.
    pub removed: Option<String>,
}
