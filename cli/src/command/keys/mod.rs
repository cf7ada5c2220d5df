//! `dunlin keys`: makes, shows, replaces and withdraws the keys that gateways trust.
//!
//! Dispatches; each command has a file. What they share about naming keys stands here.

use clap::Subcommand;
use dunlin_trust::KeyId;
use dunlin_trust::sign::repository::Repository;

use super::CommandError;
use crate::key_file::short;

pub mod delegate;
pub mod init;
pub mod new;
pub mod renew;
pub mod revoke;
pub mod rotate;
pub mod show;

/// Makes, shows, replaces and withdraws the keys that gateways trust.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make the keys and the first metadata of a repository.
    Init(init::InitArguments),
    /// Show roles, keys, thresholds and expiry, and which key files are here.
    Show(show::ShowArguments),
    /// Replace a key by a new one.
    Rotate(rotate::RotateArguments),
    /// Withdraw a key that was lost or stolen.
    Revoke(revoke::RevokeArguments),
    /// Sign root or targets anew without a change, so that they expire later.
    Renew(renew::RenewArguments),
    /// Make a key file alone, as a team does before models are delegated to it.
    New(new::NewArguments),
    /// Let a team's keys approve some models.
    Delegate(delegate::DelegateArguments),
}

impl KeysCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the command.
    pub fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Init(arguments) => init::run(&arguments),
            Self::Show(arguments) => show::run(&arguments),
            Self::Rotate(arguments) => rotate::run(&arguments),
            Self::Revoke(arguments) => revoke::run(&arguments),
            Self::Renew(arguments) => renew::run(&arguments),
            Self::New(arguments) => new::run(&arguments),
            Self::Delegate(arguments) => delegate::run(&arguments),
        }
    }
}

/// Returns the one key whose name begins with `text`.
///
/// *Errors*: not found; usage where several do.
pub(super) fn key_named(repository: &Repository, text: &str) -> Result<KeyId, CommandError> {
    let delegated = repository.target_roles().filter_map(|role| repository.targets(role));
    let delegated = delegated.filter_map(|targets| targets.delegations.as_ref()).flat_map(|d| d.keys.keys());
    let mut ids: Vec<&KeyId> = repository.root().keys.keys().chain(delegated).collect();
    ids.sort();
    ids.dedup();
    let mut matching = ids.iter().filter(|id| text.len() >= 4 && id.0.starts_with(text));
    match (matching.next(), matching.next()) {
        (Some(id), None) => Ok((*id).clone()),
        (Some(_), Some(_)) => {
            Err(CommandError::Usage(format!("several keys begin with `{text}`; write more of the name")))
        }
        (None, _) => {
            let known: Vec<&str> = ids.iter().map(|id| short(id)).collect();
            Err(CommandError::NotFound(format!(
                "no key that counts begins with `{}`; there are {}",
                text.escape_debug(),
                known.join(", ")
            )))
        }
    }
}

/// Returns the roles that a key speaks for: of the root, and delegated ones.
pub(super) fn roles_of(repository: &Repository, id: &KeyId) -> Vec<String> {
    let root = repository.root().roles.iter().filter(|(_, keys)| keys.keyids.contains(id));
    let mut roles: Vec<String> = root.map(|(role, _)| role.clone()).collect();
    let top = repository.targets("targets").and_then(|targets| targets.delegations.as_ref());
    let delegated = top.into_iter().flat_map(|delegations| delegations.roles.iter().flatten());
    roles.extend(delegated.filter(|role| role.keyids.contains(id)).map(|role| role.name.clone()));
    roles
}

/// Returns the repository of a workspace.
///
/// *Errors*: never for one that was opened.
pub(super) fn repository(workspace: &crate::workspace::Workspace) -> Result<Repository, CommandError> {
    workspace.repository().cloned().ok_or_else(|| CommandError::NotFound("there is no repository".to_owned()))
}
