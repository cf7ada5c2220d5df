//! Slots with real worker processes: what a model does wrong costs its own slot alone, and no window is lost.
//!
//! Starts the daemon's program as worker, kills it, feeds it hostile models. Waits are bounded and on results.

#![allow(clippy::unwrap_used, reason = "a test's own helpers fail the test")]

#[path = "../../crates/pipeline/src/engine/samples.rs"]
mod samples;
#[path = "support/approve.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dunlin_daemon::config::settings::{InferenceSettings, Isolation, UpdateSettings};
use dunlin_daemon::flow::{SLOT_RESULTS, SlotFailure, SlotJob, SlotResult};
use dunlin_daemon::lanes::LaneRole;
use dunlin_daemon::metrics::{Metrics, SlotCounts};
use dunlin_daemon::slot::{SlotFaults, SlotHandle, SlotSpec, SlotState, TryLedger, spawn_slot};
use dunlin_daemon::store::{FolderLock, StateDatabase};
use dunlin_daemon::update::book::ReleaseBook;
use dunlin_daemon::update::machine::Rules;
use dunlin_model_package::{Digest, Package};
use dunlin_pipeline::prediction::ModelIndex;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::approve;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Counts nothing.
struct NoLedger;

impl TryLedger for NoLedger {
    fn record_start(&self, _: &str, _: &Digest) -> u32 {
        1
    }

    fn record_ready(&self, _: &str, _: &Digest) {}
}

/// Longest wait for anything in these tests: far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    folder: TempDir,
    slot: SlotHandle,
    results: mpsc::Receiver<Vec<SlotResult>>,
    collected: Vec<SlotResult>,
    metrics: Arc<Metrics>,
    next_ticket: u64,
}

fn write_package(folder: &Path, model: &[u8], outputs: u32, deadline: &str) -> Package {
    let manifest = serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
        "inputs": [{ "name": "x", "shape": ["batch", 2], "features": [{ "name": "a" }, { "name": "b" }] }],
        "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", outputs] }],
        "budgets": { "resident_bytes": 128 << 20, "deadline": deadline },
        "blobs": { "model.onnx": { "sha256": Digest::of(model), "bytes": model.len() } }
    });
    dunlin_kit::atomic_file::write(&folder.join("model.onnx"), model).unwrap();
    dunlin_kit::atomic_file::write(&folder.join("manifest.json"), manifest.to_string().as_bytes()).unwrap();
    approve(folder)
}

fn bench(model: &[u8], outputs: u32) -> Bench {
    bench_with(model, outputs, "10s", Isolation::Process, Arc::new(NoLedger))
}

fn bench_of(worker_program: &str, model: &[u8]) -> Bench {
    start(worker_program, model, 1, "10s", Isolation::Process, Arc::new(NoLedger))
}

fn bench_with(
    model: &[u8],
    outputs: u32,
    deadline: &str,
    isolation: Isolation,
    tries: Arc<dyn TryLedger>,
) -> Bench {
    start(env!("CARGO_BIN_EXE_dunlind"), model, outputs, deadline, isolation, tries)
}

fn start(
    worker_program: &str,
    model: &[u8],
    outputs: u32,
    deadline: &str,
    isolation: Isolation,
    tries: Arc<dyn TryLedger>,
) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let (sender, results) = mpsc::channel(SLOT_RESULTS);
    let metrics = Arc::new(Metrics::new(0));
    let spec = SlotSpec {
        model: ModelIndex(3),
        name: "m".to_owned(),
        role: Some(LaneRole::Serving),
        package: write_package(folder.path(), model, outputs, deadline),
        inference: InferenceSettings {
            isolation,
            batch_max: 32,
            tries: 3,
            restart_max: Duration::from_secs(1),
        },
        worker_program: worker_program.into(),
        tries,
    };
    let slot = spawn_slot(spec, sender, Arc::clone(&metrics));
    Bench { folder, slot, results, collected: Vec::new(), metrics, next_ticket: 0 }
}

impl Bench {
    fn submit(&mut self, values: [f32; 2]) {
        let job = SlotJob { ticket: self.next_ticket, values: values.to_vec() };
        self.slot.try_submit(job).expect("the slot takes the window");
        self.next_ticket += 1;
    }

    /// Waits until as many windows are answered as `count`, and checks their order.
    async fn answered(&mut self, count: usize) -> &[SlotResult] {
        while self.collected.len() < count {
            let more = timeout(PATIENCE, self.results.recv()).await.expect("results come in time").unwrap();
            self.collected.extend(more);
        }
        let tickets: Vec<u64> = self.collected.iter().map(|result| result.ticket).collect();
        assert_eq!(tickets, (0..count as u64).collect::<Vec<_>>());
        &self.collected
    }

    async fn ready(&self) -> SlotState {
        timeout(PATIENCE, self.slot.ready()).await.expect("the slot starts in time")
    }

    fn counts(&self) -> SlotCounts {
        self.metrics.slots().remove("m").unwrap()
    }

    /// Waits until the slot's counts are as wanted.
    async fn until(&self, wanted: impl Fn(&SlotCounts) -> bool) -> SlotCounts {
        let wait = async {
            loop {
                let counts = self.counts();
                if wanted(&counts) {
                    return counts;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("the slot gets there in time")
    }
}

fn failure(result: &SlotResult) -> Option<SlotFailure> {
    result.outputs.as_ref().err().copied()
}

fn is_alive(pid: u32) -> bool {
    kill(Pid::from_raw(pid as i32), None).is_ok()
}

#[tokio::test]
async fn windows_come_back_in_order_with_their_own_outputs() {
    let mut bench = bench(&samples::weighted_sum(), 1);
    (0..3_000).for_each(|i| bench.submit([i as f32, 0.5]));
    for (i, result) in bench.answered(3_000).await.iter().enumerate() {
        assert_eq!(result.model, ModelIndex(3));
        assert_eq!(result.outputs.as_deref(), Ok(&[i as f32 + 1.0][..]));
    }
    let counts = bench.counts();
    assert_eq!((counts.windows, counts.starts, counts.state.as_str()), (3_000, 1, "ready"));
    assert!(counts.runs < 200, "windows are batched: {} runs", counts.runs);
    assert!(counts.resident_bytes > 1 << 20);
    assert!(is_alive(counts.pid));
    timeout(PATIENCE, bench.slot.shutdown(PATIENCE)).await.unwrap();
    assert!(!is_alive(counts.pid), "no worker and no zombie is left");
}

#[tokio::test]
async fn a_worker_is_confined() {
    let bench = bench(&samples::weighted_sum(), 1);
    assert_eq!(bench.ready().await, SlotState::Ready);
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.counts().pid)).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_ascii_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    assert_eq!(field("Threads:"), "1");
    let blocked = u64::from_str_radix(&field("SigBlk:"), 16).unwrap();
    let stop = 1 << (Signal::SIGTERM as u32 - 1) | 1 << (Signal::SIGINT as u32 - 1);
    assert_eq!(blocked & stop, stop, "the daemon drains before its workers end");
}

#[tokio::test]
async fn a_worker_killed_twenty_times_loses_no_window() {
    let mut bench = bench(&samples::weighted_sum(), 1);
    let mut submitted = 0;
    for round in 0..20_u64 {
        let pid = bench.until(|counts| counts.pid != 0 && counts.starts > round).await.pid;
        for _ in 0..100 {
            bench.submit([submitted as f32, 0.0]);
            submitted += 1;
        }
        // Every second time the windows are on their way when the worker dies.
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
    for (i, result) in bench.answered(2_000).await.iter().enumerate() {
        assert_eq!(result.outputs.as_deref(), Ok(&[i as f32][..]));
    }
    assert!(bench.until(|counts| counts.starts >= 21).await.failed.is_empty());
}

#[tokio::test]
async fn an_idle_worker_that_is_killed_again_and_again_comes_back() {
    let mut bench = bench(&samples::weighted_sum(), 1);
    for round in 0..20_u64 {
        let pid = bench.until(|counts| counts.pid != 0 && counts.starts > round).await.pid;
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        bench.until(|counts| counts.starts > round + 1).await;
    }
    bench.submit([1.0, 1.0]);
    assert_eq!(failure(&bench.answered(1).await[0]), None);
}

#[tokio::test]
async fn only_the_poisonous_window_of_a_batch_is_given_up() {
    let endless = samples::endless_above_a_hundred(300);
    let mut bench = bench_with(&endless, 2, "1s", Isolation::Process, Arc::new(NoLedger));
    assert_eq!(bench.ready().await, SlotState::Ready);
    (0..12).for_each(|i| bench.submit([if i == 5 { 200.0 } else { 1.0 }, 1.0]));
    let failures: Vec<_> = bench.answered(12).await.iter().map(failure).collect();
    let mut expected = vec![None; 12];
    expected[5] = Some(SlotFailure::Deadline);
    assert_eq!(failures, expected);
    let counts = bench.until(|counts| counts.state == "ready").await;
    assert_eq!(counts.failed["deadline"], 1);
    assert!(counts.last_error.unwrap().contains("1000 ms"));
}

#[tokio::test]
async fn a_window_whose_worker_dies_at_every_try_is_given_up() {
    let endless = samples::endless_above_a_hundred(300);
    let mut bench = bench_with(&endless, 2, "60s", Isolation::Process, Arc::new(NoLedger));
    assert_eq!(bench.ready().await, SlotState::Ready);
    bench.submit([200.0, 1.0]);
    let mut dead = 0;
    let results = loop {
        let counts = bench.counts();
        if counts.pid != 0 && counts.pid != dead {
            dead = counts.pid;
            let _ = kill(Pid::from_raw(dead as i32), Signal::SIGABRT);
        }
        if let Ok(results) = timeout(Duration::from_millis(20), bench.results.recv()).await {
            break results.unwrap();
        }
    };
    assert_eq!(failure(&results[0]), Some(SlotFailure::Crashed));
    assert!(bench.counts().last_error.unwrap().contains("SIGABRT"));
}

#[tokio::test]
async fn memory_beyond_the_budget_is_not_given_to_a_model() {
    let mut bench = bench(&samples::memory_bomb(1 << 20), 2);
    // 8 GB, then 8 MB, under a budget of 128 MiB.
    bench.submit([1_000.0, 1.0]);
    bench.submit([1.0, 1.0]);
    let failures: Vec<_> = bench.answered(2).await.iter().map(failure).collect();
    assert!(matches!(failures[..], [Some(_), None]), "{failures:?}");
    assert!(bench.counts().resident_bytes < 256 << 20);
}

#[tokio::test]
async fn a_worker_that_never_starts_keeps_its_slot_waiting() {
    let mut bench = bench_of("/bin/false", &samples::weighted_sum());
    assert_eq!(bench.ready().await, SlotState::Waiting);
    bench.submit([1.0, 1.0]);
    assert_eq!(failure(&bench.answered(1).await[0]), Some(SlotFailure::Unavailable));
    assert!(bench.counts().last_error.unwrap().contains("ended with code 1"));
}

#[tokio::test]
async fn errors_and_panics_of_the_engine_fail_their_window_without_a_restart() {
    for model in [samples::integer_division(), samples::lookup()] {
        let mut bench = bench(&model, 2);
        assert_eq!(bench.ready().await, SlotState::Ready);
        (0..8).for_each(|i| bench.submit(if i == 2 { [0.0, 7.0] } else { [2.0, 1.0] }));
        let failures: Vec<_> = bench.answered(8).await.iter().map(failure).collect();
        let mut expected = vec![None; 8];
        expected[2] = Some(SlotFailure::Engine);
        assert_eq!(failures, expected);
        let counts = bench.counts();
        assert_eq!((counts.starts, counts.failed["engine"]), (1, 1));
        assert!(counts.last_error.is_some());
    }
}

#[tokio::test]
async fn hostile_models_cost_their_own_slot_alone() {
    let mut good = bench(&samples::weighted_sum(), 1);
    let garbage = bench(&[0xff; 300], 2);
    let unknown = bench(&samples::unknown_operator(), 2);
    let mut endless = bench_with(&samples::endless(300), 2, "200ms", Isolation::Process, Arc::new(NoLedger));
    for i in 0..200 {
        good.submit([i as f32, 0.0]);
        if i % 50 == 0 {
            endless.submit([i as f32, 0.0]);
        }
    }
    assert!(good.answered(200).await.iter().all(|result| failure(result).is_none()));

    assert_eq!(garbage.ready().await, SlotState::Failed);
    assert!(garbage.counts().last_error.unwrap().contains("no readable ONNX model"));
    assert_eq!(unknown.ready().await, SlotState::Failed);
    assert!(unknown.counts().last_error.unwrap().contains("operator `Frobnicate` of node"));
    assert!(endless.answered(4).await.iter().all(|result| failure(result).is_some()));

    (0..200).for_each(|i| good.submit([i as f32, 0.0]));
    assert!(good.answered(400).await.iter().all(|result| failure(result).is_none()));
    assert_eq!(good.counts().starts, 1);
}

#[tokio::test]
async fn a_slot_that_is_down_answers_at_once_and_recovers_when_the_file_is_back() {
    let mut bench = bench(&samples::weighted_sum(), 1);
    assert_eq!(bench.ready().await, SlotState::Ready);
    let path = bench.folder.path().join("model.onnx");
    let aside = bench.folder.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    kill(Pid::from_raw(bench.counts().pid as i32), Signal::SIGKILL).unwrap();
    bench.until(|counts| counts.state == "failed").await;
    bench.submit([1.0, 2.0]);
    assert_eq!(failure(&bench.answered(1).await[0]), Some(SlotFailure::Unavailable));
    std::fs::rename(&aside, &path).unwrap();
    bench.until(|counts| counts.state == "ready").await;
    bench.submit([1.0, 2.0]);
    assert_eq!(failure(&bench.answered(2).await[1]), None);
}

/// A book of releases without any: it counts starts.
fn book(lock: &FolderLock, folder: &Path) -> ReleaseBook {
    let update = UpdateSettings {
        shadow_predictions: 0,
        shadow_time_max: Duration::ZERO,
        shadow_agreement_min: 0.0,
        trial_predictions: 0,
        trial_time: Duration::ZERO,
        trial_faults_max: 0.0,
    };
    let database = StateDatabase::open(lock).unwrap();
    ReleaseBook::open(database, folder, Rules { update, tries: 3 }, vec!["m".to_owned()]).unwrap()
}

#[tokio::test]
async fn a_model_that_never_became_ready_before_waits_first() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::acquire(folder.path()).unwrap();
    let ledger = Arc::new(book(&lock, folder.path()));
    let model = samples::weighted_sum();
    let digest = write_package(folder.path(), &model, 1, "10s").digest();
    (0..3).for_each(|_| assert!(ledger.record_start("m", &digest) <= 3));
    let mut bench = bench_with(&model, 1, "10s", Isolation::Process, ledger);
    assert_eq!(bench.ready().await, SlotState::Waiting);
    bench.submit([1.0, 2.0]);
    assert_eq!(failure(&bench.answered(1).await[0]), Some(SlotFailure::Unavailable));
    bench.until(|counts| counts.state == "ready").await;
}

#[tokio::test]
async fn what_was_submitted_is_answered_before_a_slot_ends() {
    let mut bench = bench(&samples::weighted_sum(), 1);
    (0..500).for_each(|i| bench.submit([i as f32, 0.0]));
    timeout(PATIENCE, bench.slot.shutdown(PATIENCE)).await.unwrap();
    let mut answered = 0;
    while let Some(results) = timeout(PATIENCE, bench.results.recv()).await.unwrap() {
        answered += results.len();
    }
    assert_eq!(answered, 500);
}

#[tokio::test]
async fn faults_are_told_by_kind_and_kills_from_outside_apart() {
    let endless = samples::endless_above_a_hundred(300);
    let mut bench = bench_with(&endless, 2, "1s", Isolation::Process, Arc::new(NoLedger));
    assert_eq!(bench.ready().await, SlotState::Ready);
    let faults = bench.slot.faults();
    let now = || faults.borrow().clone();
    assert_eq!(now(), SlotFaults::default());
    kill(Pid::from_raw(bench.counts().pid as i32), Signal::SIGKILL).unwrap();
    bench.until(|counts| counts.starts >= 2 && counts.pid != 0).await;
    assert_eq!((now().kills, now().crashes), (1, 0));
    kill(Pid::from_raw(bench.counts().pid as i32), Signal::SIGABRT).unwrap();
    bench.until(|counts| counts.starts >= 3 && counts.pid != 0).await;
    assert_eq!((now().kills, now().crashes), (1, 1));
    bench.submit([200.0, 1.0]);
    assert_eq!(failure(&bench.answered(1).await[0]), Some(SlotFailure::Deadline));
    let SlotFaults { crashes, deadline_overruns, engine_errors, kills, unstartable, last } = now();
    assert_eq!((crashes, deadline_overruns, engine_errors, kills, unstartable), (1, 3, 0, 1, 0));
    assert!(last.unwrap().contains("1000 ms"));

    let bench = bench_with(&[0xff; 300], 2, "1s", Isolation::Process, Arc::new(NoLedger));
    assert_eq!(bench.ready().await, SlotState::Failed);
    assert_eq!(bench.slot.faults().borrow().engine_errors, 1);
}

#[tokio::test]
async fn a_board_without_room_for_a_worker_is_not_taken_for_a_model_that_crashes() {
    let bench = bench_of("/nonexistent/dunlind", &samples::weighted_sum());
    assert_eq!(bench.ready().await, SlotState::Waiting);
    let faults = bench.slot.faults().borrow().clone();
    assert!(faults.unstartable > 0, "{faults:?}");
    assert_eq!(
        faults,
        SlotFaults { unstartable: faults.unstartable, last: faults.last.clone(), ..SlotFaults::default() }
    );
}

#[tokio::test]
async fn an_abandoned_slot_is_gone_whatever_its_model_does() {
    let endless = samples::endless_above_a_hundred(300);
    let mut bench = bench_with(&endless, 2, "60s", Isolation::Process, Arc::new(NoLedger));
    assert_eq!(bench.ready().await, SlotState::Ready);
    let pid = bench.counts().pid;
    bench.submit([200.0, 1.0]);
    tokio::task::yield_now().await;
    bench.slot.abandon();
    let gone = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE / 2, gone).await.unwrap();
    assert!(bench.metrics.slots().is_empty());
    assert!(bench.results.recv().await.is_none(), "no result comes after all");
}

#[tokio::test]
async fn a_thread_keeps_the_same_promises() {
    let thread = |model: &[u8], outputs, deadline| {
        bench_with(model, outputs, deadline, Isolation::Thread, Arc::new(NoLedger))
    };
    let mut good = thread(&samples::weighted_sum(), 1, "10s");
    (0..1_000).for_each(|i| good.submit([i as f32, 0.5]));
    for (i, result) in good.answered(1_000).await.iter().enumerate() {
        assert_eq!(result.outputs.as_deref(), Ok(&[i as f32 + 1.0][..]));
    }
    let mut panicking = thread(&samples::lookup(), 2, "10s");
    panicking.submit([0.0, 7.0]);
    panicking.submit([2.0, 1.0]);
    let failures: Vec<_> = panicking.answered(2).await.iter().map(failure).collect();
    assert_eq!(failures, [Some(SlotFailure::Engine), None]);
    assert_eq!(thread(&[0xff; 300], 2, "10s").ready().await, SlotState::Failed);
}

#[tokio::test]
async fn threads_past_their_deadline_are_abandoned_a_few_times_only() {
    // A second or more a run, far beyond the deadline, and finite: the test's own process must end.
    let mut bench =
        bench_with(&samples::endless_above_a_hundred(20), 2, "50ms", Isolation::Thread, Arc::new(NoLedger));
    assert_eq!(bench.ready().await, SlotState::Ready);
    bench.submit([200.0, 1.0]);
    let given_up = failure(&bench.answered(1).await[0]);
    assert!(matches!(given_up, Some(SlotFailure::Deadline | SlotFailure::Unavailable)), "{given_up:?}");
    bench.submit([200.0, 1.0]);
    assert!(failure(&bench.answered(2).await[1]).is_some());
    assert!(bench.counts().starts <= 8);
}
