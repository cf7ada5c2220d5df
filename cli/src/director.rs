//! The director's roots in the operator's folder: what makes a fleet server speak to gateways, and for whom.
//!
//! `director/` holds the roots that are signed, `director/pending/` one that waits for signatures. A root names the owner's
//! root keys as the image repository's newest root does, and the server's key for all else. Never approves a release.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dunlin_trust::PublicKey;
use dunlin_trust::director::DIRECTOR_ROLE;
use dunlin_trust::metadata::{Role as _, RoleKeys, Root, SPEC_VERSION};
use dunlin_trust::sign::repository::{Files, Lifetimes, Repository, Standing, standing};
use dunlin_trust::sign::sign;
use dunlin_trust::time::UnixTime;

use crate::command::CommandError;
use crate::keyring::{Keyring, Outcome, refused};
use crate::workspace::{self, Workspace};

/// Roles of the director that the server's key speaks for.
const ONLINE_ROLES: [&str; 4] = [DIRECTOR_ROLE, "targets", "snapshot", "timestamp"];

/// When something is signed, and for how long.
pub type Term = (UnixTime, Lifetimes);

/// What calls for a new root of a director that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It names other root keys than the image repository's root.
    OfKeys,
    /// Its expiry, beside that.
    OfTime,
}

/// The director's roots.
#[derive(Debug)]
pub struct Director {
    folder: PathBuf,
    signed: Files,
    pending: Files,
}

impl Director {
    /// Reads the director's roots of an operator's folder; there are none before a server was adopted.
    ///
    /// *Errors*: those of the file system.
    pub fn open(workspace: &Workspace) -> Result<Self, CommandError> {
        let folder = workspace.folder().join("director");
        let signed = workspace::read_metadata(&folder)?;
        let pending = workspace::read_metadata(&folder.join("pending"))?;
        Ok(Self { folder, signed, pending })
    }

    /// Returns the roots that are signed, by file name.
    #[must_use]
    pub const fn roots(&self) -> &Files {
        &self.signed
    }

    /// Tells whether a root waits for signatures.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Has the director's newest root name this key, and the owner's keys of the day.
    ///
    /// *Errors*: no key that may sign is at hand, or one cannot be opened.
    pub fn name(
        &mut self,
        workspace: &Workspace,
        keyring: &mut Keyring,
        key: &PublicKey,
        term: Term,
    ) -> Result<Outcome, CommandError> {
        let owners = Owners::of(workspace)?;
        let before = self.newest()?;
        if before.as_ref().is_some_and(|before| owners.are_named_with(before.root(), key)) {
            return Ok(Outcome::Taken);
        }
        let pending = Repository::read(&self.pending).ok();
        let draft = match pending.filter(|pending| owners.are_named_with(pending.root(), key)) {
            Some(_) => self.pending.clone(),
            None => owners.draft(before.as_ref(), key, term),
        };
        self.sign(keyring, &draft)
    }

    /// Follows a change of the image repository's root, where there is a director: its next root names the same server's
    /// key and the owner's keys of the day. Returns nothing where nothing calls for a new root.
    ///
    /// *Errors*: as [`Director::name`].
    pub fn follow(
        &mut self,
        workspace: &Workspace,
        keyring: &mut Keyring,
        renewal: Renewal,
        term: Term,
    ) -> Result<Option<Outcome>, CommandError> {
        let Some(before) = self.newest()? else { return Ok(None) };
        let owners = Owners::of(workspace)?;
        let key = before.root().roles.get(DIRECTOR_ROLE).and_then(|role| role.keyids.first());
        let key = key.and_then(|id| before.root().keys.get(id)).cloned();
        let key = key.ok_or_else(|| {
            CommandError::CheckFailed("the director's root names no server's key".to_owned())
        })?;
        if renewal == Renewal::OfKeys && owners.are_named_with(before.root(), &key) {
            return Ok(None);
        }
        self.sign(keyring, &owners.draft(Some(&before), &key, term)).map(Some)
    }

    /// Adds signatures to the root that waits for some, where one does.
    ///
    /// *Errors*: as [`Director::name`].
    pub fn add(&mut self, keyring: &mut Keyring) -> Result<Option<Outcome>, CommandError> {
        match self.waits() {
            true => self.sign(keyring, &self.pending.clone()).map(Some),
            false => Ok(None),
        }
    }

    /// Drops the root that waits for signatures.
    ///
    /// *Errors*: those of the file system.
    pub fn discard(&mut self) -> Result<(), CommandError> {
        self.pending.clear();
        workspace::remove_folder(&self.folder.join("pending"))
    }

    fn newest(&self) -> Result<Option<Repository>, CommandError> {
        match self.signed.is_empty() {
            true => Ok(None),
            false => Repository::read(&self.signed).map(Some).map_err(refused),
        }
    }

    fn sign(&mut self, keyring: &mut Keyring, draft: &Files) -> Result<Outcome, CommandError> {
        let before = self.newest()?;
        let signed = keyring.sign(before.as_ref(), draft)?;
        let open = standing(before.as_ref(), &signed).map_err(refused)?;
        let is_whole = open.iter().all(|standing| standing.missing == 0);
        let to = if is_whole { self.folder.clone() } else { self.folder.join("pending") };
        for (name, raw) in &signed {
            workspace::write(&to.join(name), raw)?;
        }
        if is_whole {
            self.discard()?;
            self.signed.extend(signed);
            return Ok(Outcome::Taken);
        }
        self.pending = signed;
        let named = |open: Standing| Standing { file: format!("director's {}", open.file), ..open };
        Ok(Outcome::Waits(open.into_iter().map(named).collect()))
    }
}

/// The keys that speak for the image repository's root, with a change that waits taken for done.
struct Owners {
    role: RoleKeys,
    keys: BTreeMap<dunlin_trust::KeyId, PublicKey>,
}

impl Owners {
    fn of(workspace: &Workspace) -> Result<Self, CommandError> {
        let mut files = workspace.metadata().clone();
        files.extend(workspace.pending().cloned().unwrap_or_default());
        let image = Repository::read(&files).map_err(refused)?;
        let Some(role) = image.root().roles.get("root").cloned() else {
            let message = "the image repository's root names no keys for roots".to_owned();
            return Err(CommandError::CheckFailed(message));
        };
        let keys = image.root().keys.iter().filter(|(id, _)| role.keyids.contains(id));
        let keys = keys.map(|(id, key)| (id.clone(), key.clone())).collect();
        Ok(Self { role, keys })
    }

    fn are_named_with(&self, root: &Root, key: &PublicKey) -> bool {
        root.roles.get("root") == Some(&self.role)
            && ONLINE_ROLES.iter().all(|role| speaks_alone(root, role, key))
    }

    /// Returns the director's next root, unsigned.
    fn draft(&self, before: Option<&Repository>, key: &PublicKey, (now, lifetimes): Term) -> Files {
        let online = RoleKeys { keyids: vec![key.id()], threshold: 1 };
        let mut roles: BTreeMap<String, RoleKeys> =
            ONLINE_ROLES.iter().map(|role| ((*role).to_owned(), online.clone())).collect();
        roles.insert("root".to_owned(), self.role.clone());
        let mut keys = self.keys.clone();
        keys.insert(key.id(), key.clone());
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
        Files::from([(format!("{version}.root.json"), sign(&root, &[]))])
    }
}

/// Tells whether a key speaks for a role, and nobody else does.
#[must_use]
pub fn speaks_alone(root: &Root, role: &str, key: &PublicKey) -> bool {
    root.roles.get(role).is_some_and(|keys| keys.keyids == [key.id()] && keys.threshold == 1)
}
