//! A model package folder: the manifest and the files it names, read with limits and checked by hash.
//!
//! Opens `manifest.json`, `model.onnx`, `golden.jsonl`. Never runs the model and never follows a name out of the
//! folder. What it returns is what the pipeline and the worker load.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::golden::{Golden, GoldenError};
use crate::manifest::{BlobSpec, Manifest, ManifestError};
use dunlin_kit::digest::Digest;

/// Longest manifest: thousands of features with names and units.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Longest blob: more than any model that fits a gateway's memory twice.
pub const BLOB_BYTES_MAX: u64 = 512 << 20;
/// Most blobs in a package.
pub const BLOBS_MAX: usize = 64;

/// A package whose manifest was read and whose files have the hashes it names.
#[derive(Debug, Clone)]
pub struct Package {
    /// The folder.
    pub folder: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
    /// SHA-256 of `manifest.json`: the package's identity, since the manifest names every file by hash.
    pub digest: Digest,
}

/// Why a package cannot be used.
#[derive(Debug)]
pub enum PackageError {
    /// A file cannot be read.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is wrong.
    Manifest {
        /// The file.
        path: PathBuf,
        /// All findings.
        source: ManifestError,
    },
    /// A file is not what the manifest names, or is too large.
    Blob {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The golden vectors cannot be read.
    Golden {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: GoldenError,
    },
}

impl fmt::Display for PackageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, .. } => write!(f, "cannot read `{}`", path.display()),
            Self::Manifest { path, .. } => write!(f, "manifest `{}` is refused", path.display()),
            Self::Blob { path, reason } => write!(f, "file `{}` {reason}", path.display()),
            Self::Golden { path, .. } => write!(f, "golden vectors `{}` are refused", path.display()),
        }
    }
}

impl std::error::Error for PackageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Manifest { source, .. } => Some(source),
            Self::Golden { source, .. } => Some(source),
            Self::Blob { .. } => None,
        }
    }
}

impl Package {
    /// Opens a package folder and checks every file it names.
    ///
    /// *Errors*: the first file that is missing, too large or another than the manifest names.
    pub fn open(folder: &Path) -> Result<Self, PackageError> {
        let path = folder.join("manifest.json");
        let text = read_limited(&path, MANIFEST_BYTES_MAX)?;
        let manifest =
            Manifest::parse(&text).map_err(|source| PackageError::Manifest { path: path.clone(), source })?;
        if manifest.blobs.len() > BLOBS_MAX {
            return Err(PackageError::Blob { path, reason: format!("names more than {BLOBS_MAX} files") });
        }
        let package = Self { folder: folder.to_owned(), digest: Digest::of(&text), manifest };
        for name in package.manifest.blobs.keys() {
            package.read_blob(name)?;
        }
        Ok(package)
    }

    /// Reads a file of the package and checks it against the manifest.
    ///
    /// *Errors*: the file is missing, not named by the manifest, or another than it names.
    pub fn read_blob(&self, name: &str) -> Result<Vec<u8>, PackageError> {
        let path = self.folder.join(name);
        let refuse = |reason: &str| PackageError::Blob { path: path.clone(), reason: reason.to_owned() };
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !name.starts_with('.');
        let spec: &BlobSpec =
            self.manifest.blobs.get(name).ok_or_else(|| refuse("is not named by the manifest"))?;
        if !plain {
            return Err(refuse("has a name that is not letters, digits, `-`, `_` and `.`"));
        }
        if std::fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            return Err(refuse("is not a plain file"));
        }
        let bytes = read_limited(&path, BLOB_BYTES_MAX)?;
        if bytes.len() as u64 != spec.bytes || Digest::of(&bytes) != spec.sha256 {
            return Err(refuse(
                "is not the one the manifest names (length or SHA-256 differs); build or copy the package again",
            ));
        }
        Ok(bytes)
    }

    /// Reads the golden vectors, where the package has some.
    ///
    /// *Errors*: as [`Package::read_blob`], or a line that cannot be read.
    pub fn golden(&self) -> Result<Option<Golden>, PackageError> {
        if !self.manifest.blobs.contains_key("golden.jsonl") {
            return Ok(None);
        }
        let bytes = self.read_blob("golden.jsonl")?;
        let path = self.folder.join("golden.jsonl");
        Golden::parse(&bytes).map(Some).map_err(|source| PackageError::Golden { path, source })
    }
}

fn read_limited(path: &Path, bytes_max: u64) -> Result<Vec<u8>, PackageError> {
    let io = |source| PackageError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(bytes_max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > bytes_max {
        return Err(PackageError::Blob {
            path: path.to_owned(),
            reason: format!("is longer than {bytes_max} bytes"),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_package(folder: &Path, model: &[u8], blob_name: &str) {
        let manifest = serde_json::json!({
            "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
            "inputs": [{ "name": "x", "shape": ["batch", 1], "features": [{ "name": "a" }] }],
            "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", 1] }],
            "blobs": { "model.onnx": { "sha256": Digest::of(b"model"), "bytes": 5 }, blob_name: { "sha256": Digest::of(b""), "bytes": 0 } }
        });
        dunlin_kit::atomic_file::write(&folder.join("manifest.json"), manifest.to_string().as_bytes())
            .unwrap();
        dunlin_kit::atomic_file::write(&folder.join("model.onnx"), model).unwrap();
    }

    #[test]
    fn a_changed_model_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        write_package(folder.path(), b"mOdel", "model.onnx2");
        let error = Package::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("model.onnx` is not the one"), "{error}");
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../x", "/etc/passwd", ".hidden", "a/b"] {
            write_package(folder.path(), b"model", name);
            let error = Package::open(folder.path()).unwrap_err();
            assert!(matches!(error, PackageError::Blob { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_link_is_no_file_of_the_package() {
        let folder = tempfile::tempdir().unwrap();
        write_package(folder.path(), b"model", "profile.json");
        std::os::unix::fs::symlink(folder.path().join("model.onnx"), folder.path().join("profile.json"))
            .unwrap();
        assert!(Package::open(folder.path()).unwrap_err().to_string().contains("plain file"));
    }
}
