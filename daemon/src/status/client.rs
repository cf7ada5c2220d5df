//! The asking side of the status socket, for commands that run beside the daemon.
//!
//! One request a connection, blocking, with time limits; never waits for a daemon that hangs. Used by `status`,
//! `sources`, `query` and `export`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::status::report::{SourceReport, StatusReport};
use crate::status::socket::{FLUSH_TIME_MAX, PROGRESS_TIME_MAX, Reply, Request};
use crate::status::socket_path;
use crate::update::import_desk::{Again, ImportReport};
use crate::update::report::{ModelsReport, RollbackReport};

/// How long a read or write may stand still.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest reply: every model and source a configuration can hold, with a sample of each reason.
const REPLY_BYTES_MAX: u64 = 16 << 20;

/// Why a daemon gave no answer.
#[derive(Debug)]
pub enum ClientError {
    /// No daemon runs with this state folder.
    NotRunning(PathBuf),
    /// The socket may not be used by this user.
    Forbidden(PathBuf),
    /// The connection failed or the daemon took too long.
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The reply is not one that this version knows.
    Reply {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The daemon did not do what was asked.
    Refused(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(path) => write!(f, "no daemon answers on `{}`", path.display()),
            Self::Forbidden(path) => write!(f, "you may not use the status socket `{}`", path.display()),
            Self::Io { path, .. } => write!(f, "no answer from the daemon on `{}`", path.display()),
            Self::Reply { path, reason } => {
                write!(f, "the daemon on `{}` answered something unknown: {reason}", path.display())
            }
            Self::Refused(reason) => write!(f, "the daemon refused the request: {reason}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A daemon, found by its state folder.
#[derive(Debug, Clone)]
pub struct StatusClient {
    path: PathBuf,
}

impl StatusClient {
    /// Returns a client of the daemon with this state folder; connects to nothing yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { path: socket_path(state_dir) }
    }

    /// Asks for the status report.
    ///
    /// *Errors*: no daemon, no answer, or an answer that is not one.
    pub fn status(&self) -> Result<StatusReport, ClientError> {
        match self.ask(&Request::Status, IDLE_MAX)? {
            Reply::Status(report) => Ok(*report),
            other => Err(self.unexpected(other)),
        }
    }

    /// Asks for the counts by source with the last refused payload of each reason.
    ///
    /// *Errors*: as [`StatusClient::status`].
    pub fn sources(&self) -> Result<BTreeMap<String, SourceReport>, ClientError> {
        match self.ask(&Request::Sources, IDLE_MAX)? {
            Reply::Sources(sources) => Ok(sources),
            other => Err(self.unexpected(other)),
        }
    }

    /// Asks that everything that has arrived be committed, and waits until it is.
    ///
    /// *Errors*: as [`StatusClient::status`], or the commit took too long.
    pub fn flush(&self) -> Result<(), ClientError> {
        match self.ask(&Request::Flush, FLUSH_TIME_MAX + IDLE_MAX)? {
            Reply::Flushed(true) => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Tells that the checksum of the batch with this sequence number is wrong.
    ///
    /// *Errors*: as [`StatusClient::status`].
    pub fn quarantine(&self, sequence: u64) -> Result<(), ClientError> {
        match self.ask(&Request::Quarantine { sequence }, IDLE_MAX)? {
            Reply::Quarantined(_) => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Hands in a bundle or the folder of a repository, by its absolute path; returns the import's number. One that is
    /// under way comes to its end first.
    ///
    /// *Errors*: as [`StatusClient::status`], or the daemon takes it not at present.
    pub fn import(&self, place: &Path, again: Again) -> Result<u64, ClientError> {
        match self.ask(&Request::Import { place: place.to_owned(), again }, PROGRESS_TIME_MAX + IDLE_MAX)? {
            Reply::Importing(import) => Ok(import),
            other => Err(self.unexpected(other)),
        }
    }

    /// Returns how far the last import is, as soon as there is something newer than revision `after`, or after a while.
    ///
    /// *Errors*: as [`StatusClient::status`].
    pub fn import_progress(&self, after: u64) -> Result<ImportReport, ClientError> {
        match self.ask(&Request::ImportProgress { after }, PROGRESS_TIME_MAX + IDLE_MAX)? {
            Reply::ImportProgress(report) => Ok(*report),
            other => Err(self.unexpected(other)),
        }
    }

    /// Asks for the models' releases.
    ///
    /// *Errors*: as [`StatusClient::status`].
    pub fn models(&self) -> Result<ModelsReport, ClientError> {
        match self.ask(&Request::Models, IDLE_MAX)? {
            Reply::Models(report) => Ok(*report),
            other => Err(self.unexpected(other)),
        }
    }

    /// Asks that a model leave what serves, or what is being tried.
    ///
    /// *Errors*: as [`StatusClient::status`].
    pub fn rollback(&self, model: &str, reason: Option<&str>) -> Result<RollbackReport, ClientError> {
        let request = Request::Rollback { model: model.to_owned(), reason: reason.map(str::to_owned) };
        match self.ask(&request, IDLE_MAX)? {
            Reply::Rollback(report) => Ok(*report),
            other => Err(self.unexpected(other)),
        }
    }

    /// Asks that candidates run again.
    ///
    /// *Errors*: as [`StatusClient::status`].
    pub fn end_safe_mode(&self) -> Result<(), ClientError> {
        match self.ask(&Request::EndSafeMode, IDLE_MAX)? {
            Reply::SafeModeEnded(_) => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    fn ask(&self, request: &Request, reply_max: Duration) -> Result<Reply, ClientError> {
        let io = |source| ClientError::Io { path: self.path.clone(), source };
        let mut stream = UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(self.path.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(self.path.clone()),
            _ => io(error),
        })?;
        stream.set_write_timeout(Some(IDLE_MAX)).map_err(io)?;
        stream.set_read_timeout(Some(reply_max)).map_err(io)?;
        let mut line = serde_json::to_vec(request).map_err(|error| io(io::Error::other(error)))?;
        line.push(b'\n');
        stream.write_all(&line).map_err(io)?;
        let mut reply = Vec::new();
        stream.take(REPLY_BYTES_MAX).read_to_end(&mut reply).map_err(io)?;
        if reply.is_empty() {
            return Err(io(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&reply)
            .map_err(|error| ClientError::Reply { path: self.path.clone(), reason: error.to_string() })
    }

    fn unexpected(&self, reply: Reply) -> ClientError {
        match reply {
            Reply::Error(reason) => ClientError::Refused(reason),
            _ => ClientError::Reply {
                path: self.path.clone(),
                reason: "it belongs to another request".to_owned(),
            },
        }
    }
}
