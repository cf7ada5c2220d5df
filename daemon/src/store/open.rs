//! Brings a state folder's telemetry log up and writes transactions to it.
//!
//! Opens, checks, recovers, commits. Never decides when to commit or what to drop: that is the writer's. A log that
//! cannot be read is set aside and salvaged; one that cannot be written is replaced by one in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dunlin_kit::clock;
use dunlin_pipeline::prediction::{AlertChange, InstanceId, InstanceIdentity};
use dunlin_pipeline::reading::{SeriesId, SeriesIdentity};
use dunlin_protocol::Range;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::batch::{self, BatchFigures, BatchRow, COLUMNS, DecodedBatch, Table};
use super::body::{StoredPrediction, StoredStep};
use super::ledger::PendingLosses;
use super::numbers::{self, NumberGuard};
use super::outbox::{self, EventEntry};
use super::outbox_windows::{self, WindowEntry};
use super::reserve::{Reserve, Space, quota_bytes};
use super::salvage::{self, SalvageReport};
use super::schema::{self, PAGE_BYTES, Schema};
use super::tables::{
    Position, checkpoint, delivered, enter_boot, identities, put_checkpoint, put_clock_step, put_identity,
    used_bytes,
};
use super::{FailureClass, FolderLock, LastStop, StoreError, TELEMETRY_FILE};
use crate::config::settings::StorageSettings;
use crate::flow::{AckToken, Loss, LossKind, Step};

/// Messages whose marks are kept to recognise them when they come again: all packet identifiers there are.
pub const DELIVERIES_KEPT: usize = 65_535;
/// A log up to this size is checked before start after an unclean stop (some 100 ms); a larger one beside it.
const CHECKED_AT_OPEN_BYTES_MAX: u64 = 16 << 20;
/// Size of a log in memory, on a file system that cannot be written.
const MEMORY_QUOTA_BYTES: u64 = 8 << 20;
const SUSPECT_FILE: &str = "telemetry.db.suspect";

/// A moment by all clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since 1970 by the wall clock.
    pub wall_us: i64,
    /// Microseconds since boot.
    pub mono_us: i64,
    /// The kernel's id of this boot.
    pub boot_id: String,
}

impl Moment {
    /// Reads the clocks.
    #[must_use]
    pub fn now() -> Self {
        Self { wall_us: clock::wall_micros(), mono_us: clock::monotonic_micros(), boot_id: clock::boot_id() }
    }
}

/// A message that was committed: recognises it when the broker delivers it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliveryMark {
    /// Number of the broker.
    pub broker: u16,
    /// Its packet identifier.
    pub packet_id: u16,
    /// CRC32C over topic and payload.
    pub content_crc: u32,
}

/// What a start finds in the log.
#[derive(Debug, Default)]
pub struct Recovery {
    /// All series, by id.
    pub series: Vec<(SeriesId, SeriesIdentity)>,
    /// All instances, by id.
    pub instances: Vec<(InstanceId, InstanceIdentity)>,
    /// The pipeline's state, if one was saved and is intact.
    pub checkpoint: Option<Vec<u8>>,
    /// Sequence number for the next prediction, from 1.
    pub next_prediction_sequence: u64,
    /// Last prediction whose publication was acknowledged; 0 for none.
    pub published_through: u64,
    /// The last committed messages, oldest first, at most [`DELIVERIES_KEPT`].
    pub delivered: Vec<DeliveryMark>,
    /// Whether the last stop was not clean.
    pub unclean: bool,
    /// What became of a damaged log, where there was one.
    pub salvaged: Option<SalvageReport>,
    /// Whether the log is in memory, since the file system cannot be written.
    pub memory_only: bool,
}

/// What a replay came across.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Batches that were handed on.
    pub batches: u64,
    /// Batches that could not be read and were quarantined.
    pub quarantined: u64,
}

/// Steps that wait for their transaction.
#[derive(Debug, Default)]
pub(crate) struct PendingBatch {
    pub(crate) steps: Vec<StoredStep>,
    pub(crate) acks: Vec<AckToken>,
    pub(crate) rows: usize,
    prediction_first: Option<u64>,
    prediction_next: Option<u64>,
    series: Vec<(SeriesId, SeriesIdentity)>,
    instances: Vec<(InstanceId, InstanceIdentity)>,
    checkpoint: Option<(usize, Vec<u8>)>,
    windows: Vec<WindowEntry>,
}

impl PendingBatch {
    /// Adds a step; its losses are the caller's.
    pub(crate) fn push(&mut self, step: Step) -> Vec<Loss> {
        let mut sequence = step.prediction_sequence;
        let predictions: Vec<StoredPrediction> = step
            .predictions
            .into_iter()
            .map(|p| {
                let stored = StoredPrediction {
                    sequence,
                    instance: p.head.instance,
                    window_end_us: p.head.window_end_us,
                    flags: p.head.flags,
                    label: p.label,
                    alert: p.alert,
                    outputs: p.outputs,
                };
                sequence += 1;
                stored
            })
            .collect();
        if !predictions.is_empty() {
            self.prediction_first.get_or_insert(step.prediction_sequence);
            self.prediction_next = Some(sequence);
        }
        self.rows += step.readings.len() + predictions.len();
        self.acks.extend(step.acks);
        self.series.extend(step.new_series);
        self.instances.extend(step.new_instances);
        self.windows.extend(step.windows);
        if let Some(state) = step.checkpoint {
            self.checkpoint = Some((self.steps.len(), state));
        }
        self.steps.push(StoredStep { readings: step.readings, predictions });
        step.losses
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns the last prediction in it.
    pub(crate) fn prediction_last(&self) -> Option<u64> {
        self.prediction_next.map(|next| next - 1)
    }
}

/// The telemetry log, open for writing.
#[derive(Debug)]
pub struct Store {
    pub(crate) connection: Connection,
    pub(crate) folder: PathBuf,
    pub(crate) settings: StorageSettings,
    pub(crate) reserve: Reserve,
    pub(crate) losses: PendingLosses,
    pub(crate) quota: u64,
    pub(crate) boot: i64,
    pub(crate) clock_offset_us: i64,
    pub(crate) next_seq: i64,
    pub(crate) prediction_next: u64,
    /// Steps up to this one are in the checkpoint: their readings may be dropped.
    pub(crate) checkpoint_seq: i64,
    pub(crate) memory_only: bool,
    pub(crate) check_beside: bool,
    clock_steps: Vec<(i64, i64)>,
    published_through: u64,
    bytes_since_checkpoint: u64,
    carried: Carried,
    pub(crate) guard: NumberGuard,
    /// Instances as events name them: model and key.
    names: BTreeMap<u32, (String, String)>,
}

/// What steps that could not be stored leave to the next transaction.
#[derive(Debug, Default)]
struct Carried {
    series: Vec<(SeriesId, SeriesIdentity)>,
    instances: Vec<(InstanceId, InstanceIdentity)>,
    checkpoint: Option<(i64, Vec<u8>)>,
    windows: Vec<WindowEntry>,
}

impl Store {
    /// Opens the log of a folder and returns what a start needs of it.
    ///
    /// A damaged log is set aside and salvaged; one that cannot be written is replaced by one in memory, with what
    /// could be read.
    ///
    /// *Errors*: a log from the future, or a file system on which nothing works.
    pub fn open(
        lock: &FolderLock,
        settings: &StorageSettings,
        moment: &Moment,
        last_stop: LastStop,
    ) -> Result<(Self, Recovery), StoreError> {
        let folder = lock.folder();
        let path = folder.join(TELEMETRY_FILE);
        let reserve = Reserve::of(folder);
        let length = fs::metadata(&path).map_or(0, |m| m.len());
        let suspect = folder.join(SUSPECT_FILE).exists();
        let unclean = last_stop == LastStop::Unclean;
        let checked = suspect || (unclean && length <= CHECKED_AT_OPEN_BYTES_MAX);
        let quota = quota_bytes(settings, folder);
        let mut opened = open_checked(&path, quota, checked);
        if opened.as_ref().is_err_and(|e| e.class() == FailureClass::Full) && reserve.release() {
            opened = open_checked(&path, quota, checked);
        }
        let mut salvaged = None;
        let mut memory_only = false;
        let connection = match opened {
            Ok(connection) => connection,
            Err(e) => match e.class() {
                FailureClass::Damaged => {
                    let (connection, report) = salvage::set_aside_and_salvage(folder, &path, quota, moment)?;
                    salvaged = Some(report);
                    connection
                }
                FailureClass::ReadOnly | FailureClass::Full => {
                    memory_only = true;
                    salvage::copy_to_memory(&path)?
                }
                FailureClass::Retry if Space::of(folder).read_only => {
                    memory_only = true;
                    salvage::copy_to_memory(&path)?
                }
                _ => return Err(e),
            },
        };
        let _ = fs::remove_file(folder.join(SUSPECT_FILE));
        let mut store = Self {
            connection,
            folder: folder.to_owned(),
            settings: settings.clone(),
            reserve,
            losses: PendingLosses::default(),
            quota: if memory_only { MEMORY_QUOTA_BYTES } else { quota },
            boot: 0,
            clock_offset_us: moment.wall_us - moment.mono_us,
            next_seq: 1,
            prediction_next: 1,
            checkpoint_seq: 0,
            memory_only,
            check_beside: unclean && !checked,
            clock_steps: Vec::new(),
            published_through: 0,
            bytes_since_checkpoint: 0,
            carried: Carried::default(),
            guard: NumberGuard::default(),
            names: BTreeMap::new(),
        };
        let mut recovery = store.recover(moment).map_err(StoreError::sqlite("read the log"))?;
        recovery.unclean = unclean;
        recovery.salvaged = salvaged;
        recovery.memory_only = memory_only;
        store.apply_quota();
        if !memory_only && let Err(e) = store.reserve.ensure() {
            tracing::warn!(error = %dunlin_kit::error_chain::Chain(&e), "no reserve for a full disk");
        }
        Ok((store, recovery))
    }

    fn recover(&mut self, moment: &Moment) -> rusqlite::Result<Recovery> {
        let mut found = Recovery {
            series: identities(&self.connection, "series")?
                .into_iter()
                .map(|(id, identity)| (SeriesId(id), identity))
                .collect(),
            instances: identities(&self.connection, "instance")?
                .into_iter()
                .map(|(id, identity)| (InstanceId(id), identity))
                .collect(),
            ..Recovery::default()
        };
        self.names = found.instances.iter().map(|(id, identity)| (id.0, event_names(identity))).collect();
        let position = Position::read(&self.connection)?;
        let checkpoint = checkpoint(&self.connection)?;
        self.checkpoint_seq = checkpoint.as_ref().map_or(0, |(seq, _)| *seq);
        self.next_seq = position.seq_last.max(self.checkpoint_seq) + 1;
        self.prediction_next = position.prediction_next.max(1);
        self.published_through = position.published_through.min(self.prediction_next - 1);
        found.checkpoint = checkpoint.map(|(_, state)| state);
        found.next_prediction_sequence = self.prediction_next;
        found.published_through = self.published_through;
        found.delivered = delivered(&self.connection)?;
        self.boot = enter_boot(&self.connection, moment).or_else(|e| match e.sqlite_error_code() {
            // Full: the boot is entered by the first transaction that finds room.
            Some(rusqlite::ErrorCode::DiskFull) => Ok(0),
            _ => Err(e),
        })?;
        self.clock_steps.push((moment.mono_us, self.clock_offset_us));
        Ok(found)
    }

    /// Hands on the steps after the checkpoint, in order; a batch that begins before it is cut to those after it.
    ///
    /// Batches that cannot be read are quarantined and counted.
    ///
    /// *Errors*: those of the database; the caller stops.
    pub fn replay_after_checkpoint(
        &mut self,
        each: &mut dyn FnMut(DecodedBatch),
    ) -> Result<Replay, StoreError> {
        let reading = "read the log after the checkpoint";
        let mut replay = Replay::default();
        let after = self.checkpoint_seq;
        let first = "SELECT max(seq) FROM batch WHERE seq <= ?1";
        let mut next: i64 = self
            .connection
            .query_row(first, [after + 1], |row| row.get::<_, Option<i64>>(0))
            .map_err(StoreError::sqlite(reading))?
            .unwrap_or(0);
        while let Some(row) = batch::row_from(&self.connection, next).map_err(StoreError::sqlite(reading))? {
            next = row.figures.seq + 1;
            match row.decode() {
                Ok(mut decoded) => {
                    if decoded.figures.seq_last <= after {
                        continue;
                    }
                    let known = (after + 1 - decoded.figures.seq).max(0) as usize;
                    decoded.steps.drain(..known.min(decoded.steps.len()));
                    replay.batches += 1;
                    each(decoded);
                }
                Err(_) => {
                    self.quarantine(row.figures.seq)?;
                    replay.quarantined += 1;
                }
            }
        }
        Ok(replay)
    }

    /// Moves a batch that cannot be read out of the log, and enters it in the ledger.
    ///
    /// *Errors*: those of the database; the batch is where it was.
    pub fn quarantine(&mut self, seq: i64) -> Result<(), StoreError> {
        let at_us = self.wall_us();
        let moved = (|| {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = format!("SELECT {COLUMNS} FROM batch WHERE seq = ?1");
            if let Some(row) = transaction.query_row(&sql, [seq], BatchRow::of).optional()? {
                Position::read(&transaction)?.write(&transaction)?;
                let numbers = numbers::around(&transaction, seq, self.prediction_next)?;
                row.insert(&transaction, Table::Quarantine)?;
                transaction.execute("DELETE FROM batch WHERE seq = ?1", [seq])?;
                transaction.execute(
                    "DELETE FROM quarantine WHERE seq NOT IN (SELECT seq FROM quarantine ORDER BY seq DESC LIMIT 64)",
                    [],
                )?;
                self.guard.record_damaged(&transaction, numbers, at_us)?;
            }
            transaction.commit()
        })();
        moved.map_err(StoreError::sqlite("quarantine a batch"))
    }

    /// Notes that the arrival clock moved; the next transaction stores it.
    pub(crate) fn step_clock(&mut self, mono_us: i64, offset_us: i64) {
        self.clock_offset_us = offset_us;
        self.clock_steps.push((mono_us, offset_us));
    }

    /// Returns wall time by the arrival clock.
    pub(crate) fn wall_us(&self) -> i64 {
        clock::monotonic_micros().saturating_add(self.clock_offset_us)
    }

    /// Writes the steps, what was carried over and the pending losses in one durable transaction.
    ///
    /// *Errors*: nothing of it is stored, and everything is kept for another try.
    pub(crate) fn commit(
        &mut self,
        pending: &PendingBatch,
        published_through: u64,
    ) -> Result<(), StoreError> {
        // What was published at once and is not on disk gets its number anew after a kill, perhaps for another
        // prediction: it must not count as published then.
        let prediction_next = pending.prediction_next.unwrap_or(0).max(self.prediction_next);
        let published_through = published_through.min(prediction_next - 1).max(self.published_through);
        let row = self.row_of(pending, published_through);
        let first_step = self.next_seq;
        let checkpoint = pending
            .checkpoint
            .as_ref()
            .map(|(step, state)| (first_step + *step as i64, state.as_slice()))
            .or_else(|| self.carried.checkpoint.as_ref().map(|(seq, state)| (*seq, state.as_slice())));
        let at_us = self.wall_us();
        let written = (|| {
            let transaction = self.connection.unchecked_transaction()?;
            for (boot_mono, offset) in &self.clock_steps {
                put_clock_step(&transaction, self.boot, *boot_mono, *offset)?;
            }
            for (id, identity) in self.carried.series.iter().chain(&pending.series) {
                put_identity(&transaction, "series", id.0, identity)?;
            }
            for (id, identity) in self.carried.instances.iter().chain(&pending.instances) {
                put_identity(&transaction, "instance", id.0, identity)?;
            }
            if let Some(row) = &row {
                row.insert(&transaction, Table::Batch)?;
            }
            if let Some((seq, state)) = checkpoint {
                put_checkpoint(&transaction, seq, state)?;
            }
            self.losses.record(&transaction, &self.guard.settled, at_us)?;
            for window in self.carried.windows.iter().chain(&pending.windows) {
                outbox_windows::add_window(&transaction, window, &self.guard.settled, at_us)?;
            }
            for alert in self.alerts_of(pending) {
                outbox::add_event(&transaction, &alert, &self.guard.settled)?;
            }
            transaction.commit()
        })();
        written.map_err(StoreError::sqlite("commit to the telemetry log"))?;
        if let Some((seq, _)) = checkpoint {
            self.checkpoint_seq = seq;
            self.bytes_since_checkpoint = 0;
        }
        let bytes = row.as_ref().map_or(0, |row| row.bytes() as u64);
        self.bytes_since_checkpoint = self.bytes_since_checkpoint.saturating_add(bytes);
        self.published_through = published_through;
        self.clock_steps.clear();
        self.losses.clear();
        self.carried = Carried::default();
        self.learn_names(pending);
        self.advance(pending);
        self.guard.keep_ahead(&self.connection, self.prediction_next);
        Ok(())
    }

    fn learn_names(&mut self, pending: &PendingBatch) {
        self.names.extend(pending.instances.iter().map(|(id, identity)| (id.0, event_names(identity))));
    }

    /// Returns the changes of alerts in these steps.
    fn alerts_of(&self, pending: &PendingBatch) -> Vec<EventEntry> {
        let raised = pending.steps.iter().flat_map(|step| &step.predictions).filter_map(|prediction| {
            let (kind, severity) = match prediction.alert? {
                AlertChange::Raised => ("alert_raised", 1),
                AlertChange::Cleared => ("alert_cleared", 0),
            };
            let new = pending.instances.iter().find(|(id, _)| *id == prediction.instance);
            let known = || self.names.get(&prediction.instance.0).cloned();
            let (object, words) =
                new.map(|(_, identity)| event_names(identity)).or_else(known).unwrap_or_default();
            Some(EventEntry {
                at_us: prediction.window_end_us,
                kind: kind.to_owned(),
                severity,
                object,
                words,
            })
        });
        raised.collect()
    }

    fn row_of(&self, pending: &PendingBatch, published_through: u64) -> Option<BatchRow> {
        if pending.rows == 0 && pending.acks.is_empty() {
            return None;
        }
        let figures = BatchFigures {
            seq: self.next_seq,
            seq_last: self.next_seq + pending.steps.len() as i64 - 1,
            boot: self.boot,
            mono_us: clock::monotonic_micros(),
            clock_offset_us: self.clock_offset_us,
            prediction_seq: pending.prediction_first.unwrap_or(self.prediction_next) as i64,
            published_through: published_through as i64,
            ..BatchFigures::default()
        };
        let mark = |ack: &AckToken| DeliveryMark {
            broker: ack.broker.0,
            packet_id: ack.packet_id,
            content_crc: ack.content_crc,
        };
        Some(BatchRow::encode(figures, &pending.acks.iter().map(mark).collect::<Vec<_>>(), &pending.steps))
    }

    fn advance(&mut self, pending: &PendingBatch) {
        self.next_seq += pending.steps.len() as i64;
        self.prediction_next =
            pending.prediction_next.unwrap_or(self.prediction_next).max(self.prediction_next);
    }

    /// Gives up steps that cannot be stored: they are entered as a loss, and what later steps build on is kept.
    pub(crate) fn give_up(&mut self, pending: &mut PendingBatch, reason: &str) {
        let mut figures = BatchFigures::default();
        figures.describe(&pending.steps);
        let loss = |kind, count: i64| Loss {
            kind,
            object: String::new(),
            first_us: figures.first_us,
            last_us: figures.last_us,
            count: count.unsigned_abs(),
            reason: reason.to_owned(),
        };
        self.losses.add(loss(LossKind::Readings, figures.readings));
        let predictions = loss(LossKind::Predictions, figures.predictions);
        match pending.prediction_first.map(|first| Range::counted(first, predictions.count)) {
            Some(Ok(numbers)) => self.losses.add_numbered(predictions, numbers),
            _ => self.losses.add(predictions),
        }
        self.learn_names(pending);
        self.carried.series.append(&mut pending.series);
        self.carried.instances.append(&mut pending.instances);
        self.carried.windows.append(&mut pending.windows);
        if let Some((step, state)) = pending.checkpoint.take() {
            self.carried.checkpoint = Some((self.next_seq + step as i64, state));
        }
        // A replay would miss these steps: only a newer checkpoint makes the log whole again.
        self.bytes_since_checkpoint = u64::MAX / 2;
        self.advance(pending);
    }

    /// Tells whether so much was written since the checkpoint that retention needs a newer one: an eighth of the
    /// quota.
    pub(crate) const fn wants_checkpoint(&self) -> bool {
        self.bytes_since_checkpoint > self.quota / 8
    }

    /// Looks at the file system again and sets the log's largest size.
    pub(crate) fn apply_quota(&mut self) {
        if !self.memory_only {
            self.quota = quota_bytes(&self.settings, &self.folder);
        }
        let pages = self.quota / PAGE_BYTES;
        let set = self.connection.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()));
        if let Err(e) = set {
            tracing::warn!(error = %e, "cannot set the log's largest size");
        }
    }

    /// Returns the bytes of pages in use.
    ///
    /// *Errors*: those of the database.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        used_bytes(&self.connection).map_err(StoreError::sqlite("measure the log"))
    }

    /// Copies the WAL into the log and cuts it; readers may prevent that for a while.
    pub(crate) fn truncate_wal(&self) -> Result<(), StoreError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(StoreError::sqlite("copy the WAL into the log"))
    }

    /// Notes that the log is damaged, so that the next start checks and salvages it.
    pub(crate) fn mark_suspect(folder: &Path) {
        if let Err(e) = dunlin_kit::atomic_file::write(&folder.join(SUSPECT_FILE), b"") {
            tracing::warn!(error = %e, "cannot note that the log is damaged");
        }
    }
}

/// Returns what an event says of an instance: its model, and its key for people.
fn event_names(identity: &InstanceIdentity) -> (String, String) {
    let key: Vec<String> = identity.key.iter().map(|(tag, value)| format!("{tag}={value}")).collect();
    (identity.model.clone(), key.join(", "))
}

pub(crate) fn damaged_batches(count: u64) -> Loss {
    let (object, reason) = (String::new(), "damaged".to_owned());
    Loss { kind: LossKind::Batches, object, first_us: 0, last_us: 0, count, reason }
}

fn open_checked(path: &Path, quota: u64, checked: bool) -> Result<Connection, StoreError> {
    let connection = schema::open_writer(path, Schema::Telemetry, schema::wal_pages(quota))?;
    if checked {
        schema::quick_check(&connection, "`telemetry.db`")?;
    }
    // Reads a row of each end, so that a damaged tree shows while it can still be set aside.
    Position::read(&connection).map_err(StoreError::sqlite("read the log"))?;
    batch::row_from(&connection, 0).map_err(StoreError::sqlite("read the log"))?;
    Ok(connection)
}
