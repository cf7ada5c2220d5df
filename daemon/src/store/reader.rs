//! Reads the log beside the writer: queries, exports, the publisher's catch-up.
//!
//! Never writes and holds no lock between batches, so that the writer's WAL stays short. Every batch's checksum is
//! checked; one that is wrong is reported and skipped. Times of a clock that was set later are corrected.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use dunlin_kit::clock::is_plausible;
use dunlin_model_package::Digest;
use dunlin_pipeline::prediction::{InstanceIdentity, PredictionId, QualityFlags, instance_digest};
use dunlin_pipeline::reading::{Reading, SeriesIdentity, TimedBy};
use rusqlite::{Connection, OptionalExtension};

use super::batch::{self, BatchError, BatchFigures, DecodedBatch};
use super::body::StoredPrediction;
use super::clock_fix::ClockSteps;
use super::ledger::{self, LedgerEntry};
use super::tables::{identities, used_bytes};
use super::{StoreError, TELEMETRY_FILE, schema};

/// What of the log is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Model (of predictions) or source (of readings); all if `None`.
    pub name: Option<String>,
    /// Earliest event time, in microseconds since 1970.
    pub from_us: Option<i64>,
    /// First event time that is not wanted any more.
    pub to_us: Option<i64>,
}

/// A prediction with all that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionRecord<'r> {
    /// The instance.
    pub identity: &'r InstanceIdentity,
    /// Its id: of the time it was made with, corrected or not.
    pub id: PredictionId,
    /// Event time of the window's last row, corrected, in microseconds since 1970.
    pub window_end_us: i64,
    /// The text of its label.
    pub label: Option<&'r str>,
    /// As stored.
    pub stored: &'r StoredPrediction,
}

/// A reading with its series.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingRecord<'r> {
    /// The series.
    pub identity: &'r SeriesIdentity,
    /// Event time, corrected, in microseconds since 1970.
    pub event_us: i64,
    /// As stored.
    pub stored: &'r Reading,
}

/// What a pass over the log came across.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Batches that were read.
    pub batches: u64,
    /// Batches that could not be read: tell the writer, if there is one.
    pub damaged: Vec<BatchError>,
    /// Rows whose series or instance is not known any more.
    pub orphans: u64,
}

/// The log at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// Batches in the log.
    pub batches: u64,
    /// Readings in it.
    pub readings: u64,
    /// Predictions in it.
    pub predictions: u64,
    /// Batches that were set aside as damaged.
    pub quarantined: u64,
    /// Series and instances known.
    pub series: u64,
    /// Instances known.
    pub instances: u64,
    /// Bytes of pages in use.
    pub used_bytes: u64,
}

/// An hour of predictions that were replaced by their summary.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryRecord<'r> {
    /// The instance.
    pub identity: &'r InstanceIdentity,
    /// Begin of the hour, in microseconds since 1970.
    pub hour_us: i64,
    /// Position in the outputs.
    pub element: u32,
    /// Values in it.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Lowest value.
    pub low: f64,
    /// Highest value.
    pub high: f64,
}

/// A connection that reads.
#[derive(Debug)]
pub struct StoreReader {
    connection: Connection,
    series: BTreeMap<u32, SeriesIdentity>,
    instances: BTreeMap<u32, (InstanceIdentity, Digest)>,
    clock: ClockSteps,
}

impl StoreReader {
    /// Opens the log of a state folder.
    ///
    /// *Errors*: there is none, it is of the future, or cannot be read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let connection = schema::open_reader(&folder.join(TELEMETRY_FILE))?;
        let mut reader = Self {
            connection,
            series: BTreeMap::new(),
            instances: BTreeMap::new(),
            clock: ClockSteps::default(),
        };
        reader.refresh()?;
        Ok(reader)
    }

    /// Reads identities and clock steps again, where there are new ones.
    fn refresh(&mut self) -> Result<(), StoreError> {
        let refreshed = (|| {
            let counts = "SELECT (SELECT count(*) FROM series), (SELECT count(*) FROM instance)";
            let (series, instances): (u32, u32) =
                self.connection.query_row(counts, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if series as usize != self.series.len() {
                self.series = identities(&self.connection, "series")?.into_iter().collect();
            }
            if instances as usize != self.instances.len() {
                let found: Vec<(u32, InstanceIdentity)> = identities(&self.connection, "instance")?;
                self.instances = found
                    .into_iter()
                    .map(|(id, identity)| {
                        let digest = instance_digest(&identity);
                        (id, (identity, digest))
                    })
                    .collect();
            }
            let mut statement =
                self.connection.prepare_cached("SELECT boot, mono_us, offset_us FROM clock")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                self.clock.add(row.get(0)?, row.get(1)?, row.get(2)?);
            }
            rusqlite::Result::Ok(())
        })();
        refreshed.map_err(StoreError::sqlite("read series and instances"))
    }

    /// Returns all instances that have predictions, or had some.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceIdentity> {
        self.instances.values().map(|(identity, _)| identity)
    }

    /// Returns all series that have readings, or had some.
    pub fn series(&self) -> impl Iterator<Item = &SeriesIdentity> {
        self.series.values()
    }

    /// Hands on the selected predictions in the order they were made, until told to stop.
    ///
    /// *Errors*: those of the database; damaged batches are in the report.
    pub fn predictions(
        &mut self,
        selection: &Selection,
        each: &mut dyn FnMut(PredictionRecord<'_>) -> ControlFlow<()>,
    ) -> Result<ScanReport, StoreError> {
        self.refresh()?;
        self.predictions_from(0, selection, each)
    }

    fn predictions_from(
        &self,
        first: i64,
        selection: &Selection,
        each: &mut dyn FnMut(PredictionRecord<'_>) -> ControlFlow<()>,
    ) -> Result<ScanReport, StoreError> {
        let mut orphans = 0;
        let mut report = self.scan(first, selection, &mut |batch| {
            for stored in batch.steps.iter().flat_map(|step| &step.predictions) {
                let Some((identity, digest)) = self.instances.get(&stored.instance.0) else {
                    orphans += 1;
                    continue;
                };
                let window_end_us = if stored.flags.contains(QualityFlags::ARRIVAL_TIME) {
                    self.corrected(&batch.figures, stored.window_end_us)
                } else {
                    stored.window_end_us
                };
                if !selection.holds(&identity.model, window_end_us) {
                    continue;
                }
                let label =
                    stored.label.and_then(|l| identity.labels.get(usize::from(l))).map(String::as_str);
                let id = PredictionId::from_instance(digest, stored.window_end_us);
                each(PredictionRecord { identity, id, window_end_us, label, stored })?;
            }
            ControlFlow::Continue(())
        })?;
        report.orphans = orphans;
        Ok(report)
    }

    /// Hands on the selected readings in the order they were accepted, until told to stop.
    ///
    /// *Errors*: those of the database; damaged batches are in the report.
    pub fn readings(
        &mut self,
        selection: &Selection,
        each: &mut dyn FnMut(ReadingRecord<'_>) -> ControlFlow<()>,
    ) -> Result<ScanReport, StoreError> {
        self.refresh()?;
        let mut orphans = 0;
        let mut report = self.scan(0, selection, &mut |batch| {
            for stored in batch.steps.iter().flat_map(|step| &step.readings) {
                let Some(identity) = self.series.get(&stored.series.0) else {
                    orphans += 1;
                    continue;
                };
                let event_us = match stored.timed_by {
                    TimedBy::Arrival => self.corrected(&batch.figures, stored.event_us),
                    TimedBy::Payload => stored.event_us,
                };
                if selection.holds(&identity.source, event_us) {
                    each(ReadingRecord { identity, event_us, stored })?;
                }
            }
            ControlFlow::Continue(())
        })?;
        report.orphans = orphans;
        Ok(report)
    }

    /// Hands on up to `limit` predictions after the one with this sequence number, in order.
    ///
    /// *Errors*: those of the database; damaged batches are in the report.
    pub fn predictions_after(
        &mut self,
        sequence: u64,
        limit: usize,
        each: &mut dyn FnMut(PredictionRecord<'_>),
    ) -> Result<ScanReport, StoreError> {
        self.refresh()?;
        let first: Option<i64> = self
            .connection
            .prepare_cached("SELECT seq FROM batch WHERE prediction_seq <= ?1 ORDER BY seq DESC LIMIT 1")
            .and_then(|mut s| {
                s.query_row([i64::try_from(sequence).unwrap_or(i64::MAX)], |row| row.get(0)).optional()
            })
            .map_err(StoreError::sqlite("look for a prediction"))?;
        let mut left = limit;
        self.predictions_from(first.unwrap_or(0), &Selection::default(), &mut |record| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            if record.stored.sequence > sequence {
                left -= 1;
                each(record);
            }
            ControlFlow::Continue(())
        })
    }

    /// Hands on the hours that summaries stand for, in order.
    ///
    /// *Errors*: those of the database.
    pub fn summaries(&mut self, each: &mut dyn FnMut(SummaryRecord<'_>)) -> Result<(), StoreError> {
        self.refresh()?;
        let read = (|| {
            let mut statement = self.connection.prepare(
                "SELECT instance, hour_us, element, count, mean, low, high FROM summary ORDER BY hour_us, instance, element",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let Some((identity, _)) = self.instances.get(&row.get::<_, u32>(0)?) else { continue };
                each(SummaryRecord {
                    identity,
                    hour_us: row.get(1)?,
                    element: row.get(2)?,
                    count: row.get::<_, i64>(3)?.unsigned_abs(),
                    mean: row.get(4)?,
                    low: row.get(5)?,
                    high: row.get(6)?,
                });
            }
            rusqlite::Result::Ok(())
        })();
        read.map_err(StoreError::sqlite("read the summaries"))
    }

    /// Returns the loss ledger, oldest first.
    ///
    /// *Errors*: those of the database.
    pub fn losses(&self) -> Result<Vec<LedgerEntry>, StoreError> {
        ledger::entries(&self.connection).map_err(StoreError::sqlite("read the loss ledger"))
    }

    /// Returns what the log holds, by the figures of its rows.
    ///
    /// *Errors*: those of the database.
    pub fn overview(&self) -> Result<Overview, StoreError> {
        let sums = "SELECT count(*), total(readings), total(predictions), (SELECT count(*) FROM quarantine), \
             (SELECT count(*) FROM series), (SELECT count(*) FROM instance) FROM batch";
        let read = self.connection.query_row(sums, [], |row| {
            Ok(Overview {
                batches: row.get::<_, i64>(0)?.unsigned_abs(),
                readings: row.get::<_, f64>(1)? as u64,
                predictions: row.get::<_, f64>(2)? as u64,
                quarantined: row.get::<_, i64>(3)?.unsigned_abs(),
                series: row.get::<_, i64>(4)?.unsigned_abs(),
                instances: row.get::<_, i64>(5)?.unsigned_abs(),
                used_bytes: used_bytes(&self.connection)?,
            })
        });
        read.map_err(StoreError::sqlite("sum the log up"))
    }

    fn corrected(&self, figures: &BatchFigures, event_us: i64) -> i64 {
        self.clock.corrected(event_us, figures.boot, figures.mono_us, figures.clock_offset_us)
    }

    fn scan(
        &self,
        first: i64,
        selection: &Selection,
        each: &mut dyn FnMut(&DecodedBatch) -> ControlFlow<()>,
    ) -> Result<ScanReport, StoreError> {
        let mut report = ScanReport::default();
        let mut next = first;
        loop {
            let row = batch::row_from(&self.connection, next).map_err(StoreError::sqlite("read the log"))?;
            let Some(row) = row else { return Ok(report) };
            next = row.figures.seq.saturating_add(1);
            match row.decode() {
                Ok(batch) => {
                    report.batches += 1;
                    if selection.overlaps(&batch.figures) && each(&batch).is_break() {
                        return Ok(report);
                    }
                }
                Err(damage) => report.damaged.push(damage),
            }
        }
    }
}

impl Selection {
    fn holds(&self, name: &str, time_us: i64) -> bool {
        self.name.as_deref().is_none_or(|wanted| wanted == name)
            && self.from_us.is_none_or(|from| time_us >= from)
            && self.to_us.is_none_or(|to| time_us < to)
    }

    /// Tells whether a batch can hold a selected time; one that may be corrected always can.
    fn overlaps(&self, figures: &BatchFigures) -> bool {
        !is_plausible(figures.mono_us.saturating_add(figures.clock_offset_us))
            || (self.from_us.is_none_or(|from| figures.last_us >= from)
                && self.to_us.is_none_or(|to| figures.first_us < to))
    }
}
