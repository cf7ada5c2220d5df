//! The loss ledger: what was knowingly given up, by kind, object and reason.
//!
//! Adds and lists rows; never decides what is given up. Rows of the same loss are merged and the ledger is bounded,
//! so that it cannot grow into the room it accounts for; counts are never lost by that.

use std::collections::BTreeMap;

use dunlin_protocol::{Range, Ranges};
use rusqlite::{Connection, OptionalExtension, params};

use super::outbox::{self, SettledNumbers};
use crate::flow::{Loss, LossKind};

/// Most rows: at about 80 bytes each, 20 pages.
pub const LEDGER_ROWS_MAX: i64 = 1_024;
/// A loss is added to the last row of its kind when that is younger: one row a day and loss at most.
const MERGE_US: i64 = 24 * 3_600 * 1_000_000;

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// What was lost.
    pub loss: Loss,
    /// When it was last added to, in microseconds since 1970 by the gateway's clock.
    pub at_us: i64,
}

/// A loss that is not on disk yet.
#[derive(Debug)]
struct PendingLoss {
    loss: Loss,
    /// Numbers of the predictions that were lost, where they had some.
    numbers: Ranges,
}

/// Losses that are not on disk yet, summed by kind, object and reason.
#[derive(Debug, Default)]
pub(crate) struct PendingLosses(Vec<PendingLoss>);

impl PendingLosses {
    /// Adds a loss.
    pub(crate) fn add(&mut self, loss: Loss) {
        self.add_with(loss, Ranges::new());
    }

    /// Adds predictions that were lost with their numbers.
    pub(crate) fn add_numbered(&mut self, loss: Loss, numbers: Range) {
        self.add_with(loss, numbers.into());
    }

    fn add_with(&mut self, loss: Loss, numbers: Ranges) {
        if loss.count == 0 {
            return;
        }
        let is_numbered = !numbers.is_empty();
        let same = self.0.iter_mut().find(|PendingLoss { loss: l, numbers: n }| {
            l.kind == loss.kind
                && l.object == loss.object
                && l.reason == loss.reason
                && n.is_empty() != is_numbered
        });
        match same {
            Some(PendingLoss { loss: present, numbers: had }) => {
                *had = had.union(&numbers);
                present.count = present.count.saturating_add(loss.count);
                (present.first_us, present.last_us) =
                    span((present.first_us, present.last_us), (loss.first_us, loss.last_us));
            }
            None => self.0.push(PendingLoss { loss, numbers }),
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the losses.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Loss> {
        self.0.iter().map(|pending| &pending.loss)
    }

    /// Adds them to the ledger and to what travels, inside the caller's transaction.
    pub(crate) fn record(
        &self,
        connection: &Connection,
        settled: &SettledNumbers,
        at_us: i64,
    ) -> rusqlite::Result<()> {
        for PendingLoss { loss, numbers } in &self.0 {
            if numbers.is_empty() {
                record(connection, loss, at_us)?;
                continue;
            }
            enter(connection, loss, at_us)?;
            let stream = outbox::PREDICTIONS;
            let numbers = outbox::unexplained(connection, stream, numbers, settled)?;
            outbox::add_numbered_loss(
                connection,
                loss,
                (stream, &numbers),
                &mut |range| range.count(),
                at_us,
            )?;
        }
        Ok(())
    }

    /// Forgets the losses, once they are on disk.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Returns the span over both, where (0, 0) is unknown.
pub(super) fn span(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    match (a, b) {
        ((0, 0), known) | (known, (0, 0)) => known,
        _ => (a.0.min(b.0), a.1.max(b.1)),
    }
}

/// Adds a loss without numbers to the ledger and to what travels, inside the caller's transaction.
pub(crate) fn record(connection: &Connection, loss: &Loss, at_us: i64) -> rusqlite::Result<()> {
    if loss.count > 0 {
        outbox::add_loss(connection, loss, at_us)?;
    }
    enter(connection, loss, at_us)
}

/// Adds a loss to the ledger alone: its numbers travel otherwise.
pub(crate) fn enter(connection: &Connection, loss: &Loss, at_us: i64) -> rusqlite::Result<()> {
    if loss.count == 0 {
        return Ok(());
    }
    let kind = loss.kind.as_str();
    let last = connection
        .prepare_cached(
            "SELECT id, first_us, last_us FROM loss WHERE kind = ?1 AND object = ?2 AND reason = ?3 \
             AND abs(at_us - ?4) < ?5 ORDER BY id DESC LIMIT 1",
        )?
        .query_row(params![kind, loss.object, loss.reason, at_us, MERGE_US], |row| {
            Ok((row.get::<_, i64>(0)?, (row.get(1)?, row.get(2)?)))
        })
        .optional()?;
    let count = i64::try_from(loss.count).unwrap_or(i64::MAX);
    if let Some((id, present)) = last {
        let (first, last) = span(present, (loss.first_us, loss.last_us));
        connection
            .prepare_cached("UPDATE loss SET count = count + ?2, first_us = ?3, last_us = ?4 WHERE id = ?1")?
            .execute(params![id, count, first, last])?;
        return Ok(());
    }
    connection
        .prepare_cached("INSERT INTO loss (kind, object, first_us, last_us, count, reason, at_us) VALUES (?1,?2,?3,?4,?5,?6,?7)")?
        .execute(params![kind, loss.object, loss.first_us, loss.last_us, count, loss.reason, at_us])?;
    fold(connection)
}

/// Folds the older half of a ledger that is too long into one row a kind and reason.
fn fold(connection: &Connection) -> rusqlite::Result<()> {
    let rows: i64 =
        connection.prepare_cached("SELECT count(*) FROM loss")?.query_row([], |row| row.get(0))?;
    if rows <= LEDGER_ROWS_MAX {
        return Ok(());
    }
    let middle: i64 = connection.query_row(
        "SELECT id FROM loss ORDER BY id LIMIT 1 OFFSET ?1",
        [LEDGER_ROWS_MAX / 2],
        |row| row.get(0),
    )?;
    connection.execute(
        "INSERT INTO loss (kind, object, first_us, last_us, count, reason, at_us) \
         SELECT kind, '', min(first_us), max(last_us), sum(count), reason, max(at_us) FROM loss \
         WHERE id < ?1 GROUP BY kind, reason",
        [middle],
    )?;
    connection.execute("DELETE FROM loss WHERE id < ?1", [middle])?;
    Ok(())
}

/// Returns the ledger, oldest first.
pub(crate) fn entries(connection: &Connection) -> rusqlite::Result<Vec<LedgerEntry>> {
    let mut statement = connection.prepare_cached(
        "SELECT kind, object, first_us, last_us, count, reason, at_us FROM loss ORDER BY id",
    )?;
    let rows = statement.query_map([], |row| {
        let kind = match row.get_ref(0)?.as_str()? {
            "readings" => LossKind::Readings,
            "predictions" => LossKind::Predictions,
            "messages" => LossKind::Messages,
            "events" => LossKind::Events,
            "losses" => LossKind::Losses,
            "windows" => LossKind::Windows,
            _ => LossKind::Batches,
        };
        Ok(LedgerEntry {
            loss: Loss {
                kind,
                object: row.get(1)?,
                first_us: row.get(2)?,
                last_us: row.get(3)?,
                count: row.get::<_, i64>(4)?.unsigned_abs(),
                reason: row.get(5)?,
            },
            at_us: row.get(6)?,
        })
    })?;
    rows.collect()
}

/// Returns sums by `kind:reason`, as metrics show them.
pub(crate) fn totals(connection: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut statement = connection
        .prepare_cached("SELECT kind || ':' || reason, sum(count) FROM loss GROUP BY kind, reason")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    rows.collect()
}
