//! The status socket: local programs ask one question a connection and get one answer.
//!
//! One JSON line in, one JSON line out, with limits on length, time and connections; what a client sends can never
//! stop or slow the daemon. Lives in the state folder, readable by the daemon's group. Requests for work go to the
//! stage over the control channel.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::status::report::{SourceReport, StatusReport};
use crate::status::{ControlRequest, StatusBoard, socket_path};
use crate::update::book::ReleaseBook;
use crate::update::import_desk::{Again, ImportReport};
use crate::update::report::{ModelsReport, RollbackReport};

/// Longest request line: a thousand times the longest request there is.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Connections served at once; further ones wait in the kernel's backlog. 64 kB each: 1 MB.
pub const CONNECTIONS_MAX: usize = 16;
/// How long a client may take to send its request or to take its answer.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a flush may take: longer than the longest commit on a slow card.
pub const FLUSH_TIME_MAX: Duration = Duration::from_secs(30);
/// How long an answer to `import_progress` waits for news; the client then asks again.
pub const PROGRESS_TIME_MAX: Duration = Duration::from_secs(20);
/// How long accepting pauses after an error, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A request line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The status report.
    Status,
    /// The counts by source with samples of refused payloads.
    Sources,
    /// Commit everything that has arrived, then answer.
    Flush,
    /// A batch's checksum is wrong.
    Quarantine {
        /// The batch's sequence number.
        sequence: u64,
    },
    /// Import a bundle or the folder of a repository.
    Import {
        /// The absolute path.
        place: PathBuf,
        /// Whether releases that were found bad are tried again.
        #[serde(default)]
        again: Again,
    },
    /// How far the last import is, as soon as there is something newer.
    ImportProgress {
        /// The revision that is known.
        after: u64,
    },
    /// The models' releases.
    Models,
    /// Leave what serves, or what is being tried.
    Rollback {
        /// The model's configured name.
        model: String,
        /// Why, in the operator's words.
        reason: Option<String>,
    },
    /// Let candidates run again.
    EndSafeMode,
}

/// A reply line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `status`.
    Status(Box<StatusReport>),
    /// To `sources`.
    Sources(BTreeMap<String, SourceReport>),
    /// To `flush`: everything that had arrived is on disk.
    Flushed(bool),
    /// To `quarantine`: the sequence number.
    Quarantined(u64),
    /// To `import`: its number.
    Importing(u64),
    /// To `import_progress`.
    ImportProgress(Box<ImportReport>),
    /// To `models`.
    Models(Box<ModelsReport>),
    /// To `rollback`.
    Rollback(Box<RollbackReport>),
    /// To `end_safe_mode`: it is over.
    SafeModeEnded(bool),
    /// The request was not understood or not done.
    Error(String),
}

/// Why the status socket cannot be opened.
#[derive(Debug)]
pub enum SocketError {
    /// Another daemon answers on it.
    InUse(PathBuf),
    /// Something that is not a socket has its name.
    NotASocket(PathBuf),
    /// The system refuses.
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(
                f,
                "another daemon answers on `{}`; stop it or give this one another `--state-dir`",
                path.display()
            ),
            Self::NotASocket(path) => {
                write!(f, "`{}` is not a socket; move it out of the state folder", path.display())
            }
            Self::Io { path, .. } => write!(f, "cannot open the status socket `{}`", path.display()),
        }
    }
}

impl std::error::Error for SocketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::InUse(_) | Self::NotASocket(_) => None,
        }
    }
}

/// The open status socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    client_time_max: Duration,
}

impl StatusSocket {
    /// Opens the socket in the state folder with mode 0660. Must be called inside a tokio runtime.
    ///
    /// A socket left by a daemon that was killed is replaced.
    ///
    /// *Errors*: another daemon answers on it, or the system refuses; the caller stops.
    pub fn bind(state_dir: &Path) -> Result<Self, SocketError> {
        let path = socket_path(state_dir);
        remove_stale(&path)?;
        let io = |source| SocketError::Io { path: path.clone(), source };
        let listener = UnixListener::bind(&path).map_err(io)?;
        let socket = Self { listener, path: path.clone(), client_time_max: CLIENT_TIME_MAX };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).map_err(io)?;
        Ok(socket)
    }

    /// Returns where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers clients until it is dropped. A task of its own.
    pub async fn serve(self, board: Arc<StatusBoard>, control: mpsc::Sender<ControlRequest>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        let time_max = self.client_time_max;
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (board, control) = (Arc::clone(&board), control.clone());
                    connections.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = converse(stream, time_max, &board, &control).await {
                            tracing::debug!(%error, "a status client went away");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the status socket accepts no connection at the moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match BlockingUnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(io),
        Err(error) => Err(io(error)),
    }
}

async fn converse(
    mut stream: UnixStream,
    time_max: Duration,
    board: &StatusBoard,
    control: &mpsc::Sender<ControlRequest>,
) -> io::Result<()> {
    let reply = match timeout(time_max, read_line(&mut stream)).await {
        Err(_) => Reply::Error("no whole request within the time limit".to_owned()),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(None)) => Reply::Error(format!("the request is longer than {REQUEST_BYTES_MAX} bytes")),
        Ok(Ok(Some(line))) if line.is_empty() => return Ok(()),
        Ok(Ok(Some(line))) => match serde_json::from_slice::<Request>(&line) {
            Ok(request) => answer(request, board, control).await,
            Err(error) => Reply::Error(format!("not a request: {error}")),
        },
    };
    let mut line = serde_json::to_vec(&reply).map_err(io::Error::other)?;
    line.push(b'\n');
    match timeout(time_max, stream.write_all(&line)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Reads up to the first line end or the end of the stream; `None` if the line is too long.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut chunk = [0_u8; 1_024];
    loop {
        let count = stream.read(&mut chunk).await?;
        let arrived = &chunk[..count];
        let end = arrived.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&arrived[..end.unwrap_or(count)]);
        if line.len() > REQUEST_BYTES_MAX {
            return Ok(None);
        }
        if end.is_some() || count == 0 {
            return Ok(Some(line));
        }
    }
}

async fn answer(request: Request, board: &StatusBoard, control: &mpsc::Sender<ControlRequest>) -> Reply {
    match request {
        Request::Status => Reply::Status(Box::new(board.report(clock::monotonic_micros()))),
        Request::Sources => Reply::Sources(board.sources()),
        Request::Flush => {
            let (done, committed) = oneshot::channel();
            let wait = async {
                control.send(ControlRequest::Flush(done)).await.ok()?;
                committed.await.ok()
            };
            match timeout(FLUSH_TIME_MAX, wait).await {
                Ok(Some(())) => Reply::Flushed(true),
                Ok(None) => Reply::Error("the daemon is stopping; ask again once it has started".to_owned()),
                Err(_) => Reply::Error("not everything was committed within 30 s".to_owned()),
            }
        }
        Request::Import { place, again } => match board.imports() {
            Some(desk) => {
                // Right after a start the configuration's own import is under way; an operator's comes next.
                let _ = timeout(PROGRESS_TIME_MAX, desk.idle()).await;
                desk.import(place, again).map_or_else(Reply::Error, Reply::Importing)
            }
            None => Reply::Error("this daemon takes no imports".to_owned()),
        },
        Request::ImportProgress { after } => match board.imports() {
            Some(desk) => {
                let newer = timeout(PROGRESS_TIME_MAX, desk.newer_than(after)).await;
                Reply::ImportProgress(Box::new(newer.unwrap_or_else(|_| desk.report())))
            }
            None => Reply::Error("this daemon takes no imports".to_owned()),
        },
        Request::Quarantine { sequence } => {
            match timeout(CLIENT_TIME_MAX, control.send(ControlRequest::Quarantine(sequence))).await {
                Ok(Ok(())) => Reply::Quarantined(sequence),
                Ok(Err(_)) => Reply::Error("the daemon is stopping".to_owned()),
                Err(_) => Reply::Error("the daemon is too busy to take the request".to_owned()),
            }
        }
        Request::Models | Request::Rollback { .. } | Request::EndSafeMode => match board.releases() {
            Some(book) => answer_of_releases(request, book),
            None => Reply::Error("the daemon is starting; ask again in a moment".to_owned()),
        },
    }
}

fn answer_of_releases(request: Request, book: &ReleaseBook) -> Reply {
    match request {
        Request::Rollback { model, reason } => {
            book.roll_back_for_operator(&model, reason.as_deref()).map_or_else(
                |error| Reply::Error(Chain(&error).to_string()),
                |report| Reply::Rollback(Box::new(report)),
            )
        }
        Request::EndSafeMode => book
            .leave_safe_mode()
            .map_or_else(|error| Reply::Error(Chain(&error).to_string()), |()| Reply::SafeModeEnded(true)),
        _ => Reply::Models(Box::new(book.report())),
    }
}

#[cfg(test)]
#[path = "socket/tests.rs"]
mod tests;
