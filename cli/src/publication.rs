//! Publishing: bringing a folder from the repository it holds to the one that was signed.
//!
//! Plans which files are written and in which order, then writes each whole. Whoever reads meanwhile finds a repository
//! that the verifier accepts: the old one or the new one. Never goes back, and never removes what an older reader needs.

use std::path::Path;

use dunlin_model_package::{RepositoryFolder, RepositoryPath, RepositorySource};
use dunlin_trust::sign::repository::{Files, Repository};
use dunlin_trust::time::UnixTime;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::command::CommandError;
use crate::verification::{self, MetadataInMemory, Verdict};
use crate::workspace;

/// Whether a reader may come between two of the writes and find roots and metadata that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// Every state between two writes was judged good.
    Unbroken,
    /// No order of the writes is good for every reader: all metadata are to change at once, see [`exchange`].
    Gap,
}

/// The files to write, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Their paths.
    pub writes: Vec<RepositoryPath>,
    /// What a reader finds between the writes.
    pub continuity: Continuity,
}

/// Plans how `to` becomes what `verdict` holds.
///
/// *Errors*: conflict where `to` holds another repository, or a newer state.
pub fn plan(verdict: &Verdict, to: &RepositoryFolder, now: UnixTime) -> Result<Plan, CommandError> {
    let published = workspace::read_metadata(&to.folder().join("metadata"))?;
    require_ahead(&verdict.metadata, &published, to.folder())?;
    let mut content = Vec::new();
    for path in verdict.paths.iter().filter(|path| !path.is_metadata()) {
        if to.length(path).is_ok_and(|length| length.is_none()) || !is_whole(path, to) {
            content.push(path.clone());
        }
    }
    content.sort_by_key(|path| matches!(path, RepositoryPath::Manifest { .. }));
    let changed = |name: &&String| published.get(*name) != verdict.metadata.get(*name);
    let name_of = |kind: fn(&str) -> bool| -> Vec<String> {
        verdict.metadata.keys().filter(|name| kind(name)).filter(changed).cloned().collect()
    };
    let mut roots = name_of(is_root);
    roots.sort_by_key(|name| name.split('.').next().and_then(|version| version.parse::<u64>().ok()));
    let online = name_of(|name| !is_root(name) && name != "timestamp.json");
    let (snapshots, targets): (Vec<_>, Vec<_>) =
        online.into_iter().partition(|name| name.ends_with(".snapshot.json"));
    let timestamp = name_of(|name| name == "timestamp.json");
    let after = [targets, snapshots, timestamp].concat();
    // A reader takes every root first. Either the old metadata fit the new roots, or the new metadata the old ones.
    let is_first = !published.contains_key("timestamp.json");
    let accepted = |files: Files| verification::verify_metadata(&MetadataInMemory(files), now).is_ok();
    let with = |base: &Files, kind: fn(&str) -> bool| {
        let added = verdict.metadata.iter().filter(|(name, _)| kind(name));
        base.iter().chain(added).map(|(name, raw)| (name.clone(), raw.clone())).collect::<Files>()
    };
    let is_good_before = accepted(published.clone());
    let roots_first = is_first || !is_good_before || roots.is_empty() || accepted(with(&published, is_root));
    let roots_last = !roots_first && accepted(with(&published, |name| !is_root(name)));
    if is_good_before {
        verification::verify_step(&published, &verdict.metadata, now).map_err(|failure| {
            let folder = to.folder().display();
            CommandError::CheckFailed(format!(
                "a gateway that has read `{folder}` would refuse what was signed, nothing was published: {failure}"
            ))
        })?;
    }
    let metadata = if roots_last { [after, roots].concat() } else { [roots, after].concat() };
    let continuity = if roots_first || roots_last { Continuity::Unbroken } else { Continuity::Gap };
    let metadata = metadata.iter().filter_map(|name| format!("metadata/{name}").parse().ok());
    Ok(Plan { writes: content.into_iter().chain(metadata).collect(), continuity })
}

/// Writes one file of a plan.
///
/// *Errors*: those of the file system.
pub fn write(
    from: &dyn RepositorySource,
    path: &RepositoryPath,
    to: &RepositoryFolder,
) -> Result<(), CommandError> {
    workspace::copy(from, path, &to.place(path))
}

/// Removes what an exchange that was cut has left behind.
///
/// *Errors*: those of the file system.
pub fn clear_leftover(to: &RepositoryFolder) -> Result<(), CommandError> {
    workspace::remove_folder(&to.folder().join(".metadata"))
}

/// Puts all metadata in place at once, by exchanging two folders; what the folder held beside stays in it.
///
/// *Errors*: those of the file system. Returns false where it cannot exchange folders, as on many sticks: the files are
/// then to be written in the plan's order.
pub fn exchange(verdict: &Verdict, to: &RepositoryFolder) -> Result<bool, CommandError> {
    let (metadata, new) = (to.folder().join("metadata"), to.folder().join(".metadata"));
    let mut files = workspace::read_metadata(&metadata)?;
    files.extend(verdict.metadata.clone());
    clear_leftover(to)?;
    for (name, raw) in &files {
        workspace::write(&new.join(name), raw)?;
    }
    let exchanged = renameat2(AT_FDCWD, &new, AT_FDCWD, &metadata, RenameFlags::RENAME_EXCHANGE);
    // What is there under this name is the old folder, or one that is of no use.
    clear_leftover(to)?;
    match exchanged {
        Ok(()) => workspace::make_durable(to.folder()).map(|()| true),
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => {
            Err(CommandError::failed(format!("cannot exchange folder `{}`", metadata.display()), error))
        }
    }
}

fn require_ahead(ours: &Files, published: &Files, folder: &Path) -> Result<(), CommandError> {
    if published.is_empty() {
        return Ok(());
    }
    let folder = folder.display();
    if ours.get("1.root.json") != published.get("1.root.json") {
        return Err(CommandError::Conflict(format!(
            "`{folder}` holds a repository with another first root; publish to another folder"
        )));
    }
    for (name, raw) in published {
        // Numbered files never change.
        if name != "timestamp.json" && ours.get(name).is_some_and(|other| other != raw) {
            return Err(CommandError::Conflict(format!(
                "`{folder}` holds another `{name}` than was signed here: two folders were signed in; keep one"
            )));
        }
        if is_root(name) && !ours.contains_key(name) {
            return Err(newer(name, &folder.to_string()));
        }
    }
    // What was published by a cut command may lack its timestamp: only a readable one is compared.
    let (Ok(ours), Ok(theirs)) = (Repository::read(ours), Repository::read(published)) else { return Ok(()) };
    let version = |repository: &Repository| repository.timestamp().map_or(0, |timestamp| timestamp.version);
    let differs = ours.timestamp() != theirs.timestamp();
    if version(&theirs) > version(&ours) || (version(&theirs) == version(&ours) && differs) {
        return Err(newer("timestamp.json", &folder.to_string()));
    }
    Ok(())
}

fn newer(name: &str, folder: &str) -> CommandError {
    CommandError::Conflict(format!(
        "`{folder}` holds a newer `{name}` than this one: publishing never goes back; use the folder that was last signed in"
    ))
}

fn is_root(name: &str) -> bool {
    name.ends_with(".root.json")
}

/// Tells whether a published file has the contents that its name says.
fn is_whole(path: &RepositoryPath, source: &RepositoryFolder) -> bool {
    let (RepositoryPath::Blob(sha256) | RepositoryPath::Manifest { sha256, .. }) = path else { return false };
    let bytes = source.read(path, dunlin_model_package::package::BLOB_BYTES_MAX);
    matches!(bytes, Ok(Some(bytes)) if dunlin_kit::digest::Digest::of(&bytes) == *sha256)
}
