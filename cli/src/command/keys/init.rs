//! `dunlin keys init`: makes the keys of all roles and a repository that names nothing yet.
//!
//! Asks for everything before it writes anything. Never overwrites a key.

use std::path::{Path, PathBuf};

use clap::Args;
use dunlin_trust::PublicKey;
use dunlin_trust::sign::SigningKey;
use dunlin_trust::sign::change::{Change, RolePlan};
use dunlin_trust::time::UnixTime;
use zeroize::Zeroizing;

use crate::command::CommandError;
use crate::command::trust_arguments::{LifetimeArguments, PassphraseArguments, Purpose, now};
use crate::key_file::{self, KeyFile, short};
use crate::keyring::{Keyring, refused};
use crate::passphrase::Passphrases;
use crate::print;
use crate::workspace::{self, Workspace};

/// Most keys of a role: what people can keep apart.
const KEYS_MAX: i64 = 16;

/// Arguments of `dunlin keys init`.
#[derive(Debug, Args)]
#[command(after_help = "\
The root keys say which other keys count: keep them offline, on sticks in two places. The targets keys approve models. \
The online key, for snapshot and timestamp, only says what is newest. Key files may be moved: name their folders with \
`--keys` later. For a fleet, 2 of 3 root keys are a good choice: `--root-keys 3 --root-threshold 2`.")]
pub struct InitArguments {
    /// Folder to make [default: $DUNLIN_TRUST, or ./trust].
    dir: Option<PathBuf>,
    /// How many root keys to make.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=KEYS_MAX))]
    root_keys: u32,
    /// How many of them must sign a new root.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=KEYS_MAX))]
    root_threshold: u32,
    /// How many targets keys to make.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=KEYS_MAX))]
    targets_keys: u32,
    /// How many of them must approve a model.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=KEYS_MAX))]
    targets_threshold: u32,
    /// Folder for the root keys, such as a stick [default: DIR/keys].
    #[arg(long, value_name = "FOLDER")]
    root_folder: Option<PathBuf>,
    /// Make one key for all roles, without a passphrase, that does not expire before 2100: to try things out.
    #[arg(long, conflicts_with_all = ["root_keys", "root_threshold", "targets_keys", "targets_threshold", "root_folder", "passphrase_file"])]
    development: bool,
    #[command(flatten)]
    passphrases: PassphraseArguments,
    #[command(flatten)]
    lifetimes: LifetimeArguments,
}

/// A key that was made and is not stored yet.
struct NewKey {
    role: &'static str,
    folder: PathBuf,
    key: SigningKey,
    passphrase: Option<Zeroizing<String>>,
}

/// Runs the command.
///
/// *Errors*: there are keys already, a threshold above the number of keys, no passphrase.
pub fn run(arguments: &InitArguments) -> Result<(), CommandError> {
    let now = now()?;
    let folder = workspace::folder(arguments.dir.as_deref());
    let (purpose, new) = match arguments.development {
        true => (Purpose::Development, development_key(&folder)?),
        false => (Purpose::Fleet, fleet_keys(arguments, &folder)?),
    };
    let lifetimes = arguments.lifetimes.lifetimes(purpose, now);
    let change = Change::found(&plans(arguments, &new), now, lifetimes).map_err(refused)?;
    let mut workspace = Workspace::found(&folder)?;
    let mut keyring = Keyring::find(&[], Passphrases::default())?;
    for (file, new) in store(&new, now)?.into_iter().zip(new) {
        print::line(&format!("{} key {}: {}", new.role, short(&file.id()), file.path.display()));
        keyring.add(file, new.key);
    }
    let files = change.files(&keyring.opened()).map_err(refused)?;
    keyring.finish(&mut workspace, &files, now, lifetimes)?;
    let root = folder.join("metadata/1.root.json");
    print::line(&format!("root to trust: {}", root.display()));
    print::note(match purpose {
        Purpose::Fleet => {
            "next: copy the key files to another place, move the root keys offline, put the root on each gateway; then `dunlin sign PACKAGE`"
        }
        Purpose::Development => {
            "next: dunlin sign PACKAGE. This key is not encrypted: for trying things out only"
        }
    });
    Ok(())
}

fn development_key(folder: &Path) -> Result<Vec<NewKey>, CommandError> {
    Ok(vec![NewKey { role: "development", folder: folder.join("keys"), key: generate()?, passphrase: None }])
}

fn fleet_keys(arguments: &InitArguments, folder: &Path) -> Result<Vec<NewKey>, CommandError> {
    let passphrases = Passphrases::of(&arguments.passphrases.passphrase_file);
    let own = folder.join("keys");
    let root_folder = arguments.root_folder.clone().unwrap_or_else(|| own.clone());
    let roles = [
        ("root", arguments.root_keys, arguments.root_threshold, root_folder),
        ("targets", arguments.targets_keys, arguments.targets_threshold, own.clone()),
        ("online", 1, 1, own),
    ];
    for (role, keys, threshold, _) in &roles {
        if threshold > keys {
            let message = format!("`--{role}-threshold {threshold}` is more than `--{role}-keys {keys}`");
            return Err(CommandError::Usage(message));
        }
    }
    let mut new = Vec::new();
    for (role, keys, _, folder) in roles {
        let passphrase = passphrases.of_new_key(role)?;
        for _ in 0..keys {
            let passphrase = Some(passphrase.clone());
            new.push(NewKey { role, folder: folder.clone(), key: generate()?, passphrase });
        }
    }
    Ok(new)
}

fn plans(arguments: &InitArguments, new: &[NewKey]) -> Vec<RolePlan> {
    let of = |role: &'static str, made_for: &str, threshold| {
        let made = |new: &&NewKey| new.role == made_for || new.role == "development";
        let keys: Vec<PublicKey> = new.iter().filter(made).map(|new| new.key.public()).collect();
        RolePlan { role, keys, threshold }
    };
    vec![
        of("root", "root", arguments.root_threshold),
        of("targets", "targets", arguments.targets_threshold),
        of("snapshot", "online", 1),
        of("timestamp", "online", 1),
    ]
}

/// Stores the keys; those that were stored are removed again when one cannot be.
fn store(new: &[NewKey], now: UnixTime) -> Result<Vec<KeyFile>, CommandError> {
    let mut files: Vec<KeyFile> = Vec::new();
    for NewKey { role, folder, key, passphrase } in new {
        let stored = workspace::make_key_folder(folder).and_then(|()| {
            key_file::write(
                folder,
                role,
                key,
                passphrase.as_ref().map(|text| text.as_str()),
                &now.to_string(),
            )
            .map_err(|e| CommandError::failed("cannot store a key", e))
        });
        match stored {
            Ok(file) => files.push(file),
            Err(error) => {
                for file in files {
                    let _ = std::fs::remove_file(file.path);
                }
                return Err(error);
            }
        }
    }
    Ok(files)
}

fn generate() -> Result<SigningKey, CommandError> {
    SigningKey::generate().map_err(|e| CommandError::failed("the system gives no randomness", e))
}
