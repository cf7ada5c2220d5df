//! `dunlind replay`: recorded traffic through the mapping and the models, predictions to standard output.
//!
//! Reads one recorded message a line, hands each to the pipeline that `main` passes in, prints what comes out and
//! counts what was refused. Talks to no broker and writes no store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use dunlin_kit::clock;
use dunlin_model_package::golden::RecordedMessage;
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::refusal::Refusal;
use indicatif::{ProgressBar, ProgressStyle};

use crate::command::output::{Output, output_error};
use crate::command::{CommandError, note};
use crate::status::escape::shortened;

/// Longest line: the largest MQTT payload in hexadecimal is longer, but no sensor sends that.
pub const LINE_BYTES_MAX: usize = 16 << 20;
/// Longest detail of a refusal on standard error.
const DETAIL_CHARS_MAX: usize = 160;

/// Arguments of `dunlind replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// Recorded messages, one JSON object a line: `{"topic":"…","payload":"…","arrival_ms":…}`
    #[arg(value_name = "FILE.ndjson")]
    pub file: PathBuf,
    /// Configuration file with the sources and models
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Replaces a value of the configuration; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// What one step of a replay led to.
#[derive(Debug, Default)]
pub struct Replayed {
    /// JSON forms of predictions and alerts, each with a line end.
    pub lines: Vec<u8>,
    /// What was refused, with the name of the source where one had the topic.
    pub refusals: Vec<(Option<String>, Refusal)>,
}

/// The pipeline with its models, ready for messages: what the daemon runs, without broker and store.
pub trait ReplayPipeline {
    /// Takes a message and adds what it leads to.
    ///
    /// *Errors*: a model cannot be run at all; the replay stops.
    fn take(&mut self, message: &Message<'_>, found: &mut Replayed) -> Result<(), CommandError>;

    /// Ends the traffic: adds what still waited for later messages.
    ///
    /// *Errors*: as [`ReplayPipeline::take`].
    fn finish(&mut self, found: &mut Replayed) -> Result<(), CommandError>;
}

/// Replays a file; `start` makes the pipeline of the configuration.
///
/// *Errors*: the file cannot be read or has a line that is no message (exit code 1), or those of `start`.
pub fn run<P: ReplayPipeline>(
    args: &ReplayArgs,
    start: impl FnOnce(&ReplayArgs) -> Result<P, CommandError>,
) -> Result<ExitCode, CommandError> {
    let (input, bytes) = open(&args.file)?;
    let mut pipeline = start(args)?;
    let mut output = Output::standard();
    let progress = if output.is_terminal() { ProgressBar::hidden() } else { progress_bar(bytes) };
    let name = args.file.display().to_string();
    let tally = replay(&name, input, &mut pipeline, &mut output, &progress)?;
    progress.finish_and_clear();
    output.finish()?;
    note(&tally.text());
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> Result<(BufReader<File>, u64), CommandError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            CommandError::NotFound(format!("there is no file `{}`", path.display()))
        }
        _ => CommandError::failed(format!("cannot read `{}`", path.display()), error),
    })?;
    let bytes = file.metadata().map_or(0, |meta| meta.len());
    Ok((BufReader::with_capacity(64 * 1024, file), bytes))
}

fn progress_bar(bytes: u64) -> ProgressBar {
    // Draws to standard error, and only where that is a terminal.
    let style = ProgressStyle::with_template("{wide_bar} {percent}% {bytes_per_sec} {eta}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What a replay counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    messages: u64,
    lines: u64,
    /// Count and last detail by source and reason.
    refused: BTreeMap<(String, &'static str), (u64, String)>,
}

impl Tally {
    fn add(&mut self, found: &Replayed) {
        self.lines += found.lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        for (source, refusal) in &found.refusals {
            let source = source.clone().unwrap_or_else(|| "-".to_owned());
            let entry = self.refused.entry((source, refusal.reason.as_str())).or_default();
            entry.0 += 1;
            entry.1.clone_from(&refusal.detail);
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{} messages, {} predictions and alerts", self.messages, self.lines);
        for ((source, reason), (count, detail)) in &self.refused {
            let detail = shortened(detail, DETAIL_CHARS_MAX);
            text.push_str(&format!("\nrefused: source {source}, {reason}: {count} (last: {detail})"));
        }
        text
    }
}

fn replay(
    name: &str,
    mut input: impl BufRead,
    pipeline: &mut impl ReplayPipeline,
    output: &mut impl Write,
    progress: &ProgressBar,
) -> Result<Tally, CommandError> {
    let mut tally = Tally::default();
    let mut found = Replayed::default();
    let mut line = Vec::new();
    let mut number = 0_u64;
    let started_us = clock::wall_micros();
    loop {
        number += 1;
        let refuse = |reason: String| CommandError::Failed {
            message: format!("`{name}`, line {number}: {reason}"),
            source: None,
        };
        line.clear();
        let count = read_line(&mut input, &mut line).map_err(|error| refuse(error.to_string()))?;
        if count == 0 {
            break;
        }
        progress.inc(count as u64);
        if line.trim_ascii().is_empty() {
            continue;
        }
        let record: RecordedMessage = serde_json::from_slice(&line)
            .map_err(|error| refuse(format!("not a recorded message: {error}")))?;
        let payload = record.payload_bytes().map_err(refuse)?;
        let arrival_us = record.arrival_ms.map_or(started_us, |ms| ms.saturating_mul(1_000));
        let message = Message {
            broker: None,
            topic: &record.topic,
            payload: &payload,
            retained: record.retained,
            arrival_us,
            clock: ClockState::Set,
        };
        tally.messages += 1;
        pipeline.take(&message, &mut found)?;
        emit(&mut found, &mut tally, output)?;
    }
    pipeline.finish(&mut found)?;
    emit(&mut found, &mut tally, output)?;
    Ok(tally)
}

fn emit(found: &mut Replayed, tally: &mut Tally, output: &mut impl Write) -> Result<(), CommandError> {
    tally.add(found);
    output.write_all(&found.lines).map_err(output_error)?;
    found.lines.clear();
    found.refusals.clear();
    Ok(())
}

/// Reads a line with its end; returns its length, 0 at the end of the input.
///
/// *Errors*: those of reading, or the line is longer than [`LINE_BYTES_MAX`].
pub(crate) fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    use std::io::Read;
    let count = input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', line)?;
    if count > LINE_BYTES_MAX {
        return Err(std::io::Error::other(format!("longer than {LINE_BYTES_MAX} bytes")));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use dunlin_pipeline::refusal::Reason;

    use super::*;

    /// A pipeline that answers each payload with itself and refuses those that are empty.
    #[derive(Default)]
    struct Echo {
        arrivals: Vec<i64>,
    }

    impl ReplayPipeline for Echo {
        fn take(&mut self, message: &Message<'_>, found: &mut Replayed) -> Result<(), CommandError> {
            self.arrivals.push(message.arrival_us);
            if message.payload.is_empty() {
                found.refusals.push((Some("s".into()), Refusal::new(Reason::Syntax, "empty\u{1b}")));
            } else {
                found.lines.extend_from_slice(message.payload);
                found.lines.push(b'\n');
            }
            Ok(())
        }

        fn finish(&mut self, found: &mut Replayed) -> Result<(), CommandError> {
            found.lines.extend_from_slice(b"end\n");
            Ok(())
        }
    }

    fn replayed(input: &str) -> Result<(Tally, String, Echo), CommandError> {
        let mut pipeline = Echo::default();
        let mut output = Vec::new();
        let tally = replay("f", input.as_bytes(), &mut pipeline, &mut output, &ProgressBar::hidden())?;
        Ok((tally, String::from_utf8(output).unwrap(), pipeline))
    }

    #[test]
    fn messages_go_through_in_order_and_refusals_are_counted() {
        let (tally, output, pipeline) = replayed(
            "{\"topic\":\"a\",\"payload\":\"1\",\"arrival_ms\":5}\n\n\
             {\"topic\":\"a\",\"payload\":\"\",\"arrival_ms\":6}\n{\"topic\":\"a\",\"payload_hex\":\"32\",\"arrival_ms\":7}",
        )
        .unwrap();
        assert_eq!(output, "1\n2\nend\n");
        assert_eq!(pipeline.arrivals, [5_000, 6_000, 7_000]);
        assert_eq!(
            tally.text(),
            "3 messages, 3 predictions and alerts\nrefused: source s, syntax: 1 (last: empty\\u{1b})"
        );
    }

    #[test]
    fn a_line_that_is_no_message_is_named() {
        let error = replayed("{\"topic\":\"a\",\"payload\":\"1\"}\n{\"topic\":3}\n").err().unwrap();
        assert!(error.to_string().starts_with("`f`, line 2: not a recorded message"), "{error}");
    }

    #[test]
    fn a_line_without_end_is_not_taken_into_memory() {
        let endless = std::io::repeat(b'x');
        let mut line = Vec::new();
        assert!(read_line(&mut BufReader::new(endless), &mut line).is_err());
    }
}
