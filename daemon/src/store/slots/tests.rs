//! Releases in `state.db`: read back as they were, floors that never fall, tries in one table.

use super::*;
use crate::store::trust::Cycle;
use crate::store::{FolderLock, TrustStore};
use crate::update::machine::{Event, Intent, Outcome, next_state};
use crate::update::release::Cause;
use crate::update::tests::{rules, signed};

fn state_of_everything() -> (ModelState, [StoredRelease; 3]) {
    let releases = [signed(1), signed(2), signed(u64::MAX)];
    let [previous, active, candidate] = &releases;
    let state = ModelState {
        active: Some(active.release.clone()),
        previous: Some(previous.release.clone()),
        candidate: Some(Candidate { release: candidate.release.clone(), phase: Phase::Trial, tries_used: 2 }),
        bad: Reason::ALL
            .into_iter()
            .enumerate()
            .map(|(position, reason)| BadRelease {
                release: signed(10 + position as u64).release,
                reason,
                detail: "seen".to_owned(),
                at_us: -1,
            })
            .collect(),
        floor: Floor { counter: 2, digest: Some(active.release.digest) },
        lane: 1,
        start: 7,
        since_us: 5,
        last: Some("good".to_owned()),
    };
    (state, releases)
}

#[test]
fn a_state_is_read_back_as_it_was_by_the_daemon_and_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let (state, releases) = state_of_everything();
    let mut database = StateDatabase::open(&lock).unwrap();
    for stored in &releases {
        database.save_model("m", &state_with(&releases, stored), Some(stored)).unwrap();
    }
    database.save_model("m", &state, None).unwrap();
    drop(database);
    let database = StateDatabase::open(&lock).unwrap();
    assert_eq!(database.model_states().unwrap(), BTreeMap::from([("m".to_owned(), state.clone())]));
    for stored in &releases {
        let digest = stored.release.digest;
        assert_eq!(database.release("m", &digest).unwrap().as_ref(), Some(stored));
        assert_eq!(database.release("n", &digest).unwrap(), None);
    }
    assert_eq!(read_models(folder.path()).unwrap().unwrap().models["m"], state);
}

fn state_with(releases: &[StoredRelease; 3], last: &StoredRelease) -> ModelState {
    let upto = releases.iter().position(|stored| stored == last).unwrap();
    let release = |position: usize| (position <= upto).then(|| releases[position].release.clone());
    ModelState {
        active: release(0),
        previous: release(1),
        candidate: release(2).map(|release| Candidate { release, phase: Phase::Fetching, tries_used: 0 }),
        ..ModelState::default()
    }
}

#[test]
fn a_floor_is_never_lowered_whatever_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let mut database = StateDatabase::open(&lock).unwrap();
    let high = Floor { counter: 9, digest: Some(Digest::of(b"9")) };
    database.save_model("m", &ModelState { floor: high, ..ModelState::default() }, None).unwrap();
    database.save_model("m", &ModelState::default(), None).unwrap();
    let low = Floor { counter: 8, digest: Some(Digest::of(b"8")) };
    database.save_model("m", &ModelState { floor: low, ..ModelState::default() }, None).unwrap();
    assert_eq!(database.model_states().unwrap()["m"].floor, high);
}

#[test]
fn a_release_is_forgotten_with_its_proof_once_no_slot_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let mut database = StateDatabase::open(&lock).unwrap();
    let (old, new) = (signed(1), signed(2));
    let mut state = ModelState::default();
    for stored in [&old, &new] {
        let offer = Event::Offer { release: stored.release.clone(), intent: Intent::Desired };
        let (next, outcome) = next_state(&state, &offer, &rules(), 0);
        assert_eq!(outcome, Outcome::Changed);
        database.save_model("m", &next, Some(stored)).unwrap();
        state = next;
    }
    let mut trust = TrustStore::open(&lock).unwrap();
    trust.keep_releases(&BTreeSet::new()).unwrap();
    assert_eq!(database.release("m", &old.release.digest).unwrap(), None);
    assert_eq!(database.release("m", &new.release.digest).unwrap(), Some(new));
}

#[test]
fn whatever_slot_names_a_release_its_row_stays() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let mut database = StateDatabase::open(&lock).unwrap();
    let (mut state, releases) = state_of_everything();
    for stored in &releases {
        database.save_model("m", &state_with(&releases, stored), Some(stored)).unwrap();
    }
    let [damaged, slow] = [signed(30), signed(31)];
    for (stored, reason) in [(&damaged, Reason::Damaged), (&slow, Reason::RolledBack(Cause::Latency))] {
        let bad = BadRelease { release: stored.release.clone(), reason, detail: String::new(), at_us: 0 };
        state.bad.push(bad);
        database.save_model("m", &state, Some(stored)).unwrap();
    }
    TrustStore::open(&lock).unwrap().keep_releases(&BTreeSet::new()).unwrap();
    for stored in releases.iter().chain([&damaged]) {
        assert_eq!(database.release("m", &stored.release.digest).unwrap().as_ref(), Some(stored));
    }
    assert_eq!(database.release("m", &slow.release.digest).unwrap(), None);
    drop(database);
    assert_eq!(StateDatabase::open(&lock).unwrap().model_states().unwrap()["m"], state);
}

#[test]
fn what_a_review_says_of_a_release_holds_for_its_slot_and_an_offer_does_not_undo_it() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let mut database = StateDatabase::open(&lock).unwrap();
    let old = signed(1);
    let state = ModelState { active: Some(old.release.clone()), ..ModelState::default() };
    database.save_model("m", &state, Some(&old)).unwrap();
    assert_eq!(database.withdrawn().unwrap(), BTreeSet::new());
    let mut trust = TrustStore::open(&lock).unwrap();
    let mut reviewed = trust.release(&old.release.digest).unwrap().unwrap();
    // The same manifest, proven by another key.
    reviewed.evidence = signed(1).evidence;
    reviewed.approved = false;
    trust.save(&Cycle { releases: vec![reviewed.clone()], ..Cycle::default() }).unwrap();
    database.save_model("m", &state, Some(&old)).unwrap();
    let kept = database.release("m", &old.release.digest).unwrap().unwrap();
    assert_ne!(kept.evidence, old.evidence);
    assert_eq!(kept.evidence, reviewed.evidence);
    assert_eq!(database.withdrawn().unwrap(), BTreeSet::from([old.release.digest]));
    assert_eq!(read_models(folder.path()).unwrap().unwrap().withdrawn, BTreeSet::from([old.release.digest]));
}

#[test]
fn starts_of_the_active_release_survive_a_transition_of_the_candidate() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let mut database = StateDatabase::open(&lock).unwrap();
    let (state, releases) = state_of_everything();
    let active = releases[1].release.digest.to_string();
    for stored in &releases {
        database.save_model("m", &state_with(&releases, stored), Some(stored)).unwrap();
    }
    database.save_model("m", &state, None).unwrap();
    assert_eq!(database.record_start("m", &active).unwrap(), 1);
    database.save_model("m", &state, None).unwrap();
    assert_eq!(database.record_start("m", &active).unwrap(), 2);
    database.record_ready("m", &active).unwrap();
    assert_eq!(database.model_states().unwrap()["m"].candidate.as_ref().unwrap().tries_used, 2);
}

#[test]
fn the_record_of_starts_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let record = StartRecord { unready: 2, boot: "b".to_owned(), last_us: 3, span_us: 4, mode: Mode::Safe };
    StateDatabase::open(&lock).unwrap().save_start_record(&record).unwrap();
    assert_eq!(StateDatabase::open(&lock).unwrap().start_record().unwrap(), record);
    assert_eq!(read_models(folder.path()).unwrap().unwrap().starts, record);
}

#[test]
fn a_folder_where_no_daemon_ran_has_no_models_and_a_lost_file_takes_none() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read_models(folder.path()).unwrap(), None);
    let lock = FolderLock::acquire(folder.path()).unwrap();
    dunlin_kit::atomic_file::write(&folder.path().join(STATE_FILE), &[0x5a; 8_192]).unwrap();
    let mut database = StateDatabase::open(&lock).unwrap();
    assert_eq!(database.model_states().unwrap(), BTreeMap::new());
    assert!(database.save_model("m", &ModelState::default(), None).is_err());
    assert!(read_models(folder.path()).is_err());
}
