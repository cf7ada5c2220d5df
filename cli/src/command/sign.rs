//! `dunlin sign`: approves a model package or a file of settings, adds a signature to a waiting change, or drops it.
//!
//! Reads the package as a gateway would and refuses what a gateway would refuse. Never publishes.

use std::path::{Path, PathBuf};

use clap::Args;
use dunlin_kit::digest::Digest;
use dunlin_model_package::{Package, RepositoryPath};
use dunlin_trust::sign::change::Change;

use super::CommandError;
use super::package::approve;
use super::trust_arguments::{LifetimeArguments, TrustArguments, now, report, require_none_pending};
use crate::director::Director;
use crate::keyring::{Keyring, Outcome, refused};
use crate::print;
use crate::workspace::Workspace;

/// Arguments of `dunlin sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
Where several targets keys must approve a model, the first keeper runs `dunlin sign PACKAGE` and hands the trust folder \
on (without `keys/`); each next one runs `dunlin sign --add --keys THEIR_FOLDER`. What is incomplete is not published.")]
pub struct SignArguments {
    /// Folder of the package: `manifest.json` and the files it names.
    #[arg(required_unless_present_any = ["add", "discard", "settings"], conflicts_with_all = ["add", "discard"])]
    package: Option<PathBuf>,
    /// Approve a file of settings for gateways, as in `night.toml`, in place of a package; `dunlin rollout start --settings` gives
    /// it to them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["add", "discard", "package"])]
    settings: Option<PathBuf>,
    /// Add a signature to the change that waits for some.
    #[arg(long, conflicts_with = "discard")]
    add: bool,
    /// Drop the change that waits for signatures.
    #[arg(long)]
    discard: bool,
    /// Role to sign as: a team that models were delegated to.
    #[arg(long, default_value = "targets")]
    role: String,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    lifetimes: LifetimeArguments,
}

/// Runs the command.
///
/// *Errors*: the package is refused, its counter is not above the last one, a key is missing.
pub fn run(arguments: &SignArguments) -> Result<(), CommandError> {
    let (mut workspace, mut keyring) = arguments.trust.open()?;
    let mut director = Director::open(&workspace)?;
    let is_new = arguments.package.is_some() || arguments.settings.is_some();
    if !is_new && workspace.pending().is_none() && !director.waits() {
        return Err(CommandError::NotFound("no change waits for signatures".to_owned()));
    }
    if arguments.discard {
        workspace.discard()?;
        director.discard()?;
        print::line("dropped the change that waited for signatures");
        return Ok(());
    }
    let outcome = match (&arguments.package, &arguments.settings) {
        (Some(folder), _) => sign(folder, arguments, &mut workspace, &mut keyring)?,
        (None, Some(file)) => sign_settings(file, arguments, &mut workspace, &mut keyring)?,
        (None, None) => add(arguments, &mut workspace, &mut director, &mut keyring)?,
    };
    report(&workspace, &outcome);
    Ok(())
}

/// Adds signatures to whatever waits: a change of the repository, a root of the director, or both.
fn add(
    arguments: &SignArguments,
    workspace: &mut Workspace,
    director: &mut Director,
    keyring: &mut Keyring,
) -> Result<Outcome, CommandError> {
    let now = now()?;
    let lifetimes = arguments.lifetimes.lifetimes(keyring.purpose(), now);
    let pending = workspace.pending().cloned();
    let change = pending.as_ref().map(|change| keyring.finish(workspace, change, now, lifetimes));
    let root = director.add(keyring).transpose();
    if let (Some(Ok(Outcome::Taken)), Some(change)) = (&change, &pending) {
        let names: Vec<&str> = change.keys().map(String::as_str).collect();
        print::line(&format!("complete: {}", names.join(", ")));
    }
    match (change, root) {
        (Some(change), None) => change,
        (None, Some(root)) => root,
        (Some(change), Some(root)) => either(change, root),
        (None, None) => Ok(Outcome::Taken),
    }
}

/// Returns what became of both; that one needs other keys than those at hand is no failure where the other got a signature.
fn either(
    change: Result<Outcome, CommandError>,
    root: Result<Outcome, CommandError>,
) -> Result<Outcome, CommandError> {
    match (change, root) {
        (Ok(change), Ok(root)) => Ok(change.with(root)),
        (Ok(done), Err(CommandError::NotFound(open))) | (Err(CommandError::NotFound(open)), Ok(done)) => {
            print::note(&format!("note: {open}"));
            Ok(done)
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn sign(
    folder: &Path,
    arguments: &SignArguments,
    workspace: &mut Workspace,
    keyring: &mut Keyring,
) -> Result<Outcome, CommandError> {
    require_none_pending(workspace)?;
    let now = now()?;
    let package = open_package(folder)?;
    let (manifest, digest) = (package.manifest(), package.digest());
    let refuse =
        |reason: String| CommandError::CheckFailed(format!("package `{}` {reason}", folder.display()));
    let target = manifest.target_path();
    let place =
        RepositoryPath::of_target(&target, digest).ok_or_else(|| refuse("has no place".to_owned()))?;
    let text = std::fs::read(folder.join("manifest.json")).map_err(|e| {
        CommandError::failed(format!("cannot read the manifest of `{}`", folder.display()), e)
    })?;
    if Digest::of(&text) != digest {
        return Err(refuse("changed while it was read".to_owned()));
    }
    let note = manifest.release_note();
    let lifetimes = arguments.lifetimes.lifetimes(keyring.purpose(), now);
    let before = workspace.repository().cloned();
    let before =
        before.as_ref().ok_or_else(|| CommandError::NotFound("there is no repository".to_owned()))?;
    let mut change = Change::of(before, now, lifetimes);
    change.add_release(&arguments.role, &target, &text, &note).map_err(refused)?;
    let files = change.files(&[]).map_err(refused)?;
    let outcome = keyring.finish_with(workspace, &files, now, lifetimes, &mut |workspace| {
        for (name, spec) in &manifest.blobs {
            let bytes = package.read_blob(name).map_err(|e| {
                CommandError::failed(format!("cannot read package `{}`", folder.display()), e)
            })?;
            workspace.keep(&RepositoryPath::Blob(spec.sha256), &bytes)?;
        }
        workspace.keep(&place, &text)
    })?;
    print::line(&format!(
        "{} {} (release counter {}), manifest {}",
        if is_approved(&outcome) { "signed" } else { "signed in part:" },
        target,
        note.release_counter,
        digest
    ));
    Ok(outcome)
}

/// Longest file of settings that gateways take.
const SETTINGS_BYTES_MAX: u64 = 64 << 10;

/// Approves a file of settings under its own name. What gateways make of it only they can say: they know their sources.
fn sign_settings(
    file: &Path,
    arguments: &SignArguments,
    workspace: &mut Workspace,
    keyring: &mut Keyring,
) -> Result<Outcome, CommandError> {
    require_none_pending(workspace)?;
    let shown = file.display();
    let refuse = |reason: &str| CommandError::CheckFailed(format!("settings `{shown}` {reason}"));
    let name = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".toml"));
    let target = name.and_then(RepositoryPath::settings_target).ok_or_else(|| {
        refuse("need a name of lower-case letters, digits, `-`, `_` and `.`, and the ending `.toml`")
    })?;
    let cannot = |e| CommandError::failed(format!("cannot read `{shown}`"), e);
    if std::fs::metadata(file).map_err(cannot)?.len() > SETTINGS_BYTES_MAX {
        return Err(refuse(&format!("are longer than {SETTINGS_BYTES_MAX} bytes")));
    }
    let content = std::fs::read(file).map_err(cannot)?;
    let text = std::str::from_utf8(&content).map_err(|_| refuse("are no UTF-8 text"))?;
    if let Err(error) = text.parse::<toml::Table>() {
        return Err(refuse(&format!("are no TOML: {}", error.message())));
    }
    let now = now()?;
    let lifetimes = arguments.lifetimes.lifetimes(keyring.purpose(), now);
    let before = workspace.repository().cloned();
    let before =
        before.as_ref().ok_or_else(|| CommandError::NotFound("there is no repository".to_owned()))?;
    let mut change = Change::of(before, now, lifetimes);
    change.put_file(&arguments.role, &target, &content).map_err(refused)?;
    let files = change.files(&[]).map_err(refused)?;
    let digest = Digest::of(&content);
    let outcome = keyring.finish_with(workspace, &files, now, lifetimes, &mut |workspace| {
        workspace.keep(&RepositoryPath::Blob(digest), &content)
    })?;
    let done = if is_approved(&outcome) { "signed" } else { "signed in part:" };
    print::line(&format!("{done} {target}, {digest}"));
    Ok(outcome)
}

/// Tells whether everybody has signed who must; snapshot and timestamp may be still to come.
fn is_approved(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Taken => true,
        Outcome::Waits(standings) => standings.iter().all(|standing| standing.missing == 0),
    }
}

fn open_package(folder: &Path) -> Result<Package, CommandError> {
    if !folder.join("manifest.json").is_file() {
        let folder = folder.display();
        return Err(CommandError::NotFound(format!(
            "`{folder}` is no package: it has no `manifest.json`; build one with `dunlin package build`"
        )));
    }
    let check = |e: &dyn std::error::Error| {
        CommandError::CheckFailed(format!("package is refused: {}", dunlin_kit::error_chain::Chain(e)))
    };
    let package = approve(folder)?;
    package.golden().map_err(|e| check(&e))?;
    Ok(package)
}
