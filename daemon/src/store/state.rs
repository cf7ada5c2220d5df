//! The small database beside the log: starts, whether the last stop was clean, tries of slots; releases in `slots`.
//!
//! Written a few times a start, durably before the act it counts. A damaged file is kept for the operator; the
//! daemon then counts in memory and says `state_lost`.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::schema::{self, Schema};
use super::{FailureClass, FolderLock, STATE_FILE, StoreError};

/// WAL pages of a file of five pages.
const WAL_PAGES: u64 = 16;

/// How the daemon stopped the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastStop {
    /// It said so, or there was none.
    Clean,
    /// It was killed, lost power, or nobody knows.
    Unclean,
}

/// Whether the file's contents can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateHealth {
    /// They can.
    Kept,
    /// `state_lost`: counting goes on in memory; updates must be refused. Holds why.
    Lost(String),
}

/// The open state database.
#[derive(Debug)]
pub struct StateDatabase {
    pub(super) connection: Option<Connection>,
    tries: BTreeMap<(String, String), u32>,
    last_stop: LastStop,
    starts: u64,
    health: StateHealth,
}

impl StateDatabase {
    /// Opens and checks the file, counts this start, and marks the daemon as running.
    ///
    /// *Errors*: [`StoreError::TooNew`] alone; whatever else is wrong with the file is in [`Self::health`].
    pub fn open(lock: &FolderLock) -> Result<Self, StoreError> {
        match Self::open_file(lock) {
            Ok(state) => Ok(state),
            Err(e @ StoreError::TooNew { .. }) => Err(e),
            Err(e) => {
                let why = dunlin_kit::error_chain::Chain(&e).to_string();
                tracing::warn!(error = %why, "state_lost: cannot use state.db, counting in memory");
                Ok(Self {
                    connection: None,
                    tries: BTreeMap::new(),
                    last_stop: LastStop::Unclean,
                    starts: 0,
                    health: StateHealth::Lost(why),
                })
            }
        }
    }

    fn open_file(lock: &FolderLock) -> Result<Self, StoreError> {
        let path = lock.folder().join(STATE_FILE);
        let connection = schema::open_writer(&path, Schema::State, WAL_PAGES)?;
        schema::quick_check(&connection, "`state.db`")?;
        let (starts, clean): (i64, bool) = connection
            .query_row("SELECT starts, stopped_cleanly FROM life WHERE id = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .map_err(StoreError::sqlite("read the count of starts"))?;
        connection
            .execute("UPDATE life SET starts = starts + 1, stopped_cleanly = 0 WHERE id = 1", [])
            .map_err(StoreError::sqlite("count the start"))?;
        Ok(Self {
            connection: Some(connection),
            tries: BTreeMap::new(),
            last_stop: if clean { LastStop::Clean } else { LastStop::Unclean },
            starts: starts.unsigned_abs() + 1,
            health: StateHealth::Kept,
        })
    }

    /// Returns how the daemon stopped the last time.
    #[must_use]
    pub const fn last_stop(&self) -> LastStop {
        self.last_stop
    }

    /// Returns the number of starts, this one included; 0 when the file is lost.
    #[must_use]
    pub const fn starts(&self) -> u64 {
        self.starts
    }

    /// Returns whether the file can be relied on.
    #[must_use]
    pub const fn health(&self) -> &StateHealth {
        &self.health
    }

    /// Gives the file up: what it should hold beside this is missing. Nothing more is written to it.
    pub fn lose(&mut self, why: String) {
        tracing::warn!(error = why, "state_lost: cannot rely on state.db, counting in memory");
        self.connection = None;
        self.last_stop = LastStop::Unclean;
        self.starts = 0;
        self.health = StateHealth::Lost(why);
    }

    /// Counts a start of this package in a slot, durably, and returns how many there were since it was last ready.
    ///
    /// *Errors*: the count was not stored; the caller may start the slot all the same.
    pub fn record_start(&mut self, model: &str, digest: &str) -> Result<u32, StoreError> {
        let Some(connection) = &self.connection else {
            let tries = self.tries.entry((model.to_owned(), digest.to_owned())).or_insert(0);
            *tries = tries.saturating_add(1);
            return Ok(*tries);
        };
        connection
            .query_row(
                "INSERT INTO slot_try VALUES (?1, ?2, 1) \
                 ON CONFLICT (model, digest) DO UPDATE SET tries = min(tries + 1, 4294967295) RETURNING tries",
                params![model, digest],
                |row| row.get(0),
            )
            .map_err(StoreError::sqlite("count the slot's start"))
    }

    /// Forgets the starts of this package: it is ready.
    ///
    /// *Errors*: the count was not stored.
    pub fn record_ready(&mut self, model: &str, digest: &str) -> Result<(), StoreError> {
        let Some(connection) = &self.connection else {
            self.tries.remove(&(model.to_owned(), digest.to_owned()));
            return Ok(());
        };
        connection
            .execute("DELETE FROM slot_try WHERE model = ?1 AND digest = ?2", [model, digest])
            .map(|_| ())
            .map_err(StoreError::sqlite("forget the slot's starts"))
    }

    /// Has every later write fail, as on a full disk, or succeed again.
    #[cfg(test)]
    pub(crate) fn set_writable(&self, writable: bool) {
        if let Some(connection) = &self.connection {
            connection.pragma_update(None, "query_only", !writable).unwrap();
        }
    }

    /// Notes that the daemon stops as it should; the last thing it does.
    ///
    /// *Errors*: the next start checks the log as after a crash.
    pub fn mark_clean(&self) -> Result<(), StoreError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        match connection.execute("UPDATE life SET stopped_cleanly = 1 WHERE id = 1", []) {
            Ok(_) => Ok(()),
            Err(e) => {
                let error = StoreError::sqlite("note the clean stop")(e);
                if error.class() == FailureClass::ReadOnly { Ok(()) } else { Err(error) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_and_tries_survive_a_kill_and_a_clean_stop_is_told_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let mut state = StateDatabase::open(&lock).unwrap();
        assert_eq!((state.starts(), state.last_stop()), (1, LastStop::Clean));
        assert_eq!(state.record_start("m", "d").unwrap(), 1);
        drop(state);
        let mut state = StateDatabase::open(&lock).unwrap();
        assert_eq!((state.starts(), state.last_stop()), (2, LastStop::Unclean));
        assert_eq!(state.record_start("m", "d").unwrap(), 2);
        state.record_ready("m", "d").unwrap();
        assert_eq!(state.record_start("m", "d").unwrap(), 1);
        state.mark_clean().unwrap();
        drop(state);
        assert_eq!(StateDatabase::open(&lock).unwrap().last_stop(), LastStop::Clean);
    }

    #[test]
    fn a_damaged_file_is_kept_and_counting_goes_on_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let path = folder.path().join(STATE_FILE);
        dunlin_kit::atomic_file::write(&path, &[0x5a; 8_192]).unwrap();
        let mut state = StateDatabase::open(&lock).unwrap();
        assert!(matches!(state.health(), StateHealth::Lost(_)));
        assert_eq!(state.record_start("m", "d").unwrap(), 1);
        assert_eq!(state.record_start("m", "d").unwrap(), 2);
        assert_eq!(std::fs::read(&path).unwrap(), vec![0x5a; 8_192]);
    }
}
