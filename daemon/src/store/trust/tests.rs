//! Rows of trust: what comes back, what may not fall, what is told when rows cannot be what was written.

use super::*;

fn floors(root: u64, timestamp: u64, snapshot: u64, targets: u64) -> Floors {
    Floors { root, timestamp, snapshot, targets: BTreeMap::from([("targets".to_owned(), targets)]) }
}

fn trust(roots: u64, floors: Floors) -> KeptTrust {
    KeptTrust {
        roots: (1..=roots)
            .map(|version| KeptRoot::new(version, format!("root {version}").into_bytes()))
            .collect(),
        files: BTreeMap::from([
            ("timestamp".to_owned(), format!("timestamp {}", floors.timestamp).into_bytes()),
            ("team".to_owned(), b"team".to_vec()),
        ]),
        floors,
        signed_at: Some(UnixTime(7)),
    }
}

fn store() -> (tempfile::TempDir, TrustStore) {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let store = TrustStore::open(&lock).unwrap();
    (folder, store)
}

fn cycle(trust: &KeptTrust) -> Cycle {
    Cycle { trust: Some(trust.clone()), ..Cycle::default() }
}

#[test]
fn what_is_stored_comes_back_and_files_that_went_are_gone() {
    let (_folder, mut store) = store();
    assert_eq!(store.load().unwrap(), None);
    let mut kept = trust(1, floors(1, u64::MAX, 1 << 63, 3));
    store.save(&cycle(&kept)).unwrap();
    assert_eq!(store.load().unwrap().unwrap(), kept);
    kept.files.remove("team");
    kept.signed_at = None;
    store.save(&cycle(&kept)).unwrap();
    assert_eq!(store.load().unwrap().unwrap(), kept);
}

#[test]
fn floors_fall_under_a_new_root_alone() {
    let (_folder, mut store) = store();
    let first = trust(2, floors(2, 5, 5, 5));
    store.save(&cycle(&first)).unwrap();
    for lower in [floors(2, 4, 5, 5), floors(2, 5, 4, 5), floors(2, 5, 5, 4), floors(1, 9, 9, 9)] {
        let mut fallen = trust(lower.root, lower);
        fallen.signed_at = Some(UnixTime(8));
        assert!(matches!(store.save(&cycle(&fallen)), Err(StoreError::Damaged { .. })));
        assert_eq!(store.load().unwrap().unwrap(), first);
    }
    let mut forgotten = trust(2, floors(2, 5, 5, 5));
    forgotten.floors.targets.clear();
    assert!(store.save(&cycle(&forgotten)).is_err());
    let rotated = trust(3, Floors { root: 3, ..Floors::default() });
    store.save(&cycle(&rotated)).unwrap();
    assert_eq!(store.load().unwrap().unwrap(), rotated);
}

#[test]
fn a_root_is_never_replaced() {
    let (_folder, mut store) = store();
    let first = trust(2, floors(2, 1, 1, 1));
    store.save(&cycle(&first)).unwrap();
    let mut other = trust(3, floors(3, 1, 1, 1));
    other.roots[1] = KeptRoot::new(2, b"another".to_vec());
    assert!(matches!(store.save(&cycle(&other)), Err(StoreError::Damaged { .. })));
    assert_eq!(store.load().unwrap().unwrap(), first);
}

#[test]
fn rows_that_cannot_be_what_was_written_are_told() {
    for damage in [
        "UPDATE trust_root SET raw = x'00'",
        "DELETE FROM trust_root",
        "DELETE FROM trust_root WHERE version = 2",
        "DELETE FROM trust_root WHERE version = 3",
        "UPDATE trust_file SET raw = x'00'",
        "DELETE FROM trust_floor",
        "DELETE FROM trust_floor WHERE role = 'snapshot'",
        "UPDATE trust_floor SET version = 9 WHERE role = 'root'",
    ] {
        let (_folder, mut store) = store();
        store.save(&cycle(&trust(3, floors(3, 1, 1, 1)))).unwrap();
        assert!(store.connection.execute(damage, []).unwrap() > 0, "{damage}");
        assert!(matches!(store.load(), Err(StoreError::Damaged { .. })), "{damage}");
    }
}

#[test]
fn the_last_refusal_of_each_check_is_kept_until_it_passes() {
    let (_folder, mut store) = store();
    let refusal = |subject: &str, code: &str| KeptRefusal {
        subject: subject.to_owned(),
        code: code.to_owned(),
        object: "o".to_owned(),
        reason: "r".to_owned(),
        at_us: 1,
    };
    let refused = vec![refusal("metadata", "rollback"), refusal("model/m", "downgrade")];
    store.save(&Cycle { refused, ..Cycle::default() }).unwrap();
    store.save(&Cycle { refused: vec![refusal("metadata", "signature")], ..Cycle::default() }).unwrap();
    let codes: Vec<_> = store.refusals().unwrap().into_iter().map(|kept| kept.code).collect();
    assert_eq!(codes, ["signature", "downgrade"]);
    store.save(&Cycle { passed: vec!["metadata".to_owned()], ..Cycle::default() }).unwrap();
    assert_eq!(store.refusals().unwrap(), [refusal("model/m", "downgrade")]);
}
