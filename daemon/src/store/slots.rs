//! The releases of each model in `state.db`: what runs, what is being tried, what failed, and the floors.
//!
//! Keeps what the update's machine says and judges nothing; a floor is never lowered, whatever it says. One transition is
//! one transaction, on disk before anything acts on it. Slots name releases by digest; their rows, with manifest and
//! proof, are those that an import keeps, and `trust` forgets none that a slot names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dunlin_kit::digest::Digest;
use dunlin_trust::Evidence;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::schema::{self, Schema};
use super::trust::{KeptRefusal, read_refusals};
use super::{STATE_FILE, StateDatabase, StoreError};
use crate::update::machine::{BadRelease, Candidate, Floor, ModelState, Phase};
use crate::update::release::{Reason, Release};
use crate::update::safe_mode::{Mode, StartRecord};

/// Schema version that brought these tables.
const SCHEMA_OF_SLOTS: i64 = 2;
/// Schema from which on refusals are kept.
const SCHEMA_OF_TRUST: i64 = 3;

/// A release with the proof of its approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRelease {
    /// Which.
    pub release: Release,
    /// Its manifest, as signed.
    pub manifest: Vec<u8>,
    /// The proof.
    pub evidence: Evidence,
}

/// What the database says of all models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredModels {
    /// The models by their configured names.
    pub models: BTreeMap<String, ModelState>,
    /// The daemon's starts.
    pub starts: StartRecord,
    /// What the last imports refused.
    pub refusals: Vec<KeptRefusal>,
    /// Kept releases that the newest trusted metadata do not name any more.
    pub withdrawn: BTreeSet<Digest>,
}

/// Reads a state folder's models beside the daemon or without it. `None` where no daemon has run there, or its first start
/// was cut before it stored anything.
///
/// *Errors*: the database is damaged, of a newer program, or may not be read.
pub fn read_models(folder: &Path) -> Result<Option<StoredModels>, StoreError> {
    let path = folder.join(STATE_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let (connection, version) = schema::open_reader_of(&path, Schema::State)?;
    if version == 0 {
        return Ok(None);
    }
    if version < SCHEMA_OF_SLOTS {
        return Ok(Some(StoredModels::default()));
    }
    let refusals = if version < SCHEMA_OF_TRUST { Vec::new() } else { read_refusals(&connection)? };
    let (models, starts) = (read_states(&connection)?, read_starts(&connection)?);
    Ok(Some(StoredModels { models, starts, refusals, withdrawn: read_withdrawn(&connection)? }))
}

impl StateDatabase {
    /// Returns what the last imports refused; nothing where the file is lost.
    ///
    /// *Errors*: the file cannot be read.
    pub fn refusals(&self) -> Result<Vec<KeptRefusal>, StoreError> {
        self.connection.as_ref().map_or_else(|| Ok(Vec::new()), read_refusals)
    }

    /// Returns the kept releases that the newest trusted metadata do not name any more; none where the file is lost.
    ///
    /// *Errors*: the file cannot be read.
    pub fn withdrawn(&self) -> Result<BTreeSet<Digest>, StoreError> {
        self.connection.as_ref().map_or_else(|| Ok(BTreeSet::new()), read_withdrawn)
    }

    /// Tells whether a root with this SHA-256 was ever trusted here; none was where the file is lost.
    ///
    /// *Errors*: the file cannot be read.
    pub fn has_root(&self, sha256: &Digest) -> Result<bool, StoreError> {
        let Some(connection) = &self.connection else { return Ok(false) };
        connection
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM trust_root WHERE sha256 = ?1)",
                [sha256.as_bytes().as_slice()],
                |row| row.get(0),
            )
            .map_err(StoreError::sqlite("look for a root of trust"))
    }

    /// Returns the state of every model that was ever updated here; none where the file is lost.
    ///
    /// *Errors*: the file cannot be read or holds what was never written.
    pub fn model_states(&self) -> Result<BTreeMap<String, ModelState>, StoreError> {
        self.connection.as_ref().map_or_else(|| Ok(BTreeMap::new()), read_states)
    }

    /// Stores a model's state durably, with the release that is new in it: its row is the import's where that is kept.
    ///
    /// *Errors*: nothing was stored; the caller keeps acting on the state before.
    pub fn save_model(
        &mut self,
        model: &str,
        state: &ModelState,
        offered: Option<&StoredRelease>,
    ) -> Result<(), StoreError> {
        let lost = || StoreError::Damaged { object: format!("`{STATE_FILE}`") };
        let connection = self.connection.as_mut().ok_or_else(lost)?;
        let storing = "store a model's releases";
        let transaction = connection.transaction().map_err(StoreError::sqlite(storing))?;
        if let Some(offered) = offered {
            write_release(&transaction, offered)?;
        }
        write_tries(&transaction, model, state)
            .and_then(|()| write_slot(&transaction, model, state))
            .and_then(|()| write_bad(&transaction, model, &state.bad))
            .and_then(|()| write_floor(&transaction, model, state.floor))
            .and_then(|()| transaction.commit())
            .map_err(StoreError::sqlite(storing))
    }

    /// Returns a release of a model with its proof, where it is kept.
    ///
    /// *Errors*: the file cannot be read or holds what was never written.
    pub fn release(&self, model: &str, digest: &Digest) -> Result<Option<StoredRelease>, StoreError> {
        let Some(connection) = &self.connection else { return Ok(None) };
        let found = connection
            .query_row(
                "SELECT digest, model, version, counter, manifest, evidence FROM release \
                 WHERE model = ?1 AND digest = ?2",
                params![model, digest.to_string()],
                |row| Ok((read_release(row, 0)?, row.get::<_, Vec<u8>>(4)?, row.get::<_, String>(5)?)),
            )
            .optional()
            .map_err(StoreError::sqlite("read a release"))?;
        let Some((release, manifest, evidence)) = found else { return Ok(None) };
        let evidence = serde_json::from_str(&evidence).map_err(|_| damaged("the proof of a release"))?;
        Ok(Some(StoredRelease { release, manifest, evidence }))
    }

    /// Returns the record of the daemon's starts; an empty one where the file is lost.
    ///
    /// *Errors*: the file cannot be read.
    pub fn start_record(&self) -> Result<StartRecord, StoreError> {
        self.connection.as_ref().map_or_else(|| Ok(StartRecord::default()), read_starts)
    }

    /// Stores the record of the daemon's starts durably; does nothing where the file is lost.
    ///
    /// *Errors*: it was not stored.
    pub fn save_start_record(&mut self, record: &StartRecord) -> Result<(), StoreError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let StartRecord { unready, boot, last_us, span_us, mode } = record;
        connection
            .execute(
                "UPDATE start_record SET unready = ?1, boot = ?2, last_us = ?3, span_us = ?4, safe = ?5 WHERE id = 1",
                params![unready, boot, last_us, span_us, *mode == Mode::Safe],
            )
            .map(drop)
            .map_err(StoreError::sqlite("note the start"))
    }
}

/// Reads everything once, so that a file that cannot be relied on is found before anything stands on it.
///
/// *Errors*: rows hold what was never written.
pub(super) fn require_readable(connection: &Connection) -> Result<(), StoreError> {
    read_states(connection)?;
    read_starts(connection).map(|_| ())
}

fn damaged(object: &str) -> StoreError {
    StoreError::Damaged { object: format!("{object} in `{STATE_FILE}`") }
}

fn read_withdrawn(connection: &Connection) -> Result<BTreeSet<Digest>, StoreError> {
    connection
        .prepare("SELECT digest FROM release WHERE approved = 0")
        .and_then(|mut query| query.query_map([], |row| read_digest(row, 0))?.collect())
        .map_err(StoreError::sqlite("read which releases are withdrawn"))
}

fn read_starts(connection: &Connection) -> Result<StartRecord, StoreError> {
    connection
        .query_row("SELECT unready, boot, last_us, span_us, safe FROM start_record WHERE id = 1", [], |row| {
            let mode = if row.get(4)? { Mode::Safe } else { Mode::Normal };
            Ok(StartRecord {
                unready: row.get(0)?,
                boot: row.get(1)?,
                last_us: row.get(2)?,
                span_us: row.get(3)?,
                mode,
            })
        })
        .map_err(StoreError::sqlite("read the record of starts"))
}

/// A row of `model_slot`, whose digests are not yet releases.
struct SlotRow {
    model: String,
    active: Option<String>,
    previous: Option<String>,
    candidate: Option<(String, String)>,
    state: ModelState,
}

fn read_states(connection: &Connection) -> Result<BTreeMap<String, ModelState>, StoreError> {
    let failed = StoreError::sqlite("read the models' releases");
    let rows = connection
        .prepare(
            "SELECT model, active, previous, candidate, phase, lane, start, since_us, last FROM model_slot",
        )
        .and_then(|mut query| query.query_map([], read_slot_row)?.collect::<rusqlite::Result<Vec<_>>>())
        .map_err(failed)?;
    rows.into_iter().map(|row| Ok((row.model.clone(), complete(connection, row)?))).collect()
}

fn read_slot_row(row: &Row<'_>) -> rusqlite::Result<SlotRow> {
    let (candidate, phase): (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
    Ok(SlotRow {
        model: row.get(0)?,
        active: row.get(1)?,
        previous: row.get(2)?,
        candidate: candidate.zip(phase),
        state: ModelState {
            lane: row.get::<_, u32>(5)? as usize,
            start: row.get::<_, i64>(6)?.unsigned_abs(),
            since_us: row.get(7)?,
            last: row.get(8)?,
            ..ModelState::default()
        },
    })
}

fn complete(connection: &Connection, row: SlotRow) -> Result<ModelState, StoreError> {
    let SlotRow { model, active, previous, candidate, mut state } = row;
    let failed = StoreError::sqlite("read a model's releases");
    let releases = connection
        .prepare("SELECT digest, model, version, counter FROM release WHERE model = ?1")
        .and_then(|mut query| {
            query.query_map([&model], |row| read_release(row, 0))?.collect::<rusqlite::Result<Vec<_>>>()
        })
        .map_err(failed)?;
    let find = |digest: Option<String>| {
        let Some(digest) = digest else { return Ok(None) };
        let found = releases.iter().find(|release| release.digest.to_string() == digest);
        found.cloned().map(Some).ok_or_else(|| damaged("a model's slot"))
    };
    state.active = find(active)?;
    state.previous = find(previous)?;
    if let Some((digest, phase)) = candidate {
        let phase = Phase::from_name(&phase).ok_or_else(|| damaged("a candidate's phase"))?;
        let tries_used = read_tries(connection, &model, &digest)?;
        state.candidate = find(Some(digest))?.map(|release| Candidate { release, phase, tries_used });
    }
    state.floor = read_floor(connection, &model)?;
    state.bad = read_bad(connection, &model)?;
    Ok(state)
}

fn read_tries(connection: &Connection, model: &str, digest: &str) -> Result<u32, StoreError> {
    connection
        .query_row("SELECT tries FROM slot_try WHERE model = ?1 AND digest = ?2", [model, digest], |row| {
            row.get(0)
        })
        .optional()
        .map(Option::unwrap_or_default)
        .map_err(StoreError::sqlite("read a candidate's tries"))
}

fn read_floor(connection: &Connection, model: &str) -> Result<Floor, StoreError> {
    connection
        .query_row("SELECT counter, digest FROM release_floor WHERE model = ?1", [model], |row| {
            Ok(Floor { counter: read_counter(row, 0)?, digest: Some(read_digest(row, 1)?) })
        })
        .optional()
        .map(Option::unwrap_or_default)
        .map_err(StoreError::sqlite("read a model's floor"))
}

fn read_bad(connection: &Connection, model: &str) -> Result<Vec<BadRelease>, StoreError> {
    let sql = "SELECT digest, signed_model, version, counter, reason, detail, at_us FROM bad_release \
               WHERE model = ?1 ORDER BY position";
    let rows = connection.prepare(sql).and_then(|mut query| {
        let rows = query.query_map([model], |row| {
            let reason: String = row.get(4)?;
            Ok((read_release(row, 0)?, Reason::from_name(&reason), row.get(5)?, row.get(6)?))
        })?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    });
    let rows = rows.map_err(StoreError::sqlite("read a model's bad releases"))?;
    let known = |(release, reason, detail, at_us): (Release, Option<Reason>, String, i64)| {
        let reason = reason.ok_or_else(|| damaged("the reason of a bad release"))?;
        Ok(BadRelease { release, reason, detail, at_us })
    };
    rows.into_iter().map(known).collect()
}

/// Reads digest, name, version and counter from this column on.
fn read_release(row: &Row<'_>, column: usize) -> rusqlite::Result<Release> {
    Ok(Release {
        digest: read_digest(row, column)?,
        model: row.get(column + 1)?,
        version: row.get(column + 2)?,
        counter: read_counter(row, column + 3)?,
    })
}

fn read_digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Counters are stored by their bits: SQLite's integers have a sign.
fn read_counter(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

/// The import's row says more, and may have a newer proof already.
fn write_release(connection: &Connection, stored: &StoredRelease) -> Result<(), StoreError> {
    let StoredRelease { release, manifest, evidence } = stored;
    let evidence = serde_json::to_string(evidence).map_err(|_| damaged("the proof of a release"))?;
    connection
        .execute(
            "INSERT INTO release VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, NULL) ON CONFLICT (digest) DO NOTHING",
            params![
                release.digest.to_string(),
                release.model,
                release.version,
                release.counter.cast_signed(),
                manifest,
                evidence
            ],
        )
        .map(drop)
        .map_err(StoreError::sqlite("store a release"))
}

fn write_slot(connection: &Connection, model: &str, state: &ModelState) -> rusqlite::Result<()> {
    let digest = |release: &Option<Release>| release.as_ref().map(|release| release.digest.to_string());
    let candidate = state.candidate.as_ref();
    connection
        .execute(
            "INSERT OR REPLACE INTO model_slot VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                model,
                digest(&state.active),
                digest(&state.previous),
                candidate.map(|candidate| candidate.release.digest.to_string()),
                candidate.map(|candidate| candidate.phase.as_str()),
                state.lane as u32,
                state.start.cast_signed(),
                state.since_us,
                state.last
            ],
        )
        .map(drop)
}

fn write_bad(connection: &Connection, model: &str, bad: &[BadRelease]) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM bad_release WHERE model = ?1", [model])?;
    for (position, BadRelease { release, reason, detail, at_us }) in bad.iter().enumerate() {
        connection.execute(
            "INSERT INTO bad_release VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                model,
                position as u32,
                release.digest.to_string(),
                release.model,
                release.version,
                release.counter.cast_signed(),
                reason.name(),
                detail,
                at_us
            ],
        )?;
    }
    Ok(())
}

/// Raises the floor; a lower one leaves it as it is.
fn write_floor(connection: &Connection, model: &str, floor: Floor) -> rusqlite::Result<()> {
    let Some(digest) = floor.digest else { return Ok(()) };
    connection
        .execute(
            "INSERT INTO release_floor VALUES (?1, ?2, ?3) ON CONFLICT (model) DO UPDATE \
             SET counter = excluded.counter, digest = excluded.digest WHERE excluded.counter > counter",
            params![model, floor.counter.cast_signed(), digest.to_string()],
        )
        .map(drop)
}

/// Keeps the candidate's tries in the one table of starts, beside those of the release that is active and was before.
fn write_tries(connection: &Connection, model: &str, state: &ModelState) -> rusqlite::Result<()> {
    let candidate = state.candidate.as_ref();
    let active = state.active.as_ref().map(|release| release.digest.to_string());
    connection.execute(
        "DELETE FROM slot_try WHERE model = ?1 AND (digest IS NOT ?2 \
         OR digest IS NOT (SELECT active FROM model_slot WHERE model = ?1))",
        params![model, active],
    )?;
    let Some(candidate) = candidate else { return Ok(()) };
    connection
        .execute(
            "INSERT OR REPLACE INTO slot_try VALUES (?1, ?2, ?3)",
            params![model, candidate.release.digest.to_string(), candidate.tries_used],
        )
        .map(drop)
}

#[cfg(test)]
#[path = "slots/tests.rs"]
mod tests;
