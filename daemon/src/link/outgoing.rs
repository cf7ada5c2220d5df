//! What a question carries beside health: rows of the upload, as many as fit and as the server can take.
//!
//! Decides when rows go along; which, is the upload's. Between two messages with rows stands a question without any: that is
//! the one which the server keeps open, so that news reach the gateway at once.

use std::collections::BTreeMap;
use std::time::Duration;

use dunlin_protocol::exchange::ExchangeAnswer;
use dunlin_protocol::health::{Purpose, Spent};
use dunlin_protocol::limits::REQUEST_BYTES_MAX;
use dunlin_protocol::report::Budget;
use dunlin_protocol::{ExchangeRequest, Message as _, RefusalCode, Stream};

use super::meter::Meter;
use crate::upload::{UploadSettings, Uploads};

/// Room that is left for the names of the question's members around the batches.
const MARGIN_BYTES: usize = 256;
/// Smallest room after refusals: a prediction or two.
const ROOM_BYTES_MIN: usize = 4 << 10;
/// A message this full leaves more behind, most likely.
const FULL_BYTES: usize = REQUEST_BYTES_MAX / 4;
/// With so much time between questions none is kept open: the budget does not grant as many.
const KEPT_OPEN_MAX: Duration = Duration::from_secs(60);

/// What goes along with questions.
#[derive(Debug)]
pub struct Outgoing {
    uploads: Uploads,
    /// Bytes of rows that the server is known to take, as plain JSON.
    room: usize,
    /// Bytes of rows in the present question, by purpose.
    rows: BTreeMap<&'static str, usize>,
    /// Whether the next question may carry rows.
    is_due: bool,
    /// What the meter said when it was read last, by purpose.
    seen: BTreeMap<String, (u64, u64)>,
    /// Bytes that were metered as questions and were rows.
    rows_sent: BTreeMap<&'static str, u64>,
}

impl Outgoing {
    /// Begins with a server of which nothing is known.
    #[must_use]
    pub const fn new(uploads: Uploads) -> Self {
        Self {
            uploads,
            room: REQUEST_BYTES_MAX,
            rows: BTreeMap::new(),
            is_due: true,
            seen: BTreeMap::new(),
            rows_sent: BTreeMap::new(),
        }
    }

    /// Goes on with other settings.
    pub fn configure(&mut self, settings: UploadSettings) {
        self.uploads.configure(settings);
    }

    /// Puts what waits and what was spent into a question, and rows where they are due: to a server that was heard, every
    /// second time, or each time where questions are rare.
    pub fn load(&mut self, question: &mut ExchangeRequest, is_heard: bool, is_metered: bool) {
        self.rows.clear();
        question.health.waiting = self.uploads.waiting();
        question.health.spent = self.uploads.spent();
        if !is_heard || !(self.is_due || is_metered || !self.keeps_open()) {
            return;
        }
        let Ok(plain) = question.to_plain() else { return };
        let room = REQUEST_BYTES_MAX.saturating_sub(plain.len() + MARGIN_BYTES).min(self.room);
        question.batches = self.uploads.fill(room);
        for batch in &question.batches {
            let purpose = if *batch.stream() == Stream::Predictions { "predictions" } else { "events" };
            let bytes = serde_json::to_vec(batch).map_or(0, |text| text.len());
            *self.rows.entry(purpose).or_default() += bytes;
        }
    }

    /// Tells whether a question may be kept open by the server: it brings no rows, and there may be one a minute.
    pub fn may_be_kept_open(&mut self) -> bool {
        self.rows.is_empty() && self.keeps_open()
    }

    fn keeps_open(&mut self) -> bool {
        self.uploads.interval_min() < KEPT_OPEN_MAX
    }

    /// Notes what a question was packed into, so that its bytes are those of its rows in proportion.
    pub fn packed(&mut self, plain_bytes: usize, packed_bytes: usize) {
        for (purpose, bytes) in &self.rows {
            let share = (*bytes as u64).saturating_mul(packed_bytes as u64) / plain_bytes.max(1) as u64;
            *self.rows_sent.entry(purpose).or_default() += share;
        }
    }

    /// Takes what an answer says of rows. Returns the wait that they ask for, if any: none at all where more wait, or where
    /// the next question is the one that is kept open.
    pub fn answered(&mut self, answer: &ExchangeAnswer, is_metered: bool) -> Option<Duration> {
        self.uploads.take_answer(&answer.receipts, &answer.rejected, &answer.asks);
        let bytes: usize = self.rows.values().sum();
        let is_full = bytes >= FULL_BYTES.min(self.room / 4);
        self.is_due = bytes == 0 || is_full;
        if bytes == 0 {
            return None;
        }
        self.room = self.room.saturating_mul(2).min(REQUEST_BYTES_MAX);
        (is_full || (!is_metered && self.keeps_open())).then_some(Duration::ZERO)
    }

    /// Takes a refusal that nobody signed: the next message has fewer rows. No row is given up for it.
    pub fn refused(&mut self, code: &RefusalCode) {
        match code {
            RefusalCode::TooLarge => self.room = (self.room / 2).max(ROOM_BYTES_MIN),
            // A defect: the next message goes without rows, the one after it with few.
            RefusalCode::Malformed if !self.rows.is_empty() => {
                self.room = ROOM_BYTES_MIN;
                self.is_due = false;
            }
            _ => {}
        }
    }

    /// Adds to the month what the meter has counted since it was read last.
    pub fn meter(&mut self, meter: &Meter) {
        for Spent { purpose, sent_bytes, received_bytes } in meter.spent() {
            let before = self.seen.insert(purpose.to_string(), (sent_bytes, received_bytes));
            let (sent, received) = before.unwrap_or_default();
            let (mut sent, received) =
                (sent_bytes.saturating_sub(sent), received_bytes.saturating_sub(received));
            if purpose == Purpose::Exchange {
                for (rows, bytes) in std::mem::take(&mut self.rows_sent) {
                    let of_rows = bytes.min(sent);
                    sent -= of_rows;
                    let rows = if rows == "predictions" { Purpose::Predictions } else { Purpose::Events };
                    self.uploads.spend(&rows, of_rows, 0);
                }
            }
            if sent + received > 0 {
                self.uploads.spend(&purpose, sent, received);
            }
        }
    }

    /// Returns the data budget and what it leaves out.
    pub fn budget(&mut self) -> Budget {
        self.uploads.budget()
    }

    /// Returns the shortest time to the next question that the data budget allows.
    pub fn interval_min(&mut self) -> Duration {
        self.uploads.interval_min()
    }

    /// Tells whether packages may be fetched.
    pub fn fetches_packages(&mut self) -> bool {
        self.uploads.fetches_packages()
    }

    /// Returns what waits, what was spent and what the budget leaves out, for `dunlind status`.
    pub fn report(&mut self) -> crate::upload::UploadReport {
        self.uploads.report_of()
    }
}
