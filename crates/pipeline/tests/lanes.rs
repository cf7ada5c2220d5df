//! Packages that come, go and change roles while readings arrive, against a core that runs one package all the time.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be built fails the test that names it")]

use std::collections::BTreeMap;

use dunlin_model_package::{Digest, Manifest, ModelSpec, SourceSpec};
use dunlin_pipeline::lane::{LaneRole, lane_index};
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::prediction::{
    AlertChange, InstanceId, InstanceIdentity, ModelIndex, Prediction, QualityFlags,
};
use dunlin_pipeline::reading::{Reading, SeriesId, SeriesIdentity};
use dunlin_pipeline::{Core, ModelBinding, Turn};
use proptest::prelude::*;

const START_MS: i64 = 1_700_000_000_000;

const SENSOR: &str = r#"
name = "s"
topics = ["s/{id}"]
format = "json"
time = { pointer = "/t", format = "unix-ms" }
fields.a = {}
"#;

fn manifest(version: u32, range: Option<[f64; 2]>) -> Manifest {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "name": "m", "version": version.to_string(), "release_counter": version + 1,
        "window": { "length": 3 },
        "inputs": [{ "name": "x", "shape": ["batch", 3, 1], "features": [{ "name": "a", "range": range }] }],
        "outputs": [{ "name": "y", "kind": "anomaly", "shape": ["batch", 1],
            "post": { "threshold": { "above": 0.5, "clear": 0.0 } } }],
        "blobs": {}
    }))
    .unwrap()
}

fn variants() -> Vec<String> {
    [
        "key = [\"id\"]",
        "key = [\"id\"]\nwindow = { hop = 2, gap_max = \"3s\", lateness = \"2s\" }",
        "key = [\"id\"]\ninputs.x = [\"a@mean:5s\"]\ntrigger = { on = \"a\" }",
        "key = [\"id\"]\nwindow = { every = \"2s\", resample = \"1s\" }",
        "key = []\ntrigger = { every = \"2s\" }",
        "key = [\"id\"]\ninputs.x = [\"a@lag:1\"]\n\
         alert = { topic = \"x\", debounce = { n = 2, m = 3 }, rate_limit = \"2s\" }",
    ]
    .map(|rest| format!("name = \"m\"\npackage = \"p\"\n{rest}"))
    .to_vec()
}

fn binding(model: &str, package: u32) -> ModelBinding {
    ModelBinding {
        spec: toml::from_str::<ModelSpec>(model).unwrap(),
        manifest: manifest(package, None),
        package: Digest::of(&package.to_le_bytes()),
        profile: None,
    }
}

fn sources() -> Vec<SourceSpec> {
    vec![toml::from_str(SENSOR).unwrap()]
}

/// What a consumer sees of a prediction: of whichever package.
type Seen = (i64, Vec<f32>, Option<u16>, Option<AlertChange>);

/// A core as the stage drives it, with what the store would hold.
struct Driven {
    core: Core,
    model: String,
    packages: [Option<(LaneRole, u32)>; 2],
    series: Vec<(SeriesId, SeriesIdentity)>,
    instances: BTreeMap<InstanceId, InstanceIdentity>,
    saved: Vec<u8>,
    log: Vec<(Vec<Reading>, Vec<Prediction>)>,
    served: Vec<(Vec<(String, String)>, Seen)>,
    shadowed: usize,
}

impl Driven {
    fn new(model: &str) -> Self {
        let core = Core::serving(&sources(), vec![binding(model, 0)]).unwrap();
        Self {
            saved: core.snapshot(),
            core,
            model: model.to_owned(),
            packages: [Some((LaneRole::Serving, 0)), None],
            series: Vec::new(),
            instances: BTreeMap::new(),
            log: Vec::new(),
            served: Vec::new(),
            shadowed: 0,
        }
    }

    fn send(&mut self, id: u8, t_ms: i64, value: f64) {
        let (payload, topic) = (format!(r#"{{"t":{},"a":{value}}}"#, START_MS + t_ms), format!("s/{id}"));
        let message = Message {
            broker: None,
            topic: &topic,
            payload: payload.as_bytes(),
            retained: false,
            arrival_us: (START_MS + 10_000_000) * 1_000,
            clock: ClockState::Set,
        };
        let mut turn = Turn::default();
        self.core.take(&message, &mut turn);
        self.series.extend(turn.new_series);
        self.instances.extend(turn.new_instances);
        let mut made = Vec::new();
        for window in turn.windows {
            let prediction = self.core.finish(window.head, Some(vec![window.values.iter().sum()]));
            let identity = &self.instances[&window.head.instance];
            let (role, package) = self.packages[usize::from(window.head.model.0)].unwrap();
            assert_eq!(identity.package, Digest::of(&package.to_le_bytes()));
            match role {
                LaneRole::Serving => {
                    let alert = prediction.alert;
                    let seen = (window.head.window_end_us, window.values, prediction.label, alert);
                    self.served.push((identity.key.clone(), seen));
                }
                LaneRole::Shadow => self.shadowed += 1,
                LaneRole::Standby => unreachable!("a standby lane made a window"),
            }
            let shadow = prediction.head.flags.contains(QualityFlags::SHADOW);
            assert_eq!(shadow, role == LaneRole::Shadow);
            made.push(prediction);
        }
        self.log.push((turn.readings, made));
    }

    fn serving(&self) -> usize {
        let serves = |lane: &Option<(LaneRole, u32)>| lane.is_some_and(|(role, _)| role == LaneRole::Serving);
        assert_eq!(self.packages.iter().filter(|lane| serves(lane)).count(), 1);
        self.packages.iter().position(serves).unwrap()
    }

    fn install(&mut self, lane: usize, role: LaneRole, package: u32) {
        self.core.install(lane_index(0, lane), role, binding(&self.model, package)).unwrap();
        self.packages[lane] = Some((role, package));
    }

    fn set_role(&mut self, lane: usize, role: LaneRole) {
        self.core.set_role(lane_index(0, lane), role);
        if let Some((known, _)) = &mut self.packages[lane] {
            *known = role;
        }
    }

    fn save(&mut self) {
        self.instances.extend(self.core.announce());
        self.saved = self.core.snapshot();
        self.log.clear();
    }

    /// Arranges the lanes; `next` is a package that was never there.
    fn arrange(&mut self, what: u8, next: u32) {
        let serving = self.serving();
        let other = 1 - serving;
        match what {
            0 => self.install(other, LaneRole::Shadow, next),
            1 => self.install(other, LaneRole::Standby, next),
            2 => self.install(serving, LaneRole::Serving, next),
            3 => {
                self.install(other, LaneRole::Serving, next);
                self.core.retire(lane_index(0, serving));
                self.packages[serving] = None;
            }
            4 => {
                self.core.retire(lane_index(0, other));
                self.packages[other] = None;
            }
            _ if self.packages[other].is_some() => {
                self.set_role(serving, LaneRole::Standby);
                self.set_role(other, LaneRole::Serving);
            }
            _ => {}
        }
        self.save();
    }

    /// Starts again from what the store holds.
    fn kill(&mut self) {
        let lane =
            |lane: Option<(LaneRole, u32)>| lane.map(|(role, package)| (role, binding(&self.model, package)));
        let mut core = Core::compile(&sources(), self.packages.map(lane).into()).unwrap();
        core.register(self.series.clone(), self.instances.clone().into_iter().collect());
        core.restore(&self.saved).unwrap();
        for (readings, made) in &self.log {
            let mut turn = Turn::default();
            for reading in readings {
                core.accept(reading.clone(), &mut turn).unwrap();
            }
            for window in turn.windows {
                let is_of = |p: &&Prediction| {
                    (p.head.instance, p.head.window_end_us)
                        == (window.head.instance, window.head.window_end_us)
                };
                let stored = made.iter().find(is_of).expect("every window had its prediction");
                core.finish(window.head, Some(stored.outputs.clone()));
            }
        }
        assert_eq!(core.snapshot(), self.core.snapshot());
        self.core = core;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_is_swapped_and_killed_every_window_is_served_once_as_if_one_package_had_always_run(
        events in prop::collection::vec((0..3_u8, 0..40_i64, -1.0..1.0_f64, 0..24_u8), 1..120),
        variant in 0..6_usize,
    ) {
        let model = &variants()[variant];
        let (mut swapped, mut steady) = (Driven::new(model), Driven::new(model));
        for (n, (id, jitter, value, what)) in events.into_iter().enumerate() {
            match what {
                0..=5 => swapped.arrange(what, n as u32 + 1),
                6 => swapped.kill(),
                7 => swapped.save(),
                _ => {}
            }
            let at = n as i64 * 400 + jitter * 100;
            swapped.send(id, at, value);
            steady.send(id, at, value);
        }
        prop_assert_eq!(swapped.served, steady.served);
    }

    #[test]
    fn after_a_restart_with_another_package_the_windows_go_on(
        before in prop::collection::vec(-1.0..1.0_f64, 0..20), after in prop::collection::vec(-1.0..1.0_f64, 0..20),
        variant in 0..6_usize,
    ) {
        let model = &variants()[variant];
        let (mut swapped, mut steady) = (Driven::new(model), Driven::new(model));
        for (n, value) in before.iter().enumerate() {
            swapped.send(0, n as i64 * 1_000, *value);
            steady.send(0, n as i64 * 1_000, *value);
        }
        swapped.save();
        let lanes = vec![None, Some((LaneRole::Serving, binding(model, 7)))];
        let mut core = Core::compile(&sources(), lanes).unwrap();
        core.register(swapped.series.clone(), swapped.instances.clone().into_iter().collect());
        core.restore(&swapped.saved).unwrap();
        swapped.core = core;
        swapped.packages = [None, Some((LaneRole::Serving, 7))];
        swapped.save();
        for (n, value) in after.iter().enumerate() {
            swapped.send(0, (before.len() + n) as i64 * 1_000, *value);
            steady.send(0, (before.len() + n) as i64 * 1_000, *value);
        }
        prop_assert_eq!(swapped.served, steady.served);
    }

    #[test]
    fn rows_taken_over_are_judged_by_the_ranges_of_the_new_package(
        values in prop::collection::vec(-1.0..1.0_f32, 1..20), swap in any::<prop::sample::Index>(),
    ) {
        let model = "name = \"m\"\npackage = \"p\"\nkey = [\"id\"]";
        let ranged = |package: u32, range| ModelBinding {
            manifest: manifest(package, Some(range)), ..binding(model, package) };
        let (old, new) = (ranged(0, [-0.2, 0.9]), ranged(1, [-0.7, 0.4]));
        let mut swapped = Core::serving(&sources(), vec![old]).unwrap();
        let mut fresh = Core::serving(&sources(), vec![new.clone()]).unwrap();
        let swap = swap.index(values.len());
        for (n, value) in values.iter().enumerate() {
            if n == swap {
                swapped.install(ModelIndex(1), LaneRole::Serving, new.clone()).unwrap();
                swapped.retire(ModelIndex(0));
            }
            let payload = format!(r#"{{"t":{},"a":{value}}}"#, START_MS + n as i64 * 1_000);
            let message = Message {
                broker: None, topic: "s/x", payload: payload.as_bytes(), retained: false,
                arrival_us: (START_MS + 10_000_000) * 1_000, clock: ClockState::Set,
            };
            let (mut one, mut other) = (Turn::default(), Turn::default());
            swapped.take(&message, &mut one);
            fresh.take(&message, &mut other);
            let flags = |turn: &Turn| turn.windows.iter().map(|w| w.head.flags).collect::<Vec<_>>();
            if n >= swap {
                prop_assert_eq!(flags(&one), flags(&other));
            }
        }
    }
}

#[test]
fn a_package_that_comes_back_has_its_instances_back() {
    let mut driven = Driven::new(&variants()[0]);
    driven.send(0, 0, 1.0);
    let first = driven.core.lane_instances(ModelIndex(0));
    for package in [1, 0, 1, 0] {
        driven.arrange(3, package);
        driven.send(0, i64::from(package) * 100, 1.0);
    }
    let again = driven.core.lane_instances(lane_index(0, driven.serving()));
    assert_eq!(again, first);
    assert_eq!(driven.instances.len(), 2, "two packages on one key");
}

#[test]
fn a_model_without_a_package_keeps_its_readings_and_runs_once_there_is_one() {
    let mut core = Core::compile(&sources(), vec![None, None]).unwrap();
    let send = |core: &mut Core, t: i64| {
        let payload = format!(r#"{{"t":{},"a":{t}}}"#, START_MS + t * 1_000);
        let mut turn = Turn::default();
        let message = Message {
            broker: None,
            topic: "s/x",
            payload: payload.as_bytes(),
            retained: false,
            arrival_us: (START_MS + 10_000_000) * 1_000,
            clock: ClockState::Set,
        };
        core.take(&message, &mut turn);
        turn
    };
    assert_eq!(send(&mut core, 0).readings.len(), 1);
    core.install(ModelIndex(1), LaneRole::Serving, binding(&variants()[0], 1)).unwrap();
    assert_eq!(core.announce().len(), 1);
    assert!(send(&mut core, 1).windows.is_empty() && send(&mut core, 2).windows.is_empty());
    let windows = send(&mut core, 3).windows;
    assert_eq!(windows[0].values, [1.0, 2.0, 3.0]);
    assert_eq!(windows[0].head.model, ModelIndex(1));
}

#[test]
fn a_package_that_does_not_fit_or_runs_already_is_refused_and_changes_nothing() {
    let mut driven = Driven::new(&variants()[0]);
    driven.send(0, 0, 1.0);
    let before = driven.core.snapshot();
    let same = driven.core.install(ModelIndex(1), LaneRole::Shadow, binding(&variants()[0], 0)).unwrap_err();
    assert!(same[0].message.contains("runs beside it already"));
    let other = variants()[0].replace("key = [\"id\"]", "key = [\"room\"]");
    driven.core.install(ModelIndex(1), LaneRole::Shadow, binding(&other, 1)).unwrap_err();
    driven.core.install(ModelIndex(2), LaneRole::Shadow, binding(&variants()[0], 1)).unwrap_err();
    assert_eq!(driven.core.snapshot(), before);
}

#[test]
fn an_alert_that_one_package_raised_is_cleared_by_the_next_however_it_judges() {
    let model = "name = \"m\"\npackage = \"p\"\nkey = [\"id\"]\nalert = { topic = \"x\" }";
    let mut driven = Driven::new(model);
    for t in 0..3 {
        driven.send(0, t * 1_000, 1.0);
    }
    assert_eq!(driven.served.last().unwrap().1.3, Some(AlertChange::Raised));
    let mut next = binding(model, 1);
    next.manifest.outputs[0].post.threshold.as_mut().unwrap().above = 4.0;
    driven.core.install(ModelIndex(1), LaneRole::Shadow, next).unwrap();
    driven.packages[1] = Some((LaneRole::Shadow, 1));
    driven.save();
    driven.arrange(5, 0);
    driven.send(0, 3_000, 1.0);
    assert_eq!(driven.served.last().unwrap().1.3, Some(AlertChange::Cleared));
}
