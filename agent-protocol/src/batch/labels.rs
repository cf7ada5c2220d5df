//! Labels in columns: what turned out to be true of a model's subject over some time.
//!
//! A label is of a model and a series key, not of one prediction: what a package that was replaced said is judged by it
//! as well. Never says where predictions were wrong; that is computed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::column::{Deltas, Indexes};
use super::events::{position_of, text_at};
use super::{Columns, Stream, require_lengths, require_within};
use crate::limits::{INSTANCES_MAX, ROWS_MAX, TAGS_MAX, TEXTS_MAX};
use crate::list::{List, TooMany, is_default};
use crate::text::{Name, TagValue, Words};

/// What labels are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LabelSubject {
    /// The model, by its name in the device's configuration.
    pub model: Name,
    /// Tags and values of the series key, in the model's order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: List<(Name, TagValue), TAGS_MAX>,
}

/// Labels in columns. Each row has a label, a value, or both.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Labels {
    /// What the labels are of.
    pub subjects: List<LabelSubject, INSTANCES_MAX>,
    /// Texts that the rows name.
    pub texts: List<Words, TEXTS_MAX>,
    /// Positions in `subjects`.
    pub subject: Indexes,
    /// From when it is true, event time in microseconds since 1970. The first, then differences.
    pub from_us: Deltas,
    /// For how long, in microseconds; 0 for a moment.
    pub span_us: List<u64, ROWS_MAX>,
    /// The label: positions in `texts`.
    pub label: List<Option<u32>, ROWS_MAX>,
    /// The value, for models that estimate one.
    pub value: List<Option<f64>, ROWS_MAX>,
    /// Who says so: positions in `texts`.
    pub source: List<Option<u32>, ROWS_MAX>,
    /// When it was said, in microseconds since 1970 by the device's clock. The first, then differences.
    pub at_us: Deltas,
}

/// One label of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelRow<'a> {
    /// Position of its subject.
    pub subject: u32,
    /// From when it is true, event time in microseconds since 1970.
    pub from_us: i64,
    /// For how long, in microseconds.
    pub span_us: u64,
    /// The label; empty where there is a value alone.
    pub label: &'a str,
    /// The value.
    pub value: Option<f64>,
    /// Who says so.
    pub source: &'a str,
    /// When it was said, in microseconds since 1970 by the device's clock.
    pub at_us: i64,
}

impl Labels {
    /// Adds a subject; returns its position.
    ///
    /// *Errors*: there are [`INSTANCES_MAX`] already: begin another batch.
    pub fn add_subject(&mut self, subject: LabelSubject) -> Result<u32, TooMany> {
        self.subjects.push(subject)?;
        Ok(self.subjects.len() as u32 - 1)
    }

    /// Adds a label.
    ///
    /// *Errors*: the batch or its dictionary is full: begin another.
    pub fn push(&mut self, row: &LabelRow<'_>) -> Result<(), TooMany> {
        if self.subject.len() >= ROWS_MAX || self.texts.len() + 2 > TEXTS_MAX {
            return Err(TooMany(ROWS_MAX));
        }
        let label = position_of(&mut self.texts, row.label)?;
        let source = position_of(&mut self.texts, row.source)?;
        self.subject.push(row.subject)?;
        self.from_us.push(row.from_us);
        self.span_us.push(row.span_us)?;
        self.label.push(label)?;
        self.value.push(row.value)?;
        self.source.push(source)?;
        self.at_us.push(row.at_us);
        Ok(())
    }

    /// Returns the rows in order; of columns that are sound.
    pub fn iter(&self) -> impl Iterator<Item = LabelRow<'_>> {
        (0..self.subject.len()).map_while(|row| {
            Some(LabelRow {
                subject: *self.subject.get(row)?,
                from_us: *self.from_us.get(row)?,
                span_us: *self.span_us.get(row)?,
                label: text_at(&self.texts, *self.label.get(row)?)?,
                value: *self.value.get(row)?,
                source: text_at(&self.texts, *self.source.get(row)?)?,
                at_us: *self.at_us.get(row)?,
            })
        })
    }
}

impl Columns for Labels {
    const STREAM: Stream = Stream::Labels;

    fn rows(&self) -> usize {
        self.subject.len()
    }

    fn require_sound(&self) -> Result<(), Words> {
        let columns = [
            ("from_us", self.from_us.len()),
            ("span_us", self.span_us.len()),
            ("label", self.label.len()),
            ("value", self.value.len()),
            ("source", self.source.len()),
            ("at_us", self.at_us.len()),
        ];
        require_lengths(self.rows(), &columns)?;
        require_within("subject", self.subject.iter().copied(), self.subjects.len())?;
        require_within("label", self.label.iter().copied().flatten(), self.texts.len())?;
        require_within("source", self.source.iter().copied().flatten(), self.texts.len())?;
        if self.label.iter().zip(&self.value).any(|(label, value)| label.is_none() && value.is_none()) {
            return Err(Words::cut("a row has neither a label nor a value"));
        }
        if self.value.iter().flatten().any(|value| !value.is_finite()) {
            return Err(Words::cut("`value` holds a value that is not finite"));
        }
        Ok(())
    }
}
