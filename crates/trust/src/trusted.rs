//! The metadata that are trusted, and the rules by which newer ones take their place.
//!
//! A state machine over bytes: no clock, no file, no network. A refusal changes nothing. Floors under the versions are
//! kept apart from the files, so that a lost or truncated file never lets an older one in; a rotation of keys in the
//! root alone lowers them. *Source*: TUF 1.0.34, section 5.

mod loading;

use std::collections::{BTreeMap, BTreeSet};

use dunlin_kit::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::director::DIRECTOR_ROLE;
use crate::envelope::Envelope;
use crate::failure::{Code, Failure};
use crate::hashes;
use crate::key::{PublicKey, SignatureCheck};
use crate::limits::{self, ROOT_BYTES_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX};
use crate::metadata::{FileVersion, Role, Root, Snapshot, Targets, Timestamp};
use crate::time::UnixTime;

/// The lowest versions that are accepted; 0 where any is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Floors {
    /// Of the root.
    pub root: u64,
    /// Of the timestamp.
    pub timestamp: u64,
    /// Of the snapshot, as the newest timestamp named it.
    pub snapshot: u64,
    /// Of the targets metadata by role, `targets` among them, as the newest snapshot named them.
    pub targets: BTreeMap<String, u64>,
}

/// What is kept of a repository: the files as they came, and the floors. To be written in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// The root.
    pub root: Vec<u8>,
    /// The timestamp.
    pub timestamp: Option<Vec<u8>>,
    /// The snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// The top-level targets metadata.
    pub targets: Option<Vec<u8>>,
    /// Delegated roles by name.
    pub delegated: BTreeMap<String, Vec<u8>>,
    /// The floors.
    pub floors: Floors,
}

impl Stored {
    /// Returns what a device keeps at first: a root that was brought to it by a way that is trusted.
    #[must_use]
    pub fn first(root: Vec<u8>) -> Self {
        Self { root, ..Self::default() }
    }
}

/// What became of a file that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// It took the place of the trusted one.
    Replaced,
    /// It has the trusted one's version: that one stays.
    Kept,
}

/// The trusted metadata of one repository.
#[derive(Clone)]
pub struct TrustedSet {
    check: &'static dyn SignatureCheck,
    root: Envelope<Root>,
    timestamp: Option<Envelope<Timestamp>>,
    snapshot: Option<Envelope<Snapshot>>,
    targets: Option<Envelope<Targets>>,
    /// Delegated roles that some delegator vouched for once; each use checks them against the delegator on its way.
    delegated: BTreeMap<String, Envelope<Targets>>,
    floors: Floors,
    discarded: Vec<Failure>,
}

impl std::fmt::Debug for TrustedSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustedSet").field("floors", &self.floors).finish_non_exhaustive()
    }
}

impl TrustedSet {
    /// Takes the next root.
    ///
    /// *Errors*: `endless_data`, `rollback` for an older version, `signature` where the old or the new keys have not signed
    /// it, `mismatch` for no root, a gap, or a root of the other kind of repository.
    pub fn update_root(&mut self, raw: &[u8]) -> Result<(), Failure> {
        let object = "root.json";
        require_bytes(raw, ROOT_BYTES_MAX, object)?;
        let new = Envelope::<Root>::parse(raw, object)?;
        signed_by(&new, self.root.role(), "root", self.check)?;
        signed_by(&new, new.role(), "root", self.check)?;
        let (old, version) = (self.root.role().version, new.role().version);
        if version <= old {
            return Err(rollback(object, version, old));
        }
        if old.checked_add(1) != Some(version) {
            let reason = format!("has version {version}, which does not follow {old}");
            return Err(Failure::new(Code::Mismatch, object, reason));
        }
        let is_directors = |root: &Root| root.roles.contains_key(DIRECTOR_ROLE);
        if is_directors(self.root.role()) != is_directors(new.role()) {
            let reason =
                "is another repository's: a director's root never follows the owner's, nor the owner's it";
            return Err(Failure::new(Code::Mismatch, object, reason));
        }
        let timestamp_rotated = is_rotated(self.root.role(), new.role(), "timestamp");
        let snapshot_rotated = is_rotated(self.root.role(), new.role(), "snapshot");
        self.root = new;
        self.floors.root = version;
        self.forget(timestamp_rotated, snapshot_rotated);
        Ok(())
    }

    /// Recovery from versions that a stolen key drove up (section 5.3.11); files that the new root's keys have not signed
    /// are of no use either.
    fn forget(&mut self, timestamp_rotated: bool, snapshot_rotated: bool) {
        if timestamp_rotated || snapshot_rotated {
            (self.timestamp, self.snapshot) = (None, None);
            (self.floors.timestamp, self.floors.snapshot) = (0, 0);
        }
        if snapshot_rotated {
            self.floors.targets.clear();
        }
        let (root, check) = (self.root.role(), self.check);
        self.timestamp.take_if(|file| signed_by(file, root, "timestamp", check).is_err());
        self.snapshot.take_if(|file| signed_by(file, root, "snapshot", check).is_err());
        self.targets.take_if(|file| signed_by(file, root, "targets", check).is_err());
    }

    /// Checks that the root has not expired: to be asked once there is no newer one.
    ///
    /// *Errors*: `freeze_suspected`.
    pub fn require_fresh_root(&self, now: UnixTime) -> Result<(), Failure> {
        require_fresh(self.root.role(), "root.json", now)
    }

    /// Takes a timestamp.
    ///
    /// *Errors*: `endless_data`, `mismatch`, `signature`, `rollback` of it or of the snapshot it names, `freeze_suspected`.
    pub fn update_timestamp(&mut self, raw: &[u8], now: UnixTime) -> Result<Update, Failure> {
        let object = "timestamp.json";
        self.require_fresh_root(now)?;
        require_bytes(raw, TIMESTAMP_BYTES_MAX, object)?;
        let new = Envelope::<Timestamp>::parse(raw, object)?;
        signed_by(&new, self.root.role(), "timestamp", self.check)?;
        let version = new.role().version;
        if version < self.floors.timestamp {
            return Err(rollback(object, version, self.floors.timestamp));
        }
        if let Some(trusted) = &self.timestamp
            && trusted.role().version == version
        {
            require_fresh(trusted.role(), object, now)?;
            return Ok(Update::Kept);
        }
        let named = snapshot_named(new.role())?.version;
        if named < self.floors.snapshot {
            return Err(rollback("snapshot.json", named, self.floors.snapshot));
        }
        require_fresh(new.role(), object, now)?;
        (self.floors.timestamp, self.floors.snapshot) = (version, named);
        self.timestamp = Some(new);
        Ok(Update::Replaced)
    }

    /// Takes the snapshot that the timestamp names.
    ///
    /// *Errors*: `endless_data`, `mismatch` of length, hash or version, `signature`, `rollback` of it or of a role it
    /// lists, `freeze_suspected`.
    pub fn update_snapshot(&mut self, raw: &[u8], now: UnixTime) -> Result<(), Failure> {
        let object = "snapshot.json";
        let named = self.named_snapshot(now)?;
        require_bytes(raw, SNAPSHOT_BYTES_MAX, object)?;
        hashes::require(raw, named.length, named.hashes.as_ref(), object)?;
        let new = Envelope::<Snapshot>::parse(raw, object)?;
        signed_by(&new, self.root.role(), "snapshot", self.check)?;
        let trusted = self.snapshot.as_ref().map(|file| file.role().version);
        require_version(new.role().version, named.version, trusted, object)?;
        let listed = roles_listed(new.role());
        for (name, floor) in &self.floors.targets {
            match listed.get(name) {
                Some(version) if version < floor => {
                    return Err(rollback(&format!("{name}.json"), *version, *floor));
                }
                Some(_) => {}
                None => {
                    let reason = format!("does not list the role `{}` any more", name.escape_debug());
                    return Err(Failure::new(Code::Rollback, object, reason));
                }
            }
        }
        require_fresh(new.role(), object, now)?;
        // Other versions would have to be fetched again before they are of use.
        self.delegated.retain(|name, file| listed.get(name) == Some(&file.role().version));
        self.floors.targets = listed;
        self.snapshot = Some(new);
        Ok(())
    }

    /// Takes the top-level targets metadata that the snapshot names.
    ///
    /// *Errors*: `endless_data`, `mismatch`, `signature`, `rollback`, `freeze_suspected`.
    pub fn update_targets(&mut self, raw: &[u8], now: UnixTime) -> Result<(), Failure> {
        let object = "targets.json";
        let trusted = self.targets.as_ref().map(|file| file.role().version);
        let new = self.open_targets(raw, "targets", trusted, now)?;
        signed_by(&new, self.root.role(), "targets", self.check)?;
        require_fresh(new.role(), object, now)?;
        self.targets = Some(new);
        Ok(())
    }

    /// Takes a delegated role's metadata, as `delegator` vouches for it.
    ///
    /// *Errors*: as [`TrustedSet::update_targets`], and `not_approved` where `delegator` does not delegate to it.
    pub fn update_delegated(
        &mut self,
        raw: &[u8],
        name: &str,
        delegator: &str,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let object = format!("{name}.json");
        let new = self.open_targets(raw, name, None, now)?;
        self.require_delegated(&new, name, delegator)?;
        require_fresh(new.role(), &object, now)?;
        self.delegated.insert(name.to_owned(), new);
        Ok(())
    }

    fn open_targets(
        &self,
        raw: &[u8],
        name: &str,
        trusted: Option<u64>,
        now: UnixTime,
    ) -> Result<Envelope<Targets>, Failure> {
        let object = format!("{name}.json");
        let named = self.named_role(name, now)?;
        require_bytes(raw, TARGETS_BYTES_MAX, &object)?;
        hashes::require(raw, named.length, named.hashes.as_ref(), &object)?;
        let new = Envelope::<Targets>::parse(raw, &object)?;
        require_version(new.role().version, named.version, trusted, &object)?;
        Ok(new)
    }

    /// Returns what the timestamp says of the snapshot.
    ///
    /// *Errors*: `freeze_suspected` for an expired timestamp, `mismatch` where there is none.
    pub fn named_snapshot(&self, now: UnixTime) -> Result<&FileVersion, Failure> {
        let timestamp = self.timestamp.as_ref().ok_or_else(|| missing("timestamp.json"))?;
        require_fresh(timestamp.role(), "timestamp.json", now)?;
        snapshot_named(timestamp.role())
    }

    /// Returns what the snapshot says of a role's metadata.
    ///
    /// *Errors*: `freeze_suspected` for an expired timestamp or snapshot, `mismatch` for a snapshot that is not the
    /// timestamp's, or one without the role.
    pub fn named_role(&self, name: &str, now: UnixTime) -> Result<&FileVersion, Failure> {
        let named = self.named_snapshot(now)?;
        let snapshot = self.snapshot.as_ref().ok_or_else(|| missing("snapshot.json"))?;
        if !is_named(snapshot, named) {
            let reason = "is not the one that the timestamp names";
            return Err(Failure::new(Code::Mismatch, "snapshot.json", reason));
        }
        require_fresh(snapshot.role(), "snapshot.json", now)?;
        let object = format!("{name}.json");
        snapshot
            .role()
            .meta
            .get(&object)
            .ok_or_else(|| Failure::new(Code::Mismatch, object, "is a role that the snapshot does not list"))
    }

    /// Tells whether the trusted snapshot is the one that the timestamp names, so that it need not be fetched.
    #[must_use]
    pub fn has_named_snapshot(&self) -> bool {
        let named = self.timestamp.as_ref().and_then(|file| snapshot_named(file.role()).ok());
        matches!((&self.snapshot, named), (Some(snapshot), Some(named)) if is_named(snapshot, named))
    }

    /// Tells whether the trusted targets metadata are those that the snapshot names.
    ///
    /// *Errors*: `freeze_suspected` where one of the files on the way or they themselves have expired; `mismatch` where
    /// the snapshot is not the named one.
    pub fn has_named_targets(&self, now: UnixTime) -> Result<bool, Failure> {
        let named = self.named_role("targets", now)?;
        match &self.targets {
            Some(targets) if is_named(targets, named) => {
                require_fresh(targets.role(), "targets.json", now)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Tells whether a delegated role is here as the snapshot names it and as `delegator` vouches for it.
    ///
    /// *Errors*: as [`TrustedSet::has_named_targets`].
    pub fn has_named_delegated(&self, name: &str, delegator: &str, now: UnixTime) -> Result<bool, Failure> {
        let named = self.named_role(name, now)?;
        match self.delegated.get(name) {
            Some(file) if is_named(file, named) && self.require_delegated(file, name, delegator).is_ok() => {
                require_fresh(file.role(), &format!("{name}.json"), now)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn require_delegated(
        &self,
        file: &Envelope<Targets>,
        name: &str,
        delegator: &str,
    ) -> Result<(), Failure> {
        let object = format!("{name}.json");
        let refuse = || {
            let reason = format!("is not delegated by `{}`", delegator.escape_debug());
            Failure::new(Code::NotApproved, object.clone(), reason)
        };
        if limits::is_top_level(name) {
            return Err(refuse());
        }
        let delegations = self.role_file(delegator).and_then(|file| file.role().delegations.as_ref());
        let delegations = delegations.ok_or_else(refuse)?;
        let keys = delegations.keys_of(name).ok_or_else(refuse)?;
        file.require_signatures(&keys, &delegations.keys, self.check, &object)
    }

    /// Returns the file of a role of targets metadata, `targets` among them.
    pub(crate) fn role_file(&self, name: &str) -> Option<&Envelope<Targets>> {
        if name == "targets" { self.targets.as_ref() } else { self.delegated.get(name) }
    }

    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> &Root {
        self.root.role()
    }

    /// Returns the root's bytes.
    #[must_use]
    pub fn root_bytes(&self) -> &[u8] {
        self.root.raw()
    }

    /// Returns the SHA-256 of the root's bytes: the anchor of evidence.
    #[must_use]
    pub fn anchor(&self) -> Digest {
        Digest::of(self.root.raw())
    }

    /// Returns the timestamp, where there is one.
    #[must_use]
    pub fn timestamp(&self) -> Option<&Timestamp> {
        self.timestamp.as_ref().map(Envelope::role)
    }

    /// Returns the snapshot, where there is one.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().map(Envelope::role)
    }

    /// Returns the top-level targets metadata, where there are any. They may be older than what the snapshot names.
    #[must_use]
    pub fn targets(&self) -> Option<&Targets> {
        self.targets.as_ref().map(Envelope::role)
    }

    /// Returns the floors.
    #[must_use]
    pub const fn floors(&self) -> &Floors {
        &self.floors
    }

    /// Returns what was stored and could not be believed when it was loaded.
    #[must_use]
    pub fn discarded(&self) -> &[Failure] {
        &self.discarded
    }

    /// Returns the newest time that the root or the top-level targets metadata were signed at: both are signed offline.
    /// Delegated roles have no say in the time, and a wrong one leaves with the file that a newer root or newer targets
    /// metadata replace.
    #[must_use]
    pub fn signed_time(&self) -> Option<UnixTime> {
        let targets = self.targets.as_ref().and_then(|file| file.role().signed_at);
        self.root.role().signed_at.max(targets)
    }
}

fn require_bytes(raw: &[u8], bytes_max: u64, object: &str) -> Result<(), Failure> {
    if raw.len() as u64 > bytes_max {
        let reason = format!("is longer than {bytes_max} bytes");
        return Err(Failure::new(Code::EndlessData, object, reason));
    }
    Ok(())
}

fn require_fresh<R: Role>(role: &R, object: &str, now: UnixTime) -> Result<(), Failure> {
    if role.expires() <= now {
        let reason = format!("expired at {}; newer ones may be withheld", role.expires());
        return Err(Failure::new(Code::FreezeSuspected, object, reason));
    }
    Ok(())
}

/// Checks the version that is named; an older one than the trusted file's is a rollback, any other a mismatch.
fn require_version(version: u64, named: u64, trusted: Option<u64>, object: &str) -> Result<(), Failure> {
    if version == named {
        return Ok(());
    }
    match trusted {
        Some(trusted) if version < trusted => Err(rollback(object, version, trusted)),
        _ => {
            let reason = format!("has version {version}, not the {named} that was announced");
            Err(Failure::new(Code::Mismatch, object, reason))
        }
    }
}

fn rollback(object: &str, version: u64, floor: u64) -> Failure {
    Failure::new(Code::Rollback, object, format!("has version {version}; {floor} was trusted before"))
}

fn missing(object: &str) -> Failure {
    Failure::new(Code::Mismatch, object, "is needed and is not here; refresh the metadata first")
}

fn snapshot_named(timestamp: &Timestamp) -> Result<&FileVersion, Failure> {
    timestamp.meta.get("snapshot.json").ok_or_else(|| missing("snapshot.json"))
}

fn is_named<R: Role>(file: &Envelope<R>, named: &FileVersion) -> bool {
    file.role().version() == named.version
        && hashes::require(file.raw(), named.length, named.hashes.as_ref(), "").is_ok()
}

fn roles_listed(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let named = |(file, version): (&String, &FileVersion)| {
        file.strip_suffix(".json").map(|role| (role.to_owned(), version.version))
    };
    snapshot.meta.iter().filter_map(named).collect()
}

fn signed_by<R: Role>(
    file: &Envelope<R>,
    root: &Root,
    role: &str,
    check: &dyn SignatureCheck,
) -> Result<(), Failure> {
    let object = format!("{role}.json");
    let keys = root.roles.get(role).ok_or_else(|| missing(&object))?;
    file.require_signatures(keys, &root.keys, check, &object)
}

/// Tells whether a key that spoke for the role does so no more. Keys are told apart by their value.
fn is_rotated(old: &Root, new: &Root, role: &str) -> bool {
    let keys = |root: &Root| -> BTreeSet<String> {
        let named = root.roles.get(role).into_iter().flat_map(|keys| &keys.keyids);
        named.filter_map(|id| root.keys.get(id)).map(PublicKey::identity).collect()
    };
    !keys(old).is_subset(&keys(new))
}
