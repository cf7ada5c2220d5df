//! Where the files of a repository come from: a folder, or a bundle.
//!
//! Reads by path, with limits; believes nothing of what it reads and follows no link. The trust in the files is judged
//! by whoever reads them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::repository_path::RepositoryPath;

/// No link is followed, and nobody waits at a pipe.
const OPEN_FLAGS: i32 = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).bits();

/// Why a file of a repository cannot be read.
#[derive(Debug)]
pub enum SourceError {
    /// The file system failed.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is longer than the caller takes.
    TooLong {
        /// Its path in the repository.
        path: RepositoryPath,
        /// Its length in bytes.
        length: u64,
        /// What the caller takes.
        length_max: u64,
    },
    /// There is something under the name that is no plain file.
    NotPlain(PathBuf),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, .. } => write!(f, "cannot read `{}`", path.display()),
            Self::TooLong { path, length, length_max } => {
                write!(f, "`{path}` is {length} bytes long, more than the {length_max} that are allowed")
            }
            Self::NotPlain(path) => write!(f, "`{}` is not a plain file", path.display()),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::TooLong { .. } | Self::NotPlain(_) => None,
        }
    }
}

/// A place that holds files of a repository.
pub trait RepositorySource {
    /// Returns the length of a file in bytes, or `None` where there is none.
    ///
    /// *Errors*: the place cannot be read.
    fn length(&self, path: &RepositoryPath) -> Result<Option<u64>, SourceError>;

    /// Returns what reads a file from `offset` bytes on (nothing beyond its end), or `None` where there is none.
    ///
    /// *Errors*: the place cannot be read.
    fn reader_at(
        &self,
        path: &RepositoryPath,
        offset: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, SourceError>;

    /// Returns a file, or `None` where there is none.
    ///
    /// *Errors*: it is longer than `length_max` bytes, or the place cannot be read.
    fn read(&self, path: &RepositoryPath, length_max: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let (Some(length), Some(reader)) = (self.length(path)?, self.reader_at(path, 0)?) else {
            return Ok(None);
        };
        let too_long = |length| SourceError::TooLong { path: path.clone(), length, length_max };
        if length > length_max {
            return Err(too_long(length));
        }
        let mut bytes = Vec::new();
        let io = |source| SourceError::Io { path: path.to_string().into(), source };
        reader.take(length_max.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
        // A file in a folder may have grown since its length was asked for.
        if bytes.len() as u64 > length_max { Err(too_long(bytes.len() as u64)) } else { Ok(Some(bytes)) }
    }
}

/// A repository in a folder.
#[derive(Debug, Clone)]
pub struct RepositoryFolder(PathBuf);

impl RepositoryFolder {
    /// Takes a folder, which need not exist.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Returns the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Returns where a file is.
    #[must_use]
    pub fn place(&self, path: &RepositoryPath) -> PathBuf {
        self.0.join(path.to_string())
    }

    /// Returns the paths of all metadata, in order; other names in the folder are passed over.
    ///
    /// *Errors*: the folder cannot be read.
    pub fn metadata(&self) -> Result<Vec<RepositoryPath>, SourceError> {
        let folder = self.0.join("metadata");
        let io = |source| SourceError::Io { path: folder.clone(), source };
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let name = entry.map_err(io)?.file_name();
            paths.extend(name.to_str().and_then(|name| format!("metadata/{name}").parse().ok()));
        }
        paths.sort();
        Ok(paths)
    }

    fn open(&self, path: &RepositoryPath) -> Result<Option<(File, u64)>, SourceError> {
        let place = self.place(path);
        let io = |source| SourceError::Io { path: place.clone(), source };
        let file = match OpenOptions::new().read(true).custom_flags(OPEN_FLAGS).open(&place) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(_) if std::fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_symlink()) => {
                return Err(SourceError::NotPlain(place));
            }
            Err(error) => return Err(io(error)),
        };
        let meta = file.metadata().map_err(io)?;
        if meta.is_file() { Ok(Some((file, meta.len()))) } else { Err(SourceError::NotPlain(place)) }
    }
}

impl RepositorySource for RepositoryFolder {
    fn length(&self, path: &RepositoryPath) -> Result<Option<u64>, SourceError> {
        Ok(self.open(path)?.map(|(_, length)| length))
    }

    fn reader_at(
        &self,
        path: &RepositoryPath,
        offset: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, SourceError> {
        let Some((mut file, _)) = self.open(path)? else { return Ok(None) };
        let io = |source| SourceError::Io { path: self.place(path), source };
        file.seek(SeekFrom::Start(offset)).map_err(io)?;
        Ok(Some(Box::new(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_kit::atomic_file;

    fn path(text: &str) -> RepositoryPath {
        text.parse().unwrap()
    }

    #[test]
    fn files_are_read_with_their_limit_and_from_any_offset() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("metadata")).unwrap();
        atomic_file::write(&folder.path().join("metadata/1.root.json"), b"0123456789").unwrap();
        atomic_file::write(&folder.path().join("metadata/notes.txt"), b"x").unwrap();
        let source = RepositoryFolder::new(folder.path());
        let root = path("metadata/1.root.json");
        assert_eq!(source.read(&root, 10).unwrap().unwrap(), b"0123456789");
        assert!(matches!(source.read(&root, 9), Err(SourceError::TooLong { length: 10, .. })));
        let mut rest = String::new();
        source.reader_at(&root, 7).unwrap().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "789");
        assert_eq!(source.read(&path("metadata/2.root.json"), 9).unwrap(), None);
        assert_eq!(source.metadata().unwrap(), [root]);
        assert!(RepositoryFolder::new("/nowhere").metadata().unwrap().is_empty());
    }

    #[test]
    fn links_pipes_and_folders_are_no_files_of_a_repository() {
        let folder = tempfile::tempdir().unwrap();
        let metadata = folder.path().join("metadata");
        std::fs::create_dir(&metadata).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", metadata.join("1.root.json")).unwrap();
        std::fs::create_dir(metadata.join("2.root.json")).unwrap();
        nix::unistd::mkfifo(&metadata.join("3.root.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let source = RepositoryFolder::new(folder.path());
        for version in 1..=3 {
            let read = source.read(&path(&format!("metadata/{version}.root.json")), 1 << 20);
            assert!(matches!(read, Err(SourceError::NotPlain(_))), "{version}: {read:?}");
        }
    }
}
