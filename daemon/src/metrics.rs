//! Counters and gauges that the daemon's stages write and `status` and `/metrics` read.
//!
//! Only numbers and short texts in shared memory; never a sensor value. Any stage may count, nothing waits here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_pipeline::collect::CollectCounts;
use sketches_ddsketch::{Config, DDSketch};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns the value.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What was refused of one source.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct SourceCounts {
    /// Messages that matched the source.
    pub messages: u64,
    /// Readings that were accepted.
    pub accepted: u64,
    /// Refusals by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// The last offending payloads by reason.
    pub samples: BTreeMap<&'static str, RefusedSample>,
}

/// The last payload that was refused for a reason.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct RefusedSample {
    /// Its topic.
    pub topic: String,
    /// What was wrong with it.
    pub detail: String,
    /// Its beginning, at most [`SAMPLE_BYTES_MAX`], with control characters escaped.
    pub payload: String,
    /// When, in microseconds since 1970 by the gateway's clock.
    pub at_us: i64,
}

/// Longest sample of a refused payload.
pub const SAMPLE_BYTES_MAX: usize = 256;

/// State and counts of one model's slot.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct SlotCounts {
    /// Version of the package.
    pub version: String,
    /// Digest of the package.
    pub digest: String,
    /// `starting`, `ready`, `waiting` (to start again) or `failed`.
    pub state: String,
    /// Process id of the worker; 0 for a thread.
    pub pid: u32,
    /// Why the slot is not ready, or was not at last.
    pub last_error: Option<String>,
    /// Windows that were run.
    pub windows: u64,
    /// Runs of the engine: windows are batched.
    pub runs: u64,
    /// Windows without outputs by cause.
    pub failed: BTreeMap<&'static str, u64>,
    /// How often a worker was started.
    pub starts: u64,
    /// Resident memory of the worker in bytes, as last seen.
    pub resident_bytes: u64,
    /// Instances: series keys of this model.
    pub instances: u64,
    /// Rows not made or dropped by reason.
    pub rows_refused: BTreeMap<&'static str, u64>,
}

/// State and counts of one broker's connections.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct BrokerCounts {
    /// Address without credentials.
    pub url: String,
    /// Whether the ingest connection stands.
    pub connected: bool,
    /// Connections that were made.
    pub connects: u64,
    /// Why the last connection ended or failed.
    pub last_error: Option<String>,
    /// Messages received, at QoS 0 and 1.
    pub messages: u64,
    /// Payload bytes received.
    pub payload_bytes: u64,
    /// QoS 1 messages received and not acknowledged yet.
    pub in_flight: u64,
    /// Messages given up: the queue was full longer than the keep-alive allows, or a session was started clean.
    pub dropped: u64,
}

/// State of the telemetry store.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct StoreCounts {
    /// Transactions.
    pub commits: u64,
    /// Readings committed.
    pub readings: u64,
    /// Predictions committed.
    pub predictions: u64,
    /// Bytes that the writer's thread handed to the block layer.
    pub written_bytes: u64,
    /// Pages in use times page size.
    pub used_bytes: u64,
    /// Largest size the store may take.
    pub quota_bytes: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Rows of the loss ledger by kind and reason.
    pub lost: BTreeMap<String, u64>,
    /// Batches whose checksum was wrong.
    pub quarantined: u64,
    /// `ok`, `full`, `read_only`, `failing`, and since when it is not ok.
    pub state: String,
    /// The last error of the store.
    pub last_error: Option<String>,
    /// Last sequence number on disk.
    pub last_sequence: u64,
}

/// How the counting of inputs and outputs stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DriftCounts {
    /// Windows that were reported since the start, revisions among them.
    pub windows_reported: u64,
    /// Windows that are open.
    pub windows_open: u64,
    /// Sensors that are watched.
    pub sensors: u64,
    /// Sensors that are faulty, by what is wrong.
    pub faulty: BTreeMap<String, u64>,
    /// Some of them: series, field, and what is wrong.
    pub shown: Vec<(String, String, String)>,
}

impl From<CollectCounts> for DriftCounts {
    fn from(counts: CollectCounts) -> Self {
        let faulty = counts.faulty.into_iter().map(|(flaw, count)| (flaw.word().to_owned(), count));
        let shown = counts.shown.into_iter();
        Self {
            windows_reported: 0,
            windows_open: counts.windows_open,
            sensors: counts.sensors,
            faulty: faulty.collect(),
            shown: shown.map(|one| (one.name, one.field, one.flaw.word().to_owned())).collect(),
        }
    }
}

/// All counters of one daemon.
pub struct Metrics {
    /// Monotonic time at start, in microseconds since boot.
    pub started_us: i64,
    /// Messages handed to the pipeline.
    pub messages: Counter,
    /// Readings accepted.
    pub readings: Counter,
    /// Predictions made, valid or not.
    pub predictions: Counter,
    /// Predictions that are not valid.
    pub predictions_invalid: Counter,
    /// Publications handed to the socket.
    pub published: Counter,
    /// Publications acknowledged by the broker.
    pub published_acked: Counter,
    /// Publications sent again after a loss of connection or a restart.
    pub republished: Counter,
    /// 1 once the daemon is ready, as the service manager is told; 0 before.
    pub ready: Gauge,
    /// Series known.
    pub series: Gauge,
    /// Windows full and waiting for a slot.
    pub windows_waiting: Gauge,
    /// Messages waiting for the stage.
    pub deliveries_waiting: Gauge,
    /// Steps waiting for the writer.
    pub steps_waiting: Gauge,
    /// Publications waiting for the publisher.
    pub publications_waiting: Gauge,
    /// Configuration reloads that were accepted.
    pub reloads: Counter,
    /// Windows of statistics that were reported, revisions among them.
    pub windows_reported: Counter,
    drift: Mutex<DriftCounts>,
    sources: Mutex<BTreeMap<String, SourceCounts>>,
    slots: Mutex<BTreeMap<String, SlotCounts>>,
    brokers: Mutex<BTreeMap<String, BrokerCounts>>,
    store: Mutex<StoreCounts>,
    latency: Mutex<DDSketch>,
}

impl Metrics {
    /// Returns counters at zero for a daemon that starts at this monotonic time.
    #[must_use]
    pub fn new(started_us: i64) -> Self {
        Self {
            started_us,
            messages: Counter::default(),
            readings: Counter::default(),
            predictions: Counter::default(),
            predictions_invalid: Counter::default(),
            published: Counter::default(),
            published_acked: Counter::default(),
            republished: Counter::default(),
            ready: Gauge::default(),
            series: Gauge::default(),
            windows_waiting: Gauge::default(),
            deliveries_waiting: Gauge::default(),
            steps_waiting: Gauge::default(),
            publications_waiting: Gauge::default(),
            reloads: Counter::default(),
            windows_reported: Counter::default(),
            drift: Mutex::default(),
            sources: Mutex::default(),
            slots: Mutex::default(),
            brokers: Mutex::default(),
            store: Mutex::default(),
            latency: Mutex::new(DDSketch::new(Config::new(0.01, 2_048, 1.0e-9))),
        }
    }

    /// Changes the counts of a source.
    pub fn source(&self, name: &str, change: impl FnOnce(&mut SourceCounts)) {
        change(entry(&mut lock(&self.sources), name));
    }

    /// Changes the counts of a model's slot.
    pub fn slot(&self, model: &str, change: impl FnOnce(&mut SlotCounts)) {
        change(entry(&mut lock(&self.slots), model));
    }

    /// Moves the counts of a slot to another name, in place of what was there.
    pub fn rename_slot(&self, from: &str, to: &str) {
        let mut slots = lock(&self.slots);
        if let Some(counts) = slots.remove(from) {
            slots.insert(to.to_owned(), counts);
        }
    }

    /// Forgets the counts of a slot.
    pub fn forget_slot(&self, name: &str) {
        lock(&self.slots).remove(name);
    }

    /// Changes the counts of a broker.
    pub fn broker(&self, name: &str, change: impl FnOnce(&mut BrokerCounts)) {
        change(entry(&mut lock(&self.brokers), name));
    }

    /// Changes how the counting stands.
    pub fn drift(&self, change: impl FnOnce(&mut DriftCounts)) {
        change(&mut lock(&self.drift));
    }

    /// Returns how the counting stands.
    #[must_use]
    pub fn drift_counts(&self) -> DriftCounts {
        DriftCounts { windows_reported: self.windows_reported.get(), ..lock(&self.drift).clone() }
    }

    /// Changes the counts of the store.
    pub fn store(&self, change: impl FnOnce(&mut StoreCounts)) {
        change(&mut lock(&self.store));
    }

    /// Records the time from a message's arrival to its prediction, in seconds.
    pub fn record_latency(&self, seconds: f64) {
        lock(&self.latency).add(seconds);
    }

    /// Returns a copy of the counts by source.
    #[must_use]
    pub fn sources(&self) -> BTreeMap<String, SourceCounts> {
        lock(&self.sources).clone()
    }

    /// Returns a copy of the counts by model.
    #[must_use]
    pub fn slots(&self) -> BTreeMap<String, SlotCounts> {
        lock(&self.slots).clone()
    }

    /// Returns a copy of the counts by broker.
    #[must_use]
    pub fn brokers(&self) -> BTreeMap<String, BrokerCounts> {
        lock(&self.brokers).clone()
    }

    /// Returns a copy of the counts of the store.
    #[must_use]
    pub fn store_counts(&self) -> StoreCounts {
        lock(&self.store).clone()
    }

    /// Returns the latency at this quantile in seconds, or `None` before the first prediction.
    #[must_use]
    pub fn latency_quantile(&self, quantile: f64) -> Option<f64> {
        lock(&self.latency).quantile(quantile).ok().flatten()
    }

    /// Returns count and sum in seconds of the recorded latencies.
    #[must_use]
    pub fn latency_totals(&self) -> (u64, f64) {
        let sketch = lock(&self.latency);
        (sketch.count() as u64, sketch.sum().unwrap_or(0.0))
    }
}

fn entry<'m, T: Default>(map: &'m mut BTreeMap<String, T>, name: &str) -> &'m mut T {
    if !map.contains_key(name) {
        map.insert(name.to_owned(), T::default());
    }
    map.get_mut(name).expect("the entry was inserted above")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
