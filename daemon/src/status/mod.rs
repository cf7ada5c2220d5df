//! What a running daemon says of itself: to the terminal, to programs on the gateway and to Prometheus.
//!
//! Reads counters and never changes what the stages do; the two requests that ask for work (flush, quarantine) are
//! handed to the stage as [`ControlRequest`]s. Stands beside the flow: nothing waits for it.

pub mod board;
pub mod client;
pub mod escape;
pub mod exposition;
pub mod http;
pub mod metric_names;
pub mod rates;
pub mod report;
pub mod socket;
pub mod terminal;

pub use board::StatusBoard;
pub use report::{StatusFacts, StatusReport};

use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

/// Name of the status socket inside the state folder.
pub const SOCKET_NAME: &str = "dunlind.sock";

/// Returns the path of the status socket of a daemon with this state folder.
#[must_use]
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET_NAME)
}

/// Work that a local program asks of the daemon.
#[derive(Debug)]
pub enum ControlRequest {
    /// Commit everything that has arrived before this request, then answer.
    Flush(oneshot::Sender<()>),
    /// A reader found the checksum of the batch with this sequence number wrong: set it aside and count it.
    Quarantine(u64),
}
