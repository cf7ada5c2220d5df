//! What goes wrong with the store, by what the caller does about it.
//!
//! Never holds a value of a row: errors go to logs.

use std::error::Error;
use std::fmt;

/// A failure of the store.
#[derive(Debug)]
pub enum StoreError {
    /// More waits for the database than it can do soon: come back later.
    Busy,
    /// A row of that key exists already, or one that is needed is missing.
    Conflict(String),
    /// Others changed the same rows again and again: the transaction was not done, and can be tried again.
    Contended,
    /// The database cannot be reached, or is full or read-only: nothing was changed, or it is not known whether.
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The database was shaped by a newer program.
    TooNew {
        /// Which database.
        object: String,
        /// The program's version.
        needed: String,
    },
    /// Contents that cannot be what was written.
    Damaged(String),
    /// A statement was refused: a fault of this program.
    Refused {
        /// The statement.
        sql: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The work panicked; it was not done.
    Panicked,
    /// The server is stopping.
    Stopped,
}

impl StoreError {
    /// Wraps a failure that the database's state is the cause of.
    pub(super) fn unavailable<E: Error + Send + Sync + 'static>(
        doing: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Unavailable { doing, source: Box::new(source) }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the database has too much to do; try again later"),
            Self::Conflict(what) => write!(f, "the database holds another such row already: {what}"),
            Self::Contended => f.write_str("others changed the same rows all the time; try again"),
            Self::Unavailable { doing, .. } => write!(f, "cannot {doing}"),
            Self::TooNew { object, needed } => {
                write!(f, "`{object}` was shaped by dunlin-fleet {needed}; run that version or a newer one")
            }
            Self::Damaged(what) => write!(f, "the database is damaged: {what}"),
            Self::Refused { sql, .. } => write!(f, "the database refuses `{sql}`"),
            Self::Panicked => f.write_str("the work on the database panicked; see the log"),
            Self::Stopped => f.write_str("the server is stopping"),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unavailable { source, .. } | Self::Refused { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
