//! The signer against the verifier: whatever is signed by enough keys is accepted, in every order of changes.

use proptest::prelude::*;

use super::*;
use crate::metadata::DelegatedRole;
use crate::sign::change::{Change, RolePlan};
use crate::{Answer, Fetch, Refresh as ReaderRefresh, Stored, TrustedSet, run};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn plans(
    root: &[&SigningKey],
    root_threshold: u32,
    targets: &[&SigningKey],
    threshold: u32,
) -> Vec<RolePlan> {
    let public = |keys: &[&SigningKey]| keys.iter().map(|key| key.public()).collect::<Vec<_>>();
    let online = vec![key(99).public()];
    vec![
        RolePlan { role: "root", keys: public(root), threshold: root_threshold },
        RolePlan { role: "targets", keys: public(targets), threshold },
        RolePlan { role: "snapshot", keys: online.clone(), threshold: 1 },
        RolePlan { role: "timestamp", keys: online, threshold: 1 },
    ]
}

/// All files of a repository after a change that has every signature.
fn taken(all: &Files, change: Files, keys: &[&SigningKey]) -> Files {
    let mut files = all.clone();
    files.extend(change);
    let online = Repository::read(&files).unwrap().complete(keys, NOW, Lifetimes::default(), Refresh::Needed);
    files.extend(online.unwrap());
    files
}

/// What a reader that trusts `set` says of these files.
fn read(set: TrustedSet, files: &Files) -> Result<TrustedSet, Failure> {
    let mut refresh = ReaderRefresh::new(set, NOW);
    run(&mut refresh, |fetch: &Fetch| -> Result<Answer, Failure> {
        Ok(files.get(&fetch.path).cloned().map_or(Answer::NotFound, Answer::Found))
    })
    .map_err(|interrupted| match interrupted {
        crate::Interrupted::Refused(failure) | crate::Interrupted::Source(failure) => failure,
    })?;
    Ok(refresh.finish().set)
}

fn fresh(files: &Files) -> TrustedSet {
    TrustedSet::load(&Stored::first(files["1.root.json"].clone())).unwrap()
}

fn note(model: &str, release_counter: u64) -> ReleaseNote {
    ReleaseNote {
        model: model.to_owned(),
        version: "1".to_owned(),
        release_counter,
        architectures: Vec::new(),
    }
}

#[test]
fn a_change_is_complete_when_enough_different_keys_have_signed_one_after_the_other() {
    let (a, b, c, online) = (key(1), key(2), key(3), key(99));
    let found = Change::found(&plans(&[&a], 1, &[&a, &b, &c], 2), NOW, Lifetimes::default()).unwrap();
    let first = found.files(&[&a, &b]).unwrap();
    let all = taken(&Files::new(), first, &[&online]);
    let before = Repository::read(&all).unwrap();
    let mut change = Change::of(&before, NOW, Lifetimes::default());
    change.add_release("targets", "models/m/1/manifest.json", b"{}", &note("m", 1)).unwrap();
    let by_b = change.files(&[&b]).unwrap();
    assert_eq!(by_b.keys().collect::<Vec<_>>(), ["2.targets.json"]);
    let open = &standing(Some(&before), &by_b).unwrap()[0];
    assert_eq!((open.signed.clone(), open.missing), (vec![b.public().id()], 1));
    assert_eq!(read(fresh(&all), &taken(&all, by_b.clone(), &[&online])).unwrap_err().code, Code::Signature);
    // The same key twice is one signature.
    let twice = add_signatures(Some(&before), &by_b, &[&b]).unwrap();
    assert_eq!(standing(Some(&before), &twice).unwrap()[0].missing, 1);
    // A key of another role is none.
    assert_eq!(add_signatures(Some(&before), &by_b, &[&online]).unwrap(), by_b);
    let by_both = add_signatures(Some(&before), &by_b, &[&c]).unwrap();
    assert_eq!(standing(Some(&before), &by_both).unwrap()[0].missing, 0);
    let set = read(fresh(&all), &taken(&all, by_both, &[&online])).unwrap();
    assert!(set.targets().unwrap().targets.contains_key("models/m/1/manifest.json"));
}

#[test]
fn a_new_root_needs_the_old_and_the_new_keys() {
    let (a, b, online) = (key(1), key(2), key(99));
    let found = Change::found(&plans(&[&a], 1, &[&a], 1), NOW, Lifetimes::default()).unwrap();
    let all = taken(&Files::new(), found.files(&[&a]).unwrap(), &[&online]);
    let before = Repository::read(&all).unwrap();
    let mut change = Change::of(&before, NOW, Lifetimes::default());
    change.replace_keys("root", &[a.public().id()], &[b.public()]).unwrap();
    for (by, missing) in [(vec![&a], 1), (vec![&b], 1), (vec![&a, &b], 0)] {
        let files = change.files(&by).unwrap();
        assert_eq!(standing(Some(&before), &files).unwrap()[0].missing, missing);
        assert_eq!(read(fresh(&all), &taken(&all, files, &[&online])).is_ok(), missing == 0);
    }
    assert!(matches!(
        Change::of(&before, NOW, Lifetimes::default()).replace_keys("root", &[a.public().id()], &[]),
        Err(SignError::Threshold { keys: 0, threshold: 1, .. })
    ));
}

#[test]
fn counters_rise_over_all_roles_and_teams_stay_within_their_paths() {
    let (a, team, online) = (key(1), key(2), key(99));
    let found = Change::found(&plans(&[&a], 1, &[&a], 1), NOW, Lifetimes::default()).unwrap();
    let mut all = taken(&Files::new(), found.files(&[&a]).unwrap(), &[&online]);
    let role = |name: &str| DelegatedRole {
        name: name.to_owned(),
        keyids: vec![team.public().id()],
        threshold: 1,
        terminating: false,
        paths: Some(vec!["models/m/*/manifest.json".to_owned()]),
        path_hash_prefixes: None,
    };
    let before = Repository::read(&all).unwrap();
    let mut change = Change::of(&before, NOW, Lifetimes::default());
    for name in ["targets", "Team", "../x", ""] {
        assert!(matches!(change.delegate(role(name), &[team.public()]), Err(SignError::Form(_))), "{name}");
    }
    change.delegate(role("team"), &[team.public()]).unwrap();
    change.add_release("targets", "models/m/1/manifest.json", b"{}", &note("m", 5)).unwrap();
    all = taken(&all, change.files(&[&a]).unwrap(), &[&online]);
    let before = Repository::read(&all).unwrap();
    let mut change = Change::of(&before, NOW, Lifetimes::default());
    let path = "models/m/2/manifest.json";
    assert!(matches!(
        change.add_release("team", path, b"{}", &note("m", 5)),
        Err(SignError::Counter { last: 5, given: 5, .. })
    ));
    let outside = change.add_release("team", "models/n/1/manifest.json", b"{}", &note("n", 1));
    assert!(matches!(outside, Err(SignError::OutsideRole { .. })));
    let unknown = change.add_release("other", path, b"{}", &note("m", 6));
    assert!(matches!(unknown, Err(SignError::NoSuchRole(_))));
    change.add_release("team", path, b"{}", &note("m", 6)).unwrap();
    let files = change.files(&[&team]).unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["1.team.json"]);
    let files = taken(&all, files, &[&online]);
    let mut set = read(fresh(&files), &files).unwrap();
    let mut lookup = crate::Lookup::new(&mut set, path, NOW).unwrap();
    run(&mut lookup, |fetch: &Fetch| -> Result<Answer, Failure> {
        Ok(files.get(&fetch.path).cloned().map_or(Answer::NotFound, Answer::Found))
    })
    .unwrap();
    assert_eq!(lookup.finish().unwrap().note().unwrap().release_counter, 6);
}

#[test]
fn online_files_are_made_only_where_something_changed() {
    let (a, online) = (key(1), key(99));
    let found = Change::found(&plans(&[&a], 1, &[&a], 1), NOW, Lifetimes::default()).unwrap();
    let all = taken(&Files::new(), found.files(&[&a]).unwrap(), &[&online]);
    let repository = Repository::read(&all).unwrap();
    let complete = |refresh| repository.complete(&[&online], NOW, Lifetimes::default(), refresh).unwrap();
    assert!(complete(Refresh::Needed).is_empty());
    assert_eq!(complete(Refresh::Always).keys().collect::<Vec<_>>(), ["2.snapshot.json", "timestamp.json"]);
    let refused = repository.complete(&[&a], NOW, Lifetimes::default(), Refresh::Always);
    assert_eq!(refused.unwrap_err(), SignError::NoKey("snapshot".to_owned()));
}

/// An operation on a repository.
#[derive(Debug, Clone)]
enum Operation {
    Add(u8),
    Remove(prop::sample::Index),
    Rotate(&'static str),
    Renew(&'static str),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (0u8..4).prop_map(Operation::Add),
        any::<prop::sample::Index>().prop_map(Operation::Remove),
        prop::sample::select(vec!["root", "targets", "snapshot", "timestamp"]).prop_map(Operation::Rotate),
        prop::sample::select(vec!["root", "targets"]).prop_map(Operation::Renew),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_history_is_followed_by_readers_who_saw_any_part_of_it(
        operations in prop::collection::vec((operation(), any::<bool>()), 1..12),
    ) {
        let mut keys: Vec<SigningKey> = vec![key(1), key(99)];
        let found = Change::found(&plans(&[&keys[0]], 1, &[&keys[0]], 1), NOW, Lifetimes::default()).unwrap();
        let mut all = taken(&Files::new(), found.files(&[&keys[0]]).unwrap(), &[&keys[1]]);
        let mut steady = fresh(&all);
        for (step, (operation, is_read)) in operations.into_iter().enumerate() {
            let before = Repository::read(&all).unwrap();
            let mut change = Change::of(&before, NOW, Lifetimes::default());
            match operation {
                Operation::Add(model) => {
                    let (path, counter) = (format!("models/m{model}/{step}/manifest.json"), step as u64 + 1);
                    change.add_release("targets", &path, b"{}", &note(&format!("m{model}"), counter)).unwrap();
                }
                Operation::Remove(index) => {
                    let releases = before.releases();
                    if releases.is_empty() { continue; }
                    change.remove_release("targets", &index.get(&releases).path).unwrap();
                }
                Operation::Rotate(role) => {
                    let old = before.root().roles[role].keyids.clone();
                    keys.push(key(100 + step as u8));
                    change.replace_keys(role, &old, &[keys[keys.len() - 1].public()]).unwrap();
                    if role == "targets" { change.renew("targets").unwrap(); }
                }
                Operation::Renew(role) => change.renew(role).unwrap(),
            }
            let keys: Vec<&SigningKey> = keys.iter().collect();
            let files = change.files(&keys).unwrap();
            for (name, raw) in &files {
                // Versions rise by one.
                let (version, role) = split_name(name).unwrap();
                let last = all.keys().filter_map(|n| split_name(n)).filter(|(_, r)| *r == role).map(|(v, _)| v).max();
                prop_assert_eq!(version, last.unwrap() + 1);
                prop_assert!(!raw.is_empty());
            }
            all = taken(&all, files, &keys);
            let newest = Repository::read(&all).unwrap();
            let from_first = read(fresh(&all), &all).unwrap();
            prop_assert_eq!(from_first.targets().unwrap(), newest.targets("targets").unwrap());
            if is_read {
                steady = read(steady, &all).unwrap();
                prop_assert_eq!(steady.root(), newest.root());
            }
        }
        let steady = read(steady, &all).unwrap();
        let from_first = read(fresh(&all), &all).unwrap();
        prop_assert_eq!(steady.targets(), from_first.targets());
    }

    #[test]
    fn garbage_among_the_files_never_panics(name in "[0-9a-z.]{0,20}", raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Repository::read(&Files::from([(name, raw.clone())]));
        let _ = Repository::read(&Files::from([("1.root.json".to_owned(), raw)]));
    }
}
