//! Settings of the fleet server, as a row of `state.db`: what is in use, on trial, and given up.
//!
//! Written as a whole before what it says is done, with the revision that the server hears. Judges nothing.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{self, Schema};
use super::{FolderLock, STATE_FILE, StoreError};
use crate::remote_settings::standing::Standing;

/// WAL pages: a row changes a few times for each file of settings.
const WAL_PAGES: u64 = 16;

/// The row.
#[derive(Debug)]
pub struct SettingsStore {
    connection: Connection,
}

impl SettingsStore {
    /// Opens the row, beside the other connections to the same file.
    ///
    /// *Errors*: the file cannot be used, or is from the future.
    pub fn open(lock: &FolderLock) -> Result<Self, StoreError> {
        let path = lock.folder().join(STATE_FILE);
        Ok(Self { connection: schema::open_writer(&path, Schema::State, WAL_PAGES)? })
    }

    /// Returns where settings stand.
    ///
    /// *Errors*: the file cannot be read, or holds what was never written.
    pub fn standing(&self) -> Result<Standing, StoreError> {
        let text: Option<String> = self
            .connection
            .query_row("SELECT standing FROM fleet_settings WHERE id = 1", [], |row| row.get(0))
            .optional()
            .map_err(StoreError::sqlite("read the settings of the fleet server"))?;
        let damaged = |_| StoreError::Damaged { object: format!("the settings in `{STATE_FILE}`") };
        text.map_or_else(|| Ok(Standing::default()), |text| serde_json::from_str(&text).map_err(damaged))
    }

    /// Stores where settings stand; `revision` is told to the server, where it changed.
    ///
    /// *Errors*: the file cannot be written; what was stored stands.
    pub fn store(&mut self, standing: &Standing, revision: Option<u64>) -> Result<(), StoreError> {
        let text = serde_json::to_string(standing).unwrap_or_default();
        let stored = self.connection.transaction().and_then(|transaction| {
            transaction.execute("INSERT OR REPLACE INTO fleet_settings VALUES (1, ?1)", params![text])?;
            if let Some(revision) = revision {
                let sql = "UPDATE fleet_life SET settings_revision = ?1 WHERE id = 1";
                transaction.execute(sql, [revision.cast_signed()])?;
            }
            transaction.commit()
        });
        stored.map_err(StoreError::sqlite("store the settings of the fleet server"))
    }
}

/// Reads where settings stand in a state folder, beside the daemon or without it.
///
/// *Errors*: the file is damaged, of a newer program, or may not be read.
pub fn read_standing(folder: &Path) -> Result<Standing, StoreError> {
    let path = folder.join(STATE_FILE);
    if !path.exists() {
        return Ok(Standing::default());
    }
    let (connection, version) = schema::open_reader_of(&path, Schema::State)?;
    if version < SCHEMA_OF_SETTINGS {
        Ok(Standing::default())
    } else {
        SettingsStore { connection }.standing()
    }
}

/// Schema version that brought this table.
const SCHEMA_OF_SETTINGS: i64 = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote_settings::standing::Event;

    #[test]
    fn a_standing_survives_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let mut store = SettingsStore::open(&lock).unwrap();
        assert_eq!(store.standing().unwrap(), Standing::default());
        let digest = dunlin_kit::digest::Digest::of(b"x");
        let refused = Event::Refused { revision: 7, digest, cause: "`mqtt` is not the server's".to_owned() };
        let standing = Standing::default().after(refused);
        store.store(&standing, Some(7)).unwrap();
        drop(store);
        assert_eq!(SettingsStore::open(&lock).unwrap().standing().unwrap(), standing);
    }
}
