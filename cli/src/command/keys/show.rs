//! `dunlin keys show`: roles, keys, thresholds, versions and expiry, and which key files are here.
//!
//! Opens no key. The same facts as text for people and as JSON for programs.

use clap::{Args, ValueEnum};
use dunlin_trust::KeyId;
use dunlin_trust::sign::repository::{Repository, TOP_LEVEL, standing};
use serde::Serialize;

use super::repository;
use crate::command::CommandError;
use crate::command::trust_arguments::TrustArguments;
use crate::key_file::short;
use crate::keyring::{Keyring, refused};
use crate::print;

/// Arguments of `dunlin keys show`.
#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    trust: TrustArguments,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people.
    Text,
    /// One JSON document.
    Json,
}

#[derive(Debug, Serialize)]
struct Shown {
    roles: Vec<ShownRole>,
    releases: Vec<ShownRelease>,
    waiting: Vec<ShownWaiting>,
}

#[derive(Debug, Serialize)]
struct ShownRole {
    role: String,
    version: Option<u64>,
    expires: Option<String>,
    threshold: u32,
    keys: Vec<ShownKey>,
}

#[derive(Debug, Serialize)]
struct ShownKey {
    key: KeyId,
    has_signed: bool,
    file: Option<String>,
    is_encrypted: Option<bool>,
}

#[derive(Debug, Serialize)]
struct ShownRelease {
    model: String,
    version: String,
    release_counter: u64,
    role: String,
    manifest_sha256: String,
}

#[derive(Debug, Serialize)]
struct ShownWaiting {
    file: String,
    signed: Vec<KeyId>,
    missing: u32,
    open: Vec<KeyId>,
}

/// Runs the command.
///
/// *Errors*: there is no repository.
pub fn run(arguments: &ShowArguments) -> Result<(), CommandError> {
    let (workspace, keyring) = arguments.trust.open()?;
    let repository = repository(&workspace)?;
    let mut names: Vec<String> = TOP_LEVEL.map(str::to_owned).to_vec();
    let top = repository.targets("targets").and_then(|targets| targets.delegations.as_ref());
    names.extend(top.into_iter().flat_map(|d| d.roles.iter().flatten()).map(|role| role.name.clone()));
    let mut shown = Shown { roles: Vec::new(), releases: Vec::new(), waiting: Vec::new() };
    for name in names {
        shown.roles.push(role(&repository, &keyring, name)?);
    }
    for release in repository.releases() {
        shown.releases.push(ShownRelease {
            model: release.note.model,
            version: release.note.version,
            release_counter: release.note.release_counter,
            role: release.role,
            manifest_sha256: release.sha256,
        });
    }
    if let Some(change) = workspace.pending() {
        for waiting in standing(Some(&repository), change).map_err(refused)? {
            shown.waiting.push(ShownWaiting {
                file: waiting.file,
                signed: waiting.signed,
                missing: waiting.missing,
                open: waiting.open,
            });
        }
    }
    match arguments.output {
        Output::Text => print::line(&text(&shown)),
        Output::Json => {
            let json = serde_json::to_string_pretty(&shown);
            print::line(&json.map_err(|e| CommandError::failed("cannot write JSON", e))?);
        }
    }
    Ok(())
}

fn role(repository: &Repository, keyring: &Keyring, role: String) -> Result<ShownRole, CommandError> {
    let (role_keys, _) = repository.authority(&role).map_err(refused)?;
    let facts = match role.as_str() {
        "root" => Some((repository.root().version, repository.root().expires)),
        "snapshot" => repository.snapshot().map(|file| (file.version, file.expires)),
        "timestamp" => repository.timestamp().map(|file| (file.version, file.expires)),
        _ => repository.targets(&role).map(|file| (file.version, file.expires)),
    };
    let signers = repository.signers(&role);
    let key = |id: &KeyId| {
        let file = keyring.files().iter().find(|file| file.id() == *id);
        ShownKey {
            key: id.clone(),
            has_signed: signers.contains(id),
            file: file.map(|file| file.path.display().to_string()),
            is_encrypted: file.map(|file| file.is_encrypted),
        }
    };
    Ok(ShownRole {
        version: facts.map(|(version, _)| version),
        expires: facts.map(|(_, expires)| expires.to_string()),
        threshold: role_keys.threshold,
        keys: role_keys.keyids.iter().map(key).collect(),
        role,
    })
}

fn text(shown: &Shown) -> String {
    let mut lines = Vec::new();
    for role in &shown.roles {
        let state = match (role.version, &role.expires) {
            (Some(version), Some(expires)) => format!("version {version}, expires {expires}"),
            _ => "nothing signed yet".to_owned(),
        };
        lines.push(format!(
            "{}: {state}, {} of {} keys must sign",
            role.role,
            role.threshold,
            role.keys.len()
        ));
        for key in &role.keys {
            let id = short(&key.key);
            let signed = if key.has_signed { "signed" } else { "not signed" };
            let file = match (&key.file, key.is_encrypted) {
                (Some(file), Some(false)) => format!("{file} (NOT ENCRYPTED)"),
                (Some(file), _) => file.clone(),
                (None, _) => "key file not here".to_owned(),
            };
            lines.push(format!("  {id}  {signed:10}  {file}"));
        }
    }
    lines.push(format!("releases: {}", shown.releases.len()));
    for release in &shown.releases {
        let ShownRelease { model, version, release_counter, role, .. } = release;
        lines.push(format!("  {model} {version}  release counter {release_counter}, approved by {role}"));
    }
    for waiting in &shown.waiting {
        let open: Vec<&str> = waiting.open.iter().map(short).collect();
        lines.push(format!("waits: {}, {} more of {}", waiting.file, waiting.missing, open.join(", ")));
    }
    lines.join("\n")
}
