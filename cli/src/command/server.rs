//! `dunlin server`: shows a fleet server, and adopts it: the owner's offline keys name its key.
//!
//! What a server may sign is said in two roots: that of the image repository (snapshot and timestamp: what is newest)
//! and that of the director (what each gateway is to run, among what was approved). Neither lets it approve a model.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dunlin_fleet_api::server::ServerStatus;
use dunlin_trust::PublicKey;
use dunlin_trust::director::DIRECTOR_ROLE;
use dunlin_trust::metadata::{Role as _, RoleKeys, Root, SPEC_VERSION};
use dunlin_trust::sign::change::Change;
use dunlin_trust::sign::repository::{Files, Lifetimes, Repository, standing};
use dunlin_trust::sign::sign;
use dunlin_trust::time::UnixTime;

use super::CommandError;
use super::trust_arguments::{LifetimeArguments, TrustArguments, now, report, require_none_pending};
use crate::fleet::client::Client;
use crate::fleet::profile::ServerArguments;
use crate::fleet::repository::{publish, publish_director};
use crate::keyring::{Keyring, Outcome, refused};
use crate::output::{Output, OutputArguments};
use crate::print;
use crate::workspace::{self, Workspace};

/// Roles of the image repository that a server signs.
const IMAGE_ROLES: [&str; 2] = ["snapshot", "timestamp"];
/// Roles of the director.
const DIRECTOR_ROLES: [&str; 4] = [DIRECTOR_ROLE, "targets", "snapshot", "timestamp"];

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
each next one runs it again with their own keys. Run again after the server's key was replaced, it signs new roots.")]
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
    let lifetimes = arguments.lifetimes.lifetimes(keyring.purpose(), now);
    let waits = name_in_image(&mut workspace, &mut keyring, &key, (now, lifetimes))?;
    let director = Director::open(&workspace)?.name(&workspace, &mut keyring, &key, (now, lifetimes))?;
    if let Some(outcome) = waits {
        report(&workspace, &outcome);
    }
    let Some(director) = director else {
        print::note(
            "next: each keeper of a root key runs `dunlin server adopt` once more on this trust folder",
        );
        return Ok(());
    };
    bring(&client, &mut workspace, &director, now, &arguments.reason)?;
    print::line(&format!("{} speaks for the fleet: key {}", client.url(), status.public_key));
    print::note(
        "next: `dunlin enrolment-tokens new` for gateways; `dunlin publish` brings what is signed from now on",
    );
    Ok(())
}

fn bring(
    client: &Client,
    workspace: &mut Workspace,
    director: &Files,
    now: UnixTime,
    reason: &str,
) -> Result<(), CommandError> {
    publish(client, workspace, now, reason)?;
    publish_director(client, director, reason).map(drop)
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

fn speaks_alone(root: &Root, role: &str, key: &PublicKey) -> bool {
    root.roles.get(role).is_some_and(|keys| keys.keyids == [key.id()] && keys.threshold == 1)
}

/// Has the image repository's root name the key; returns what is still to be signed, where that is so.
fn name_in_image(
    workspace: &mut Workspace,
    keyring: &mut Keyring,
    key: &PublicKey,
    (now, lifetimes): (UnixTime, Lifetimes),
) -> Result<Option<Outcome>, CommandError> {
    let before = workspace.repository().cloned();
    let before = before.ok_or_else(|| CommandError::NotFound("there is no repository".to_owned()))?;
    if IMAGE_ROLES.iter().all(|role| speaks_alone(before.root(), role, key)) {
        return Ok(None);
    }
    let is_begun = |pending: &Files| {
        let mut files = before.files();
        files.extend(pending.clone());
        let after = Repository::read(&files);
        after.is_ok_and(|after| IMAGE_ROLES.iter().all(|role| speaks_alone(after.root(), role, key)))
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
    match keyring.finish(workspace, &change, now, lifetimes)? {
        Outcome::Waits(open) if open.iter().any(|standing| standing.missing > 0) => {
            Ok(Some(Outcome::Waits(open)))
        }
        // The server signs the rest.
        Outcome::Waits(_) | Outcome::Taken => Ok(None),
    }
}

/// The director's roots in the operator's folder: those that are signed, and one that waits for signatures.
struct Director {
    folder: PathBuf,
    signed: Files,
    pending: Files,
}

impl Director {
    fn open(workspace: &Workspace) -> Result<Self, CommandError> {
        let folder = workspace.folder().join("director");
        let signed = workspace::read_metadata(&folder)?;
        let pending = workspace::read_metadata(&folder.join("pending"))?;
        Ok(Self { folder, signed, pending })
    }

    /// Has the director's root name the key; returns all roots, or nothing where one waits for signatures.
    fn name(
        mut self,
        workspace: &Workspace,
        keyring: &mut Keyring,
        key: &PublicKey,
        (now, lifetimes): (UnixTime, Lifetimes),
    ) -> Result<Option<Files>, CommandError> {
        let before = match self.signed.is_empty() {
            true => None,
            false => Some(Repository::read(&self.signed).map_err(refused)?),
        };
        let names = |root: &Root| DIRECTOR_ROLES.iter().all(|role| speaks_alone(root, role, key));
        if before.as_ref().is_some_and(|before| names(before.root())) {
            return Ok(Some(self.signed));
        }
        let begun = match self.pending.is_empty() {
            true => None,
            false => Repository::read(&self.pending).ok().filter(|pending| names(pending.root())),
        };
        let draft = match begun {
            Some(_) => self.pending.clone(),
            None => draft(workspace, before.as_ref(), key, now, lifetimes)?,
        };
        let signed = keyring.sign(before.as_ref(), &draft)?;
        let open = standing(before.as_ref(), &signed).map_err(refused)?;
        let is_whole = open.iter().all(|standing| standing.missing == 0);
        let to = if is_whole { self.folder.clone() } else { self.folder.join("pending") };
        for (name, raw) in &signed {
            workspace::write(&to.join(name), raw)?;
        }
        if !is_whole {
            report(workspace, &Outcome::Waits(open));
            return Ok(None);
        }
        workspace::remove_folder(&self.folder.join("pending"))?;
        self.signed.extend(signed);
        Ok(Some(self.signed))
    }
}

/// Returns the director's next root: the owner's root keys as in the image repository, the server's key for all else.
fn draft(
    workspace: &Workspace,
    before: Option<&Repository>,
    key: &PublicKey,
    now: UnixTime,
    lifetimes: Lifetimes,
) -> Result<Files, CommandError> {
    let image = workspace.repository().map(Repository::root);
    let image = image.ok_or_else(|| CommandError::NotFound("there is no repository".to_owned()))?;
    let owners = image.roles.get("root").cloned().ok_or_else(|| refused_root("names no keys for roots"))?;
    let mut roles: std::collections::BTreeMap<String, RoleKeys> = DIRECTOR_ROLES
        .iter()
        .map(|role| ((*role).to_owned(), RoleKeys { keyids: vec![key.id()], threshold: 1 }))
        .collect();
    let mut keys: std::collections::BTreeMap<_, _> = image
        .keys
        .iter()
        .filter(|(id, _)| owners.keyids.contains(id))
        .map(|(id, key)| (id.clone(), key.clone()))
        .collect();
    keys.insert(key.id(), key.clone());
    roles.insert("root".to_owned(), owners);
    let version = before.map_or(0, |before| before.root().version) + 1;
    let root = Root {
        kind: Root::TYPE.to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires: Lifetimes::end(now, lifetimes.root_days),
        signed_at: Some(now),
        consistent_snapshot: true,
        keys,
        roles,
    };
    let raw = sign(&root, &[]);
    Ok(Files::from([(format!("{version}.root.json"), raw)]))
}

fn refused_root(what: &str) -> CommandError {
    CommandError::CheckFailed(format!("the image repository's root {what}"))
}
