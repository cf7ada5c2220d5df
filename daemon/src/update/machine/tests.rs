//! The machine: every state with every event, and properties over whole histories.

use std::collections::BTreeSet;

use dunlin_trust::Evidence;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::lanes::LaneRole;
use crate::store::{FolderLock, StateDatabase, StoredRelease};
use crate::update::plan::{Work, kept_releases, lanes_for, work_for};
use crate::update::safe_mode::Mode;
use crate::update::tests::rules;

fn release(counter: u64) -> Release {
    Release {
        digest: Digest::of(&counter.to_be_bytes()),
        model: "m".to_owned(),
        version: format!("{counter}.0.0"),
        counter,
    }
}

fn good(active: u64) -> ModelState {
    ModelState {
        active: Some(release(active)),
        previous: (active > 1).then(|| release(active - 1)),
        floor: Floor { counter: active, digest: Some(release(active).digest) },
        ..ModelState::default()
    }
}

fn trying(state: ModelState, counter: u64, phase: Phase) -> ModelState {
    let tries_used = if phase.runs() { 3 } else { 0 };
    ModelState { candidate: Some(Candidate { release: release(counter), phase, tries_used }), ..state }
}

fn bad(counter: u64, reason: Reason) -> BadRelease {
    BadRelease { release: release(counter), reason, detail: String::new(), at_us: 0 }
}

fn states() -> Vec<(&'static str, ModelState)> {
    let operator = Reason::RolledBack(Cause::Operator);
    vec![
        ("absent", ModelState::default()),
        ("first fetching", trying(ModelState::default(), 3, Phase::Fetching)),
        ("first trial", trying(ModelState::default(), 3, Phase::Trial)),
        ("good, none before", good(1)),
        ("good", good(2)),
        ("fetching", trying(good(2), 3, Phase::Fetching)),
        ("verified", trying(good(2), 3, Phase::Verified)),
        ("admitted", trying(good(2), 3, Phase::Admitted)),
        ("shadow", trying(good(2), 3, Phase::Shadow)),
        ("trial", trying(good(2), 3, Phase::Trial)),
        (
            "rolled back",
            ModelState {
                active: Some(release(1)),
                previous: None,
                bad: vec![bad(2, operator), bad(3, Reason::RolledBack(Cause::Crash))],
                ..good(2)
            },
        ),
        (
            "damaged",
            ModelState {
                active: Some(release(1)),
                previous: None,
                bad: vec![bad(2, Reason::Damaged)],
                ..good(2)
            },
        ),
        ("damaged, none left", ModelState { active: None, bad: vec![bad(1, Reason::Damaged)], ..good(1) }),
    ]
}

fn observed(subject: Digest, phase: Phase, counts: LaneCounts) -> Event {
    Event::Observed { digest: subject, phase, elapsed: Duration::from_secs(60), counts }
}

fn fine() -> LaneCounts {
    LaneCounts { predictions: 10, compared: 10, agreed: 10, ..LaneCounts::default() }
}

fn events(state: &ModelState) -> Vec<(&'static str, Event)> {
    let candidate = state.candidate.as_ref();
    let subject = candidate.map(|c| &c.release).or(state.damaged()).map_or(release(3).digest, |r| r.digest);
    let active = state.active.as_ref().map_or(release(9).digest, |active| active.digest);
    let previous = state.previous.as_ref().map_or(release(9).digest, |previous| previous.digest);
    let phase = candidate.map_or(Phase::Trial, |candidate| candidate.phase);
    let attempt = candidate.map_or(1, |candidate| candidate.tries_used + 1);
    let from = state.rollback_from().map_or(release(9).digest, |release| release.digest);
    let offer = |counter, intent| Event::Offer { release: release(counter), intent };
    let detail = String::new;
    vec![
        ("boot clean", Event::Boot { start: 1, stop: LastStop::Clean }),
        ("boot unclean", Event::Boot { start: 1, stop: LastStop::Unclean }),
        ("offer 1", offer(1, Intent::Desired)),
        ("offer 2", offer(2, Intent::Desired)),
        ("offer 3", offer(3, Intent::Desired)),
        ("offer 4", offer(4, Intent::Desired)),
        ("retry 2", offer(2, Intent::Retry)),
        ("retry 3", offer(3, Intent::Retry)),
        ("verified", Event::Verified { digest: subject }),
        ("admitted", Event::Admitted { digest: subject }),
        ("begin", Event::Begin { digest: subject }),
        ("start", Event::Start { digest: subject, attempt }),
        ("fine", observed(subject, phase, fine())),
        ("faulty", observed(subject, phase, LaneCounts { invalid: 5, ..fine() })),
        ("differs", observed(subject, phase, LaneCounts { agreed: 0, ..fine() })),
        (
            "failed",
            Event::Failed { digest: subject, reason: Reason::SelfTest(SelfTest::Golden), detail: detail() },
        ),
        ("delayed", Event::Delayed { digest: subject, detail: "later".to_owned() }),
        ("damaged", Event::Damaged { digest: active, detail: detail() }),
        ("rollback", Event::Rollback { from, detail: detail() }),
        ("withdraw candidate", Event::Withdraw { digest: subject, detail: detail() }),
        ("withdraw active", Event::Withdraw { digest: active, detail: detail() }),
        ("withdraw previous", Event::Withdraw { digest: previous, detail: detail() }),
    ]
}

/// Writes a state as `active/previous floor candidate bad`.
fn summary(state: &ModelState) -> String {
    let number =
        |release: &Option<Release>| release.as_ref().map_or("-".to_owned(), |r| r.counter.to_string());
    let mut text = format!("{}/{} >{}", number(&state.active), number(&state.previous), state.floor.counter);
    if let Some(Candidate { release, phase, tries_used }) = &state.candidate {
        text += &format!(" {} {}", release.counter, phase.as_str());
        if *tries_used > 0 {
            text += &format!(" {tries_used}");
        }
    }
    for bad in &state.bad {
        text += &format!(" !{} {}", bad.release.counter, bad.reason.name());
    }
    text
}

fn table() -> String {
    let mut text = String::new();
    for (name, state) in states() {
        text += &format!("{name}: {}\n", summary(&state));
        for (event, happened) in events(&state) {
            let (next, outcome) = next_state(&state, &happened, &rules(), 7);
            match outcome {
                Outcome::Changed => text += &format!("  {event}: {}\n", summary(&next)),
                Outcome::Unchanged => assert_eq!(next, state, "{name}, {event}"),
                Outcome::Refused(refusal) => {
                    let slots = |state: &ModelState| ModelState { last: None, ..state.clone() };
                    assert_eq!(slots(&next), slots(&state), "{name}, {event}");
                    if refusal != Refusal::OutOfTurn {
                        text += &format!("  {event}: refused {}\n", refusal.code());
                    }
                }
            }
        }
    }
    text
}

/// What is not listed changes nothing.
#[test]
fn every_state_takes_every_event_as_written_here() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/update/machine/transitions.txt");
    let found = table();
    if std::env::var_os("DUNLIN_WRITE_GOLDEN").is_some() {
        dunlin_kit::atomic_file::write(&path, found.as_bytes()).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(&path).unwrap());
}

#[test]
fn a_release_goes_from_offer_to_good_and_each_step_follows_from_the_state() {
    let mut state = good(1);
    let mut step = |event| {
        let (next, outcome) = next_state(&state, &event, &rules(), 0);
        assert_eq!(outcome, Outcome::Changed, "{event:?}");
        state = next;
        (work_for(&state, Mode::Normal), lanes_for(&state, Mode::Normal).map(|wish| wish.map(|w| w.role)))
    };
    let (new, digest) = (release(2), release(2).digest);
    let serving = [Some(LaneRole::Serving), None];
    let offer = Event::Offer { release: new.clone(), intent: Intent::Desired };
    assert_eq!(step(offer), (Some(Work::Fetch(new.clone())), serving));
    assert_eq!(step(Event::Verified { digest }), (Some(Work::Admit(new.clone())), serving));
    assert_eq!(step(Event::Admitted { digest }), (Some(Work::Begin(new)), serving));
    let beside = [Some(LaneRole::Serving), Some(LaneRole::Shadow)];
    assert_eq!(step(Event::Begin { digest }), (None, beside));
    assert_eq!(step(Event::Start { digest, attempt: 1 }), (None, beside));
    let swapped = [Some(LaneRole::Standby), Some(LaneRole::Serving)];
    assert_eq!(step(observed(digest, Phase::Shadow, fine())), (None, swapped));
    assert_eq!(step(observed(digest, Phase::Trial, fine())), (None, [None, Some(LaneRole::Serving)]));
    assert_eq!(kept_releases(&state), [release(2).digest, release(1).digest]);
}

#[test]
fn in_safe_mode_releases_are_fetched_and_none_is_tried() {
    for phase in Phase::ALL {
        let state = trying(good(2), 3, phase);
        let [own, other] = lanes_for(&state, Mode::Safe);
        assert_eq!((own.unwrap().role, other), (LaneRole::Serving, None));
        let fetched = (phase == Phase::Fetching).then(|| Work::Fetch(release(3)));
        assert_eq!(work_for(&state, Mode::Safe), fetched);
    }
}

#[test]
fn a_shadow_serves_when_the_release_beside_it_is_gone() {
    let state = trying(good(1), 3, Phase::Shadow);
    let damaged = Event::Damaged { digest: release(1).digest, detail: String::new() };
    let (next, _) = next_state(&state, &damaged, &rules(), 0);
    assert_eq!(next.serving(), Some(&release(3)));
    assert_eq!(next.candidate.unwrap().tries_used, 1);
}

#[test]
fn only_so_many_bad_releases_are_remembered_and_those_below_the_floor_go_first() {
    let mut state = good(2);
    for counter in [1, 50, 51].into_iter().chain(3..50) {
        state.candidate =
            Some(Candidate { release: release(counter), phase: Phase::Verified, tries_used: 0 });
        let failed = Event::Failed {
            digest: release(counter).digest,
            reason: Reason::SelfTest(SelfTest::Memory),
            detail: "x".repeat(9_999),
        };
        state = next_state(&state, &failed, &rules(), 0).0;
    }
    assert_eq!(state.bad.len(), BAD_RELEASES_MAX);
    assert!(state.bad.iter().all(|bad| bad.release.counter != 1 && bad.detail.len() == DETAIL_CHARS_MAX));
}

/// An event of the world, made fit for the state it meets: else nearly all would be out of turn.
fn event_of(state: &ModelState, pick: usize, counter: u64, start: u64) -> Event {
    if pick == 22 {
        return Event::Offer { release: release(counter), intent: Intent::Retry };
    }
    if pick >= 23 {
        return Event::Offer { release: release(counter), intent: Intent::Desired };
    }
    match events(state).remove(pick).1 {
        Event::Boot { stop, .. } => Event::Boot { start, stop },
        other => other,
    }
}

fn require_invariants(before: &ModelState, event: &Event, after: &ModelState) {
    assert!(after.floor.counter >= before.floor.counter, "the floor fell");
    if after.floor != before.floor {
        let confirmed = before.candidate.as_ref().map(|candidate| candidate.release.clone());
        assert_eq!((&after.active, after.candidate.is_none()), (&confirmed, true), "rose at {event:?}");
        assert!(matches!(event, Event::Observed { phase: Phase::Trial, .. }));
    }
    if let Some(candidate) = &after.candidate {
        assert!(candidate.release.counter >= after.floor.counter, "a candidate below the floor");
        assert!(candidate.tries_used <= rules().tries);
        assert!(after.badness(&candidate.release.digest).is_none(), "a bad candidate");
        assert_ne!(after.active.as_ref(), Some(&candidate.release));
    }
    for wish in lanes_for(after, Mode::Normal).into_iter().flatten() {
        assert!(after.badness(&wish.release.digest).is_none(), "a bad release runs");
        assert!(kept_releases(after).contains(&wish.release.digest), "it runs and is not kept");
    }
    let serving = lanes_for(after, Mode::Normal);
    let serving = serving.iter().flatten().filter(|wish| wish.role == LaneRole::Serving).count();
    assert_eq!(serving, usize::from(after.serving().is_some()), "not one serves");
    if before.active.is_some() && after.active.is_none() {
        assert!(matches!(event, Event::Damaged { .. }), "nothing is left to run after {event:?}");
    }
    if before.active.is_some()
        && matches!(event, Event::Failed { .. } | Event::Observed { .. } | Event::Boot { .. })
    {
        assert!(after.active.is_some());
    }
    assert!(after.bad.len() <= BAD_RELEASES_MAX);
    let unique: BTreeSet<_> = after.bad.iter().map(|bad| bad.release.digest).collect();
    assert_eq!(unique.len(), after.bad.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_history_of_events_breaks_an_invariant_and_every_event_may_come_twice(
        history in vec((0_usize..30, 1_u64..8), 1..60)
    ) {
        let mut state = ModelState::default();
        for (start, (pick, counter)) in (1..).zip(history) {
            let event = event_of(&state, pick, counter, start);
            let (next, outcome) = next_state(&state, &event, &rules(), 0);
            prop_assert_eq!(outcome == Outcome::Changed || next.last != state.last, next != state);
            require_invariants(&state, &event, &next);
            let (again, _) = next_state(&next, &event, &rules(), 1);
            prop_assert_eq!(&again, &next, "twice {:?}", event);
            state = next;
        }
    }

    #[test]
    fn left_alone_every_update_comes_to_an_end(
        history in vec((0_usize..30, 1_u64..8), 0..40), luck in vec(any::<bool>(), 64)
    ) {
        let mut state = ModelState::default();
        for (start, (pick, counter)) in (1..).zip(history) {
            let event = event_of(&state, pick, counter, start);
            state = next_state(&state, &event, &rules(), 0).0;
        }
        let mut luck = luck.into_iter();
        while let Some(event) = next_of_itself(&state, luck.next()) {
            let (next, outcome) = next_state(&state, &event, &rules(), 0);
            prop_assert_eq!(outcome, Outcome::Changed, "{:?}", event);
            state = next;
        }
        prop_assert_eq!((state.candidate.as_ref(), work_for(&state, Mode::Normal)), (None, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_kill_after_every_transition_changes_no_history(
        history in vec((0_usize..30, 1_u64..8), 1..40)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let mut database = StateDatabase::open(&lock).unwrap();
        let mut state = ModelState::default();
        for (start, (pick, counter)) in (1..).zip(history) {
            let event = event_of(&state, pick, counter, start);
            let (next, _) = next_state(&state, &event, &rules(), 0);
            if next == state {
                continue;
            }
            let offered = match &event {
                Event::Offer { release, .. } => Some(unsigned(release)),
                _ => None,
            };
            database.save_model("m", &next, offered.as_ref()).unwrap();
            state = database.model_states().unwrap().remove("m").unwrap();
            prop_assert_eq!(&state, &next, "after {:?}", event);
        }
    }
}

/// Returns a release as it is stored, without what proves it.
fn unsigned(release: &Release) -> StoredRelease {
    let evidence = Evidence { target: String::new(), root: String::new(), roles: Vec::new() };
    StoredRelease { release: release.clone(), manifest: Vec::new(), evidence }
}

/// Returns what the updater would report next, with steps that go well or badly.
fn next_of_itself(state: &ModelState, lucky: Option<bool>) -> Option<Event> {
    let fails = |digest, reason| Event::Failed { digest, reason, detail: String::new() };
    let well = lucky.expect("an update takes fewer steps");
    match work_for(state, Mode::Normal) {
        Some(Work::Fetch(release)) => Some(Event::Verified { digest: release.digest }),
        Some(Work::Admit(release)) if well => Some(Event::Admitted { digest: release.digest }),
        Some(Work::Admit(release)) => Some(fails(release.digest, Reason::SelfTest(SelfTest::Golden))),
        Some(Work::Begin(release)) => Some(Event::Begin { digest: release.digest }),
        None => state.candidate.as_ref().map(|candidate| {
            let (digest, attempt) = (candidate.release.digest, candidate.tries_used + 1);
            if well { observed(digest, candidate.phase, fine()) } else { Event::Start { digest, attempt } }
        }),
    }
}
