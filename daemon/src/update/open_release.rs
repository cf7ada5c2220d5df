//! A release straight from a bundle or repository, for `predict`, `replay` and `check`: verified as for a gateway,
//! kept nowhere.
//!
//! Reads a repository's blobs where they lie; those of a bundle go to a folder that is removed with the release. Judges
//! everything but what a gateway alone knows: what it saw before, and its floors.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dunlin_model_package::{Blobs, Digest, Package, PackageError, SourceError};
use dunlin_trust::Code;
use dunlin_trust::time::UnixTime;

use super::active_copy;
use super::approval;
use super::blobs::{BlobError, BlobStore};
use super::compatibility::{require_fit, this_device};
use super::place::Place;
use super::refusal::Refusal;
use super::trust_state::{Clocks, Interruption, TrustState};

/// A release that was opened; what it needed for that goes when it is dropped.
#[derive(Debug, Clone)]
pub struct OpenedRelease {
    /// The package.
    pub package: Package,
    _folder: Option<Arc<TemporaryFolder>>,
}

impl From<Package> for OpenedRelease {
    fn from(package: Package) -> Self {
        Self { package, _folder: None }
    }
}

/// Why a release cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// It is refused.
    Refused(Refusal),
    /// The bundle or repository cannot be read.
    Source(SourceError),
    /// The bundle's blobs cannot be copied.
    Blobs(BlobError),
    /// A file of the package is missing or another than it names.
    Package(PackageError),
    /// There is no folder for the bundle's blobs, or what is installed cannot be read.
    Folder(io::Error),
    /// The repository holds several models, or not the one that is asked for.
    Model {
        /// Those it holds.
        models: Vec<String>,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Source(error) => error.fmt(f),
            Self::Blobs(error) => error.fmt(f),
            Self::Package(error) => error.fmt(f),
            Self::Folder(_) => {
                f.write_str("a folder cannot be made or read; for a bundle's files set `TMPDIR`")
            }
            Self::Model { models } if models.is_empty() => f.write_str("there is no signed release in it"),
            Self::Model { models } => {
                write!(f, "it holds releases of `{}`; name one of them with `--model`", models.join("`, `"))
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) | Self::Model { .. } => None,
            Self::Source(error) => error.source(),
            Self::Blobs(error) => error.source(),
            Self::Package(error) => error.source(),
            Self::Folder(error) => Some(error),
        }
    }
}

impl From<Interruption> for OpenError {
    fn from(interruption: Interruption) -> Self {
        match interruption {
            Interruption::Refused(refusal) => Self::Refused(refusal),
            Interruption::Source(error) => Self::Source(error),
        }
    }
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Opens the newest release of a model, or of the only one there is; every file of it is checked. `root` is the root of
/// trust that its owner gave out, `now` the time by which expiry is judged: see [`time_of`].
///
/// *Errors*: it is refused, cannot be read, or it is not clear which is meant.
pub fn open_release(
    place: &Place,
    root: &[u8],
    model: Option<&str>,
    now: UnixTime,
) -> Result<OpenedRelease, OpenError> {
    let mut state = TrustState::first(root)?;
    let now = now.max(state.time(&Clocks { system: None, ..Clocks::read() }));
    state.refresh(place, now)?;
    let model = match model {
        Some(model) => model.to_owned(),
        None => only_model(&state)?,
    };
    let Some(approved) = approval::newest(state.set_mut(), place, &model, now)? else {
        let reason = "has no release that is signed by somebody who may";
        return Err(Refusal::trust(Code::NotApproved, format!("models/{model}"), reason).into());
    };
    let device = this_device();
    let file = approval::fetch_manifest(&approved, state.set(), place, &device)?;
    if let Some(blobs) = place.blob_folder() {
        let package = Package::open(file, Blobs::ByDigest(blobs)).map_err(OpenError::Package)?;
        require_fit(package.manifest(), &model, &device)?;
        return Ok(package.into());
    }
    let folder = TemporaryFolder::make().map_err(OpenError::Folder)?;
    let store = BlobStore::open(&folder.0, 0).map_err(OpenError::Blobs)?;
    let package = Package::without_files(file, store.blobs()).map_err(OpenError::Package)?;
    require_fit(package.manifest(), &model, &device)?;
    for spec in package.manifest().blobs.values() {
        store.fetch(place, spec, &mut |_| {}).map_err(OpenError::Blobs)?;
    }
    Ok(OpenedRelease { package, _folder: Some(Arc::new(folder)) })
}

/// Opens the release that was found good on a gateway and is kept there; `None` where there is none.
///
/// *Errors*: its copy or a file of it is missing or another than was signed.
pub fn open_installed(state_dir: &Path, model: &str) -> Result<Option<OpenedRelease>, OpenError> {
    let Some(copy) = active_copy::read(state_dir, model).map_err(OpenError::Folder)? else { return Ok(None) };
    let anchor = Digest::of(copy.evidence.root.as_bytes());
    let file = copy.evidence.verify(&anchor, copy.manifest).map_err(Refusal::from)?;
    let blobs = Blobs::ByDigest(BlobStore::path_in(state_dir));
    let package = Package::open(file, blobs).map_err(OpenError::Package)?;
    Ok(Some(package.into()))
}

/// Returns the time by which an offline command judges expiry: this machine's, where it was ever set.
#[must_use]
pub fn time_of(clocks: &Clocks) -> UnixTime {
    clocks.trusted_time(None)
}

fn only_model(state: &TrustState) -> Result<String, OpenError> {
    let paths = state.set().targets().into_iter().flat_map(|targets| targets.targets.keys());
    let mut models: Vec<String> =
        paths.filter_map(|path| Some(path.strip_prefix("models/")?.split_once('/')?.0.to_owned())).collect();
    models.sort_unstable();
    models.dedup();
    match models.as_slice() {
        [model] => Ok(model.clone()),
        _ => Err(OpenError::Model { models }),
    }
}

/// A folder that is removed when it is dropped.
#[derive(Debug)]
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn make() -> io::Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        use std::os::unix::fs::DirBuilderExt;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name =
            format!("dunlin-{}-{number}-{}", std::process::id(), dunlin_kit::clock::monotonic_micros());
        let path: &Path = &std::env::temp_dir().join(name);
        // Nobody else may have made it: it must not exist.
        fs::DirBuilder::new().mode(0o700).create(path)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
