//! The stage with real workers, while packages come and go: every message is answered by one arrangement of lanes, and
//! a package that hangs is gone at once.
//!
//! Plays brokers, writer and update. Waits are bounded and on results.

#![allow(clippy::unwrap_used, reason = "a test's own helpers fail the test")]

#[path = "../../crates/pipeline/src/engine/samples.rs"]
mod samples;
#[path = "support/approve.rs"]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use dunlin_daemon::app::{SlotStarter, binding};
use dunlin_daemon::config::settings::{InferenceSettings, Isolation, PublishMode};
use dunlin_daemon::flow::{AckToken, BrokerIndex, ConnectionId, Delivery, SLOT_RESULTS};
use dunlin_daemon::lanes::{Arrangement, LaneCounts, LaneFill, LanePlan, LaneRole, Leaving, lane_index};
use dunlin_daemon::metrics::Metrics;
use dunlin_daemon::mqtt::feed::{PublishQueue, publish_channel};
use dunlin_daemon::slot::{SlotState, TryLedger};
use dunlin_daemon::stage::lanes::LaneSlot;
use dunlin_daemon::stage::publishing::{PublishProgress, Publishing, Topics};
use dunlin_daemon::stage::redelivery::Redelivery;
use dunlin_daemon::stage::{Stage, StageEnd, StageLinks, StageParts};
use dunlin_daemon::store::WriterCommand;
use dunlin_daemon::store::queue::{self, Received, Receiver};
use dunlin_daemon::systemd::Watchdog;
use dunlin_kit::clock;
use dunlin_model_package::{Digest, ModelSpec, Package, SourceSpec};
use dunlin_pipeline::Core;
use dunlin_pipeline::prediction::{InstanceId, InstanceIdentity, Prediction, QualityFlags};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use support::approve;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest wait for anything in these tests: far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
const START_MS: i64 = 1_700_000_000_000;
const SOURCE: &str = "name = \"s\"\ntopics = [\"s/{id}\"]\nformat = \"json\"\nfields.a = {}\nfields.b = {}\n\
                      time = { pointer = \"/t\", format = \"unix-ms\" }";
const MODEL: &str = "name = \"m\"\npackage = \"p\"\nkey = [\"id\"]\nmissing = { a = \"const:0\" }";

/// Counts nothing.
struct NoLedger;

impl TryLedger for NoLedger {
    fn record_start(&self, _: &str, _: &Digest) -> u32 {
        1
    }

    fn record_ready(&self, _: &str, _: &Digest) {}
}

/// Writes a package of this version; returns it.
fn package(folder: &Path, version: u32, model: &[u8], outputs: u32) -> Package {
    let folder = folder.join(version.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = serde_json::json!({
        "schema": 1, "name": "m", "version": version.to_string(), "release_counter": 1, "window": { "length": 1 },
        "inputs": [{ "name": "x", "shape": ["batch", 2], "features": [{ "name": "a" }, { "name": "b" }] }],
        "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", outputs] }],
        "budgets": { "resident_bytes": 128 << 20, "deadline": "60s" },
        "blobs": { "model.onnx": { "sha256": Digest::of(model), "bytes": model.len() } }
    });
    dunlin_kit::atomic_file::write(&folder.join("model.onnx"), model).unwrap();
    dunlin_kit::atomic_file::write(&folder.join("manifest.json"), manifest.to_string().as_bytes()).unwrap();
    approve(&folder)
}

/// A stage at work.
struct Bench {
    folder: TempDir,
    deliveries: mpsc::Sender<Delivery>,
    arrangements: mpsc::Sender<Arrangement>,
    counts: watch::Receiver<Vec<LaneCounts>>,
    starter: SlotStarter,
    commands: Receiver<WriterCommand>,
    _committed: watch::Sender<u64>,
    _published: PublishQueue,
    stage: JoinHandle<StageEnd>,
    sent: u32,
    written: Written,
}

/// What the writer got.
#[derive(Default)]
struct Written {
    messages: Vec<u16>,
    readings: usize,
    instances: HashMap<InstanceId, InstanceIdentity>,
    predictions: Vec<Prediction>,
    saved: usize,
}

impl Bench {
    /// Starts with package 0 in service.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new(0));
        let (results, taken) = mpsc::channel(SLOT_RESULTS);
        let starter = SlotStarter {
            results,
            metrics: Arc::clone(&metrics),
            inference: InferenceSettings {
                isolation: Isolation::Process,
                batch_max: 32,
                tries: 3,
                restart_max: Duration::from_secs(1),
            },
            worker_program: env!("CARGO_BIN_EXE_dunlind").into(),
            tries: Arc::new(NoLedger),
        };
        let first = package(folder.path(), 0, &samples::weighted_sum(), 1);
        let source: SourceSpec = toml::from_str(SOURCE).unwrap();
        let core = Core::serving(&[source], vec![binding(&model(), &first)]).unwrap();
        let slot = starter.start(lane_index(0, 0), "m", first, Some(LaneRole::Serving));
        let (deliveries, delivered) = mpsc::channel(256);
        let (arrangements, arranged) = mpsc::channel(4);
        let (writer, commands) = queue::bounded(64);
        let (committed, through) = watch::channel(0);
        let (feed, published) = publish_channel(100_000);
        let (lane_counts, counts) = watch::channel(Vec::new());
        let topics = Topics::new("gw", &[model()]);
        let publishing = Publishing::new(feed, PublishMode::Immediate, topics, PublishProgress::default(), 0);
        let watchdog = Watchdog::default();
        let now = clock::monotonic_micros();
        let parts = StageParts {
            core,
            brokers: vec!["mqtt".to_owned()],
            slots: vec![Some(LaneSlot { slot, p99_budget: None }), None],
            lane_counts,
            publishing,
            redelivery: Redelivery::new([100]),
            next_sequence: 1,
            privacy: dunlin_drift::privacy::Privacy::default(),
            metrics,
            heartbeats: (watchdog.register("stage", now), watchdog.register("writer", now)),
        };
        let links = StageLinks {
            deliveries: delivered,
            results: taken,
            arrangements: arranged,
            control: mpsc::channel(1).1,
            losses: mpsc::channel(1).1,
            writer,
            committed: through,
            checkpoint_wanted: Arc::new(AtomicBool::new(false)),
        };
        let stage = tokio::spawn(Stage::new(parts).run(links));
        Self {
            folder,
            deliveries,
            arrangements,
            counts,
            starter,
            commands,
            _committed: committed,
            _published: published,
            stage,
            sent: 0,
            written: Written::default(),
        }
    }

    /// Sends the next message: one of three series, a window each.
    async fn send(&mut self, value: f64) {
        self.sent += 1;
        let (broker, connection) = (BrokerIndex(0), ConnectionId(1));
        let packet_id = self.sent as u16;
        let payload = format!(r#"{{"t":{},"a":{value},"b":0.5}}"#, START_MS + i64::from(self.sent));
        let delivery = Delivery {
            broker,
            topic: Bytes::from(format!("s/{}", self.sent % 3)),
            payload: Bytes::from(payload),
            retained: false,
            duplicate: false,
            ack: Some(AckToken { broker, connection, packet_id, content_crc: self.sent }),
            arrived_us: clock::monotonic_micros(),
        };
        self.deliveries.send(delivery).await.unwrap();
        // The stage is to be at work when the next one comes.
        tokio::task::yield_now().await;
        self.write();
    }

    /// Plays the writer.
    fn write(&mut self) {
        while let Received::Command(command) = self.commands.receive(Some(Duration::ZERO)) {
            match command {
                WriterCommand::Step(step) => {
                    self.written.messages.extend(step.acks.iter().map(|ack| ack.packet_id));
                    self.written.readings += step.readings.len();
                    self.written.instances.extend(step.new_instances);
                    self.written.predictions.extend(step.predictions);
                    self.written.saved += usize::from(step.checkpoint.is_some());
                }
                WriterCommand::Flush(reply) => {
                    let _ = reply.send(());
                }
                _ => {}
            }
        }
    }

    /// Waits for something, with the writer at work.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&mut Self) -> Option<T>) -> T {
        let wait = async {
            loop {
                self.write();
                if let Some(found) = wanted(self) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("it comes in time")
    }

    async fn fill(&self, lane: usize, role: LaneRole, package: &Package) -> LanePlan {
        let slot = self.starter.start(lane_index(0, lane), "m", package.clone(), None);
        assert_eq!(slot.ready().await, SlotState::Ready);
        let binding = binding(&model(), package);
        LanePlan::Fill(role, Box::new(LaneFill { binding, slot, p99_budget: Some(Duration::ZERO) }))
    }

    /// Asks for an arrangement; the receiver tells when it is in force.
    async fn arrange(&self, lanes: [LanePlan; 2]) -> oneshot::Receiver<()> {
        let (done, told) = oneshot::channel();
        self.arrangements
            .send(Arrangement { model: 0, lanes, done })
            .await
            .unwrap_or_else(|_| unreachable!());
        told
    }

    /// Waits until an arrangement is in force; false where it was refused.
    async fn in_force(&mut self, mut told: oneshot::Receiver<()>) -> bool {
        use oneshot::error::TryRecvError::{Closed, Empty};
        self.until(|_| match told.try_recv() {
            Ok(()) => Some(true),
            Err(Closed) => Some(false),
            Err(Empty) => None,
        })
        .await
    }

    async fn end(mut self) -> Written {
        drop(std::mem::replace(&mut self.deliveries, mpsc::channel(1).0));
        self.until(|bench| bench.stage.is_finished().then_some(())).await;
        assert_eq!(self.stage.await.unwrap(), StageEnd::Drained);
        self.written
    }
}

impl Written {
    /// Every message and its window, once, by one package that served.
    fn is_complete(&self, sent: u32) {
        let mut messages = self.messages.clone();
        messages.sort_unstable();
        assert_eq!(messages, (1..=sent as u16).collect::<Vec<_>>());
        assert_eq!(self.readings, sent as usize);
        let mut served: BTreeMap<i64, Vec<&Prediction>> = BTreeMap::new();
        for prediction in self.predictions.iter().filter(|p| !is_shadow(p)) {
            served.entry(prediction.head.window_end_us / 1_000 - START_MS).or_default().push(prediction);
        }
        assert_eq!(served.keys().copied().collect::<Vec<_>>(), (1..=i64::from(sent)).collect::<Vec<_>>());
        assert!(served.values().all(|made| made.len() == 1));
    }

    fn version(&self, prediction: &Prediction) -> &str {
        &self.instances[&prediction.head.instance].version
    }
}

fn model() -> ModelSpec {
    toml::from_str(MODEL).unwrap()
}

fn is_shadow(prediction: &Prediction) -> bool {
    prediction.head.flags.contains(QualityFlags::SHADOW)
}

#[tokio::test]
async fn swaps_under_load_lose_and_double_nothing() {
    let mut bench = Bench::start().await;
    let packages: Vec<Package> =
        (0..2).map(|n| package(bench.folder.path(), n, &samples::weighted_sum(), 1)).collect();
    for swap in 1..=12_usize {
        let lane = swap % 2;
        let fill = bench.fill(lane, LaneRole::Serving, &packages[lane]).await;
        for _ in 0..100 {
            bench.send(1.0).await;
        }
        let empty = LanePlan::Empty(Leaving::Drain);
        let lanes = if lane == 0 { [fill, empty] } else { [empty, fill] };
        let mut told = bench.arrange(lanes).await;
        loop {
            match told.try_recv() {
                Ok(()) => break,
                Err(error) => assert_eq!(error, oneshot::error::TryRecvError::Empty),
            }
            bench.send(2.0).await;
        }
    }
    bench.send(3.0).await;
    let sent = bench.sent;
    let metrics = Arc::clone(&bench.starter.metrics);
    assert_eq!(metrics.slots().keys().collect::<Vec<_>>(), ["m"]);
    let written = bench.end().await;
    written.is_complete(sent);
    assert_eq!(written.instances.len(), 6, "three series, two packages");
    assert!(written.saved >= 12, "a state was saved with each arrangement");
    assert!(written.predictions.iter().all(|prediction| prediction.head.flags.is_valid()));
    let (mut versions, mut last) = (0, String::new());
    for prediction in &written.predictions {
        let version = written.version(prediction);
        versions += u32::from(version != last);
        last = version.to_owned();
    }
    assert_eq!(versions, 13, "each arrangement answers its messages before the next");
}

#[tokio::test]
async fn a_shadow_is_compared_and_kept_until_it_serves() {
    let mut bench = Bench::start().await;
    let same = package(bench.folder.path(), 1, &samples::weighted_sum(), 1);
    let fill = bench.fill(1, LaneRole::Shadow, &same).await;
    let told = bench.arrange([LanePlan::Keep(LaneRole::Serving), fill]).await;
    assert!(bench.in_force(told).await);
    assert!(bench.starter.metrics.slots().contains_key("m (shadow)"));
    for n in 0..200 {
        bench.send(f64::from(n)).await;
    }
    let counts = bench.until(|bench| {
        let counts = bench.counts.borrow().clone();
        (counts[1].compared == 200).then_some(counts)
    });
    let counts = counts.await;
    assert_eq!((counts[1].predictions, counts[1].agreed, counts[1].difference_max), (200, 200, 0.0));
    assert_eq!((counts[0].predictions, counts[1].slow, counts[1].failed), (200, 200, 0));

    let promoted = [LanePlan::Empty(Leaving::Drain), LanePlan::Keep(LaneRole::Serving)];
    let told = bench.arrange(promoted).await;
    assert!(bench.in_force(told).await);
    assert!(bench.counts.borrow()[1].epoch > counts[1].epoch && bench.counts.borrow()[1].predictions == 0);
    for n in 0..50 {
        bench.send(f64::from(n)).await;
    }
    assert_eq!(bench.starter.metrics.slots()["m"].version, "1");
    let sent = bench.sent;
    let written = bench.end().await;
    written.is_complete(sent);
    assert_eq!(written.predictions.iter().filter(|p| is_shadow(p)).count(), 200);
    let serving_of = |wanted: &str| {
        let served = written.predictions.iter().filter(|p| !is_shadow(p));
        served.filter(|p| written.version(p) == wanted).count()
    };
    assert_eq!((serving_of("0"), serving_of("1")), (200, 50));
}

#[tokio::test]
async fn a_package_that_hangs_in_shadow_is_gone_at_once() {
    let mut bench = Bench::start().await;
    let endless = package(bench.folder.path(), 1, &samples::endless_above_a_hundred(300), 2);
    let fill = bench.fill(1, LaneRole::Shadow, &endless).await;
    let told = bench.arrange([LanePlan::Keep(LaneRole::Serving), fill]).await;
    assert!(bench.in_force(told).await);
    let pid = bench.starter.metrics.slots()["m (shadow)"].pid;
    for _ in 0..100 {
        bench.send(200.0).await;
    }
    // The serving lane has answered, the other never will: its deadline is a minute.
    bench.until(|bench| (bench.counts.borrow()[0].predictions == 100).then_some(())).await;
    let abandoned = [LanePlan::Keep(LaneRole::Serving), LanePlan::Empty(Leaving::Abandon)];
    let told = bench.arrange(abandoned).await;
    assert!(timeout(PATIENCE / 2, bench.in_force(told)).await.unwrap());
    bench.until(|_| kill(Pid::from_raw(pid as i32), None).is_err().then_some(())).await;
    for _ in 0..100 {
        bench.send(200.0).await;
    }
    let sent = bench.sent;
    let written = bench.end().await;
    written.is_complete(sent);
    let shadow: Vec<_> = written.predictions.iter().filter(|p| is_shadow(p)).collect();
    assert_eq!(shadow.len(), 100);
    assert!(shadow.iter().all(|p| p.head.flags.contains(QualityFlags::INFERENCE_FAILED)));
}

#[tokio::test]
async fn an_arrangement_that_cannot_be_is_refused_and_changes_nothing() {
    let mut bench = Bench::start().await;
    let (same, other) = (
        package(bench.folder.path(), 0, &samples::weighted_sum(), 1),
        package(bench.folder.path(), 1, &samples::weighted_sum(), 1),
    );
    let keep = || LanePlan::Keep(LaneRole::Serving);
    let beside_itself = [keep(), bench.fill(1, LaneRole::Shadow, &same).await];
    let told = bench.arrange(beside_itself).await;
    assert!(!bench.in_force(told).await);
    let two_serve = [keep(), bench.fill(1, LaneRole::Serving, &other).await];
    let told = bench.arrange(two_serve).await;
    assert!(!bench.in_force(told).await);
    for _ in 0..50 {
        bench.send(1.0).await;
    }
    let sent = bench.sent;
    let written = bench.end().await;
    written.is_complete(sent);
    assert_eq!((written.predictions.len(), written.instances.len()), (50, 3));
}

#[tokio::test]
async fn a_standby_takes_over_with_the_next_message() {
    let mut bench = Bench::start().await;
    let other = package(bench.folder.path(), 1, &samples::weighted_sum(), 1);
    let fill = bench.fill(1, LaneRole::Serving, &other).await;
    let told = bench.arrange([LanePlan::Keep(LaneRole::Standby), fill]).await;
    assert!(bench.in_force(told).await);
    for n in 0..60 {
        bench.send(f64::from(n)).await;
        if n == 29 {
            let back = [LanePlan::Keep(LaneRole::Serving), LanePlan::Empty(Leaving::Abandon)];
            let told = bench.arrange(back).await;
            assert!(bench.in_force(told).await);
        }
    }
    let sent = bench.sent;
    let written = bench.end().await;
    written.is_complete(sent);
    let of_standby = written.predictions.iter().filter(|p| written.version(p) == "0").count();
    assert!(of_standby >= 30 && written.predictions.len() == 60, "{of_standby}");
}
