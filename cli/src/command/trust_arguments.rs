//! The arguments that all commands with keys share: folder, key folders, passphrases, lifetimes.
//!
//! Turns arguments into opened things; does nothing with them.

use std::path::PathBuf;

use clap::Args;
use dunlin_kit::clock;
use dunlin_trust::sign::Development;
use dunlin_trust::sign::repository::{Lifetimes, Standing};
use dunlin_trust::time::UnixTime;

use super::CommandError;
use crate::director::{Director, Renewal, Term};
use crate::key_file::short;
use crate::keyring::{Keyring, Outcome};
use crate::passphrase::Passphrases;
use crate::print;
use crate::workspace::{self, Workspace};

/// Where keys and metadata are.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustArguments {
    /// Folder with `keys/` and `metadata/` [default: $DUNLIN_TRUST, or ./trust].
    #[arg(long, value_name = "DIR")]
    pub trust: Option<PathBuf>,
    /// Folder with key files, such as a stick; may be given more than once [default: `keys/` of the trust folder].
    #[arg(long, value_name = "DIR")]
    pub keys: Vec<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would become the help of the whole command")]
    pub passphrases: PassphraseArguments,
}

/// Where passphrases come from.
#[derive(Debug, Clone, Default, Args)]
pub struct PassphraseArguments {
    /// File with the passphrase, for all keys or for those of one role (root, targets, online); may be given more than
    /// once. Else $DUNLIN_PASSPHRASE, else the terminal.
    #[arg(long, value_name = "[ROLE=]FILE")]
    pub passphrase_file: Vec<String>,
}

/// How long new metadata are valid.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct LifetimeArguments {
    /// Days until a new root expires [default: 730].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    pub root_days: Option<u32>,
    /// Days until new targets metadata expire [default: 365].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    pub targets_days: Option<u32>,
    /// Days until a new snapshot expires [default: 90].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    pub snapshot_days: Option<u32>,
    /// Days until a new timestamp expires [default: 30].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    pub timestamp_days: Option<u32>,
}

/// Whether keys protect a fleet or are for trying things out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// They protect gateways.
    Fleet,
    /// Nothing expires before 2100.
    Development,
}

impl LifetimeArguments {
    /// Returns the lifetimes from now on.
    #[must_use]
    pub fn lifetimes(&self, purpose: Purpose, now: UnixTime) -> Lifetimes {
        let default = match purpose {
            Purpose::Fleet => Lifetimes::default(),
            Purpose::Development => {
                let days = u32::try_from((Development::EXPIRES.0 - now.0) / 86_400).unwrap_or(1).max(1);
                Lifetimes { root_days: days, targets_days: days, snapshot_days: days, timestamp_days: days }
            }
        };
        Lifetimes {
            root_days: self.root_days.unwrap_or(default.root_days),
            targets_days: self.targets_days.unwrap_or(default.targets_days),
            snapshot_days: self.snapshot_days.unwrap_or(default.snapshot_days),
            timestamp_days: self.timestamp_days.unwrap_or(default.timestamp_days),
        }
    }
}

impl TrustArguments {
    /// Opens the folder and finds the key files.
    ///
    /// *Errors*: there is no repository, or a key folder cannot be read.
    pub fn open(&self) -> Result<(Workspace, Keyring), CommandError> {
        let workspace = Workspace::open(&workspace::folder(self.trust.as_deref()))?;
        let keyring = self.keyring(&workspace)?;
        Ok((workspace, keyring))
    }

    /// Returns the folder that a new key goes to: the first one that was named, or the trust folder's own.
    #[must_use]
    pub fn new_key_folder(&self, workspace: &Workspace) -> PathBuf {
        match self.keys.first() {
            Some(named) if named.join("keys").is_dir() => named.join("keys"),
            Some(named) => named.clone(),
            None => workspace.keys(),
        }
    }

    fn keyring(&self, workspace: &Workspace) -> Result<Keyring, CommandError> {
        let own = workspace.keys();
        let folders = match self.keys.as_slice() {
            [] if own.is_dir() => vec![own],
            named => named.to_vec(),
        };
        Keyring::find(&folders, Passphrases::of(&self.passphrases.passphrase_file))
    }
}

/// Returns the time to sign at.
///
/// *Errors*: the clock was never set.
pub fn now() -> Result<UnixTime, CommandError> {
    let wall = clock::wall_micros();
    if clock::is_plausible(wall) {
        return Ok(UnixTime(wall / 1_000_000));
    }
    Err(CommandError::CheckFailed("this machine's clock is not set; set it, then sign".to_owned()))
}

/// Refuses to begin a change while another one waits.
///
/// *Errors*: conflict, with what to do.
pub fn require_none_pending(workspace: &Workspace) -> Result<(), CommandError> {
    match workspace.pending() {
        None => Ok(()),
        Some(files) => {
            let names: Vec<&str> = files.keys().map(String::as_str).collect();
            Err(CommandError::Conflict(format!(
                "a change ({}) waits for signatures: add one with `dunlin sign --add`, or drop it with `dunlin sign --discard`",
                names.join(", ")
            )))
        }
    }
}

/// Signs the director's next root after a change of the image repository's, where a server was adopted; returns what
/// became of both.
///
/// *Errors*: a root key of before is not at hand. The change itself is made then.
pub fn with_director(
    workspace: &Workspace,
    keyring: &mut Keyring,
    image: Outcome,
    renewal: Renewal,
    term: Term,
) -> Result<Outcome, CommandError> {
    let followed = Director::open(workspace)?.follow(workspace, keyring, renewal, term);
    let followed = followed.map_err(|error| {
        let message = "the root is signed, and the director's is not; `dunlin server adopt` signs it";
        CommandError::failed(message, error)
    })?;
    Ok(match followed {
        Some(director) => image.with(director),
        None => image,
    })
}

/// Says what became of a change and what to do next.
pub fn report(workspace: &Workspace, outcome: &Outcome) {
    let has_server = Director::open(workspace).is_ok_and(|director| !director.roots().is_empty());
    let folder = workspace.folder().display();
    if let Outcome::Waits(standings) = outcome {
        standings.iter().for_each(|standing| print::line(&standing_line(standing)));
    }
    print::note(&match outcome {
        outcome if outcome.lacks_signatures() => format!(
            "next: hand the folder `{folder}` (without `keys/`) to a keeper of an open key, who runs `dunlin sign --add`"
        ),
        _ if has_server => {
            "next: `dunlin publish` brings it to the fleet server, which adds snapshot and timestamp"
                .to_owned()
        }
        Outcome::Taken => "next: dunlin publish --to FOLDER".to_owned(),
        Outcome::Waits(_) => format!(
            "next: where the online key is, run `dunlin sign --add --trust {folder}`, which adds snapshot and timestamp"
        ),
    });
}

fn standing_line(standing: &Standing) -> String {
    let names = |ids: &[dunlin_trust::KeyId]| match ids {
        [] => "nobody".to_owned(),
        ids => ids.iter().map(short).collect::<Vec<_>>().join(", "),
    };
    let (file, signed) = (&standing.file, names(&standing.signed));
    match standing.missing {
        0 => format!("{file}: signed by {signed}"),
        missing => format!("{file}: signed by {signed}; needs {missing} more of {}", names(&standing.open)),
    }
}
