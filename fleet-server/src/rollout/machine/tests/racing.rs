//! Servers that look at the same rollout at the same time, and that end between any two of their steps.
//!
//! The store is stood for by what it promises: what a step makes of a rollout is kept whole or not at all, and only where
//! nobody kept anything since the step's beginning.

use super::*;

/// What the servers share.
#[derive(Debug)]
struct Kept {
    turn: u64,
    rollout: String,
}

/// A server in the midst of a step.
#[derive(Debug, Default)]
struct Replica {
    began: Option<(u64, Rollout, Fleet, u64)>,
    made: Option<(u64, Step)>,
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// A minute passes.
    Minute,
    /// A server reads.
    Reads(usize),
    /// It makes up its mind.
    Decides(usize),
    /// It keeps what it made, unless somebody else kept something since.
    Keeps(usize),
    /// It is killed.
    Dies(usize),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        3 => Just(Happening::Minute),
        3 => (0_usize..3).prop_map(Happening::Reads),
        3 => (0_usize..3).prop_map(Happening::Decides),
        3 => (0_usize..3).prop_map(Happening::Keeps),
        1 => (0_usize..3).prop_map(Happening::Dies),
    ];
    prop::collection::vec(one, 100..600)
}

fn kept(rollout: &Rollout, turn: u64) -> Kept {
    Kept { turn, rollout: serde_json::to_string(rollout).unwrap() }
}

impl Replica {
    fn act(&mut self, happening: Happening, store: &mut Kept, world: &mut World) {
        match happening {
            Happening::Minute => unreachable!("time is nobody's"),
            Happening::Reads(_) => {
                let rollout = serde_json::from_str(&store.rollout).unwrap();
                self.began = Some((store.turn, rollout, world.fleet(), world.now_ms));
            }
            Happening::Decides(_) => {
                if let Some((turn, rollout, fleet, now_ms)) = self.began.take() {
                    self.made = Some((turn, rollout.next(&fleet, now_ms)));
                }
            }
            Happening::Keeps(_) => {
                let Some((turn, step)) = self.made.take() else { return };
                if turn == store.turn {
                    *store = kept(&step.rollout, turn + 1);
                    world.obey(&step.acts);
                    world.rollout = step.rollout;
                }
            }
            Happening::Dies(_) => *self = Self::default(),
        }
    }
}

fn live(world: &mut World) {
    world.now_ms += MINUTE;
    world.step += 1;
    let (step, now_ms) = (world.step, world.now_ms);
    world.gateways.values_mut().for_each(|gateway| gateway.live(step, now_ms));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_gateway_is_told_twice_and_the_end_is_the_same(
        count in 1_usize..30,
        bad in prop::option::of(0_usize..30),
        happenings in happenings(),
    ) {
        let mut gateways = good(count);
        if let Some(gateway) = bad.and_then(|bad| gateways.get_mut(bad)) {
            gateway.manner = Manner::FailsGolden;
        }
        let phases = vec![Reach::Count(1), Reach::Percent(30), Reach::Percent(100)];
        let mut quiet = World::new(spec(phases.clone()), "a", gateways.clone());
        quiet.live_until(600, is_over);
        let mut world = World::new(spec(phases), "a", gateways);
        let mut store = kept(&world.rollout, 0);
        let mut replicas = [Replica::default(), Replica::default(), Replica::default()];
        for happening in happenings {
            match happening {
                Happening::Minute => live(&mut world),
                Happening::Reads(at) | Happening::Decides(at) | Happening::Keeps(at) | Happening::Dies(at) => {
                    replicas[at].act(happening, &mut store, &mut world);
                }
            }
        }
        // Whoever is left brings it to its end.
        world.live_until(600, is_over);
        prop_assert!(world.gateways.values().all(|gateway| gateway.assigned <= 1));
        prop_assert_eq!(world.rollout.status, quiet.rollout.status);
        let halt = |world: &World| world.rollout.halt.as_ref().map(|halt| (halt.gate, halt.phase));
        prop_assert_eq!(halt(&world), halt(&quiet));
        prop_assert_eq!(world.rollout.members.keys().collect::<Vec<_>>(), quiet.rollout.members.keys().collect::<Vec<_>>());
    }
}
