//! `dunlin keys rotate`: replaces a key of a role by a new one, in a new root.
//!
//! The new root is signed by enough of the old and of the new root keys, so that a gateway that was away follows it. The
//! old key signs the other files once more beside the new one, where it is at hand: readers notice nothing.

use clap::Args;
use dunlin_trust::KeyId;
use dunlin_trust::sign::change::Change;
use dunlin_trust::sign::repository::Repository;

use super::{key_named, new, repository};
use crate::command::CommandError;
use crate::command::trust_arguments::{
    LifetimeArguments, Purpose, TrustArguments, now, report, require_none_pending, with_director,
};
use crate::director::Renewal;
use crate::key_file::short;
use crate::keyring::refused;
use crate::print;

/// Arguments of `dunlin keys rotate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Snapshot and timestamp share one online key unless they were set apart; rotating either replaces it for both. \
A key that is lost or was stolen is replaced the same way: its file is not needed.")]
pub struct RotateArguments {
    /// Role whose key is replaced.
    #[arg(value_parser = ["root", "targets", "snapshot", "timestamp"])]
    role: String,
    /// Key to replace, by the first digits of its name; needed where the role has several.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    lifetimes: LifetimeArguments,
}

/// Runs the command.
///
/// *Errors*: the key is not one of the role's, or too few root keys are at hand.
pub fn run(arguments: &RotateArguments) -> Result<(), CommandError> {
    let (mut workspace, mut keyring) = arguments.trust.open()?;
    require_none_pending(&workspace)?;
    let now = now()?;
    let before = repository(&workspace)?;
    let old = replaced(&before, arguments)?;
    let purpose = keyring.purpose();
    let lifetimes = arguments.lifetimes.lifetimes(purpose, now);
    let is_online = matches!(arguments.role.as_str(), "snapshot" | "timestamp");
    let made_for = if is_online { "online" } else { arguments.role.as_str() };
    let passphrase = match purpose {
        Purpose::Development => None,
        Purpose::Fleet => Some(keyring.passphrases().of_new_key(made_for)?),
    };
    keyring.open(std::slice::from_ref(&old), 1)?;
    let folder = arguments.trust.new_key_folder(&workspace);
    let (file, key) = new::make(&folder, made_for, passphrase.as_ref().map(|text| text.as_str()), now)?;
    let made = file.clone();
    let public = key.public();
    keyring.add(file, key);
    let mut finish = || {
        let mut change = Change::of(&before, now, lifetimes);
        for role in roles(&before, &arguments.role, &old) {
            change
                .replace_keys(role, std::slice::from_ref(&old), std::slice::from_ref(&public))
                .map_err(refused)?;
        }
        if arguments.role == "targets" {
            change.renew("targets").map_err(refused)?;
        }
        let files = change.files(&keyring.opened()).map_err(refused)?;
        keyring.finish(&mut workspace, &files, now, lifetimes)
    };
    let outcome = finish().inspect_err(|_| {
        let _ = std::fs::remove_file(&made.path);
    })?;
    print::line(&format!(
        "{}: key {} replaced by {}: {}",
        arguments.role,
        short(&old),
        short(&made.id()),
        made.path.display()
    ));
    let version = before.root().version + 1;
    print::note(&format!(
        "root version {version}; keep the old root keys' files until every gateway has seen it"
    ));
    let outcome = with_director(&workspace, &mut keyring, outcome, Renewal::OfKeys, (now, lifetimes))?;
    report(&workspace, &outcome);
    Ok(())
}

/// Returns the roles in which the key is replaced: both online ones where it serves both.
fn roles<'r>(before: &Repository, role: &'r str, old: &KeyId) -> Vec<&'r str> {
    let has = |role: &str| before.root().roles.get(role).is_some_and(|keys| keys.keyids.contains(old));
    match role {
        "snapshot" | "timestamp" => ["snapshot", "timestamp"].into_iter().filter(|role| has(role)).collect(),
        _ => vec![role],
    }
}

fn replaced(before: &Repository, arguments: &RotateArguments) -> Result<KeyId, CommandError> {
    let role = &arguments.role;
    let (keys, _) = before.authority(role).map_err(refused)?;
    let ids = || keys.keyids.iter().map(short).collect::<Vec<_>>().join(", ");
    match (&arguments.key, keys.keyids.as_slice()) {
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(CommandError::Usage(format!(
            "role `{role}` has the keys {}; say which one to replace with `--key`",
            ids()
        ))),
        (Some(text), keys) => {
            let id = key_named(before, text)?;
            if keys.contains(&id) {
                return Ok(id);
            }
            Err(CommandError::NotFound(format!("key {} is none of role `{role}`: {}", short(&id), ids())))
        }
    }
}
