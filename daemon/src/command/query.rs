//! `dunlind query`: the latest stored predictions or readings as a table for people.
//!
//! Reads the store and prints; changes nothing. Every text is escaped and cut to fit a terminal.

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use dunlin_kit::clock;

use crate::command::csv_rows::{tags_text, values_of};
use crate::command::history::{Damage, History, PredictionRow, ReadingRow, unreadable};
use crate::command::output::print;
use crate::command::selection::{Selection, SelectionArgs};
use crate::command::{CommandError, StateDirArgs};
use crate::publication::time_text;
use crate::status::client::StatusClient;
use crate::status::escape::shortened;
use crate::status::terminal::new_table;

/// Most rows of a table: people read no more, and they are kept in memory.
pub const ROWS_MAX: u32 = 10_000;
/// Values of one output that are shown.
const VALUES_SHOWN: usize = 4;
/// Longest text in a cell.
const CELL_CHARS_MAX: usize = 60;

/// Arguments of `dunlind query`.
#[derive(Debug, Clone, Args)]
pub struct QueryArgs {
    /// Where the daemon is
    #[command(flatten)]
    pub state: StateDirArgs,
    /// Which rows
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// At most this many rows, the latest
    #[arg(long, value_name = "ROWS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(ROWS_MAX)))]
    pub limit: u32,
}

/// Prints the latest rows that the arguments select; `open` opens the store in the state folder.
///
/// *Errors*: the store cannot be read (exit code 1), damaged batches (5).
pub fn run<H: History>(
    args: &QueryArgs,
    open: impl FnOnce(&Path) -> Result<H, CommandError>,
) -> Result<ExitCode, CommandError> {
    let state_dir = args.state.resolve();
    let history = open(&state_dir)?;
    let selection = Selection::of(&args.selection, clock::wall_micros());
    let mut damage = Damage::default();
    let limit = args.limit as usize;
    let text = if args.selection.readings {
        let rows = history.readings(&selection).map_err(unreadable)?;
        let mut latest = VecDeque::with_capacity(limit);
        damage.visit(
            rows,
            None,
            |row| selection.has_reading(row),
            |row| {
                push_latest(&mut latest, row, limit);
                Ok(())
            },
        )?;
        reading_table(&latest)
    } else {
        let rows = history.predictions(&selection).map_err(unreadable)?;
        let mut latest = VecDeque::with_capacity(limit);
        damage.visit(
            rows,
            None,
            |row| selection.has_prediction(row),
            |row| {
                push_latest(&mut latest, row, limit);
                Ok(())
            },
        )?;
        prediction_table(&latest)
    };
    print(&text)?;
    damage.settle(&StatusClient::new(&state_dir))?;
    Ok(ExitCode::SUCCESS)
}

fn push_latest<R>(latest: &mut VecDeque<R>, row: R, limit: usize) {
    if latest.len() == limit {
        latest.pop_front();
    }
    latest.push_back(row);
}

/// Returns predictions as a table.
#[must_use]
pub fn prediction_table<'r>(rows: impl IntoIterator<Item = &'r PredictionRow>) -> String {
    let mut table = new_table(&["window end", "model", "key", "outputs", "label", "quality"]);
    for row in rows {
        let outputs: Vec<String> = row
            .identity
            .outputs
            .iter()
            .map(|(name, _)| format!("{name} {}", numbers(values_of(&row.identity, &row.outputs, name))))
            .collect();
        table.add_row([
            time_text(row.window_end_us),
            cell(&row.identity.model),
            cell(&tags_text(&row.identity.key)),
            if row.flags.is_valid() { cell(&outputs.join(", ")) } else { "none".to_owned() },
            cell(row.label.as_deref().unwrap_or("-")),
            row.flags.names().collect::<Vec<_>>().join(" "),
        ]);
    }
    ended(&table)
}

/// Returns readings as a table.
#[must_use]
pub fn reading_table<'r>(rows: impl IntoIterator<Item = &'r ReadingRow>) -> String {
    let mut table = new_table(&["event time", "source", "tags", "values"]);
    for row in rows {
        let values = row.series.fields.iter().zip(&row.values);
        let values: Vec<String> = values
            .map(
                |(field, value)| {
                    if value.is_nan() { format!("{field} -") } else { format!("{field} {value}") }
                },
            )
            .collect();
        table.add_row([
            time_text(row.event_us),
            cell(&row.series.source),
            cell(&tags_text(&row.series.tags)),
            cell(&values.join(", ")),
        ]);
    }
    ended(&table)
}

fn ended(table: &comfy_table::Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn numbers(values: &[f32]) -> String {
    let mut shown: Vec<String> =
        values.iter().take(VALUES_SHOWN).map(|value| format!("{value:.4}")).collect();
    if values.len() > VALUES_SHOWN {
        shown.push("…".to_owned());
    }
    shown.join(" ")
}

fn cell(text: &str) -> String {
    shortened(text, CELL_CHARS_MAX)
}
