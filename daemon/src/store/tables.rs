//! The small tables beside the log: identities, checkpoint, positions, boots, clocks; and what the log's end tells.
//!
//! Reads and writes rows inside the caller's transaction; checks every checksum it finds. `open`, `salvage` and
//! `reader` share it.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::{BatchRow, COLUMNS, decode_deliveries};
use super::open::{DELIVERIES_KEPT, DeliveryMark, Moment};
use super::schema::PAGE_BYTES;

/// Where the counters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) seq_last: i64,
    pub(crate) prediction_next: u64,
    pub(crate) published_through: u64,
}

impl Position {
    /// Reads the position: the floors, and what the last rows say.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut position = connection
            .query_row(
                "SELECT seq_last, prediction_next, published_through FROM position WHERE id = 1",
                [],
                |row| {
                    Ok(Self {
                        seq_last: row.get(0)?,
                        prediction_next: row.get::<_, i64>(1)?.unsigned_abs(),
                        published_through: row.get::<_, i64>(2)?.unsigned_abs(),
                    })
                },
            )
            .optional()?
            .unwrap_or(Self { seq_last: 0, prediction_next: 1, published_through: 0 });
        let sql = format!("SELECT {COLUMNS} FROM batch ORDER BY seq DESC LIMIT 16");
        let mut statement = connection.prepare_cached(&sql)?;
        for row in statement.query_map([], BatchRow::of)? {
            let row = row?;
            let Ok(decoded) = row.decode() else {
                position.seq_last = position.seq_last.max(row.figures.seq);
                continue;
            };
            let last = decoded.steps.iter().rev().find_map(|s| s.predictions.last()).map(|p| p.sequence + 1);
            position.seq_last = position.seq_last.max(row.figures.seq_last);
            position.prediction_next = position
                .prediction_next
                .max(last.unwrap_or(0))
                .max(row.figures.prediction_seq.unsigned_abs());
            position.published_through =
                position.published_through.max(row.figures.published_through.unsigned_abs());
            if last.is_some() {
                break;
            }
        }
        Ok(position)
    }

    /// Stores the position as floor, before rows that tell it are dropped.
    pub(crate) fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO position VALUES (1, ?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET \
                 seq_last = ?1, prediction_next = ?2, published_through = ?3",
            )?
            .execute(params![self.seq_last, self.prediction_next as i64, self.published_through as i64])?;
        Ok(())
    }
}

/// Returns the bytes of pages in use.
pub(crate) fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let free: i64 = connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    Ok((pages - free).unsigned_abs() * PAGE_BYTES)
}

/// Returns the identities of a table; rows with a wrong checksum are left out and logged.
pub(crate) fn identities<T: DeserializeOwned>(
    connection: &Connection,
    table: &'static str,
) -> rusqlite::Result<Vec<(u32, T)>> {
    let mut statement = connection.prepare(&format!("SELECT id, identity, crc FROM {table} ORDER BY id"))?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?, row.get::<_, u32>(2)?)))?;
    let mut found = Vec::new();
    for row in rows {
        let (id, text, crc) = row?;
        match serde_json::from_str(&text) {
            Ok(identity) if crc == identity_crc(id, &text) => found.push((id, identity)),
            _ => tracing::error!(table, id, "an identity is damaged and left out"),
        }
    }
    Ok(found)
}

fn identity_crc(id: u32, text: &str) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&id.to_le_bytes()), text.as_bytes())
}

/// Stores an identity with its checksum.
pub(crate) fn put_identity<T: Serialize>(
    connection: &Connection,
    table: &'static str,
    id: u32,
    identity: &T,
) -> rusqlite::Result<()> {
    let text =
        serde_json::to_string(identity).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    connection
        .prepare_cached(&format!("INSERT OR REPLACE INTO {table} VALUES (?1, ?2, ?3)"))?
        .execute(params![id, text, identity_crc(id, &text)])?;
    Ok(())
}

fn checkpoint_crc(seq: i64, state: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&seq.to_le_bytes()), state)
}

/// Stores the pipeline's state after a step.
pub(crate) fn put_checkpoint(connection: &Connection, seq: i64, state: &[u8]) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO checkpoint VALUES (1, ?1, ?2, ?3)")?
        .execute(params![seq, checkpoint_crc(seq, state), state])?;
    Ok(())
}

/// Returns the checkpoint with the number of the last step in it, if it is intact.
pub(crate) fn checkpoint(connection: &Connection) -> rusqlite::Result<Option<(i64, Vec<u8>)>> {
    let found: Option<(i64, u32, Vec<u8>)> = connection
        .query_row("SELECT seq, crc, state FROM checkpoint WHERE id = 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    Ok(found.and_then(|(seq, crc, state)| {
        let intact = crc == checkpoint_crc(seq, &state);
        if !intact {
            tracing::error!(
                "the pipeline's saved state is damaged; windows are rebuilt from the readings kept"
            );
        }
        intact.then_some((seq, state))
    }))
}

/// Returns the marks of the last committed messages, oldest first.
pub(crate) fn delivered(connection: &Connection) -> rusqlite::Result<Vec<DeliveryMark>> {
    let mut statement = connection.prepare("SELECT deliveries FROM batch ORDER BY seq DESC")?;
    let mut rows = statement.query([])?;
    let mut newest_first: Vec<DeliveryMark> = Vec::new();
    let mut empty = 0;
    while let Some(row) = rows.next()? {
        let marks =
            row.get_ref(0)?.as_blob().ok().and_then(|b| decode_deliveries(b).ok()).unwrap_or_default();
        empty = if marks.is_empty() { empty + 1 } else { 0 };
        newest_first.extend(marks.into_iter().rev());
        // Compacted rows have no marks: a long run of them is the old part of the log.
        if newest_first.len() >= DELIVERIES_KEPT || empty > 4_096 {
            break;
        }
    }
    newest_first.truncate(DELIVERIES_KEPT);
    newest_first.reverse();
    Ok(newest_first)
}

/// Returns the row of this boot, made where it is a new one.
pub(crate) fn enter_boot(connection: &Connection, moment: &Moment) -> rusqlite::Result<i64> {
    let last: Option<(i64, String)> = connection
        .query_row("SELECT id, boot_id FROM boot ORDER BY id DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    if let Some((id, boot_id)) = last
        && boot_id == moment.boot_id
    {
        return Ok(id);
    }
    connection.execute(
        "INSERT INTO boot (boot_id, wall_us, mono_us) VALUES (?1, ?2, ?3)",
        params![moment.boot_id, moment.wall_us, moment.mono_us],
    )?;
    Ok(connection.last_insert_rowid())
}

/// Stores a step of the clock where it differs from the boot's last one.
pub(crate) fn put_clock_step(
    connection: &Connection,
    boot: i64,
    mono_us: i64,
    offset_us: i64,
) -> rusqlite::Result<()> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT offset_us FROM clock WHERE boot = ?1 ORDER BY mono_us DESC LIMIT 1")?
        .query_row([boot], |row| row.get(0))
        .optional()?;
    if last.is_some_and(|last| last.abs_diff(offset_us) < 1_000_000) {
        return Ok(());
    }
    connection
        .prepare_cached("INSERT OR REPLACE INTO clock VALUES (?1, ?2, ?3)")?
        .execute(params![boot, mono_us, offset_us])?;
    Ok(())
}
