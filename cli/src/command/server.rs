//! `dunlin server`: shows a fleet server, and adopts it: the owner's offline keys name its key.
//!
//! What a server may sign is said in two roots: that of the image repository (snapshot and timestamp: what is newest)
//! and that of the director (what each gateway is to run, among what was approved). Neither lets it approve a model.

use clap::{Args, Subcommand};
use dunlin_fleet_api::server::ServerStatus;
use dunlin_trust::PublicKey;
use dunlin_trust::metadata::Root;
use dunlin_trust::sign::change::Change;
use dunlin_trust::sign::repository::{Files, Repository};

use super::CommandError;
use super::trust_arguments::{LifetimeArguments, TrustArguments, now, report, require_none_pending};
use crate::director::{Director, Term, speaks_alone};
use crate::fleet::profile::ServerArguments;
use crate::fleet::repository::{publish, publish_director};
use crate::keyring::{Keyring, Outcome, refused};
use crate::output::{Output, OutputArguments};
use crate::print;
use crate::workspace::Workspace;

/// Roles of the image repository that a server signs.
const IMAGE_ROLES: [&str; 2] = ["snapshot", "timestamp"];

/// Shows a fleet server, and adopts it.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Sign that this server speaks for the fleet: it may say what is newest and what each gateway is to run.
    Adopt(AdoptArguments),
    /// Show the server, its key, and what it holds of the owner's.
    Get(GetArguments),
}

/// Arguments of `dunlin server adopt`.
#[derive(Debug, Args)]
#[command(after_help = "\
Needs the root keys. Where several must sign, the first keeper runs this and hands the trust folder on (without `keys/`); \
each next one runs `dunlin sign --add` with their own keys, on a machine without a network if they like. Once enough have \
signed, `dunlin publish` brings it to the server. Run this again after the server's key was replaced: it signs new roots.")]
pub struct AdoptArguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    lifetimes: LifetimeArguments,
    /// Why, for the server's audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

/// Arguments of `dunlin server get`.
#[derive(Debug, Args)]
pub struct GetArguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

impl ServerCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the command.
    pub fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Adopt(arguments) => adopt(&arguments),
            Self::Get(arguments) => {
                let status: ServerStatus = arguments.server.client()?.get("/v1/server")?;
                Output::of(&status)?.print_object(arguments.output.format)
            }
        }
    }
}

fn adopt(arguments: &AdoptArguments) -> Result<(), CommandError> {
    let client = arguments.server.client()?;
    let status: ServerStatus = client.get("/v1/server")?;
    let key = key_of(&status)?;
    let (mut workspace, mut keyring) = arguments.trust.open()?;
    let now = now()?;
    let term = (now, arguments.lifetimes.lifetimes(keyring.purpose(), now));
    let image = name_in_image(&mut workspace, &mut keyring, &key, term)?;
    let mut director = Director::open(&workspace)?;
    let outcome = image.with(director.name(&workspace, &mut keyring, &key, term)?);
    if outcome.lacks_signatures() {
        report(&workspace, &outcome);
        return Ok(());
    }
    publish(&client, &mut workspace, now, &arguments.reason)?;
    publish_director(&client, director.roots(), &arguments.reason)?;
    print::line(&format!("{} speaks for the fleet: key {}", client.url(), status.public_key));
    print::note(
        "next: `dunlin enrolment-tokens new` for gateways; `dunlin publish` brings what is signed from now on",
    );
    Ok(())
}

fn key_of(status: &ServerStatus) -> Result<PublicKey, CommandError> {
    let digits = status.public_key.as_bytes();
    let byte =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let wrong = || CommandError::CheckFailed("the server's key is no ed25519 key".to_owned());
    bytes.map(|bytes| PublicKey::ed25519(&bytes)).ok_or_else(wrong)
}

/// Has the image repository's root name the key. What only the server's signatures are missing to counts as taken.
fn name_in_image(
    workspace: &mut Workspace,
    keyring: &mut Keyring,
    key: &PublicKey,
    (now, lifetimes): Term,
) -> Result<Outcome, CommandError> {
    let before = workspace.repository().cloned();
    let before = before.ok_or_else(|| CommandError::NotFound("there is no repository".to_owned()))?;
    let names = |root: &Root| IMAGE_ROLES.iter().all(|role| speaks_alone(root, role, key));
    if names(before.root()) {
        return Ok(Outcome::Taken);
    }
    let is_begun = |pending: &Files| {
        let mut files = before.files();
        files.extend(pending.clone());
        Repository::read(&files).is_ok_and(|after| names(after.root()))
    };
    let change = match workspace.pending().filter(|pending| is_begun(pending)) {
        Some(pending) => pending.clone(),
        None => {
            require_none_pending(workspace)?;
            let mut change = Change::of(&before, now, lifetimes);
            for role in IMAGE_ROLES {
                let (old, _) = before.authority(role).map_err(refused)?;
                change.replace_keys(role, &old.keyids, std::slice::from_ref(key)).map_err(refused)?;
            }
            change.files(&keyring.opened()).map_err(refused)?
        }
    };
    keyring.finish(workspace, &change, now, lifetimes)
}
