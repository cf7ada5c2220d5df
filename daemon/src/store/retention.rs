//! Keeps the log within its bounds: by age, by bytes, by the file system's room. All it drops goes to the ledger.
//!
//! Works in bounded turns between commits; never touches what the pipeline would need after a kill (steps after the
//! checkpoint) nor the newest rows, whose marks recognise messages that come again. Readings go first, then
//! predictions are thinned or summarised, then the oldest are dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use dunlin_kit::clock::is_plausible;
use dunlin_pipeline::prediction::{InstanceIdentity, QualityFlags};
use dunlin_pipeline::reading::SeriesIdentity;
use dunlin_protocol::{Range, Ranges};
use rusqlite::{Connection, OptionalExtension, params};

use super::batch::{BatchRow, COLUMNS, Table};
use super::body::{StoredPrediction, StoredStep};
use super::numbers::{next_numbers, row_of_number};
use super::open::Store;
use super::outbox::{self, PREDICTIONS};
use super::schema::PAGE_BYTES;
use super::{StoreError, ledger};
use crate::config::settings::PredictionRetention;
use crate::flow::{Loss, LossKind};

/// Rows and bytes that one turn rewrites at most: some 10 ms on a slow card.
const TURN_ROWS: usize = 256;
const TURN_BYTES: usize = 256 << 10;
/// Newest rows that are never touched: at one message a transaction, a broker's whole default window and more.
const NEWEST_KEPT: i64 = 64;
/// The same when a commit waits for room.
const NEWEST_KEPT_EMERGENCY: i64 = 4;
/// Thinning keeps one prediction in so many, and those that changed an alert.
const THIN_KEEPS_ONE_IN: u64 = 10;
const HOUR_US: i64 = 3_600_000_000;

/// How badly room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Between commits.
    Routine,
    /// A commit failed for lack of room.
    Emergency,
}

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing was due, or nothing is left to drop.
    Done,
    /// Something was dropped; another turn may be due.
    More,
}

/// The memory of retention between turns.
#[derive(Debug, Default)]
pub struct Retention {
    /// Rows before this one have no readings left.
    readings_from: i64,
    /// Rows before this one are thinned.
    thin_from: i64,
    draining: bool,
    names: BTreeMap<(LossKindKey, u32), String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LossKindKey {
    Series,
    Instance,
}

/// What is done to a group of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Readings,
    Thin,
    Summarise,
    Drop,
}

/// Which rows may be taken.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// First row.
    from: i64,
    /// Step that a row must not go beyond.
    through: i64,
    /// Commit time, by the wall clock, that a row must be older than.
    before_us: Option<i64>,
}

impl Retention {
    /// Does one turn of work, if any is due.
    ///
    /// *Errors*: those of the database; nothing was dropped then.
    pub fn turn(&mut self, store: &mut Store, pressure: Pressure) -> Result<Turn, StoreError> {
        let newest_kept = match pressure {
            Pressure::Routine => NEWEST_KEPT,
            Pressure::Emergency => NEWEST_KEPT_EMERGENCY,
        };
        let through = reach_through(store, newest_kept)?;
        if self.turn_by_age(store, through)? == Turn::More {
            return Ok(Turn::More);
        }
        let (used, quota) = (store.used_bytes()?, store.quota);
        let headroom = (quota / 32).max(16 * PAGE_BYTES).min(quota / 4);
        self.draining = pressure == Pressure::Emergency
            || used + headroom > quota
            || (self.draining && used + 2 * headroom > quota);
        if !self.draining {
            return Ok(Turn::Done);
        }
        let reason = match pressure {
            Pressure::Emergency => "disk_full",
            Pressure::Routine if quota < store.settings.bytes_max => "free_space",
            Pressure::Routine => "quota_bytes",
        };
        self.turn_by_room(store, through, reason)
    }

    fn turn_by_age(&mut self, store: &mut Store, through: i64) -> Result<Turn, StoreError> {
        let now = store.wall_us();
        if !is_plausible(now) {
            return Ok(Turn::Done);
        }
        let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        if let Some(age) = store.settings.predictions_age_max {
            let reach = Reach { from: 0, through, before_us: Some(before(age)) };
            if self.cut(store, reach, Cut::Drop, "quota_age")? == Turn::More {
                return Ok(Turn::More);
            }
        }
        let Some(age) = store.settings.readings_age_max else { return Ok(Turn::Done) };
        let reach = Reach { from: self.readings_from, through, before_us: Some(before(age)) };
        self.cut(store, reach, Cut::Readings, "quota_age")
    }

    fn turn_by_room(&mut self, store: &mut Store, through: i64, reason: &str) -> Result<Turn, StoreError> {
        let readings = Reach { from: self.readings_from, through, before_us: None };
        if self.cut(store, readings, Cut::Readings, reason)? == Turn::More {
            return Ok(Turn::More);
        }
        // What the fleet server has is no loss, so it goes before what it has not.
        let uploaded =
            uploaded_reaches(store, through).map_err(StoreError::sqlite("look for uploaded batches"))?;
        for reach in uploaded {
            if self.cut(store, reach, Cut::Drop, reason)? == Turn::More {
                return Ok(Turn::More);
            }
        }
        let oldest = Reach { from: 0, through, before_us: None };
        let turn = match store.settings.predictions_retention {
            PredictionRetention::Thin => {
                let reach = Reach { from: self.thin_from, ..oldest };
                match self.cut(store, reach, Cut::Thin, reason)? {
                    Turn::More => Turn::More,
                    Turn::Done => self.cut(store, oldest, Cut::Drop, reason)?,
                }
            }
            PredictionRetention::Summarise => self.cut(store, oldest, Cut::Summarise, "summarised")?,
            PredictionRetention::DropOldest => self.cut(store, oldest, Cut::Drop, reason)?,
        };
        if turn == Turn::More {
            return Ok(turn);
        }
        drop_leftovers(&store.connection).map_err(StoreError::sqlite("drop old summaries"))
    }

    /// Cuts the next group of rows within reach.
    fn cut(&mut self, store: &mut Store, reach: Reach, cut: Cut, reason: &str) -> Result<Turn, StoreError> {
        let group =
            group(&store.connection, reach, cut).map_err(StoreError::sqlite("look for old batches"))?;
        let Some(last) = group.last() else { return Ok(Turn::Done) };
        let after = last.figures.seq + 1;
        let mut steps = StoredStep::default();
        for row in &group {
            match row.decode() {
                Ok(decoded) => {
                    for step in decoded.steps {
                        steps.readings.extend(step.readings);
                        steps.predictions.extend(step.predictions);
                    }
                }
                Err(_) => {
                    store.quarantine(row.figures.seq)?;
                    return Ok(Turn::More);
                }
            }
        }
        let kept: Vec<StoredPrediction> = match cut {
            Cut::Readings => std::mem::take(&mut steps.predictions),
            Cut::Thin => {
                let keeps =
                    |p: &StoredPrediction| p.sequence.is_multiple_of(THIN_KEEPS_ONE_IN) || p.alert.is_some();
                let (kept, dropped) = steps.predictions.into_iter().partition(keeps);
                steps.predictions = dropped;
                kept
            }
            Cut::Summarise | Cut::Drop => Vec::new(),
        };
        let replaced = self.replace(store, &group, cut, kept, &steps, reason);
        replaced.map_err(StoreError::sqlite("drop old batches"))?;
        match cut {
            Cut::Readings => self.readings_from = after,
            Cut::Thin => self.thin_from = after,
            Cut::Summarise | Cut::Drop => {}
        }
        Ok(Turn::More)
    }

    /// Replaces a group by one row of what is kept, and enters the rest in the ledger, in one transaction.
    fn replace(
        &mut self,
        store: &Store,
        group: &[BatchRow],
        cut: Cut,
        kept: Vec<StoredPrediction>,
        dropped: &StoredStep,
        reason: &str,
    ) -> rusqlite::Result<()> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(()) };
        let transaction = store.connection.unchecked_transaction()?;
        let after = next_numbers(&transaction, last.figures.seq)?.unwrap_or(store.prediction_next);
        let before = first.figures.prediction_seq.unsigned_abs();
        // Numbers whose row goes for good; those that a row of what is kept skips are known to be held back.
        let mut numbers: Ranges =
            Range::counted(before, after.saturating_sub(before)).ok().into_iter().collect();
        transaction
            .prepare_cached("DELETE FROM batch WHERE seq BETWEEN ?1 AND ?2")?
            .execute([first.figures.seq, last.figures.seq])?;
        if !kept.is_empty() {
            let mut figures = last.figures;
            figures.seq = first.figures.seq;
            figures.prediction_seq = first.figures.prediction_seq;
            figures.thinned = i64::from(cut == Cut::Thin || first.figures.thinned == 1);
            numbers = Ranges::new();
            let step = StoredStep { readings: Vec::new(), predictions: kept };
            BatchRow::encode(figures, &[], &[step]).insert(&transaction, Table::Batch)?;
        }
        if cut == Cut::Summarise {
            summarise(&transaction, &dropped.predictions)?;
        }
        self.enter_losses(store, &transaction, dropped, &numbers, reason)?;
        transaction.commit()
    }

    /// Enters what was dropped and had no receipt: by object in the ledger; with its numbers in what travels, where they
    /// will never come.
    fn enter_losses(
        &mut self,
        store: &Store,
        transaction: &Connection,
        dropped: &StoredStep,
        numbers: &Ranges,
        reason: &str,
    ) -> rusqlite::Result<()> {
        let (at_us, settled) = (store.wall_us(), &store.guard.settled);
        let explained = settled.of(PREDICTIONS).union(&outbox::gone(transaction, PREDICTIONS)?);
        let numbers = numbers.subtract(&explained);
        let losses = self.losses_of(transaction, dropped, (reason, &explained))?;
        let (predictions, others): (Vec<_>, Vec<_>) =
            losses.into_iter().partition(|loss| loss.kind == LossKind::Predictions && !numbers.is_empty());
        for loss in &others {
            ledger::record(transaction, loss, at_us)?;
        }
        for loss in &predictions {
            ledger::enter(transaction, loss, at_us)?;
        }
        let Some(mut whole) = predictions.first().cloned() else {
            let (kind, object, reason) = (LossKind::Predictions, String::new(), reason.to_owned());
            let none = Loss { kind, object, first_us: 0, last_us: 0, count: 0, reason };
            return outbox::add_numbered_loss(transaction, &none, (PREDICTIONS, &numbers), &mut |_| 0, at_us);
        };
        if predictions.len() > 1 {
            whole.object.clear();
        }
        for loss in &predictions {
            (whole.first_us, whole.last_us) =
                (whole.first_us.min(loss.first_us), whole.last_us.max(loss.last_us));
        }
        let mut count_of =
            |range: Range| dropped.predictions.iter().filter(|p| range.contains(p.sequence)).count() as u64;
        outbox::add_numbered_loss(transaction, &whole, (PREDICTIONS, &numbers), &mut count_of, at_us)
    }

    /// Returns what was dropped and had no receipt, summed by source and by model.
    fn losses_of(
        &mut self,
        connection: &Connection,
        step: &StoredStep,
        (reason, explained): (&str, &Ranges),
    ) -> rusqlite::Result<Vec<Loss>> {
        let mut sums: BTreeMap<(LossKindKey, String), Loss> = BTreeMap::new();
        let readings = step.readings.iter().map(|r| (LossKindKey::Series, r.series.0, r.event_us));
        let lost = step.predictions.iter().filter(|p| !explained.contains(p.sequence));
        let predictions = lost.map(|p| (LossKindKey::Instance, p.instance.0, p.window_end_us));
        for (key, id, time) in readings.chain(predictions) {
            let object = self.name(connection, key, id)?;
            let kind = match key {
                LossKindKey::Series => LossKind::Readings,
                LossKindKey::Instance => LossKind::Predictions,
            };
            let sum = sums.entry((key, object.clone())).or_insert_with(|| Loss {
                kind,
                object,
                first_us: time,
                last_us: time,
                count: 0,
                reason: reason.to_owned(),
            });
            sum.count += 1;
            (sum.first_us, sum.last_us) = (sum.first_us.min(time), sum.last_us.max(time));
        }
        Ok(sums.into_values().collect())
    }

    fn name(&mut self, connection: &Connection, key: LossKindKey, id: u32) -> rusqlite::Result<String> {
        if let Some(name) = self.names.get(&(key, id)) {
            return Ok(name.clone());
        }
        let sql = match key {
            LossKindKey::Series => "SELECT identity FROM series WHERE id = ?1",
            LossKindKey::Instance => "SELECT identity FROM instance WHERE id = ?1",
        };
        let text: Option<String> =
            connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
        let text = text.unwrap_or_default();
        let name = match key {
            LossKindKey::Series => serde_json::from_str::<SeriesIdentity>(&text).map(|s| s.source),
            LossKindKey::Instance => serde_json::from_str::<InstanceIdentity>(&text).map(|i| i.model),
        };
        let name = name.unwrap_or_default();
        self.names.insert((key, id), name.clone());
        Ok(name)
    }
}

/// Returns the last step that may be dropped, with this many newest rows kept.
fn reach_through(store: &Store, newest_kept: i64) -> Result<i64, StoreError> {
    let oldest_kept: Option<i64> = store
        .connection
        .prepare_cached("SELECT seq FROM batch ORDER BY seq DESC LIMIT 1 OFFSET ?1")
        .and_then(|mut statement| statement.query_row([newest_kept - 1], |row| row.get(0)).optional())
        .map_err(StoreError::sqlite("look for old batches"))?;
    Ok(oldest_kept.map_or(0, |seq| seq - 1).min(store.checkpoint_seq))
}

/// Returns where rows lie whose predictions all have a receipt, oldest first.
fn uploaded_reaches(store: &Store, through: i64) -> rusqlite::Result<Vec<Reach>> {
    let mut reaches = Vec::new();
    for settled in store.guard.settled.of(PREDICTIONS).iter() {
        // The row of the number before may hold settled ones too; it waits for its own receipt.
        let from = match row_of_number(&store.connection, settled.first().saturating_sub(1))? {
            Some(row) if settled.first() > 1 => row + 1,
            _ => 0,
        };
        let Some(beyond) = row_of_number(&store.connection, settled.last() + 1)? else { continue };
        let through = through.min(beyond - 1);
        if from <= through {
            reaches.push(Reach { from, through, before_us: None });
        }
    }
    Ok(reaches)
}

/// Returns adjacent rows that a cut applies to: of one clock, within a turn's bounds.
fn group(connection: &Connection, reach: Reach, cut: Cut) -> rusqlite::Result<Vec<BatchRow>> {
    let which = match cut {
        Cut::Readings => "readings > 0",
        Cut::Thin => "thinned = 0",
        Cut::Summarise | Cut::Drop => "1",
    };
    let first: Option<i64> = connection
        .prepare_cached(&format!(
            "SELECT seq FROM batch WHERE seq BETWEEN ?1 AND ?2 AND {which} ORDER BY seq LIMIT 1"
        ))?
        .query_row([reach.from, reach.through], |row| row.get(0))
        .optional()?;
    let Some(first) = first else { return Ok(Vec::new()) };
    let sql =
        format!("SELECT {COLUMNS} FROM batch WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT {TURN_ROWS}");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([first, reach.through])?;
    let mut group: Vec<BatchRow> = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let row = BatchRow::of(row)?;
        let f = &row.figures;
        let committed_us = f.mono_us.saturating_add(f.clock_offset_us);
        let too_young =
            reach.before_us.is_some_and(|before| !is_plausible(committed_us) || committed_us >= before);
        let of_another_clock = group.first().is_some_and(|head: &BatchRow| {
            let head = &head.figures;
            (head.boot, head.clock_offset_us, head.thinned) != (f.boot, f.clock_offset_us, f.thinned)
        });
        bytes += row.bytes();
        if f.seq_last > reach.through
            || too_young
            || of_another_clock
            || (bytes > TURN_BYTES && !group.is_empty())
        {
            break;
        }
        group.push(row);
    }
    Ok(group)
}

/// Adds predictions to the summaries of their hours, without those of packages in shadow.
fn summarise(connection: &Connection, predictions: &[StoredPrediction]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO summary VALUES (?1, ?2, ?3, 1, ?4, ?4, ?4) ON CONFLICT (hour_us, instance, element) DO UPDATE SET \
         mean = mean + (?4 - mean) / (count + 1), low = min(low, ?4), high = max(high, ?4), count = count + 1",
    )?;
    let counts = |flags: QualityFlags| flags.is_valid() && !flags.contains(QualityFlags::SHADOW);
    for prediction in predictions.iter().filter(|p| counts(p.flags)) {
        let hour = prediction.window_end_us.div_euclid(HOUR_US) * HOUR_US;
        for (element, value) in prediction.outputs.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            statement.execute(params![prediction.instance.0, hour, element as i64, f64::from(*value)])?;
        }
    }
    Ok(())
}

/// Drops what is left when no batch is: the oldest quarantined row, then the oldest hour of summaries.
fn drop_leftovers(connection: &Connection) -> rusqlite::Result<Turn> {
    let mut dropped =
        connection.execute("DELETE FROM quarantine WHERE seq = (SELECT min(seq) FROM quarantine)", [])?;
    if dropped == 0 {
        dropped = connection
            .execute("DELETE FROM summary WHERE hour_us = (SELECT min(hour_us) FROM summary)", [])?;
    }
    Ok(if dropped == 0 { Turn::Done } else { Turn::More })
}
