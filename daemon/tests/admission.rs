//! Admission with real workers: what keeps its vectors and budgets runs, anything else is refused by code.
//!
//! Builds packages, approves them with a key of the test and admits them; asserts no time.

#![allow(clippy::unwrap_used, reason = "a test's own helpers fail the test")]

#[path = "support/release.rs"]
mod release;
#[path = "../../crates/pipeline/src/engine/samples.rs"]
mod samples;

use std::sync::Arc;
use std::time::Duration;

use dunlin_daemon::board::BoardClass;
use dunlin_daemon::config::settings::Isolation;
use dunlin_daemon::flow::{SLOT_RESULTS, SlotJob};
use dunlin_daemon::metrics::Metrics;
use dunlin_daemon::slot::{Admission, SelfTestFailure, SlotState, admit, spawn_slot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use release::{Draft, Vector, golden_file, slot_spec};
use samples::{F32, graph, model, node, value, with_int};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// Vectors of `y = a + 2 b`.
const SUMS: [Vector<'static>; 3] = [([1.0, 2.0], &[5.0]), ([3.0, 0.5], &[4.0]), ([-1.0, 0.0], &[-1.0])];

fn board() -> BoardClass {
    BoardClass::of("Raspberry Pi 4 Model B Rev 1.4\0", "aarch64")
}

fn sums() -> Draft {
    Draft::new(&samples::weighted_sum(), 1, &SUMS)
}

async fn try_admit(draft: &Draft) -> Result<Admission, SelfTestFailure> {
    let folder = tempfile::tempdir().unwrap();
    let spec = slot_spec(draft.approve(folder.path()), Isolation::Process);
    timeout(PATIENCE, admit(&spec, &board())).await.expect("a test ends in time")
}

#[tokio::test]
async fn a_release_that_keeps_its_vectors_is_measured_and_serves_however_models_are_run() {
    for isolation in [Isolation::Process, Isolation::Thread] {
        let folder = tempfile::tempdir().unwrap();
        let budgets =
            json!({ "resident_bytes": 64 << 20, "deadline": "10s", "p99": { "pi4": "10s", "any": "1us" } });
        let spec = slot_spec(sums().with("/budgets", budgets).approve(folder.path()), isolation);
        let admission = timeout(PATIENCE, admit(&spec, &board())).await.unwrap().unwrap();
        assert_eq!(
            (admission.golden.predictions, admission.golden.valid, admission.batch_windows),
            (3, 3, 32)
        );
        assert!(admission.golden.worst < 1e-6);
        assert!(Duration::ZERO < admission.p50 && admission.p50 <= admission.p99);
        assert!(
            1 << 20 < admission.resident_bytes && admission.resident_bytes <= admission.resident_bytes_max
        );

        let (sender, mut results) = mpsc::channel(SLOT_RESULTS);
        let metrics = Arc::new(Metrics::new(0));
        let slot = spawn_slot(spec, sender, Arc::clone(&metrics));
        assert_eq!(timeout(PATIENCE, slot.ready()).await.unwrap(), SlotState::Ready);
        slot.try_submit(SlotJob { ticket: 7, values: vec![1.0, 1.0] }).unwrap();
        let answer = timeout(PATIENCE, results.recv()).await.unwrap().unwrap();
        assert_eq!((answer[0].ticket, answer[0].outputs.as_deref()), (7, Ok(&[3.0][..])));
        assert_eq!(metrics.slots()["m"].starts, 1);
        assert_eq!(metrics.slots()["m"].pid == 0, isolation == Isolation::Thread);
    }
}

/// `y = x - mean of x over the batch`: right alone, wrong in company.
fn depends_on_its_batch() -> Vec<u8> {
    let mean = samples::with_ints(node("ReduceMean", &["x"], &["mean"]), "axes", &[0]);
    model(&graph(
        &[with_int(mean, "keepdims", 1), node("Sub", &["x", "mean"], &["y"])],
        &[],
        &[value("x", F32, &[0, 2])],
        &[value("y", F32, &[0, 2])],
    ))
}

#[tokio::test]
async fn a_release_that_does_not_is_refused_by_code() {
    let budgets = |bytes: u64, deadline: &str, p99: serde_json::Value| json!({ "resident_bytes": bytes, "deadline": deadline, "p99": p99 });
    let same: [Vector<'_>; 2] = [([1.0, 2.0], &[1.0, 2.0]), ([3.0, 4.0], &[3.0, 4.0])];
    let nothing: [Vector<'_>; 2] = [([1.0, 2.0], &[0.0, 0.0]), ([3.0, 4.0], &[0.0, 0.0])];
    let wrong: [Vector<'_>; 2] = [SUMS[0], ([3.0, 0.5], &[4.1])];
    let nan: [Vector<'_>; 1] = [([0.0, 0.0], &[])];
    let bomb: [Vector<'_>; 1] = [([1_000.0, 1.0], &[1_000.0, 1.0])];
    let poison: [Vector<'_>; 2] = [([1.0, 1.0], &[2.0, 2.0]), ([200.0, 1.0], &[400.0, 201.0])];
    for (draft, code, says) in [
        (sums().with_file("golden.jsonl", None), "selftest:golden", "dunlin package build"),
        (sums().with_file("golden.jsonl", Some(golden_file(&[]))), "selftest:golden", "expect no prediction"),
        (
            sums().with_file("golden.jsonl", Some(golden_file(&wrong))),
            "selftest:golden",
            "record 4: outputs differ by",
        ),
        (Draft::new(&samples::not_a_number(), 2, &nan), "selftest:golden", "expect no prediction"),
        (
            Draft::new(&samples::lookup(), 2, &[([7.0, 0.0], &[1.0, 1.0])]),
            "selftest:golden",
            "record 2: output `y` was not made with 2 values: the engine panicked",
        ),
        (
            Draft::new(&depends_on_its_batch(), 2, &nothing),
            "selftest:golden",
            "32 windows in one batch have other outputs than alone",
        ),
        (
            Draft::new(&samples::unknown_operator(), 2, &same),
            "selftest:load",
            "operator `Frobnicate` of node",
        ),
        (Draft::new(&samples::memory_bomb(1 << 20), 2, &bomb), "selftest:memory", "failed to allocate"),
        (
            Draft::new(&samples::endless_above_a_hundred(300), 2, &poison)
                .with("/budgets/deadline", json!("1s")),
            "selftest:deadline",
            "1000 ms",
        ),
        (
            sums().with("/budgets", budgets(64 << 20, "10s", json!({ "pi5": "10s", "any": "1us" }))),
            "selftest:latency",
            "budgets.p99.any",
        ),
    ] {
        let failure = try_admit(&draft).await.expect_err(says);
        assert_eq!(failure.code(), code, "{failure}");
        assert!(failure.to_string().contains(says), "{says}: {failure}");
        assert!(failure.is_verdict());
    }
}

#[tokio::test]
async fn a_model_that_dies_while_it_is_loaded_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = slot_spec(sums().approve(folder.path()), Isolation::Process);
    spec.worker_program = "/bin/false".into();
    assert_eq!(admit(&spec, &board()).await.unwrap_err().code(), "selftest:crash");
}

#[tokio::test]
async fn what_is_not_the_models_doing_is_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = slot_spec(sums().approve(folder.path()), Isolation::Process);
    spec.worker_program = "/nonexistent/dunlind".into();
    let failure = admit(&spec, &board()).await.unwrap_err();
    assert!(!failure.is_verdict(), "{failure}");

    let endless = Draft::new(&samples::endless(300), 2, &[]);
    let folder = tempfile::tempdir().unwrap();
    let spec = slot_spec(endless.approve(folder.path()), Isolation::Process);
    let board = board();
    let test = admit(&spec, &board);
    tokio::pin!(test);
    let failure = loop {
        tokio::select! {
            verdict = &mut test => break verdict.unwrap_err(),
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                for pid in workers() {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
        }
    };
    assert!(!failure.is_verdict() && failure.to_string().contains("killed from outside"), "{failure}");
}

/// Returns the worker processes of this thread, which starts them.
fn workers() -> Vec<i32> {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
    children.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
