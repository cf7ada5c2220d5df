//! Puts rows into columns: batches of predictions, events and losses that fit a message. Those of windows are made by
//! `windows`.
//!
//! Reads the outbox and builds; never decides which numbers are due, and never forgets one: what it cannot put into a batch
//! it says. Sizes are of plain JSON, as the protocol limits them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use dunlin_pipeline::prediction::InstanceIdentity;
use dunlin_protocol::batch::{
    Batch, BatchError, EventRow, Events, Instance, LossRow, Losses, PredictionRow, Predictions, Severity,
    quality,
};
use dunlin_protocol::limits::{NUMBERS_MAX, REQUEST_BYTES_MAX, ROWS_MAX};
use dunlin_protocol::text::TagValue;
use dunlin_protocol::{List, Name, Range, Ranges};

use super::selection::Sampling;
use crate::store::StoreError;
use crate::store::body::StoredPrediction;
use crate::store::outbox_reader::{Found, OutboxReader};

/// JSON of a batch without rows: its head, and the names of nine columns.
pub(super) const BATCH_BYTES: usize = 256;
/// JSON of a prediction beside its outputs: position, difference of times, flags, label and offset with their commas.
const ROW_BYTES: usize = 36;
/// JSON of an output: a number of single precision in its shortest form, and a comma.
const VALUE_BYTES: usize = 14;
/// JSON of an event or loss beside its texts.
const ENTRY_BYTES: usize = 96;
/// A prediction that is longer fits no message: some 16 kB are left for all else.
const PREDICTION_BYTES_MAX: usize = REQUEST_BYTES_MAX - (16 << 10);
/// Numbers that are looked at for one batch: a second or two of an old board.
const SCANNED_MAX: u64 = 1 << 17;

/// What became of the numbers that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The batch, where there is anything to say.
    pub(crate) batch: Option<Batch>,
    /// Numbers without a row and without a reason.
    pub(crate) missing: Ranges,
    /// Numbers whose row fits no message.
    pub(crate) too_large: Ranges,
    /// The last number that was looked at; none where the first did not fit the room any more.
    pub(crate) through: Option<u64>,
    /// A row of the log that cannot be read: the walk ended there.
    pub(crate) damaged: Option<i64>,
}

/// Takes predictions from the beginning of a range, as many as fit.
///
/// *Errors*: those of the database.
pub(crate) fn take_predictions(
    reader: &mut OutboxReader,
    wanted: Range,
    sampling: Sampling,
    room: usize,
) -> Result<Taken, StoreError> {
    let last = wanted.last().min(wanted.first() + NUMBERS_MAX - 1);
    let wanted = Range::new(wanted.first(), last).unwrap_or(wanted);
    if sampling == Sampling::None {
        let batch = Batch::with_held_back(wanted, &[], &Predictions::default()).ok();
        return Ok(Taken { batch, through: Some(wanted.last()), ..Taken::default() });
    }
    let mut room_left = room;
    loop {
        let mut rows = PredictionRows { wanted, sampling, room: room_left, ..PredictionRows::begin(wanted) };
        let damaged =
            reader.predictions(wanted, &mut |found, names| rows.take(&found, &|id| names.get(id)))?;
        let mut taken = rows.finish();
        taken.damaged = damaged;
        let bytes = taken.batch.as_ref().map_or(0, bytes_of);
        if bytes <= room || room_left < BATCH_BYTES {
            return Ok(taken);
        }
        room_left /= 2;
    }
}

/// Returns the length of a batch as plain JSON.
pub(crate) fn bytes_of(batch: &Batch) -> usize {
    serde_json::to_vec(batch).map_or(usize::MAX, |text| text.len())
}

/// Predictions on their way into columns.
struct PredictionRows {
    wanted: Range,
    sampling: Sampling,
    room: usize,
    bytes: usize,
    columns: Predictions,
    numbers: Vec<u64>,
    positions: BTreeMap<u32, u32>,
    /// The last number that the batch answers for.
    covered: Option<u64>,
    /// Whether any number has no row.
    holds_back: bool,
    taken: Taken,
}

impl PredictionRows {
    fn begin(wanted: Range) -> Self {
        Self {
            wanted,
            sampling: Sampling::All,
            room: 0,
            bytes: BATCH_BYTES,
            columns: Predictions::default(),
            numbers: Vec::new(),
            positions: BTreeMap::new(),
            covered: None,
            holds_back: false,
            taken: Taken::default(),
        }
    }

    fn take<'r>(
        &mut self,
        found: &Found<'_>,
        instance_of: &dyn Fn(u32) -> Option<&'r InstanceIdentity>,
    ) -> ControlFlow<()> {
        match found {
            Found::Missing(range) => {
                self.taken.missing.insert(*range);
                self.taken.through = Some(range.last());
                // A batch answers for numbers without a gap: it ends here, or begins after.
                if self.covered.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            Found::HeldBack(range) => {
                self.hold_back(range.last());
                ControlFlow::Continue(())
            }
            Found::Prediction { stored, window_end_us } => {
                if !self.sampling.keeps(stored.sequence, stored.alert.is_some()) {
                    self.hold_back(stored.sequence);
                    let scanned = stored.sequence - self.wanted.first();
                    return if scanned < SCANNED_MAX {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    };
                }
                let Some(identity) = instance_of(stored.instance.0) else {
                    return self.leave_out(stored.sequence, |taken| &mut taken.missing);
                };
                self.put(stored, *window_end_us, identity)
            }
        }
    }

    fn hold_back(&mut self, through: u64) {
        self.holds_back = true;
        self.covered = Some(through);
        self.taken.through = Some(through);
    }

    fn leave_out(&mut self, number: u64, to: fn(&mut Taken) -> &mut Ranges) -> ControlFlow<()> {
        if let Ok(range) = Range::counted(number, 1) {
            to(&mut self.taken).insert(range);
        }
        self.taken.through = Some(number);
        if self.covered.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn put(
        &mut self,
        stored: &StoredPrediction,
        window_end_us: i64,
        identity: &InstanceIdentity,
    ) -> ControlFlow<()> {
        let known = self.positions.get(&stored.instance.0).copied();
        let instance = if known.is_none() { Some(instance_of(identity)) } else { None };
        let named = instance.as_ref().map_or(0, |i| serde_json::to_vec(i).map_or(0, |text| text.len() + 1));
        let needed = ROW_BYTES + named + VALUE_BYTES * stored.outputs.len();
        if needed > PREDICTION_BYTES_MAX {
            return self.leave_out(stored.sequence, |taken| &mut taken.too_large);
        }
        if self.bytes + needed > self.room || self.numbers.len() >= ROWS_MAX {
            return ControlFlow::Break(());
        }
        let position = match (known, instance) {
            (Some(position), _) => position,
            (None, Some(instance)) => match self.columns.add_instance(instance) {
                Ok(position) => position,
                Err(_) => return ControlFlow::Break(()),
            },
            (None, None) => return ControlFlow::Break(()),
        };
        let mut flags = u32::from(stored.flags.0);
        let values: u64 = identity.outputs.iter().map(|(_, count)| u64::from(*count)).sum();
        let is_whole =
            stored.outputs.len() as u64 == values && stored.outputs.iter().all(|value| value.is_finite());
        if quality::is_valid(flags) && !is_whole {
            flags |= quality::INVALID_OUTPUT;
        }
        let outputs: &[f32] = if quality::is_valid(flags) { &stored.outputs } else { &[] };
        let label = stored.label.filter(|label| usize::from(*label) < identity.labels.len()).map(u32::from);
        if self
            .columns
            .push(&PredictionRow { instance: position, window_end_us, flags, label, outputs })
            .is_err()
        {
            return ControlFlow::Break(());
        }
        self.positions.insert(stored.instance.0, position);
        self.bytes += needed;
        self.numbers.push(stored.sequence);
        self.covered = Some(stored.sequence);
        self.taken.through = Some(stored.sequence);
        ControlFlow::Continue(())
    }

    fn finish(mut self) -> Taken {
        let Some(covered) = self.covered else { return self.taken };
        // What was left out before the first row is not the batch's to answer for.
        let left_out = self.taken.missing.union(&self.taken.too_large);
        let before = left_out.iter().take_while(|range| range.first() < covered).last();
        let first = before
            .filter(|range| range.last() < covered)
            .map_or(self.wanted.first(), |range| range.last() + 1);
        let Ok(range) = Range::new(first, covered) else { return self.taken };
        let made = if self.holds_back {
            Batch::with_held_back(range, &self.numbers, &self.columns)
        } else {
            Batch::of(range.first(), &self.columns)
        };
        match made {
            Ok(batch) => self.taken.batch = Some(batch),
            Err(error) => self.refuse(range, &error),
        }
        self.taken
    }

    /// Gives up numbers whose rows make no batch: they would be tried for ever.
    fn refuse(&mut self, range: Range, error: &BatchError) {
        tracing::warn!(%error, first = range.first(), last = range.last(), "predictions cannot be sent");
        self.taken.too_large.insert(range);
    }
}

/// Returns an instance as it travels; names that are too long are cut.
pub(super) fn instance_of(identity: &InstanceIdentity) -> Instance {
    let key = identity.key.iter().map(|(tag, value)| (Name::cut(tag), TagValue::cut(value)));
    Instance {
        model: Name::cut(&identity.model),
        version: Name::cut(&identity.version),
        package: identity.package,
        key: List::first_of(key),
        outputs: List::first_of(identity.outputs.iter().map(|(name, count)| (Name::cut(name), *count))),
        labels: List::first_of(identity.labels.iter().map(|label| Name::cut(label))),
    }
}

/// Takes events from the beginning of a range, as many as fit.
///
/// *Errors*: those of the database.
pub(crate) fn take_events(reader: &OutboxReader, wanted: Range, room: usize) -> Result<Taken, StoreError> {
    let mut columns = Events::default();
    let mut entries = Entries::begin(wanted, room);
    for (number, entry) in reader.events(wanted, ROWS_MAX)? {
        let texts = entry.kind.len() + entry.object.len() + entry.words.len();
        if !entries.comes(number, texts) {
            break;
        }
        let row = EventRow {
            at_us: entry.at_us,
            kind: &entry.kind,
            severity: Severity(entry.severity),
            object: &entry.object,
            words: &entry.words,
        };
        if columns.push(&row).is_err() {
            break;
        }
        entries.put(number, texts);
    }
    entries.finish(|first| Batch::of(first, &columns))
}

/// Takes losses from the beginning of a range, as many as fit.
///
/// *Errors*: those of the database.
pub(crate) fn take_losses(reader: &OutboxReader, wanted: Range, room: usize) -> Result<Taken, StoreError> {
    let mut columns = Losses::default();
    let mut entries = Entries::begin(wanted, room);
    for (number, loss) in reader.losses(wanted, ROWS_MAX)? {
        let texts = loss.kind.len() + loss.object.len() + loss.reason.len() + 32;
        if !entries.comes(number, texts) {
            break;
        }
        let row = LossRow {
            kind: &loss.kind,
            object: &loss.object,
            reason: &loss.reason,
            count: loss.count,
            from_us: loss.first_us,
            span_us: loss.last_us.saturating_sub(loss.first_us).max(0).unsigned_abs(),
            at_us: loss.at_us,
            numbers: loss.numbers.as_ref().map(|(stream, range)| (stream.as_str(), *range)),
        };
        if columns.push(&row).is_err() {
            break;
        }
        entries.put(number, texts);
    }
    entries.finish(|first| Batch::of(first, &columns))
}

/// Numbers of events or losses on their way into a batch.
struct Entries {
    wanted: Range,
    room: usize,
    bytes: usize,
    first: Option<u64>,
    taken: Taken,
}

impl Entries {
    fn begin(wanted: Range, room: usize) -> Self {
        Self { wanted, room, bytes: BATCH_BYTES, first: None, taken: Taken::default() }
    }

    /// Tells whether a row of this number belongs into the batch; numbers before it that have no row are missing.
    fn comes(&mut self, number: u64, texts: usize) -> bool {
        let expected = self.taken.through.map_or(self.wanted.first(), |through| through + 1);
        if number > expected {
            if self.first.is_some() {
                return false;
            }
            self.miss(expected, number - 1);
        }
        // Texts are escaped at most sixfold; usual ones not at all.
        self.bytes + ENTRY_BYTES + 2 * texts <= self.room
    }

    fn put(&mut self, number: u64, texts: usize) {
        self.first.get_or_insert(number);
        self.bytes += ENTRY_BYTES + 2 * texts;
        self.taken.through = Some(number);
    }

    fn miss(&mut self, first: u64, last: u64) {
        if let Ok(range) = Range::new(first, last) {
            self.taken.missing.insert(range);
            self.taken.through = Some(last);
        }
    }

    fn finish(mut self, make: impl FnOnce(u64) -> Result<Batch, BatchError>) -> Result<Taken, StoreError> {
        match self.first {
            Some(first) => match make(first) {
                Ok(batch) => self.taken.batch = Some(batch),
                Err(error) => {
                    let last = self.taken.through.unwrap_or(first);
                    tracing::warn!(%error, first, last, "rows cannot be sent");
                    if let Ok(range) = Range::new(first, last) {
                        self.taken.too_large.insert(range);
                    }
                }
            },
            // Nothing of the range is there, or nothing fits.
            None if self.bytes + ENTRY_BYTES <= self.room && self.taken.through.is_none() => {
                self.miss(self.wanted.first(), self.wanted.last());
            }
            None => {}
        }
        Ok(self.taken)
    }
}
