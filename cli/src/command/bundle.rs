//! `dunlin bundle`: sites without a network. Releases go out in one file, results come back in another.
//!
//! Exports only what the verifier accepts; the same repository gives the same bytes. What comes back is judged by the server.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use dunlin_kit::atomic_file;
use dunlin_model_package::bundle::{BundleError, BundleWriter, in_order};
use dunlin_model_package::{RepositoryPath, RepositorySource};

use super::CommandError;
use super::results::{self, ImportResultsArguments};
use super::trust_arguments::now;
use crate::fleet::profile::ServerArguments;
use crate::fleet::served::ServedRepository;
use crate::verification::{self, Verdict};
use crate::{print, workspace, workspace::Workspace};

/// Carries releases to sites without a network, and results back.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Write one file that `dunlind import` reads, with all metadata and some or all releases.
    Export(ExportArguments),
    /// Bring the server what `dunlind export-results` wrote on gateways.
    ImportResults(ImportResultsArguments),
}

/// Arguments of `dunlin bundle export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Release to put in, as MODEL or MODEL@VERSION; may be given more than once [default: all].
    #[arg(long, value_name = "MODEL[@VERSION]")]
    model: Vec<String>,
    /// File to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Take what is published at the fleet server, with what it signed last, in place of a folder; needs no key.
    #[arg(long, conflicts_with = "trust")]
    from_server: bool,
    #[command(flatten)]
    server: ServerArguments,
    /// Folder with `metadata/` [default: $DUNLIN_TRUST, or ./trust].
    #[arg(long, value_name = "DIR")]
    trust: Option<PathBuf>,
}

impl BundleCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the command.
    pub fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Export(arguments) => export(&arguments),
            Self::ImportResults(arguments) => results::run(&arguments),
        }
    }
}

fn export(arguments: &ExportArguments) -> Result<(), CommandError> {
    if arguments.from_server {
        let client = arguments.server.client()?;
        return write(arguments, &ServedRepository::of(&client)?);
    }
    let workspace = Workspace::open(&workspace::folder(arguments.trust.as_deref()))?;
    write(arguments, &workspace.source())
}

fn write(arguments: &ExportArguments, source: &dyn RepositorySource) -> Result<(), CommandError> {
    let models = &arguments.model;
    let is_chosen = |target: &str| models.is_empty() || models.iter().any(|wanted| is_named(target, wanted));
    // Of a server, what is not wanted is not fetched.
    let verdict = match arguments.from_server {
        true => verification::verify_chosen(source, now()?, &is_chosen),
        false => verification::verify(source, now()?),
    };
    let verdict = verdict.map_err(|failure| {
        CommandError::CheckFailed(format!("what was signed is not good, nothing was written: {failure}"))
    })?;
    let (paths, releases) = chosen(&verdict, models)?;
    let failed = |e: BundleError| {
        CommandError::failed(format!("cannot write bundle `{}`", arguments.output.display()), e)
    };
    // A pipe into the one atomic write would need a thread; a bundle of models fits a file beside it.
    let mut temporary =
        tempfile::tempfile().map_err(|e| CommandError::failed("cannot make a temporary file", e))?;
    let mut writer = BundleWriter::new(&mut temporary);
    for path in paths {
        let missing = || CommandError::NotFound(format!("`{path}` is missing"));
        let unreadable = |e| CommandError::failed(format!("cannot read `{path}`"), e);
        let length = source.length(&path).map_err(unreadable)?.ok_or_else(missing)?;
        let mut content = source.reader_at(&path, 0).map_err(unreadable)?.ok_or_else(missing)?;
        writer.add(path.clone(), length, &mut content).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    std::io::Seek::rewind(&mut temporary)
        .and_then(|()| atomic_file::write_from(&arguments.output, &mut temporary, 0o644))
        .map_err(|e| failed(e.into()))?;
    print::line(&format!("wrote {releases} releases to `{}`", arguments.output.display()));
    print::note("next: carry the file to a gateway and run `dunlind import FILE` there");
    Ok(())
}

/// Returns the paths of the bundle in order, and the number of releases in it.
fn chosen(verdict: &Verdict, models: &[String]) -> Result<(Vec<RepositoryPath>, usize), CommandError> {
    let mut paths: BTreeSet<RepositoryPath> = BTreeSet::new();
    for name in verdict.metadata.keys() {
        paths.extend(format!("metadata/{name}").parse::<RepositoryPath>());
    }
    let mut releases = BTreeSet::new();
    if models.is_empty() {
        releases.extend(verdict.targets.keys());
    }
    for wanted in models {
        let named = verdict.targets.iter().filter(|(target, _)| is_named(target, wanted));
        let named: Vec<&String> = named.map(|(target, _)| target).collect();
        if named.is_empty() {
            let known: Vec<&str> = verdict.targets.keys().map(String::as_str).collect();
            return Err(CommandError::NotFound(format!(
                "no release `{wanted}` was signed; there are: {}",
                known.join(", ")
            )));
        }
        releases.extend(named);
    }
    for target in &releases {
        let (place, blobs) = &verdict.targets[*target];
        paths.insert(place.clone());
        paths.extend(blobs.iter().cloned());
    }
    Ok((in_order(paths), releases.len()))
}

/// Tells whether a target is a release of `MODEL` or `MODEL@VERSION`.
fn is_named(target: &str, wanted: &str) -> bool {
    let (model, version) = wanted.split_once('@').map_or((wanted, None), |(m, v)| (m, Some(v)));
    match target.split('/').collect::<Vec<_>>().as_slice() {
        ["models", m, v, "manifest.json"] => *m == model && version.is_none_or(|version| version == *v),
        _ => false,
    }
}
