//! Imports over real repositories: what is refused by name, what a refusal leaves alone, keys that change, clocks that lie.

use std::fs;

use dunlin_trust::sign::change::Change;
use dunlin_trust::sign::repository::{Lifetimes, Refresh};
use dunlin_trust::sign::{self, SigningKey};
use dunlin_trust::time::UnixTime;
use serde_json::json;

use super::*;
use crate::store::spoiled::{self, spoil};
use crate::update::testing::{DAY, Draft, Gateway, NOW, Owner, bundle};

fn refused(result: Result<BTreeMap<String, KeptRelease>, ImportError>) -> String {
    match result {
        Err(ImportError::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

/// An owner with one release, and a gateway that has taken it.
fn settled() -> (Owner, Gateway) {
    let mut owner = Owner::new();
    owner.publish(&Draft::new("frost", 1));
    let mut gateway = Gateway::of(&owner, &["frost"]);
    gateway.take(&owner.place()).unwrap();
    gateway.floors.insert("frost".to_owned(), 1);
    (owner, gateway)
}

fn edit(owner: &Owner, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let raw = fs::read(owner.file(name)).unwrap();
    let mut value = serde_json::from_slice(&raw).unwrap();
    change(&mut value);
    owner.put(name, &serde_json::to_vec_pretty(&value).unwrap());
}

fn newest(owner: &Owner, role: &str) -> String {
    let version = |name: &String| name.strip_suffix(&format!(".{role}.json"))?.parse::<u64>().ok();
    let newest = owner.metadata.keys().filter_map(version).max().unwrap();
    format!("metadata/{newest}.{role}.json")
}

#[test]
fn a_release_is_kept_with_its_files_and_a_second_import_copies_nothing() {
    let mut owner = Owner::new();
    owner.publish(&Draft::new("frost", 1));
    owner.publish(&Draft::new("frost", 7).with_blob("golden.jsonl", vec![b'g'; 100_000]));
    owner.publish(&Draft::new("other", 1));
    let gateway = Gateway::of(&owner, &["frost", "absent"]);
    let imported = gateway.import(&owner.place()).unwrap();
    assert_eq!(imported.passed_over.iter().collect::<Vec<_>>(), ["other"]);
    assert_eq!(imported.found["absent"], Found::Absent);
    let Found::Release(release) = &imported.found["frost"] else { panic!("{imported:?}") };
    assert_eq!((release.counter, release.place.as_deref()), (7, Some("/media/stick")));
    let (mut store, blobs) = (gateway.store(), gateway.blobs());
    let mut copied = 0;
    let package =
        fetch_files(&mut store, &blobs, &owner.place(), release, &mut |bytes| copied += bytes).unwrap();
    assert_eq!(copied, package.manifest().blobs.values().map(|spec| spec.bytes).sum::<u64>());
    assert_eq!(package.read_blob("golden.jsonl").unwrap(), vec![b'g'; 100_000]);
    drop(store);
    let before = gateway.contents();
    let mut copied = 0;
    gateway.import(&owner.place()).unwrap();
    fetch_files(&mut gateway.store(), &blobs, &owner.place(), release, &mut |bytes| copied += bytes).unwrap();
    assert_eq!((copied, before), (0, gateway.contents()));
}

/// What an attack makes of an owner's published folder.
type Attack = fn(&mut Owner);

/// Another release, and then something wrong with it.
const ATTACKS: [(&str, &str, Attack); 14] = [
    ("signature", "metadata", |owner| {
        edit(owner, &newest(owner, "targets").clone(), |file| file["signatures"] = json!([]));
        resign_online(owner);
    }),
    ("signature", "metadata", |owner| {
        // A thief of the online key signs targets with it.
        let online = SigningKey::from_seed(owner.keys["timestamp"].seed());
        owner.keys.insert("targets", online);
        let before = owner.repository();
        let mut change = Change::of(&before, owner.now, Lifetimes::default());
        let draft = Draft::new("frost", 3);
        change.add_release("targets", &draft.path(), &draft.manifest(), &draft.note()).unwrap();
        let mut targets = before.targets("targets").unwrap().clone();
        targets.version += 1;
        let name = format!("{}.targets.json", targets.version);
        owner.metadata.insert(name, sign::sign(&targets, &[&owner.keys["targets"]]));
        owner.write();
    }),
    ("signature", "metadata", |owner| {
        edit(owner, "metadata/timestamp.json", |file| file["signed"]["version"] = json!(99));
    }),
    ("rollback", "metadata", |owner| {
        let mut timestamp = owner.repository().timestamp().unwrap().clone();
        timestamp.version = 1;
        owner.put("metadata/timestamp.json", &sign::sign(&timestamp, &[&owner.keys["timestamp"]]));
    }),
    ("freeze_suspected", "metadata", |owner| {
        let mut timestamp = owner.repository().timestamp().unwrap().clone();
        timestamp.expires = UnixTime(NOW.0 - DAY);
        timestamp.version += 1;
        owner.put("metadata/timestamp.json", &sign::sign(&timestamp, &[&owner.keys["timestamp"]]));
    }),
    ("mismatch", "metadata", |owner| owner.put(&newest(owner, "snapshot"), b"<html>Welcome!</html>")),
    ("mismatch", "metadata", |owner| fs::remove_file(owner.file(&newest(owner, "targets"))).unwrap()),
    ("endless_data", "metadata", |owner| owner.put("metadata/timestamp.json", &vec![b' '; 1 << 20])),
    ("mismatch", "model/frost", |owner| {
        let draft = Draft::new("frost", 2);
        owner
            .put(&format!("blobs/{}", Digest::of(&draft.blobs["model.onnx"])), b"the 9th model called frost");
    }),
    ("endless_data", "model/frost", |owner| {
        let draft = Draft::new("frost", 2);
        owner.put(&format!("blobs/{}", Digest::of(&draft.blobs["model.onnx"])), &[b'x'; 1_000]);
    }),
    ("not_approved", "model/frost", |owner| {
        // The owner withdraws all, and the stick still carries the manifests.
        let paths: Vec<String> =
            owner.repository().releases().into_iter().map(|release| release.path).collect();
        owner.change(|change| {
            for path in &paths {
                change.remove_release("targets", path).unwrap();
            }
        });
    }),
    ("incompatible", "model/frost", |owner| {
        owner.publish(&Draft::new("frost", 3).requiring(json!({ "architectures": ["riscv64"] })));
    }),
    ("incompatible", "model/frost", |owner| {
        owner.publish(&Draft::new("frost", 3).requiring(json!({ "engine": "tract-onnx 99.0" })));
    }),
    ("downgrade", "model/frost", |owner| {
        let path = Draft::new("frost", 2).path();
        owner.change(|change| change.remove_release("targets", &path).unwrap());
        let path = Draft::new("frost", 1).path();
        owner.change(|change| change.remove_release("targets", &path).unwrap());
        owner.publish(&Draft::new("frost", 0));
    }),
];

/// Lets the online roles speak for what lies in the folder, as a stolen server would.
fn resign_online(owner: &mut Owner) {
    let name = newest(owner, "targets");
    let raw = fs::read(owner.file(&name)).unwrap();
    owner.metadata.insert(name.trim_start_matches("metadata/").to_owned(), raw);
    owner.write();
}

#[test]
fn every_attack_is_refused_by_name_and_changes_nothing_but_the_record_of_it() {
    for (index, (code, subject, attack)) in ATTACKS.into_iter().enumerate() {
        let (mut owner, gateway) = settled();
        owner.publish(&Draft::new("frost", 2));
        attack(&mut owner);
        let (_file, place) = bundle(&owner);
        // What is verified before a file is refused may be kept: the release that is named, not its files.
        let is_of_files = index == 8 || index == 9;
        if is_of_files {
            gateway.import(&place).unwrap();
        }
        let metadata_moves = subject != "metadata" && !is_of_files;
        let before = gateway.contents();
        assert_eq!(refused(gateway.take(&place)), code, "attack {index}");
        assert_eq!(gateway.refusal(subject).as_deref(), Some(code), "attack {index}");
        let mut after = gateway.contents();
        let mut before = before;
        if metadata_moves {
            // Newer metadata are no attack: the release they name is.
            for contents in [&mut before, &mut after] {
                contents.retain(|name, _| !name.starts_with("table trust_") && name != "table release");
            }
            let kept = gateway.store().releases().unwrap();
            assert_eq!(kept.iter().map(|release| release.counter).collect::<Vec<_>>(), [1], "attack {index}");
        }
        assert_eq!(before, after, "attack {index}");
    }
}

#[test]
fn a_refusal_is_forgotten_once_its_check_goes_well() {
    let (mut owner, gateway) = settled();
    owner.publish(&Draft::new("frost", 2));
    let good = fs::read(owner.file("metadata/timestamp.json")).unwrap();
    owner.put("metadata/timestamp.json", b"{}");
    assert_eq!(refused(gateway.take(&owner.place())), "mismatch");
    assert_eq!(gateway.refusal(METADATA_CHECK).as_deref(), Some("mismatch"));
    owner.put("metadata/timestamp.json", &good);
    gateway.take(&owner.place()).unwrap();
    assert_eq!(gateway.refusal(METADATA_CHECK), None);
}

/// What becomes of a gateway's state.
type Loss = fn(&Gateway);

#[test]
fn lost_state_is_never_begun_again() {
    let losses: [(&str, Loss); 4] = [
        ("a flipped bit in the root", |gateway| spoil(gateway.folder.path(), spoiled::ROOT_FLIPPED)),
        ("roots that went", |gateway| spoil(gateway.folder.path(), spoiled::ROOTS_GONE)),
        ("floors that went", |gateway| spoil(gateway.folder.path(), spoiled::FLOORS_GONE)),
        ("a file that went", |gateway| {
            for name in ["state.db", "state.db-wal", "state.db-shm"] {
                let _ = fs::remove_file(gateway.folder.path().join(name));
            }
        }),
    ];
    for (what, lose) in losses {
        let (owner, gateway) = settled();
        lose(&gateway);
        let before = gateway.store();
        drop(before);
        let before = gateway.contents();
        assert_eq!(refused(gateway.take(&owner.place())), "state_lost", "{what}");
        assert_eq!(gateway.refusal(METADATA_CHECK).as_deref(), Some("state_lost"), "{what}");
        assert_eq!(before, gateway.contents(), "{what}");
    }
}

#[test]
fn the_configured_root_must_belong_to_the_chain() {
    let (mut owner, mut gateway) = settled();
    for _ in 0..3 {
        owner.rotate("timestamp");
    }
    gateway.take(&owner.place()).unwrap();
    for version in 1..=4 {
        gateway.root = owner.root(version);
        gateway.take(&owner.place()).unwrap();
    }
    owner.rotate("timestamp");
    gateway.root = owner.root(5);
    gateway.take(&owner.place()).unwrap();
    let other = Owner::new();
    gateway.root = other.root(1);
    let before = gateway.contents();
    let Err(ImportError::Refused(refusal)) = gateway.import(&owner.place()) else { panic!("taken") };
    assert_eq!(refusal.code, "signature");
    for digest in [Digest::of(&gateway.root), Digest::of(&owner.root(5))] {
        assert!(refusal.reason.contains(&digest.to_string()), "{refusal}");
    }
    assert!(refusal.reason.contains("new state folder"), "{refusal}");
    assert_eq!(before, gateway.contents());
}

#[test]
fn a_gateway_that_was_away_for_four_rotations_walks_through_all_of_them() {
    let (mut owner, gateway) = settled();
    for role in ["root", "targets", "snapshot", "timestamp"] {
        owner.rotate(role);
    }
    assert_eq!(owner.newest_root().version, 5);
    owner.publish(&Draft::new("frost", 2));
    let imported = gateway.import(&owner.place()).unwrap();
    assert!(matches!(&imported.found["frost"], Found::Release(release) if release.counter == 2));
    let kept = gateway.store().load().unwrap().unwrap();
    assert_eq!(kept.roots.iter().map(|root| root.version).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    for root in &kept.roots {
        assert_eq!(root.raw, owner.root(root.version));
    }
    // The installed release is still named: its proof is by the newest root.
    let releases = gateway.store().releases().unwrap();
    let installed = releases.iter().find(|release| release.counter == 1).unwrap();
    assert!(installed.approved);
    assert_eq!(installed.evidence.root.as_bytes(), owner.root(5));
    open_kept(&gateway.store(), &gateway.blobs(), installed).unwrap();
}

#[test]
fn a_chain_of_roots_with_a_gap_stops_at_the_last_good_one() {
    let (mut owner, gateway) = settled();
    for _ in 0..4 {
        owner.rotate("root");
    }
    fs::remove_file(owner.file("metadata/4.root.json")).unwrap();
    owner.put("metadata/3.root.json", &owner.root(5));
    let result = gateway.import(&owner.place());
    assert!(matches!(result, Err(ImportError::Refused(refusal)) if refusal.code == "signature"));
    // Version 2 was signed as it should be: it counts.
    let kept = gateway.store().load().unwrap().unwrap();
    assert_eq!(kept.roots.iter().map(|root| root.version).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_revoked_targets_key_approves_nothing_any_more_and_what_runs_goes_on() {
    let (mut owner, gateway) = settled();
    // The thief's release, signed with the key before anybody knew.
    let before_theft = owner.metadata.clone();
    let stolen = owner.rotate("targets");
    let path = Draft::new("frost", 1).path();
    owner.change(|change| change.remove_release("targets", &path).unwrap());
    gateway.import(&owner.place()).unwrap();
    let releases = gateway.store().releases().unwrap();
    let [marked] = releases.as_slice() else { panic!("{releases:?}") };
    assert!(!marked.approved);
    // It was good, and its proof still stands under the root it came with.
    open_kept(&gateway.store(), &gateway.blobs(), marked).unwrap();

    let mut thief = Owner::new();
    thief.metadata = before_theft;
    thief.keys = owner.keys.iter().map(|(role, key)| (*role, SigningKey::from_seed(key.seed()))).collect();
    thief.keys.insert("targets", stolen);
    thief.metadata.extend(
        owner
            .metadata
            .iter()
            .filter(|(name, _)| name.ends_with("root.json"))
            .map(|(n, r)| (n.clone(), r.clone())),
    );
    let draft = Draft::new("frost", 9);
    thief.put_files(&draft);
    let mut targets = owner.repository().targets("targets").unwrap().clone();
    targets.version += 1;
    let custom = serde_json::to_value(draft.note()).unwrap();
    let description = dunlin_trust::metadata::TargetDescription::of(&draft.manifest(), Some(custom));
    targets.targets.insert(draft.path(), description);
    thief.metadata = owner.metadata.clone();
    thief
        .metadata
        .insert(format!("{}.targets.json", targets.version), sign::sign(&targets, &[&thief.keys["targets"]]));
    thief.write();
    let before = gateway.contents();
    assert_eq!(refused(gateway.take(&thief.place())), "signature");
    assert_eq!(before, gateway.contents());
    // What the owner signs goes on.
    owner.publish(&Draft::new("frost", 10));
    assert_eq!(gateway.take(&owner.place()).unwrap()["frost"].counter, 10);
}

#[test]
fn a_withdrawn_release_is_refused_as_a_new_import() {
    let (mut owner, gateway) = settled();
    let fresh = Gateway::of(&owner, &["frost"]);
    owner.rotate("targets");
    let path = Draft::new("frost", 1).path();
    owner.change(|change| change.remove_release("targets", &path).unwrap());
    let (_file, place) = bundle(&owner);
    assert_eq!(refused(fresh.take(&place)), "not_approved");
    gateway.import(&place).unwrap();
    assert!(!gateway.store().releases().unwrap()[0].approved);
}

#[test]
fn no_clock_bricks_a_gateway() {
    let (mut owner, mut gateway) = settled();
    let (y1970, y2099) = (UnixTime(0), UnixTime(4_070_908_800));
    // In 1970 nothing seems to expire, and the offline signatures say that it is later.
    gateway.now = y1970;
    owner.publish(&Draft::new("frost", 2));
    assert_eq!(gateway.take(&owner.place()).unwrap()["frost"].counter, 2);
    // In 2099 everything has expired: refused, and nothing of that time is kept.
    gateway.now = y2099;
    owner.publish(&Draft::new("frost", 3));
    let before = gateway.contents();
    assert_eq!(refused(gateway.take(&owner.place())), "freeze_suspected");
    assert_eq!(before, gateway.contents());
    // Right again: at once.
    gateway.now = UnixTime(NOW.0 + DAY);
    assert_eq!(gateway.take(&owner.place()).unwrap()["frost"].counter, 3);
    // Stepping backwards, time after time.
    for (step, counter) in (4..9).enumerate() {
        gateway.now = UnixTime(NOW.0 - step as i64 * 30 * DAY);
        owner.publish(&Draft::new("frost", counter));
        assert_eq!(gateway.take(&owner.place()).unwrap()["frost"].counter, counter);
    }
    let kept = gateway.store().load().unwrap().unwrap();
    assert_eq!(kept.signed_at, Some(NOW));
}

#[test]
fn an_old_state_served_for_ever_is_noticed_when_it_expires_even_in_1970() {
    let (mut owner, mut gateway) = settled();
    let old = fs::read(owner.file("metadata/timestamp.json")).unwrap();
    // Two months later the owner signs something, and the gateway sees it once.
    owner.now = UnixTime(NOW.0 + 60 * DAY);
    owner.publish(&Draft::new("frost", 2));
    gateway.now = UnixTime(0);
    gateway.take(&owner.place()).unwrap();
    let frozen = Gateway { now: UnixTime(NOW.0 + 60 * DAY), ..Gateway::of(&owner, &["frost"]) };
    owner.put("metadata/timestamp.json", &old);
    assert_eq!(refused(frozen.take(&owner.place())), "freeze_suspected");
    assert_eq!(refused(gateway.take(&owner.place())), "rollback");
}

#[test]
fn versions_that_a_thief_of_the_online_key_drove_up_are_forgotten_with_the_key() {
    let (mut owner, gateway) = settled();
    let mut timestamp = owner.repository().timestamp().unwrap().clone();
    timestamp.version = u64::MAX;
    let raw = sign::sign(&timestamp, &[&owner.keys["timestamp"]]);
    owner.put("metadata/timestamp.json", &raw);
    gateway.take(&owner.place()).unwrap();
    assert_eq!(gateway.store().load().unwrap().unwrap().floors.timestamp, u64::MAX);
    owner.publish(&Draft::new("frost", 2));
    assert_eq!(refused(gateway.take(&owner.place())), "rollback");
    owner.rotate("timestamp");
    owner.write_files();
    assert_eq!(gateway.take(&owner.place()).unwrap()["frost"].counter, 2);
}

#[test]
fn an_import_that_is_cut_anywhere_ends_by_itself_and_copies_nothing_twice() {
    let (mut owner, settled) = settled();
    let before = settled.store().load().unwrap().unwrap();
    owner.rotate("targets");
    let draft = Draft::new("frost", 2).with_blob("golden.jsonl", vec![b'g'; 150_000]);
    owner.publish(&draft.with_blob("notes.json", b"{}".to_vec()));
    let place = owner.place();
    let run = |gateway: &Gateway, copied: &mut u64| -> Result<Package, ImportError> {
        let imported = gateway.import(&place)?;
        let Found::Release(release) = &imported.found["frost"] else { panic!("{imported:?}") };
        let blobs = BlobStore::open(gateway.folder.path(), 0)?;
        fetch_files(&mut gateway.store(), &blobs, &place, release, &mut |bytes| *copied += bytes)
    };
    let mut cuts = 0;
    loop {
        let gateway = settled.twin();
        let mut copied = 0;
        cut::after(cuts);
        let first = run(&gateway, &mut copied);
        let was_cut = cut::disarm();
        assert_eq!(first.is_err(), was_cut, "cut {cuts}");
        // What was trusted is the old or the new, whole, and what ran can run.
        let kept = gateway.store().load().unwrap().unwrap();
        assert!(kept == before || kept.roots.len() == 2, "cut {cuts}");
        assert_eq!(gateway.store().refusals().unwrap(), [], "cut {cuts}");
        let installed =
            gateway.store().releases().unwrap().into_iter().find(|kept| kept.counter == 1).unwrap();
        let package = open_kept(&gateway.store(), &gateway.blobs(), &installed).unwrap();
        assert!(package.read_blob("model.onnx").is_ok(), "cut {cuts}");

        let package = run(&gateway, &mut copied).unwrap();
        let all: u64 = package.manifest().blobs.values().map(|spec| spec.bytes).sum();
        assert_eq!(copied, all, "cut {cuts}");
        for name in package.manifest().blobs.keys() {
            package.read_blob(name).unwrap();
        }
        if !was_cut {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 15, "{cuts}");
}

#[test]
fn a_delegated_team_names_its_own_models_and_no_others() {
    use dunlin_trust::metadata::DelegatedRole;
    let mut owner = Owner::new();
    let team = SigningKey::generate().unwrap();
    let role = DelegatedRole {
        name: "team".to_owned(),
        keyids: vec![team.public().id()],
        threshold: 1,
        terminating: false,
        paths: Some(vec!["models/pump/*/manifest.json".to_owned()]),
        path_hash_prefixes: None,
    };
    owner.publish(&Draft::new("frost", 1));
    owner.change(|change| change.delegate(role, &[team.public()]).unwrap());
    let (own, foreign) = (Draft::new("pump", 4), Draft::new("frost", 5));
    let describe = |draft: &Draft| {
        owner.put_files(draft);
        let custom = serde_json::to_value(draft.note()).unwrap();
        (draft.path(), dunlin_trust::metadata::TargetDescription::of(&draft.manifest(), Some(custom)))
    };
    let targets = dunlin_trust::metadata::Targets {
        version: 1,
        delegations: None,
        targets: [describe(&own), describe(&foreign)].into(),
        ..owner.repository().targets("targets").unwrap().clone()
    };
    owner.metadata.insert("1.team.json".to_owned(), sign::sign(&targets, &[&team]));
    owner.write();
    let gateway = Gateway::of(&owner, &["frost", "pump"]);
    let taken = gateway.take(&owner.place()).unwrap();
    assert_eq!((taken["pump"].counter, taken["frost"].counter), (4, 1));
    assert_eq!(taken["pump"].evidence.roles.len(), 2);
}

#[test]
fn what_is_in_use_stays_and_the_rest_is_swept() {
    let (mut owner, gateway) = settled();
    owner.publish(&Draft::new("frost", 2));
    let new = gateway.take(&owner.place()).unwrap().remove("frost").unwrap();
    let (mut store, blobs) = (gateway.store(), gateway.blobs());
    let collected = sweep(&mut store, &blobs, &BTreeSet::from([new.digest])).unwrap();
    assert_eq!(collected.files, 1);
    assert_eq!(store.releases().unwrap(), std::slice::from_ref(&new));
    let package = open_kept(&store, &blobs, &new).unwrap();
    assert!(package.read_blob("model.onnx").is_ok());
}

#[test]
fn a_flipped_bit_is_found_at_load_and_the_blob_comes_again() {
    let (owner, gateway) = settled();
    let release = gateway.store().releases().unwrap().remove(0);
    let (mut store, blobs) = (gateway.store(), gateway.blobs());
    let package = open_kept(&store, &blobs, &release).unwrap();
    let spec = &package.manifest().blobs["model.onnx"];
    let path = blobs.path().join(spec.sha256.to_string());
    let mut bytes = fs::read(&path).unwrap();
    bytes[3] ^= 1;
    dunlin_kit::atomic_file::write(&path, &bytes).unwrap();
    assert!(package.read_blob("model.onnx").is_err());
    assert_eq!(remove_damaged(&blobs, package.manifest()).unwrap(), ["model.onnx"]);
    let package = fetch_files(&mut store, &blobs, &owner.place(), &release, &mut |_| {}).unwrap();
    assert!(package.read_blob("model.onnx").is_ok());
    assert!(remove_damaged(&blobs, package.manifest()).unwrap().is_empty());
}

#[test]
fn online_metadata_that_are_renewed_alone_write_no_release_anew() {
    let (mut owner, gateway) = settled();
    let keys: Vec<_> = owner.keys.values().collect();
    let renewed =
        owner.repository().complete(&keys, owner.now, Lifetimes::default(), Refresh::Always).unwrap();
    owner.metadata.extend(renewed);
    owner.write_files();
    let before = gateway.store().releases().unwrap();
    gateway.import(&owner.place()).unwrap();
    assert_eq!(gateway.store().releases().unwrap(), before);
}
