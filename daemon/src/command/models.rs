//! `dunlind models`: which release of each model runs, which is being tried, and which failed and why.
//!
//! Asks the running daemon, or reads what it stored last; changes nothing but that `--end-safe-mode` ends safe mode.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::command::output::print;
use crate::command::{CommandError, StateDirArgs};
use crate::status::client::{ClientError, StatusClient};
use crate::status::escape::{shortened, terminal_safe};
use crate::store::slots::read_models;
use crate::store::{STATE_FILE, StoreError};
use crate::update::release::Release;
use crate::update::report::{CountsReport, ModelReport, ModelsReport};

/// Characters of a digest that are shown: enough to tell the releases of a gateway apart.
const DIGEST_CHARS: usize = 12;
/// Longest name, version or reason on a line.
const TEXT_CHARS_MAX: usize = 240;

/// Arguments of `dunlind models`.
#[derive(Debug, Clone, Args)]
pub struct ModelsArgs {
    /// Where the daemon is
    #[command(flatten)]
    pub state: StateDirArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// End safe mode: releases that are being tried run again
    #[arg(long)]
    pub end_safe_mode: bool,
}

/// Prints the models of the running daemon, or what it stored last.
///
/// *Errors*: no daemon ever ran with this state folder (exit code 3), `state.db` cannot be read, or writing failed.
pub fn run(args: &ModelsArgs) -> Result<ExitCode, CommandError> {
    let folder = args.state.resolve();
    let client = StatusClient::new(&folder);
    if args.end_safe_mode {
        client.end_safe_mode()?;
    }
    let report = match client.models() {
        Ok(report) => report,
        Err(error @ ClientError::NotRunning(_)) => {
            let stored = read_models(&folder).map_err(|error| unreadable(&folder, error))?;
            let Some(stored) = stored else { return Err(nothing_stored(&folder, error)) };
            ModelsReport::of(&stored, &[], None)
        }
        Err(error) => return Err(error.into()),
    };
    if args.json {
        let json = serde_json::to_string_pretty(&report);
        print(&(json.map_err(|error| CommandError::failed("cannot print the models", error))? + "\n"))?;
    } else {
        print(&render_models(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn nothing_stored(folder: &Path, error: ClientError) -> CommandError {
    let file = folder.join(STATE_FILE);
    if !file.exists() {
        return error.into();
    }
    CommandError::NotFound(format!(
        "`{}` holds no tables, as after a first start that was cut; start the daemon: it makes them, or says `state_lost`",
        file.display()
    ))
}

/// The daemon repairs the file at its start, or says what it goes on with.
fn unreadable(folder: &Path, error: StoreError) -> CommandError {
    let file = folder.join(STATE_FILE);
    let remedy = match error {
        StoreError::TooNew { .. } => "nothing was changed",
        _ => {
            "start the daemon: it puts the file in order, or says `state_lost` and goes on with what was good"
        }
    };
    CommandError::failed(
        format!("cannot read what is stored of the models in `{}`; {remedy}", file.display()),
        error,
    )
}

/// Returns the report as text, with a line end after the last line.
#[must_use]
pub fn render_models(report: &ModelsReport) -> String {
    let mut text = String::new();
    if !report.running {
        text.push_str("The daemon does not run; this is what it stored last.\n\n");
    }
    if report.safe_mode {
        text.push_str(
            "Safe mode: three starts did not become ready. Only good releases run; it ends after ten\n\
             minutes, or with `dunlind models --end-safe-mode`.\n\n",
        );
    }
    if let Some(why) = &report.state_lost {
        let why = shortened(why, TEXT_CHARS_MAX);
        let _ = writeln!(text, "state_lost: `state.db` cannot be used ({why}). No update is taken.\n");
    }
    for refused in &report.refused {
        let subject = refused.check.strip_prefix("model/").map_or_else(
            || "The last import".to_owned(),
            |model| format!("A release of `{}`", shortened(model, TEXT_CHARS_MAX)),
        );
        let at = refused.at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
        let cause = format!("{}: `{}` {}", refused.code, refused.object, refused.reason);
        let _ = writeln!(text, "{subject} was refused{at}: {}\n", shortened(&cause, TEXT_CHARS_MAX));
    }
    if report.models.is_empty() {
        text.push_str("No model is known.\n");
    }
    for (position, (name, model)) in report.models.iter().enumerate() {
        if position > 0 {
            text.push('\n');
        }
        push_model(&mut text, name, model);
    }
    text
}

fn push_model(text: &mut String, name: &str, model: &ModelReport) {
    let since = model.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    let _ = writeln!(text, "{}: {}{since}", shortened(name, TEXT_CHARS_MAX), terminal_safe(&model.phase));
    match &model.serving {
        Some(release) => field(text, "serving", &release_text(release)),
        None => field(text, "serving", "nothing: no release is good or on trial"),
    }
    if let Some(candidate) = &model.candidate {
        let tries = match candidate.tries_left {
            Some(left) => format!("{left} tries left"),
            None => format!("{} tries used", candidate.tries_used),
        };
        let phase = terminal_safe(&candidate.phase);
        field(text, "candidate", &format!("{}, {phase}, {tries}", release_text(&candidate.release)));
    }
    if let Some(active) = model.active.as_ref().filter(|active| model.serving.as_ref() != Some(*active)) {
        field(text, "active", &release_text(active));
    }
    if let Some(previous) = &model.previous {
        field(text, "previous", &release_text(previous));
    }
    for release in &model.withdrawn {
        let said =
            format!("{}: its owner does not name it any more; publish a newer one", release_text(release));
        field(text, "withdrawn", &said);
    }
    field(text, "floor", &format!("release {}", model.floor));
    for lane in &model.lanes {
        if let Some(counts) = &lane.counts {
            let version = shortened(&lane.release.version, TEXT_CHARS_MAX);
            field(text, terminal_safe(&lane.role).as_ref(), &format!("{version}: {}", counts_text(counts)));
        }
    }
    for bad in &model.bad {
        let at = bad.at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
        let detail = shortened(&bad.detail, TEXT_CHARS_MAX);
        let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
        let code = terminal_safe(&bad.code);
        field(text, "bad", &format!("{}: {code}{at}{detail}", release_text(&bad.release)));
    }
    if let Some(last) = &model.last {
        field(text, "last", &shortened(last, TEXT_CHARS_MAX));
    }
}

fn field(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<10} {value}");
}

/// Returns a release for people.
#[must_use]
pub fn release_text(release: &Release) -> String {
    let digest: String = release.digest.to_string().chars().take(DIGEST_CHARS).collect();
    format!("{} (release {}, {digest})", shortened(&release.version, TEXT_CHARS_MAX), release.counter)
}

fn counts_text(counts: &CountsReport) -> String {
    let CountsReport { predictions, invalid, failed, slow, abstained, compared, agreed, .. } = counts;
    let mut text = format!("{predictions} predictions, {invalid} invalid, {failed} failed, {slow} slow");
    if *abstained > 0 {
        let _ = write!(text, ", {abstained} abstained");
    }
    if *compared > 0 {
        let _ = write!(text, "; {agreed} of {compared} agree");
    }
    text
}

#[cfg(test)]
#[path = "models/tests.rs"]
mod tests;
