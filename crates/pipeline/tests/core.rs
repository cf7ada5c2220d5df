//! The path from messages to windows and predictions, driven as the daemon drives it, without broker or store.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be built fails the test that names it")]

use dunlin_model_package::{Digest, Manifest, ModelSpec, SourceSpec};
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::prediction::{Prediction, QualityFlags};
use dunlin_pipeline::refusal::Reason;
use dunlin_pipeline::{Core, ModelBinding, Turn};
use proptest::prelude::*;

const START_MS: i64 = 1_700_000_000_000;

fn manifest(length: u32, features: &[&str]) -> Manifest {
    let features: Vec<_> = features.iter().map(|name| serde_json::json!({ "name": name })).collect();
    serde_json::from_value(serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": length },
        "inputs": [{ "name": "x", "shape": ["batch", length, features.len()], "features": features }],
        "outputs": [{ "name": "y", "kind": "anomaly", "shape": ["batch", 1],
            "post": { "threshold": { "above": 2.0, "clear": 1.0 } } }],
        "blobs": {}
    }))
    .unwrap()
}

fn core(sources: &[&str], model: &str, manifest: Manifest) -> Core {
    let sources: Vec<SourceSpec> = sources.iter().map(|text| toml::from_str(text).unwrap()).collect();
    let spec: ModelSpec = toml::from_str(model).unwrap();
    Core::serving(
        &sources,
        vec![ModelBinding { spec, manifest, package: Digest::of(b"package"), profile: None }],
    )
    .unwrap()
}

fn take(core: &mut Core, topic: &str, payload: &str, arrival_ms: i64) -> Turn {
    let mut turn = Turn::default();
    let arrival_us = arrival_ms * 1_000;
    let payload = payload.as_bytes();
    core.take(
        &Message { broker: None, topic, payload, retained: false, arrival_us, clock: ClockState::Set },
        &mut turn,
    );
    turn
}

/// One field `a` by sensor, timed by the payload in milliseconds.
const SENSOR: &str = r#"
name = "s"
topics = ["s/{id}"]
format = "json"
time = { pointer = "/t", format = "unix-ms" }
fields.a = {}
"#;

fn sensor(core: &mut Core, id: &str, t_ms: i64, value: &str) -> Turn {
    let payload = format!(r#"{{"t":{},"a":{value}}}"#, START_MS + t_ms);
    take(core, &format!("s/{id}"), &payload, START_MS + 10_000_000)
}

fn windows(turn: &Turn) -> Vec<(i64, Vec<f32>)> {
    turn.windows.iter().map(|w| (w.head.window_end_us / 1_000 - START_MS, w.values.clone())).collect()
}

fn model(rest: &str) -> String {
    format!("name = \"m\"\npackage = \"p\"\n{rest}")
}

#[test]
fn windows_slide_per_key_and_restart_after_a_gap() {
    let text = model("key = [\"id\"]\nwindow = { gap_max = \"10s\" }");
    let mut core = core(&[SENSOR], &text, manifest(2, &["a"]));
    assert!(sensor(&mut core, "x", 0, "1").windows.is_empty());
    assert!(sensor(&mut core, "y", 1_000, "9").windows.is_empty());
    assert_eq!(windows(&sensor(&mut core, "x", 2_000, "2")), [(2_000, vec![1.0, 2.0])]);
    assert!(sensor(&mut core, "x", 20_000, "3").windows.is_empty(), "a gap starts the window anew");
    assert_eq!(windows(&sensor(&mut core, "x", 21_000, "4")), [(21_000, vec![3.0, 4.0])]);
}

#[test]
fn late_and_duplicate_readings_are_refused_and_change_nothing() {
    let mut core = core(&[SENSOR], &model("key = [\"id\"]"), manifest(1, &["a"]));
    sensor(&mut core, "x", 5_000, "1");
    for (t, reason) in [(5_000, Reason::Duplicate), (4_000, Reason::Late)] {
        let turn = sensor(&mut core, "x", t, "7");
        assert!(turn.readings.is_empty() && turn.windows.is_empty());
        assert_eq!(turn.refusals[0].1.reason, reason);
    }
}

#[test]
fn a_reading_without_a_value_is_kept_but_makes_no_row() {
    let source = SENSOR.replace("fields.a = {}", "fields.a = {}\nfields.b = {}");
    let mut core = core(&[&source], &model("key = [\"id\"]"), manifest(2, &["a", "b"]));
    let mut send = |t: i64, body: &str| {
        take(&mut core, "s/x", &format!(r#"{{"t":{},{body}}}"#, START_MS + t), START_MS + 1_000_000)
    };
    send(0, r#""a":1,"b":10"#);
    let turn = send(1_000, r#""a":2"#);
    assert_eq!((turn.readings.len(), turn.rows_refused[0].1), (1, Reason::MissingValue));
    assert_eq!(windows(&send(2_000, r#""a":3,"b":30"#)), [(2_000, vec![1.0, 10.0, 3.0, 30.0])]);
}

#[test]
fn policies_stand_in_for_missing_values_and_say_so() {
    let source = SENSOR.replace("fields.a = {}", "fields.a = {}\nfields.b = {}\nfields.c = {}");
    let policies = "key = [\"id\"]\nmissing = { b = \"hold:2s\", c = \"const:7\" }";
    let mut core = core(&[&source], &model(policies), manifest(1, &["a", "b", "c"]));
    let mut send = |t: i64, body: &str| {
        take(&mut core, "s/x", &format!(r#"{{"t":{},{body}}}"#, START_MS + t), START_MS + 1_000_000)
    };
    assert_eq!(windows(&send(0, r#""a":1,"b":5"#)), [(0, vec![1.0, 5.0, 7.0])]);
    let held = send(2_000, r#""a":2"#);
    assert_eq!(windows(&held), [(2_000, vec![2.0, 5.0, 7.0])]);
    assert!(held.windows[0].head.flags.contains(QualityFlags::HELD_VALUE));
    assert!(held.windows[0].head.flags.contains(QualityFlags::SUBSTITUTED_VALUE));
    let refused = send(2_001, r#""a":2"#).rows_refused[0].1;
    assert_eq!(refused, Reason::MissingValue, "held no longer than the policy says");
}

#[test]
fn topics_with_one_value_each_join_into_one_row_within_the_skew() {
    let source = r#"
        name = "esp"
        topics = ["esp/{room}/{quantity}"]
        format = "number"
        fields.temperature = { when = { quantity = "temperature" } }
        fields.humidity = { when = { quantity = "humidity" } }
    "#;
    let text = model("key = [\"room\"]\nskew_max = \"5s\"");
    let mut core = core(&[source], &text, manifest(1, &["temperature", "humidity"]));
    let mut send = |topic: &str, value: &str, at: i64| take(&mut core, topic, value, START_MS + at);
    assert!(send("esp/a/temperature", "21.5", 0).windows.is_empty());
    assert!(send("esp/b/humidity", "99", 100).windows.is_empty(), "another room");
    assert_eq!(windows(&send("esp/a/humidity", "40", 200)), [(200, vec![21.5, 40.0])]);
    assert!(send("esp/a/humidity", "41", 300).windows.is_empty(), "temperature has no new value");
    let turn = send("esp/a/temperature", "22", 9_000);
    assert_eq!(turn.rows_refused[0].1, Reason::Skew);
    assert_eq!(windows(&send("esp/a/humidity", "42", 9_500)), [(9_500, vec![22.0, 42.0])]);
}

#[test]
fn a_trigger_makes_rows_of_the_latest_values() {
    let other = SENSOR.replace("name = \"s\"", "name = \"o\"").replace("s/{id}", "o/{id}");
    let other = other.replace("fields.a", "fields.b");
    let text = model(
        "key = [\"id\"]\ntrigger = { on = \"a\" }\nskew_max = \"1h\"\n\
         inputs.x = [\"a\", \"b@last\", \"b@mean:10s\"]\nmissing = { b = \"const:-1\" }",
    );
    let mut core = core(&[SENSOR, &other], &text, manifest(1, &["a", "b", "c"]));
    let mut send = |topic: &str, name: &str, t: i64, v: i64| {
        let payload = format!(r#"{{"t":{},"{name}":{v}}}"#, START_MS + t);
        take(&mut core, topic, &payload, START_MS + 10_000_000)
    };
    assert_eq!(windows(&send("s/x", "a", 0, 1)), [(0, vec![1.0, -1.0, -1.0])]);
    assert!(send("o/x", "b", 500, 4).windows.is_empty());
    assert!(send("o/x", "b", 600, 6).windows.is_empty());
    assert_eq!(windows(&send("s/x", "a", 1_000, 2)), [(1_000, vec![2.0, 6.0, 5.0])]);
    assert_eq!(windows(&send("s/x", "a", 50_000, 3)), [(50_000, vec![3.0, 6.0, -1.0])]);
}

#[test]
fn rows_every_interval_hold_what_was_known_then() {
    let text = model("key = [\"id\"]\ntrigger = { every = \"10s\" }\nskew_max = \"60s\"");
    let mut core = core(&[SENSOR], &text, manifest(1, &["a"]));
    assert!(sensor(&mut core, "x", 1_000, "1").windows.is_empty());
    assert!(sensor(&mut core, "x", 9_000, "2").windows.is_empty());
    let found = windows(&sensor(&mut core, "x", 31_000, "3"));
    assert_eq!(found, [(10_000, vec![2.0]), (20_000, vec![2.0]), (30_000, vec![2.0])]);
}

#[test]
fn lags_are_rows_ago_and_wait_until_there_are_enough() {
    let text = model("key = [\"id\"]\ninputs.x = [\"a\", \"a@lag:2\"]");
    let mut core = core(&[SENSOR], &text, manifest(1, &["a", "b"]));
    let found: Vec<_> =
        (0..4).flat_map(|n| windows(&sensor(&mut core, "x", n * 1_000, &n.to_string()))).collect();
    assert_eq!(found, [(2_000, vec![2.0, 0.0]), (3_000, vec![3.0, 1.0])]);
}

#[test]
fn time_windows_close_by_the_watermark_and_average_each_cell() {
    let text = model("key = [\"id\"]\nwindow = { every = \"2s\", resample = \"1s\", lateness = \"1s\" }");
    let mut core = core(&[SENSOR], &text, manifest(2, &["a"]));
    let mut found = Vec::new();
    for (t, v) in
        [(100, "1"), (1_500, "4"), (900, "3"), (2_100, "5"), (3_200, "7"), (7_000, "0"), (8_000, "0")]
    {
        found.extend(windows(&sensor(&mut core, "x", t, v)));
    }
    assert_eq!(found, [(2_000, vec![2.0, 4.0]), (4_000, vec![5.0, 7.0])]);
}

#[test]
fn series_and_new_topics_are_limited() {
    let source = format!("series_max = 2\nnew_topics_per_second_max = 3\n{SENSOR}");
    let mut core = core(&[&source], &model("key = [\"id\"]"), manifest(1, &["a"]));
    let reasons: Vec<_> = (0..5)
        .map(|n| sensor(&mut core, &n.to_string(), 0, "1").refusals.first().map(|(_, r)| r.reason))
        .collect();
    let limited = [Some(Reason::SeriesLimit), Some(Reason::TopicRate), Some(Reason::TopicRate)];
    assert_eq!(reasons, [None, None, limited[0], limited[1], limited[2]]);
}

#[test]
fn contradictions_between_model_package_and_sources_are_all_named() {
    let source = SENSOR.replace("fields.a = {}", "fields.a = { unit = \"Cel\" }");
    let mut wanted = manifest(2, &["a", "b"]);
    wanted.inputs[0].features[0].unit = Some("Pa".into());
    let text = model("window = { length = 3, every = \"3s\" }\nmissing = { z = \"nan\" }");
    let binding = ModelBinding {
        spec: toml::from_str(&text).unwrap(),
        manifest: wanted,
        package: Digest::of(b""),
        profile: None,
    };
    let found = Core::serving(&[toml::from_str(&source).unwrap()], vec![binding]).unwrap_err();
    let all: Vec<String> = found.iter().map(ToString::to_string).collect();
    for part in ["model[0].key", "field `b`", "takes `a` in Pa", "window.length", "need both", "missing.z"] {
        assert!(all.iter().any(|text| text.contains(part)), "{part} in {all:#?}");
    }
}

#[test]
fn units_are_converted_into_those_of_the_package() {
    let source = SENSOR.replace("fields.a = {}", "fields.a = { unit = \"Cel\" }");
    let mut wanted = manifest(1, &["a"]);
    wanted.inputs[0].features[0].unit = Some("degF".into());
    let mut core = core(&[&source], &model("key = [\"id\"]"), wanted);
    assert_eq!(windows(&sensor(&mut core, "x", 0, "100")), [(0, vec![212.0])]);
}

/// Answers every window of a turn with the sum of its values, as a model would.
fn answer(core: &mut Core, turn: &Turn, made: &mut Vec<Prediction>) {
    for window in &turn.windows {
        made.push(core.finish(window.head, Some(vec![window.values.iter().sum()])));
    }
}

fn variants() -> Vec<String> {
    [
        "key = [\"id\"]",
        "key = [\"id\"]\nwindow = { hop = 2, gap_max = \"3s\", lateness = \"2s\" }",
        "key = [\"id\"]\ninputs.x = [\"a@mean:5s\"]\ntrigger = { on = \"a\" }",
        "key = [\"id\"]\nwindow = { every = \"2s\", resample = \"1s\" }",
        "key = []\ntrigger = { every = \"2s\" }",
        "key = [\"id\"]\ninputs.x = [\"a@lag:1\"]\n\
         alert = { topic = \"x\", debounce = { n = 2, m = 3 }, rate_limit = \"5s\" }",
    ]
    .map(model)
    .to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// What makes kills harmless: the saved state plus the readings stored after it is the state of a daemon that
    /// was never killed, wherever it was saved and wherever it was killed.
    #[test]
    fn a_restored_core_goes_on_exactly_as_one_that_never_stopped(
        messages in prop::collection::vec((0..3_u8, 0..40_i64, -1.0..1.0_f64), 1..80),
        saved in any::<prop::sample::Index>(), killed in any::<prop::sample::Index>(), variant in 0..6_usize
    ) {
        let sent: Vec<_> =
            messages.iter().enumerate().map(|(n, (id, jitter, v))| (*id, n as i64 * 400 + jitter * 100, *v)).collect();
        let send = |core: &mut Core, n: usize| sensor(core, &sent[n].0.to_string(), sent[n].1, &sent[n].2.to_string());
        let text = &variants()[variant];
        let build = || core(&[SENSOR], text, manifest(2, &["a"]));
        let (saved, killed) = (saved.index(sent.len()), killed.index(sent.len()));
        let (saved, killed) = (saved.min(killed), saved.max(killed));

        let (mut whole, mut expected) = (build(), Vec::new());
        for n in 0..sent.len() {
            let turn = send(&mut whole, n);
            answer(&mut whole, &turn, &mut expected);
        }

        let (mut first, mut made) = (build(), Vec::new());
        let (mut series, mut instances, mut log) = (Vec::new(), Vec::new(), Vec::new());
        let mut snapshot = first.snapshot();
        for n in 0..killed {
            if n == saved {
                snapshot = first.snapshot();
                log.clear();
            }
            let turn = send(&mut first, n);
            answer(&mut first, &turn, &mut made);
            series.extend(turn.new_series);
            instances.extend(turn.new_instances);
            log.extend(turn.readings);
        }

        let mut second = build();
        second.register(series, instances);
        second.restore(&snapshot).unwrap();
        for reading in log {
            let mut turn = Turn::default();
            second.accept(reading, &mut turn).unwrap();
            for window in turn.windows {
                let stored = made.iter().find(|p| {
                    (p.head.instance, p.head.window_end_us) == (window.head.instance, window.head.window_end_us)
                });
                second.finish(window.head, stored.map(|p| p.outputs.clone()));
            }
        }
        prop_assert_eq!(second.snapshot(), first.snapshot());
        for n in killed..sent.len() {
            let turn = send(&mut second, n);
            answer(&mut second, &turn, &mut made);
        }
        prop_assert_eq!(made, expected);
    }
}
