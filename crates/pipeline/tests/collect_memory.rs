//! Counting allocates nothing for a reading: allocations of a core that counts against one that does not.
#![expect(unsafe_code, reason = "an allocator that counts has to be one")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be built fails the test that names it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dunlin_drift::faults::Usual;
use dunlin_drift::reference::{Reading as Seen, Reference, SPANS_S};
use dunlin_model_package::profile::{FeatureProfile, MadeOf, SCHEMA};
use dunlin_model_package::{Digest, Profile};
use dunlin_pipeline::collect::{CollectSettings, Reporting};
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::{Core, ModelBinding, Turn};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SECOND_US: i64 = 1_000_000;
const READINGS: i64 = 10_000;

fn value(second: i64) -> f64 {
    20.0 + (second as f64 / 300.0).sin() + ((second * 7_919).rem_euclid(1_000)) as f64 / 1_000.0
}

fn core(counts: Option<CollectSettings>) -> Core {
    let seen: Vec<Seen<f64>> = (0..5_000).map(|n| (n * SECOND_US, Some(value(n)))).collect();
    let usual = Usual::of(std::slice::from_ref(&seen));
    let reference = Reference::of_numbers(&[seen], &SPANS_S).unwrap();
    let profile = Profile {
        schema: SCHEMA,
        made_of: MadeOf { rows: 5_000, series: 1, from_us: 0, to_us: 1 },
        features: BTreeMap::from([(
            "a".to_owned(),
            FeatureProfile { unit: None, range: None, reference, usual },
        )]),
        outputs: BTreeMap::new(),
        together: None,
        scores: None,
        metrics: BTreeMap::new(),
    };
    let manifest = serde_json::from_value(serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 32, "hop": 32 },
        "inputs": [{ "name": "x", "shape": ["batch", 32, 1], "features": [{ "name": "a" }] }],
        "outputs": [{ "name": "y", "kind": "anomaly", "shape": ["batch", 1] }],
        "blobs": {}
    }))
    .unwrap();
    let spec = toml::from_str("name = \"m\"\npackage = \"p\"\nkey = [\"id\"]").unwrap();
    let profile = counts.map(|_| Arc::new(profile));
    let binding = ModelBinding { spec, manifest, package: Digest::of(b"p"), profile };
    let source = "name = \"s\"\ntopics = [\"s/{id}\"]\nformat = \"number\"\nfields.a = {}";
    let mut core = Core::serving(&[toml::from_str(source).unwrap()], vec![binding]).unwrap();
    core.collect_with(counts);
    core
}

/// Returns the allocations of readings, and how many values were counted.
fn allocations(counts: Option<CollectSettings>) -> (usize, u64) {
    let mut core = core(counts);
    let (mut turn, mut reports) = (Turn::default(), Vec::new());
    let mut send = |core: &mut Core, second: i64| {
        turn.clear();
        // The same text whatever is counted, and written before allocations are.
        let payload = format!("{}", value(second));
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let message = Message {
            broker: None,
            topic: "s/1",
            payload: payload.as_bytes(),
            retained: false,
            arrival_us: second * SECOND_US,
            clock: ClockState::Set,
        };
        core.take(&message, &mut turn);
        core.collect(&turn.observations, std::iter::empty(), &mut reports);
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    // What is made once is there after these.
    let _: usize = (1..200).map(|second| send(&mut core, second)).sum();
    let used = (200..READINGS).map(|second| send(&mut core, second)).sum();
    (used, reports.iter().map(|report| report.summaries[0].values()).sum())
}

#[test]
fn counting_a_reading_allocates_nothing() {
    let settings = CollectSettings {
        span_us: 900 * SECOND_US,
        grace_us: 300 * SECOND_US,
        values_min: 20,
        reporting: Reporting::AtEnd,
    };
    let ((without, _), (with, values)) = (allocations(None), allocations(Some(settings)));
    assert!(values > 9_000, "{values}");
    // A window takes some when it begins and when it is told: eleven of them here.
    let windows = READINGS as usize / 900 + 1;
    assert!(with <= without + 20 * windows, "{with} allocations, {without} without counting");
}
