//! Windows of statistics in the outbox: numbered, bounded, and merged into days where the data budget asks for it.
//!
//! Works inside the caller's transaction; never sends, and reads no summary but to add it to others. A row that may have been
//! sent stays as it is: merged are those alone that were kept back from the start, and a number that has become part of
//! another row's is held back for good.

use std::collections::BTreeMap;

use dunlin_model_package::Digest;
use dunlin_model_package::profile_window::{Counted, Shape, read_window, write_window};
use dunlin_protocol::limits::INTEGER_MAX;
use dunlin_protocol::{Range, Ranges};
use rusqlite::{Connection, Row, params};

use super::outbox::{self, Rows, STATISTICS, SettledNumbers, Unsendable};

/// Windows that are kept: at some 500 bytes each 4 MB, a month of eleven instances by the hour.
const WINDOWS_KEPT: i64 = 8_192;
/// Windows that are kept after their receipt, for a server that has lost them.
const RECEIVED_KEPT: i64 = 1_024;
/// A day in microseconds.
const DAY_US: i64 = 86_400_000_000;
/// A day is whole once an instance has a window that begins so long after its end: no grace is longer.
pub(crate) const DAY_GRACE_US: i64 = DAY_US;

/// How coarse windows travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// As they were reported.
    AsReported,
    /// Merged by day, once it is whole.
    Day,
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It waits for the others of its day.
    Waits,
    /// It is sent.
    Sent,
    /// It is part of another row: its number is held back.
    Merged,
}

impl Standing {
    const fn code(self) -> i64 {
        match self {
            Self::Waits => 0,
            Self::Sent => 1,
            Self::Merged => 2,
        }
    }

    const fn of(code: i64) -> Self {
        match code {
            0 => Self::Waits,
            2 => Self::Merged,
            _ => Self::Sent,
        }
    }
}

/// A window as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowEntry {
    /// Its instance.
    pub instance: u32,
    /// The profile that it was counted by.
    pub profile: Digest,
    /// Where it begins, event time in microseconds since 1970.
    pub from_us: i64,
    /// Its length in microseconds.
    pub span_us: u64,
    /// How often it was reported, this time included.
    pub revision: u32,
    /// Readings in it.
    pub n: u64,
    /// How its summaries are read.
    pub shapes: Vec<Shape>,
    /// Its summaries.
    pub summaries: Vec<u8>,
}

/// A window with its number and what becomes of it.
pub type NumberedWindow = (u64, Standing, WindowEntry);

/// Adds a window. Where there are too many, the oldest goes, as a loss where it had no receipt.
pub(crate) fn add_window(
    connection: &Connection,
    entry: &WindowEntry,
    settled: &SettledNumbers,
    at_us: i64,
) -> rusqlite::Result<()> {
    let number = outbox::take_number(connection, STATISTICS)?;
    // What an earlier revision waits for, a later one waits for as well: else it would be counted beside its day.
    let sql = "SELECT count(*) FROM outbox_window WHERE standing = 0 AND instance = ?1 AND from_us = ?2";
    let waits: i64 = connection
        .prepare_cached(sql)?
        .query_row(params![entry.instance, entry.from_us], |row| row.get(0))?;
    let standing = match settled.grain() {
        Grain::AsReported if waits == 0 => Standing::Sent,
        Grain::AsReported | Grain::Day => Standing::Waits,
    };
    connection
        .prepare_cached("INSERT INTO outbox_window VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
        .execute(params![
            number,
            entry.instance,
            entry.profile.as_bytes(),
            entry.from_us,
            entry.span_us as i64,
            entry.revision,
            entry.n as i64,
            standing.code(),
            bytes_of(&entry.shapes),
            entry.summaries,
        ])?;
    forget_received(connection, settled, number)?;
    drop_oldest(connection, settled, (number, at_us))
}

/// Forgets old windows that have their receipt.
fn forget_received(connection: &Connection, settled: &SettledNumbers, number: i64) -> rusqlite::Result<()> {
    let received = settled.of(STATISTICS);
    let Some(first) = received.iter().next().filter(|range| range.first() == 1) else { return Ok(()) };
    let last = (first.last() as i64).min(number - RECEIVED_KEPT);
    connection.prepare_cached("DELETE FROM outbox_window WHERE seq <= ?1")?.execute([last]).map(drop)
}

fn drop_oldest(
    connection: &Connection,
    settled: &SettledNumbers,
    (number, at_us): (i64, i64),
) -> rusqlite::Result<()> {
    let sql = "SELECT coalesce(min(seq), ?1) FROM outbox_window";
    let oldest: i64 = connection.prepare_cached(sql)?.query_row([number], |row| row.get(0))?;
    let last = number - WINDOWS_KEPT;
    if oldest > last {
        return Ok(());
    }
    let mut merged = Ranges::new();
    for standing in standings(connection, last)? {
        if let ((_, Standing::Merged), Ok(one)) = (standing, Range::counted(standing.0, 1)) {
            merged.insert(one);
        }
    }
    connection.prepare_cached("DELETE FROM outbox_window WHERE seq <= ?1")?.execute([last])?;
    let Ok(range) = Range::new(oldest.unsigned_abs(), last.unsigned_abs()) else { return Ok(()) };
    let all = Ranges::from(range);
    for (numbers, rows) in [(all.subtract(&merged), Rows::Each), (merged, Rows::Unknown)] {
        let reason = "quota_rows".to_owned();
        let lost = Unsendable { stream: STATISTICS, numbers, reason, rows };
        if !lost.numbers.is_empty() {
            outbox::enter_unsendable(connection, &lost, settled, at_us)?;
        }
    }
    Ok(())
}

fn standings(connection: &Connection, last: i64) -> rusqlite::Result<Vec<(u64, Standing)>> {
    let mut statement =
        connection.prepare_cached("SELECT seq, standing FROM outbox_window WHERE seq <= ?1 ORDER BY seq")?;
    let rows = statement
        .query_map([last], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), Standing::of(row.get(1)?))))?;
    rows.collect()
}

/// Returns the numbers of windows that wait for others of their day.
pub(crate) fn waiting_for_days(connection: &Connection) -> rusqlite::Result<Ranges> {
    let mut statement =
        connection.prepare_cached("SELECT seq FROM outbox_window WHERE standing = 0 ORDER BY seq")?;
    let rows = statement.query_map([], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))?;
    let mut found = Ranges::new();
    for number in rows {
        if let Ok(one) = Range::counted(number?, 1) {
            found.insert(one);
        }
    }
    Ok(found)
}

/// Returns the windows of a range that are there, in order, at most `limit`.
pub(crate) fn windows(
    connection: &Connection,
    wanted: Range,
    limit: usize,
) -> rusqlite::Result<Vec<NumberedWindow>> {
    let sql = "SELECT seq, standing, instance, profile, from_us, span_us, revision, n, shapes, summaries \
         FROM outbox_window WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let (first, last) = (wanted.first() as i64, wanted.last() as i64);
    statement.query_map(params![first, last, limit as i64], entry)?.collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<NumberedWindow> {
    let shapes: Vec<u8> = row.get(8)?;
    let window = WindowEntry {
        instance: row.get(2)?,
        profile: Digest::from_bytes(row.get(3)?),
        from_us: row.get(4)?,
        span_us: row.get::<_, i64>(5)?.unsigned_abs(),
        revision: row.get(6)?,
        n: row.get::<_, i64>(7)?.unsigned_abs(),
        shapes: shapes_of(&shapes),
        summaries: row.get(9)?,
    };
    Ok((row.get::<_, i64>(0)?.unsigned_abs(), Standing::of(row.get(1)?), window))
}

/// Windows that wait, by instance, profile and day.
type Days = BTreeMap<(u32, [u8; 32], i64), Vec<(u64, WindowEntry)>>;

/// Tells whether any day is whole that windows wait for.
pub(crate) fn is_any_day_whole(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(!whole_days(connection)?.is_empty())
}

/// Returns the windows that wait for days that are whole.
fn whole_days(connection: &Connection) -> rusqlite::Result<Days> {
    let Some(range) = waiting_for_days(connection)?.iter().next() else { return Ok(Days::new()) };
    let newest = {
        let sql = "SELECT instance, max(from_us) FROM outbox_window GROUP BY instance";
        let mut statement = connection.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, i64>(1)?)))?;
        rows.collect::<rusqlite::Result<BTreeMap<u32, i64>>>()?
    };
    let all = Range::new(range.first(), INTEGER_MAX).unwrap_or(range);
    let mut days = Days::new();
    for (number, standing, window) in windows(connection, all, WINDOWS_KEPT as usize)? {
        let day = window.from_us.div_euclid(DAY_US);
        let whole_us = (day + 1).saturating_mul(DAY_US).saturating_add(DAY_GRACE_US);
        if standing == Standing::Waits && newest.get(&window.instance).is_some_and(|from| *from >= whole_us) {
            days.entry((window.instance, *window.profile.as_bytes(), day))
                .or_default()
                .push((number, window));
        }
    }
    Ok(days)
}

/// Lets windows go that wait: those of whole days as one each, or all of them as they are.
pub(crate) fn let_go(connection: &Connection, grain: Grain) -> rusqlite::Result<()> {
    if grain == Grain::AsReported {
        let sql = "UPDATE outbox_window SET standing = 1 WHERE standing = 0";
        return connection.prepare_cached(sql)?.execute([]).map(drop);
    }
    for windows in whole_days(connection)?.into_values() {
        // One that was sent in an earlier revision stays a row of its own: it replaces that one.
        let begun: Vec<i64> =
            windows.iter().filter(|(_, w)| w.revision == 1).map(|(_, w)| w.from_us).collect();
        let (mut windows, own): (Vec<_>, Vec<_>) =
            windows.into_iter().partition(|(_, window)| begun.contains(&window.from_us));
        own.iter().try_for_each(|(number, window)| put(connection, *number, window))?;
        let Some(merged) = merge(&windows) else {
            // Damaged, or of a format that is not known: sent as they are.
            windows.iter().try_for_each(|(number, window)| put(connection, *number, window))?;
            continue;
        };
        let Some((last, _)) = windows.pop() else { continue };
        put(connection, last, &merged)?;
        let sql = "UPDATE outbox_window SET standing = 2, summaries = zeroblob(0) WHERE seq = ?1";
        let mut part = connection.prepare_cached(sql)?;
        windows.iter().try_for_each(|(number, _)| part.execute([*number as i64]).map(drop))?;
    }
    Ok(())
}

fn put(connection: &Connection, number: u64, window: &WindowEntry) -> rusqlite::Result<()> {
    let sql = "UPDATE outbox_window SET standing = 1, from_us = ?2, span_us = ?3, revision = ?4, n = ?5, \
         summaries = ?6 WHERE seq = ?1";
    let figures = params![
        number as i64,
        window.from_us,
        window.span_us as i64,
        window.revision,
        window.n as i64,
        window.summaries
    ];
    connection.prepare_cached(sql)?.execute(figures).map(drop)
}

/// Returns the sum of windows of one instance and profile, each in its last revision; none where they cannot be read.
pub(crate) fn merge(windows: &[(u64, WindowEntry)]) -> Option<WindowEntry> {
    let mut latest: BTreeMap<i64, &WindowEntry> = BTreeMap::new();
    for (_, window) in windows {
        let known = latest.entry(window.from_us).or_insert(window);
        if window.revision > known.revision {
            *known = window;
        }
    }
    let mut sum: Option<(WindowEntry, Vec<dunlin_drift::summary::Summary>)> = None;
    let mut to_us = i64::MIN;
    for window in latest.into_values() {
        let summaries = read_window(&window.summaries, window.shapes.iter().copied()).ok()?;
        to_us = to_us.max(window.from_us.saturating_add_unsigned(window.span_us));
        match &mut sum {
            None => sum = Some((window.clone(), summaries)),
            Some((merged, whole)) if merged.shapes == window.shapes => {
                merged.n = merged.n.saturating_add(window.n);
                merged.revision = merged.revision.max(window.revision);
                whole.iter_mut().zip(&summaries).try_for_each(|(whole, part)| whole.merge(part)).ok()?;
            }
            Some(_) => return None,
        }
    }
    let (mut merged, whole) = sum?;
    merged.span_us = to_us.abs_diff(merged.from_us);
    merged.summaries = write_window(&whole);
    Some(merged)
}

fn bytes_of(shapes: &[Shape]) -> Vec<u8> {
    let code = |shape: &Shape| (shape.bins as u16) << 1 | u16::from(shape.of == Counted::Names);
    shapes.iter().flat_map(|shape| code(shape).to_le_bytes()).collect()
}

fn shapes_of(bytes: &[u8]) -> Vec<Shape> {
    let shape = |code: &[u8]| {
        let code = u16::from_le_bytes([code[0], code[1]]);
        let of = if code & 1 == 1 { Counted::Names } else { Counted::Numbers };
        Shape { bins: usize::from(code >> 1), of }
    };
    bytes.chunks_exact(2).map(shape).collect()
}
