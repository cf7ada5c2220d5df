//! `dunlin keys revoke`: withdraws a key in a new root, and has the remaining keys approve what stays approved.
//!
//! Never signs with the withdrawn key. Says of each release what became of it, because the thief of a key may have
//! approved something.

use clap::Args;
use dunlin_trust::sign::change::Change;
use dunlin_trust::sign::repository::{Release, Repository};

use super::{key_named, repository, roles_of};
use crate::command::CommandError;
use crate::command::trust_arguments::{
    LifetimeArguments, TrustArguments, now, report, require_none_pending, with_director,
};
use crate::director::Renewal;
use crate::key_file::short;
use crate::keyring::{Outcome, refused};
use crate::print;

/// Arguments of `dunlin keys revoke`.
#[derive(Debug, Args)]
#[command(after_help = "\
The remaining keys approve every release that is not dropped: look at the list first (`dunlin keys show`), and drop what \
you do not know. A role's last key cannot be withdrawn: replace it with `dunlin keys rotate ROLE --key ID`.")]
pub struct RevokeArguments {
    /// Key to withdraw, by the first digits of its name.
    key: String,
    /// Release that is no longer approved; may be given more than once.
    #[arg(long, value_name = "MODEL@VERSION")]
    drop: Vec<String>,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    lifetimes: LifetimeArguments,
}

/// Runs the command.
///
/// *Errors*: no such key, too few keys would remain, or too few are at hand.
pub fn run(arguments: &RevokeArguments) -> Result<(), CommandError> {
    let (mut workspace, mut keyring) = arguments.trust.open()?;
    require_none_pending(&workspace)?;
    let now = now()?;
    let lifetimes = arguments.lifetimes.lifetimes(keyring.purpose(), now);
    let before = repository(&workspace)?;
    let id = key_named(&before, &arguments.key)?;
    let roles = roles_of(&before, &id);
    let mut change = Change::of(&before, now, lifetimes);
    for role in &roles {
        match before.root().roles.contains_key(role) {
            true => change.replace_keys(role, std::slice::from_ref(&id), &[]).map_err(refused)?,
            false => change.withdraw_delegated(role, &id).map_err(refused)?,
        }
        if before.targets(role).is_some() {
            change.renew(role).map_err(refused)?;
        }
    }
    let dropped = dropped(&before, &arguments.drop)?;
    for release in &dropped {
        change.remove_release(&release.role, &release.path).map_err(refused)?;
    }
    keyring.leave_out(&id);
    let files = change.files(&[]).map_err(refused)?;
    let outcome = keyring.finish(&mut workspace, &files, now, lifetimes)?;
    print::line(&format!("revoked key {} of {}", short(&id), roles.join(", ")));
    for role in roles.iter().filter(|role| before.targets(role).is_some()) {
        let was_alone = before.signers(role) == [id.clone()];
        let after = workspace.repository().map(|after| after.signers(role)).unwrap_or_default();
        let by = match (&outcome, after.as_slice()) {
            (Outcome::Taken, ids @ [_, ..]) => ids.iter().map(short).collect::<Vec<_>>().join(", "),
            _ => "whoever signs next".to_owned(),
        };
        for release in before.releases().iter().filter(|release| release.role == *role) {
            let was = if was_alone { " (was approved by the revoked key alone)" } else { "" };
            let state = match dropped.contains(release) {
                true => "dropped: no longer approved".to_owned(),
                false => format!("kept: approved by {by}"),
            };
            print::line(&format!("  {} {}: {state}{was}", release.note.model, release.note.version));
        }
    }
    let outcome = with_director(&workspace, &mut keyring, outcome, Renewal::OfKeys, (now, lifetimes))?;
    report(&workspace, &outcome);
    Ok(())
}

fn dropped(before: &Repository, named: &[String]) -> Result<Vec<Release>, CommandError> {
    let releases = before.releases();
    let find = |text: &String| {
        let release =
            releases.iter().find(|other| format!("{}@{}", other.note.model, other.note.version) == *text);
        release.cloned().ok_or_else(|| {
            CommandError::NotFound(format!(
                "no release `{}` is signed; write MODEL@VERSION",
                text.escape_debug()
            ))
        })
    };
    named.iter().map(find).collect()
}
