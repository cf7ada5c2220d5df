//! The paths that a published repository holds, in a folder, on a stick or in a bundle.
//!
//! Decides what is a path of a repository; opens nothing. Every other form is refused, so that no name from outside
//! ever reaches a file system.

use std::fmt;
use std::str::FromStr;

use dunlin_kit::digest::Digest;

/// Longest name of a model, a version or a role.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest path: four folders' names and a hash.
pub const PATH_BYTES_MAX: usize = 255;

/// A path of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepositoryPath {
    /// `metadata/VERSION.ROLE.json`.
    Metadata {
        /// Version of the metadata, from 1.
        version: u64,
        /// Name of the role.
        role: String,
    },
    /// `metadata/timestamp.json`.
    Timestamp,
    /// `targets/models/MODEL/VERSION/SHA256.manifest.json`.
    Manifest {
        /// Name of the model.
        model: String,
        /// Version of the model.
        version: String,
        /// SHA-256 of the manifest.
        sha256: Digest,
    },
    /// `blobs/SHA256`.
    Blob(Digest),
}

/// Below this stand targets that are files of settings: they are kept by hash alone.
pub const SETTINGS_FOLDER: &str = "settings/";

/// A text that is no path of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathError(String);

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no path of a repository", self.0.escape_debug())
    }
}

impl std::error::Error for PathError {}

impl fmt::Display for RepositoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata { version, role } => write!(f, "metadata/{version}.{role}.json"),
            Self::Timestamp => f.write_str("metadata/timestamp.json"),
            Self::Manifest { model, version, sha256 } => {
                write!(f, "targets/models/{model}/{version}/{sha256}.manifest.json")
            }
            Self::Blob(sha256) => write!(f, "blobs/{sha256}"),
        }
    }
}

impl FromStr for RepositoryPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What is read must print as it was written: no second spelling of a path exists.
        Self::read(text)
            .filter(|path| path.to_string() == text)
            .ok_or_else(|| PathError(text.chars().take(PATH_BYTES_MAX).collect()))
    }
}

impl RepositoryPath {
    /// Returns the place of a target, as in `models/frost/1.4.0/manifest.json`, whose bytes have this hash.
    #[must_use]
    pub fn of_target(target: &str, sha256: Digest) -> Option<Self> {
        let rest = target.strip_prefix("models/")?.strip_suffix("/manifest.json")?;
        let (model, version) = rest.split_once('/')?;
        let manifest = Self::Manifest { model: model.to_owned(), version: version.to_owned(), sha256 };
        (is_model(model) && is_version(version)).then_some(manifest)
    }

    /// Returns the path of the target that a manifest is, as signed metadata name it.
    #[must_use]
    pub fn target_path(model: &str, version: &str) -> Option<String> {
        (is_model(model) && is_version(version)).then(|| format!("models/{model}/{version}/manifest.json"))
    }

    /// Returns the path of the target that a file of settings is, as signed metadata name it; none where the name is none
    /// that a model may have.
    #[must_use]
    pub fn settings_target(name: &str) -> Option<String> {
        is_model(name).then(|| format!("{SETTINGS_FOLDER}{name}.toml"))
    }

    /// Tells whether it is a file of metadata.
    #[must_use]
    pub const fn is_metadata(&self) -> bool {
        matches!(self, Self::Metadata { .. } | Self::Timestamp)
    }

    fn read(text: &str) -> Option<Self> {
        if text.len() > PATH_BYTES_MAX {
            return None;
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["metadata", "timestamp.json"] => Some(Self::Timestamp),
            ["metadata", name] => {
                let (version, role) = name.strip_suffix(".json")?.split_once('.')?;
                let version = version.parse().ok().filter(|version| *version > 0)?;
                (is_role(role) && role != "timestamp")
                    .then(|| Self::Metadata { version, role: role.to_owned() })
            }
            ["targets", "models", model, version, name] => {
                let sha256 = name.strip_suffix(".manifest.json")?.parse().ok()?;
                let manifest =
                    Self::Manifest { model: (*model).to_owned(), version: (*version).to_owned(), sha256 };
                (is_model(model) && is_version(version)).then_some(manifest)
            }
            ["blobs", sha256] => Some(Self::Blob(sha256.parse().ok()?)),
            _ => None,
        }
    }

    /// Returns the place in a bundle's order: metadata, manifests, blobs.
    pub(crate) const fn rank(&self) -> u8 {
        match self {
            Self::Metadata { .. } | Self::Timestamp => 0,
            Self::Manifest { .. } => 1,
            Self::Blob(_) => 2,
        }
    }
}

fn is_model(name: &str) -> bool {
    is_name(name, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_version(name: &str) -> bool {
    is_name(name, |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+'))
}

fn is_role(name: &str) -> bool {
    is_name(name, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

fn is_name(name: &str, allowed: fn(u8) -> bool) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_back_as_they_are_printed() {
        let sha256 = Digest::of(b"");
        for text in [
            "metadata/1.root.json".to_owned(),
            "metadata/18446744073709551615.team-a.json".to_owned(),
            "metadata/timestamp.json".to_owned(),
            format!("targets/models/frost/1.4.0+b/{sha256}.manifest.json"),
            format!("blobs/{sha256}"),
        ] {
            assert_eq!(text.parse::<RepositoryPath>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_other_form_is_refused() {
        let sha256 = Digest::of(b"").to_string();
        for text in [
            String::new(),
            "/metadata/1.root.json".to_owned(),
            "metadata/../metadata/1.root.json".to_owned(),
            "./metadata/1.root.json".to_owned(),
            "metadata/01.root.json".to_owned(),
            "metadata/+1.root.json".to_owned(),
            "metadata/0.root.json".to_owned(),
            "metadata/1.timestamp.json".to_owned(),
            "metadata/1.Root.json".to_owned(),
            "metadata/1..json".to_owned(),
            "metadata/1.root.json/".to_owned(),
            "metadata//1.root.json".to_owned(),
            "metadata/1.root.json\0".to_owned(),
            "metadata/18446744073709551616.root.json".to_owned(),
            format!("blobs/{}", sha256.to_uppercase()),
            format!("blobs/{sha256}/x"),
            format!("targets/models/../1/{sha256}.manifest.json"),
            format!("targets/models/m/.1/{sha256}.manifest.json"),
            format!("targets/models/m/1/{sha256}.model.onnx"),
            format!("targets/models/{}/1/{sha256}.manifest.json", "m".repeat(65)),
        ] {
            assert!(text.parse::<RepositoryPath>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_target_has_one_place() {
        let sha256 = Digest::of(b"x");
        let place = RepositoryPath::of_target("models/m/1/manifest.json", sha256).unwrap();
        assert_eq!(place.to_string(), format!("targets/models/m/1/{sha256}.manifest.json"));
        for target in
            ["models/m/manifest.json", "models/m/1/2/manifest.json", "models/../1/manifest.json", "m"]
        {
            assert_eq!(RepositoryPath::of_target(target, sha256), None, "{target}");
        }
    }
}
