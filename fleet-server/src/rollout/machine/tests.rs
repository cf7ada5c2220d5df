//! Rollouts over simulated fleets: every seed is a fleet with its own behaviour, and what must hold is checked at every
//! step.

use proptest::prelude::*;

use std::collections::{BTreeMap, BTreeSet};

use super::super::command::{Command, Giver, Refused};
use super::super::facts::{Bad, Counts, ModelFacts};
use super::super::gate::GateKind;
use super::super::phase::{meant, reached};
use super::super::query::Query;
use super::super::spec::{Bake, Bounds, Reach, ReleaseName, RolloutSpec, Spread};
use super::*;

mod deciding;
mod racing;

const MINUTE: u64 = 60_000;

fn release() -> ReleaseName {
    ReleaseName { model: "pump".into(), digest: "new".into(), version: "2".into(), counter: 2 }
}

fn spec(phases: Vec<Reach>) -> RolloutSpec {
    RolloutSpec {
        releases: vec![release()],
        settings: None,
        query: Query::all(),
        phases,
        bake: Bake { ms: 10 * MINUTE, predictions: 10 },
        gates: Bounds::default(),
        on_failure: OnFailure::Revert,
        spread: None,
        windows: Vec::new(),
        site_windows: Vec::new(),
        defer_ms_max: 24 * 60 * MINUTE,
        install_ms_max: 30 * MINUTE,
        approvals: 0,
    }
}

fn order(rollout: &Rollout, command: Command, name: &str) -> Result<Step, Refused> {
    rollout.ordered(command, Giver { name, at_ms: 1_000_000_000, approvals: 0 })
}

/// How a simulated gateway takes the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Good,
    /// It takes the release, and nothing comes that it could predict from.
    Idle,
    FailsGolden,
    CrashesInTrial,
    Disagrees,
    Hangs,
}

/// A gateway: what it was told, what it does with it, when it is heard of.
#[derive(Debug, Clone)]
struct Gateway {
    manner: Manner,
    /// Of every 16 steps, those in which it is not heard of.
    away: u16,
    site: u8,
    told: Option<&'static str>,
    /// Steps since it began with the release.
    progress: u32,
    facts: DeviceFacts,
    assigned: u32,
}

impl Gateway {
    fn new(manner: Manner, away: u16, site: u8) -> Self {
        let model = ModelFacts { good: Some("old".into()), ..ModelFacts::default() };
        let facts = DeviceFacts {
            labels: [("site".to_owned(), format!("s{site}"))].into(),
            models: [("pump".to_owned(), model)].into(),
            ..DeviceFacts::default()
        };
        Self { manner, away, site, told: None, progress: 0, facts, assigned: 0 }
    }

    /// Lives for a step: does as it was told, and reports.
    fn live(&mut self, step: u32, now_ms: u64) {
        let is_away = self.away >> (step % 16) & 1 == 1;
        if is_away {
            return;
        }
        let model = self.facts.models.get_mut("pump").unwrap();
        let is_bad = model.bad.iter().any(|bad| bad.digest == "new");
        match self.told {
            Some("new") if !is_bad && model.good.as_deref() != Some("new") => {
                model.candidate = Some("new".into());
                self.progress += 1;
                let cause = match self.manner {
                    Manner::FailsGolden => Some("selftest:golden"),
                    Manner::CrashesInTrial if self.progress > 2 => Some("rolled_back:crash"),
                    Manner::Disagrees if self.progress > 1 => Some("selftest:shadow"),
                    _ => None,
                };
                if let Some(cause) = cause {
                    model.candidate = None;
                    model.bad.push(Bad {
                        digest: "new".into(),
                        cause: cause.into(),
                        at_ms: Some(i64::from(step)),
                    });
                } else if matches!(self.manner, Manner::Good | Manner::Idle) && self.progress > 2 {
                    model.candidate = None;
                    model.good = Some("new".into());
                }
            }
            Some("withdrawn") => {
                model.candidate = None;
                model.good = Some("old".into());
            }
            _ => {}
        }
        if model.good.as_deref() == Some("new") && self.manner != Manner::Idle {
            let counts = model.counts.entry("new".into()).or_insert(Counts {
                p99_us: Some(10.0),
                p99_us_budget: Some(100.0),
                compared: 20,
                agreed: 20,
                ..Counts::default()
            });
            counts.predictions += 5;
        }
        self.facts.seen_ms = now_ms;
    }
}

#[derive(Debug)]
struct World {
    gateways: BTreeMap<String, Gateway>,
    rollout: Rollout,
    now_ms: u64,
    step: u32,
    /// The most gateways that were ever told.
    told: BTreeSet<String>,
}

impl World {
    fn new(spec: RolloutSpec, seed: &str, gateways: Vec<Gateway>) -> Self {
        let draft = Rollout::draft(seed.to_owned(), spec, "ann".to_owned(), BTreeSet::new());
        let rollout = order(&draft, Command::Start, "ann").unwrap().rollout;
        let gateways =
            gateways.into_iter().enumerate().map(|(number, it)| (format!("d{number:03}"), it)).collect();
        Self { gateways, rollout, now_ms: 1_000_000_000, step: 0, told: BTreeSet::new() }
    }

    fn fleet(&self) -> Fleet {
        self.gateways.iter().map(|(id, gateway)| (id.clone(), gateway.facts.clone())).collect()
    }

    /// A minute passes: gateways live, the server looks, and is restarted from what it kept.
    fn minute(&mut self) {
        self.now_ms += MINUTE;
        self.step += 1;
        for gateway in self.gateways.values_mut() {
            gateway.live(self.step, self.now_ms);
        }
        let fleet = self.fleet();
        let step = self.rollout.next(&fleet, self.now_ms);
        self.check(&step, &fleet);
        let kept = serde_json::to_string(&step.rollout).unwrap();
        self.rollout = serde_json::from_str(&kept).unwrap();
        assert_eq!(self.rollout, step.rollout);
        self.obey(&step.acts);
        let again = self.rollout.next(&fleet, self.now_ms);
        // A phase may have ended: the next one's gateways are told, and nobody is told again.
        let twice: Vec<_> = again.acts.iter().filter(|act| step.acts.contains(act)).collect();
        assert!(twice.is_empty(), "a step that is done again tells gateways twice: {twice:?}");
    }

    fn obey(&mut self, acts: &[Act]) {
        for act in acts {
            match act {
                Act::Assign(id) => {
                    let gateway = self.gateways.get_mut(id).unwrap();
                    gateway.told = Some("new");
                    gateway.assigned += 1;
                    self.told.insert(id.clone());
                }
                Act::Drop(id) => self.gateways.get_mut(id).unwrap().told = None,
                Act::Withdraw(id) => self.gateways.get_mut(id).unwrap().told = Some("withdrawn"),
            }
        }
    }

    fn check(&self, step: &Step, fleet: &Fleet) {
        let rollout = &step.rollout;
        let meant = meant(&rollout.spec, &rollout.id, fleet);
        let reached = reached(&rollout.spec, rollout.phase, &meant, fleet);
        let assigned = step.acts.iter().filter_map(|act| match act {
            Act::Assign(id) => Some(id),
            Act::Withdraw(_) | Act::Drop(_) => None,
        });
        for id in assigned {
            let gives = matches!(self.rollout.status, Status::Running | Status::Completed);
            assert!(gives, "{id} is told by a rollout that does not run");
            assert!(reached.contains(id.as_str()), "{id} is beyond phase {}", rollout.phase);
            assert_eq!(self.gateways[id].assigned, 0, "{id} is told twice");
        }
        if let Some(spread) = &rollout.spec.spread {
            let mut underway: BTreeMap<u8, u32> = BTreeMap::new();
            for (id, member) in &rollout.members {
                if rollout.holds_up(id, member, fleet, self.now_ms) {
                    *underway.entry(self.gateways[id].site).or_default() += 1;
                }
            }
            // Those that come back from being away may meet: no more than were told while they were.
            let back = rollout.members.keys().filter(|id| self.gateways[*id].away != 0).count() as u32;
            assert!(underway.values().all(|count| *count <= spread.at_once + back), "{underway:?}");
        }
    }

    fn live_until(&mut self, minutes: u32, is_done: impl Fn(&Rollout) -> bool) {
        for _ in 0..minutes {
            if is_done(&self.rollout) {
                return;
            }
            self.minute();
        }
    }
}

fn is_over(rollout: &Rollout) -> bool {
    matches!(rollout.status, Status::Completed | Status::Reverted | Status::Halted)
}

fn good(count: usize) -> Vec<Gateway> {
    (0..count).map(|number| Gateway::new(Manner::Good, 0, (number % 5) as u8)).collect()
}

#[test]
fn a_good_release_reaches_everybody_phase_by_phase() {
    let phases = vec![Reach::Count(1), Reach::Percent(5), Reach::Percent(25), Reach::Percent(100)];
    let mut world = World::new(spec(phases), "a", good(100));
    for (phase, expected) in [1, 5, 25, 100].into_iter().enumerate() {
        world.live_until(100, |rollout| {
            matches!(rollout.stage, Stage::Baking { .. }) && rollout.phase == phase
        });
        assert_eq!(world.told.len(), expected, "phase {phase}");
        // Watched for its time before the next gateway is told.
        for _ in 0..9 {
            world.minute();
            assert_eq!(world.told.len(), expected, "phase {phase}");
        }
        world.minute();
        world.minute();
    }
    assert_eq!(world.rollout.status, Status::Completed);
}

#[test]
fn a_bad_release_is_halted_in_its_first_phase_by_the_right_gate() {
    for (manner, gate) in [
        (Manner::FailsGolden, GateKind::Install),
        (Manner::CrashesInTrial, GateKind::Restarts),
        (Manner::Disagrees, GateKind::Agreement),
        (Manner::Hangs, GateKind::Install),
    ] {
        let gateways = (0..20).map(|_| Gateway::new(manner, 0, 0)).collect();
        let mut world = World::new(spec(vec![Reach::Count(1), Reach::Percent(100)]), "a", gateways);
        world.live_until(100, is_over);
        assert_eq!((world.rollout.status, world.told.len()), (Status::Reverted, 1), "{manner:?}");
        let halt = world.rollout.halt.unwrap();
        assert_eq!((halt.gate, halt.phase), (gate, 0), "{halt:?}");
    }
}

#[test]
fn gateways_that_had_succeeded_go_back_too() {
    // One board of many fails, in the second phase.
    let mut gateways = good(10);
    for gateway in &mut gateways[..5] {
        gateway.manner = Manner::CrashesInTrial;
    }
    let seed = (0..).map(|seed| format!("{seed}")).find(|seed| {
        let world = World::new(spec(vec![Reach::Count(2)]), seed, gateways.clone());
        let order = meant(&world.rollout.spec, seed, &world.fleet()).join(" ");
        order.starts_with("d007 d009")
    });
    let phases = vec![Reach::Count(2), Reach::Percent(100)];
    let mut world = World::new(spec(phases), &seed.unwrap(), gateways);
    world.live_until(100, is_over);
    assert_eq!((world.rollout.status, world.rollout.halt.as_ref().unwrap().phase), (Status::Reverted, 1));
    for (id, gateway) in &world.gateways {
        assert_eq!(gateway.facts.models["pump"].good.as_deref(), Some("old"), "{id}");
    }
    assert!(world.told.contains("d007"));
}

#[test]
fn gateways_that_are_offline_are_no_failure_and_come_in_when_they_are_back() {
    let mut gateways = good(10);
    gateways[3].away = 0xffff;
    let mut world = World::new(spec(vec![Reach::Percent(100)]), "a", gateways);
    world.live_until(200, is_over);
    assert_eq!(world.rollout.status, Status::Completed);
    assert_eq!(world.rollout.members["d003"].outcome, Outcome::Assigned);
    world.gateways.get_mut("d003").unwrap().away = 0;
    world.live_until(10, |rollout| rollout.members["d003"].outcome == Outcome::Good);
    assert_eq!(world.rollout.members["d003"].outcome, Outcome::Good);
}

#[test]
fn those_that_join_later_enter_the_present_phase_and_move_nobody() {
    let mut world = World::new(spec(vec![Reach::Percent(50), Reach::Percent(100)]), "a", good(20));
    world.live_until(100, |rollout| matches!(rollout.stage, Stage::Baking { .. }));
    let before: BTreeSet<_> = world.rollout.members.keys().cloned().collect();
    assert_eq!(before.len(), 10);
    for number in 20..40 {
        world.gateways.insert(format!("d{number:03}"), Gateway::new(Manner::Good, 0, 0));
    }
    world.minute();
    world.minute();
    let after: BTreeSet<_> = world.rollout.members.keys().cloned().collect();
    assert!(after.is_superset(&before) && after.len() >= 20 && after.len() <= 30, "{}", after.len());
    world.live_until(100, is_over);
    assert_eq!((world.rollout.status, world.rollout.members.len()), (Status::Completed, 40));
}

#[test]
fn a_pause_tells_nobody_and_a_resumed_rollout_goes_on() {
    let mut world = World::new(spec(vec![Reach::Count(1), Reach::Percent(100)]), "a", good(10));
    world.live_until(100, |rollout| matches!(rollout.stage, Stage::Baking { .. }));
    world.rollout = order(&world.rollout, Command::Pause, "ann").unwrap().rollout;
    for _ in 0..100 {
        world.minute();
    }
    assert_eq!(world.told.len(), 1);
    world.rollout = order(&world.rollout, Command::Resume, "ann").unwrap().rollout;
    world.live_until(200, is_over);
    assert_eq!((world.rollout.status, world.told.len()), (Status::Completed, 10));
}

#[test]
fn approval_needs_so_many_people_and_not_the_author() {
    let asked = RolloutSpec { approvals: 2, ..spec(vec![Reach::Percent(100)]) };
    let rollout = Rollout::draft("a".into(), asked, "ann".into(), BTreeSet::from(["sue".to_owned()]));
    let rollout = order(&rollout, Command::Start, "ann").unwrap().rollout;
    assert_eq!(rollout.status, Status::Approval);
    assert!(order(&rollout, Command::Approve, "ann").is_err());
    let rollout = order(&rollout, Command::Approve, "bob").unwrap().rollout;
    let rollout = order(&rollout, Command::Approve, "bob").unwrap().rollout;
    assert_eq!(rollout.status, Status::Approval);
    assert_eq!(order(&rollout, Command::Approve, "cleo").unwrap().rollout.status, Status::Running);
}

#[test]
fn every_order_in_every_state_is_taken_or_refused_and_can_be_given_twice() {
    let statuses = [
        Status::Draft,
        Status::Approval,
        Status::Running,
        Status::Paused,
        Status::Halted,
        Status::Reverting,
        Status::Reverted,
        Status::Completed,
        Status::Aborted,
    ];
    let commands = [
        Command::Start,
        Command::Approve,
        Command::Pause,
        Command::Resume,
        Command::Promote,
        Command::Retry,
        Command::Revert,
        Command::Abort,
    ];
    let mut taken = 0;
    for status in statuses {
        for command in commands {
            let mut rollout = World::new(spec(vec![Reach::Percent(100)]), "a", good(3)).rollout;
            rollout.status = status;
            let Ok(step) = order(&rollout, command, "bob") else { continue };
            taken += 1;
            // Promote is for the present phase: given again it is another one's.
            if command != Command::Promote {
                let again = order(&step.rollout, command, "bob").unwrap();
                assert_eq!(again.rollout.status, step.rollout.status, "{status:?} {command:?}");
                assert!(again.acts.is_empty(), "{status:?} {command:?}");
            }
        }
    }
    assert_eq!(taken, 29);
}

fn manners() -> impl Strategy<Value = Manner> {
    prop_oneof![
        20 => Just(Manner::Good),
        1 => Just(Manner::FailsGolden),
        1 => Just(Manner::CrashesInTrial),
        1 => Just(Manner::Disagrees),
        1 => Just(Manner::Hangs),
    ]
}

fn worlds() -> impl Strategy<Value = World> {
    let gateways =
        prop::collection::vec((manners(), prop_oneof![3 => Just(0_u16), 1 => any::<u16>()], 0_u8..4), 1..40);
    (gateways, "[a-z]{1,4}", prop::option::of(1_u32..3), any::<bool>()).prop_map(
        |(gateways, seed, spread, holds)| {
            let gateways =
                gateways.into_iter().map(|(manner, away, site)| Gateway::new(manner, away, site)).collect();
            let phases = vec![Reach::Count(1), Reach::Percent(20), Reach::Percent(100)];
            let spec = RolloutSpec {
                spread: spread.map(|at_once| Spread { label: "site".into(), at_once }),
                on_failure: if holds { OnFailure::Hold } else { OnFailure::Revert },
                ..spec(phases)
            };
            World::new(spec, &seed, gateways)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_fleet_ends_completed_or_gone_back(mut world in worlds()) {
        world.live_until(600, is_over);
        let rollout = &world.rollout;
        let is_told = |gateway: &Gateway| gateway.assigned > 0;
        match rollout.status {
            Status::Completed => {
                prop_assert!(rollout.halt.is_none());
            }
            Status::Halted => {
                prop_assert_eq!(rollout.spec.on_failure, OnFailure::Hold);
                prop_assert!(rollout.halt.is_some());
            }
            Status::Reverted => {
                // Nobody who is heard of has the release, and nobody was told after the halt.
                let fleet = world.fleet();
                for (id, _) in world.gateways.iter().filter(|(_, gateway)| is_told(gateway)) {
                    let device = &fleet[id];
                    let has_it = device.standing(&release()) == Standing::Good;
                    prop_assert!(!has_it || !device.is_online(world.now_ms), "{} has the release", id);
                }
            }
            // Nobody succeeded in the first phase, since nobody of it is heard of.
            status => prop_assert!(rollout.members.values().all(|member| member.outcome != Outcome::Good), "{status:?}"),
        }
    }
}
