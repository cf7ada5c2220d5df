//! What a gateway sends its fleet server: rows of its streams in batches, until each has a receipt.
//!
//! Fills messages and takes what the server says of them; never opens a connection. The link calls it: [`Uploads::fill`]
//! before a question, [`Uploads::take_answer`] after, [`Uploads::spend`] for whatever went over the network.
//!
//! Every number of a stream ends as received, held back by a policy, or in a row of losses with its reason. A receipt is on
//! disk before retention may count on it; what is sent twice the server drops by number.

pub mod budget;
pub(crate) mod columns;
pub mod results;
pub mod selection;
mod spending;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::exchange::{Ask, Receipt, Rejected, Share};
use dunlin_protocol::health::{Purpose, Spent, Waiting};
use dunlin_protocol::limits::{BATCHES_MAX, PURPOSES_MAX, ROWS_MAX, STREAMS_MAX};
use dunlin_protocol::report::Budget;
use dunlin_protocol::{Batch, List, Range, Ranges, Stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::store::outbox::{
    EVENTS, LOSSES, OutboxOrder, PREDICTIONS, Rows, STATISTICS, STREAMS, SettledNumbers, Unsendable,
};
use crate::store::outbox_reader::{Ends, OutboxReader};
use crate::store::outbox_windows::Grain;
use crate::store::uploads::{KeptPolicy, UploadStore};
use crate::store::{FolderLock, StoreError, WriterCommand, queue};
use budget::{Account, Step};
use columns::{Taken, bytes_of, take_events, take_losses, take_predictions};
use selection::{Sampling, in_order, waiting};
use spending::Spending;
use windows::take_windows;

/// Where orders for the present writer go; none between two generations of the daemon.
pub type WriterLine = watch::Receiver<Option<queue::Sender<WriterCommand>>>;

/// After so long without an answer the newest predictions alone are live, what was made meanwhile is backfill.
const OFFLINE_US: i64 = 120_000_000;
/// Predictions that are live after that: what a dashboard shows first.
const LIVE_ROWS: u64 = 64;
/// Smallest room that is worth a batch.
const ROOM_MIN: usize = 1_024;
/// Batches of predictions in a message, beside those of other streams.
const PREDICTION_BATCHES_MAX: usize = BATCHES_MAX - 8;

/// What the configuration says of the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadSettings {
    /// How much of the predictions may leave the gateway, whatever the server asks for.
    pub predictions: Sampling,
    /// Bytes of a month, both ways; none: unlimited.
    pub budget_bytes: Option<u64>,
}

/// The gateway's upload.
#[derive(Debug)]
pub struct Uploads {
    folder: PathBuf,
    state: UploadStore,
    reader: Option<OutboxReader>,
    writer: WriterLine,
    settings: UploadSettings,
    settled: SettledNumbers,
    asked: BTreeMap<String, KeptPolicy>,
    spending: Spending,
    horizon: u64,
    answered_us: Option<i64>,
    /// The server was heard again after a long silence, and nothing was sent since.
    is_back: bool,
    /// Compressed bytes of a plain one, as last measured.
    density: f64,
    reported: Option<Step>,
}

impl Uploads {
    /// Opens what is known of the upload. `settled` is shared with the writer.
    ///
    /// *Errors*: `state.db` cannot be used; there is nothing to upload with then.
    pub fn open(
        lock: &FolderLock,
        settings: UploadSettings,
        settled: SettledNumbers,
        writer: WriterLine,
    ) -> Result<Self, StoreError> {
        let state = UploadStore::open(lock)?;
        for (stream, line) in state.lines()? {
            settled.replace(stream, line.settled);
        }
        let asked = state.policies()?;
        let spending = Spending::open(&state, clock::wall_micros())?;
        Ok(Self {
            folder: lock.folder().to_owned(),
            state,
            reader: None,
            writer,
            settings,
            settled,
            asked,
            spending,
            horizon: 0,
            answered_us: None,
            is_back: false,
            density: 0.3,
            reported: None,
        })
    }

    /// Goes on with other settings.
    pub fn configure(&mut self, settings: UploadSettings) {
        self.settings = settings;
    }

    /// Returns rows for a message, at most so many bytes of plain JSON: what is alarming first, then live predictions, then
    /// older ones. The same rows again until they have a receipt.
    pub fn fill(&mut self, room_bytes: usize) -> List<Batch, BATCHES_MAX> {
        let filled = self.try_fill(room_bytes);
        if let Some(reader) = &self.reader {
            reader.end();
        }
        filled.unwrap_or_else(|error| {
            // The log may have been set aside since: it is opened anew.
            self.reader = None;
            tracing::warn!(error = %Chain(&error), "no rows can be read for the fleet server");
            List::new()
        })
    }

    fn try_fill(&mut self, room_bytes: usize) -> Result<List<Batch, BATCHES_MAX>, StoreError> {
        let account = self.account();
        let step = account.step();
        self.report(step);
        let mut batches = List::new();
        let mut room = self.room(room_bytes, &account);
        if !step.sends_events() || room < ROOM_MIN {
            return Ok(batches);
        }
        if self.reader.is_none() {
            self.reader = Some(OutboxReader::open(&self.folder)?);
        }
        let Some(reader) = &mut self.reader else { return Ok(batches) };
        reader.begin()?;
        let ends = reader.ends()?;
        if ends.losses > ends.unsealed {
            // Sealed for the next message: these may still grow.
            self.order(OutboxOrder::Seal);
        }
        self.fill_entries(EVENTS, ends.events, room / 2, &mut batches)?;
        self.fill_entries(LOSSES, ends.unsealed, room / 4, &mut batches)?;
        room = room.saturating_sub(batches.iter().map(bytes_of).sum());
        // Windows are few, and say more than the predictions that they count.
        let windows = self.fill_windows(ends.statistics, room / 2, step, &mut batches)?;
        room = room.saturating_sub(windows);
        self.fill_predictions(&ends, room, step, &mut batches)?;
        if self.settings.budget_bytes.is_some() {
            self.measure(&batches);
        }
        Ok(batches)
    }

    /// Returns the room of a message: the link's, and what the month grants.
    fn room(&self, room_bytes: usize, account: &Account) -> usize {
        let Some(granted) = account.rows_bytes_max() else { return room_bytes };
        let plain = granted as f64 / self.density.max(0.01);
        // Events and losses travel until only updates do: they are few.
        room_bytes.min((plain as usize).max(2 * ROOM_MIN))
    }

    fn fill_entries(
        &mut self,
        stream: &'static str,
        next: u64,
        room: usize,
        batches: &mut List<Batch, BATCHES_MAX>,
    ) -> Result<(), StoreError> {
        let Some(reader) = &self.reader else { return Ok(()) };
        let due = waiting(next, &self.settled.of(stream), &reader.gone(stream)?);
        let (mut room, mut taken_all) = (room, Vec::new());
        for range in due.iter().take(4) {
            if room < ROOM_MIN {
                break;
            }
            let taken = match stream {
                EVENTS => take_events(reader, range, room)?,
                _ => take_losses(reader, range, room)?,
            };
            room = room.saturating_sub(taken.batch.as_ref().map_or(0, bytes_of));
            taken_all.push(taken);
        }
        for taken in taken_all {
            self.account_for(stream, &taken);
            if let Some(batch) = taken.batch {
                let _ = batches.push(batch);
            }
        }
        Ok(())
    }

    /// Adds windows; returns how many bytes they take.
    fn fill_windows(
        &mut self,
        next: u64,
        mut room: usize,
        step: Step,
        batches: &mut List<Batch, BATCHES_MAX>,
    ) -> Result<usize, StoreError> {
        // What is reported while nothing may travel can still be merged later.
        let grain = step.windows().unwrap_or(Grain::Day);
        self.settled.set_grain(grain);
        let (Some(reader), Some(_)) = (&mut self.reader, step.windows()) else { return Ok(0) };
        let (kept, is_any_whole) = reader.waiting_for_days()?;
        let due = waiting(next, &self.settled.of(STATISTICS), &reader.gone(STATISTICS)?).subtract(&kept);
        let (begin, mut taken_all) = (room, Vec::new());
        for range in due.iter().take(4) {
            if room < ROOM_MIN {
                break;
            }
            let taken = take_windows(reader, range, asked_windows(&self.asked), room)?;
            room = room.saturating_sub(taken.batch.as_ref().map_or(0, bytes_of));
            taken_all.push(taken);
        }
        if is_any_whole || grain == Grain::AsReported && !kept.is_empty() {
            // For the next message.
            self.order(OutboxOrder::LetGo(grain));
        }
        for taken in taken_all {
            self.account_for(STATISTICS, &taken);
            if let Some(batch) = taken.batch {
                let _ = batches.push(batch);
            }
        }
        Ok(begin - room)
    }

    fn fill_predictions(
        &mut self,
        ends: &Ends,
        room: usize,
        step: Step,
        batches: &mut List<Batch, BATCHES_MAX>,
    ) -> Result<(), StoreError> {
        let Some(granted) = step.predictions() else { return Ok(()) };
        let sampling = self.sampling().stricter(granted);
        self.move_horizon(ends.predictions);
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let due = waiting(ends.predictions, &self.settled.of(PREDICTIONS), &reader.gone(PREDICTIONS)?);
        let (mut room, mut made, mut taken_all) = (room, 0, Vec::new());
        // A small rest is left: each batch names its instances anew.
        let worth = ROOM_MIN.max(room / 4);
        'ranges: for range in in_order(&due, self.horizon) {
            let mut rest = Some(range);
            while let Some(wanted) = rest.take() {
                if room < worth || made >= PREDICTION_BATCHES_MAX {
                    break 'ranges;
                }
                let taken = take_predictions(reader, wanted, sampling, room)?;
                let through = taken.through;
                if let Some(batch) = &taken.batch {
                    room = room.saturating_sub(bytes_of(batch));
                    made += 1;
                }
                let ended = taken.damaged.is_some();
                taken_all.push(taken);
                match through {
                    None => break 'ranges,
                    Some(_) if ended => break 'ranges,
                    Some(through) => rest = Range::new(through + 1, wanted.last()).ok(),
                }
            }
        }
        for taken in taken_all {
            self.account_for(PREDICTIONS, &taken);
            if let Some(batch) = taken.batch {
                let _ = batches.push(batch);
            }
        }
        Ok(())
    }

    /// Says that after a long silence the newest rows alone are live.
    fn move_horizon(&mut self, next: u64) {
        if std::mem::take(&mut self.is_back) || self.was_silent(clock::monotonic_micros()) {
            self.horizon = next.saturating_sub(1 + LIVE_ROWS);
        }
    }

    fn was_silent(&self, now_us: i64) -> bool {
        self.answered_us.is_none_or(|answered| now_us - answered > OFFLINE_US)
    }

    /// Has the writer enter what cannot be sent.
    fn account_for(&self, stream: &'static str, taken: &Taken) {
        if let Some(seq) = taken.damaged {
            self.command(WriterCommand::Quarantine(seq));
        }
        for (numbers, reason, rows) in
            [(&taken.missing, "missing", Rows::Unknown), (&taken.too_large, "too_large", Rows::Each)]
        {
            if !numbers.is_empty() {
                let (numbers, reason) = (numbers.clone(), reason.to_owned());
                self.order(OutboxOrder::Explain(Unsendable { stream, numbers, reason, rows }));
            }
        }
    }

    fn order(&self, order: OutboxOrder) {
        self.command(WriterCommand::Outbox(order));
    }

    /// Tells the writer; where its queue is full, the next message finds the same.
    fn command(&self, command: WriterCommand) {
        let writer = self.writer.borrow().clone();
        if writer.is_none_or(|writer| writer.try_send(command).is_err()) {
            tracing::debug!("the writer does not listen; what was found is found again");
        }
    }

    /// Takes what the server said of rows. Receipts are on disk when this returns; where that failed, rows are sent again.
    pub fn take_answer(&mut self, receipts: &[Receipt], rejected: &[Rejected], asks: &[Ask]) {
        let now = clock::monotonic_micros();
        // The first answer comes before the first rows: a server that was not heard is sent none.
        self.is_back |= self.was_silent(now);
        self.answered_us = Some(now);
        let mut changed: BTreeMap<&'static str, Ranges> = BTreeMap::new();
        for receipt in receipts {
            if let Some(stream) = known(&receipt.stream) {
                let settled = changed.entry(stream).or_insert_with(|| self.settled.of(stream));
                let made = self.made(stream, &receipt.ranges);
                *settled = settled.union(&made);
                if stream == LOSSES {
                    self.settle_explained(&made, &mut changed);
                }
            }
        }
        for ask in asks {
            match ask {
                Ask::Resend { stream, ranges } => {
                    if let Some(stream) = known(stream) {
                        let settled = changed.entry(stream).or_insert_with(|| self.settled.of(stream));
                        *settled = settled.subtract(ranges);
                    }
                }
                Ask::Policy { stream, share, every } => self.take_policy(stream, share, *every),
                _ => {}
            }
        }
        let rows: Vec<_> = changed.iter().map(|(stream, numbers)| (*stream, numbers)).collect();
        if !rows.is_empty() {
            match self.state.settle(&rows) {
                // Retention may count on it from here on, and not before.
                Ok(()) => {
                    changed.into_iter().for_each(|(stream, numbers)| self.settled.replace(stream, numbers))
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "receipts cannot be kept; rows are sent again")
                }
            }
        }
        for rejected in rejected {
            let Some(stream) = known(&rejected.stream) else { continue };
            tracing::warn!(%stream, code = %rejected.code, words = %rejected.words, "the fleet server rejects rows");
            let numbers = self.made(stream, &rejected.ranges);
            let reason = format!("rejected:{}", rejected.code);
            self.order(OutboxOrder::Explain(Unsendable { stream, numbers, reason, rows: Rows::Each }));
        }
    }

    /// Settles numbers that losses explain which the server has: should the log be lost, they are not explained again.
    fn settle_explained(&self, losses: &Ranges, changed: &mut BTreeMap<&'static str, Ranges>) {
        let Some(reader) = &self.reader else { return };
        let rows = losses.iter().filter_map(|range| reader.losses(range, ROWS_MAX).ok()).flatten();
        for (stream, numbers) in rows.filter_map(|(_, row)| row.numbers) {
            if let Some(stream) = STREAMS.into_iter().find(|known| *known == stream) {
                changed.entry(stream).or_insert_with(|| self.settled.of(stream)).insert(numbers);
            }
        }
    }

    /// Returns the numbers of these that were ever given: a server cannot settle what is not made yet.
    fn made(&self, stream: &str, ranges: &Ranges) -> Ranges {
        let ends = self.reader.as_ref().and_then(|reader| reader.ends().ok());
        let next = ends.map_or(1, |ends| ends.next_to_send(stream));
        let made: Ranges = Range::counted(1, next.saturating_sub(1)).ok().into_iter().collect();
        ranges.intersect(&made)
    }

    fn take_policy(&mut self, stream: &Stream, share: &Share, every: Option<u32>) {
        let policy = KeptPolicy { share: share.to_string(), every: every.unwrap_or(1).max(1) };
        let name = stream.to_string();
        if known(stream).is_none() || self.asked.get(&name) == Some(&policy) {
            return;
        }
        tracing::info!(
            stream = name,
            share = policy.share,
            every = policy.every,
            "the fleet server asks for rows"
        );
        if let Err(error) = self.state.put_policy(&name, &policy) {
            tracing::warn!(error = %Chain(&error), "what the server asks for is not kept");
        }
        self.asked.insert(name, policy);
    }

    /// Returns how much of the predictions travels by the wish of the owner and of the server.
    #[must_use]
    pub fn sampling(&self) -> Sampling {
        self.settings.predictions.stricter(asked_sampling(&self.asked))
    }

    /// Meters bytes that went over the network, heads and encryption included.
    pub fn spend(&mut self, purpose: &Purpose, sent_bytes: u64, received_bytes: u64) {
        let now = clock::wall_micros();
        if let Err(error) = self.spending.add(&self.state, purpose, (sent_bytes, received_bytes), now) {
            tracing::warn!(error = %Chain(&error), "spent bytes are not on disk yet");
        }
    }

    /// Returns the present month's account.
    pub fn account(&mut self) -> Account {
        self.spending.account(self.settings.budget_bytes, clock::wall_micros())
    }

    /// Returns the budget as it is reported.
    pub fn budget(&mut self) -> Budget {
        let bytes = self.spending.question_bytes();
        self.account().told(bytes)
    }

    /// Returns the shortest time to the next question that the data budget allows; zero without one.
    pub fn interval_min(&mut self) -> Duration {
        let bytes = self.spending.question_bytes();
        self.account().interval_min(bytes)
    }

    /// Tells whether packages may be fetched: they are what the data budget gives up last.
    pub fn fetches_packages(&mut self) -> bool {
        self.account().step().fetches_packages()
    }

    /// Returns what was spent in this month, for the report of health.
    #[must_use]
    pub fn spent(&self) -> List<Spent, PURPOSES_MAX> {
        self.spending.spent()
    }

    /// Returns the present month, as `2026-11`.
    #[must_use]
    pub fn month(&self) -> &str {
        self.spending.month()
    }

    /// Returns what waits for receipts, for the report of health; nothing where the log cannot be read.
    pub fn waiting(&mut self) -> List<Waiting, STREAMS_MAX> {
        let settled = self.settled.clone();
        if self.reader.is_none() {
            self.reader = OutboxReader::open(&self.folder).ok();
        }
        let found = self.reader.as_ref().and_then(|reader| waiting_of(reader, &settled).ok());
        List::first_of(found.unwrap_or_default())
    }

    /// Returns how the upload stands, for `dunlind status`.
    pub fn report_of(&mut self) -> UploadReport {
        let waiting = self.waiting();
        let spent = self.spent();
        UploadReport {
            waiting: waiting.iter().map(|waiting| (waiting.stream.to_string(), waiting.rows)).collect(),
            oldest_us: waiting.iter().find_map(|waiting| waiting.oldest_us),
            month: self.month().to_owned(),
            spent_bytes: spent
                .iter()
                .map(|spent| (spent.purpose.to_string(), spent.sent_bytes + spent.received_bytes))
                .collect(),
            budget_bytes: self.settings.budget_bytes,
            step: self.account().step().as_str().to_owned(),
        }
    }

    fn report(&mut self, step: Step) {
        let before = self.reported.replace(step);
        if before.unwrap_or_default() != step {
            tracing::warn!(
                step = step.as_str(),
                month = self.spending.month(),
                "what the data budget leaves out"
            );
        }
    }

    /// Measures how far rows are compressed, to keep to the budget before they are sent.
    fn measure(&mut self, batches: &List<Batch, BATCHES_MAX>) {
        let Ok(plain) = serde_json::to_vec(batches) else { return };
        if plain.len() < ROOM_MIN {
            return;
        }
        if let Ok(small) = zstd::bulk::compress(&plain, zstd::DEFAULT_COMPRESSION_LEVEL) {
            // Base64 of the envelope makes four bytes of three.
            self.density = small.len() as f64 / plain.len() as f64 * 4.0 / 3.0;
        }
    }
}

/// Returns how much of the predictions the server asked for.
fn asked_sampling(asked: &BTreeMap<String, KeptPolicy>) -> Sampling {
    asked.get(PREDICTIONS).map_or(Sampling::All, |policy| match policy.share.as_str() {
        "none" => Sampling::None,
        "sampled" if policy.every > 1 => Sampling::OneIn(policy.every),
        // What a later server may ask for is not known to be less than all.
        _ => Sampling::All,
    })
}

/// Returns how much of the windows the server asked for: all, or none. Part of them would say nothing.
fn asked_windows(asked: &BTreeMap<String, KeptPolicy>) -> Sampling {
    let none = asked.get(STATISTICS).is_some_and(|policy| policy.share == "none");
    if none { Sampling::None } else { Sampling::All }
}

/// Returns what waits for receipts, by stream.
///
/// *Errors*: those of the database.
pub fn waiting_of(reader: &OutboxReader, settled: &SettledNumbers) -> Result<Vec<Waiting>, StoreError> {
    let ends = reader.ends()?;
    let mut all = Vec::new();
    for stream in STREAMS {
        let next = match stream {
            PREDICTIONS => ends.predictions,
            EVENTS => ends.events,
            STATISTICS => ends.statistics,
            _ => ends.losses,
        };
        let due = waiting(next, &settled.of(stream), &reader.gone(stream)?);
        let oldest_us = match (stream, due.first()) {
            (PREDICTIONS, Some(first)) => reader.made_at(first)?,
            _ => None,
        };
        let stream = match stream {
            PREDICTIONS => Stream::Predictions,
            EVENTS => Stream::Events,
            STATISTICS => Stream::Statistics,
            _ => Stream::Losses,
        };
        all.push(Waiting { stream, rows: due.count(), next, oldest_us });
    }
    Ok(all)
}

/// The upload as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadReport {
    /// Rows that wait for a receipt, by stream.
    pub waiting: BTreeMap<String, u64>,
    /// When the oldest prediction that waits was made, in microseconds since 1970 by the gateway's clock.
    pub oldest_us: Option<i64>,
    /// The present month, as `2026-11`.
    pub month: String,
    /// Bytes sent and received in it, by purpose.
    pub spent_bytes: BTreeMap<String, u64>,
    /// Bytes that the month has; none: unlimited.
    pub budget_bytes: Option<u64>,
    /// What the data budget leaves out, see `Step::as_str`.
    pub step: String,
}

/// Returns the name of a stream that this gateway has.
pub(crate) const fn known(stream: &Stream) -> Option<&'static str> {
    match stream {
        Stream::Predictions => Some(PREDICTIONS),
        Stream::Events => Some(EVENTS),
        Stream::Losses => Some(LOSSES),
        Stream::Statistics => Some(STATISTICS),
        _ => None,
    }
}
