//! `dunlin keys renew`: signs root, targets or a team's role anew, so that they expire later.
//!
//! Changes nothing else.

use clap::Args;
use dunlin_trust::sign::change::Change;

use super::repository;
use crate::command::CommandError;
use crate::command::trust_arguments::{
    LifetimeArguments, TrustArguments, now, report, require_none_pending, with_director,
};
use crate::director::Renewal;
use crate::keyring::refused;
use crate::print;

/// Arguments of `dunlin keys renew`.
#[derive(Debug, Args)]
#[command(after_help = "Snapshot and timestamp are renewed by `dunlin publish --refresh`.")]
pub struct RenewArguments {
    /// `root`, `targets` or a team's role.
    role: String,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    lifetimes: LifetimeArguments,
}

/// Runs the command.
///
/// *Errors*: no such role, or a key is missing.
pub fn run(arguments: &RenewArguments) -> Result<(), CommandError> {
    let (mut workspace, mut keyring) = arguments.trust.open()?;
    require_none_pending(&workspace)?;
    let now = now()?;
    let lifetimes = arguments.lifetimes.lifetimes(keyring.purpose(), now);
    let before = repository(&workspace)?;
    let mut change = Change::of(&before, now, lifetimes);
    change.renew(&arguments.role).map_err(refused)?;
    let files = change.files(&[]).map_err(refused)?;
    let outcome = keyring.finish(&mut workspace, &files, now, lifetimes)?;
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    print::line(&format!("made {}", names.join(", ")));
    let renewal = if arguments.role == "root" { Renewal::OfTime } else { Renewal::OfKeys };
    let outcome = with_director(&workspace, &mut keyring, outcome, renewal, (now, lifetimes))?;
    report(&workspace, &outcome);
    Ok(())
}
