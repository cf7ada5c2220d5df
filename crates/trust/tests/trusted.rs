//! What is trusted over many refreshes: recovery, chains of roots, clocks, and random histories.
//!
//! Real signatures over a repository in memory. The single attacks stand in `attacks/`.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod repository;

use std::time::Duration;

use dunlin_trust::metadata::TargetDescription;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{
    Code, Failure, Floors, Interrupted, Lookup, Refresh, Stored, TrustedSet, TrustedTime, run,
};
use proptest::prelude::*;
use repository::{NOW, PAST, Repository};
use serde_json::json;

const FROST: &str = "models/frost/1/manifest.json";

fn load(stored: &Stored) -> TrustedSet {
    TrustedSet::load(stored).unwrap()
}

fn refresh_at(repository: &Repository, stored: &Stored, now: UnixTime) -> (Stored, Option<Failure>) {
    let mut refresh = Refresh::new(load(stored), now);
    let failure = match run::<()>(&mut refresh, |fetch| Ok(repository.fetch(fetch))) {
        Ok(()) => None,
        Err(Interrupted::Refused(failure)) => Some(failure),
        Err(Interrupted::Source(())) => unreachable!("memory does not fail"),
    };
    (refresh.finish().set.stored(), failure)
}

fn refresh(repository: &Repository, stored: &Stored) -> (Stored, Option<Failure>) {
    refresh_at(repository, stored, NOW)
}

#[test]
fn versions_that_a_stolen_online_key_drove_up_are_recovered_by_new_keys_in_the_root() {
    let good = Repository::new();
    let mut stolen = good.clone();
    stolen.timestamp.version = 1 << 63;
    stolen.snapshot.version = 1 << 63;
    stolen.publish();
    let (device, failure) = refresh(&stolen, &good.device());
    assert_eq!((failure, device.floors.timestamp), (None, 1 << 63));

    let mut recovered = good.clone();
    recovered.release();
    assert_eq!(refresh(&recovered, &device).1.unwrap().code, Code::Rollback, "before the rotation");
    recovered.rotate("timestamp", &[32]);
    recovered.rotate("snapshot", &[33]);
    recovered.release();
    let (device, failure) = refresh(&recovered, &device);
    assert_eq!(failure, None);
    assert_eq!((device.floors.root, device.floors.timestamp, device.floors.snapshot), (3, 3, 3));
    let (after, failure) = refresh(&stolen, &device);
    assert_eq!((failure.unwrap().code, after), (Code::Signature, device), "the old keys are of no use");
}

#[test]
fn versions_of_targets_are_recovered_by_a_new_snapshot_key_and_by_no_other() {
    let good = Repository::new();
    let mut driven = good.clone();
    driven.targets.version = 1 << 62;
    driven.snapshot.version = 2;
    driven.timestamp.version = 2;
    driven.publish();
    let (device, _) = refresh(&driven, &good.device());
    assert_eq!(device.floors.targets["targets"], 1 << 62);
    for (role, seed, expected) in [("timestamp", 34, Some(Code::Rollback)), ("snapshot", 33, None)] {
        let mut recovered = good.clone();
        (recovered.snapshot.version, recovered.timestamp.version) = (2, 2);
        recovered.rotate(role, &[seed]);
        recovered.release();
        assert_eq!(refresh(&recovered, &device).1.map(|failure| failure.code), expected, "{role}");
    }
}

#[test]
fn fifty_roots_that_were_missed_are_walked_one_by_one() {
    let mut repository = Repository::new();
    let device = repository.device();
    for version in 2_u8..=50 {
        repository.rotate("root", &[version + 100]);
    }
    repository.release();
    let (after, failure) = refresh(&repository, &device);
    assert_eq!((failure, after.floors.root, after.floors.timestamp), (None, 50, 2));

    let mut gap = repository.clone();
    gap.files.remove("30.root.json");
    let (after, failure) = refresh(&gap, &device);
    assert_eq!(after.floors.root, 29, "a gap ends the walk at the last good root");
    assert_eq!(failure, None, "whose keys still speak for the other roles");

    let mut forged = repository.clone();
    forged.spoil("30.root.json", |file| file["signatures"] = json!([]));
    let (after, failure) = refresh(&forged, &device);
    assert_eq!((failure.unwrap().code, after.floors.root), (Code::Signature, 29));
}

#[test]
fn a_root_that_expired_on_the_way_does_not_stop_the_walk() {
    let mut repository = Repository::new();
    let device = repository.device();
    let expires = repository.root.expires;
    repository.root.expires = PAST;
    repository.rotate("root", &[50]);
    repository.root.expires = expires;
    repository.rotate("root", &[51]);
    repository.release();
    assert_eq!(refresh(&repository, &device).1, None);
}

#[test]
fn expired_files_that_are_stored_do_not_stop_a_newer_release() {
    let mut repository = Repository::new();
    let device = repository.device();
    let later = UnixTime(repository.snapshot.expires.0 + 1);
    repository.timestamp.expires = UnixTime(later.0 + 1000);
    repository.snapshot.expires = UnixTime(later.0 + 1000);
    repository.release();
    let (after, failure) = refresh_at(&repository, &device, later);
    assert_eq!((failure, after.floors.timestamp), (None, 2));
}

#[test]
fn a_clock_in_2099_refuses_and_leaves_nothing_that_outlives_it() {
    let mut repository = Repository::new();
    let device = repository.device();
    repository.release();
    let year_2099 = UnixTime(4_070_908_800);
    let (after, failure) = refresh_at(&repository, &device, year_2099);
    assert_eq!((failure.unwrap().code, &after), (Code::FreezeSuspected, &device));
    let time = TrustedTime {
        built: UnixTime(NOW.0 - 1000),
        offline_signed: load(&after).signed_time(),
        server: None,
        system: Some(NOW),
    };
    let (after, failure) = refresh_at(&repository, &after, time.at(Duration::ZERO));
    assert_eq!((failure, after.floors.timestamp), (None, 2), "at once when the clock is right");
}

#[test]
fn a_clock_in_1970_takes_what_is_fresh_at_the_build() {
    let mut repository = Repository::new();
    let device = repository.device();
    repository.release();
    let time = TrustedTime { built: NOW, offline_signed: None, server: None, system: Some(UnixTime(0)) };
    assert_eq!(refresh_at(&repository, &device, time.at(Duration::ZERO)).1, None);
}

#[test]
fn the_offline_signed_time_is_the_owners_and_leaves_with_its_file() {
    let mut repository = Repository::new();
    repository.targets.signed_at = Some(UnixTime(NOW.0 - 50));
    repository.delegate("targets", "team", 11, "team/*", false);
    repository.role_mut("team").signed_at = Some(UnixTime(NOW.0 + 5000));
    repository.role_mut("team").targets.insert("team/m".to_owned(), TargetDescription::of(b"x", None));
    repository.release();
    let mut set = load(&repository.device());
    let mut lookup = Lookup::new(&mut set, "team/m", NOW).unwrap();
    run::<()>(&mut lookup, |fetch| Ok(repository.fetch(fetch))).unwrap();
    lookup.finish().unwrap();
    assert_eq!(set.signed_time(), Some(UnixTime(NOW.0 - 50)), "a team has no say in the time");
    repository.targets.signed_at = Some(UnixTime(NOW.0 - 70));
    repository.release();
    let (after, _) = refresh(&repository, &set.stored());
    assert_eq!(load(&after).signed_time(), Some(UnixTime(NOW.0 - 70)), "a wrong one can be mended");
}

#[test]
fn a_cut_between_any_two_files_is_made_up_for_by_the_next_refresh() {
    let mut repository = Repository::new();
    let device = repository.device();
    repository.rotate("targets", &[40]);
    repository.release();
    let whole = refresh(&repository, &device).0;
    for cut in 0..5 {
        let mut served = 0;
        let mut refresh_cut = Refresh::new(load(&device), NOW);
        let _ = run(&mut refresh_cut, |fetch| {
            served += 1;
            if served > cut { Err(()) } else { Ok(repository.fetch(fetch)) }
        });
        let stored = refresh_cut.finish().set.stored();
        let (after, failure) = refresh(&repository, &stored);
        assert_eq!((failure, after), (None, whole.clone()), "after {cut} files");
    }
}

#[test]
fn what_is_stored_is_loaded_again_as_it_was() {
    let mut repository = Repository::new();
    repository.delegate("targets", "team", 11, "team/*", false);
    repository.role_mut("team").targets.insert("team/m".to_owned(), TargetDescription::of(b"x", None));
    repository.release();
    let mut set = load(&repository.device());
    let mut lookup = Lookup::new(&mut set, "team/m", NOW).unwrap();
    run::<()>(&mut lookup, |fetch| Ok(repository.fetch(fetch))).unwrap();
    let target = lookup.finish().unwrap();
    target.evidence.verify(&set.anchor(), b"x".to_vec()).unwrap();
    let stored = set.stored();
    let mut loaded = load(&stored);
    assert_eq!((loaded.stored(), loaded.discarded()), (stored, &[][..]));
    let mut lookup = Lookup::new(&mut loaded, "team/m", NOW).unwrap();
    run(&mut lookup, |fetch| Err(fetch.path.clone())).unwrap();
    assert_eq!(lookup.finish().unwrap(), target, "without fetching anything");
}

#[test]
fn a_role_is_checked_against_the_delegator_on_this_way() {
    let mut repository = Repository::new();
    repository.delegate("targets", "a", 11, "a/*", false);
    repository.delegate("targets", "b", 12, "b/*", false);
    repository.delegate("a", "shared", 13, "a/*", false);
    repository.delegate("b", "shared", 14, "b/*", false);
    repository.signers.insert("shared".to_owned(), vec![13]);
    for path in ["a/m", "b/m"] {
        repository.role_mut("shared").targets.insert(path.to_owned(), TargetDescription::of(b"x", None));
    }
    repository.release();
    let mut set = load(&repository.device());
    for (path, expected) in [("a/m", None), ("b/m", Some(Code::Signature)), ("a/m", None)] {
        let mut lookup = Lookup::new(&mut set, path, NOW).unwrap();
        let outcome = run::<()>(&mut lookup, |fetch| Ok(repository.fetch(fetch)));
        let code = match outcome {
            Ok(()) => lookup.finish().err().map(|failure| failure.code),
            Err(Interrupted::Refused(failure)) => Some(failure.code),
            Err(Interrupted::Source(())) => unreachable!("memory does not fail"),
        };
        assert_eq!(code, expected, "{path}");
    }
}

#[test]
fn a_file_that_a_new_threshold_does_not_accept_is_not_kept() {
    let mut repository = Repository::new();
    let device = repository.device();
    repository.set_keys("timestamp", &[2, 35], 2);
    repository.root.version = 2;
    repository.publish_root();
    let (after, failure) = refresh(&repository, &device);
    assert_eq!((failure.unwrap().code, &after.timestamp), (Code::Signature, &None));
    assert_eq!(after.floors.timestamp, 1, "its version still counts");
    repository.publish_timestamp();
    assert_eq!(refresh(&repository, &after).1, None);
}

#[test]
fn files_without_their_floors_still_tell_which_versions_were_seen() {
    let mut repository = Repository::new();
    repository.targets.version = 5;
    repository.release();
    let device = Stored { floors: Floors::default(), timestamp: None, ..repository.device() };
    repository.targets.version = 2;
    repository.snapshot.version += 1;
    repository.timestamp.version += 1;
    repository.publish();
    let (_, failure) = refresh(&repository, &device);
    assert_eq!(failure.map(|failure| failure.code), Some(Code::Rollback));
}

/// Looks for a target with nothing but the top-level metadata here; returns what was fetched, and the length of the target.
fn search(repository: &Repository, path: &str) -> (Vec<String>, Result<u64, Code>) {
    let mut set = load(&repository.device());
    let mut fetched = Vec::new();
    let mut lookup = Lookup::new(&mut set, path, NOW).unwrap();
    run::<()>(&mut lookup, |fetch| {
        fetched.push(fetch.path.clone());
        Ok(repository.fetch(fetch))
    })
    .unwrap();
    let found = lookup.finish();
    (fetched, found.map(|target| target.description.length).map_err(|failure| failure.code))
}

#[test]
fn of_two_teams_that_name_a_target_the_first_counts() {
    let mut repository = Repository::new();
    for (team, seed, bytes) in [("one", 11, b"1".as_slice()), ("two", 12, b"22")] {
        repository.delegate("targets", team, seed, "team/*", false);
        let description = TargetDescription::of(bytes, None);
        repository.role_mut(team).targets.insert("team/m".to_owned(), description);
    }
    repository.release();
    assert_eq!(search(&repository, "team/m"), (vec!["1.one.json".to_owned()], Ok(1)));
}

#[test]
fn a_terminating_role_ends_the_search_for_its_delegators_siblings_too() {
    let mut repository = Repository::new();
    repository.delegate("targets", "one", 11, "team/*", false);
    repository.delegate("targets", "two", 12, "team/*", false);
    repository.delegate("one", "last", 13, "team/*", true);
    repository.role_mut("two").targets.insert("team/m".to_owned(), TargetDescription::of(b"x", None));
    repository.release();
    let fetched = vec!["1.one.json".to_owned(), "1.last.json".to_owned()];
    assert_eq!(search(&repository, "team/m"), (fetched, Err(Code::NotApproved)));
}

#[test]
fn teams_that_all_delegate_to_each_other_are_looked_into_once_each() {
    let mut repository = Repository::new();
    let teams: Vec<String> = (0..14).map(|at| format!("team-{at}")).collect();
    for (team, seed) in teams.iter().zip(100..) {
        repository.delegate("targets", team, seed, "team/*", false);
    }
    for (team, seed) in teams.iter().zip(100..) {
        teams.iter().for_each(|other| repository.delegate(other, team, seed, "team/*", false));
    }
    repository.release();
    let (fetched, found) = search(&repository, "team/m");
    assert_eq!((fetched.len(), found), (14, Err(Code::NotApproved)));
}

/// What may happen to a repository and to the way from it.
#[derive(Debug, Clone)]
enum Event {
    Release,
    Root,
    Rotate(usize, u8),
    VersionBack(usize, u64),
    VersionOn(usize, u64),
    FlipByte(usize, usize),
    DropSignatures(usize),
    SignByStranger(usize),
    Remove(usize),
    LoseFiles,
    Later(i64),
}

const ROLES: [&str; 4] = ["root", "timestamp", "snapshot", "targets"];

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Release),
        1 => Just(Event::Root),
        2 => (0..4_usize, 60..80_u8).prop_map(|(role, seed)| Event::Rotate(role, seed)),
        2 => (1..4_usize, 1..4_u64).prop_map(|(role, by)| Event::VersionBack(role, by)),
        1 => (1..4_usize, 1..4_u64).prop_map(|(role, by)| Event::VersionOn(role, by)),
        2 => (0..4_usize, any::<usize>()).prop_map(|(role, at)| Event::FlipByte(role, at)),
        1 => (0..4_usize).prop_map(Event::DropSignatures),
        1 => (1..4_usize).prop_map(Event::SignByStranger),
        1 => (0..4_usize).prop_map(Event::Remove),
        1 => Just(Event::LoseFiles),
        1 => (0..40_i64).prop_map(Event::Later),
    ]
}

fn path_of(repository: &Repository, role: usize) -> String {
    match role {
        0 => format!("{}.root.json", repository.root.version),
        1 => "timestamp.json".to_owned(),
        2 => format!("{}.snapshot.json", repository.snapshot.version),
        _ => format!("{}.targets.json", repository.targets.version),
    }
}

/// Lets an event happen; returns the repository as it is served this once.
fn happen(repository: &mut Repository, stored: &mut Stored, now: &mut UnixTime, event: &Event) -> Repository {
    let version = |repository: &mut Repository, role: usize, change: &dyn Fn(u64) -> u64| {
        let versions = [&mut repository.timestamp.version, &mut repository.snapshot.version];
        match versions.into_iter().nth(role - 1) {
            Some(version) => *version = change(*version),
            None => repository.targets.version = change(repository.targets.version),
        }
        repository.publish();
    };
    match event {
        Event::Release => repository.release(),
        Event::Root => {
            repository.root.version += 1;
            repository.publish_root();
        }
        Event::Rotate(role, seed) => {
            repository.rotate(ROLES[*role], &[*seed]);
            repository.release();
        }
        Event::VersionBack(role, by) => version(repository, *role, &|v| v.saturating_sub(*by).max(1)),
        Event::VersionOn(role, by) => version(repository, *role, &|v| v + by),
        Event::LoseFiles => (stored.timestamp, stored.snapshot, stored.targets) = (None, None, None),
        Event::Later(days) => now.0 += days * 86_400,
        _ => {}
    }
    let mut served = repository.clone();
    match event {
        Event::FlipByte(role, at) => {
            let file = served.files.get_mut(&path_of(repository, *role)).unwrap();
            let at = at % file.len();
            file[at] ^= 1;
        }
        Event::DropSignatures(role) => {
            served.spoil(&path_of(repository, *role), |file| file["signatures"] = json!([]));
        }
        Event::SignByStranger(role) => {
            served.signers.insert(ROLES[*role].to_owned(), vec![99]);
            served.release();
        }
        Event::Remove(role) => drop(served.files.remove(&path_of(repository, *role))),
        _ => {}
    }
    served
}

fn lowered(before: &Floors, after: &Floors) -> bool {
    after.timestamp < before.timestamp
        || after.snapshot < before.snapshot
        || before.targets.iter().any(|(role, floor)| after.targets.get(role).is_none_or(|v| v < floor))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_versions_fall_by_new_keys_alone_and_nothing_unsigned_is_trusted(
        events in prop::collection::vec(event(), 1..12)
    ) {
        let mut repository = Repository::new();
        let (mut stored, mut now) = (repository.device(), NOW);
        for event in &events {
            let served = happen(&mut repository, &mut stored, &mut now, event);
            let before = stored.floors.clone();
            let (after, failure) = refresh_at(&served, &stored, now);
            prop_assert!(after.floors.root >= before.root);
            if after.floors.root == before.root {
                prop_assert!(!lowered(&before, &after.floors), "{event:?}: {before:?} {:?}", after.floors);
            }
            // What is kept is believed again without a word: it was signed by the keys of the root that is kept.
            let loaded = load(&after);
            prop_assert_eq!(loaded.discarded(), &[][..], "{:?}", event);
            prop_assert_eq!(&loaded.stored().floors, &after.floors);
            if failure.is_none() {
                let mut loaded = loaded;
                let target = Lookup::new(&mut loaded, FROST, now).unwrap().finish().unwrap();
                prop_assert!(target.evidence.verify(&loaded.anchor(), b"frost 1".to_vec()).is_ok());
            }
            if let Event::DropSignatures(role) | Event::SignByStranger(role) = event {
                let part = |stored: &Stored| match role {
                    0 => Some(stored.root.clone()),
                    1 => stored.timestamp.clone(),
                    2 => stored.snapshot.clone(),
                    _ => stored.targets.clone(),
                };
                let kept = part(&after);
                prop_assert!(kept.is_none() || kept == part(&stored) || repository.files.values().any(|f| Some(f) == kept.as_ref()));
            }
            stored = after;
        }
    }
}
