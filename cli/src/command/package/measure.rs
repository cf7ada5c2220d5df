//! `dunlin package measure`: one package's model in a process of its own, for `check`.
//!
//! Approves, loads and runs; prints what it took as JSON. What a hostile model does to this process it does to nobody
//! else, and what the process takes is what the model takes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Package;
use dunlin_model_package::package::MODEL_FILE;
use dunlin_pipeline::engine::{Engine, OnnxFile, TractEngine};
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

/// What the nodes of one operator take of a window's run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct OperatorCost {
    /// The operator in the graph; the engine's own where a node is not the graph's.
    pub(super) operator: String,
    /// Its nodes.
    pub(super) nodes: usize,
    /// Its part of the time of all nodes, 0 to 1.
    pub(super) share: f64,
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
    /// By operator, the dearest first.
    pub(super) operators: Vec<OperatorCost>,
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
    measured.operators = operator_costs(package, &engine, width).unwrap_or_default();
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

/// Returns nothing where the model refuses zeros.
fn operator_costs(package: &Package, engine: &TractEngine, width: usize) -> Option<Vec<OperatorCost>> {
    let file = OnnxFile::read(&package.read_blob(MODEL_FILE).ok()?).ok()?;
    let graph = file.nodes();
    let begin = Instant::now();
    let mut now = || u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let costs = engine.node_costs(&vec![0.0; width], RUNS_MAX, &mut now).ok()?;
    let total = costs.iter().map(|cost| cost.nanoseconds).sum::<u64>().max(1);
    let mut operators: Vec<OperatorCost> = Vec::new();
    for cost in costs {
        // The longest name that fits: `conv1.pad` is of `conv1`, not of `conv`.
        let made_of = graph.iter().filter(|(name, _)| is_made_of(&cost.node, name));
        let known = made_of.max_by_key(|(name, _)| name.len());
        let operator = known.map_or(&cost.operator, |(_, operator)| operator);
        let share = cost.nanoseconds as f64 / total as f64;
        match operators.iter_mut().find(|one| one.operator == *operator) {
            Some(one) => {
                one.nodes += 1;
                one.share += share;
            }
            None => operators.push(OperatorCost { operator: operator.clone(), nodes: 1, share }),
        }
    }
    operators.sort_by(|one, other| other.share.total_cmp(&one.share));
    Some(operators)
}

/// Whether the engine made a node of the graph's node `name`.
fn is_made_of(node: &str, name: &str) -> bool {
    node.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '#', '_', '-']))
}

/// Returns a line of the kernel's account of this process in bytes; 0 where there is none.
fn status_bytes(line: &str) -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let found = text.lines().find_map(|text| text.strip_prefix(line));
    let kilobytes = found.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1_024
}
