//! `dunlin keys delegate`: lets a team's keys approve the models of some names.
//!
//! Needs the team's public keys alone. The team signs with `dunlin sign --role NAME`.

use std::path::PathBuf;

use clap::Args;
use dunlin_trust::PublicKey;
use dunlin_trust::metadata::DelegatedRole;
use dunlin_trust::sign::change::Change;

use super::repository;
use crate::command::CommandError;
use crate::command::trust_arguments::{LifetimeArguments, TrustArguments, now, report, require_none_pending};
use crate::key_file::KeyFile;
use crate::keyring::refused;
use crate::print;

/// Arguments of `dunlin keys delegate`.
#[derive(Debug, Args)]
#[command(after_help = "\
`*` stands for any text within one part of a path: `models/vision-*/*/manifest.json` are all versions of all models whose \
names begin with `vision-`. What the targets keys approve themselves goes before what a team approves.")]
pub struct DelegateArguments {
    /// Name of the team's role, as in `vision-team`.
    name: String,
    /// Pattern of the releases it may approve; may be given more than once.
    #[arg(long, value_name = "PATTERN", required = true)]
    paths: Vec<String>,
    /// Key file of the team, of which only the public key is read; may be given more than once.
    #[arg(long, value_name = "KEYFILE", required = true)]
    public: Vec<PathBuf>,
    /// How many of its keys must sign.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threshold: u32,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    lifetimes: LifetimeArguments,
}

/// Runs the command.
///
/// *Errors*: a bad name or pattern, fewer keys than the threshold, no targets key at hand.
pub fn run(arguments: &DelegateArguments) -> Result<(), CommandError> {
    for pattern in &arguments.paths {
        if !pattern.starts_with("models/") || pattern.split('/').count() != 4 {
            return Err(CommandError::Usage(format!(
                "`--paths {}` matches no release; write `models/NAME/*/manifest.json` with `*` where names vary",
                pattern.escape_debug()
            )));
        }
    }
    let (mut workspace, mut keyring) = arguments.trust.open()?;
    require_none_pending(&workspace)?;
    let now = now()?;
    let lifetimes = arguments.lifetimes.lifetimes(keyring.purpose(), now);
    let mut keys: Vec<PublicKey> = Vec::new();
    for path in &arguments.public {
        let file = KeyFile::read(path).map_err(|e| CommandError::failed("cannot read a public key", e))?;
        keys.push(file.public);
    }
    let mut keyids: Vec<_> = keys.iter().map(PublicKey::id).collect();
    keyids.sort();
    keyids.dedup();
    let role = DelegatedRole {
        name: arguments.name.clone(),
        keyids,
        threshold: arguments.threshold,
        terminating: false,
        paths: Some(arguments.paths.clone()),
        path_hash_prefixes: None,
    };
    let before = repository(&workspace)?;
    let mut change = Change::of(&before, now, lifetimes);
    change.delegate(role, &keys).map_err(refused)?;
    let files = change.files(&[]).map_err(refused)?;
    let outcome = keyring.finish(&mut workspace, &files, now, lifetimes)?;
    print::line(&format!("role `{}` may approve {}", arguments.name, arguments.paths.join(", ")));
    print::note(&format!("the team signs with `dunlin sign PACKAGE --role {}`", arguments.name));
    report(&workspace, &outcome);
    Ok(())
}
