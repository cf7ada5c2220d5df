//! The whole state of a core as bytes, and back.
//!
//! A snapshot names each instance with its model's fingerprint: what no longer fits the configuration is left out.
//! Never reads readings again: the caller feeds those that came after the snapshot.

use std::fmt;

use dunlin_model_package::Digest;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::instance::Instance;
use crate::prediction::InstanceId;
use crate::reading::SeriesId;
use crate::series::SeriesOrder;

/// First byte of a snapshot: the version of its format.
const FORMAT: u8 = 1;

/// What is written borrows: the state may be large, and is not to be in memory twice.
#[derive(Serialize)]
struct Written<'c> {
    series: Vec<(SeriesId, &'c SeriesOrder)>,
    instances: Vec<(InstanceId, [u8; 32], &'c Instance)>,
}

#[derive(Deserialize)]
struct Snapshot {
    series: Vec<(SeriesId, SeriesOrder)>,
    instances: Vec<(InstanceId, [u8; 32], Instance)>,
}

/// A snapshot that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotError {
    /// It was written by a newer program.
    TooNew(u8),
    /// Its bytes are no snapshot.
    Corrupt,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooNew(format) => {
                write!(f, "the saved windows have format {format}, this build reads {FORMAT}")
            }
            Self::Corrupt => f.write_str("the saved windows are corrupt"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl Core {
    /// Returns the state of all series and instances. To be taken when no window waits for its outputs, and stored
    /// with the instances of [`Core::announce`].
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut series: Vec<_> = self.series.iter().map(|(id, series)| (id, &series.order)).collect();
        series.sort_by_key(|(id, _)| *id);
        let mut instances: Vec<_> = self
            .instances
            .iter()
            .map(|(id, running)| (*id, *self.models[running.model].fingerprint.as_bytes(), &running.state))
            .collect();
        instances.sort_by_key(|(id, _, _)| *id);
        postcard::to_extend(&Written { series, instances }, vec![FORMAT])
            .expect("a snapshot has only sized and counted parts")
    }

    /// Takes the state from a snapshot, for the series and instances that were registered and whose model is still
    /// the same.
    ///
    /// *Errors*: the bytes are no snapshot this build reads; the core is as before.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let (format, body) = bytes.split_first().ok_or(SnapshotError::Corrupt)?;
        if *format != FORMAT {
            return Err(SnapshotError::TooNew(*format));
        }
        let snapshot: Snapshot = postcard::from_bytes(body).map_err(|_| SnapshotError::Corrupt)?;
        for (id, order) in snapshot.series {
            if let Some(series) = self.series.running_mut(id) {
                series.order = order;
            }
        }
        for (id, fingerprint, state) in snapshot.instances {
            if let Some(running) = self.instances.get_mut(&id)
                && self.models[running.model].fingerprint == Digest::from_bytes(fingerprint)
            {
                running.state = state;
            }
        }
        Ok(())
    }
}
