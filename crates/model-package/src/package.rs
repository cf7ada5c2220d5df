//! A model package that its owner approved: the verified manifest and the files it names, read with limits and checked
//! by hash.
//!
//! Can be made from a verified manifest alone. Never runs the model and never follows a name out of its folder. What it
//! returns is what the pipeline and the worker load, and nothing else is.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::golden::{GOLDEN_BYTES_MAX, Golden, GoldenError, GoldenHeader, GoldenReader};
use crate::manifest::{BlobSpec, Manifest, ManifestError};
use crate::profile::{PROFILE_BYTES_MAX, PROFILE_FILE, Profile, ProfileError};
use dunlin_kit::digest::Digest;
use dunlin_trust::{TargetFile, Verified};
use serde::{Deserialize, Serialize};

/// Longest manifest: thousands of features with names and units.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Longest blob: more than any model that fits a gateway's memory twice.
pub const BLOB_BYTES_MAX: u64 = 512 << 20;
/// Name of the model's file.
pub const MODEL_FILE: &str = "model.onnx";
/// Name of the file of golden vectors.
pub const GOLDEN_FILE: &str = "golden.jsonl";

/// Where the files of a package lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blobs {
    /// A folder that names them by their SHA-256: a gateway's store, a repository.
    ByDigest(PathBuf),
    /// A folder that names them as the manifest does: a package before it is signed.
    ByName(PathBuf),
}

impl Blobs {
    /// Returns the same place as an absolute path, for another process.
    #[must_use]
    pub fn absolute(&self) -> Self {
        let absolute = |folder: &Path| std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        match self {
            Self::ByDigest(folder) => Self::ByDigest(absolute(folder)),
            Self::ByName(folder) => Self::ByName(absolute(folder)),
        }
    }
}

/// A package that its owner approved: made from a verified manifest alone, with files that have the hashes it names.
#[derive(Debug, Clone)]
pub struct Package {
    file: Arc<Verified<TargetFile>>,
    manifest: Manifest,
    digest: Digest,
    blobs: Blobs,
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
    /// The reference profile is not one of this model.
    Profile(ProfileError),
}

impl fmt::Display for PackageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, .. } => write!(f, "cannot read `{}`", path.display()),
            Self::Manifest { path, .. } => write!(f, "manifest `{}` is refused", path.display()),
            Self::Blob { path, reason } => write!(f, "file `{}` {reason}", path.display()),
            Self::Golden { path, .. } => write!(f, "golden vectors `{}` are refused", path.display()),
            Self::Profile(_) => f.write_str("the reference profile is refused"),
        }
    }
}

impl std::error::Error for PackageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Manifest { source, .. } => Some(source),
            Self::Golden { source, .. } => Some(source),
            Self::Profile(source) => Some(source),
            Self::Blob { .. } => None,
        }
    }
}

impl Package {
    /// Opens the package of a verified manifest and checks every file it names, and the reference profile where there is one.
    ///
    /// *Errors*: the manifest is refused or is not that of its target; the first file that is missing, too large or
    /// another than the manifest names; a profile that is not sound or describes another model.
    pub fn open(file: Verified<TargetFile>, blobs: Blobs) -> Result<Self, PackageError> {
        let package = Self::without_files(file, blobs)?;
        for (name, spec) in &package.manifest.blobs {
            check_blob(&package.blob_path(name, spec), spec)?;
        }
        package.profile()?;
        Ok(package)
    }

    /// Opens the package of a verified manifest; each of its files is checked when it is read.
    ///
    /// *Errors*: the manifest is refused or is not that of its target.
    pub fn without_files(file: Verified<TargetFile>, blobs: Blobs) -> Result<Self, PackageError> {
        let path = PathBuf::from(&file.path);
        if file.bytes.len() as u64 > MANIFEST_BYTES_MAX {
            let reason = format!("is longer than {MANIFEST_BYTES_MAX} bytes");
            return Err(PackageError::Blob { path, reason });
        }
        let manifest = Manifest::parse(&file.bytes)
            .map_err(|source| PackageError::Manifest { path: path.clone(), source })?;
        if manifest.target_path() != file.path {
            let reason = format!("is signed for another model or version than `{}`", manifest.target_path());
            return Err(PackageError::Blob { path, reason });
        }
        if file.note.as_ref().is_some_and(|note| *note != manifest.release_note()) {
            let reason = "says something else of its release than the metadata that name it".to_owned();
            return Err(PackageError::Blob { path, reason });
        }
        Ok(Self { digest: Digest::of(&file.bytes), manifest, file: Arc::new(file), blobs })
    }

    /// Returns the manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the SHA-256 of the manifest's file: the package's identity, since it names every file by hash.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the manifest's file with the proof of its approval.
    #[must_use]
    pub fn file(&self) -> &TargetFile {
        &self.file
    }

    /// Returns where its files lie.
    #[must_use]
    pub const fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Reads a file of the package and checks it against the manifest.
    ///
    /// *Errors*: the file is missing, not named by the manifest, or another than it names.
    pub fn read_blob(&self, name: &str) -> Result<Vec<u8>, PackageError> {
        let Some(spec) = self.manifest.blobs.get(name) else {
            let reason = "is not named by the manifest".to_owned();
            return Err(PackageError::Blob { path: PathBuf::from(name), reason });
        };
        read_blob(&self.blob_path(name, spec), spec)
    }

    fn blob_path(&self, name: &str, spec: &BlobSpec) -> PathBuf {
        match &self.blobs {
            Blobs::ByDigest(folder) => folder.join(spec.sha256.to_string()),
            Blobs::ByName(folder) => folder.join(name),
        }
    }

    /// Reads the reference profile, where the package has one.
    ///
    /// *Errors*: as [`Package::read_blob`], a file beyond [`PROFILE_BYTES_MAX`], or a profile that is not sound or describes
    /// another model.
    pub fn profile(&self) -> Result<Option<Profile>, PackageError> {
        let Some(spec) = self.manifest.blobs.get(PROFILE_FILE) else {
            return Ok(None);
        };
        if spec.bytes > PROFILE_BYTES_MAX {
            let reason = format!("is longer than {PROFILE_BYTES_MAX} bytes; describe fewer features");
            return Err(PackageError::Blob { path: PathBuf::from(PROFILE_FILE), reason });
        }
        let profile = Profile::parse(&self.read_blob(PROFILE_FILE)?).map_err(PackageError::Profile)?;
        profile.require_fits(&self.manifest).map_err(PackageError::Profile)?;
        Ok(Some(profile))
    }

    /// Reads the golden vectors, where the package has some.
    ///
    /// *Errors*: as [`Package::read_blob`], or a line that cannot be read.
    pub fn golden(&self) -> Result<Option<Golden>, PackageError> {
        let Some((header, records)) = self.golden_reader()? else { return Ok(None) };
        let records = records.collect::<Result<_, _>>().map_err(golden_error)?;
        Ok(Some(Golden { header, records }))
    }

    /// Reads the header of the golden vectors, where the package has some; the records follow one at a time.
    ///
    /// *Errors*: as [`Package::read_blob`], a file beyond [`GOLDEN_BYTES_MAX`], or a header that cannot be read.
    pub fn golden_reader(&self) -> Result<Option<(GoldenHeader, GoldenReader)>, PackageError> {
        let Some(spec) = self.manifest.blobs.get(GOLDEN_FILE) else {
            return Ok(None);
        };
        if spec.bytes > GOLDEN_BYTES_MAX {
            let reason = format!("is longer than {GOLDEN_BYTES_MAX} bytes; keep fewer records");
            return Err(PackageError::Blob { path: PathBuf::from(GOLDEN_FILE), reason });
        }
        GoldenReader::open(self.read_blob(GOLDEN_FILE)?).map(Some).map_err(golden_error)
    }
}

/// Returns the error of a package whose golden vectors cannot be read.
#[must_use]
pub fn golden_error(source: GoldenError) -> PackageError {
    PackageError::Golden { path: PathBuf::from(GOLDEN_FILE), source }
}

/// Reads a file that a manifest describes.
///
/// *Errors*: it is missing, no plain file, or another than described.
pub fn read_blob(path: &Path, spec: &BlobSpec) -> Result<Vec<u8>, PackageError> {
    require_plain(path)?;
    let bytes = read_limited(path, spec.bytes.min(BLOB_BYTES_MAX))?;
    require_named(path, spec, bytes.len() as u64, Digest::of(&bytes))?;
    Ok(bytes)
}

/// Checks a file that a manifest describes without holding it in memory.
///
/// *Errors*: as [`read_blob`].
pub fn check_blob(path: &Path, spec: &BlobSpec) -> Result<(), PackageError> {
    require_plain(path)?;
    let io = |source| PackageError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let (digest, length) = Digest::of_reader(file.take(spec.bytes.saturating_add(1))).map_err(io)?;
    require_named(path, spec, length, digest)
}

/// Refuses links, folders, devices and pipes, which lead elsewhere or never end.
fn require_plain(path: &Path) -> Result<(), PackageError> {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let reason = "is not a plain file".to_owned();
        return Err(PackageError::Blob { path: path.to_owned(), reason });
    }
    Ok(())
}

fn require_named(path: &Path, spec: &BlobSpec, length: u64, digest: Digest) -> Result<(), PackageError> {
    if length == spec.bytes && digest == spec.sha256 {
        return Ok(());
    }
    let reason =
        "is not the one the manifest names (length or SHA-256 differs); build or fetch the package again";
    Err(PackageError::Blob { path: path.to_owned(), reason: reason.to_owned() })
}

/// Reads a file of at most this many bytes.
///
/// *Errors*: it cannot be read, or is longer.
pub fn read_limited(path: &Path, bytes_max: u64) -> Result<Vec<u8>, PackageError> {
    let io = |source| PackageError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // The announced length, so that the buffer does not grow by doubling; one more byte tells the end.
    let announced = file.metadata().map_err(io)?.len().min(bytes_max);
    let mut bytes = Vec::with_capacity(usize::try_from(announced).map_or(0, |length| length + 1));
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > bytes_max {
        return Err(PackageError::Blob {
            path: path.to_owned(),
            reason: format!("is longer than {bytes_max} bytes"),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "package/tests.rs"]
mod tests;
