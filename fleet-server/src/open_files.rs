//! How many files the process may have open: each connection is one.
//!
//! Raises the limit as far as the system allows, and says where that is too little: connections beyond wait, and the
//! database and the blobs are never without a file.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::http::Bounds;

/// Files beside the connections: the database's on each of its threads, blobs that are read and written, webhooks.
const BESIDE: u64 = 256;

/// Returns the bounds with as many connections as there are files for.
#[must_use]
pub fn bounds_within_files(bounds: Bounds) -> Bounds {
    let wanted = bounds.connections as u64 + BESIDE;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return bounds };
    let mut files = soft;
    if soft < wanted {
        files = wanted.min(hard);
        if setrlimit(Resource::RLIMIT_NOFILE, files, hard).is_err() {
            files = soft;
        }
    }
    if files >= wanted {
        return bounds;
    }
    let connections = files.saturating_sub(BESIDE).max(1);
    tracing::warn!(
        files,
        wanted,
        connections,
        "the process may have too few files open for `--connections`; raise `LimitNOFILE=` or `ulimit -n`"
    );
    Bounds { connections: usize::try_from(connections).unwrap_or(1), ..bounds }
}
