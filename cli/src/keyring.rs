//! The key files at hand, and the signatures they can give to a change.
//!
//! Opens no more keys than a change needs, so that nobody types a passphrase for nothing. Finishes a change when every
//! threshold is met; decides nothing about what is in it.

use std::path::{Path, PathBuf};

use dunlin_trust::KeyId;
use dunlin_trust::sign::SigningKey;
use dunlin_trust::sign::repository::{
    Files, Lifetimes, Refresh, Repository, SignError, Standing, add_signatures, standing,
};
use dunlin_trust::time::UnixTime;

use crate::command::CommandError;
use crate::command::trust_arguments::Purpose;
use crate::key_file::{KeyFile, short};
use crate::passphrase::Passphrases;
use crate::verification::{self, MetadataInMemory};
use crate::workspace::Workspace;

/// The key files in some folders.
#[derive(Debug)]
pub struct Keyring {
    files: Vec<KeyFile>,
    passphrases: Passphrases,
    opened: Vec<SigningKey>,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is part of the repository; publishing it is next.
    Taken,
    /// It waits for signatures, or for the online key.
    Waits(Vec<Standing>),
}

impl Outcome {
    /// Returns what became of two changes that belong together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Taken, other) | (other, Self::Taken) => other,
            (Self::Waits(mut open), Self::Waits(more)) => {
                open.extend(more);
                Self::Waits(open)
            }
        }
    }

    /// Tells whether a keeper of a key has to sign; where only an online key is missing, none has.
    #[must_use]
    pub fn lacks_signatures(&self) -> bool {
        matches!(self, Self::Waits(open) if open.iter().any(|standing| standing.missing > 0))
    }
}

impl Keyring {
    /// Finds the key files in these folders; a folder may also be one that holds them under `keys/`.
    ///
    /// *Errors*: a named folder is not there, or a file that ends in `.key` is no key file.
    pub fn find(folders: &[PathBuf], passphrases: Passphrases) -> Result<Self, CommandError> {
        let mut files: Vec<KeyFile> = Vec::new();
        for folder in folders {
            let nested = folder.join("keys");
            for path in key_paths(if nested.is_dir() { &nested } else { folder })? {
                let file = KeyFile::read(&path)
                    .map_err(|e| CommandError::failed("a key folder holds something else", e))?;
                if files.iter().all(|other| other.id() != file.id()) {
                    files.push(file);
                }
            }
        }
        Ok(Self { files, passphrases, opened: Vec::new() })
    }

    /// Returns the key files.
    #[must_use]
    pub fn files(&self) -> &[KeyFile] {
        &self.files
    }

    /// Returns where passphrases come from.
    #[must_use]
    pub const fn passphrases(&self) -> &Passphrases {
        &self.passphrases
    }

    /// Adds a key that was just made.
    pub fn add(&mut self, file: KeyFile, key: SigningKey) {
        self.files.push(file);
        self.opened.push(key);
    }

    /// Opens up to `count` of the keys with these names; keys that are open already count.
    ///
    /// *Errors*: a wrong passphrase, a damaged file.
    pub fn open(&mut self, ids: &[KeyId], count: usize) -> Result<usize, CommandError> {
        let mut open = self.opened.iter().filter(|key| ids.contains(&key.public().id())).count();
        for file in &self.files {
            if open >= count {
                break;
            }
            let id = file.id();
            if !ids.contains(&id) || self.opened.iter().any(|key| key.public().id() == id) {
                continue;
            }
            let passphrase = match file.is_encrypted {
                true => self.passphrases.of_key(&file.role, &file.path)?,
                false => Default::default(),
            };
            let key = file.open(&passphrase).map_err(|e| CommandError::failed("cannot open a key", e))?;
            self.opened.push(key);
            open += 1;
        }
        Ok(open)
    }

    /// Returns the opened keys.
    #[must_use]
    pub fn opened(&self) -> Vec<&SigningKey> {
        self.opened.iter().collect()
    }

    /// Leaves a key out, opened or not: it signs nothing.
    pub fn leave_out(&mut self, id: &KeyId) {
        self.files.retain(|file| file.id() != *id);
        self.opened.retain(|key| key.public().id() != *id);
    }

    /// Returns what the keys at hand are for: with an unencrypted one, nothing expires soon.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        match self.files.iter().all(|file| file.is_encrypted) {
            true => Purpose::Fleet,
            false => Purpose::Development,
        }
    }

    /// Signs the files of a change with as many keys as each still needs.
    ///
    /// *Errors*: a key cannot be opened, or none is at hand for a change that nobody can go on with.
    pub fn sign(&mut self, before: Option<&Repository>, change: &Files) -> Result<Files, CommandError> {
        let mut files = add_signatures(before, change, &self.opened()).map_err(refused)?;
        loop {
            let standings = standing(before, &files).map_err(refused)?;
            let mut has_opened = false;
            for open in standings.iter().filter(|standing| standing.missing > 0) {
                has_opened |= self.open(&open.open, 1)? > 0;
            }
            if !has_opened {
                let stuck = standings.iter().find(|standing| standing.missing > 0);
                return match stuck.filter(|_| files == *change) {
                    Some(standing) => Err(none_at_hand(standing)),
                    None => Ok(files),
                };
            }
            files = add_signatures(before, &files, &self.opened()).map_err(refused)?;
        }
    }

    /// Signs a change and, when every threshold is met and the online key is at hand, takes it into the repository;
    /// otherwise it waits. Nothing is written before every key has been opened and the result was verified.
    ///
    /// *Errors*: a key cannot be opened, or the verifier refuses the result; the folder is then as it was.
    pub fn finish(
        &mut self,
        workspace: &mut Workspace,
        change: &Files,
        now: UnixTime,
        lifetimes: Lifetimes,
    ) -> Result<Outcome, CommandError> {
        self.finish_with(workspace, change, now, lifetimes, &mut |_| Ok(()))
    }

    /// As [`Keyring::finish`]; `keep` stores what the change names, after every check and before the change itself.
    ///
    /// *Errors*: as [`Keyring::finish`], and those of `keep`.
    pub fn finish_with(
        &mut self,
        workspace: &mut Workspace,
        change: &Files,
        now: UnixTime,
        lifetimes: Lifetimes,
        keep: &mut dyn FnMut(&Workspace) -> Result<(), CommandError>,
    ) -> Result<Outcome, CommandError> {
        let signed = self.sign(workspace.repository(), change)?;
        let open = standing(workspace.repository(), &signed).map_err(refused)?;
        if open.iter().any(|standing| standing.missing > 0) {
            keep(workspace)?;
            workspace.wait(signed)?;
            return Ok(Outcome::Waits(open));
        }
        let mut all = workspace.metadata().clone();
        all.extend(signed.clone());
        let repository = Repository::read(&all).map_err(refused)?;
        match self.complete(&repository, now, lifetimes, Refresh::Needed) {
            Err(CommandError::NotFound(_)) => {
                keep(workspace)?;
                workspace.wait(signed)?;
                Ok(Outcome::Waits(open))
            }
            Err(error) => Err(error),
            Ok(online) => {
                all.extend(online.clone());
                verification::verify_metadata(&MetadataInMemory(all), now).map_err(|failure| {
                    CommandError::CheckFailed(format!(
                        "the change is not good, nothing was written: {failure}"
                    ))
                })?;
                keep(workspace)?;
                workspace.take(&signed.into_iter().chain(online).collect())?;
                Ok(Outcome::Taken)
            }
        }
    }

    /// Makes the snapshot and timestamp that a repository needs.
    ///
    /// *Errors*: not found where the online key is not at hand; a key cannot be opened.
    pub fn complete(
        &mut self,
        repository: &Repository,
        now: UnixTime,
        lifetimes: Lifetimes,
        refresh: Refresh,
    ) -> Result<Files, CommandError> {
        match repository.complete(&self.opened(), now, lifetimes, refresh) {
            Err(SignError::NoKey(_)) => {}
            result => return result.map_err(refused),
        }
        for role in ["snapshot", "timestamp"] {
            let (keys, _) = repository.authority(role).map_err(refused)?;
            let needed = keys.threshold as usize;
            if self.open(&keys.keyids, needed)? < needed {
                return Err(refused(SignError::NoKey(role.to_owned())));
            }
        }
        repository.complete(&self.opened(), now, lifetimes, refresh).map_err(refused)
    }
}

fn none_at_hand(standing: &Standing) -> CommandError {
    let keys: Vec<&str> = standing.open.iter().map(short).collect();
    CommandError::NotFound(format!(
        "`{}` needs {} more of the keys {}, and none of them is at hand; name their folder with `--keys`",
        standing.file,
        standing.missing,
        keys.join(", ")
    ))
}

/// Returns how a command ends that the signer refused.
#[must_use]
pub fn refused(error: SignError) -> CommandError {
    let message = error.to_string();
    match error {
        SignError::TargetExists(_) | SignError::Counter { .. } => CommandError::Conflict(message),
        SignError::NoSuchRole(_) | SignError::NoSuchTarget(_) | SignError::NoKey(_) | SignError::NoRoot => {
            CommandError::NotFound(message)
        }
        SignError::Threshold { .. } | SignError::Form(_) => CommandError::Usage(message),
        SignError::Metadata(_) | SignError::OutsideRole { .. } => CommandError::CheckFailed(message),
    }
}

fn key_paths(folder: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let failed = |e| CommandError::failed(format!("cannot read key folder `{}`", folder.display()), e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
