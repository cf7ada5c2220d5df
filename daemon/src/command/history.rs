//! What `query` and `export` need of the store: rows in order, and batches that cannot be read.
//!
//! Plain rows and one trait; knows nothing of SQL. The store's reader is put behind it by `main`; rows are streamed, so
//! that a history of any length is exported in bounded memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_pipeline::prediction::{AlertChange, InstanceIdentity, PredictionId, QualityFlags};
use dunlin_pipeline::reading::{SeriesIdentity, TimedBy};

use crate::command::selection::Selection;
use crate::command::{Cause, CommandError, note};
use crate::status::client::StatusClient;

/// A stored prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionRow {
    /// The instance: model, version, key, outputs, labels.
    pub identity: Arc<InstanceIdentity>,
    /// Its id.
    pub id: PredictionId,
    /// Event time of the window's last row, in microseconds since 1970.
    pub window_end_us: i64,
    /// The quality flags.
    pub flags: QualityFlags,
    /// The outputs one after the other, flattened; empty when the prediction is not valid.
    pub outputs: Vec<f32>,
    /// The label.
    pub label: Option<String>,
    /// The change of the alert that it caused.
    pub alert: Option<AlertChange>,
}

/// A stored reading.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingRow {
    /// The series: source, tags, fields.
    pub series: Arc<SeriesIdentity>,
    /// Event time in microseconds since 1970.
    pub event_us: i64,
    /// Where that time came from.
    pub timed_by: TimedBy,
    /// One value a field; NaN where it was not measured.
    pub values: Vec<f64>,
}

/// Why rows could not be read.
#[derive(Debug)]
pub enum ReadFault {
    /// A batch is damaged; the rows of the others follow.
    DamagedBatch {
        /// Its sequence number.
        sequence: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing more can be read.
    Stopped(Cause),
}

/// Rows in the order they were stored.
pub type Rows<'h, R> = Box<dyn Iterator<Item = Result<R, ReadFault>> + 'h>;

/// The stored past. The selection is a hint by which a store may read less: rows outside it are left out by the caller.
pub trait History {
    /// Returns all instances that have predictions.
    fn instances(&self) -> Result<Vec<Arc<InstanceIdentity>>, Cause>;

    /// Returns all series that have readings.
    fn series(&self) -> Result<Vec<Arc<SeriesIdentity>>, Cause>;

    /// Returns predictions in order.
    fn predictions(&self, selection: &Selection) -> Result<Rows<'_, PredictionRow>, Cause>;

    /// Returns readings in order.
    fn readings(&self, selection: &Selection) -> Result<Rows<'_, ReadingRow>, Cause>;
}

/// Returns the failure of reading the store.
#[must_use]
pub fn unreadable(cause: Cause) -> CommandError {
    CommandError::failed("cannot read the stored history", cause)
}

/// Batches that turned out to be damaged, by sequence number.
#[derive(Debug, Default)]
pub struct Damage(BTreeMap<u64, String>);

impl Damage {
    /// Takes the rows that are wanted, at most `limit`, and keeps the damage on the way; returns how many were taken.
    ///
    /// *Errors*: reading stopped, or `take` failed.
    pub fn visit<R>(
        &mut self,
        rows: Rows<'_, R>,
        limit: Option<u64>,
        wanted: impl Fn(&R) -> bool,
        mut take: impl FnMut(R) -> Result<(), CommandError>,
    ) -> Result<u64, CommandError> {
        let mut taken = 0;
        for row in rows {
            if limit.is_some_and(|limit| taken >= limit) {
                break;
            }
            match row {
                Ok(row) if wanted(&row) => {
                    take(row)?;
                    taken += 1;
                }
                Ok(_) => {}
                Err(ReadFault::DamagedBatch { sequence, reason }) => {
                    self.0.insert(sequence, reason);
                }
                Err(ReadFault::Stopped(cause)) => return Err(unreadable(cause)),
            }
        }
        Ok(taken)
    }

    /// Tells people and the running daemon of the damage.
    ///
    /// *Errors*: there is some: the result is not complete.
    pub fn settle(&self, daemon: &StatusClient) -> Result<(), CommandError> {
        for (sequence, reason) in &self.0 {
            note(&format!("batch {sequence} is damaged ({reason}): its rows are left out"));
            if let Err(error) = daemon.quarantine(*sequence) {
                tracing::debug!(%error, sequence, "no daemon to tell of a damaged batch");
            }
        }
        match self.0.len() {
            0 => Ok(()),
            count => Err(CommandError::CheckFailed(format!(
                "{count} damaged batch(es) were left out; the rest is complete. Look at the storage: `dunlind check`"
            ))),
        }
    }
}
