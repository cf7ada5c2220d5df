//! What people decide about a rollout, and what gateways ask for themselves.

use super::super::super::facts::{Deferral, Intent};
use super::super::super::spec::SiteWindows;
use super::super::super::window::Window;
use super::*;

/// Returns a world whose rollout halted and holds, since a gateway of the second phase failed.
fn halted() -> World {
    let mut gateways = good(12);
    gateways[3].manner = Manner::CrashesInTrial;
    let spec = RolloutSpec { on_failure: OnFailure::Hold, ..spec(vec![Reach::Percent(100)]) };
    let mut world = World::new(spec, "a", gateways);
    world.live_until(100, is_over);
    assert_eq!(world.rollout.status, Status::Halted);
    world
}

#[test]
fn a_resumed_rollout_bears_the_failures_that_were_known_and_no_other() {
    let mut world = halted();
    let bounds = world.rollout.spec.gates;
    world.rollout = order(&world.rollout, Command::Resume, "ann").unwrap().rollout;
    assert_eq!(world.rollout.spec.gates, bounds, "what was asked for is not changed");
    world.minute();
    assert_eq!(world.rollout.status, Status::Running);
    for number in 20..24 {
        world.gateways.insert(format!("d{number:03}"), Gateway::new(Manner::CrashesInTrial, 0, 0));
    }
    world.live_until(100, is_over);
    assert_eq!(world.rollout.status, Status::Halted);
    assert!(world.rollout.borne.contains("d003") && !world.rollout.borne.contains("d020"));
}

#[test]
fn a_resumed_rollout_goes_on_past_the_measurement_that_halted_it() {
    let mut spec = RolloutSpec { on_failure: OnFailure::Hold, ..spec(vec![Reach::Percent(100)]) };
    spec.gates.latency_of_budget = Some(0.05);
    let mut world = World::new(spec, "a", good(5));
    world.live_until(100, is_over);
    assert_eq!(world.rollout.halt.as_ref().unwrap().gate, GateKind::Latency);
    world.rollout = order(&world.rollout, Command::Resume, "ann").unwrap().rollout;
    world.live_until(100, is_over);
    assert_eq!(world.rollout.status, Status::Completed);
    let latency = world.rollout.gates.iter().find(|gate| gate.kind == GateKind::Latency).unwrap();
    assert!(latency.words.ends_with("borne, since the rollout was resumed"), "{latency:?}");
}

#[test]
fn gateways_that_predict_nothing_hold_up_those_alone_who_asked_for_predictions() {
    let gateways = || (0..3).map(|_| Gateway::new(Manner::Idle, 0, 0)).collect();
    let mut spec = spec(vec![Reach::Count(1), Reach::Percent(100)]);
    let mut world = World::new(spec.clone(), "a", gateways());
    world.live_until(100, is_over);
    assert_eq!((world.rollout.status, world.rollout.phase), (Status::Running, 0));
    spec.bake.predictions = 0;
    let mut world = World::new(spec, "a", gateways());
    world.live_until(100, is_over);
    assert_eq!(world.rollout.status, Status::Completed, "{:?}", world.rollout.gates);
}

#[test]
fn gateways_that_predict_and_cannot_say_how_fast_hold_nobody_up() {
    let gateways = good(3).into_iter().map(|mut gateway| {
        let model = gateway.facts.models.get_mut("pump").unwrap();
        model.counts.insert("new".into(), Counts { compared: 20, agreed: 20, ..Counts::default() });
        gateway
    });
    let mut world = World::new(spec(vec![Reach::Percent(100)]), "a", gateways.collect());
    world.live_until(100, is_over);
    assert_eq!(world.rollout.status, Status::Completed, "{:?}", world.rollout.gates);
}

#[test]
fn no_failure_is_none_however_many_gateways_have_settled() {
    for count in [5, 11, 12, 37, 100] {
        let mut world = World::new(spec(vec![Reach::Percent(100)]), "a", good(count));
        world.live_until(100, is_over);
        assert_eq!((world.rollout.status, &world.rollout.halt), (Status::Completed, &None), "{count}");
    }
}

#[test]
fn gateways_that_failed_are_tried_again_once_they_are_told_to() {
    let mut world = halted();
    world.gateways.get_mut("d003").unwrap().manner = Manner::Good;
    world.rollout = order(&world.rollout, Command::Retry, "ann").unwrap().rollout;
    let fleet = world.fleet();
    let step = world.rollout.next(&fleet, world.now_ms);
    // What it reported of the first try is no failure of the second.
    let again = step.rollout.next(&fleet, world.now_ms).rollout;
    assert_eq!(again.status, Status::Running, "{:?} {:?}", again.halt, again.members["d003"]);
    assert_eq!(step.acts, [Act::Assign("d003".into())]);
    assert_eq!(step.rollout.members["d003"].tries, 2);
    world.rollout = step.rollout;
    let model = world.gateways.get_mut("d003").unwrap().facts.models.get_mut("pump").unwrap();
    model.bad.clear();
    world.live_until(100, is_over);
    assert_eq!(world.rollout.status, Status::Completed);
    assert_eq!(world.rollout.members["d003"].outcome, Outcome::Good);
}

#[test]
fn a_gateway_that_fails_again_halts_the_rollout_again() {
    let mut world = halted();
    world.rollout = order(&world.rollout, Command::Retry, "ann").unwrap().rollout;
    world.rollout = world.rollout.next(&world.fleet(), world.now_ms).rollout;
    let model = world.gateways.get_mut("d003").unwrap().facts.models.get_mut("pump").unwrap();
    model.bad.push(Bad { digest: "new".into(), cause: "rolled_back:crash".into(), at_ms: Some(99) });
    world.minute();
    assert_eq!(world.rollout.status, Status::Halted);
}

#[test]
fn an_aborted_rollout_is_not_begun_with_by_those_that_were_told_and_did_not_begin() {
    let mut gateways = good(4);
    gateways[2].away = 0xffff;
    let mut world = World::new(spec(vec![Reach::Percent(100)]), "a", gateways);
    world.live_until(10, |rollout| rollout.members.values().any(|member| member.outcome == Outcome::Good));
    let step = order(&world.rollout, Command::Abort, "ann").unwrap();
    assert_eq!(step.acts, [Act::Drop("d002".into())]);
    world.obey(&step.acts);
    world.rollout = step.rollout;
    world.gateways.get_mut("d002").unwrap().away = 0;
    for _ in 0..10 {
        world.minute();
    }
    assert_eq!(world.gateways["d002"].facts.models["pump"].good.as_deref(), Some("old"));
    assert_eq!(world.gateways["d001"].facts.models["pump"].good.as_deref(), Some("new"));
}

#[test]
fn a_gateway_may_put_an_update_off_but_not_for_ever() {
    let limit = 60 * MINUTE;
    let spec = RolloutSpec { defer_ms_max: limit, ..spec(vec![Reach::Percent(100)]) };
    let mut world = World::new(spec, "a", good(3));
    let deferral = Deferral { until_ms: u64::MAX, rollout: None };
    world.gateways.get_mut("d001").unwrap().facts.deferral = Some(deferral);
    let began_ms = world.now_ms;
    while world.gateways["d001"].assigned == 0 {
        assert!(world.now_ms < began_ms + 2 * limit, "it was never told");
        world.minute();
    }
    assert!(world.now_ms >= began_ms + limit);
    assert!(world.gateways["d000"].assigned == 1 && world.gateways["d002"].assigned == 1);
}

#[test]
fn a_wish_for_another_rollout_is_none_for_this_one() {
    let mut world = World::new(spec(vec![Reach::Percent(100)]), "a", good(1));
    let deferral = Deferral { until_ms: u64::MAX, rollout: Some("another".into()) };
    world.gateways.get_mut("d000").unwrap().facts.deferral = Some(deferral);
    world.minute();
    assert_eq!(world.told.len(), 1);
}

#[test]
fn a_site_has_windows_of_its_own_and_the_phase_waits_for_them() {
    let now_min = u32::try_from(1_000_000_000 / MINUTE % 1_440).unwrap();
    let later = Window { days: vec![], from_min: (now_min + 120) % 1_440, to_min: (now_min + 180) % 1_440 };
    let site = SiteWindows { query: "site=s1".parse().unwrap(), windows: vec![later] };
    let spec = RolloutSpec { site_windows: vec![site], ..spec(vec![Reach::Percent(100)]) };
    let mut world = World::new(spec, "a", good(10));
    for _ in 0..100 {
        world.minute();
    }
    assert_eq!((world.told.len(), world.rollout.status), (8, Status::Running));
    world.live_until(60, is_over);
    assert_eq!((world.told.len(), world.rollout.status), (10, Status::Completed));
}

#[test]
fn the_rollout_that_was_started_last_wins_and_the_other_takes_no_harm() {
    let mut world = World::new(spec(vec![Reach::Percent(50), Reach::Percent(100)]), "a", good(10));
    world.live_until(100, |rollout| matches!(rollout.stage, Stage::Baking { .. }));
    let newer = Intent { started_ms: world.rollout.started_ms + 1, rollout: "b".into() };
    let taken: Vec<String> = world.gateways.keys().take(6).cloned().collect();
    for id in &taken {
        let gateway = world.gateways.get_mut(id).unwrap();
        gateway.facts.intents.insert("pump".into(), newer.clone());
        gateway.facts.models.get_mut("pump").unwrap().good = Some("newer".into());
    }
    let told = world.told.clone();
    world.live_until(100, is_over);
    assert_eq!(world.rollout.status, Status::Completed);
    let others = world.told.difference(&told);
    assert!(others.clone().count() > 0 && others.clone().all(|id| !taken.contains(id)));
    // Nor are they taken back with it.
    let step = order(&world.rollout, Command::Revert, "ann").unwrap();
    assert!(step.acts.iter().all(|act| !taken.contains(&act.device().to_owned())), "{:?}", step.acts);
}

#[test]
fn gateways_that_need_more_approvals_are_left_out_until_they_have_them() {
    let mut world = World::new(spec(vec![Reach::Percent(100)]), "a", good(4));
    world.gateways.get_mut("d001").unwrap().facts.approvals = 2;
    world.live_until(100, is_over);
    assert_eq!((world.rollout.status, world.gateways["d001"].assigned), (Status::Completed, 0));
}

#[test]
fn those_that_come_after_the_end_are_given_the_release_too() {
    let mut gateways = good(4);
    gateways[2].away = 0xffff;
    let spread = Some(Spread { label: "site".into(), at_once: 1 });
    let mut world = World::new(RolloutSpec { spread, ..spec(vec![Reach::Percent(100)]) }, "a", gateways);
    world.live_until(100, is_over);
    assert_eq!((world.rollout.status, world.gateways["d002"].assigned), (Status::Completed, 0));
    world.gateways.get_mut("d002").unwrap().away = 0;
    world.gateways.insert("d009".into(), Gateway::new(Manner::Good, 0, 1));
    for _ in 0..10 {
        world.minute();
    }
    for id in ["d002", "d009"] {
        assert_eq!(world.gateways[id].facts.models["pump"].good.as_deref(), Some("new"), "{id}");
    }
}

#[test]
fn gateways_are_waited_for_after_the_server_was_away_and_nothing_is_held_against_them() {
    let mut world = World::new(spec(vec![Reach::Percent(100)]), "a", good(6));
    world.minute();
    let waited = |world: &World| world.rollout.members.values().map(|member| member.waited_ms).max();
    assert!(waited(&world) < Some(MINUTE));
    let gateways = world.gateways.clone();
    // Two days in which no gateway could speak to anybody.
    world.now_ms += 2 * 24 * 60 * MINUTE;
    let fleet = world.fleet();
    let step = world.rollout.next(&fleet, world.now_ms);
    assert_eq!((step.rollout.status, step.rollout.stage), (Status::Running, Stage::Deploying));
    assert!(step.rollout.members.values().all(|member| member.outcome == Outcome::Assigned));
    world.rollout = step.rollout;
    assert!(waited(&world) < Some(MINUTE));
    world.gateways = gateways;
    world.live_until(100, is_over);
    assert_eq!(world.rollout.status, Status::Completed);
}

#[test]
fn who_published_a_release_does_not_approve_it() {
    let asked = RolloutSpec { approvals: 1, ..spec(vec![Reach::Percent(100)]) };
    let rollout = Rollout::draft("a".into(), asked, "ann".into(), BTreeSet::from(["sue".to_owned()]));
    let rollout = order(&rollout, Command::Start, "ann").unwrap().rollout;
    assert!(order(&rollout, Command::Approve, "sue").unwrap_err().0.contains("published"));
    assert_eq!(order(&rollout, Command::Approve, "bob").unwrap().rollout.status, Status::Running);
}

/// Returns the gates over one good gateway that counted this, and counted `old` before.
fn gates_of(counts: Counts, old: Counts, bounds: Bounds) -> Vec<Gate> {
    let mut world =
        World::new(RolloutSpec { gates: bounds, ..spec(vec![Reach::Percent(100)]) }, "a", good(1));
    let gateway = world.gateways.get_mut("d000").unwrap();
    let model = gateway.facts.models.get_mut("pump").unwrap();
    model.counts.insert("old".into(), old);
    world.rollout = world.rollout.next(&world.fleet(), world.now_ms).rollout;
    let model = world.gateways.get_mut("d000").unwrap().facts.models.get_mut("pump").unwrap();
    (model.good, model.counts) = (Some("new".into()), [("new".to_owned(), counts)].into());
    world.rollout.next(&world.fleet(), world.now_ms).rollout.gates
}

#[test]
fn each_gate_fails_for_its_own_reason_alone() {
    let fine = Counts {
        predictions: 1_000,
        compared: 1_000,
        agreed: 990,
        difference_max: 0.5,
        starts: 1,
        p99_us: Some(10.0),
        p99_us_budget: Some(100.0),
        ..Counts::default()
    };
    let old = Counts { predictions: 1_000, abstained: 20, p99_us: Some(9.0), ..Counts::default() };
    let bounds = Bounds { output_change: Some(2.0), ..Bounds::default() };
    let failing = |counts: Counts| -> Vec<GateKind> {
        let gates = gates_of(counts, old, bounds);
        assert_eq!(gates.len(), 7);
        gates.iter().filter(|gate| gate.verdict == Verdict::Fail).map(|gate| gate.kind).collect()
    };
    assert_eq!(failing(fine), []);
    for (counts, gate) in [
        (Counts { starts: 9, ..fine }, GateKind::Restarts),
        (Counts { p99_us: Some(101.0), ..fine }, GateKind::Latency),
        (Counts { p99_us: Some(28.0), ..fine }, GateKind::Latency),
        (Counts { invalid: 11, ..fine }, GateKind::Invalid),
        (Counts { abstained: 130, ..fine }, GateKind::Abstention),
        (Counts { agreed: 700, ..fine }, GateKind::Agreement),
        (Counts { difference_max: 2.5, ..fine }, GateKind::OutputChange),
    ] {
        assert_eq!(failing(counts), [gate]);
    }
    // Of a handful nothing follows.
    assert_eq!(failing(Counts { predictions: 10, abstained: 9, compared: 10, agreed: 1, ..fine }), []);
}
