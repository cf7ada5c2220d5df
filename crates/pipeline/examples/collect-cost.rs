//! What counting costs on the data path: the same readings through a core that counts and one that does not.
//!
//! Prints microseconds a reading and field, and the ratio of the two. `cargo run --release -p dunlin-pipeline --example
//! collect-cost`; the figures of `docs/drift-gateway.md` come from here. Asserts nothing: a busy machine is no defect.

#![expect(clippy::print_stdout, reason = "a command that measures talks to its terminal")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be built ends the measurement")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use dunlin_drift::faults::Usual;
use dunlin_drift::reference::{Reading as Seen, Reference, SPANS_S};
use dunlin_drift::subspace::Subspace;
use dunlin_model_package::profile::{FeatureProfile, MadeOf, SCHEMA, TogetherProfile};
use dunlin_model_package::{Digest, Profile};
use dunlin_pipeline::collect::{CollectSettings, Reporting};
use dunlin_pipeline::reading::{Reading, TimedBy};
use dunlin_pipeline::{Core, ModelBinding, Turn};

const FIELDS: usize = 8;
const READINGS: i64 = 200_000;
const ROUNDS: usize = 7;
const SECOND_US: i64 = 1_000_000;

fn name(field: usize) -> String {
    format!("f{field}")
}

fn value(field: usize, second: i64) -> f64 {
    let noise = ((second * 7_919 + field as i64 * 104_729).rem_euclid(10_007)) as f64 / 10_007.0 - 0.5;
    20.0 + (second as f64 / 3_000.0).sin() + noise
}

fn profile() -> Profile {
    let seen = |field: usize| -> Vec<Seen<f64>> {
        (0..20_000).map(|n| (n * SECOND_US, Some(value(field, n)))).collect()
    };
    let feature = |field: usize| FeatureProfile {
        unit: None,
        range: Some((-50.0, 100.0)),
        reference: Reference::of_numbers(&[seen(field)], &SPANS_S).unwrap(),
        usual: Usual::of(&[seen(field)]),
    };
    let rows: Vec<Vec<f64>> =
        (0..2_000).map(|n| (0..FIELDS).map(|field| value(field, n)).collect()).collect();
    let distances = Reference::of_numbers(&[seen(0)], &SPANS_S).unwrap();
    Profile {
        schema: SCHEMA,
        made_of: MadeOf { rows: 20_000, series: 1, from_us: 0, to_us: 19_999 * SECOND_US },
        features: (0..FIELDS).map(|field| (name(field), feature(field))).collect(),
        outputs: BTreeMap::new(),
        together: Some(TogetherProfile {
            features: (0..FIELDS).map(name).collect(),
            subspace: Subspace::of(rows.iter().map(Vec::as_slice)).unwrap(),
            t2: distances.clone(),
            q: distances,
        }),
        scores: None,
        metrics: BTreeMap::new(),
    }
}

fn core(profile: Option<Profile>) -> Core {
    let fields: Vec<String> = (0..FIELDS).map(|n| format!("f{n} = {{}}")).collect();
    let source =
        format!("name = \"s\"\ntopics = [\"s/{{id}}\"]\nformat = \"json\"\n[fields]\n{}", fields.join("\n"));
    let features: Vec<_> = (0..FIELDS).map(|n| serde_json::json!({ "name": name(n) })).collect();
    let manifest = serde_json::from_value(serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 32, "hop": 32 },
        "inputs": [{ "name": "x", "shape": ["batch", 32, FIELDS], "features": features }],
        "outputs": [{ "name": "y", "kind": "anomaly", "shape": ["batch", 1] }],
        "blobs": {}
    }))
    .unwrap();
    let spec = toml::from_str("name = \"m\"\npackage = \"p\"\nkey = [\"id\"]").unwrap();
    let counts = profile.is_some();
    let binding = ModelBinding { spec, manifest, package: Digest::of(b"p"), profile: profile.map(Arc::new) };
    let mut core = Core::serving(&[toml::from_str(&source).unwrap()], vec![binding]).unwrap();
    core.collect_with(counts.then_some(CollectSettings {
        span_us: 3_600 * SECOND_US,
        grace_us: 900 * SECOND_US,
        values_min: 20,
        reporting: Reporting::AtEnd,
    }));
    core
}

/// Returns the microseconds of a reading, of the fastest round; and how many windows were reported.
fn measure(profile: Option<&Profile>) -> (f64, usize) {
    let mut best = f64::INFINITY;
    let mut windows = 0;
    for _ in 0..ROUNDS {
        let mut core = core(profile.cloned());
        let mut turn = Turn::default();
        let first = dunlin_pipeline::message::Message {
            broker: None,
            topic: "s/1",
            payload: b"{\"f0\":20}",
            retained: false,
            arrival_us: 1,
            clock: dunlin_pipeline::message::ClockState::Set,
        };
        core.take(&first, &mut turn);
        let series = turn.readings[0].series;
        let readings: Vec<Reading> = (1..READINGS)
            .map(|second| Reading {
                series,
                event_us: second * SECOND_US,
                timed_by: TimedBy::Arrival,
                values: (0..FIELDS).map(|field| value(field, second)).collect(),
            })
            .collect();
        let (mut reports, mut observations) = (Vec::new(), Vec::new());
        let begin = Instant::now();
        for (n, reading) in readings.into_iter().enumerate() {
            let _ = core.accept(reading, &mut turn);
            if n % 64 == 0 {
                observations.append(&mut turn.observations);
                core.collect(&observations, std::iter::empty(), &mut reports);
                observations.clear();
                turn.clear();
            }
        }
        best = best.min(begin.elapsed().as_secs_f64() * 1e6 / READINGS as f64);
        windows = reports.len();
    }
    (best, windows)
}

fn main() {
    let profile = profile();
    let ((without, _), (with, windows)) = (measure(None), measure(Some(&profile)));
    let each = (with - without) / FIELDS as f64;
    println!("{READINGS} readings of {FIELDS} fields, distances T2 and Q, {windows} windows reported");
    println!("without counting {without:.3} us a reading, with {with:.3} us: {:.2} times", with / without);
    println!("counting costs {each:.3} us a reading and field");
}
