//! Awkward event times, silences and values on the path from messages to windows.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be built fails the test that names it")]

use dunlin_model_package::{Digest, Manifest, ModelSpec, SourceSpec};
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::reading::{Reading, SeriesId, TimedBy};
use dunlin_pipeline::refusal::Reason;
use dunlin_pipeline::{Core, ModelBinding, Turn};
use proptest::prelude::*;

const START_MS: i64 = 1_700_000_000_000;

fn manifest(length: u32, features: &[&str]) -> Manifest {
    let features: Vec<_> = features.iter().map(|name| serde_json::json!({ "name": name })).collect();
    serde_json::from_value(serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": length },
        "inputs": [{ "name": "x", "shape": ["batch", length, features.len()], "features": features }],
        "outputs": [{ "name": "y", "kind": "regression", "shape": ["batch", 1] }],
        "blobs": {}
    }))
    .unwrap()
}

fn core(source: &str, model: &str, manifest: Manifest) -> Core {
    let sources: Vec<SourceSpec> = vec![toml::from_str(source).unwrap()];
    let spec: ModelSpec = toml::from_str(&format!("name = \"m\"\npackage = \"p\"\n{model}")).unwrap();
    Core::serving(
        &sources,
        vec![ModelBinding { spec, manifest, package: Digest::of(b"package"), profile: None }],
    )
    .unwrap()
}

fn take_at(core: &mut Core, topic: &str, payload: &str, arrival_us: i64) -> Turn {
    let mut turn = Turn::default();
    let payload = payload.as_bytes();
    core.take(
        &Message { broker: None, topic, payload, retained: false, arrival_us, clock: ClockState::Set },
        &mut turn,
    );
    turn
}

fn windows(turn: &Turn) -> Vec<(i64, Vec<f32>)> {
    turn.windows.iter().map(|w| (w.head.window_end_us - START_MS * 1_000, w.values.clone())).collect()
}

/// Timed by arrival.
const PLAIN: &str = "name = \"s\"\ntopics = [\"s/{id}\"]\nformat = \"json\"\nfields.a = {}";
/// Timed by the payload.
const TIMED: &str = "name = \"s\"\ntopics = [\"s/{id}\"]\nformat = \"json\"\ntime = { pointer = \"/t\", format = \"unix-ms\" }\nfields.a = {}\nfields.b = {}";

fn plain(core: &mut Core, id: &str, at_us: i64, value: f64) -> Turn {
    take_at(core, &format!("s/{id}"), &format!("{{\"a\":{value:e}}}"), START_MS * 1_000 + at_us)
}

fn timed(core: &mut Core, t_ms: i64, rest: &str) -> Turn {
    take_at(core, "s/x", &format!("{{\"t\":{},{rest}}}", START_MS + t_ms), (START_MS + 1_000_000_000) * 1_000)
}

#[test]
fn arrivals_in_one_microsecond_keep_the_window() {
    let mut core = core(PLAIN, "key = []", manifest(2, &["a"]));
    assert!(plain(&mut core, "x", 10, 1.0).windows.is_empty());
    assert_eq!(windows(&plain(&mut core, "y", 10, 2.0)), [(11, vec![1.0, 2.0])]);
    assert_eq!(windows(&plain(&mut core, "z", 5, 3.0)), [(12, vec![2.0, 3.0])], "they crossed");
    assert!(plain(&mut core, "x", -5_000_000, 4.0).windows.is_empty(), "the clock was set back");
}

#[test]
fn arrivals_that_cross_a_cell_keep_the_grid() {
    let text = "key = []\nwindow = { every = \"1s\", resample = \"1s\" }";
    let mut core = core(PLAIN, text, manifest(2, &["a"]));
    plain(&mut core, "x", 500_000, 1.0);
    plain(&mut core, "x", 1_500_000, 2.0);
    plain(&mut core, "y", 999_000, 4.0);
    assert_eq!(windows(&plain(&mut core, "x", 2_000_000, 9.0)), [(2_000_000, vec![1.0, 3.0])]);
}

#[test]
fn rows_at_an_interval_follow_a_clock_that_is_set_back() {
    let mut core = core(PLAIN, "key = []\ntrigger = { every = \"1s\" }", manifest(1, &["a"]));
    plain(&mut core, "x", 3_600_500_000, 1.0);
    assert_eq!(plain(&mut core, "x", 3_602_500_000, 2.0).windows.len(), 2);
    plain(&mut core, "x", 500_000, 3.0);
    assert_eq!(windows(&plain(&mut core, "x", 1_500_000, 4.0)), [(1_000_000, vec![3.0])]);
}

#[test]
fn a_long_silence_restarts_a_time_window_and_costs_no_memory() {
    let text = "key = []\nwindow = { every = \"1s\", resample = \"1s\" }\nmissing = { a = \"nan\" }";
    let mut core = core(TIMED, text, manifest(2, &["a"]));
    for t in [500, 1_500] {
        timed(&mut core, t, "\"a\":1");
    }
    let turn = timed(&mut core, 500_000_500, "\"a\":5");
    assert!(turn.windows.len() <= 2, "{}", turn.windows.len());
    let after: Vec<_> =
        [500_001_500, 500_002_500].iter().flat_map(|t| windows(&timed(&mut core, *t, "\"a\":5"))).collect();
    assert_eq!(after, [(500_002_000_000, vec![5.0, 5.0])], "no window reaches over the silence");
}

#[test]
fn a_silence_makes_few_windows_of_a_large_model() {
    let text = "key = []\nwindow = { every = \"1s\", resample = \"1s\" }\nmissing = { a = \"nan\" }";
    let mut core = core(TIMED, text, manifest(1_048_576, &["a"]));
    timed(&mut core, 500, "\"a\":1");
    let turn = timed(&mut core, 50_000_500, "\"a\":5");
    assert!(turn.windows.len() <= 4 && turn.rows_refused.len() <= 4);
}

#[test]
fn a_message_makes_as_many_windows_as_there_is_memory_for_and_the_next_one_whole_ones() {
    let length = 4_096_u32;
    let source = TIMED.replace("fields.b = {}", "each = \"\"");
    let source = source.replace("fields.a = {}\neach = \"\"", "each = \"\"\nfields.a = {}");
    let mut core = core(&source, "key = []", manifest(length, &["a"]));
    let mut next = 0;
    let mut send = |count: i64| {
        let records: Vec<String> =
            (next..next + count).map(|n| format!("{{\"t\":{},\"a\":{n}}}", START_MS + n * 1_000)).collect();
        next += count;
        let payload = format!("[{}]", records.join(","));
        take_at(&mut core, "s/x", &payload, (START_MS + 1_000_000_000) * 1_000)
    };
    let fill = send(i64::from(length) - 1);
    assert_eq!((fill.readings.len(), fill.windows.len()), (4_095, 0));
    let turn = send(5_000);
    // 16 Mi values are 4,096 windows of 4,096.
    assert_eq!((turn.readings.len(), turn.windows.len()), (5_000, 4_096));
    assert_eq!(turn.rows_refused.len(), 904);
    assert!(turn.rows_refused.iter().all(|(_, reason)| *reason == Reason::TooManyWindows));
    drop(turn);
    let whole = windows(&send(1));
    let expected: Vec<f32> = (next - i64::from(length)..next).map(|n| n as f32).collect();
    assert_eq!(whole, [((next - 1) * 1_000_000, expected)]);
}

#[test]
fn nothing_that_is_no_number_reaches_a_model() {
    let text = "key = []\ntrigger = { on = \"b\" }\ninputs.x = [\"b\", \"a@lag:1\"]";
    let mut core = core(TIMED, text, manifest(1, &["a", "b"]));
    let reasons: Vec<_> = [(0, "\"b\":1"), (1_000, "\"b\":1"), (2_000, "\"a\":1,\"b\":1e300")]
        .iter()
        .flat_map(|(t, rest)| {
            let turn = timed(&mut core, *t, rest);
            assert!(turn.windows.is_empty(), "{:?}", turn.windows);
            turn.rows_refused
        })
        .map(|(_, reason)| reason)
        .collect();
    assert_eq!(reasons, [Reason::MissingValue, Reason::NotFinite]);
}

#[test]
fn known_series_are_no_new_topics_after_a_restart() {
    let source = format!("new_topics_per_second_max = 1\n{PLAIN}");
    let build = || core(&source, "key = [\"id\"]", manifest(1, &["a"]));
    let (mut first, mut series) = (build(), Vec::new());
    for n in 0..5 {
        let turn = plain(&mut first, &n.to_string(), n * 1_000_000, 1.0);
        series.extend(turn.new_series);
    }
    let mut second = build();
    second.register(series, Vec::new());
    for n in 0..5 {
        let turn = plain(&mut second, &n.to_string(), 9_000_000, 1.0);
        assert_eq!((turn.readings.len(), turn.refusals.len()), (1, 0), "topic {n}");
    }
    assert_eq!(plain(&mut second, "new", 9_000_000, 1.0).refusals.len(), 0);
    let refused = &plain(&mut second, "newer", 9_000_000, 1.0).refusals;
    assert_eq!((refused[0].0, refused[0].1.reason), (Some(0), Reason::TopicRate));
}

#[test]
fn a_topic_of_many_kilobytes_becomes_no_series() {
    let mut core = core(PLAIN, "key = [\"id\"]", manifest(1, &["a"]));
    let turn = plain(&mut core, &"x".repeat(60_000), 0, 1.0);
    assert_eq!((turn.readings.len(), turn.refusals[0].1.reason), (0, Reason::BadTopic));
}

#[test]
fn series_beyond_a_lowered_limit_are_the_youngest_ones() {
    let (mut first, mut series) = (core(PLAIN, "key = [\"id\"]", manifest(1, &["a"])), Vec::new());
    for n in 0..50 {
        series.extend(plain(&mut first, &n.to_string(), n * 1_000, 1.0).new_series);
    }
    let mut second = core(&format!("series_max = 10\n{PLAIN}"), "key = [\"id\"]", manifest(1, &["a"]));
    second.register(series, Vec::new());
    for n in 0..50 {
        let accepted = plain(&mut second, &n.to_string(), 9_000_000, 1.0).readings.len();
        assert_eq!(accepted == 1, n < 10, "series {n}");
    }
}

#[test]
fn a_saved_state_names_every_instance_that_it_holds() {
    let (mut first, mut series) = (core(PLAIN, "key = [\"id\"]", manifest(2, &["a"])), Vec::new());
    for n in 0..20 {
        series.extend(plain(&mut first, &n.to_string(), n * 1_000, 1.0).new_series);
    }
    // A new configuration sees the readings again, and is stopped before any message.
    let text = "key = [\"id\"]\nwindow = { hop = 1 }";
    let mut second = core(PLAIN, text, manifest(2, &["a"]));
    second.register(series.clone(), Vec::new());
    for (n, (id, _)) in series.iter().enumerate() {
        let reading = Reading {
            series: *id,
            event_us: START_MS * 1_000 + n as i64,
            timed_by: TimedBy::Arrival,
            values: vec![n as f64],
        };
        second.accept(reading, &mut Turn::default()).unwrap();
    }
    let named = second.announce();
    assert_eq!(named.len(), 20);
    let saved = second.snapshot();
    let mut third = core(PLAIN, text, manifest(2, &["a"]));
    third.register(series, named);
    third.restore(&saved).unwrap();
    for n in 0..20 {
        let turn = plain(&mut third, &n.to_string(), 5_000_000, 100.0);
        assert_eq!(turn.windows[0].values, [n as f32, 100.0]);
    }
}

fn extreme_time() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(i64::MIN),
        Just(i64::MAX),
        Just(i64::MAX - 1),
        any::<i64>(),
        (0..100_i64).prop_map(|n| START_MS * 1_000 + n * 700_000)
    ]
}

proptest! {
    #[test]
    fn no_event_time_and_no_value_makes_the_core_panic(
        readings in prop::collection::vec((0..2_u32, extreme_time(), any::<bool>(), any::<f64>()), 1..30),
        variant in 0..6_usize,
    ) {
        let text = [
            "key = []",
            "key = []\nwindow = { gap_max = \"3s\", lateness = \"2s\", hop = 3 }",
            "key = []\ninputs.x = [\"a@slope:5s\"]\ntrigger = { on = \"a\" }",
            "key = []\nwindow = { every = \"2s\", resample = \"1s\", lateness = \"1s\" }\nmissing = { a = \"nan\" }",
            "key = []\ntrigger = { every = \"1us\" }\nmissing = { a = \"hold:30d\" }",
            "key = [\"id\"]\ninputs.x = [\"a@lag:1\"]\nwindow = { lateness = \"30d\" }",
        ][variant];
        let mut core = core(PLAIN, text, manifest(2, &["a"]));
        for id in ["x", "y"] {
            plain(&mut core, id, 0, 1.0);
        }
        for (series, event_us, arrival, value) in readings {
            let timed_by = if arrival { TimedBy::Arrival } else { TimedBy::Payload };
            let mut turn = Turn::default();
            let _ = core.accept(Reading { series: SeriesId(series), event_us, timed_by, values: vec![value] }, &mut turn);
            for window in turn.windows {
                core.finish(window.head, Some(vec![1.0]));
            }
        }
        let saved = core.snapshot();
        prop_assert!(core.restore(&saved).is_ok());
    }
}
