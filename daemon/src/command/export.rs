//! `dunlind export`: stored predictions or readings as CSV or JSON lines, while the daemon runs or not.
//!
//! Asks a running daemon to commit what has arrived, then streams the stored rows; changes nothing. A file appears
//! whole or not at all; damaged batches are left out, told of, and make the exit code 5.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use dunlin_pipeline::prediction::InstanceIdentity;
use indicatif::{ProgressBar, ProgressStyle};

use crate::command::csv_rows::{PredictionCsv, ReadingCsv, timed_by_text};
use crate::command::history::{Damage, History, PredictionRow, ReadingRow, Rows, unreadable};
use crate::command::output::{Output, output_error};
use crate::command::selection::{Selection, SelectionArgs};
use crate::command::{CommandError, StateDirArgs, note};
use crate::publication::{InstanceRenderer, PredictionParts, push_text, time_text};
use crate::status::client::{ClientError, StatusClient};

/// Arguments of `dunlind export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Where the daemon is
    #[command(flatten)]
    pub state: StateDirArgs,
    /// Which rows
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How they are written
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    pub format: ExportFormat,
    /// Write to this file, which appears when it is whole, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// At most this many rows, from the first
    #[arg(long, value_name = "ROWS")]
    pub limit: Option<u64>,
}

/// A format of `export`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// A table of one model or source.
    Csv,
    /// One JSON object a line, as published.
    Jsonl,
}

/// Exports stored rows; `open` opens the store in the state folder.
///
/// *Errors*: no such model or source (exit code 3), several of them in CSV (2), damaged batches (5), reading or writing
/// failed (1).
pub fn run<H: History>(
    args: &ExportArgs,
    open: impl FnOnce(&Path) -> Result<H, CommandError>,
) -> Result<ExitCode, CommandError> {
    let state_dir = args.state.resolve();
    let daemon = StatusClient::new(&state_dir);
    flush(&daemon);
    let history = open(&state_dir)?;
    let selection = Selection::of(&args.selection, clock::wall_micros());
    let output = match &args.output {
        Some(path) => Output::file(path)?,
        None => Output::standard(),
    };
    let progress = progress_bar(&output);
    let job =
        Job { history: &history, selection: &selection, format: args.format, limit: args.limit, progress };
    let mut damage = Damage::default();
    let output = if args.selection.readings {
        job.readings(output, &mut damage)?
    } else {
        job.predictions(output, &mut damage)?
    };
    job.progress.finish_and_clear();
    output.finish()?;
    damage.settle(&daemon)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks a running daemon to commit what has arrived; without one the store is complete as it is.
pub(crate) fn flush(daemon: &StatusClient) {
    match daemon.flush() {
        Ok(()) | Err(ClientError::NotRunning(_)) => {}
        Err(error) => {
            note(&format!("warning: the latest rows may not be committed yet: {}", Chain(&error)));
        }
    }
}

fn progress_bar(output: &Output) -> ProgressBar {
    if output.is_terminal() {
        return ProgressBar::hidden();
    }
    // Draws to standard error, and only where that is a terminal.
    let style = ProgressStyle::with_template("{spinner} {human_pos} rows, {per_sec}");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

/// Returns the failure of writing a table.
fn csv_error(error: csv::Error) -> CommandError {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => output_error(error),
        other => CommandError::Failed { message: format!("cannot write the table: {other:?}"), source: None },
    }
}

struct Job<'j, H: History> {
    history: &'j H,
    selection: &'j Selection,
    format: ExportFormat,
    limit: Option<u64>,
    progress: ProgressBar,
}

impl<H: History> Job<'_, H> {
    /// Hands on the rows to keep, up to the limit, and moves the progress bar with each.
    fn each<R>(
        &self,
        damage: &mut Damage,
        rows: Rows<'_, R>,
        keep: impl Fn(&R) -> bool,
        mut take: impl FnMut(R) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let counted = |row| {
            self.progress.inc(1);
            take(row)
        };
        damage.visit(rows, self.limit, keep, counted).map(drop)
    }

    fn predictions(&self, output: Output, damage: &mut Damage) -> Result<Output, CommandError> {
        let mut instances = self.history.instances().map_err(unreadable)?;
        let names: BTreeSet<String> = instances.iter().map(|instance| instance.model.clone()).collect();
        let wanted = chosen(Kind::Model, self.selection.model.as_deref(), &names)?;
        instances.retain(|instance| wanted.is_none_or(|model| instance.model == model));
        let rows = self.history.predictions(self.selection).map_err(unreadable)?;
        let keep = |row: &PredictionRow| self.selection.has_prediction(row);
        match self.format {
            ExportFormat::Csv => {
                one_alone(Kind::Model, &instances.iter().map(|i| i.model.as_str()).collect())?;
                let mut table = PredictionCsv::new(output, &instances).map_err(csv_error)?;
                self.each(damage, rows, keep, |row| table.write(&row).map_err(csv_error))?;
                table.finish().map_err(output_error)
            }
            ExportFormat::Jsonl => {
                let mut output = output;
                let mut lines = PredictionLines::default();
                self.each(damage, rows, keep, |row| {
                    output.write_all(lines.line(&row)).map_err(output_error)
                })?;
                Ok(output)
            }
        }
    }

    fn readings(&self, output: Output, damage: &mut Damage) -> Result<Output, CommandError> {
        let mut series = self.history.series().map_err(unreadable)?;
        let names: BTreeSet<String> = series.iter().map(|series| series.source.clone()).collect();
        let wanted = chosen(Kind::Source, self.selection.source.as_deref(), &names)?;
        series.retain(|series| wanted.is_none_or(|source| series.source == source));
        let rows = self.history.readings(self.selection).map_err(unreadable)?;
        let keep = |row: &ReadingRow| self.selection.has_reading(row);
        match self.format {
            ExportFormat::Csv => {
                one_alone(Kind::Source, &series.iter().map(|s| s.source.as_str()).collect())?;
                let mut table = ReadingCsv::new(output, &series).map_err(csv_error)?;
                self.each(damage, rows, keep, |row| table.write(&row).map_err(csv_error))?;
                table.finish().map_err(output_error)
            }
            ExportFormat::Jsonl => {
                let mut output = output;
                let mut line = Vec::new();
                self.each(damage, rows, keep, |row| {
                    line.clear();
                    push_reading(&mut line, &row);
                    output.write_all(&line).map_err(output_error)
                })?;
                Ok(output)
            }
        }
    }
}

/// What a table is of.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Source,
}

impl Kind {
    const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Model => ("model", "predictions", "--model"),
            Self::Source => ("source", "readings", "--source"),
        }
    }
}

fn listed<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Returns the name that was asked for, if any.
///
/// *Errors*: nothing is stored under it, or nothing at all.
fn chosen<'n>(
    kind: Kind,
    asked: Option<&'n str>,
    stored: &BTreeSet<String>,
) -> Result<Option<&'n str>, CommandError> {
    let (object, rows, _) = kind.words();
    if stored.is_empty() {
        return Err(CommandError::NotFound(format!("no {rows} are stored in this state folder")));
    }
    match asked {
        Some(name) if !stored.contains(name) => Err(CommandError::NotFound(format!(
            "no {rows} of {object} `{name}` are stored; stored are those of {}",
            listed(stored.iter().map(String::as_str))
        ))),
        asked => Ok(asked),
    }
}

/// *Errors*: a table would be of several models or sources.
fn one_alone(kind: Kind, names: &BTreeSet<&str>) -> Result<(), CommandError> {
    let (object, rows, option) = kind.words();
    if names.len() > 1 {
        return Err(CommandError::Usage(format!(
            "CSV holds the {rows} of one {object}; choose one by `{option}`: {}; or use `--format jsonl`",
            listed(names.iter().copied())
        )));
    }
    Ok(())
}

/// Renders predictions as published, with one renderer an instance.
#[derive(Default)]
struct PredictionLines {
    /// By address of the shared identity, which the entry keeps alive.
    renderers: HashMap<usize, (Arc<InstanceIdentity>, InstanceRenderer)>,
    line: Vec<u8>,
}

/// Renderers that are kept: more instances than one gateway has at a time; 1 kB each.
const RENDERERS_MAX: usize = 10_000;

impl PredictionLines {
    fn line(&mut self, row: &PredictionRow) -> &[u8] {
        if self.renderers.len() >= RENDERERS_MAX {
            self.renderers.clear();
        }
        let (_, renderer) = self.renderers.entry(Arc::as_ptr(&row.identity) as usize).or_insert_with(|| {
            let renderer = InstanceRenderer::new(&row.identity, String::new(), None);
            (Arc::clone(&row.identity), renderer)
        });
        let parts = PredictionParts {
            id: row.id,
            window_end_us: row.window_end_us,
            outputs: &row.outputs,
            label: row.label.as_deref(),
            flags: row.flags,
        };
        self.line.clear();
        renderer.render_parts(&parts, &mut self.line);
        self.line.push(b'\n');
        &self.line
    }
}

/// Appends `{"source","tags":{…},"event":"RFC 3339","timed_by","values":{field:number|null}}` and a line end.
fn push_reading(out: &mut Vec<u8>, row: &ReadingRow) {
    let values: BTreeMap<&str, f64> =
        row.series.fields.iter().map(String::as_str).zip(row.values.iter().copied()).collect();
    out.extend_from_slice(b"{\"source\":");
    push_text(out, &row.series.source);
    out.extend_from_slice(b",\"tags\":{");
    for (index, (tag, value)) in row.series.tags.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_text(out, tag);
        out.push(b':');
        push_text(out, value);
    }
    out.extend_from_slice(b"},\"event\":");
    push_text(out, &time_text(row.event_us));
    out.extend_from_slice(b",\"timed_by\":");
    push_text(out, timed_by_text(row.timed_by));
    out.extend_from_slice(b",\"values\":");
    serde_json::to_writer(&mut *out, &values).expect("numbers are always JSON, and a Vec takes every write");
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
#[path = "export/tests.rs"]
mod tests;
