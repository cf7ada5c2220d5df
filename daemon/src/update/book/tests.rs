//! The book over a real `state.db`: kills after every step, tries, lost state, full disks.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::lanes::LaneCounts;
use crate::store::{FolderLock, STATE_FILE};
use crate::update::machine::Phase;
use crate::update::tests::{rules, signed};

fn open(lock: &FolderLock) -> ReleaseBook {
    let database = StateDatabase::open(lock).unwrap();
    ReleaseBook::open(database, lock.folder(), rules(), vec!["m".to_owned()]).unwrap()
}

fn folder() -> (TempDir, FolderLock) {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    (folder, lock)
}

fn fine(stored: &StoredRelease, phase: Phase) -> Event {
    Event::Observed {
        digest: stored.release.digest,
        phase,
        elapsed: Duration::from_secs(60),
        counts: LaneCounts { predictions: 10, compared: 10, agreed: 10, ..LaneCounts::default() },
    }
}

/// The events that bring a release from its offer to its trial.
fn to_trial(stored: &StoredRelease, beside: bool) -> Vec<Event> {
    let digest = stored.release.digest;
    let mut events = vec![
        Event::Verified { digest },
        Event::Admitted { digest },
        Event::Begin { digest },
        Event::Start { digest, attempt: 1 },
    ];
    if beside {
        events.push(fine(stored, Phase::Shadow));
    }
    events
}

fn make_good(book: &ReleaseBook, stored: &StoredRelease, beside: bool) {
    book.offer("m", stored, Intent::Desired).unwrap();
    for event in to_trial(stored, beside).into_iter().chain([fine(stored, Phase::Trial)]) {
        assert_eq!(book.apply("m", &event).unwrap(), Outcome::Changed, "{event:?}");
    }
    assert_eq!(book.state("m").active, Some(stored.release.clone()));
}

#[test]
fn an_update_that_is_killed_after_any_step_goes_on_from_there() {
    let (_folder, lock) = folder();
    make_good(&open(&lock), &signed(1), false);
    let new = signed(2);
    assert_eq!(open(&lock).offer("m", &new, Intent::Desired).unwrap(), Outcome::Changed);
    let steps = to_trial(&new, true).into_iter().chain([fine(&new, Phase::Trial)]);
    for step in steps {
        let book = open(&lock);
        let before = book.state("m");
        assert_eq!(before.floor.counter, 1);
        assert!(before.serving().is_some());
        assert_eq!(book.release("m", &new.release.digest).unwrap(), Some(new.clone()));
        assert_eq!(book.apply("m", &step).unwrap(), Outcome::Changed, "{step:?}");
        let after = book.state("m");
        drop(book);
        let kept = StateDatabase::open(&lock).unwrap().model_states().unwrap();
        assert_eq!(kept["m"], after);
    }
    let state = open(&lock).state("m");
    assert_eq!((state.active, state.floor.counter), (Some(new.release), 2));
    assert_eq!(state.previous, Some(signed(1).release));
}

#[test]
fn a_candidate_has_its_tries_across_kills_and_then_the_gateway_goes_back() {
    let (_folder, lock) = folder();
    make_good(&open(&lock), &signed(1), false);
    let new = signed(2);
    let book = open(&lock);
    book.offer("m", &new, Intent::Desired).unwrap();
    for event in to_trial(&new, true) {
        book.apply("m", &event).unwrap();
    }
    let mut book = book;
    // The worker that ran in shadow was the first try.
    for attempt in 2..=3 {
        drop(book);
        book = open(&lock);
        assert_eq!(book.record_start("m", &new.release.digest), attempt);
        book.record_ready("m", &new.release.digest);
    }
    drop(book);
    let book = open(&lock);
    let state = book.state("m");
    assert_eq!(state.bad[0].reason.code(), "rolled_back:restart");
    assert_eq!(state.serving(), Some(&signed(1).release));
    assert_eq!(book.record_start("m", &new.release.digest), START_REFUSED);
    assert_eq!(book.record_start("m", &signed(1).release.digest), 1);
}

#[test]
fn a_candidate_that_crashes_uses_up_its_tries_and_whoever_waits_is_told() {
    let (_folder, lock) = folder();
    let book = open(&lock);
    make_good(&book, &signed(1), false);
    let new = signed(2);
    book.offer("m", &new, Intent::Desired).unwrap();
    for event in to_trial(&new, true) {
        book.apply("m", &event).unwrap();
    }
    let mut moves = book.moves();
    moves.mark_unchanged();
    assert_eq!([2, 3].map(|_| book.record_start("m", &new.release.digest)), [2, 3]);
    assert_eq!(book.record_start("m", &new.release.digest), START_REFUSED);
    assert!(moves.has_changed().unwrap());
    assert_eq!(book.state("m").bad[0].reason.code(), "rolled_back:crash");
}

#[test]
fn a_stop_in_order_costs_no_try() {
    let (_folder, lock) = folder();
    let new = signed(1);
    let book = open(&lock);
    book.offer("m", &new, Intent::Desired).unwrap();
    for event in to_trial(&new, false) {
        book.apply("m", &event).unwrap();
    }
    book.mark_clean().unwrap();
    drop(book);
    for _ in 0..9 {
        let book = open(&lock);
        assert_eq!(book.record_start("m", &new.release.digest), 1);
        book.mark_clean().unwrap();
    }
}

#[test]
fn the_operator_goes_back_once_and_then_there_is_nothing_left() {
    let (_folder, lock) = folder();
    let book = open(&lock);
    let nothing = Outcome::Refused(Refusal::NothingToGoBackTo);
    assert_eq!(book.roll_back("m", None).unwrap(), nothing);
    make_good(&book, &signed(1), false);
    make_good(&book, &signed(2), true);
    assert_eq!(book.roll_back("m", Some("too many alarms")).unwrap(), Outcome::Changed);
    let state = book.state("m");
    assert_eq!((state.active, state.floor.counter), (Some(signed(1).release), 2));
    assert_eq!(
        (state.bad[0].reason.code(), state.bad[0].detail.as_str()),
        ("rolled_back:operator", "too many alarms")
    );
    assert_eq!(book.roll_back("m", None).unwrap(), nothing);
    assert!(matches!(book.roll_back("x", None), Err(BookError::UnknownModel(_))));
    let refused = book.offer("m", &signed(2), Intent::Desired).unwrap();
    assert!(matches!(refused, Outcome::Refused(Refusal::KnownBad(_))));
    assert_eq!(book.offer("m", &signed(2), Intent::Retry).unwrap(), Outcome::Changed);
}

#[test]
fn a_gateway_that_lost_its_state_runs_what_was_good_and_takes_nothing() {
    let (folder, lock) = folder();
    let (good, new) = (signed(5), signed(6));
    make_good(&open(&lock), &good, false);
    for suffix in ["", "-wal", "-shm"] {
        let path = folder.path().join(format!("{STATE_FILE}{suffix}"));
        let _ = std::fs::remove_file(&path);
    }
    dunlin_kit::atomic_file::write(&folder.path().join(STATE_FILE), &[0x5a; 8_192]).unwrap();
    let book = open(&lock);
    assert_eq!(book.state("m").serving(), Some(&good.release));
    assert_eq!(book.release("m", &good.release.digest).unwrap(), Some(good.clone()));
    let refused = book.offer("m", &new, Intent::Desired).unwrap_err();
    assert!(refused.to_string().starts_with("state_lost: "), "{refused}");
    assert_eq!(book.record_start("m", &good.release.digest), 1);
}

#[test]
fn three_starts_that_do_not_become_ready_bring_safe_mode_until_it_is_left() {
    let (_folder, lock) = folder();
    for _ in 0..3 {
        assert_eq!(open(&lock).mode(), Mode::Normal);
    }
    let book = open(&lock);
    assert_eq!(book.mode(), Mode::Safe);
    book.note_ready().unwrap();
    drop(book);
    let book = open(&lock);
    assert_eq!(book.mode(), Mode::Safe);
    book.leave_safe_mode().unwrap();
    drop(book);
    assert_eq!(open(&lock).mode(), Mode::Normal);
}

#[test]
fn a_transition_that_cannot_be_stored_did_not_happen() {
    let (_folder, lock) = folder();
    let book = open(&lock);
    let new = signed(1);
    book.offer("m", &new, Intent::Desired).unwrap();
    book.lock().database.set_writable(false);
    let digest = new.release.digest;
    assert!(matches!(book.apply("m", &Event::Verified { digest }), Err(BookError::Store(_))));
    assert_eq!(book.state("m").candidate.unwrap().phase, Phase::Fetching);
}

#[test]
fn a_rollback_that_cannot_be_stored_happens_all_the_same_and_is_stored_later() {
    let (_folder, lock) = folder();
    let book = open(&lock);
    make_good(&book, &signed(1), false);
    let new = signed(2);
    book.offer("m", &new, Intent::Desired).unwrap();
    for event in to_trial(&new, true) {
        book.apply("m", &event).unwrap();
    }
    book.lock().database.set_writable(false);
    let counts = LaneCounts { predictions: 5, invalid: 5, ..LaneCounts::default() };
    let (digest, phase, elapsed) = (new.release.digest, Phase::Trial, Duration::ZERO);
    book.apply("m", &Event::Observed { digest, phase, elapsed, counts }).unwrap();
    assert_eq!(book.state("m").serving(), Some(&signed(1).release));
    book.store_again();
    let kept = |book: &ReleaseBook| book.lock().database.model_states().unwrap()["m"].clone();
    assert!(kept(&book).candidate.is_some());
    book.lock().database.set_writable(true);
    book.store_again();
    assert_eq!(kept(&book), book.state("m"));
}
