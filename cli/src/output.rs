//! How results are shown: as a table for people, as JSON or YAML for programs.

use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::Value;

use crate::command::{Cause, CommandError};
use crate::print;

/// How a result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Columns, the most important ones.
    #[default]
    Table,
    /// Columns, all of them.
    Wide,
    /// JSON, as the server sends it.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Format {
    /// Tells whether a program reads it: then it is what the server sent, and not what people look at first.
    #[must_use]
    pub const fn is_for_programs(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }
}

/// How a result is shown.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct OutputArguments {
    /// How to show the result.
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// A result.
#[derive(Debug, Clone)]
pub struct Output(Value);

/// A column: its head, where its value is, and whether it stands in `wide` tables alone.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    head: &'static str,
    pointer: &'static str,
    is_wide: bool,
}

/// Returns a column that always stands.
#[must_use]
pub const fn column(head: &'static str, pointer: &'static str) -> Column {
    Column { head, pointer, is_wide: false }
}

/// Returns a column of wide tables.
#[must_use]
pub const fn wide(head: &'static str, pointer: &'static str) -> Column {
    Column { head, pointer, is_wide: true }
}

impl Output {
    /// Takes a result.
    ///
    /// *Errors*: it cannot be written.
    pub fn of(result: &impl Serialize) -> Result<Self, CommandError> {
        serde_json::to_value(result)
            .map(Self)
            .map_err(|e| CommandError::failed("the result cannot be written", e))
    }

    /// Prints an object: a line a member.
    ///
    /// *Errors*: it cannot be written.
    pub fn print_object(&self, format: Format) -> Result<(), CommandError> {
        if format.is_for_programs() {
            return self.print_text(format);
        }
        let mut table = new_table();
        for (name, value) in self.0.as_object().into_iter().flatten() {
            table.add_row([name.clone(), cell(value)]);
        }
        print::line(&trimmed(&table));
        Ok(())
    }

    /// Prints a list: a line an entry.
    ///
    /// *Errors*: it cannot be written.
    pub fn print_list(&self, format: Format, columns: &[Column]) -> Result<(), CommandError> {
        if format.is_for_programs() {
            return self.print_text(format);
        }
        let shown: Vec<&Column> =
            columns.iter().filter(|column| !column.is_wide || format == Format::Wide).collect();
        let mut table = new_table();
        table.set_header(shown.iter().map(|column| column.head));
        for entry in self.0.as_array().into_iter().flatten() {
            table.add_row(
                shown.iter().map(|column| entry.pointer(column.pointer).map(cell).unwrap_or_default()),
            );
        }
        print::line(&trimmed(&table));
        Ok(())
    }

    fn print_text(&self, format: Format) -> Result<(), CommandError> {
        let failed = |e: Cause| CommandError::failed("the result cannot be written", e);
        let text = match format {
            Format::Yaml => serde_saphyr::to_string(&self.0).map_err(|e| failed(e.into()))?,
            _ => serde_json::to_string_pretty(&self.0).map_err(|e| failed(e.into()))?,
        };
        print::line(text.trim_end());
        Ok(())
    }
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn trimmed(table: &Table) -> String {
    let unpadded = |line: String| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned();
    let lines: Vec<String> = table.lines().map(unpadded).collect();
    lines.join("\n")
}

/// Returns a value in a cell: texts as they are, labels as `name=value`, lists with commas between.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(members) => {
            let pair = |(name, value): (&String, &Value)| format!("{name}={}", cell(value));
            members.iter().map(pair).collect::<Vec<_>>().join(" ")
        }
        Value::Array(entries) => entries.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    // A gateway's name must not move the cursor.
    print::shown(&text)
}
