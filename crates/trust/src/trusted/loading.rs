//! From what is stored to what is trusted, and back.
//!
//! Believes the stored root and nothing else: every other file is checked against it again, and left out where it fails
//! or lies below its floor. Never judges expiry: an old file still tells which versions were seen.

use std::collections::BTreeMap;

use super::{Floors, Stored, TrustedSet, roles_listed, rollback, signed_by, snapshot_named};
use crate::envelope::Envelope;
use crate::failure::Failure;
use crate::key::{Ed25519Only, SignatureCheck};
use crate::metadata::{Role, Root, Snapshot, Targets, Timestamp};

impl TrustedSet {
    /// Takes what is stored; signatures are Ed25519's alone.
    ///
    /// *Errors*: the root cannot be read, has not signed itself or lies below its floor: the state is lost, and updates
    /// are to be refused until somebody brings a root again. Other files that fail are left out; see
    /// [`TrustedSet::discarded`].
    pub fn load(stored: &Stored) -> Result<Self, Failure> {
        Self::load_checked_by(stored, &Ed25519Only)
    }

    /// Takes what is stored, with another check of signatures: for programs that test against other repositories. A
    /// gateway calls [`TrustedSet::load`].
    ///
    /// *Errors*: as [`TrustedSet::load`].
    pub fn load_checked_by(stored: &Stored, check: &'static dyn SignatureCheck) -> Result<Self, Failure> {
        let root = Envelope::<Root>::parse(&stored.root, "root.json")?;
        signed_by(&root, root.role(), "root", check)?;
        let version = root.role().version;
        if version < stored.floors.root {
            return Err(rollback("root.json", version, stored.floors.root));
        }
        let floors = Floors { root: version, ..stored.floors.clone() };
        let (timestamp, snapshot, targets, delegated) = (None, None, None, BTreeMap::new());
        let discarded = Vec::new();
        let mut set = Self { check, root, timestamp, snapshot, targets, delegated, floors, discarded };
        set.load_timestamp(stored.timestamp.as_deref());
        set.load_snapshot(stored.snapshot.as_deref());
        if let Some(file) = set.open_stored::<Targets>(stored.targets.as_deref(), "targets") {
            set.targets = Some(file);
        }
        for (name, raw) in &stored.delegated {
            // Whether a delegator still vouches for it shows on the way to a target.
            match Envelope::parse(raw, &format!("{name}.json")) {
                Ok(file) => drop(set.delegated.insert(name.clone(), file)),
                Err(failure) => set.discarded.push(failure),
            }
        }
        Ok(set)
    }

    fn load_timestamp(&mut self, raw: Option<&[u8]>) {
        let Some(file) = self.open_stored::<Timestamp>(raw, "timestamp") else { return };
        let Ok(named) = snapshot_named(file.role()).map(|named| named.version) else { return };
        let version = file.role().version;
        if version < self.floors.timestamp || named < self.floors.snapshot {
            self.discarded.push(rollback("timestamp.json", version, self.floors.timestamp));
            return;
        }
        (self.floors.timestamp, self.floors.snapshot) = (version, named);
        self.timestamp = Some(file);
    }

    /// A snapshot older than the timestamp's is kept: the roles it lists are floors.
    fn load_snapshot(&mut self, raw: Option<&[u8]>) {
        let Some(file) = self.open_stored::<Snapshot>(raw, "snapshot") else { return };
        for (role, version) in roles_listed(file.role()) {
            let floor = self.floors.targets.entry(role).or_default();
            *floor = version.max(*floor);
        }
        self.snapshot = Some(file);
    }

    fn open_stored<R: Role>(&mut self, raw: Option<&[u8]>, role: &str) -> Option<Envelope<R>> {
        let opened = Envelope::<R>::parse(raw?, &format!("{role}.json"))
            .and_then(|file| signed_by(&file, self.root.role(), role, self.check).map(|()| file));
        match opened {
            Ok(file) => Some(file),
            Err(failure) => {
                self.discarded.push(failure);
                None
            }
        }
    }

    /// Returns what is to be stored.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored {
            root: self.root.raw().to_owned(),
            timestamp: self.timestamp.as_ref().map(|file| file.raw().to_owned()),
            snapshot: self.snapshot.as_ref().map(|file| file.raw().to_owned()),
            targets: self.targets.as_ref().map(|file| file.raw().to_owned()),
            delegated: self
                .delegated
                .iter()
                .map(|(name, file)| (name.clone(), file.raw().to_owned()))
                .collect(),
            floors: self.floors.clone(),
        }
    }
}
