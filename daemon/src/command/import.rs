//! `dunlind import`: takes releases from a bundle or the folder of a repository.
//!
//! Hands the path to the running daemon and tells how far it is; without one it verifies and fetches by itself under the
//! folder's lock, and the next start does the rest. Decides nothing about trust.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use dunlin_kit::error_chain::Chain;

use crate::command::offline::CONFIG_DEFAULT;
use crate::command::output::print;
use crate::command::{CommandError, StateDirArgs, note};
use crate::config::{self, LoadRequest, process_environment};
use crate::status::client::{ClientError, StatusClient};
use crate::store::{FolderLock, StoreError, TrustStore};
use crate::update::import::{Found, ImportError};
use crate::update::import_desk::{Again, Asker, ImportReport, ModelProgress};
use crate::update::importer::{ImportFailure, ImportSettings, fetch_release, import_place, progress_of};
use crate::update::trust_state::Clocks;

/// Arguments of `dunlind import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// A bundle of `dunlin bundle export`, or the folder of a repository
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Where the daemon is
    #[command(flatten)]
    pub state: StateDirArgs,
    /// Configuration file, for when no daemon runs
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    pub config: PathBuf,
    /// Try releases again that were found bad on this gateway
    #[arg(long)]
    pub retry: bool,
    /// Wait until each release is good, bad or refused; exit code 5 for the last two
    #[arg(long)]
    pub wait: bool,
    /// Print the last report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Imports a bundle or repository.
///
/// *Errors*: it is not there (exit code 3), refused or found bad (5), or something failed (1).
pub fn run(args: &ImportArgs) -> Result<ExitCode, CommandError> {
    run_in(args, process_environment())
}

/// Imports with these variables in place of the process's own.
fn run_in(args: &ImportArgs, environment: Vec<(String, String)>) -> Result<ExitCode, CommandError> {
    let place = std::path::absolute(&args.path)
        .map_err(|error| CommandError::failed("cannot find the present folder", error))?;
    if place.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Err(CommandError::NotFound(format!("there is no `{}`", place.display())));
    }
    let again = if args.retry { Again::Retry } else { Again::Never };
    let client = StatusClient::new(&args.state.resolve());
    let report = match client.import(&place, again) {
        Ok(import) => follow(&client, import, args)?,
        Err(ClientError::NotRunning(_)) => import_alone(args, &place, environment)?,
        Err(error) => return Err(error.into()),
    };
    if args.json {
        let json = serde_json::to_string_pretty(&report);
        print(&(json.map_err(|error| CommandError::failed("cannot print the report", error))? + "\n"))?;
    }
    verdict(&report)
}

/// Tells how far the daemon is until its import has ended, or all of its releases have.
fn follow(client: &StatusClient, import: u64, args: &ImportArgs) -> Result<ImportReport, CommandError> {
    let mut told = BTreeMap::new();
    let mut after = 0;
    loop {
        let report = client.import_progress(after)?;
        if report.import != import {
            return Err(CommandError::Failed {
                message: "another import took the place of this one; see `dunlind status`".to_owned(),
                source: None,
            });
        }
        after = report.revision;
        tell(&report, &mut told, args)?;
        let is_settled = report.models.values().all(ModelProgress::is_settled);
        if report.ended && (!args.wait || is_settled) {
            return Ok(report);
        }
    }
}

/// Prints what is new in a report, a line a phase.
fn tell(
    report: &ImportReport,
    told: &mut BTreeMap<String, String>,
    args: &ImportArgs,
) -> Result<(), CommandError> {
    for (model, progress) in &report.models {
        let last = told.insert(model.clone(), progress.phase.clone());
        if last.as_ref() != Some(&progress.phase) && !args.json {
            print(&line(model, progress))?;
        }
    }
    for model in report.passed_over.iter().filter(|_| !args.json) {
        if told.insert(model.clone(), "passed over".to_owned()).is_none() {
            note(&format!("`{model}` is not configured here and is passed over"));
        }
    }
    Ok(())
}

fn line(model: &str, progress: &ModelProgress) -> String {
    let release = if progress.counter == 0 {
        model.to_owned()
    } else {
        format!("{model} {} (release {})", progress.version, progress.counter)
    };
    let more = match (&progress.cause, progress.phase.as_str()) {
        (Some(cause), _) => format!(": {cause}"),
        (None, "shadow" | "trial") => ", until enough live readings came: see `dunlind models`".to_owned(),
        (None, _) => String::new(),
    };
    format!("{release}: {}{more}\n", progress.phase)
}

fn verdict(report: &ImportReport) -> Result<ExitCode, CommandError> {
    if let Some(failed) = &report.failed {
        return Err(CommandError::Failed { message: failed.clone(), source: None });
    }
    if let Some(refusal) = &report.refused {
        return Err(CommandError::CheckFailed(format!("the import is refused: {refusal}")));
    }
    let stopped = report.models.iter().find(|(_, progress)| progress.cause.is_some());
    match stopped {
        Some((model, progress)) if matches!(progress.phase.as_str(), "bad" | "refused") => {
            let cause = progress.cause.clone().unwrap_or_default();
            Err(CommandError::CheckFailed(format!("model `{model}`: {}: {cause}", progress.phase)))
        }
        Some((model, progress)) => {
            let cause = progress.cause.clone().unwrap_or_default();
            Err(CommandError::Failed { message: format!("model `{model}`: {cause}"), source: None })
        }
        None if report.models.is_empty() => {
            Err(CommandError::NotFound("it holds no release of a configured model".to_owned()))
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Verifies and fetches without a daemon.
fn import_alone(
    args: &ImportArgs,
    place: &Path,
    environment: Vec<(String, String)>,
) -> Result<ImportReport, CommandError> {
    let loaded = config::load(&LoadRequest {
        file: args.config.clone(),
        set: Vec::new(),
        environment,
        state_dir: args.state.state_dir.clone(),
        overlay: None,
    })
    .map_err(|errors| CommandError::Configuration {
        message: format!("the configuration is refused\n{errors}"),
        source: None,
    })?;
    let settings = ImportSettings::of(&loaded.settings);
    let store_failed = |error: StoreError| CommandError::failed("cannot use the state folder", error);
    let lock = FolderLock::acquire(&settings.state_dir).map_err(store_failed)?;
    let mut store = TrustStore::open(&lock).map_err(store_failed)?;
    let mut report = ImportReport { import: 1, ended: true, ..ImportReport::default() };
    match import_place(&mut store, &settings, place, Asker::Operator, Clocks::read()) {
        Err(ImportFailure::Refused(refusal)) => report.refused = Some(refusal),
        Err(ImportFailure::Failed(words)) => report.failed = Some(words),
        Ok(imported) => {
            report.models = progress_of(&imported);
            report.passed_over.clone_from(&imported.passed_over);
            for (model, found) in &imported.found {
                let (Found::Release(release), Some(progress)) = (found, report.models.get_mut(model)) else {
                    continue;
                };
                let fetched = fetch_release(&mut store, &settings, release, &mut |bytes| {
                    progress.copied_bytes += bytes;
                });
                match fetched {
                    Ok(_) => "verified".clone_into(&mut progress.phase),
                    Err(error) => {
                        let is_refused = matches!(error, ImportError::Refused(_));
                        if is_refused {
                            "refused".clone_into(&mut progress.phase);
                        }
                        progress.cause = Some(Chain(&error).to_string());
                    }
                }
            }
        }
    }
    tell(&report, &mut BTreeMap::new(), args)?;
    if report.models.values().any(|progress| progress.phase == "verified") {
        note("no daemon runs: what is verified is tried once one starts");
    }
    Ok(report)
}

#[cfg(test)]
mod tests;
