//! `dunlin package measure`: one package's model in a process of its own, for `check`.
//!
//! Approves, loads and runs; prints what it took as JSON. What a hostile model does to this process it does to nobody
//! else, and what the process takes is what the model takes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Package;
use dunlin_pipeline::engine::{Engine, TractEngine};
use dunlin_pipeline::runner::run_golden;
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

use super::approve;
use crate::command::CommandError;
use crate::print;

/// Batch sizes that are measured: one window, and a full batch of the worker's largest plan.
pub(super) const BATCHES: [usize; 2] = [1, 32];
/// Runs of each batch size at most: enough for a 99th percentile that two outliers do not make.
const RUNS_MAX: usize = 300;
/// Longest measuring of a batch size, after the first run.
const MEASURING_MAX: Duration = Duration::from_secs(2);
/// Address space beyond the budget: program, libraries and stacks of threads, which the budget of resident memory does
/// not count.
const ADDRESS_SPACE_BESIDE: u64 = 4 << 30;

/// Arguments of `dunlin package measure`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The package's folder
    #[arg(value_name = "FOLDER")]
    package: PathBuf,
}

/// Latency of one batch size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Latency {
    /// Windows in a run.
    pub(super) batch: usize,
    /// Median of a run in microseconds.
    pub(super) p50_us: u64,
    /// 99th percentile of a run in microseconds.
    pub(super) p99_us: u64,
}

/// What a model took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    /// Why the engine does not take the model.
    pub(super) load_failure: Option<String>,
    /// How the golden vectors ended: predictions and worst difference, or why not. Nothing without vectors.
    pub(super) golden: Option<Result<(usize, f64), String>>,
    /// By batch size.
    pub(super) latency: Vec<Latency>,
    /// Most memory that was resident in the process, in bytes.
    pub(super) resident_bytes: u64,
    /// The part of it that came with the model.
    pub(super) model_bytes: u64,
}

/// Measures and prints.
///
/// *Errors*: the package is refused.
pub(super) fn run(args: &Args) -> Result<(), CommandError> {
    let package = approve(&args.package)?;
    let limit = package.manifest().budgets.resident_bytes + ADDRESS_SPACE_BESIDE;
    setrlimit(Resource::RLIMIT_AS, limit, limit)
        .map_err(|error| CommandError::failed("cannot limit the memory of the measuring process", error))?;
    let text = serde_json::to_string(&measure(&package)).expect("measurements are numbers and texts");
    print::line(&text);
    Ok(())
}

fn measure(package: &Package) -> Measured {
    let mut measured = Measured::default();
    let before = status_bytes("VmRSS:");
    let mut engine = match TractEngine::load(package, BATCHES[1]) {
        Ok(engine) => engine,
        Err(error) => {
            measured.load_failure = Some(Chain(&error).to_string());
            return measured;
        }
    };
    engine.warm_up();
    let width = package.manifest().inputs.iter().map(dunlin_model_package::InputSpec::values).sum::<usize>();
    for batch in BATCHES {
        measured.latency.extend(latency(&mut engine, batch, width));
    }
    drop(engine);
    measured.resident_bytes = status_bytes("VmHWM:");
    measured.model_bytes = measured.resident_bytes.saturating_sub(before);
    measured.golden = match run_golden(package) {
        Ok(report) => report.map(|report| Ok((report.predictions, report.worst))),
        Err(error) => Some(Err(Chain(&error).to_string())),
    };
    measured
}

/// Returns nothing where the model refuses zeros: its golden vectors say whether it is right.
fn latency(engine: &mut TractEngine, batch: usize, width: usize) -> Option<Latency> {
    let values = vec![0.0; batch * width];
    let begin = Instant::now();
    let mut taken = Vec::new();
    while taken.is_empty() || (taken.len() < RUNS_MAX && begin.elapsed() < MEASURING_MAX) {
        let start = Instant::now();
        engine.run(batch, &values).ok()?;
        taken.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    taken.sort_unstable();
    let at = |hundredth: usize| taken[(taken.len() * hundredth / 100).min(taken.len() - 1)];
    Some(Latency { batch, p50_us: at(50), p99_us: at(99) })
}

/// Returns a line of the kernel's account of this process in bytes; 0 where there is none.
fn status_bytes(line: &str) -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let found = text.lines().find_map(|text| text.strip_prefix(line));
    let kilobytes = found.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1_024
}
