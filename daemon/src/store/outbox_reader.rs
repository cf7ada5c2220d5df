//! Reads what is to travel beside the writer: predictions by number out of the log, events and losses out of the outbox.
//!
//! Never writes, and never guesses: a number without a row is either held back, where its row's neighbours were thinned,
//! or missing. The upload asks for numbers that nothing explains yet.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use dunlin_pipeline::prediction::{InstanceIdentity, QualityFlags};
use dunlin_protocol::{Range, Ranges};
use rusqlite::{Connection, Row};

use super::batch;
use super::body::StoredPrediction;
use super::clock_fix::ClockSteps;
use super::numbers::row_of_number;
use super::outbox::{self, EVENTS, EventEntry, LOSSES, PREDICTIONS, STATISTICS};
use super::outbox_windows::{self, NumberedWindow};
use super::tables::{Position, identities};
use super::{StoreError, TELEMETRY_FILE, schema};

/// How far the numbers of each stream go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The next prediction's.
    pub predictions: u64,
    /// The next event's.
    pub events: u64,
    /// The next loss's.
    pub losses: u64,
    /// The first loss that is not sealed, and may still grow.
    pub unsealed: u64,
    /// The next window's.
    pub statistics: u64,
}

impl Ends {
    /// Returns the first number of a stream that cannot be sent yet.
    #[must_use]
    pub fn next_to_send(&self, stream: &str) -> u64 {
        match stream {
            PREDICTIONS => self.predictions,
            EVENTS => self.events,
            STATISTICS => self.statistics,
            _ => self.unsealed,
        }
    }
}

/// What stands at a number of the stream of predictions, or a range of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Found<'r> {
    /// A prediction, with its time as corrected.
    Prediction {
        /// As stored.
        stored: &'r StoredPrediction,
        /// Event time of the window's last row, in microseconds since 1970.
        window_end_us: i64,
    },
    /// Dropped on purpose between others that were kept.
    HeldBack(Range),
    /// Nothing, and no reason is known.
    Missing(Range),
}

/// A loss as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLoss {
    /// Its number.
    pub number: u64,
    /// What was lost.
    pub kind: String,
    /// Of what.
    pub object: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// First event time, in microseconds since 1970; 0 when unknown.
    pub first_us: i64,
    /// Last event time.
    pub last_us: i64,
    /// When it was last added to.
    pub at_us: i64,
    /// The stream and its numbers that will never come.
    pub numbers: Option<(String, Range)>,
}

/// A connection that reads what is to travel.
#[derive(Debug)]
pub struct OutboxReader {
    connection: Connection,
    instances: BTreeMap<u32, InstanceIdentity>,
    clock: ClockSteps,
}

impl OutboxReader {
    /// Opens the log of a state folder.
    ///
    /// *Errors*: there is none, it is of the future, or cannot be read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let connection = schema::open_reader(&folder.join(TELEMETRY_FILE))?;
        Ok(Self { connection, instances: BTreeMap::new(), clock: ClockSteps::default() })
    }

    /// Has all that is read until [`Self::end`] be of one moment.
    ///
    /// *Errors*: those of the database.
    pub fn begin(&self) -> Result<(), StoreError> {
        if !self.connection.is_autocommit() {
            self.end();
        }
        self.connection.execute_batch("BEGIN").map_err(StoreError::sqlite("begin to read the outbox"))
    }

    /// Lets the log go: the writer's WAL can be copied again.
    pub fn end(&self) {
        if let Err(error) = self.connection.execute_batch("ROLLBACK") {
            tracing::debug!(%error, "no reading was under way");
        }
    }

    /// Returns how far the numbers go.
    ///
    /// *Errors*: those of the database.
    pub fn ends(&self) -> Result<Ends, StoreError> {
        let read = (|| {
            let predictions = Position::read(&self.connection)?.prediction_next.max(1);
            let events = outbox::next_number(&self.connection, EVENTS)?;
            let losses = outbox::next_number(&self.connection, LOSSES)?;
            let sql = "SELECT sealed + 1 FROM outbox_mark WHERE stream = ?1";
            let sealed =
                self.connection.prepare_cached(sql)?.query_row([LOSSES], |row| row.get::<_, i64>(0))?;
            let statistics = outbox::next_number(&self.connection, STATISTICS)?;
            let unsealed = sealed.unsigned_abs();
            rusqlite::Result::Ok(Ends { predictions, events, losses, unsealed, statistics })
        })();
        read.map_err(StoreError::sqlite("read how far the numbers go"))
    }

    /// Returns the numbers of a stream that losses explain.
    ///
    /// *Errors*: those of the database.
    pub fn gone(&self, stream: &str) -> Result<Ranges, StoreError> {
        outbox::gone(&self.connection, stream).map_err(StoreError::sqlite("read which numbers are gone"))
    }

    /// Hands on what stands at these numbers, in order and without a gap, until told to stop. Reads instances and clock
    /// steps again where there are new ones. Returns the row that cannot be read, if the walk ended at one.
    ///
    /// *Errors*: those of the database.
    pub fn predictions(
        &mut self,
        wanted: Range,
        each: &mut dyn FnMut(Found<'_>, &InstanceNames<'_>) -> ControlFlow<()>,
    ) -> Result<Option<i64>, StoreError> {
        self.refresh().map_err(StoreError::sqlite("read series and instances"))?;
        let reading = "read the log for the upload";
        let start = row_of_number(&self.connection, wanted.first()).map_err(StoreError::sqlite(reading))?;
        let names = InstanceNames(&self.instances);
        let mut walk = Walk { at: wanted.first(), last: wanted.last(), each, names: &names };
        let (mut next, mut thinned) = (start.unwrap_or(0), false);
        while walk.at <= walk.last {
            let row = batch::row_from(&self.connection, next).map_err(StoreError::sqlite(reading))?;
            let Some(row) = row else {
                let _ = walk.gap(walk.last + 1, thinned);
                return Ok(None);
            };
            let Ok(decoded) = row.decode() else { return Ok(Some(row.figures.seq)) };
            if walk.gap(decoded.figures.prediction_seq.unsigned_abs(), thinned).is_break() {
                return Ok(None);
            }
            thinned = decoded.figures.thinned == 1;
            for stored in decoded.steps.iter().flat_map(|step| &step.predictions) {
                if stored.sequence < walk.at {
                    continue;
                }
                let gap = walk.gap(stored.sequence, thinned);
                if gap.is_break() || stored.sequence > walk.last {
                    return Ok(None);
                }
                let f = &decoded.figures;
                let window_end_us = if stored.flags.contains(QualityFlags::ARRIVAL_TIME) {
                    self.clock.corrected(stored.window_end_us, f.boot, f.mono_us, f.clock_offset_us)
                } else {
                    stored.window_end_us
                };
                if (walk.each)(Found::Prediction { stored, window_end_us }, &names).is_break() {
                    return Ok(None);
                }
                walk.at = stored.sequence + 1;
            }
            next = row.figures.seq + 1;
        }
        Ok(None)
    }

    fn refresh(&mut self) -> rusqlite::Result<()> {
        let count: u32 = self
            .connection
            .prepare_cached("SELECT count(*) FROM instance")?
            .query_row([], |row| row.get(0))?;
        if count as usize != self.instances.len() {
            self.instances = identities(&self.connection, "instance")?.into_iter().collect();
        }
        let mut statement = self.connection.prepare_cached("SELECT boot, mono_us, offset_us FROM clock")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            self.clock.add(row.get(0)?, row.get(1)?, row.get(2)?);
        }
        Ok(())
    }

    /// Returns the events of a range that are there, in order, at most `limit`.
    ///
    /// *Errors*: those of the database.
    pub fn events(&self, wanted: Range, limit: usize) -> Result<Vec<(u64, EventEntry)>, StoreError> {
        let sql = "SELECT seq, at_us, kind, severity, object, words FROM outbox_event \
             WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT ?3";
        self.rows(sql, wanted, limit, |row| {
            let entry = EventEntry {
                at_us: row.get(1)?,
                kind: row.get(2)?,
                severity: row.get(3)?,
                object: row.get(4)?,
                words: row.get(5)?,
            };
            Ok((number(row, 0)?, entry))
        })
    }

    /// Returns the losses of a range that are there, in order, at most `limit`.
    ///
    /// *Errors*: those of the database.
    pub fn losses(&self, wanted: Range, limit: usize) -> Result<Vec<(u64, StoredLoss)>, StoreError> {
        let sql = "SELECT seq, kind, object, reason, count, first_us, last_us, at_us, stream, first, last \
             FROM outbox_loss WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT ?3";
        self.rows(sql, wanted, limit, |row| {
            let numbers = match row.get::<_, Option<String>>(8)? {
                Some(stream) => {
                    Range::new(number(row, 9)?, number(row, 10)?).ok().map(|range| (stream, range))
                }
                None => None,
            };
            let loss = StoredLoss {
                number: number(row, 0)?,
                kind: row.get(1)?,
                object: row.get(2)?,
                reason: row.get(3)?,
                count: number(row, 4)?,
                first_us: row.get(5)?,
                last_us: row.get(6)?,
                at_us: row.get(7)?,
                numbers,
            };
            Ok((loss.number, loss))
        })
    }

    /// Returns the windows of a range that are there, in order, at most `limit`, with what becomes of each; and the names of
    /// their instances.
    ///
    /// *Errors*: those of the database.
    pub fn windows(
        &mut self,
        wanted: Range,
        limit: usize,
    ) -> Result<(Vec<NumberedWindow>, InstanceNames<'_>), StoreError> {
        self.refresh().map_err(StoreError::sqlite("read series and instances"))?;
        let found = outbox_windows::windows(&self.connection, wanted, limit);
        let found = found.map_err(StoreError::sqlite("read the outbox"))?;
        Ok((found, InstanceNames(&self.instances)))
    }

    /// Returns the numbers of windows that wait for others of their day, and whether any day is whole.
    ///
    /// *Errors*: those of the database.
    pub fn waiting_for_days(&self) -> Result<(Ranges, bool), StoreError> {
        let found = outbox_windows::waiting_for_days(&self.connection)
            .and_then(|numbers| Ok((numbers, outbox_windows::is_any_day_whole(&self.connection)?)));
        found.map_err(StoreError::sqlite("read which windows wait"))
    }

    fn rows<T>(
        &self,
        sql: &str,
        wanted: Range,
        limit: usize,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let (first, last) = (wanted.first() as i64, wanted.last() as i64);
        let found = self.connection.prepare_cached(sql).and_then(|mut statement| {
            statement.query_map([first, last, limit as i64], read)?.collect::<rusqlite::Result<Vec<T>>>()
        });
        found.map_err(StoreError::sqlite("read the outbox"))
    }

    /// Returns when the prediction at a number was made, in microseconds since 1970 as far as the clock was known; none
    /// where it is not there.
    ///
    /// *Errors*: those of the database.
    pub fn made_at(&self, prediction: u64) -> Result<Option<i64>, StoreError> {
        let read = row_of_number(&self.connection, prediction).and_then(|seq| match seq {
            None => Ok(None),
            Some(seq) => self
                .connection
                .prepare_cached("SELECT mono_us + clock_offset_us FROM batch WHERE seq = ?1")?
                .query_row([seq], |row| row.get(0)),
        });
        read.map_err(StoreError::sqlite("read when a prediction was made"))
    }
}

/// The instances that predictions name.
#[derive(Debug)]
pub struct InstanceNames<'r>(&'r BTreeMap<u32, InstanceIdentity>);

impl InstanceNames<'_> {
    /// Returns an instance; none where its row was lost.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&InstanceIdentity> {
        self.0.get(&id)
    }
}

struct Walk<'w> {
    at: u64,
    last: u64,
    each: &'w mut dyn FnMut(Found<'_>, &InstanceNames<'_>) -> ControlFlow<()>,
    names: &'w InstanceNames<'w>,
}

impl Walk<'_> {
    /// Hands on the numbers before `next` that have no row.
    fn gap(&mut self, next: u64, thinned: bool) -> ControlFlow<()> {
        let end = next.min(self.last + 1);
        let Ok(range) = Range::counted(self.at, end.saturating_sub(self.at)) else {
            return ControlFlow::Continue(());
        };
        self.at = end;
        (self.each)(if thinned { Found::HeldBack(range) } else { Found::Missing(range) }, self.names)
    }
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}
