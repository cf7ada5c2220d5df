//! Stored predictions and readings as CSV.
//!
//! One column a value, numbers printed so that they read back exactly, empty cells for what is missing. Only lays out;
//! `export` reads and selects.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;

use dunlin_pipeline::prediction::InstanceIdentity;
use dunlin_pipeline::reading::{SeriesIdentity, TimedBy};

use crate::command::history::{PredictionRow, ReadingRow};
use crate::publication::alert_text;

/// Writes predictions of one model.
///
/// *Shape*: `window_end_ms`, one column an output element (`name`, or `name_0`, `name_1`, … where there are several),
/// `id`, `model`, `version`, `key` (`tag=value;…`), `label`, `quality` (separated by spaces), `alert`.
pub struct PredictionCsv<W: Write> {
    csv: csv::Writer<W>,
    /// Names and value counts over all versions of the model.
    outputs: Vec<(String, u32)>,
    cell: String,
}

impl<W: Write> PredictionCsv<W> {
    /// Writes the header for predictions of these instances.
    ///
    /// *Errors*: those of writing.
    pub fn new(out: W, instances: &[Arc<InstanceIdentity>]) -> csv::Result<Self> {
        let mut outputs: Vec<(String, u32)> = Vec::new();
        for (name, count) in instances.iter().flat_map(|instance| &instance.outputs) {
            match outputs.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = (*known).max(*count),
                None => outputs.push((name.clone(), *count)),
            }
        }
        let mut csv = csv::Writer::from_writer(out);
        csv.write_field("window_end_ms")?;
        for (name, count) in &outputs {
            if *count == 1 {
                csv.write_field(name)?;
            } else {
                (0..*count).try_for_each(|index| csv.write_field(format!("{name}_{index}")))?;
            }
        }
        for name in ["id", "model", "version", "key", "label", "quality", "alert"] {
            csv.write_field(name)?;
        }
        csv.write_record(None::<&[u8]>)?;
        Ok(Self { csv, outputs, cell: String::new() })
    }

    /// Writes a prediction.
    ///
    /// *Errors*: those of writing.
    pub fn write(&mut self, row: &PredictionRow) -> csv::Result<()> {
        self.csv.write_field(milliseconds(row.window_end_us))?;
        let values = if row.flags.is_valid() { row.outputs.as_slice() } else { &[] };
        for (name, count) in &self.outputs {
            let found = values_of(&row.identity, values, name);
            for index in 0..*count as usize {
                self.cell.clear();
                if let Some(value) = found.get(index).filter(|value| !value.is_nan()) {
                    write!(self.cell, "{value:?}").expect("writing to a String does not fail");
                }
                self.csv.write_field(&self.cell)?;
            }
        }
        self.csv.write_field(row.id.to_string())?;
        self.csv.write_field(&row.identity.model)?;
        self.csv.write_field(&row.identity.version)?;
        self.csv.write_field(tags_text(&row.identity.key))?;
        self.csv.write_field(row.label.as_deref().unwrap_or_default())?;
        self.csv.write_field(row.flags.names().collect::<Vec<_>>().join(" "))?;
        self.csv.write_field(row.alert.map(alert_text).unwrap_or_default())?;
        self.csv.write_record(None::<&[u8]>)
    }

    /// Ends the table and returns what it was written to.
    ///
    /// *Errors*: those of writing.
    pub fn finish(self) -> std::io::Result<W> {
        self.csv.into_inner().map_err(csv::IntoInnerError::into_error)
    }
}

/// Returns the values of one output of a prediction.
pub(crate) fn values_of<'v>(identity: &InstanceIdentity, values: &'v [f32], name: &str) -> &'v [f32] {
    let mut start = 0;
    for (output, count) in &identity.outputs {
        let end = (start + *count as usize).min(values.len());
        if output == name {
            return &values[start..end];
        }
        start = end;
    }
    &[]
}

/// Writes readings of one source.
///
/// *Shape*: `event_ms`, one column a field, `source`, `tags` (`tag=value;…`), `timed_by` (`payload` or `arrival`).
pub struct ReadingCsv<W: Write> {
    csv: csv::Writer<W>,
    fields: Vec<String>,
}

impl<W: Write> ReadingCsv<W> {
    /// Writes the header for readings of these series.
    ///
    /// *Errors*: those of writing.
    pub fn new(out: W, series: &[Arc<SeriesIdentity>]) -> csv::Result<Self> {
        let mut fields: Vec<String> = Vec::new();
        for field in series.iter().flat_map(|series| &series.fields) {
            if !fields.contains(field) {
                fields.push(field.clone());
            }
        }
        let mut csv = csv::Writer::from_writer(out);
        csv.write_field("event_ms")?;
        fields.iter().try_for_each(|field| csv.write_field(field))?;
        for name in ["source", "tags", "timed_by"] {
            csv.write_field(name)?;
        }
        csv.write_record(None::<&[u8]>)?;
        Ok(Self { csv, fields })
    }

    /// Writes a reading.
    ///
    /// *Errors*: those of writing.
    pub fn write(&mut self, row: &ReadingRow) -> csv::Result<()> {
        self.csv.write_field(milliseconds(row.event_us))?;
        for field in &self.fields {
            let position = row.series.fields.iter().position(|name| name == field);
            let value =
                position.and_then(|position| row.values.get(position)).filter(|value| !value.is_nan());
            self.csv.write_field(value.map_or_else(String::new, |value| format!("{value:?}")))?;
        }
        self.csv.write_field(&row.series.source)?;
        self.csv.write_field(tags_text(&row.series.tags))?;
        self.csv.write_field(timed_by_text(row.timed_by))?;
        self.csv.write_record(None::<&[u8]>)
    }

    /// Ends the table and returns what it was written to.
    ///
    /// *Errors*: those of writing.
    pub fn finish(self) -> std::io::Result<W> {
        self.csv.into_inner().map_err(csv::IntoInnerError::into_error)
    }
}

/// Returns the text of where an event time came from.
#[must_use]
pub const fn timed_by_text(timed_by: TimedBy) -> &'static str {
    match timed_by {
        TimedBy::Payload => "payload",
        TimedBy::Arrival => "arrival",
    }
}

/// Returns `tag=value;…`; a `\` stands before each `\`, `;` and `=` of a tag or value.
#[must_use]
pub fn tags_text(tags: &[(String, String)]) -> String {
    let mut text = String::new();
    for (index, (tag, value)) in tags.iter().enumerate() {
        if index > 0 {
            text.push(';');
        }
        push_tag_part(&mut text, tag);
        text.push('=');
        push_tag_part(&mut text, value);
    }
    text
}

fn push_tag_part(text: &mut String, part: &str) {
    for c in part.chars() {
        if matches!(c, '\\' | ';' | '=') {
            text.push('\\');
        }
        text.push(c);
    }
}

/// Returns a time in microseconds as milliseconds: an integer, with three decimals where it is not whole.
#[must_use]
pub fn milliseconds(micros: i64) -> String {
    let (whole, rest) = (micros.unsigned_abs() / 1_000, micros.unsigned_abs() % 1_000);
    let sign = if micros < 0 { "-" } else { "" };
    if rest == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{rest:03}") }
}

#[cfg(test)]
#[path = "csv_rows/tests.rs"]
mod tests;
