//! The gateway's life at its fleet server, as rows of `state.db`: who the server is, the ceiling of the messages' counter,
//! what was taken of its word.
//!
//! Written before what it stands for is done: a counter below the ceiling may have been used. Judges nothing.

use dunlin_protocol::exchange::Held;
use dunlin_protocol::{Incarnation, Nonce, ServerId};
use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{self, Schema};
use super::trust::{Trusted, read_floors};
use super::{FolderLock, STATE_FILE, StoreError};

/// WAL pages: a row changes once in a thousand messages.
const WAL_PAGES: u64 = 16;

/// The gateway's life at a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetLife {
    /// Where the server is.
    pub url: String,
    /// Who it is.
    pub server: ServerId,
    /// The life that it gave.
    pub incarnation: Incarnation,
    /// No counter from here on was ever used.
    pub counter_ceiling: u64,
    /// Revision of the newest statement that was taken.
    pub desired_revision: u64,
    /// Revision of the newest settings that were taken or refused.
    pub settings_revision: u64,
}

/// The rows.
#[derive(Debug)]
pub struct FleetStore {
    connection: Connection,
}

impl FleetStore {
    /// Opens the rows, beside the other connections to the same file.
    ///
    /// *Errors*: the file cannot be used, or is from the future.
    pub fn open(lock: &FolderLock) -> Result<Self, StoreError> {
        let path = lock.folder().join(STATE_FILE);
        Ok(Self { connection: schema::open_writer(&path, Schema::State, WAL_PAGES)? })
    }

    /// Returns the present life; none where the gateway was never enrolled.
    ///
    /// *Errors*: the file cannot be read, or holds what was never written.
    pub fn life(&self) -> Result<Option<FleetLife>, StoreError> {
        let row = self
            .connection
            .query_row(
                "SELECT url, server, incarnation, counter_ceiling, desired_revision, settings_revision \
                 FROM fleet_life WHERE id = 1",
                [],
                |row| {
                    let names: (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    let number = |column| row.get(column).map(i64::cast_unsigned);
                    Ok((names, number(3)?, number(4)?, number(5)?))
                },
            )
            .optional()
            .map_err(StoreError::sqlite("read the life at the fleet server"))?;
        let Some(((url, server, incarnation), counter_ceiling, desired_revision, settings_revision)) = row
        else {
            return Ok(None);
        };
        let damaged =
            || StoreError::Damaged { object: format!("the life at the fleet server in `{STATE_FILE}`") };
        Ok(Some(FleetLife {
            url,
            server: server.parse().map_err(|_| damaged())?,
            incarnation: incarnation.parse().map_err(|_| damaged())?,
            counter_ceiling,
            desired_revision,
            settings_revision,
        }))
    }

    /// Stores a life, in place of one before, and forgets the wish that it answers. Settings that another server gave go
    /// with the life there.
    ///
    /// *Errors*: the file cannot be written; the life before stands.
    pub fn begin_life(&mut self, life: &FleetLife) -> Result<(), StoreError> {
        let failed = StoreError::sqlite("store the life at the fleet server");
        let stored = self.connection.transaction().and_then(|transaction| {
            let sql = "DELETE FROM fleet_settings WHERE EXISTS (SELECT 1 FROM fleet_life WHERE server <> ?1)";
            transaction.execute(sql, [life.server.to_string()])?;
            transaction.execute(
                "INSERT OR REPLACE INTO fleet_life VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    life.url,
                    life.server.to_string(),
                    life.incarnation.to_string(),
                    life.counter_ceiling.cast_signed(),
                    life.desired_revision.cast_signed(),
                    life.settings_revision.cast_signed(),
                ],
            )?;
            transaction.execute("DELETE FROM fleet_wish", [])?;
            transaction.commit()
        });
        stored.map_err(failed)
    }

    /// Returns the mark of the wish to be enrolled that has no answer yet: `fresh` where there is none. A wish that is sent
    /// again with its mark is answered with the same life, so that a token's use is not lost with an answer.
    ///
    /// *Errors*: the file cannot be written.
    pub fn wish(&mut self, fresh: Nonce) -> Result<Nonce, StoreError> {
        let text: String = self
            .connection
            .query_row(
                "INSERT INTO fleet_wish VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET nonce = nonce RETURNING nonce",
                [fresh.to_string()],
                |row| row.get(0),
            )
            .map_err(StoreError::sqlite("keep the mark of an enrolment"))?;
        Ok(text.parse().unwrap_or(fresh))
    }

    /// Forgets a wish that was refused: the next one is another.
    ///
    /// *Errors*: the file cannot be written.
    pub fn forget_wish(&mut self) -> Result<(), StoreError> {
        let forgotten = self.connection.execute("DELETE FROM fleet_wish", []);
        forgotten.map(drop).map_err(StoreError::sqlite("forget an enrolment"))
    }

    /// Raises the ceiling of the counter; a lower one leaves it as it is.
    ///
    /// *Errors*: the file cannot be written: no counter from the ceiling on may be used.
    pub fn raise_ceiling(&mut self, ceiling: u64) -> Result<(), StoreError> {
        let raised = self.connection.execute(
            "UPDATE fleet_life SET counter_ceiling = max(counter_ceiling, ?1) WHERE id = 1",
            [ceiling.cast_signed()],
        );
        raised.map(drop).map_err(StoreError::sqlite("raise the ceiling of the messages' counter"))
    }

    /// Notes that a statement was taken.
    ///
    /// *Errors*: the file cannot be written; the server says it once more.
    pub fn take_desired(&mut self, revision: u64) -> Result<(), StoreError> {
        let sql = "UPDATE fleet_life SET desired_revision = ?1 WHERE id = 1";
        let noted = self.connection.execute(sql, [revision.cast_signed()]);
        noted.map(drop).map_err(StoreError::sqlite("note the statement that was taken"))
    }

    /// Returns what the gateway holds of both repositories and of the server's word.
    ///
    /// *Errors*: the file cannot be read.
    pub fn held(&self) -> Result<Held, StoreError> {
        let image = read_floors(&self.connection, Trusted::Image)?.unwrap_or_default();
        let director = read_floors(&self.connection, Trusted::Director)?.unwrap_or_default();
        let life = self.life()?;
        let targets = |floors: &dunlin_trust::Floors| floors.targets.get("targets").copied().unwrap_or(0);
        Ok(Held {
            root: image.root,
            timestamp: image.timestamp,
            snapshot: image.snapshot,
            targets: targets(&image),
            director_root: director.root,
            director_version: targets(&director),
            desired_revision: life.as_ref().map_or(0, |life| life.desired_revision),
            settings_revision: life.as_ref().map_or(0, |life| life.settings_revision),
        })
    }
}

/// Reads the life of a state folder beside the daemon or without it; none where there is none.
///
/// *Errors*: the file is damaged, of a newer program, or may not be read.
pub fn read_life(folder: &std::path::Path) -> Result<Option<FleetLife>, StoreError> {
    let path = folder.join(STATE_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let (connection, version) = schema::open_reader_of(&path, Schema::State)?;
    if version < SCHEMA_OF_FLEET { Ok(None) } else { FleetStore { connection }.life() }
}

/// Schema version that brought these tables.
const SCHEMA_OF_FLEET: i64 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote_settings::standing::Standing;
    use crate::store::SettingsStore;

    #[test]
    fn a_life_survives_a_start_and_its_ceiling_never_falls() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let mut store = FleetStore::open(&lock).unwrap();
        assert_eq!(store.life().unwrap(), None);
        let nonce = |byte| Nonce::from_bytes([byte; 16]);
        assert_eq!(store.wish(nonce(1)).unwrap(), nonce(1));
        assert_eq!(FleetStore::open(&lock).unwrap().wish(nonce(2)).unwrap(), nonce(1), "a lost answer");
        let life = FleetLife {
            url: "https://fleet.example".to_owned(),
            server: ServerId::new(1, [2; 10]),
            incarnation: Incarnation::from_bytes([3; 16]),
            counter_ceiling: 1,
            desired_revision: 0,
            settings_revision: 0,
        };
        store.begin_life(&life).unwrap();
        assert_eq!(store.wish(nonce(4)).unwrap(), nonce(4), "the wish was answered");
        store.raise_ceiling(1_001).unwrap();
        store.raise_ceiling(5).unwrap();
        store.take_desired(7).unwrap();
        drop(store);
        let store = FleetStore::open(&lock).unwrap();
        let expected = FleetLife { counter_ceiling: 1_001, desired_revision: 7, ..life };
        assert_eq!(store.life().unwrap(), Some(expected.clone()));
        assert_eq!(read_life(folder.path()).unwrap(), Some(expected));
        assert_eq!(store.held().unwrap().desired_revision, 7);
    }

    #[test]
    fn settings_go_with_the_life_at_their_server() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let mut store = FleetStore::open(&lock).unwrap();
        let life = |server| FleetLife {
            url: "https://fleet.example".to_owned(),
            server: ServerId::new(1, [server; 10]),
            incarnation: Incarnation::from_bytes([3; 16]),
            counter_ceiling: 1,
            desired_revision: 0,
            settings_revision: 0,
        };
        store.begin_life(&life(1)).unwrap();
        let mut settings = SettingsStore::open(&lock).unwrap();
        let standing = Standing { revision: 4, ..Standing::default() };
        settings.store(&standing, Some(4)).unwrap();
        // The same server again, as after its database was restored: they are its own.
        store.begin_life(&life(1)).unwrap();
        assert_eq!(settings.standing().unwrap(), standing);
        store.begin_life(&life(2)).unwrap();
        assert_eq!(settings.standing().unwrap(), Standing::default());
    }
}
