//! The stored history for `query` and `export`, over the store's reader.
//!
//! Reads in a thread of its own through a bounded channel, so that a history of any length is a stream of rows.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use dunlin_pipeline::prediction::InstanceIdentity;
use dunlin_pipeline::reading::SeriesIdentity;

use super::history::{History, PredictionRow, ReadFault, ReadingRow, Rows};
use super::selection::Selection;
use super::{Cause, CommandError};
use crate::store::batch::BatchError;
use crate::store::reader::{self, ScanReport};
use crate::store::{StoreError, StoreReader, TELEMETRY_FILE};

/// Rows between the reading thread and the command.
const ROWS: usize = 4_096;

/// A state folder's history.
pub struct StoredHistory {
    folder: PathBuf,
}

/// Opens the history of a state folder.
///
/// *Errors*: there is none (exit code 3), or it cannot be read.
pub fn open(folder: &Path) -> Result<StoredHistory, CommandError> {
    if !folder.join(TELEMETRY_FILE).exists() {
        let text = format!("there is no history in `{}`; name the folder with --state-dir", folder.display());
        return Err(CommandError::NotFound(text));
    }
    StoreReader::open(folder)
        .map_err(|error| CommandError::failed("cannot read the stored history", error))?;
    Ok(StoredHistory { folder: folder.to_owned() })
}

impl History for StoredHistory {
    fn instances(&self) -> Result<Vec<Arc<InstanceIdentity>>, Cause> {
        Ok(StoreReader::open(&self.folder)?.instances().cloned().map(Arc::new).collect())
    }

    fn series(&self) -> Result<Vec<Arc<SeriesIdentity>>, Cause> {
        Ok(StoreReader::open(&self.folder)?.series().cloned().map(Arc::new).collect())
    }

    fn predictions(&self, selection: &Selection) -> Result<Rows<'_, PredictionRow>, Cause> {
        let chosen = chosen(selection, selection.model.clone());
        stream(&self.folder, move |reader, rows| {
            let mut shared = Shared::default();
            reader.predictions(&chosen, &mut |record| {
                pass(
                    rows,
                    PredictionRow {
                        identity: shared.of(record.identity),
                        id: record.id,
                        window_end_us: record.window_end_us,
                        flags: record.stored.flags,
                        outputs: record.stored.outputs.clone(),
                        label: record.label.map(str::to_owned),
                        alert: record.stored.alert,
                    },
                )
            })
        })
    }

    fn readings(&self, selection: &Selection) -> Result<Rows<'_, ReadingRow>, Cause> {
        let chosen = chosen(selection, selection.source.clone());
        stream(&self.folder, move |reader, rows| {
            let mut shared = Shared::default();
            reader.readings(&chosen, &mut |record| {
                pass(
                    rows,
                    ReadingRow {
                        series: shared.of(record.identity),
                        event_us: record.event_us,
                        timed_by: record.stored.timed_by,
                        values: record.stored.values.clone(),
                    },
                )
            })
        })
    }
}

fn chosen(selection: &Selection, name: Option<String>) -> reader::Selection {
    reader::Selection { name, from_us: selection.since_us, to_us: selection.until_us }
}

/// One shared copy of each identity, found by where the reader keeps it.
struct Shared<T>(Vec<(*const T, Arc<T>)>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Shared<T> {
    fn of(&mut self, identity: &T) -> Arc<T> {
        let address: *const T = identity;
        // The reader does not move its identities during a scan, so an address names one.
        match self.0.binary_search_by_key(&address, |(known, _)| *known) {
            Ok(position) => Arc::clone(&self.0[position].1),
            Err(position) => {
                self.0.insert(position, (address, Arc::new(identity.clone())));
                Arc::clone(&self.0[position].1)
            }
        }
    }
}

type RowSender<R> = SyncSender<Result<R, ReadFault>>;

fn pass<R>(rows: &RowSender<R>, row: R) -> ControlFlow<()> {
    // The command has all it wanted once its end is gone.
    if rows.send(Ok(row)).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

fn stream<R: Send + 'static>(
    folder: &Path,
    scan: impl FnOnce(&mut StoreReader, &RowSender<R>) -> Result<ScanReport, StoreError> + Send + 'static,
) -> Result<Rows<'static, R>, Cause> {
    let mut reader = StoreReader::open(folder)?;
    let (rows, received): (RowSender<R>, Receiver<_>) = sync_channel(ROWS);
    std::thread::Builder::new().name("history".to_owned()).spawn(move || {
        let outcome = scan(&mut reader, &rows);
        let faults = match outcome {
            Ok(report) => report.damaged.iter().map(damaged).collect(),
            Err(error) => vec![ReadFault::Stopped(error.into())],
        };
        for fault in faults {
            if rows.send(Err(fault)).is_err() {
                break;
            }
        }
    })?;
    Ok(Box::new(received.into_iter()))
}

fn damaged(error: &BatchError) -> ReadFault {
    ReadFault::DamagedBatch { sequence: error.seq().unsigned_abs(), reason: error.to_string() }
}
