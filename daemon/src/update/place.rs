//! Where an operator points: a bundle's file, or the folder of a repository.
//!
//! Opens and lists; believes nothing of what is there. The import and the offline commands read from it.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use dunlin_model_package::{
    BundleError, BundleReader, Digest, RepositoryFolder, RepositoryPath, RepositorySource, SourceError,
};

/// An opened bundle or repository.
#[derive(Debug, Clone)]
pub enum Place {
    /// A folder.
    Folder(RepositoryFolder),
    /// A bundle.
    Bundle(BundleReader),
    /// A place that was here once and cannot be opened any more: nothing can be read of it.
    Gone(PathBuf),
}

/// Why a place cannot be opened.
#[derive(Debug)]
pub enum PlaceError {
    /// There is nothing under the name.
    NotFound(PathBuf),
    /// This process may not read it.
    Forbidden(PathBuf),
    /// It is no bundle.
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
    /// The file system failed.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(path) => write!(f, "there is no bundle or repository `{}`", path.display()),
            Self::Forbidden(path) => write!(
                f,
                "the daemon may not read `{}`; copy it to a folder that its user can read, as in `/var/tmp`, with \
                 `install -m 644`",
                path.display()
            ),
            Self::Bundle { path, .. } => write!(f, "`{}` is refused", path.display()),
            Self::Io { path, .. } => write!(f, "cannot read `{}`", path.display()),
        }
    }
}

impl std::error::Error for PlaceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bundle { source, .. } => Some(source),
            Self::Io { source, .. } => Some(source),
            Self::NotFound(_) | Self::Forbidden(_) => None,
        }
    }
}

impl Place {
    /// Opens the bundle or the repository's folder.
    ///
    /// *Errors*: there is none, it may not be read, or it is neither.
    pub fn open(path: &Path) -> Result<Self, PlaceError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => PlaceError::NotFound(path.to_owned()),
            io::ErrorKind::PermissionDenied => PlaceError::Forbidden(path.to_owned()),
            _ => PlaceError::Io { path: path.to_owned(), source: error },
        };
        let meta = fs::metadata(path).map_err(failed)?;
        if meta.is_dir() {
            fs::read_dir(path).map_err(failed)?;
            return Ok(Self::Folder(RepositoryFolder::new(path)));
        }
        if !meta.is_file() {
            return Err(failed(io::Error::other("it is neither a file nor a folder")));
        }
        BundleReader::open_path(path).map(Self::Bundle).map_err(|error| match error {
            BundleError::Io(error) => failed(error),
            source => PlaceError::Bundle { path: path.to_owned(), source },
        })
    }

    /// Returns the folder that names blobs by digest, where there is one.
    #[must_use]
    pub fn blob_folder(&self) -> Option<PathBuf> {
        match self {
            Self::Folder(folder) => Some(folder.folder().join("blobs")),
            Self::Bundle(_) | Self::Gone(_) => None,
        }
    }

    fn gone(path: &Path) -> SourceError {
        let source =
            io::Error::new(io::ErrorKind::NotFound, "it is gone; bring it back or import it from elsewhere");
        SourceError::Io { path: path.to_owned(), source }
    }
}

/// A source whose manifests can be listed, so that one that nobody signed is told of.
pub trait ListedSource: RepositorySource {
    /// Returns version and hash of each manifest of this model that lies there, signed or not; nothing where the source
    /// cannot be listed.
    fn manifests(&self, model: &str) -> Vec<(String, Digest)>;
}

impl ListedSource for Place {
    fn manifests(&self, model: &str) -> Vec<(String, Digest)> {
        let Self::Bundle(bundle) = self else { return Vec::new() };
        let of_model = |(path, _): (&RepositoryPath, u64)| match path {
            RepositoryPath::Manifest { model: other, version, sha256 } if other == model => {
                Some((version.clone(), *sha256))
            }
            _ => None,
        };
        bundle.entries().filter_map(of_model).collect()
    }
}

impl RepositorySource for Place {
    fn length(&self, path: &RepositoryPath) -> Result<Option<u64>, SourceError> {
        match self {
            Self::Folder(folder) => folder.length(path),
            Self::Bundle(bundle) => bundle.length(path),
            Self::Gone(place) => Err(Self::gone(place)),
        }
    }

    fn reader_at(
        &self,
        path: &RepositoryPath,
        offset: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, SourceError> {
        match self {
            Self::Folder(folder) => folder.reader_at(path, offset),
            Self::Bundle(bundle) => bundle.reader_at(path, offset),
            Self::Gone(place) => Err(Self::gone(place)),
        }
    }
}
