//! How many files the process may have open: each gateway keeps a connection.
//!
//! Raises what the process may raise by itself, and says what else is to be done.

use std::fmt;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files beside the connections: the runtime's own, standard streams, and those that a lost connection leaves for a moment.
const BESIDE: u64 = 64;

/// There are too few files for the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFewFiles {
    /// How many are needed.
    pub needed: u64,
    /// How many there may be at most.
    pub hard: u64,
}

impl fmt::Display for TooFewFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, hard } = self;
        write!(
            f,
            "each gateway keeps a connection: {needed} open files are needed and {hard} are allowed; set `ulimit -n {needed}` \
             as root or in limits.conf, for this command and for the server (`LimitNOFILE={needed}` and `--connections`), or \
             simulate fewer gateways"
        )
    }
}

impl std::error::Error for TooFewFiles {}

/// Makes sure that so many connections can be open.
///
/// *Errors*: the hard limit is lower.
pub fn require_connections(connections: usize) -> Result<(), TooFewFiles> {
    let needed = connections as u64 + BESIDE;
    // Where the system tells nothing, connections tell soon enough.
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    if soft >= needed {
        return Ok(());
    }
    if hard < needed || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        return Err(TooFewFiles { needed, hard });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_limit_allows_is_refused_with_the_number_that_is_needed() {
        assert_eq!(require_connections(1), Ok(()));
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
        let Ok(beyond) = usize::try_from(hard) else { return };
        let Some(beyond) = beyond.checked_add(1) else { return };
        let refused = require_connections(beyond).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|words| words.contains(&format!("ulimit -n {}", beyond as u64 + BESIDE))));
    }
}
