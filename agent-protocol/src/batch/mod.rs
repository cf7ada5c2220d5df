//! Rows of a stream on their way to the server: numbered, in columns.
//!
//! A batch answers for a range of sequence numbers; rows that a policy held back are left out by number, so that nothing
//! is missing unexplained. Its columns are read apart from the message, so that a batch which is wrong is rejected alone.

mod column;
mod events;
mod instance;
mod labels;
mod losses;
mod predictions;
mod statistics;

use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::limits::{NUMBERS_MAX, ROWS_MAX};
use crate::open_enum::open_enum;
use crate::ranges::Range;
use crate::text::Words;

pub use column::{Blob, BlobError, Deltas, Indexes, Offsets};
pub use events::{EventRow, Events, Severity};
pub use instance::{Instance, prediction_id};
pub use labels::{LabelRow, LabelSubject, Labels};
pub use losses::{LossRow, Losses};
pub use predictions::{PredictionRow, Predictions, quality};
pub use statistics::{StatisticRow, Statistics, SummaryBytes};

open_enum!(
    /// A sequence of rows with numbers of its own.
    Stream {
        /// What models said.
        Predictions = "predictions",
        /// What happened on the device.
        Events = "events",
        /// What turned out to be true.
        Labels = "labels",
        /// What was knowingly given up.
        Losses = "losses",
        /// What inputs and outputs did over a span of time.
        Statistics = "statistics",
    }
);

/// The columns of a stream's rows.
pub trait Columns: Serialize + DeserializeOwned {
    /// The stream.
    const STREAM: Stream;

    /// Returns how many rows there are.
    fn rows(&self) -> usize;

    /// Checks that all columns are of one length and lead to something.
    ///
    /// *Errors*: which does not.
    fn require_sound(&self) -> Result<(), Words>;
}

/// Why a batch is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchError {
    /// Its rows are of a stream that this build does not know, or another one than asked for.
    Stream(Stream),
    /// Its columns are not those of the stream, or contradict each other.
    Columns(Words),
    /// There are not as many rows as numbers.
    Rows {
        /// Rows in the columns.
        rows: usize,
        /// Rows that the numbers stand for.
        expected: u64,
    },
    /// The numbers are no range, or more than allowed.
    Numbers,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(stream) => write!(f, "the batch is of the stream `{stream}`"),
            Self::Columns(reason) => write!(f, "the batch's columns are wrong: {reason}"),
            Self::Rows { rows, expected } => write!(f, "the batch has {rows} rows for {expected} numbers"),
            Self::Numbers => f.write_str("the batch's numbers are no range of an allowed length"),
        }
    }
}

impl std::error::Error for BatchError {}

/// Columns as they came: JSON that is read once its stream is known and wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct RawColumns(Box<RawValue>);

impl PartialEq for RawColumns {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// A batch of rows. *Shape*: the n-th row of each column has the n-th number of [`Batch::numbers`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Wire")]
pub struct Batch {
    stream: Stream,
    first: u64,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    offsets: Option<Offsets>,
    #[schemars(with = "AnyColumns")]
    columns: RawColumns,
}

/// A batch of rows: the n-th row of each column has the n-th number.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Batch")]
struct Wire {
    /// The stream.
    stream: Stream,
    /// The first number that the batch answers for, from 1.
    first: u64,
    /// How many numbers it answers for, from 1.
    count: u64,
    /// Where some numbers have no row, since a policy held it back: those that have, as offsets from `first`. The first
    /// offset, then differences. Left out where each number has a row.
    #[serde(default)]
    offsets: Option<Offsets>,
    /// The columns of the stream.
    #[schemars(with = "AnyColumns")]
    columns: RawColumns,
}

impl TryFrom<Wire> for Batch {
    type Error = BatchError;

    fn try_from(wire: Wire) -> Result<Self, BatchError> {
        let Wire { stream, first, count, offsets, columns } = wire;
        let batch = Self { stream, first, count, offsets, columns };
        batch.require_numbers()?;
        Ok(batch)
    }
}

/// The columns of any stream.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum AnyColumns {
    /// Of predictions.
    Predictions(Predictions),
    /// Of events.
    Events(Events),
    /// Of labels.
    Labels(Labels),
    /// Of losses.
    Losses(Losses),
    /// Of statistics.
    Statistics(Statistics),
}

impl Batch {
    /// Makes a batch in which each number from `first` has a row.
    ///
    /// *Errors*: no rows, too many, or columns that are not sound.
    pub fn of<C: Columns>(first: u64, columns: &C) -> Result<Self, BatchError> {
        let range = Range::counted(first, columns.rows() as u64).map_err(|_| BatchError::Numbers)?;
        Self::make(range, None, columns)
    }

    /// Makes a batch that answers for all numbers of `range`, of which those in `numbers` have a row and a policy held
    /// the others back.
    ///
    /// *Errors*: numbers that are not rising or not within the range, more or fewer rows than numbers, or columns that
    /// are not sound.
    pub fn with_held_back<C: Columns>(
        range: Range,
        numbers: &[u64],
        columns: &C,
    ) -> Result<Self, BatchError> {
        let offsets = numbers.iter().map(|number| number.checked_sub(range.first()));
        let offsets: Option<Vec<u64>> = offsets.collect();
        let offsets = offsets.and_then(|offsets| Offsets::new(offsets).ok()).ok_or(BatchError::Numbers)?;
        Self::make(range, Some(offsets), columns)
    }

    fn make<C: Columns>(range: Range, offsets: Option<Offsets>, columns: &C) -> Result<Self, BatchError> {
        columns.require_sound().map_err(BatchError::Columns)?;
        let wrong = |error: serde_json::Error| BatchError::Columns(Words::cut(&error.to_string()));
        let text = serde_json::to_string(columns).map_err(wrong)?;
        let raw = RawColumns(RawValue::from_string(text).map_err(wrong)?);
        let (first, count) = (range.first(), range.count());
        let batch = Self { stream: C::STREAM, first, count, offsets, columns: raw };
        batch.require_numbers()?;
        batch.require_rows(columns.rows())?;
        Ok(batch)
    }

    fn require_numbers(&self) -> Result<(), BatchError> {
        Range::counted(self.first, self.count).map_err(|_| BatchError::Numbers)?;
        let last = self.offsets.as_ref().and_then(Offsets::last);
        if self.count > NUMBERS_MAX || last.is_some_and(|last| last >= self.count) {
            return Err(BatchError::Numbers);
        }
        Ok(())
    }

    fn require_rows(&self, rows: usize) -> Result<(), BatchError> {
        let expected = self.rows();
        if rows as u64 == expected && rows <= ROWS_MAX {
            return Ok(());
        }
        Err(BatchError::Rows { rows, expected })
    }

    /// Returns the stream.
    #[must_use]
    pub const fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Returns the numbers that the batch answers for, and a receipt for it is of.
    #[must_use]
    pub fn range(&self) -> Range {
        Range::counted(self.first, self.count)
            .expect("the numbers were checked when the batch was made or read")
    }

    /// Returns how many rows the batch says it has.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.offsets.as_ref().map_or(self.count, |offsets| offsets.len() as u64)
    }

    /// Returns the numbers of the rows, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let all = self.offsets.is_none().then_some(0..self.count).into_iter().flatten();
        let some = self.offsets.iter().flat_map(Offsets::iter);
        all.chain(some).map(|offset| self.first + offset)
    }

    /// Reads the columns of a known stream.
    ///
    /// *Errors*: the batch is of another stream, or wrong: to be rejected alone.
    pub fn read<C: Columns>(&self) -> Result<C, BatchError> {
        if self.stream != C::STREAM {
            return Err(BatchError::Stream(self.stream.clone()));
        }
        let columns: C = serde_json::from_str(self.columns.0.get())
            .map_err(|error| BatchError::Columns(Words::cut(&error.to_string())))?;
        columns.require_sound().map_err(BatchError::Columns)?;
        self.require_rows(columns.rows())?;
        Ok(columns)
    }

    /// Reads the columns, whatever the stream.
    ///
    /// *Errors*: as [`Batch::read`]; `Stream` for one that this build does not know, which is neither taken nor rejected:
    /// the device keeps it for a server that does.
    pub fn read_any(&self) -> Result<AnyColumns, BatchError> {
        match self.stream {
            Stream::Predictions => self.read().map(AnyColumns::Predictions),
            Stream::Events => self.read().map(AnyColumns::Events),
            Stream::Labels => self.read().map(AnyColumns::Labels),
            Stream::Losses => self.read().map(AnyColumns::Losses),
            Stream::Statistics => self.read().map(AnyColumns::Statistics),
            Stream::Other(_) => Err(BatchError::Stream(self.stream.clone())),
        }
    }
}

/// Checks that columns have as many elements as there are rows.
fn require_lengths(rows: usize, columns: &[(&str, usize)]) -> Result<(), Words> {
    match columns.iter().find(|(_, length)| *length != rows) {
        None => Ok(()),
        Some((name, length)) => Err(Words::cut(&format!("`{name}` has {length} elements for {rows} rows"))),
    }
}

/// Checks that positions lie within a dictionary.
fn require_within(
    name: &str,
    positions: impl IntoIterator<Item = u32>,
    dictionary: usize,
) -> Result<(), Words> {
    match positions.into_iter().find(|position| *position as usize >= dictionary) {
        None => Ok(()),
        Some(position) => {
            Err(Words::cut(&format!("`{name}` names entry {position} of a dictionary of {dictionary}")))
        }
    }
}
