//! A repository in memory, from fixed seeds: what the tests serve to the verifier, and how they spoil it.
//!
//! Signs with the product's signer; never verifies. Stands beside the tests that include it.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "what the tests make is well formed")]

use std::collections::BTreeMap;

use dunlin_trust::envelope::Signature;
use dunlin_trust::hashes::Hashing;
use dunlin_trust::metadata::{
    DelegatedRole, Delegations, FileVersion, Role, RoleKeys, Root, SPEC_VERSION, Snapshot, TargetDescription,
    Targets, Timestamp,
};
use dunlin_trust::sign::{SigningKey, sign};
use dunlin_trust::steps::metadata_path;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{
    Answer, Digest, Failure, Fetch, Interrupted, PublicKey, Refresh, Stored, TrustedSet, run,
};
use serde_json::Value;

/// The time of the tests: 2026-12-01.
pub(crate) const NOW: UnixTime = UnixTime(1_796_083_200);
/// A time that has passed by then.
pub(crate) const PAST: UnixTime = UnixTime(NOW.0 - 3600);
const DAY: i64 = 86_400;

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

pub(crate) fn public(seed: u8) -> PublicKey {
    key(seed).public()
}

#[derive(Clone)]
pub(crate) struct Repository {
    pub(crate) root: Root,
    pub(crate) timestamp: Timestamp,
    pub(crate) snapshot: Snapshot,
    pub(crate) targets: Targets,
    pub(crate) delegated: BTreeMap<String, Targets>,
    /// Seeds of the keys that sign, by role.
    pub(crate) signers: BTreeMap<String, Vec<u8>>,
    /// What is served, by path.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

pub(crate) fn empty_targets() -> Targets {
    Targets {
        kind: Targets::TYPE.to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version: 1,
        expires: UnixTime(NOW.0 + 365 * DAY),
        signed_at: None,
        custom: None,
        targets: BTreeMap::new(),
        delegations: None,
    }
}

impl Default for Repository {
    fn default() -> Self {
        Self::new()
    }
}

impl Repository {
    /// One key a role; one target, `models/frost/1/manifest.json`; everything at version 1.
    pub(crate) fn new() -> Self {
        let seeds = [("root", 1), ("timestamp", 2), ("snapshot", 3), ("targets", 4)];
        let roles = seeds.map(|(role, seed)| {
            (role.to_owned(), RoleKeys { keyids: vec![public(seed).id()], threshold: 1 })
        });
        let root = Root {
            kind: Root::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
            expires: UnixTime(NOW.0 + 365 * DAY),
            signed_at: None,
            consistent_snapshot: true,
            keys: seeds.map(|(_, seed)| (public(seed).id(), public(seed))).into(),
            roles: roles.into(),
        };
        let timestamp = Timestamp {
            kind: Timestamp::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
            expires: UnixTime(NOW.0 + 7 * DAY),
            meta: BTreeMap::new(),
        };
        let snapshot = Snapshot {
            kind: Snapshot::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
            expires: UnixTime(NOW.0 + 30 * DAY),
            meta: BTreeMap::new(),
        };
        let mut targets = empty_targets();
        targets.targets.insert(
            "models/frost/1/manifest.json".to_owned(),
            TargetDescription::of(
                b"frost 1",
                Some(serde_json::json!({"model": "frost", "version": "1", "release_counter": 5, "architectures": ["aarch64"]})),
            ),
        );
        let signers = seeds.map(|(role, seed)| (role.to_owned(), vec![seed])).into();
        let (delegated, files) = (BTreeMap::new(), BTreeMap::new());
        let mut repository = Self { root, timestamp, snapshot, targets, delegated, signers, files };
        repository.publish_root();
        repository.publish();
        repository
    }

    pub(crate) fn keys(&self, role: &str) -> Vec<SigningKey> {
        self.signers.get(role).into_iter().flatten().map(|seed| key(*seed)).collect()
    }

    pub(crate) fn signed<R: Role>(&self, role: &R, name: &str) -> Vec<u8> {
        let keys = self.keys(name);
        sign(role, &keys.iter().collect::<Vec<_>>())
    }

    pub(crate) fn publish_root(&mut self) {
        let bytes = self.signed(&self.root, "root");
        self.files.insert(metadata_path("root", Some(self.root.version)), bytes);
    }

    /// Signs and serves targets metadata, snapshot and timestamp with the versions they have.
    pub(crate) fn publish(&mut self) {
        let mut roles: Vec<(String, Targets)> = self.delegated.clone().into_iter().collect();
        roles.push(("targets".to_owned(), self.targets.clone()));
        for (name, targets) in roles {
            let bytes = self.signed(&targets, &name);
            self.snapshot.meta.insert(format!("{name}.json"), pin(&bytes, targets.version));
            self.put(&name, targets.version, bytes);
        }
        self.publish_snapshot();
    }

    pub(crate) fn publish_snapshot(&mut self) {
        let bytes = self.signed(&self.snapshot, "snapshot");
        self.timestamp.meta.insert("snapshot.json".to_owned(), pin(&bytes, self.snapshot.version));
        self.put("snapshot", self.snapshot.version, bytes);
        self.publish_timestamp();
    }

    pub(crate) fn publish_timestamp(&mut self) {
        let bytes = self.signed(&self.timestamp, "timestamp");
        self.files.insert("timestamp.json".to_owned(), bytes);
    }

    fn put(&mut self, role: &str, version: u64, bytes: Vec<u8>) {
        let version = self.root.consistent_snapshot.then_some(version);
        self.files.insert(metadata_path(role, version), bytes);
    }

    /// Raises the versions of targets, snapshot and timestamp and publishes them.
    pub(crate) fn release(&mut self) {
        self.targets.version += 1;
        self.snapshot.version += 1;
        self.timestamp.version += 1;
        self.publish();
    }

    /// Makes the next root in which these keys alone speak for a role; the old root keys sign it besides.
    pub(crate) fn rotate(&mut self, role: &str, seeds: &[u8]) {
        let old = self.signers["root"].clone();
        self.set_keys(role, seeds, 1);
        self.root.version += 1;
        let mut seeds = self.signers["root"].clone();
        seeds.extend(old.iter().filter(|seed| !seeds.contains(seed)).copied().collect::<Vec<_>>());
        let keys: Vec<SigningKey> = seeds.iter().map(|seed| key(*seed)).collect();
        let bytes = sign(&self.root, &keys.iter().collect::<Vec<_>>());
        self.files.insert(metadata_path("root", Some(self.root.version)), bytes);
    }

    pub(crate) fn set_keys(&mut self, role: &str, seeds: &[u8], threshold: u32) {
        let keyids = seeds.iter().map(|seed| public(*seed).id()).collect();
        self.root.keys.extend(seeds.iter().map(|seed| (public(*seed).id(), public(*seed))));
        self.root.roles.insert(role.to_owned(), RoleKeys { keyids, threshold });
        self.signers.insert(role.to_owned(), seeds.to_vec());
    }

    /// Lets `delegator` delegate paths to a role whose key has this seed.
    pub(crate) fn delegate(
        &mut self,
        delegator: &str,
        role: &str,
        seed: u8,
        pattern: &str,
        terminating: bool,
    ) {
        let delegated = DelegatedRole {
            name: role.to_owned(),
            keyids: vec![public(seed).id()],
            threshold: 1,
            terminating,
            paths: Some(vec![pattern.to_owned()]),
            path_hash_prefixes: None,
        };
        let targets = self.role_mut(delegator);
        let delegations = targets.delegations.get_or_insert_with(|| Delegations {
            keys: BTreeMap::new(),
            roles: Some(Vec::new()),
            succinct_roles: None,
        });
        delegations.keys.insert(public(seed).id(), public(seed));
        delegations.roles.get_or_insert_default().push(delegated);
        self.delegated.entry(role.to_owned()).or_insert_with(empty_targets);
        let seeds = self.signers.entry(role.to_owned()).or_default();
        if !seeds.contains(&seed) {
            seeds.push(seed);
        }
    }

    pub(crate) fn role_mut(&mut self, name: &str) -> &mut Targets {
        if name == "targets" { &mut self.targets } else { self.delegated.get_mut(name).unwrap() }
    }

    pub(crate) fn fetch(&self, fetch: &Fetch) -> Answer {
        match self.files.get(&fetch.path) {
            Some(bytes) => {
                let length = bytes.len().min(fetch.length_max as usize + 1);
                Answer::Found(bytes[..length].to_vec())
            }
            None => Answer::NotFound,
        }
    }

    /// Returns a device that has refreshed from this repository.
    pub(crate) fn device(&self) -> Stored {
        let first = self.files["1.root.json"].clone();
        self.refresh(TrustedSet::load(&Stored::first(first)).unwrap()).unwrap().stored()
    }

    pub(crate) fn refresh(&self, set: TrustedSet) -> Result<TrustedSet, Failure> {
        let mut refresh = Refresh::new(set, NOW);
        match run::<()>(&mut refresh, |fetch| Ok(self.fetch(fetch))) {
            Ok(()) => Ok(refresh.finish().set),
            Err(Interrupted::Refused(failure)) => Err(failure),
            Err(Interrupted::Source(())) => unreachable!("memory does not fail"),
        }
    }

    /// Changes a served file as JSON, and leaves its signatures as they are.
    pub(crate) fn spoil(&mut self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut file: Value = serde_json::from_slice(&self.files[path]).unwrap();
        change(&mut file);
        self.files.insert(path.to_owned(), serde_json::to_vec(&file).unwrap());
    }

    /// Lets the snapshot name whatever is served as a role's file, and the timestamp the snapshot, properly signed.
    pub(crate) fn name_as_served(&mut self, role: &str, version: u64) {
        let bytes = self.files[&metadata_path(role, Some(version))].clone();
        self.snapshot.meta.insert(format!("{role}.json"), pin(&bytes, version));
        self.publish_snapshot();
    }
}

pub(crate) fn pin(bytes: &[u8], version: u64) -> FileVersion {
    let hashes = BTreeMap::from([("sha256".to_owned(), Digest::of(bytes).to_string())]);
    let mut hashing = Hashing::new(&hashes);
    hashing.update(bytes);
    assert!(hashing.is(&hashes));
    FileVersion { version, length: Some(bytes.len() as u64), hashes: Some(hashes) }
}

/// Returns a signature of a served file's signed part by a key.
pub(crate) fn signature_on(file: &Value, seed: u8) -> Signature {
    key(seed).sign(&dunlin_trust::canonical::to_bytes(&file["signed"]).unwrap())
}
