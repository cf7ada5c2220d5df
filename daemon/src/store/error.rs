//! What goes wrong with the store, and how a caller tells what to do about it.
//!
//! Names the object and the remedy; never repeats the source's text. Every function of the store returns it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// A failure of the store.
#[derive(Debug)]
pub enum StoreError {
    /// Another daemon writes to the folder.
    Locked {
        /// The state folder.
        folder: PathBuf,
        /// The other process, where its id could be read.
        pid: Option<u32>,
    },
    /// A file or folder cannot be used.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database was shaped by a newer program.
    TooNew {
        /// Which.
        path: PathBuf,
        /// The program's version.
        needed: String,
    },
    /// Contents that cannot be what was written.
    Damaged {
        /// What.
        object: String,
    },
    /// SQLite failed.
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// The schema could not be brought up to date.
    Migration {
        /// Of which file.
        path: PathBuf,
        /// Why.
        source: Box<refinery::Error>,
    },
    /// The writer gave up after this many attempts.
    GaveUp {
        /// How many.
        attempts: u32,
        /// The last failure.
        source: Box<StoreError>,
    },
}

/// What a caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// Make room and try again.
    Full,
    /// Carry on from memory.
    ReadOnly,
    /// Try again after a while: input or output failed, or another connection holds the file.
    Retry,
    /// Set the file aside.
    Damaged,
    /// Stop.
    Fatal,
}

impl StoreError {
    /// Wraps a failure of SQLite.
    pub(crate) fn sqlite(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sqlite { doing, source }
    }

    /// Wraps a failure of the file system.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), source }
    }

    /// Returns what a caller can do about it.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Sqlite { source, .. } => class_of(source),
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureClass::Full,
                io::ErrorKind::ReadOnlyFilesystem => FailureClass::ReadOnly,
                _ => FailureClass::Fatal,
            },
            Self::Damaged { .. } => FailureClass::Damaged,
            Self::Migration { source, .. } => migration_class(source),
            Self::GaveUp { source, .. } => source.class(),
            Self::Locked { .. } | Self::TooNew { .. } => FailureClass::Fatal,
        }
    }
}

fn class_of(error: &rusqlite::Error) -> FailureClass {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => FailureClass::Full,
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            FailureClass::ReadOnly
        }
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed,
        ) => FailureClass::Retry,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => FailureClass::Damaged,
        _ => FailureClass::Fatal,
    }
}

fn migration_class(error: &refinery::Error) -> FailureClass {
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        if let Some(sqlite) = source.downcast_ref::<rusqlite::Error>() {
            return class_of(sqlite);
        }
        next = source.source();
    }
    FailureClass::Fatal
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { folder, pid } => {
                write!(f, "state folder `{}` is in use by another dunlind", folder.display())?;
                pid.map_or(Ok(()), |pid| write!(f, " (process {pid})"))?;
                f.write_str("; stop it, or give this one another --state-dir")
            }
            Self::File { path, .. } => write!(f, "cannot use `{}`", path.display()),
            Self::TooNew { path, needed } => write!(
                f,
                "`{}` was shaped by dunlind {needed}; install that version or a newer one (this is {})",
                path.display(),
                env!("CARGO_PKG_VERSION")
            ),
            Self::Damaged { object } => write!(f, "{object} is damaged"),
            Self::Sqlite { doing, .. } => write!(f, "cannot {doing}"),
            Self::Migration { path, .. } => {
                write!(f, "cannot bring `{}` to this version's schema", path.display())
            }
            Self::GaveUp { attempts, .. } => write!(f, "the telemetry log failed {attempts} times in a row"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Sqlite { source, .. } => Some(source),
            Self::Migration { source, .. } => Some(source.as_ref()),
            Self::GaveUp { source, .. } => Some(source.as_ref()),
            Self::Locked { .. } | Self::TooNew { .. } | Self::Damaged { .. } => None,
        }
    }
}
