//! More than a hundred hostile packages, each signed, opened and admitted beside a model that serves: every one is
//! refused or its worker dies alone, and neither the daemon's memory nor the other model notices.
//!
//! Runs real workers, several at once. Asserts outcomes by table and memory by a bound; no time.

#![allow(clippy::unwrap_used, reason = "a test's own helpers fail the test")]

mod models;
mod packages;
#[path = "../support/release.rs"]
mod release;
#[path = "../../../crates/pipeline/src/engine/samples.rs"]
mod samples;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dunlin_daemon::board::BoardClass;
use dunlin_daemon::config::settings::Isolation;
use dunlin_daemon::flow::{SLOT_RESULTS, SlotJob};
use dunlin_daemon::metrics::Metrics;
use dunlin_daemon::slot::confine::resident_bytes;
use dunlin_daemon::slot::{admit, spawn_slot};
use release::{Draft, approve, slot_spec};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest wait for one package: a load of 30 s on a machine that is busy with the others.
const PATIENCE: Duration = Duration::from_secs(150);
/// Packages at once.
const AT_ONCE: usize = 6;
/// What the process that stands for the daemon may take beyond its start: the files of the packages under test, which
/// this test makes and holds (some 60 MB), and the largest golden file.
const GROWTH_BYTES_MAX: u64 = 160 << 20;

/// Does harm to a package's folder before it is opened.
type Spoil = fn(&Path);

/// A hostile package and what must become of it.
struct Case {
    name: String,
    draft: Draft,
    spoil: Spoil,
    /// A live window for a release that is admitted.
    live: [f32; 2],
    /// Any of these outcomes.
    expected: &'static [&'static str],
}

/// Outputs that no hostile model can give for these inputs.
const IMPOSSIBLE: [release::Vector<'static>; 1] = [([1.0, 2.0], &[1.5e9, -7.25])];

const LOAD: &[&str] = &["selftest:load"];
const NO_ANSWER: &[&str] = &["selftest:load", "selftest:golden"];
const NO_MEMORY: &[&str] = &["selftest:load", "selftest:golden", "selftest:memory", "selftest:crash"];
const NO_END: &[&str] = &["selftest:load", "selftest:deadline", "selftest:memory", "selftest:crash"];

fn model_case(name: &str, model: &[u8], deadline: &str, expected: &'static [&'static str]) -> Case {
    let draft = Draft::new(model, 2, &IMPOSSIBLE).with("/budgets/deadline", json!(deadline));
    Case { name: name.to_owned(), draft, spoil: |_| (), live: [1.0, 1.0], expected }
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, model) in models::endless_work() {
        all.push(model_case(name, &model, "500ms", NO_END));
    }
    for (name, model) in models::odd_operators() {
        // Some of them make the engine ask for a size that comes of the odd number.
        let giant =
            ["transpose of one axis twice", "one-hot of depth 2^38", "pool kernel 2^40"].contains(&name);
        all.push(model_case(name, &model, "10s", if giant { NO_MEMORY } else { NO_ANSWER }));
    }
    for (name, model) in models::giant_tensors() {
        all.push(model_case(name, &model, "10s", NO_MEMORY));
    }
    for (name, model) in models::broken_graphs() {
        all.push(model_case(name, &model, "10s", NO_ANSWER));
    }
    for (name, model) in models::broken_files() {
        all.push(model_case(name, &model, "10s", LOAD));
    }
    let link = |folder: &Path| std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).unwrap();
    for case in all.iter_mut().filter(|case| case.name == "data in a link beside the model") {
        case.spoil = link;
    }
    let golden: [(&str, &[release::Vector<'static>], &[&str]); 6] = [
        ("divides by the live value", &[([2.0, 5.0], &[50.0, 20.0])], &["live:engine"]),
        ("looks up the live value", &[([0.0, 2.0], &[1.0, 3.0])], &["live:engine"]),
        ("takes memory by the live value", &[([1.0, 0.5], &[1.0, 0.5])], &["live:engine", "live:crashed"]),
        ("takes time by the live value", &[([1.0, 2.0], &[3.0, 4.0])], &["live:deadline"]),
        ("is no number at the live value", &[([1.0, 2.0], &[1.0, 1.0])], &["live:not a number"]),
        ("has a shape by the live value", &[([1.0, 0.5], &[1.0, 0.5])], &["live:engine", "selftest:load"]),
    ];
    for ((name, model, live), (of, vectors, expected)) in models::late_faults().into_iter().zip(golden) {
        assert_eq!(name, of);
        let draft = Draft::new(&model, 2, vectors).with("/budgets/deadline", json!("2s"));
        all.push(Case { name: name.to_owned(), draft, spoil: |_| (), live, expected });
    }
    all.extend(packages::all());
    all
}

/// Takes a package as far as it goes and returns the outcome with its reason.
async fn outcome(case: &Case) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let manifest = case.draft.write(folder.path());
    (case.spoil)(folder.path());
    let package = match approve(folder.path(), manifest) {
        Ok(package) => package,
        Err(why) => return ("package".to_owned(), why),
    };
    let spec = slot_spec(package, Isolation::Process);
    let board = BoardClass::of("", "x86_64");
    if let Err(failure) = admit(&spec, &board).await {
        return (failure.code().to_owned(), failure.to_string());
    }
    let (sender, mut results) = mpsc::channel(SLOT_RESULTS);
    let slot = spawn_slot(spec, sender, Arc::new(Metrics::new(0)));
    slot.try_submit(SlotJob { ticket: 0, values: case.live.to_vec() }).unwrap();
    let mut answer = results.recv().await.unwrap();
    let live = match answer.remove(0).outputs {
        Ok(values) if values.iter().all(|value| value.is_finite()) => "a number",
        Ok(_) => "not a number",
        Err(failure) => failure.as_str(),
    };
    (format!("live:{live}"), slot.faults().borrow().last.clone().unwrap_or_default())
}

/// A model that serves meanwhile; returns how many windows it answered, wrongly or rightly, and its workers.
async fn serve(stop: Arc<AtomicBool>) -> (u64, u64, BTreeSet<u32>) {
    let folder = tempfile::tempdir().unwrap();
    let package = Draft::new(&samples::weighted_sum(), 1, &[]).approve(folder.path());
    let (sender, mut results) = mpsc::channel(SLOT_RESULTS);
    let metrics = Arc::new(Metrics::new(0));
    let slot = spawn_slot(slot_spec(package, Isolation::Process), sender, Arc::clone(&metrics));
    slot.ready().await;
    let (mut answered, mut wrong, mut pids) = (0, 0, BTreeSet::new());
    while !stop.load(Ordering::Relaxed) {
        let value = (answered % 1_000) as f32;
        slot.try_submit(SlotJob { ticket: answered, values: vec![value, 0.5] }).unwrap();
        let answer = timeout(PATIENCE, results.recv()).await.expect("the good model answers").unwrap();
        wrong +=
            u64::from(answer[0].ticket != answered || answer[0].outputs.as_deref() != Ok(&[value + 1.0]));
        answered += 1;
        pids.insert(metrics.slots()["m"].pid);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (answered, wrong, pids)
}

/// Returns the most resident memory that this process had meanwhile.
async fn watch_memory(stop: Arc<AtomicBool>) -> u64 {
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        most = most.max(resident_bytes(std::process::id()).unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    most
}

#[tokio::test]
async fn no_hostile_package_harms_anything_but_itself() {
    let before = resident_bytes(std::process::id()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let good = tokio::spawn(serve(Arc::clone(&stop)));
    let memory = tokio::spawn(watch_memory(Arc::clone(&stop)));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let cases = cases();
    let count = cases.len();
    let mut running = JoinSet::new();
    for case in cases {
        let places = Arc::clone(&places);
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            let ended = timeout(PATIENCE, outcome(&case)).await;
            let (code, why) = ended.unwrap_or_else(|_| ("no end".to_owned(), String::new()));
            (case.name, case.expected, code, why)
        });
    }
    let mut other = Vec::new();
    while let Some(ended) = running.join_next().await {
        let (name, expected, code, why) = ended.unwrap();
        let shown: String = why.chars().take(160).collect();
        if why.len() > 8_192 || why.contains(char::is_control) {
            other.push(format!("{name}: a reason of {} bytes that a terminal obeys: {shown:?}", why.len()));
        }
        if !expected.contains(&code.as_str()) {
            other.push(format!("{name}: {code} ({shown}), not one of {expected:?}"));
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (answered, wrong, pids) = good.await.unwrap();
    let most = memory.await.unwrap();
    assert!(other.is_empty(), "{} of {count}:\n{}", other.len(), other.join("\n"));
    assert!(answered > 100 && wrong == 0, "{wrong} of {answered} wrong");
    assert_eq!(pids.len(), 1, "the good model's worker lived throughout");
    let growth = most.saturating_sub(before);
    assert!(growth <= GROWTH_BYTES_MAX, "memory grew by {growth} bytes");
}

#[test]
fn the_generator_makes_many_different_packages() {
    let cases = cases();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len());
    let models: BTreeSet<&[u8]> =
        cases.iter().filter_map(|case| case.draft.files.first()).map(|(_, bytes)| bytes.as_slice()).collect();
    assert!(models.len() >= 100, "{}", models.len());
}
