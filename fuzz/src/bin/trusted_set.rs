//! The trusted set under an attacker who replays, mixes and changes every file that was ever signed.
//!
//! A repository has lived through rotations of keys; the input says which of its files comes as what, with which bytes
//! changed, at which time. Nothing unsigned becomes trusted, a refusal changes nothing, floors never sink but by a new
//! root, and what is stored loads again as the same. Read as a director's, the set speaks to its device alone, and in
//! answer to the question that was asked.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use dunlin_trust::director::{Device, Statement};
use dunlin_trust::metadata::{
    DelegatedRole, Delegations, FileVersion, Role, RoleKeys, Root, SPEC_VERSION, Snapshot, TargetDescription,
    Targets, Timestamp,
};
use dunlin_trust::sign::{self, SigningKey};
use dunlin_trust::steps::{Answer, Steps};
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Lookup, Refresh, Stored, TrustedSet};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// Each version of the repository is signed and valid this many seconds after the one before.
const STEP_S: i64 = 1_000;
const VERSIONS: u64 = 4;
const PATH: &str = "models/team/a/manifest.json";
/// What the director assigns; the owner's delegation does not name it.
const ASSIGNED: &str = "models/assigned/manifest.json";
const DEVICE: &str = "gateway-1";

static LIFE: LazyLock<Life> = LazyLock::new(Life::new);

/// Every file that was ever signed, and the signed parts of them.
struct Life {
    files: Vec<Vec<u8>>,
    signed: BTreeSet<String>,
    first_root: Vec<u8>,
}

fuzz_target!(|data: &[u8]| {
    let _ = check(&mut Unstructured::new(data));
});

fn check(choices: &mut Unstructured<'_>) -> Result<()> {
    let mut set = TrustedSet::load(&Stored::first(LIFE.first_root.clone())).expect("the first root is good");
    for _ in 0..24 {
        if choices.is_empty() {
            break;
        }
        let now = UnixTime(choices.int_in_range(0..=2 * STEP_S * VERSIONS as i64)?);
        let before = set.clone();
        let outcome = match choices.int_in_range(0..=6)? {
            0 => set.update_root(&file(choices)?),
            1 => set.update_timestamp(&file(choices)?, now).map(|_| ()),
            2 => set.update_snapshot(&file(choices)?, now),
            3 => set.update_targets(&file(choices)?, now),
            4 => set.update_delegated(&file(choices)?, "team", "targets", now),
            5 => {
                set = refresh(choices, set, now)?;
                Ok(())
            }
            _ => {
                look_up(choices, &mut set, now)?;
                Ok(())
            }
        };
        if outcome.is_err() {
            assert_eq!(set.stored(), before.stored(), "a refusal changes nothing");
        }
        require_sound(&before, &set);
        require_addressed(choices, &set, now)?;
    }
    Ok(())
}

/// Returns a file that was once signed, whole or with some bytes changed.
fn file(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = choices.choose(&LIFE.files)?.clone();
    if choices.ratio(1, 4)? {
        let start = choices.int_in_range(0..=bytes.len())?;
        let end = choices.int_in_range(start..=bytes.len().min(start + 16))?;
        let length = choices.int_in_range(0..=8)?;
        let put = choices.bytes(length.min(choices.len()))?.to_vec();
        bytes.splice(start..end, put);
    }
    Ok(bytes)
}

fn refresh(choices: &mut Unstructured<'_>, set: TrustedSet, now: UnixTime) -> Result<TrustedSet> {
    let mut refresh = Refresh::new(set, now);
    let mut asked = 0;
    while let Some(fetch) = refresh.wants() {
        assert!(!fetch.path.contains('/') && fetch.length_max > 0);
        asked += 1;
        assert!(asked < 1_000, "a refresh ends");
        let answer = if choices.ratio(1, 4)? { Answer::NotFound } else { Answer::Found(file(choices)?) };
        if refresh.answer(answer).is_err() {
            assert!(refresh.wants().is_none(), "nothing is wanted after a refusal");
        }
    }
    let refreshed = refresh.finish();
    if refreshed.is_complete {
        assert_eq!(refreshed.set.has_named_targets(now), Ok(true));
    }
    Ok(refreshed.set)
}

fn look_up(choices: &mut Unstructured<'_>, set: &mut TrustedSet, now: UnixTime) -> Result<()> {
    let anchor = set.anchor();
    let Ok(mut lookup) = Lookup::new(set, PATH, now) else { return Ok(()) };
    while lookup.wants().is_some() {
        let _ = lookup.answer(Answer::Found(file(choices)?));
    }
    if let Ok(target) = lookup.finish() {
        let bytes = (1..=VERSIONS)
            .map(content)
            .find(|bytes| TargetDescription::of(bytes, None) == target.description);
        let bytes = bytes.expect("what was found was signed");
        let proven = target.evidence.verify(&anchor, bytes).expect("the evidence proves what was found");
        assert_eq!(proven.path, PATH);
    }
    Ok(())
}

fn require_sound(before: &TrustedSet, after: &TrustedSet) {
    let stored = after.stored();
    let files =
        [Some(&stored.root), stored.timestamp.as_ref(), stored.snapshot.as_ref(), stored.targets.as_ref()];
    for raw in files.into_iter().flatten().chain(stored.delegated.values()) {
        let value: Value = serde_json::from_slice(raw).expect("what is trusted is JSON");
        assert!(LIFE.signed.contains(&value["signed"].to_string()), "something unsigned is trusted");
    }
    let again = TrustedSet::load(&stored).expect("what is stored loads");
    assert_eq!(again.stored(), stored);
    assert!(again.discarded().is_empty(), "{:?}", again.discarded());

    let (old, new) = (before.floors(), after.floors());
    assert!(new.root >= old.root);
    if new.root == old.root {
        assert!(new.timestamp >= old.timestamp && new.snapshot >= old.snapshot);
        for (role, floor) in &old.targets {
            assert!(new.targets.get(role).is_some_and(|new| new >= floor), "the floor of `{role}` sank");
        }
    }
}

/// Each version of the targets answers the question that bears its number.
fn require_addressed(choices: &mut Unstructured<'_>, set: &TrustedSet, now: UnixTime) -> Result<()> {
    let asked = choices.int_in_range(1..=VERSIONS)?;
    let device = |id: &str| Device { id: id.to_owned(), architecture: String::new(), engine: String::new() };
    assert!(Statement::read(set, &device("gateway-2"), &nonce(asked), now).is_err(), "meant for another");
    if let Ok(statement) = Statement::read(set, &device(DEVICE), &nonce(asked), now) {
        assert_eq!(statement.version, asked, "an answer to another question");
        assert_eq!(statement.server_time, signed_at(asked));
        assert_eq!(set.has_named_targets(now), Ok(true));
        assert!(statement.targets.keys().eq([ASSIGNED]));
    }
    Ok(())
}

fn nonce(version: u64) -> String {
    format!("question {version}")
}

fn signed_at(version: u64) -> UnixTime {
    UnixTime(STEP_S * (version as i64 - 1))
}

fn content(version: u64) -> Vec<u8> {
    format!("content {version}").into_bytes()
}

impl Life {
    fn new() -> Self {
        let mut life = Self { files: Vec::new(), signed: BTreeSet::new(), first_root: Vec::new() };
        let (mut root_key, mut online, mut owner) = (key(1), key(2), key(3));
        let team = key(4);
        for version in 1..=VERSIONS {
            let old_root = root_key.seed().to_owned();
            match version {
                2 => root_key = key(5),
                3 => online = key(6),
                4 => owner = key(7),
                _ => {}
            }
            let expires = UnixTime(STEP_S * (version as i64 + 2));
            let root = root(version, expires, &root_key, &online, &owner);
            let old_root = SigningKey::from_seed(&old_root);
            let is_new = old_root.public() != root_key.public();
            let signers: Vec<&SigningKey> =
                [&root_key].into_iter().chain(is_new.then_some(&old_root)).collect();
            let raw = life.add(&root, &signers);
            if version == 1 {
                life.first_root = raw;
            }
            life.add_targets(version, expires, &online, &owner, &team);
        }
        life
    }

    fn add_targets(
        &mut self,
        version: u64,
        expires: UnixTime,
        online: &SigningKey,
        owner: &SigningKey,
        team: &SigningKey,
    ) {
        let description = TargetDescription::of(&content(version), None);
        let delegated = targets(version, expires, BTreeMap::from([(PATH.to_owned(), description)]), None);
        let delegations = Delegations {
            keys: BTreeMap::from([(team.public().id(), team.public())]),
            roles: Some(vec![DelegatedRole {
                name: "team".to_owned(),
                keyids: vec![team.public().id()],
                threshold: 1,
                terminating: false,
                paths: Some(vec!["models/team/*/manifest.json".to_owned()]),
                path_hash_prefixes: None,
            }]),
            succinct_roles: None,
        };
        self.add(&delegated, &[team]);
        let note = json!({ "rollout": "first", "slot": "frost" });
        let assigned = TargetDescription::of(&content(version), Some(note));
        let assigned = BTreeMap::from([(ASSIGNED.to_owned(), assigned)]);
        let mut top = targets(version, expires, assigned, Some(delegations));
        top.custom = Some(json!({
            "device": DEVICE, "nonce": nonce(version), "server_time": signed_at(version),
        }));
        self.add(&top, &[owner]);
        let named = |version| FileVersion { version, length: None, hashes: None };
        let kind = |kind: &str| kind.to_owned();
        let spec_version = || SPEC_VERSION.to_owned();
        let meta = ["targets.json", "team.json"].map(|file| (file.to_owned(), named(version))).into();
        self.add(
            &Snapshot { kind: kind(Snapshot::TYPE), spec_version: spec_version(), version, expires, meta },
            &[online],
        );
        let meta = BTreeMap::from([("snapshot.json".to_owned(), named(version))]);
        self.add(
            &Timestamp { kind: kind(Timestamp::TYPE), spec_version: spec_version(), version, expires, meta },
            &[online],
        );
    }

    fn add<R: Role>(&mut self, role: &R, keys: &[&SigningKey]) -> Vec<u8> {
        let raw = sign::sign(role, keys);
        let value: Value = serde_json::from_slice(&raw).expect("metadata are JSON");
        self.signed.insert(value["signed"].to_string());
        self.files.push(raw.clone());
        raw
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn root(version: u64, expires: UnixTime, root: &SigningKey, online: &SigningKey, owner: &SigningKey) -> Root {
    let role = |key: &SigningKey| RoleKeys { keyids: vec![key.public().id()], threshold: 1 };
    Root {
        kind: Root::TYPE.to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires,
        signed_at: Some(signed_at(version)),
        consistent_snapshot: true,
        keys: [root, online, owner].map(|key| (key.public().id(), key.public())).into(),
        roles: [("root", root), ("timestamp", online), ("snapshot", online), ("targets", owner)]
            .map(|(name, key)| (name.to_owned(), role(key)))
            .into(),
    }
}

fn targets(
    version: u64,
    expires: UnixTime,
    targets: BTreeMap<String, TargetDescription>,
    delegations: Option<Delegations>,
) -> Targets {
    Targets {
        kind: Targets::TYPE.to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires,
        signed_at: Some(signed_at(version)),
        custom: None,
        targets,
        delegations,
    }
}
