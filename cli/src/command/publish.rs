//! `dunlin publish`: brings the fleet server, or a folder of a web server's or a stick's, to what was signed.
//!
//! Publishes only what the verifier accepts, file by file in an order that never breaks a reader. Run again after a
//! cut, it completes what is missing; run twice, it changes nothing. Never goes back to something older.

use std::path::{Path, PathBuf};

use clap::Args;
use dunlin_model_package::{RepositoryFolder, RepositoryPath};
use dunlin_trust::sign::repository::Refresh;

use super::CommandError;
use super::trust_arguments::{LifetimeArguments, TrustArguments, now, require_none_pending};
use crate::director::Director;
use crate::fleet::profile::ServerArguments;
use crate::fleet::repository;
use crate::publication::{self, Continuity};
use crate::verification;
use crate::{keyring::Keyring, print, workspace::Workspace};

/// A timestamp with less time left than this is worth a word.
const EXPIRES_SOON_SECONDS: i64 = 7 * 86_400;

/// Arguments of `dunlin publish`.
#[derive(Debug, Args)]
#[command(after_help = "\
Any static file server can serve the folder. The timestamp expires (in 30 days, unless `--timestamp-days` said \
otherwise): renew it in time with `dunlin publish --refresh --to FOLDER`. Gateways that find it expired keep what runs.")]
pub struct PublishArguments {
    /// Folder to publish to, in place of the fleet server; made where it is missing.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["server", "token_file", "ca_file"])]
    to: Option<PathBuf>,
    /// Make a new snapshot and timestamp first, so that they expire later; needs the online key.
    #[arg(long, requires = "to")]
    refresh: bool,
    /// Why, for the server's audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    lifetimes: LifetimeArguments,
}

/// Runs the command.
///
/// *Errors*: the verifier refuses what was signed, the folder holds something newer, a change waits for signatures.
pub fn run(arguments: &PublishArguments) -> Result<(), CommandError> {
    match &arguments.to {
        Some(to) => to_folder(arguments, to),
        None => to_server(arguments),
    }
}

/// A fleet server signs snapshot and timestamp itself.
fn to_server(arguments: &PublishArguments) -> Result<(), CommandError> {
    let client = arguments.server.client()?;
    let (mut workspace, _) = arguments.trust.open()?;
    let director = Director::open(&workspace)?;
    if director.waits() {
        let message = "a root of the director waits for signatures: add one with `dunlin sign --add`, or drop it with `dunlin sign --discard`";
        return Err(CommandError::Conflict(message.to_owned()));
    }
    let mut done = repository::publish(&client, &mut workspace, now()?, &arguments.reason)?;
    if !director.roots().is_empty() {
        let roots = repository::publish_director(&client, director.roots(), &arguments.reason)?;
        done.files.extend(roots.into_iter().map(|name| format!("director/{name}")));
    }
    let url = client.url();
    print::line(&match done.files.is_empty() && done.blobs == 0 {
        true => format!("{url} is up to date: {} releases", done.releases),
        false => format!(
            "published {} releases to {url}: {} signed files, {} manifests and files of packages",
            done.releases,
            done.files.len(),
            done.blobs
        ),
    });
    Ok(())
}

fn to_folder(arguments: &PublishArguments, to: &Path) -> Result<(), CommandError> {
    let (mut workspace, mut keyring) = arguments.trust.open()?;
    require_none_pending(&workspace)?;
    let now = now()?;
    if arguments.refresh {
        refresh(arguments, &mut workspace, &mut keyring)?;
    }
    let verdict = verification::verify(&workspace.source(), now).map_err(|failure| {
        CommandError::CheckFailed(format!("what was signed is not good, nothing was published: {failure}"))
    })?;
    let to = RepositoryFolder::new(to);
    publication::clear_leftover(&to)?;
    let plan = publication::plan(&verdict, &to, now)?;
    let (metadata, content): (Vec<_>, Vec<_>) = plan.writes.iter().partition(|path| path.is_metadata());
    for path in content {
        publication::write(&workspace.source(), path, &to)?;
    }
    let is_exchanged = plan.continuity == Continuity::Gap && publication::exchange(&verdict, &to)?;
    if plan.continuity == Continuity::Gap && !is_exchanged {
        print::note(
            "note: keys changed, and this file system cannot exchange folders: do not cut this, and do not read meanwhile",
        );
    }
    for path in metadata.into_iter().filter(|_| !is_exchanged) {
        publication::write(&workspace.source(), path, &to)?;
    }
    verification::verify(&to, now).map_err(|failure| {
        CommandError::CheckFailed(format!("the published folder is not good: {failure}"))
    })?;
    let blobs = plan.writes.iter().filter(|path| matches!(path, RepositoryPath::Blob(_))).count();
    print::line(&match plan.writes.len() {
        0 => format!("`{}` is up to date: {} releases", to.folder().display(), verdict.targets.len()),
        files => format!(
            "published {} releases to `{}`: {files} files written, {blobs} of them models and data",
            verdict.targets.len(),
            to.folder().display()
        ),
    });
    warn_of_expiry(&workspace, now.0);
    Ok(())
}

fn refresh(
    arguments: &PublishArguments,
    workspace: &mut Workspace,
    keyring: &mut Keyring,
) -> Result<(), CommandError> {
    let now = now()?;
    let lifetimes = arguments.lifetimes.lifetimes(keyring.purpose(), now);
    let Some(repository) = workspace.repository() else { return Ok(()) };
    let files = keyring.complete(repository, now, lifetimes, Refresh::Always)?;
    workspace.take(&files)
}

fn warn_of_expiry(workspace: &Workspace, now: i64) {
    let Some(repository) = workspace.repository() else { return };
    let snapshot = repository.snapshot().map(|role| ("snapshot", role.expires));
    let timestamp = repository.timestamp().map(|role| ("timestamp", role.expires));
    let targets = repository.targets("targets").map(|role| ("targets", role.expires));
    let root = Some(("root", repository.root().expires));
    for (role, expires) in [root, targets, snapshot, timestamp].into_iter().flatten() {
        if expires.0 - now < EXPIRES_SOON_SECONDS {
            let remedy = match role {
                "snapshot" | "timestamp" => "dunlin publish --refresh",
                "targets" => "dunlin keys renew targets",
                _ => "dunlin keys renew root",
            };
            print::note(&format!("warning: the {role} expires on {expires}; renew it with `{remedy}`"));
        }
    }
}
