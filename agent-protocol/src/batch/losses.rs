//! The loss ledger in columns: what a device knowingly gave up.
//!
//! Where rows of a stream were lost before they had a receipt, the row says their numbers, so that no number is missing
//! without a reason. Both sides' ledgers are equal once all are received.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::column::{Deltas, Indexes};
use super::events::{position_of, text_at};
use super::{Columns, Stream, require_lengths, require_within};
use crate::limits::{ROWS_MAX, TEXTS_MAX};
use crate::list::{List, TooMany};
use crate::ranges::Range;
use crate::text::Words;

/// Losses in columns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Losses {
    /// Texts that the rows name.
    pub texts: List<Words, TEXTS_MAX>,
    /// What was lost, as in `readings`: positions in `texts`.
    pub kind: Indexes,
    /// Of what, as a source or a model: positions in `texts`.
    pub object: List<Option<u32>, ROWS_MAX>,
    /// Why, as in `quota`: positions in `texts`.
    pub reason: List<Option<u32>, ROWS_MAX>,
    /// How many.
    pub count: List<u64, ROWS_MAX>,
    /// When the first of them was, in microseconds since 1970; 0 where nobody knows. The first, then differences.
    pub from_us: Deltas,
    /// How long after it the last was, in microseconds.
    pub span_us: List<u64, ROWS_MAX>,
    /// When they were given up, in microseconds since 1970 by the device's clock. The first, then differences.
    pub at_us: Deltas,
    /// The stream whose numbers will never come: positions in `texts`; null where the loss had no numbers.
    pub stream: List<Option<u32>, ROWS_MAX>,
    /// These numbers, first and last; null where the loss had none.
    pub numbers: List<Option<(u64, u64)>, ROWS_MAX>,
}

/// One loss of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossRow<'a> {
    /// What was lost.
    pub kind: &'a str,
    /// Of what.
    pub object: &'a str,
    /// Why.
    pub reason: &'a str,
    /// How many.
    pub count: u64,
    /// When the first was, in microseconds since 1970; 0 where nobody knows.
    pub from_us: i64,
    /// How long after it the last was, in microseconds.
    pub span_us: u64,
    /// When they were given up, in microseconds since 1970 by the device's clock.
    pub at_us: i64,
    /// The stream and its numbers that will never come.
    pub numbers: Option<(&'a str, Range)>,
}

impl Losses {
    /// Adds a loss.
    ///
    /// *Errors*: the batch or its dictionary is full: begin another.
    pub fn push(&mut self, row: &LossRow<'_>) -> Result<(), TooMany> {
        if self.kind.len() >= ROWS_MAX || self.texts.len() + 4 > TEXTS_MAX {
            return Err(TooMany(ROWS_MAX));
        }
        let kind = position_of(&mut self.texts, if row.kind.is_empty() { "unknown" } else { row.kind })?;
        let object = position_of(&mut self.texts, row.object)?;
        let reason = position_of(&mut self.texts, row.reason)?;
        let stream = match row.numbers {
            Some((stream, _)) => position_of(&mut self.texts, stream)?,
            None => None,
        };
        self.kind.push(kind.unwrap_or_default())?;
        self.object.push(object)?;
        self.reason.push(reason)?;
        self.count.push(row.count)?;
        self.from_us.push(row.from_us);
        self.span_us.push(row.span_us)?;
        self.at_us.push(row.at_us);
        self.stream.push(stream)?;
        self.numbers.push(row.numbers.map(|(_, range)| (range.first(), range.last())))
    }

    /// Returns the rows in order; of columns that are sound.
    pub fn iter(&self) -> impl Iterator<Item = LossRow<'_>> {
        (0..self.kind.len()).map_while(|row| {
            let stream = text_at(&self.texts, *self.stream.get(row)?)?;
            let numbers = match *self.numbers.get(row)? {
                Some((first, last)) => Some((stream, Range::new(first, last).ok()?)),
                None => None,
            };
            Some(LossRow {
                kind: text_at(&self.texts, Some(*self.kind.get(row)?))?,
                object: text_at(&self.texts, *self.object.get(row)?)?,
                reason: text_at(&self.texts, *self.reason.get(row)?)?,
                count: *self.count.get(row)?,
                from_us: *self.from_us.get(row)?,
                span_us: *self.span_us.get(row)?,
                at_us: *self.at_us.get(row)?,
                numbers,
            })
        })
    }
}

impl Columns for Losses {
    const STREAM: Stream = Stream::Losses;

    fn rows(&self) -> usize {
        self.kind.len()
    }

    fn require_sound(&self) -> Result<(), Words> {
        let columns = [
            ("object", self.object.len()),
            ("reason", self.reason.len()),
            ("count", self.count.len()),
            ("from_us", self.from_us.len()),
            ("span_us", self.span_us.len()),
            ("at_us", self.at_us.len()),
            ("stream", self.stream.len()),
            ("numbers", self.numbers.len()),
        ];
        require_lengths(self.rows(), &columns)?;
        let texts = self.texts.len();
        require_within("kind", self.kind.iter().copied(), texts)?;
        for (name, positions) in
            [("object", &self.object), ("reason", &self.reason), ("stream", &self.stream)]
        {
            require_within(name, positions.iter().copied().flatten(), texts)?;
        }
        for (stream, numbers) in self.stream.iter().zip(&self.numbers) {
            let is_range = numbers.is_none_or(|(first, last)| Range::new(first, last).is_ok());
            if stream.is_some() != numbers.is_some() || !is_range {
                return Err(Words::cut("`stream` and `numbers` do not name a range of numbers together"));
            }
        }
        Ok(())
    }
}
