//! Rows for a file that people carry: what no receipt answers for, in the order of their numbers.
//!
//! Reads beside the daemon or without it, and writes nothing: what is read again has the same numbers. Leaves out what may
//! still grow, and stops a stream at a row that cannot be read; the daemon sets that one aside.

use std::collections::BTreeMap;
use std::path::Path;

use dunlin_kit::clock;
use dunlin_protocol::limits::BATCHES_MAX;
use dunlin_protocol::report::Budget;
use dunlin_protocol::{Batch, List, Range, Ranges};

use super::columns::{Taken, bytes_of, take_events, take_losses, take_predictions};
use super::selection::{Sampling, waiting};
use super::spending::Spending;
use super::windows::take_windows;
use super::{ROOM_MIN, UploadSettings, asked_sampling, asked_windows};
use crate::store::outbox::{EVENTS, LOSSES, STATISTICS, STREAMS};
use crate::store::outbox_reader::{Ends, OutboxReader};
use crate::store::{StoreError, UploadStore};

/// Rows that wait for a receipt, part by part.
#[derive(Debug)]
pub struct ResultsReader {
    reader: OutboxReader,
    ends: Ends,
    sampling: Sampling,
    windows: Sampling,
    budget: Budget,
    /// What needs no sending, or was handed out.
    done: BTreeMap<&'static str, Ranges>,
    /// Streams with a row that cannot be read.
    is_cut: Vec<&'static str>,
}

impl ResultsReader {
    /// Opens what a state folder holds; `configured` says what may leave the gateway.
    ///
    /// *Errors*: there is no log, or one of the files cannot be read.
    pub fn open(folder: &Path, configured: UploadSettings) -> Result<Self, StoreError> {
        let reader = OutboxReader::open(folder)?;
        let ends = reader.ends()?;
        let (mut done, mut sampling) = (BTreeMap::new(), configured.predictions);
        let mut windows = Sampling::All;
        let (mut spending, now_us) = (Spending::default(), clock::wall_micros());
        if let Some(state) = UploadStore::read(folder)? {
            done = state.lines()?.into_iter().map(|(stream, line)| (stream, line.settled)).collect();
            let asked = state.policies()?;
            sampling = sampling.stricter(asked_sampling(&asked));
            windows = asked_windows(&asked);
            spending = Spending::open(&state, now_us)?;
        }
        let budget = spending.account(configured.budget_bytes, now_us).told(spending.question_bytes());
        Ok(Self { reader, ends, sampling, windows, budget, done, is_cut: Vec::new() })
    }

    /// Returns how far the numbers of the file go.
    #[must_use]
    pub const fn ends(&self) -> Ends {
        self.ends
    }

    /// Returns the data budget and what it leaves out of what goes over the network.
    #[must_use]
    pub const fn budget(&self) -> Budget {
        self.budget
    }

    /// Returns the streams that end before a row which cannot be read.
    #[must_use]
    pub fn cut(&self) -> &[&'static str] {
        &self.is_cut
    }

    /// Returns the next rows, at most so many bytes of plain JSON; none at the end.
    ///
    /// *Errors*: those of the database.
    pub fn next_rows(&mut self, room_bytes: usize) -> Result<List<Batch, BATCHES_MAX>, StoreError> {
        let (mut batches, mut room) = (List::new(), room_bytes);
        for stream in STREAMS {
            while room >= ROOM_MIN && batches.len() < BATCHES_MAX && !self.is_cut.contains(&stream) {
                let Some(range) = self.due(stream)?.iter().next() else { break };
                let taken = self.take(stream, range, room)?;
                let handed = taken.batch.as_ref().map(Batch::range);
                let through = taken.through.max(handed.map(|range| range.last()));
                let Some(through) = through.filter(|through| *through >= range.first()) else {
                    if taken.damaged.is_some() || batches.is_empty() {
                        self.is_cut.push(stream);
                    }
                    break;
                };
                if let Ok(handed) = Range::new(range.first(), through) {
                    self.done.entry(stream).or_default().insert(handed);
                }
                if let Some(batch) = taken.batch {
                    room = room.saturating_sub(bytes_of(&batch));
                    let _ = batches.push(batch);
                }
            }
        }
        Ok(batches)
    }

    fn due(&self, stream: &'static str) -> Result<Ranges, StoreError> {
        let done = self.done.get(stream).cloned().unwrap_or_default();
        let due = waiting(self.ends.next_to_send(stream), &done, &self.reader.gone(stream)?);
        // Windows that may still be merged are left to the network.
        Ok(if stream == STATISTICS { due.subtract(&self.reader.waiting_for_days()?.0) } else { due })
    }

    fn take(&mut self, stream: &'static str, range: Range, room: usize) -> Result<Taken, StoreError> {
        match stream {
            EVENTS => take_events(&self.reader, range, room),
            LOSSES => take_losses(&self.reader, range, room),
            STATISTICS => take_windows(&mut self.reader, range, self.windows, room),
            _ => take_predictions(&mut self.reader, range, self.sampling, room),
        }
    }
}
