//! The rows of the log that travel to a fleet server beside predictions: events, losses, and which numbers these explain.
//! Windows of statistics are in `outbox_windows`.
//!
//! Numbers rows inside the caller's transaction; never sends, never reads a clock, and knows no server. The writer and
//! retention add rows, `outbox_reader` reads them.
//!
//! A row of losses may grow until it is *sealed*, which the upload does before it sends one: a month without a server is
//! a handful of rows. A number is explained once: what is settled or gone already is left out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dunlin_protocol::{Range, Ranges};
use rusqlite::{Connection, OptionalExtension, params};

use super::ledger;
use super::outbox_windows::Grain;
use crate::flow::{Loss, LossKind};

/// The stream of predictions.
pub const PREDICTIONS: &str = "predictions";
/// The stream of events.
pub const EVENTS: &str = "events";
/// The stream of losses.
pub const LOSSES: &str = "losses";
/// The stream of windows of statistics.
pub const STATISTICS: &str = "statistics";
/// The streams that have numbers here.
pub const STREAMS: [&str; 4] = [PREDICTIONS, EVENTS, LOSSES, STATISTICS];

/// Events that are kept: at some 120 bytes each 500 kB, a month of five an hour.
const EVENTS_KEPT: i64 = 4_096;
/// Rows of losses that are kept after their receipt, for a server that has lost them.
const LOSSES_KEPT: i64 = 1_024;

/// Something that happened on the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventEntry {
    /// When, in microseconds since 1970 by the gateway's clock.
    pub at_us: i64,
    /// What kind of event: a code, as in `alert_raised`.
    pub kind: String,
    /// How much it matters: 0 information, 1 warning, 2 error.
    pub severity: u8,
    /// What it is about, as a model; empty where it is the gateway.
    pub object: String,
    /// What happened, for people.
    pub words: String,
}

/// What the upload tells the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxOrder {
    /// Let no row of losses that is there grow any more: they are about to be sent.
    Seal,
    /// Enter an event.
    Event(EventEntry),
    /// Enter numbers that will never be sent as losses.
    Explain(Unsendable),
    /// Let windows of statistics go that wait: those of whole days merged, or all of them.
    LetGo(Grain),
}

/// Numbers of rows that will never be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsendable {
    /// The stream.
    pub stream: &'static str,
    /// The numbers.
    pub numbers: Ranges,
    /// Why: a short fixed text.
    pub reason: String,
    /// Whether each number was a row.
    pub rows: Rows,
}

/// What is known of the rows that numbers stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Each number had one.
    Each,
    /// Nobody knows how many there were; they count as none.
    Unknown,
}

/// Numbers that the server has answered for, by stream: rows that may go without being a loss. Shared between upload and
/// retention; persisted before it is said here. Says besides how coarse windows of statistics are to travel.
#[derive(Debug, Clone, Default)]
pub struct SettledNumbers(Arc<Mutex<BTreeMap<&'static str, Ranges>>>, Arc<AtomicBool>);

impl SettledNumbers {
    /// Returns those of a stream.
    #[must_use]
    pub fn of(&self, stream: &str) -> Ranges {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(stream).cloned().unwrap_or_default()
    }

    /// Returns how coarse windows are to travel that are reported from here on.
    #[must_use]
    pub fn grain(&self) -> Grain {
        if self.1.load(Ordering::Relaxed) { Grain::Day } else { Grain::AsReported }
    }

    /// Says how coarse windows are to travel.
    pub fn set_grain(&self, grain: Grain) {
        self.1.store(grain == Grain::Day, Ordering::Relaxed);
    }

    /// Replaces those of a stream.
    pub fn replace(&self, stream: &'static str, numbers: Ranges) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(stream, numbers);
    }
}

/// Returns the number that a stream's next row gets.
pub(crate) fn next_number(connection: &Connection, stream: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT next FROM outbox_mark WHERE stream = ?1")?
        .query_row([stream], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))
}

/// Has a stream go on from this number, if it is higher.
pub(crate) fn continue_from(connection: &Connection, stream: &str, next: u64) -> rusqlite::Result<()> {
    let sql = "UPDATE outbox_mark SET next = max(next, ?2), sealed = max(sealed, ?2 - 1) WHERE stream = ?1";
    connection.execute(sql, params![stream, next as i64]).map(drop)
}

pub(crate) fn take_number(connection: &Connection, stream: &str) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("UPDATE outbox_mark SET next = next + 1 WHERE stream = ?1 RETURNING next - 1")?
        .query_row([stream], |row| row.get(0))
}

/// Adds an event. Where there are too many, the oldest goes, as a loss where it had no receipt.
pub(crate) fn add_event(
    connection: &Connection,
    entry: &EventEntry,
    settled: &SettledNumbers,
) -> rusqlite::Result<()> {
    let number = take_number(connection, EVENTS)?;
    connection
        .prepare_cached("INSERT INTO outbox_event VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![number, entry.at_us, entry.kind, entry.severity, entry.object, entry.words])?;
    let oldest: i64 =
        connection.prepare_cached("SELECT min(seq) FROM outbox_event")?.query_row([], |row| row.get(0))?;
    let last = number - EVENTS_KEPT;
    if oldest > last {
        return Ok(());
    }
    connection.prepare_cached("DELETE FROM outbox_event WHERE seq <= ?1")?.execute([last])?;
    let Ok(numbers) = Range::new(oldest.unsigned_abs(), last.unsigned_abs()) else { return Ok(()) };
    let lost = Unsendable {
        stream: EVENTS,
        numbers: numbers.into(),
        reason: "quota_rows".to_owned(),
        rows: Rows::Each,
    };
    enter_unsendable(connection, &lost, settled, entry.at_us)
}

/// Adds to the losses what had no numbers.
pub(crate) fn add_loss(connection: &Connection, loss: &Loss, at_us: i64) -> rusqlite::Result<()> {
    put_loss(connection, loss, None, at_us)
}

fn put_loss(
    connection: &Connection,
    loss: &Loss,
    numbers: Option<(&str, Range)>,
    at_us: i64,
) -> rusqlite::Result<()> {
    let count = i64::try_from(loss.count).unwrap_or(i64::MAX);
    let (stream, first, last) = match numbers {
        Some((stream, range)) => (Some(stream), Some(range.first() as i64), Some(range.last() as i64)),
        None => (None, None, None),
    };
    // A row that was not sent yet grows, where its numbers go on from there.
    let grown = connection
        .prepare_cached(
            "SELECT seq, first_us, last_us FROM outbox_loss \
             WHERE seq > (SELECT sealed FROM outbox_mark WHERE stream = 'losses') \
             AND kind = ?1 AND object = ?2 AND reason = ?3 AND stream IS ?4 AND (?5 IS NULL OR last = ?5 - 1) \
             ORDER BY seq DESC LIMIT 1",
        )?
        .query_row(params![loss.kind.as_str(), loss.object, loss.reason, stream, first], |row| {
            Ok((row.get::<_, i64>(0)?, (row.get(1)?, row.get(2)?)))
        })
        .optional()?;
    if let Some((seq, present)) = grown {
        let (from_us, to_us) = ledger::span(present, (loss.first_us, loss.last_us));
        connection
            .prepare_cached(
                "UPDATE outbox_loss SET count = count + ?2, first_us = ?3, last_us = ?4, at_us = ?5, \
                 last = coalesce(?6, last) WHERE seq = ?1",
            )?
            .execute(params![seq, count, from_us, to_us, at_us, last])?;
        return Ok(());
    }
    let seq = take_number(connection, LOSSES)?;
    connection
        .prepare_cached("INSERT INTO outbox_loss VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)")?
        .execute(params![
            seq,
            loss.kind.as_str(),
            loss.object,
            loss.reason,
            count,
            loss.first_us,
            loss.last_us,
            at_us,
            stream,
            first,
            last
        ])?;
    Ok(())
}

/// Adds to the losses numbers that will never be sent, without those that are explained already. `count` says how many
/// rows a range stood for; `loss.count` is not read.
pub(crate) fn add_numbered_loss(
    connection: &Connection,
    loss: &Loss,
    (stream, numbers): (&str, &Ranges),
    count: &mut dyn FnMut(Range) -> u64,
    at_us: i64,
) -> rusqlite::Result<()> {
    for range in numbers.iter() {
        let counted = Loss { count: count(range), ..loss.clone() };
        put_loss(connection, &counted, Some((stream, range)), at_us)?;
        put_gone(connection, stream, range)?;
    }
    Ok(())
}

/// Returns which of these numbers nothing explains so far.
pub(crate) fn unexplained(
    connection: &Connection,
    stream: &str,
    numbers: &Ranges,
    settled: &SettledNumbers,
) -> rusqlite::Result<Ranges> {
    Ok(numbers.subtract(&settled.of(stream)).subtract(&gone(connection, stream)?))
}

/// Enters numbers that will never be sent, into the ledger and the losses; those that are explained are left out.
pub(crate) fn enter_unsendable(
    connection: &Connection,
    lost: &Unsendable,
    settled: &SettledNumbers,
    at_us: i64,
) -> rusqlite::Result<()> {
    let numbers = unexplained(connection, lost.stream, &lost.numbers, settled)?;
    let kind = match lost.stream {
        EVENTS => LossKind::Events,
        LOSSES => LossKind::Losses,
        STATISTICS => LossKind::Windows,
        _ => LossKind::Predictions,
    };
    let count_of = |range: Range| if lost.rows == Rows::Each { range.count() } else { 0 };
    let count = numbers.iter().map(count_of).sum();
    let (object, reason) = (String::new(), lost.reason.clone());
    let loss = Loss { kind, object, first_us: 0, last_us: 0, count, reason };
    ledger::enter(connection, &loss, at_us)?;
    add_numbered_loss(connection, &loss, (lost.stream, &numbers), &mut |range| count_of(range), at_us)
}

fn put_gone(connection: &Connection, stream: &str, range: Range) -> rusqlite::Result<()> {
    let (first, last) = (range.first() as i64, range.last() as i64);
    let grown = connection
        .prepare_cached("UPDATE outbox_gone SET last = ?3 WHERE stream = ?1 AND last = ?2 - 1")?
        .execute(params![stream, first, last])?;
    if grown == 0 {
        connection
            .prepare_cached("INSERT OR REPLACE INTO outbox_gone VALUES (?1, ?2, ?3)")?
            .execute(params![stream, first, last])?;
    }
    Ok(())
}

/// Returns the numbers of a stream that rows of losses explain.
pub(crate) fn gone(connection: &Connection, stream: &str) -> rusqlite::Result<Ranges> {
    let mut statement =
        connection.prepare_cached("SELECT first, last FROM outbox_gone WHERE stream = ?1 ORDER BY first")?;
    let rows = statement.query_map([stream], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    let mut ranges = Vec::new();
    for row in rows {
        let (first, last) = row?;
        ranges.extend(Range::new(first.unsigned_abs(), last.unsigned_abs()));
    }
    Ok(ranges.into_iter().collect())
}

/// Lets no row of losses that is there grow any more, and forgets old ones that have their receipt.
pub(crate) fn seal(connection: &Connection, settled: &SettledNumbers) -> rusqlite::Result<()> {
    connection.execute("UPDATE outbox_mark SET sealed = next - 1 WHERE stream = 'losses'", [])?;
    let safe = settled.of(LOSSES);
    let Some(safe) = safe.iter().next().filter(|range| range.first() == 1) else { return Ok(()) };
    connection
        .execute(
            "DELETE FROM outbox_loss WHERE seq <= ?1 AND seq <= (SELECT max(seq) FROM outbox_loss) - ?2",
            params![safe.last() as i64, LOSSES_KEPT],
        )
        .map(drop)
}

/// Copies the outbox of a damaged log into a fresh one, as far as it can be read.
pub(crate) fn copy(source: &Connection, target: &Connection) -> rusqlite::Result<()> {
    let tables = [
        ("outbox_event", 6),
        ("outbox_loss", 11),
        ("outbox_gone", 3),
        ("outbox_mark", 3),
        ("outbox_window", 10),
    ];
    for (table, columns) in tables {
        let is_there = "SELECT count(*) FROM sqlite_schema WHERE name = ?1";
        if source.query_row(is_there, [table], |row| row.get::<_, i64>(0))? == 0 {
            // Of a version that had none.
            continue;
        }
        let marks: Vec<String> = (1..=columns).map(|n| format!("?{n}")).collect();
        let sql = format!("INSERT OR REPLACE INTO {table} VALUES ({})", marks.join(","));
        let mut insert = target.prepare(&sql)?;
        let mut select = source.prepare(&format!("SELECT * FROM {table}"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let values: Vec<rusqlite::types::Value> =
                (0..columns).map(|column| row.get(column)).collect::<rusqlite::Result<_>>()?;
            insert.execute(rusqlite::params_from_iter(values))?;
        }
    }
    Ok(())
}
