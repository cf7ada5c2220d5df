//! Rows that a simulated gateway makes and sends: predictions, events, losses, numbered without gaps.
//!
//! A row follows from its number, so that what is sent again is the same. Rows are forgotten when they have a receipt; what
//! there is no room for becomes a loss that names its numbers. Holds no rows, only their numbers.

use std::collections::BTreeMap;

use dunlin_protocol::batch::{
    EventRow, Events, Instance, LossRow, Losses, PredictionRow, Predictions, Severity,
};
use dunlin_protocol::exchange::{Ask, ExchangeAnswer, Share};
use dunlin_protocol::ranges::Range;
use dunlin_protocol::report::Release;
use dunlin_protocol::{Batch, BatchError, List, Name, Ranges, Stream};

/// Rows of a batch at most: a message of some 50 KiB.
const BATCH_ROWS: u64 = 1_000;
/// Predictions that wait at most; the oldest beyond are given up.
const WAITING_MAX: u64 = 20_000;
/// A time that all rows are counted from, in us: 2026-01-01.
const EPOCH_US: i64 = 1_767_225_600_000_000;

/// How much of the predictions is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Policy {
    #[default]
    All,
    None,
    Sampled(u64),
}

/// Numbers of a stream: the last that was given, and those that wait for a receipt.
#[derive(Debug, Clone, Default, PartialEq)]
struct Numbers {
    last: u64,
    waiting: Ranges,
}

impl Numbers {
    fn give(&mut self, count: u64) {
        if let Ok(range) = Range::counted(self.last + 1, count) {
            self.waiting.insert(range);
            self.last += count;
        }
    }

    /// Returns the next numbers to send: the oldest, as they are sent again until they have a receipt.
    fn next(&self) -> Option<Range> {
        let first = self.waiting.iter().next()?;
        Range::counted(first.first(), first.count().min(BATCH_ROWS)).ok()
    }
}

/// A loss of predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lost(Range);

/// The rows of a gateway.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    predictions: Numbers,
    events: Numbers,
    losses: Numbers,
    lost: BTreeMap<u64, Lost>,
    policy: Policy,
    /// Parts of a prediction that are not whole yet.
    owed: f64,
}

impl Outbox {
    /// Makes the predictions of some time at a rate; returns how many.
    pub fn predict(&mut self, seconds: f64, an_hour: f64) -> u64 {
        self.owed += seconds * an_hour / 3_600.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count that is not negative"
        )]
        let count = self.owed as u64;
        #[expect(clippy::cast_precision_loss, reason = "the predictions of one pause")]
        let whole = count as f64;
        self.owed -= whole;
        self.predictions.give(count);
        self.give_up();
        count
    }

    /// Makes an event.
    pub fn event(&mut self) {
        self.events.give(1);
    }

    /// Gives up the oldest predictions beyond the room.
    fn give_up(&mut self) {
        while self.predictions.waiting.count() > WAITING_MAX {
            let surplus = self.predictions.waiting.count() - WAITING_MAX;
            let Some(oldest) = self.predictions.waiting.iter().next() else { return };
            let Ok(range) = Range::counted(oldest.first(), oldest.count().min(surplus)) else { return };
            self.predictions.waiting.remove(range);
            self.losses.give(1);
            self.lost.insert(self.losses.last, Lost(range));
        }
    }

    /// Returns how many rows wait for a receipt.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        [&self.predictions, &self.events, &self.losses].iter().map(|numbers| numbers.waiting.count()).sum()
    }

    /// Returns batches of the oldest rows, one a stream; the predictions are of the release that runs.
    ///
    /// *Errors*: none but a defect.
    pub fn batches(&self, running: Option<&Release>) -> Result<Vec<Batch>, BatchError> {
        let mut batches = Vec::new();
        if let Some(range) = self.losses.next() {
            batches.push(self.losses_of(range)?);
        }
        if let Some(range) = self.events.next() {
            batches.push(events(range)?);
        }
        if let (Some(range), Some(release)) = (self.predictions.next(), running) {
            batches.extend(self.predictions_of(range, release)?);
        }
        Ok(batches)
    }

    /// Takes receipts, rejections and wishes.
    pub fn hear(&mut self, answer: &ExchangeAnswer) {
        let safe = answer.receipts.iter().map(|receipt| (&receipt.stream, &receipt.ranges));
        let never = answer.rejected.iter().map(|rejected| (&rejected.stream, &rejected.ranges));
        for (stream, ranges) in safe.chain(never) {
            let numbers = match stream {
                Stream::Predictions => &mut self.predictions,
                Stream::Events => &mut self.events,
                Stream::Losses => &mut self.losses,
                _ => continue,
            };
            numbers.waiting = numbers.waiting.subtract(ranges);
            if *stream == Stream::Losses {
                self.lost.retain(|number, _| !ranges.contains(*number));
            }
        }
        for ask in answer.asks.iter() {
            if let Ask::Policy { stream: Stream::Predictions, share, every } = ask {
                self.policy = match share {
                    Share::None => Policy::None,
                    Share::Sampled => Policy::Sampled(u64::from(every.unwrap_or(1)).max(1)),
                    _ => Policy::All,
                };
            }
        }
    }

    fn predictions_of(&self, range: Range, release: &Release) -> Result<Option<Batch>, BatchError> {
        let every = match self.policy {
            Policy::None => return Ok(None),
            Policy::All => 1,
            Policy::Sampled(every) => every,
        };
        let numbers: Vec<u64> =
            (range.first()..=range.last()).filter(|number| number.is_multiple_of(every)).collect();
        let mut columns = Predictions::default();
        let full = |_| BatchError::Numbers;
        let instance = columns.add_instance(Instance {
            model: release.model.clone(),
            version: release.version.clone(),
            package: release.digest,
            key: List::new(),
            outputs: List::first_of([(Name::cut("score"), 1)]),
            labels: List::new(),
        });
        let instance = instance.map_err(full)?;
        for number in &numbers {
            #[expect(clippy::cast_precision_loss, reason = "a made-up value of a thousand")]
            let score = (number.wrapping_mul(7_919) % 1_000) as f32 / 1_000.0;
            let window_end_us = EPOCH_US + i64::try_from(*number).unwrap_or(0) * 1_000_000;
            let row = PredictionRow { instance, window_end_us, flags: 0, label: None, outputs: &[score] };
            columns.push(&row).map_err(full)?;
        }
        if every == 1 {
            return Batch::of(range.first(), &columns).map(Some);
        }
        Batch::with_held_back(range, &numbers, &columns).map(Some)
    }

    fn losses_of(&self, range: Range) -> Result<Batch, BatchError> {
        let mut columns = Losses::default();
        for number in range.first()..=range.last() {
            let Some(Lost(numbers)) = self.lost.get(&number) else { continue };
            let row = LossRow {
                kind: "predictions",
                object: "",
                reason: "quota",
                count: numbers.count(),
                from_us: 0,
                span_us: 0,
                at_us: EPOCH_US + i64::try_from(number).unwrap_or(0),
                numbers: Some(("predictions", *numbers)),
            };
            columns.push(&row).map_err(|_| BatchError::Numbers)?;
        }
        Batch::of(range.first(), &columns)
    }
}

fn events(range: Range) -> Result<Batch, BatchError> {
    let mut columns = Events::default();
    for number in range.first()..=range.last() {
        let row = EventRow {
            at_us: EPOCH_US + i64::try_from(number).unwrap_or(0),
            kind: "release_moved",
            severity: Severity::INFO,
            object: "",
            words: "a release moved",
        };
        columns.push(&row).map_err(|_| BatchError::Numbers)?;
    }
    Batch::of(range.first(), &columns)
}

#[cfg(test)]
mod tests {
    use dunlin_protocol::Digest;

    use super::*;

    fn release() -> Release {
        Release { digest: Digest::of(b"r"), model: Name::cut("frost"), version: Name::cut("1"), counter: 1 }
    }

    #[test]
    fn what_there_is_no_room_for_is_a_loss_that_names_its_numbers_and_the_rest_is_sent_in_order() {
        let mut outbox = Outbox::default();
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        outbox.predict(1.0, (WAITING_MAX + 10) as f64 * 3_600.0);
        let batches = outbox.batches(Some(&release())).unwrap();
        let losses: Losses = batches[0].read().unwrap();
        assert_eq!(losses.iter().next().unwrap().numbers, Some(("predictions", Range::new(1, 10).unwrap())));
        assert_eq!((batches[1].range().first(), batches[1].rows()), (11, BATCH_ROWS));
        assert_eq!(outbox.waiting(), WAITING_MAX + 1);
    }

    #[test]
    fn a_sampled_batch_answers_for_all_numbers() {
        let mut outbox = Outbox { policy: Policy::Sampled(10), ..Outbox::default() };
        outbox.predict(100.0, 3_600.0);
        let batches = outbox.batches(Some(&release())).unwrap();
        assert_eq!((batches[0].range().count(), batches[0].rows()), (100, 10));
        outbox.policy = Policy::None;
        assert!(outbox.batches(Some(&release())).unwrap().is_empty());
    }
}
