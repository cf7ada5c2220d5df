//! What a series costs in memory beside its window, counted by the allocator.
#![expect(unsafe_code, reason = "an allocator that counts has to be one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use dunlin_model_package::Digest;
use dunlin_pipeline::message::{ClockState, Message};
use dunlin_pipeline::{Core, ModelBinding, Turn};

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

const SERIES: usize = 10_000;
const LENGTH: usize = 32;
/// The goal of the design.
const BYTES_MAX: usize = 1_000;

#[test]
fn ten_thousand_series_cost_less_than_a_kilobyte_each_beside_their_windows() {
    let source = "name = \"greenhouse\"\ntopics = [\"zigbee2mqtt/{room}/{sensor}\"]\nformat = \"json\"\n\
                  new_topics_per_second_max = 100000\nfields.temperature = {}\nfields.humidity = {}";
    let model = "name = \"frost\"\npackage = \"frost\"\nkey = [\"room\", \"sensor\"]";
    let manifest = serde_json::json!({
        "schema": 1, "name": "frost", "version": "1.0.0", "release_counter": 1, "window": { "length": LENGTH },
        "inputs": [{ "name": "x", "shape": ["batch", LENGTH, 2],
            "features": [{ "name": "temperature" }, { "name": "humidity" }] }],
        "outputs": [{ "name": "risk", "kind": "anomaly", "shape": ["batch", 1], "post": { "threshold": { "above": 0.5 } } }],
        "blobs": {}
    });
    let binding = ModelBinding {
        spec: toml::from_str(model).unwrap(),
        manifest: serde_json::from_value(manifest).unwrap(),
        package: Digest::of(b"package"),
    };
    let mut core = Core::compile(&[toml::from_str(source).unwrap()], vec![binding]).unwrap();
    let mut turn = Turn::default();
    let before = IN_USE.load(Ordering::Relaxed);
    for round in 0..2_i64 {
        for n in 0..SERIES {
            turn.clear();
            let topic = format!("zigbee2mqtt/room-{:02}/sensor-{n:05}", n % 50);
            let message = Message {
                broker: None,
                topic: &topic,
                payload: br#"{"temperature":21.5,"humidity":40}"#,
                retained: false,
                arrival_us: 1_700_000_000_000_000 + (round * SERIES as i64 + n as i64) * 1_000,
                clock: ClockState::Set,
            };
            core.take(&message, &mut turn);
            assert_eq!(turn.readings.len(), 1);
        }
    }
    drop(turn);
    let used = (IN_USE.load(Ordering::Relaxed) - before) / SERIES;
    let window = LENGTH * 2 * 4;

    assert!(used - window <= BYTES_MAX, "{} bytes a series beside its window", used - window);
}
