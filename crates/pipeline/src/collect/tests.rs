//! Windows against an oracle that counts readings by hand: in any order of commits and kills, with faults, at any length.

use std::collections::BTreeMap;

use dunlin_drift::faults::Usual;
use dunlin_drift::quality::Calibration;
use dunlin_drift::reference::{Reading as Seen, Reference, SPANS_S};
use dunlin_drift::subspace::Subspace;
use dunlin_model_package::profile::{FeatureProfile, MadeOf, SCHEMA, ScoreProfile, TogetherProfile};
use dunlin_model_package::{Manifest, Profile, SourceSpec};
use proptest::prelude::*;

use super::*;
use crate::message::{ClockState, Message};
use crate::reading::{Reading, SeriesIdentity};
use crate::snapshot::SnapshotError;
use crate::{LaneRole, ModelBinding, Turn};

const START_US: i64 = 1_700_000_000_000_000 / QUARTER_US * QUARTER_US;
const QUARTER_US: i64 = 900_000_000;
const MINUTE_US: i64 = 60_000_000;

const SENSOR: &str = r#"
name = "s"
topics = ["s/{id}"]
format = "json"
time = { pointer = "/t", format = "unix-us" }
fields.air = {}
fields.oil = {}
"#;

const SETTINGS: CollectSettings = CollectSettings {
    span_us: QUARTER_US,
    grace_us: 10 * MINUTE_US,
    values_min: 5,
    reporting: Reporting::AtEnd,
};

/// Value of a sound sensor at a minute.
fn sound(minute: i64, scale: f64) -> f64 {
    let fraction = ((minute * 7_919).rem_euclid(1_000)) as f64 / 1_000.0 - 0.5;
    20.0 + scale * ((minute as f64 / 240.0).sin() + fraction)
}

fn profile() -> Profile {
    let of = |scale: f64| -> Vec<Seen<f64>> {
        (0..10_000).map(|n| (n * MINUTE_US, Some(sound(n, scale)))).collect()
    };
    let feature = |scale: f64| FeatureProfile {
        unit: None,
        range: Some((-100.0, 200.0)),
        reference: Reference::of_numbers(&[of(scale)], &SPANS_S).unwrap(),
        usual: Usual::of(&[of(scale)]),
    };
    let rows: Vec<[f64; 2]> =
        of(1.0).iter().zip(of(3.0)).map(|(one, other)| [one.1.unwrap(), other.1.unwrap()]).collect();
    let subspace = Subspace::of(rows.iter().map(<[f64; 2]>::as_slice)).unwrap();
    let output = Reference::of_numbers(&[of(0.1)], &SPANS_S).unwrap();
    Profile {
        schema: SCHEMA,
        made_of: MadeOf { rows: 10_000, series: 1, from_us: 0, to_us: 9_999 * MINUTE_US },
        features: BTreeMap::from([("air".to_owned(), feature(1.0)), ("oil".to_owned(), feature(3.0))]),
        outputs: BTreeMap::from([("y".to_owned(), output.clone())]),
        together: Some(TogetherProfile {
            features: vec!["air".to_owned(), "oil".to_owned()],
            subspace,
            t2: output.clone(),
            q: output,
        }),
        scores: Some(ScoreProfile {
            output: "y".to_owned(),
            calibration: Calibration::default(),
            error: 0.01,
        }),
        metrics: BTreeMap::new(),
    }
}

fn binding(package: u32, key: &str, profile: Option<Profile>) -> ModelBinding {
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "schema": 1, "name": "m", "version": package.to_string(), "release_counter": package + 1,
        "window": { "length": 2 },
        "inputs": [{ "name": "x", "shape": ["batch", 2, 2], "features": [{ "name": "air" }, { "name": "oil" }] }],
        "outputs": [{ "name": "y", "kind": "anomaly", "shape": ["batch", 1] }],
        "blobs": {}
    }))
    .unwrap();
    let spec = format!("name = \"m\"\npackage = \"p\"\nkey = [{key}]\nwindow = {{ lateness = \"2m\" }}");
    let package = Digest::of(&package.to_le_bytes());
    ModelBinding { spec: toml::from_str(&spec).unwrap(), manifest, package, profile: profile.map(Arc::new) }
}

/// A core as the daemon drives it, with what its store would hold.
struct Line {
    core: Core,
    settings: CollectSettings,
    key: &'static str,
    profile: Profile,
    series: Vec<(SeriesId, SeriesIdentity)>,
    instances: Vec<(InstanceId, crate::prediction::InstanceIdentity)>,
    saved: Vec<u8>,
    log: Vec<(Vec<Reading>, Vec<Prediction>)>,
    reports: Vec<WindowReport>,
}

impl Line {
    fn new(settings: CollectSettings, key: &'static str) -> Self {
        let profile = profile();
        let core = Self::core(settings, key, &profile, 0);
        let saved = core.snapshot();
        let (series, instances, log, reports) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { core, settings, key, profile, series, instances, saved, log, reports }
    }

    fn core(settings: CollectSettings, key: &str, profile: &Profile, package: u32) -> Core {
        let sources: Vec<SourceSpec> = vec![toml::from_str(SENSOR).unwrap()];
        let lanes = vec![Some((LaneRole::Serving, binding(package, key, Some(profile.clone())))), None];
        let mut core = Core::compile(&sources, lanes).unwrap();
        core.collect_with(Some(settings));
        core
    }

    /// Takes messages as one step; tells which flags its predictions had.
    fn step(&mut self, messages: &[(u8, i64, f64, f64)]) -> Vec<QualityFlags> {
        let mut turn = Turn::default();
        for (id, at_us, air, oil) in messages {
            let text = |value: f64| if value.is_nan() { "null".to_owned() } else { value.to_string() };
            let payload = format!(r#"{{"t":{at_us},"air":{},"oil":{}}}"#, text(*air), text(*oil));
            let topic = format!("s/{id}");
            let message = Message {
                broker: None,
                topic: &topic,
                payload: payload.as_bytes(),
                retained: false,
                arrival_us: *at_us,
                clock: ClockState::Set,
            };
            self.core.take(&message, &mut turn);
        }
        self.series.append(&mut turn.new_series);
        self.instances.append(&mut turn.new_instances);
        let windows = std::mem::take(&mut turn.windows);
        // A model whose score is the fraction of its last value.
        let made = windows.into_iter().map(|window| {
            let score = window.values.last().map_or(0.0, |value| value.rem_euclid(1.0));
            self.core.finish(window.head, Some(vec![score]))
        });
        let made: Vec<Prediction> = made.collect();
        self.core.collect(&turn.observations, made.iter().map(Predicted::from), &mut self.reports);
        let flags = made.iter().map(|made| made.head.flags).collect();
        self.log.push((std::mem::take(&mut turn.readings), made));
        flags
    }

    fn save(&mut self) {
        self.saved = self.core.snapshot();
        self.instances.extend(self.core.announce());
        self.log.clear();
    }

    /// Dies and comes back, with another package if told so.
    fn restart(&mut self, package: u32) {
        let mut core = Self::core(self.settings, self.key, &self.profile, package);
        core.register(self.series.clone(), self.instances.clone());
        core.restore(&self.saved).unwrap();
        let mut turn = Turn::default();
        for (readings, predictions) in &self.log {
            turn.clear();
            for reading in readings {
                let _ = core.accept(reading.clone(), &mut turn);
            }
            for window in turn.windows.drain(..) {
                let end_us = window.head.window_end_us;
                let is_it = |p: &&Prediction| {
                    (p.head.instance, p.head.window_end_us) == (window.head.instance, end_us)
                };
                if let Some(stored) = predictions.iter().find(is_it) {
                    assert_eq!(core.finish(window.head, Some(stored.outputs.clone())), *stored);
                }
            }
            let mut again = Vec::new();
            core.collect(&turn.observations, predictions.iter().map(Predicted::from), &mut again);
        }
        self.core = core;
    }
}

/// What the last revisions say, by instance and beginning.
fn latest(reports: &[WindowReport]) -> BTreeMap<(InstanceId, i64), WindowReport> {
    let mut latest: BTreeMap<(InstanceId, i64), WindowReport> = BTreeMap::new();
    for report in reports {
        let known = latest.insert((report.instance, report.from_us), report.clone());
        if let Some(known) = known {
            assert_eq!((known.to_us, known.revision + 1), (report.to_us, report.revision));
        } else {
            assert_eq!(report.revision, 1);
        }
    }
    latest
}

fn sums(reports: impl IntoIterator<Item = WindowReport>) -> Option<(u64, Vec<Summary>)> {
    reports.into_iter().map(|report| (report.n, report.summaries)).reduce(|(n, mut whole), (more, parts)| {
        whole.iter_mut().zip(&parts).for_each(|(whole, part)| whole.merge(part).unwrap());
        (n + more, whole)
    })
}

/// A reading now and then late, missing or out of range; a message of one of two keys.
fn messages(count: usize) -> impl Strategy<Value = Vec<(u8, i64, f64, f64)>> {
    let one = (0..2u8, -4..2i64, 0..40u8);
    prop::collection::vec(one, count).prop_map(|all| {
        let of = |(minute, (id, late, kind)): (usize, (u8, i64, u8))| {
            let minute = minute as i64;
            let air = match kind {
                0 => f64::NAN,
                1 => 500.0,
                2 => sound(minute, 1.0) + 40.0,
                _ => sound(minute, 1.0),
            };
            // Some gaps between steps of a minute: a window may well be empty.
            let at_us = START_US + minute * MINUTE_US + late * MINUTE_US + i64::from(kind);
            (id, at_us, air, sound(minute, 3.0))
        };
        all.into_iter().enumerate().map(of).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn killed_at_any_moment_the_same_windows_are_reported_bit_for_bit(
        messages in messages(180),
        cuts in prop::collection::vec((1..9usize, 0..8u8), 180),
        once in any::<bool>(),
    ) {
        let reporting = if once { Reporting::Once } else { Reporting::AtEnd };
        let settings = CollectSettings { reporting, ..SETTINGS };
        let (mut whole, mut killed) = (Line::new(settings, "\"id\""), Line::new(settings, "\"id\""));
        let mut rest = &messages[..];
        for (count, what) in cuts {
            let (step, later) = rest.split_at(count.min(rest.len()));
            rest = later;
            let flags = whole.step(step);
            prop_assert_eq!(killed.step(step), flags);
            match what {
                0 => killed.save(),
                1 | 2 => killed.restart(0),
                _ => {}
            }
        }
        prop_assert_eq!(&killed.reports, &whole.reports);
        killed.restart(0);
        prop_assert_eq!(killed.core.snapshot(), whole.core.snapshot());
        prop_assert_eq!(killed.core.collect_counts(), whole.core.collect_counts());
        latest(&whole.reports);
    }

    #[test]
    fn windows_do_not_depend_on_how_messages_share_steps(
        messages in messages(150), sizes in prop::collection::vec(1..40usize, 150),
    ) {
        let (mut single, mut grouped) = (Line::new(SETTINGS, "\"id\""), Line::new(SETTINGS, "\"id\""));
        messages.iter().for_each(|message| drop(single.step(std::slice::from_ref(message))));
        let mut rest = &messages[..];
        for size in sizes {
            let (step, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            grouped.step(step);
        }
        // A window may be reported before the last of a step's readings or after it: what it says in the end is the same.
        let said = |line: &Line| -> Vec<_> {
            let mut line = latest(&line.reports);
            line.values_mut().for_each(|report| report.revision = 0);
            line.into_iter().collect()
        };
        let (one, other) = (said(&single), said(&grouped));
        let floor = START_US + 100 * MINUTE_US;
        let is_over = |report: &&((InstanceId, i64), WindowReport)| report.1.to_us <= floor;
        prop_assert_eq!(
            sums(one.iter().filter(is_over).map(|(_, report)| report.clone())).map(|(n, _)| n),
            sums(other.iter().filter(is_over).map(|(_, report)| report.clone())).map(|(n, _)| n)
        );
    }

    #[test]
    fn every_reading_is_counted_once_and_quarters_add_up_to_the_day(messages in messages(150)) {
        let day = CollectSettings { span_us: 96 * QUARTER_US, ..SETTINGS };
        let few = CollectSettings { values_min: 1, ..SETTINGS };
        let (mut quarters, mut days) = (Line::new(few, "\"id\""), Line::new(CollectSettings { values_min: 1, ..day }, "\"id\""));
        let mut accepted = 0;
        for message in &messages {
            quarters.step(std::slice::from_ref(message));
            days.step(std::slice::from_ref(message));
        }
        for (readings, _) in &quarters.log {
            accepted += readings.len() as u64;
        }
        // The model is gone: what is open is told, but for readings that still wait for their order.
        for line in [&mut quarters, &mut days] {
            line.save();
            line.restart(1);
            line.reports.extend(line.core.left_windows());
        }
        let (n, of_quarters) = sums(latest(&quarters.reports).into_values()).unwrap();
        let (all, of_days) = sums(latest(&days.reports).into_values()).unwrap();
        prop_assert!(n <= accepted && accepted <= n + 10, "{n} of {accepted}");
        prop_assert!(n <= all);
        for (quarters, days) in of_quarters.iter().zip(&of_days) {
            // The grace of a quarter is over sooner than that of a day.
            let late = quarters.flawed(Flaw::Late);
            if late == 0 {
                prop_assert_eq!(quarters, days);
            }
        }
    }
}

/// Sends a day of sound minutes of sensor 1, with a fault in the middle of air's.
fn with_fault(fault: impl Fn(i64, f64) -> Option<f64>) -> (Line, Vec<QualityFlags>) {
    let mut line = Line::new(CollectSettings { values_min: 1, ..SETTINGS }, "\"id\"");
    let mut flags = Vec::new();
    for minute in 0..1_440 {
        let Some(air) = fault(minute, sound(minute, 1.0)) else { continue };
        flags.extend(line.step(&[(1, START_US + minute * MINUTE_US, air, sound(minute, 3.0))]));
    }
    (line, flags)
}

#[test]
fn faults_are_named_flag_predictions_and_are_no_values() {
    let middle = 600..660;
    let is_in = move |minute: &i64| middle.contains(minute);
    type Fault = Box<dyn Fn(i64, f64) -> Option<f64>>;
    let cases: [(Flaw, u64, Fault); 6] = [
        (
            Flaw::Stuck,
            40,
            Box::new({
                let is_in = is_in.clone();
                move |m, v| Some(if is_in(&m) { 20.25 } else { v })
            }),
        ),
        (
            Flaw::Gap,
            1,
            Box::new({
                let is_in = is_in.clone();
                move |m, v| (!is_in(&m)).then_some(v)
            }),
        ),
        (Flaw::Spike, 1, Box::new(|m, v| Some(if m == 620 { v + 70.0 } else { v }))),
        (
            Flaw::Scale,
            55,
            Box::new({
                let is_in = is_in.clone();
                move |m, v| Some(if is_in(&m) { v * 1.8 + 32.0 } else { v })
            }),
        ),
        (
            Flaw::OutOfRange,
            60,
            Box::new({
                let is_in = is_in.clone();
                move |m, v| Some(if is_in(&m) { 4_000.0 } else { v })
            }),
        ),
        (
            Flaw::Missing,
            60,
            Box::new({
                let is_in = is_in.clone();
                move |m, v| Some(if is_in(&m) { f64::NAN } else { v })
            }),
        ),
    ];
    let (usual, usual_flags) = with_fault(|_, value| Some(value));
    let (_, sound_sums) = sums(latest(&usual.reports).into_values()).unwrap();
    assert!(usual_flags.iter().all(|flags| !flags.contains(QualityFlags::FAULTY_INPUT)));
    assert!(Flaw::ALL.iter().all(|flaw| sound_sums[0].flawed(*flaw) == 0));
    for (flaw, least, fault) in cases {
        let (line, flags) = with_fault(fault);
        let (_, summaries) = sums(latest(&line.reports).into_values()).unwrap();
        let air = &summaries[0];
        assert!(air.flawed(flaw) >= least, "{flaw:?}: {:?}", air.flaws);
        let others = Flaw::ALL.iter().filter(|other| **other != flaw);
        assert_eq!(others.map(|other| air.flawed(*other)).sum::<u64>(), 0, "{flaw:?}: {:?}", air.flaws);
        // Nothing of the fault is among the values, and oil is as it was.
        let (_, high) = air.moments.range.unwrap();
        assert!(high <= sound_sums[0].moments.range.unwrap().1, "{flaw:?}");
        assert!(summaries[1].flaws.iter().sum::<u64>() <= air.flawed(Flaw::Gap), "{flaw:?}");
        let marked = flags.iter().filter(|flags| flags.contains(QualityFlags::FAULTY_INPUT)).count() as u64;
        let is_marked = !matches!(flaw, Flaw::Gap | Flaw::Missing);
        assert_eq!(marked >= least && marked > 0, is_marked, "{flaw:?}: {marked}");
        assert!(!flags.last().unwrap().contains(QualityFlags::FAULTY_INPUT), "{flaw:?} is over");
        assert_eq!(summaries[2].values() + marked, flags.len() as u64 - open_predictions(&line), "{flaw:?}");
    }
}

/// Returns how many predictions are in windows that were not reported: those of the last quarter and its grace.
fn open_predictions(line: &Line) -> u64 {
    let collected = line.core.collector.as_ref().unwrap().instances.values().next().unwrap();
    let untold = collected.windows.iter().filter(|window| window.revision == 0);
    untold.map(|window| window.summaries[2].values()).sum()
}

#[test]
fn of_several_sensors_the_odd_one_is_told() {
    let mut line = Line::new(CollectSettings { values_min: 1, ..SETTINGS }, "");
    let mut marked = 0;
    for minute in 0..600 {
        for id in 0..4_u8 {
            let at_us = START_US + minute * MINUTE_US + i64::from(id) * 1_000_000;
            // It goes away slowly, so that no jump tells it.
            let away = if id == 3 { (minute - 200).clamp(0, 200) as f64 / 10.0 } else { 0.0 };
            let flags = line.step(&[(id, at_us, sound(minute, 1.0) + away, sound(minute, 3.0))]);
            marked += flags.iter().filter(|flags| flags.contains(QualityFlags::FAULTY_INPUT)).count();
        }
    }
    let (_, summaries) = sums(latest(&line.reports).into_values()).unwrap();
    let air = &summaries[0];
    assert!((200..400).contains(&air.flawed(Flaw::Disagreement)), "{:?}", air.flaws);
    assert_eq!(summaries[1].flawed(Flaw::Disagreement), 0);
    assert!(marked > 800, "{marked}");
    let counts = line.core.collect_counts();
    assert_eq!((counts.sensors, counts.faulty[&Flaw::Disagreement]), (8, 1));
    let shown = &counts.shown[0];
    assert_eq!(
        (shown.name.as_str(), shown.field.as_str(), shown.flaw),
        ("s id=3", "air", Flaw::Disagreement)
    );
}

#[test]
fn a_window_of_few_readings_waits_for_the_next() {
    let mut line = Line::new(CollectSettings { values_min: 20, ..SETTINGS }, "\"id\"");
    for n in 0..60 {
        line.step(&[(1, START_US + n * 5 * MINUTE_US, sound(n, 1.0), sound(n, 3.0))]);
    }
    let reports = latest(&line.reports);
    assert!(reports.len() >= 2);
    for report in reports.values() {
        assert!(report.n >= 20 && (report.to_us - report.from_us) % QUARTER_US == 0, "{report:?}");
        assert!(report.to_us - report.from_us > QUARTER_US);
    }
    let ends: Vec<_> = reports.values().map(|report| (report.from_us, report.to_us)).collect();
    assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ends:?}");
}

#[test]
fn a_late_reading_changes_its_window_until_the_grace_is_over_and_is_counted_as_late_after() {
    let mut line = Line::new(CollectSettings { values_min: 1, ..SETTINGS }, "");
    for minute in 0..16 {
        line.step(&[(1, START_US + minute * MINUTE_US, sound(minute, 1.0), 20.0 + minute as f64 / 100.0)]);
    }
    // Two minutes of lateness: the sixteenth is still kept.
    line.step(&[(1, START_US + 18 * MINUTE_US, 20.0, 20.5)]);
    assert_eq!(line.reports.len(), 1);
    assert_eq!((line.reports[0].n, line.reports[0].revision), (15, 1));
    // A sensor that was cut off brings the past.
    line.step(&[(2, START_US + 3 * MINUTE_US, 20.0, 20.5), (2, START_US + 6 * MINUTE_US, 20.0, 20.5)]);
    assert_eq!(line.reports.len(), 1, "told when the grace is over");
    for minute in 19..40 {
        line.step(&[(1, START_US + minute * MINUTE_US, sound(minute, 1.0), 20.0 + minute as f64 / 100.0)]);
    }
    let again: Vec<_> = line.reports.iter().filter(|report| report.from_us == START_US).collect();
    assert_eq!(again.len(), 2);
    assert_eq!((again[1].n, again[1].revision), (16, 2), "the second of them waits for its order");
    line.step(&[(3, START_US + MINUTE_US, 20.0, 20.5), (3, START_US + 4 * MINUTE_US, 20.0, 20.5)]);
    line.step(&[(1, START_US + 80 * MINUTE_US, 20.0, 20.5), (1, START_US + 85 * MINUTE_US, 20.0, 20.5)]);
    let late: u64 = latest(&line.reports).values().map(|report| report.summaries[0].flawed(Flaw::Late)).sum();
    assert!(late >= 1);
    assert_eq!(line.reports.iter().filter(|report| report.from_us == START_US).count(), 2);
}

#[test]
fn an_hour_of_a_feature_takes_at_most_forty_bytes() {
    let hour = CollectSettings { span_us: 4 * QUARTER_US, values_min: 20, ..SETTINGS };
    let mut line = Line::new(hour, "\"id\"");
    for second in 0..3 * 3_600_i64 {
        let minute = second / 10;
        line.step(&[(
            1,
            START_US + second * 1_000_000,
            sound(minute, 1.0) + second as f64 / 1e6,
            sound(minute, 3.0),
        )]);
    }
    let mut counted = 0;
    for report in line.reports.iter().filter(|report| report.n >= 3_000) {
        for summary in &report.summaries[..2] {
            let bytes = dunlin_model_package::profile_window::write_window([summary]);
            assert!(bytes.len() <= 40, "{} bytes", bytes.len());
            counted += 1;
        }
    }
    assert!(counted >= 2);
}

#[test]
fn what_a_package_counted_is_told_when_another_takes_its_place() {
    let mut line = Line::new(SETTINGS, "\"id\"");
    for minute in 0..10 {
        line.step(&[(1, START_US + minute * MINUTE_US, sound(minute, 1.0), sound(minute, 3.0))]);
    }
    assert!(line.reports.is_empty());
    let beside = binding(1, line.key, Some(line.profile.clone()));
    let index = crate::lane::lane_index(0, 0);
    line.core.install(index, LaneRole::Serving, beside).unwrap();
    assert!(line.core.has_left_windows());
    let left = line.core.left_windows();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].from_us, left[0].revision), (START_US, 1));
    assert!((8..=10).contains(&left[0].n));
    assert!(!line.core.has_left_windows());
}

#[test]
fn a_package_that_comes_back_within_the_hour_begins_where_it_ended() {
    let mut line = Line::new(CollectSettings { values_min: 1, ..SETTINGS }, "\"id\"");
    let index = crate::lane::lane_index(0, 0);
    for minute in 0..14 {
        if minute == 6 || minute == 7 {
            let package = if minute == 6 { 1 } else { 0 };
            let next = binding(package, line.key, Some(line.profile.clone()));
            line.core.install(index, LaneRole::Serving, next).unwrap();
            line.reports.extend(line.core.left_windows());
            line.save();
            line.restart(package);
        }
        line.step(&[(1, START_US + minute * MINUTE_US, sound(minute, 1.0), sound(minute, 3.0))]);
    }
    let other = binding(2, line.key, Some(line.profile.clone()));
    line.core.install(index, LaneRole::Serving, other).unwrap();
    line.reports.extend(line.core.left_windows());
    let latest = latest(&line.reports);
    let spans: Vec<_> = latest
        .values()
        .filter(|report| report.instance == InstanceId(0))
        .map(|report| (report.from_us, report.to_us))
        .collect();
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert_eq!(
        (spans[0].0, spans[0].1, spans[1].1),
        (START_US, START_US + QUARTER_US, START_US + QUARTER_US)
    );
    assert!(spans[1].0 > START_US);
}

#[test]
fn an_older_program_reads_over_the_counts_and_damaged_ones_begin_anew() {
    let mut line = Line::new(SETTINGS, "\"id\"");
    for minute in 0..40 {
        line.step(&[(1, START_US + minute * MINUTE_US, sound(minute, 1.0), sound(minute, 3.0))]);
    }
    let saved = line.core.snapshot();
    let mut plain = Line::core(SETTINGS, line.key, &line.profile, 0);
    plain.collect_with(None);
    plain.register(line.series.clone(), line.instances.clone());
    plain.restore(&saved).unwrap();
    let shorter = plain.snapshot();
    assert_eq!(shorter[..], saved[..shorter.len()]);
    let cut = &saved[..saved.len() - 3];
    let mut damaged = Line::core(SETTINGS, line.key, &line.profile, 0);
    damaged.register(line.series.clone(), line.instances.clone());
    assert_eq!(damaged.restore(cut), Err(SnapshotError::Corrupt));
    damaged.collect_with(None);
    assert_eq!(damaged.snapshot(), shorter, "the windows of the model are there all the same");
}
