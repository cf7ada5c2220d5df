//! Events in columns: what happened on the device, for people and for alerts.
//!
//! Texts stand once in a dictionary. Kinds are codes; a reader shows those that it does not know.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::column::{Deltas, Indexes};
use super::{Columns, Stream, require_lengths, require_within};
use crate::limits::{ROWS_MAX, TEXTS_MAX};
use crate::list::{List, TooMany};
use crate::text::Words;

/// How much an event matters. Larger numbers from the future matter at least as much as an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Severity(pub u8);

impl Severity {
    /// A change of state.
    pub const INFO: Self = Self(0);
    /// Something is degraded and goes on.
    pub const WARNING: Self = Self(1);
    /// Somebody has to act.
    pub const ERROR: Self = Self(2);
}

/// Events in columns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Events {
    /// Texts that the rows name.
    pub texts: List<Words, TEXTS_MAX>,
    /// When, in microseconds since 1970 by the device's clock. The first, then differences.
    pub at_us: Deltas,
    /// What kind of event, as in `alert_raised`: positions in `texts`.
    pub kind: Indexes,
    /// How much it matters: 0 information, 1 warning, 2 error.
    pub severity: List<Severity, ROWS_MAX>,
    /// What it is about, as a model or a broker: positions in `texts`; null where it is the device.
    pub object: List<Option<u32>, ROWS_MAX>,
    /// What happened, for people: positions in `texts`.
    pub words: List<Option<u32>, ROWS_MAX>,
}

/// One event of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRow<'a> {
    /// When, in microseconds since 1970 by the device's clock.
    pub at_us: i64,
    /// What kind of event.
    pub kind: &'a str,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about; empty where it is the device.
    pub object: &'a str,
    /// What happened, for people.
    pub words: &'a str,
}

/// Returns the position of a text in a dictionary, where it is put if it is not there; none for an empty text.
pub(super) fn position_of(texts: &mut List<Words, TEXTS_MAX>, text: &str) -> Result<Option<u32>, TooMany> {
    if text.is_empty() {
        return Ok(None);
    }
    let text = Words::cut(text);
    if let Some(position) = texts.iter().position(|present| *present == text) {
        return Ok(Some(position as u32));
    }
    texts.push(text)?;
    Ok(Some(texts.len() as u32 - 1))
}

/// Returns the text at a position; empty where there is none.
pub(super) fn text_at(texts: &[Words], position: Option<u32>) -> Option<&str> {
    match position {
        None => Some(""),
        Some(position) => texts.get(position as usize).map(Words::as_str),
    }
}

impl Events {
    /// Adds an event; texts that are too long are cut.
    ///
    /// *Errors*: the batch or its dictionary is full: begin another.
    pub fn push(&mut self, row: &EventRow<'_>) -> Result<(), TooMany> {
        if self.kind.len() >= ROWS_MAX || self.texts.len() + 3 > TEXTS_MAX {
            return Err(TooMany(ROWS_MAX));
        }
        let kind = position_of(&mut self.texts, if row.kind.is_empty() { "unknown" } else { row.kind })?;
        let object = position_of(&mut self.texts, row.object)?;
        let words = position_of(&mut self.texts, row.words)?;
        self.kind.push(kind.unwrap_or_default())?;
        self.at_us.push(row.at_us);
        self.severity.push(row.severity)?;
        self.object.push(object)?;
        self.words.push(words)
    }

    /// Returns the rows in order; of columns that are sound.
    pub fn iter(&self) -> impl Iterator<Item = EventRow<'_>> {
        (0..self.kind.len()).map_while(|row| {
            Some(EventRow {
                at_us: *self.at_us.get(row)?,
                kind: text_at(&self.texts, Some(*self.kind.get(row)?))?,
                severity: *self.severity.get(row)?,
                object: text_at(&self.texts, *self.object.get(row)?)?,
                words: text_at(&self.texts, *self.words.get(row)?)?,
            })
        })
    }
}

impl Columns for Events {
    const STREAM: Stream = Stream::Events;

    fn rows(&self) -> usize {
        self.kind.len()
    }

    fn require_sound(&self) -> Result<(), Words> {
        let columns = [
            ("at_us", self.at_us.len()),
            ("severity", self.severity.len()),
            ("object", self.object.len()),
            ("words", self.words.len()),
        ];
        require_lengths(self.rows(), &columns)?;
        let texts = self.texts.len();
        require_within("kind", self.kind.iter().copied(), texts)?;
        require_within("object", self.object.iter().copied().flatten(), texts)?;
        require_within("words", self.words.iter().copied().flatten(), texts)
    }
}
