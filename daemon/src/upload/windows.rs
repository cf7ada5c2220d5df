//! Puts windows of statistics into columns.
//!
//! Reads the outbox and builds; never decides which numbers are due. A number that is part of another row is held back; where
//! the server wants no windows, all are.

use std::collections::BTreeMap;

use dunlin_protocol::batch::{Batch, StatisticRow, Statistics};
use dunlin_protocol::limits::{ROWS_MAX, WINDOW_BYTES_MAX};
use dunlin_protocol::{Range, Ranges};

use super::columns::{BATCH_BYTES, Taken, instance_of};
use super::selection::Sampling;
use crate::store::StoreError;
use crate::store::outbox_reader::OutboxReader;
use crate::store::outbox_windows::{Standing, WindowEntry};

/// JSON of a window beside its summaries: positions, differences of times, length, revision, count and quotes.
const ROW_BYTES: usize = 64;
/// JSON of a profile's digest.
const PROFILE_BYTES: usize = 67;

/// Takes windows from the beginning of a range, as many as fit.
///
/// *Errors*: those of the database.
pub(super) fn take_windows(
    reader: &mut OutboxReader,
    wanted: Range,
    sampling: Sampling,
    room: usize,
) -> Result<Taken, StoreError> {
    if sampling == Sampling::None {
        let batch = Batch::with_held_back(wanted, &[], &Statistics::default()).ok();
        return Ok(Taken { batch, through: Some(wanted.last()), ..Taken::default() });
    }
    let mut rows = WindowRows { bytes: BATCH_BYTES, room, ..WindowRows::default() };
    let (found, names) = reader.windows(wanted, ROWS_MAX)?;
    let mut next = wanted.first();
    for (number, standing, window) in &found {
        if *number > next && !rows.miss(next, *number - 1) {
            break;
        }
        next = number + 1;
        let is_taken = match (standing, names.get(window.instance)) {
            (Standing::Waits, _) => false,
            (Standing::Merged, _) => rows.hold_back(*number),
            (Standing::Sent, None) => rows.miss(*number, *number),
            (Standing::Sent, Some(_)) if window.summaries.len() > WINDOW_BYTES_MAX => rows.leave_out(*number),
            (Standing::Sent, Some(identity)) => rows.put(*number, window, || instance_of(identity)),
        };
        if !is_taken {
            return Ok(rows.finish());
        }
    }
    // Beyond the last row that is there, none is: unless there were too many to look at.
    if found.len() < ROWS_MAX && next <= wanted.last() {
        rows.miss(next, wanted.last());
    }
    Ok(rows.finish())
}

/// Windows on their way into columns.
#[derive(Default)]
struct WindowRows {
    room: usize,
    bytes: usize,
    columns: Statistics,
    numbers: Vec<u64>,
    positions: BTreeMap<u32, u32>,
    /// The numbers that the batch answers for, without a gap.
    covered: Option<(u64, u64)>,
    taken: Taken,
}

impl WindowRows {
    /// Notes numbers without a row. A batch answers for numbers without a gap: it ends there, or begins after.
    fn miss(&mut self, first: u64, last: u64) -> bool {
        self.skip(first, last, |taken| &mut taken.missing)
    }

    fn leave_out(&mut self, number: u64) -> bool {
        self.skip(number, number, |taken| &mut taken.too_large)
    }

    fn skip(&mut self, first: u64, last: u64, to: fn(&mut Taken) -> &mut Ranges) -> bool {
        if let Ok(range) = Range::new(first, last) {
            to(&mut self.taken).insert(range);
            self.taken.through = Some(last);
        }
        self.covered.is_none()
    }

    fn hold_back(&mut self, number: u64) -> bool {
        self.cover(number);
        true
    }

    fn cover(&mut self, number: u64) {
        let first = self.covered.map_or(number, |(first, _)| first);
        self.covered = Some((first, number));
        self.taken.through = Some(number);
    }

    fn put(
        &mut self,
        number: u64,
        window: &WindowEntry,
        instance: impl FnOnce() -> dunlin_protocol::batch::Instance,
    ) -> bool {
        let known = self.positions.get(&window.instance).copied();
        let new = known.is_none().then(instance);
        let named = new.as_ref().map_or(0, |new| serde_json::to_vec(new).map_or(0, |text| text.len() + 1));
        let needed = ROW_BYTES + PROFILE_BYTES + named + window.summaries.len().div_ceil(3) * 4;
        if self.bytes + needed > self.room || self.numbers.len() >= ROWS_MAX {
            return false;
        }
        let position = match (known, new) {
            (Some(position), _) => Ok(position),
            (None, Some(new)) => self.columns.add_instance(new),
            (None, None) => return false,
        };
        let (Ok(instance), Ok(profile)) = (position, self.columns.profile(window.profile)) else {
            return false;
        };
        let row = StatisticRow {
            instance,
            profile,
            from_us: window.from_us,
            span_us: window.span_us,
            revision: window.revision,
            n: window.n,
            summaries: &window.summaries,
        };
        if self.columns.push(&row).is_err() {
            return false;
        }
        self.positions.insert(window.instance, instance);
        self.bytes += needed;
        self.numbers.push(number);
        self.cover(number);
        true
    }

    fn finish(mut self) -> Taken {
        let Some((first, last)) = self.covered else { return self.taken };
        let Ok(range) = Range::new(first, last) else { return self.taken };
        match Batch::with_held_back(range, &self.numbers, &self.columns) {
            Ok(batch) => self.taken.batch = Some(batch),
            Err(error) => {
                tracing::warn!(%error, first, last, "windows cannot be sent");
                self.taken.too_large.insert(range);
            }
        }
        self.taken
    }
}

#[cfg(test)]
mod tests;
