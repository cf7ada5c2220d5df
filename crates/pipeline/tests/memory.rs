//! What a series costs in memory beside its window, counted by the allocator.
#![expect(unsafe_code, reason = "an allocator that counts has to be one")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be built fails the test that names it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dunlin_model_package::Digest;
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::prediction::ModelIndex;
use dunlin_pipeline::{Core, LaneRole, ModelBinding, Turn};

struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() + BLOCK_OVERHEAD, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() + BLOCK_OVERHEAD, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

/// What the system's allocator adds to a block: its header, and half of the rounding to 16 bytes.
const BLOCK_OVERHEAD: usize = 16;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by the test that counts.
static ALONE: Mutex<()> = Mutex::new(());

const SERIES: usize = 10_000;
const LENGTH: usize = 32;
/// The goal of the design.
const BYTES_MAX: usize = 1_000;

fn binding(package: u32) -> ModelBinding {
    let model = "name = \"frost\"\npackage = \"frost\"\nkey = [\"room\", \"sensor\"]";
    let manifest = serde_json::json!({
        "schema": 1, "name": "frost", "version": package.to_string(), "release_counter": 1,
        "window": { "length": LENGTH },
        "inputs": [{ "name": "x", "shape": ["batch", LENGTH, 2],
            "features": [{ "name": "temperature" }, { "name": "humidity" }] }],
        "outputs": [{ "name": "risk", "kind": "anomaly", "shape": ["batch", 1], "post": { "threshold": { "above": 0.5 } } }],
        "blobs": {}
    });
    ModelBinding {
        spec: toml::from_str(model).unwrap(),
        manifest: serde_json::from_value(manifest).unwrap(),
        package: Digest::of(&package.to_le_bytes()),
        profile: None,
    }
}

fn started() -> Core {
    let source = "name = \"greenhouse\"\ntopics = [\"zigbee2mqtt/{room}/{sensor}\"]\nformat = \"json\"\n\
                  new_topics_per_second_max = 100000\nfields.temperature = {}\nfields.humidity = {}";
    Core::serving(&[toml::from_str(source).unwrap()], vec![binding(0)]).unwrap()
}

fn send(core: &mut Core, series: usize, nth: i64, turn: &mut Turn) {
    turn.clear();
    let topic = format!("zigbee2mqtt/room-{:02}/sensor-{series:05}", series % 50);
    let message = Message {
        broker: None,
        topic: &topic,
        payload: br#"{"temperature":21.5,"humidity":40}"#,
        retained: false,
        arrival_us: 1_700_000_000_000_000 + nth * 1_000,
        clock: ClockState::Set,
    };
    core.take(&message, turn);
    assert_eq!(turn.readings.len(), 1);
}

#[test]
fn ten_thousand_series_cost_less_than_a_kilobyte_each_beside_their_windows() {
    let _alone = ALONE.lock().unwrap();
    let mut core = started();
    let mut turn = Turn::default();
    let before = IN_USE.load(Ordering::Relaxed);
    for round in 0..2_i64 {
        for n in 0..SERIES {
            send(&mut core, n, round * SERIES as i64 + n as i64, &mut turn);
        }
    }
    drop(turn);
    let used = (IN_USE.load(Ordering::Relaxed) - before) / SERIES;
    let window = LENGTH * 2 * 4;

    assert!(used - window <= BYTES_MAX, "{} bytes a series beside its window", used - window);
}

/// Swaps as often as `packages` says, and returns the bytes in use after the tenth and after the last.
fn bytes_after_swaps(packages: impl Iterator<Item = u32>) -> (usize, usize) {
    let mut core = started();
    let mut turn = Turn::default();
    (0..100).for_each(|n| send(&mut core, n, n as i64, &mut turn));
    let mut early = 0;
    for (n, package) in packages.enumerate() {
        let (old, new) = if n % 2 == 0 { (0, 1) } else { (1, 0) };
        core.install(ModelIndex(new), LaneRole::Serving, binding(package)).unwrap();
        core.retire(ModelIndex(old));
        core.announce();
        send(&mut core, n % 100, 1_000 + n as i64, &mut turn);
        if n == 10 {
            early = IN_USE.load(Ordering::Relaxed);
        }
    }
    (early, IN_USE.load(Ordering::Relaxed))
}

#[test]
fn a_thousand_swaps_take_no_more_memory_than_ten() {
    let _alone = ALONE.lock().unwrap();
    // Room for a topic's text and the like.
    let slack = 4_096;
    let (early, late) = bytes_after_swaps((1..=1_000).map(|n| n % 2));
    assert!(late <= early + slack, "{early} and {late} bytes with two packages");
    let (early, late) = bytes_after_swaps(1..=1_000);
    assert!(late <= early + slack, "{early} and {late} bytes with ever new packages");
}
