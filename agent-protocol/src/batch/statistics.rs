//! Windows in columns: what inputs and outputs did over a span of time, as summaries that merge by addition, so that a
//! fleet is the sum of its devices.
//!
//! A row is one window of one instance, counted by one reference profile. What is in its bytes is between those who hold
//! the profile; here they are bounded bytes. Computes nothing.
//!
//! A window that has changed comes again, as a row with a number of its own and a higher revision: of the rows with one
//! instance, profile and beginning, that with the highest revision counts.

use dunlin_kit::digest::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::column::{Blob, Deltas, Indexes};
use super::instance::Instance;
use super::{Columns, Stream, require_lengths, require_within};
use crate::limits::{INSTANCES_MAX, INTEGER_MAX, PROFILES_MAX, ROWS_MAX, WINDOW_BYTES_MAX};
use crate::list::{List, TooMany};
use crate::text::Words;

/// The summaries of a window, in the order of its profile.
pub type SummaryBytes = Blob<WINDOW_BYTES_MAX>;

/// Windows in columns. *Shape*: all columns but the dictionaries have one element a row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Statistics {
    /// Whose windows they are.
    pub instances: List<Instance, INSTANCES_MAX>,
    /// The profiles that they were counted by: SHA-256 of `profile.json`.
    pub profiles: List<Digest, PROFILES_MAX>,
    /// Positions in `instances`.
    pub instance: Indexes,
    /// Positions in `profiles`.
    pub profile: Indexes,
    /// Where the window begins, event time in microseconds since 1970. The first, then differences.
    pub from_us: Deltas,
    /// Its length in microseconds. *Range*: from 1.
    pub span_us: List<u64, ROWS_MAX>,
    /// How often it was reported, this time included. *Range*: from 1.
    pub revision: List<u32, ROWS_MAX>,
    /// How many readings were counted.
    pub n: List<u64, ROWS_MAX>,
    /// Summaries in the order of the profile: features by name, outputs by name, distances within and from the common
    /// components where there are some, and predictions by their score where scores are calibrated.
    pub summaries: List<SummaryBytes, ROWS_MAX>,
}

/// One window of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatisticRow<'a> {
    /// Position of its instance.
    pub instance: u32,
    /// Position of its profile.
    pub profile: u32,
    /// Where it begins, event time in microseconds since 1970.
    pub from_us: i64,
    /// Its length in microseconds.
    pub span_us: u64,
    /// How often it was reported, this time included.
    pub revision: u32,
    /// How many readings were counted.
    pub n: u64,
    /// Its summaries, in the order of the profile.
    pub summaries: &'a [u8],
}

impl Statistics {
    /// Adds an instance; returns its position.
    ///
    /// *Errors*: there are [`INSTANCES_MAX`] already: begin another batch.
    pub fn add_instance(&mut self, instance: Instance) -> Result<u32, TooMany> {
        self.instances.push(instance)?;
        Ok(self.instances.len() as u32 - 1)
    }

    /// Returns the position of a profile, added where it is new.
    ///
    /// *Errors*: there are [`PROFILES_MAX`] already: begin another batch.
    pub fn profile(&mut self, digest: Digest) -> Result<u32, TooMany> {
        let known = self.profiles.iter().position(|known| *known == digest);
        let position = match known {
            Some(position) => position,
            None => {
                self.profiles.push(digest)?;
                self.profiles.len() - 1
            }
        };
        Ok(position as u32)
    }

    /// Adds a window. Whether it leads to its instance and profile is checked when the batch is made.
    ///
    /// *Errors*: the batch is full, or the bytes are too many: nothing was added.
    pub fn push(&mut self, row: &StatisticRow<'_>) -> Result<(), TooMany> {
        if self.instance.len() >= ROWS_MAX {
            return Err(TooMany(ROWS_MAX));
        }
        let summaries = Blob::new(row.summaries.to_vec()).map_err(|_| TooMany(WINDOW_BYTES_MAX))?;
        self.instance.push(row.instance)?;
        self.profile.push(row.profile)?;
        self.from_us.push(row.from_us);
        self.span_us.push(row.span_us)?;
        self.revision.push(row.revision)?;
        self.n.push(row.n)?;
        self.summaries.push(summaries)
    }

    /// Returns the rows in order; of columns that are sound.
    pub fn iter(&self) -> impl Iterator<Item = StatisticRow<'_>> {
        (0..self.instance.len()).map_while(|row| {
            Some(StatisticRow {
                instance: *self.instance.get(row)?,
                profile: *self.profile.get(row)?,
                from_us: *self.from_us.get(row)?,
                span_us: *self.span_us.get(row)?,
                revision: *self.revision.get(row)?,
                n: *self.n.get(row)?,
                summaries: self.summaries.get(row)?.as_bytes(),
            })
        })
    }
}

impl Columns for Statistics {
    const STREAM: Stream = Stream::Statistics;

    fn rows(&self) -> usize {
        self.instance.len()
    }

    fn require_sound(&self) -> Result<(), Words> {
        let columns = [
            ("profile", self.profile.len()),
            ("from_us", self.from_us.len()),
            ("span_us", self.span_us.len()),
            ("revision", self.revision.len()),
            ("n", self.n.len()),
            ("summaries", self.summaries.len()),
        ];
        require_lengths(self.rows(), &columns)?;
        self.instances.iter().try_for_each(Instance::require_sound)?;
        require_within("instance", self.instance.iter().copied(), self.instances.len())?;
        require_within("profile", self.profile.iter().copied(), self.profiles.len())?;
        let is_wrong = |row: &StatisticRow<'_>| {
            let end_us = i64::try_from(row.span_us).ok().and_then(|span_us| row.from_us.checked_add(span_us));
            row.span_us == 0
                || end_us.is_none_or(|end_us| end_us.unsigned_abs() > INTEGER_MAX)
                || row.revision == 0
                || row.n > INTEGER_MAX
                || row.summaries.is_empty()
        };
        match self.iter().position(|row| is_wrong(&row)) {
            Some(row) => Err(Words::cut(&format!(
                "window {row} has no length, no revision, no summaries, or ends beyond the range of times"
            ))),
            None => Ok(()),
        }
    }
}
