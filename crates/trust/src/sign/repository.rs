//! A repository as its owner sees it: the newest metadata of every role, and the files that complete a change.
//!
//! Pure: raw files, keys and time are passed in, raw files come out. Never decides whether metadata may be trusted: the
//! verifier does, on what was written. [`super::change`] makes the offline files; the online ones are made here.

use std::collections::BTreeMap;
use std::fmt;

use dunlin_kit::digest::Digest;
use serde_json::Value;

use super::SigningKey;
use crate::envelope::{self, Envelope};
use crate::failure::{Code, Failure};
use crate::key::{Ed25519Only, KeyId, PublicKey, SignatureCheck};
use crate::metadata::{
    FileVersion, ReleaseNote, Role, RoleKeys, Root, SPEC_VERSION, Snapshot, Targets, Timestamp,
};
use crate::time::UnixTime;

/// Files of metadata by name, as in `3.targets.json` and `timestamp.json`.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The top-level roles, in the order in which a device reads their files.
pub const TOP_LEVEL: [&str; 4] = ["root", "timestamp", "snapshot", "targets"];

const DAY_SECONDS: i64 = 86_400;

/// How long metadata are valid from the moment they are signed, in days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Root. Default: 730, since a device that was in a drawer for a year must find a valid one.
    pub root_days: u32,
    /// Targets and delegated roles. Default: 365, the longest between two looks at what is approved.
    pub targets_days: u32,
    /// Snapshot. Default: 90.
    pub snapshot_days: u32,
    /// Timestamp. Default: 30, since a folder or stick is renewed by hand; a server renews it daily.
    pub timestamp_days: u32,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { root_days: 730, targets_days: 365, snapshot_days: 90, timestamp_days: 30 }
    }
}

impl Lifetimes {
    /// Returns when something that is signed at `now` for so many days expires.
    #[must_use]
    pub fn end(now: UnixTime, days: u32) -> UnixTime {
        UnixTime(now.0.saturating_add(i64::from(days) * DAY_SECONDS))
    }
}

/// Why the signer does not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignError {
    /// A file is no metadata, or not the one its name says.
    Metadata(Failure),
    /// There is no root among the files.
    NoRoot,
    /// No such role is delegated.
    NoSuchRole(String),
    /// None of the keys at hand speaks for the role.
    NoKey(String),
    /// A path or role name has a form that no repository holds.
    Form(String),
    /// The target is there already.
    TargetExists(String),
    /// There is no such target.
    NoSuchTarget(String),
    /// The role may not name the target.
    OutsideRole {
        /// The role.
        role: String,
        /// The target.
        path: String,
    },
    /// The release counter is not above the last one.
    Counter {
        /// The model.
        model: String,
        /// The last release's counter.
        last: u64,
        /// The refused one.
        given: u64,
    },
    /// A role would have fewer keys than its threshold.
    Threshold {
        /// The role.
        role: String,
        /// Keys it would have.
        keys: usize,
        /// Signatures it needs.
        threshold: u32,
    },
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata(failure) => write!(f, "{failure}"),
            Self::NoRoot => f.write_str("there is no root metadata; make it with `dunlin keys init`"),
            Self::NoSuchRole(role) => write!(f, "no role `{role}` is delegated"),
            Self::NoKey(role) => {
                write!(f, "no key of role `{role}` is at hand; name its folder with `--keys`")
            }
            Self::Form(text) => write!(f, "`{text}` has a form that no repository holds"),
            Self::TargetExists(path) => write!(f, "`{path}` is signed already"),
            Self::NoSuchTarget(path) => write!(f, "`{path}` is not signed"),
            Self::OutsideRole { role, path } => write!(f, "role `{role}` may not name `{path}`"),
            Self::Counter { model, last, given } => write!(
                f,
                "release counter {given} of model `{model}` is not above {last}, the last one signed; build the package with a higher one"
            ),
            Self::Threshold { role, keys, threshold } => write!(
                f,
                "role `{role}` would have {keys} keys and needs {threshold} signatures; replace the key with `dunlin keys rotate`"
            ),
        }
    }
}

impl std::error::Error for SignError {}

impl From<Failure> for SignError {
    fn from(failure: Failure) -> Self {
        Self::Metadata(failure)
    }
}

/// A release that targets metadata name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The role that names it.
    pub role: String,
    /// Path of its manifest, as in `models/frost/1.4.0/manifest.json`.
    pub path: String,
    /// SHA-256 of its manifest, in hexadecimal.
    pub sha256: String,
    /// What is said of it.
    pub note: ReleaseNote,
}

/// Whether online metadata are made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Where they do not fit the other files.
    Needed,
    /// In any case, with a new expiry.
    Always,
}

/// The newest metadata of every role.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) root: Envelope<Root>,
    /// By role: `targets` and the delegated ones.
    pub(super) targets: BTreeMap<String, Envelope<Targets>>,
    pub(super) snapshot: Option<Envelope<Snapshot>>,
    pub(super) timestamp: Option<Envelope<Timestamp>>,
}

impl Repository {
    /// Reads the newest file of each role.
    ///
    /// *Errors*: one of these is no metadata of its role or of another version than its name says; there is no root.
    pub fn read(files: &Files) -> Result<Self, SignError> {
        let mut newest: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
        for name in files.keys() {
            if let Some((version, role)) = split_name(name)
                && newest.get(role).is_none_or(|(other, _)| *other < version)
            {
                newest.insert(role, (version, name));
            }
        }
        let (_, root_name) = newest.remove("root").ok_or(SignError::NoRoot)?;
        let root = parse(files, root_name)?;
        let snapshot = match newest.remove("snapshot") {
            Some((_, name)) => Some(parse(files, name)?),
            None => None,
        };
        let timestamp = match files.get("timestamp.json") {
            Some(raw) => Some(Envelope::parse(raw, "timestamp.json")?),
            None => None,
        };
        let mut targets = BTreeMap::new();
        for (role, (_, name)) in newest {
            targets.insert(role.to_owned(), parse(files, name)?);
        }
        Ok(Self { root, targets, snapshot, timestamp })
    }

    /// Returns the newest root.
    #[must_use]
    pub const fn root(&self) -> &Root {
        self.root.role()
    }

    /// Returns the newest targets metadata of a role.
    #[must_use]
    pub fn targets(&self, role: &str) -> Option<&Targets> {
        self.targets.get(role).map(Envelope::role)
    }

    /// Returns the roles with targets metadata: `targets`, and the delegated ones that have signed something.
    pub fn target_roles(&self) -> impl Iterator<Item = &str> {
        self.targets.keys().map(String::as_str)
    }

    /// Returns the newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().map(Envelope::role)
    }

    /// Returns the newest timestamp.
    #[must_use]
    pub fn timestamp(&self) -> Option<&Timestamp> {
        self.timestamp.as_ref().map(Envelope::role)
    }

    /// Returns all releases of all roles, by role and path.
    #[must_use]
    pub fn releases(&self) -> Vec<Release> {
        let mut releases = Vec::new();
        for (role, targets) in &self.targets {
            for (path, description) in &targets.role().targets {
                let note = description.custom.clone().and_then(|custom| serde_json::from_value(custom).ok());
                if let (Some(note), Some(sha256)) = (note, description.hashes.get("sha256")) {
                    let (role, path, sha256) = (role.clone(), path.clone(), sha256.clone());
                    releases.push(Release { role, path, sha256, note });
                }
            }
        }
        releases
    }

    /// Returns the keys that speak for a role and their values: from the root, or from whoever delegates to it.
    ///
    /// *Errors*: nobody delegates to it.
    pub fn authority(&self, role: &str) -> Result<(RoleKeys, &BTreeMap<KeyId, PublicKey>), SignError> {
        if let Some(keys) = self.root().roles.get(role) {
            return Ok((keys.clone(), &self.root().keys));
        }
        for delegations in self.targets.values().filter_map(|targets| targets.role().delegations.as_ref()) {
            if let Some(delegated) = delegations.roles.iter().flatten().find(|other| other.name == role) {
                return Ok((delegated.role_keys(), &delegations.keys));
            }
        }
        Err(SignError::NoSuchRole(role.to_owned()))
    }

    /// Returns who of a role's keys has signed the newest file of that role, validly.
    #[must_use]
    pub fn signers(&self, role: &str) -> Vec<KeyId> {
        let Ok((role_keys, keys)) = self.authority(role) else { return Vec::new() };
        match role {
            "root" => signers(&self.root, &role_keys, keys),
            "snapshot" => {
                self.snapshot.as_ref().map(|file| signers(file, &role_keys, keys)).unwrap_or_default()
            }
            "timestamp" => {
                self.timestamp.as_ref().map(|file| signers(file, &role_keys, keys)).unwrap_or_default()
            }
            _ => self.targets.get(role).map(|file| signers(file, &role_keys, keys)).unwrap_or_default(),
        }
    }

    /// Returns the snapshot and timestamp that fit the other files, signed by those of `keys` that may: only what must
    /// be new. A key that signed the last one and is among `keys` signs again, so that a device with the last root can
    /// read on while its keys are replaced.
    ///
    /// *Errors*: no key of a role that needs a new file is given.
    pub fn complete(
        &self,
        keys: &[&SigningKey],
        now: UnixTime,
        lifetimes: Lifetimes,
        refresh: Refresh,
    ) -> Result<Files, SignError> {
        let mut files = Files::new();
        let meta =
            self.targets.iter().map(|(role, file)| (format!("{role}.json"), version_of(file))).collect();
        let snapshot = match &self.snapshot {
            Some(file)
                if refresh == Refresh::Needed && file.role().meta == meta && self.is_signed("snapshot") =>
            {
                file.clone()
            }
            last => {
                let snapshot = Snapshot {
                    kind: Snapshot::TYPE.to_owned(),
                    spec_version: SPEC_VERSION.to_owned(),
                    version: last.as_ref().map_or(0, |file| file.role().version) + 1,
                    expires: Lifetimes::end(now, lifetimes.snapshot_days),
                    meta,
                };
                let raw = self.sign_online(&snapshot, last.as_ref(), keys)?;
                let file = Envelope::parse(&raw, "snapshot.json")?;
                files.insert(format!("{}.snapshot.json", snapshot.version), raw);
                file
            }
        };
        let meta = BTreeMap::from([("snapshot.json".to_owned(), version_of(&snapshot))]);
        let fits = self.timestamp.as_ref().is_some_and(|file| file.role().meta == meta);
        if refresh == Refresh::Always || !fits || !self.is_signed("timestamp") {
            let timestamp = Timestamp {
                kind: Timestamp::TYPE.to_owned(),
                spec_version: SPEC_VERSION.to_owned(),
                version: self.timestamp().map_or(0, |last| last.version) + 1,
                expires: Lifetimes::end(now, lifetimes.timestamp_days),
                meta,
            };
            files.insert(
                "timestamp.json".to_owned(),
                self.sign_online(&timestamp, self.timestamp.as_ref(), keys)?,
            );
        }
        Ok(files)
    }

    fn is_signed(&self, role: &str) -> bool {
        self.authority(role).is_ok_and(|(keys, _)| self.signers(role).len() >= keys.threshold.max(1) as usize)
    }

    fn sign_online<R: Role>(
        &self,
        role: &R,
        last: Option<&Envelope<R>>,
        keys: &[&SigningKey],
    ) -> Result<Vec<u8>, SignError> {
        let (role_keys, _) = self.authority(R::TYPE)?;
        let speaks = |key: &SigningKey| role_keys.keyids.contains(&key.public().id());
        if !keys.iter().any(|key| speaks(key)) {
            return Err(SignError::NoKey(R::TYPE.to_owned()));
        }
        let signed_last = |key: &SigningKey| {
            last.is_some_and(|file| file.signatures().iter().any(|other| other.keyid == key.public().id()))
        };
        let keys: Vec<_> = keys.iter().copied().filter(|key| speaks(key) || signed_last(key)).collect();
        Ok(super::sign(role, &keys))
    }
}

/// How far the signatures of one offline file have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The file, as in `4.targets.json`.
    pub file: String,
    /// Its role.
    pub role: String,
    /// Valid signatures that count.
    pub signed: Vec<KeyId>,
    /// Keys whose signatures it still needs some of; none once it has enough.
    pub open: Vec<KeyId>,
    /// Signatures that it still needs, of the keys in `open`.
    pub missing: u32,
}

/// Returns how far each file of a change has come that is to follow `before`; a root needs the old and the new keys.
///
/// *Errors*: a file is no metadata, or belongs to a role that nobody delegates.
pub fn standing(before: Option<&Repository>, change: &Files) -> Result<Vec<Standing>, SignError> {
    let after = after(before, change)?;
    let mut all = Vec::new();
    for (name, raw) in change {
        let Some((_, role)) = split_name(name).filter(|(_, role)| *role != "snapshot") else { continue };
        let mut authorities = vec![after.authority(role)?];
        if role == "root"
            && let Some(before) = before
        {
            authorities.push(before.authority(role)?);
        }
        let (signed, open, missing) = match role {
            "root" => count(&Envelope::<Root>::parse(raw, name)?, &authorities),
            _ => count(&Envelope::<Targets>::parse(raw, name)?, &authorities),
        };
        all.push(Standing { file: name.clone(), role: role.to_owned(), signed, open, missing });
    }
    Ok(all)
}

/// Adds the signatures of `keys` to those files of a change that they may sign and have not signed.
///
/// *Errors*: as [`standing`].
pub fn add_signatures(
    before: Option<&Repository>,
    change: &Files,
    keys: &[&SigningKey],
) -> Result<Files, SignError> {
    let mut files = change.clone();
    for standing in standing(before, change)? {
        let adding: Vec<_> =
            keys.iter().copied().filter(|key| standing.open.contains(&key.public().id())).collect();
        if let (Some(raw), false) = (files.get_mut(&standing.file), adding.is_empty()) {
            *raw = with_signatures(raw, &standing.file, &adding)?;
        }
    }
    Ok(files)
}

/// Returns the repository after a change.
pub(super) fn after(before: Option<&Repository>, change: &Files) -> Result<Repository, SignError> {
    let mut files = change.clone();
    if let Some(before) = before {
        for (name, raw) in before.files() {
            files.entry(name).or_insert(raw);
        }
    }
    Repository::read(&files)
}

impl Repository {
    /// Returns the newest files by name.
    #[must_use]
    pub fn files(&self) -> Files {
        let mut files =
            Files::from([(format!("{}.root.json", self.root().version), self.root.raw().to_owned())]);
        for (role, file) in &self.targets {
            files.insert(format!("{}.{role}.json", file.role().version), file.raw().to_owned());
        }
        if let Some(file) = &self.snapshot {
            files.insert(format!("{}.snapshot.json", file.role().version), file.raw().to_owned());
        }
        if let Some(file) = &self.timestamp {
            files.insert("timestamp.json".to_owned(), file.raw().to_owned());
        }
        files
    }
}

type Authority<'k> = (RoleKeys, &'k BTreeMap<KeyId, PublicKey>);

fn count<R: Role>(file: &Envelope<R>, authorities: &[Authority<'_>]) -> (Vec<KeyId>, Vec<KeyId>, u32) {
    let (mut signed, mut open, mut missing) = (Vec::new(), Vec::new(), 0);
    for (role_keys, keys) in authorities {
        let by = signers(file, role_keys, keys);
        let lacking = role_keys.threshold.saturating_sub(by.len() as u32);
        missing = missing.max(lacking);
        if lacking > 0 {
            open.extend(role_keys.keyids.iter().filter(|id| !by.contains(id)).cloned());
        }
        signed.extend(by);
    }
    for ids in [&mut signed, &mut open] {
        ids.sort();
        ids.dedup();
    }
    (signed, open, missing)
}

fn signers<R: Role>(
    file: &Envelope<R>,
    role_keys: &RoleKeys,
    keys: &BTreeMap<KeyId, PublicKey>,
) -> Vec<KeyId> {
    let valid = |id: &KeyId| {
        let of_key = |sig: &&envelope::Signature| sig.keyid == *id;
        keys.get(id).is_some_and(|key| {
            file.signatures()
                .iter()
                .filter(of_key)
                .any(|sig| Ed25519Only.is_valid(key, file.message(), &sig.sig))
        })
    };
    role_keys.keyids.iter().filter(|id| valid(id)).cloned().collect()
}

fn with_signatures(raw: &[u8], name: &str, keys: &[&SigningKey]) -> Result<Vec<u8>, SignError> {
    let broken = |reason: String| SignError::Metadata(Failure::new(Code::Mismatch, name, reason));
    let mut file: Value = serde_json::from_slice(raw).map_err(|e| broken(e.to_string()))?;
    let signed = file["signed"].take();
    let message = crate::canonical::to_bytes(&signed).map_err(|e| broken(e.to_string()))?;
    let mut signatures: Vec<envelope::Signature> =
        serde_json::from_value(file["signatures"].take()).map_err(|e| broken(e.to_string()))?;
    // A signature by the same name that did not count makes room for the valid one.
    signatures.retain(|old| keys.iter().all(|key| key.public().id() != old.keyid));
    signatures.extend(keys.iter().map(|key| key.sign(&message)));
    envelope::write(signed, signatures).map_err(|e| broken(e.to_string()))
}

fn version_of<R: Role>(file: &Envelope<R>) -> FileVersion {
    let hashes = BTreeMap::from([("sha256".to_owned(), Digest::of(file.raw()).to_string())]);
    FileVersion {
        version: file.role().version(),
        length: Some(file.raw().len() as u64),
        hashes: Some(hashes),
    }
}

/// Returns version and role of a file's name, as in `3.targets.json`.
pub(super) fn split_name(name: &str) -> Option<(u64, &str)> {
    let (version, role) = name.strip_suffix(".json")?.split_once('.')?;
    let plain = !version.starts_with('0') && version.bytes().all(|b| b.is_ascii_digit());
    Some((version.parse().ok().filter(|_| plain)?, role))
}

fn parse<R: Role>(files: &Files, name: &str) -> Result<Envelope<R>, SignError> {
    let file: Envelope<R> = Envelope::parse(&files[name], name)?;
    match split_name(name) {
        Some((version, _)) if version == file.role().version() => Ok(file),
        _ => {
            let reason = format!("holds version {}", file.role().version());
            Err(Failure::new(Code::Mismatch, name, reason).into())
        }
    }
}

#[cfg(test)]
mod tests;
