//! The comparison of one model: both engines, all rows, then latency.
//!
//! A model may bring this process down: `supervision` runs it in a child. ONNX Runtime goes first, since what it gives
//! is what the package says of the outputs.

use std::path::Path;
use std::time::Duration;

use dunlin_model_package::Package;
use dunlin_pipeline::engine::{Engine, TractEngine};

use crate::peer::{Column, Peer};
use crate::report::{Outcome, OutputReport, Report};
use crate::rows::Rows;
use crate::{Task, comparison, latency, package, ties};

/// Rows that are run at a time where the model takes several: what the engine makes its largest plan for.
const BATCH_MAX: usize = 32;

/// Compares the engines on a model.
///
/// *Errors*: files cannot be read or written; what the engines do is in the report.
pub(crate) fn compare(task: &Task) -> Result<Report, String> {
    let model = std::fs::read(&task.model)
        .map_err(|error| format!("cannot read `{}`: {error}", task.model.display()))?;
    let folder = task.package.as_deref().ok_or("there is no folder for the package")?;
    let empty =
        |outcome, reason| Report::without_results(name(&task.model), model.len() as u64, outcome, reason);
    let mut peer = match Peer::open(&task.library, &task.model) {
        Ok(peer) => peer,
        Err(reason) => return Ok(empty(Outcome::NoPeer, reason)),
    };
    let rows = Rows::read(&task.rows, usize::MAX)?.in_order(&peer.input_names())?;
    let theirs = match peer.outputs(&rows) {
        Ok(theirs) => theirs,
        Err(reason) => return Ok(empty(Outcome::NoPeer, reason)),
    };
    let manifest = match package::manifest(&model, &peer, &rows, &theirs) {
        Ok(manifest) => manifest,
        Err(reason) => return Ok(empty(Outcome::Refused, reason)),
    };
    package::write(folder, &model, &manifest)?;
    let opened = package::open(folder).and_then(|package| load(&package));
    let mut engine = match opened {
        Ok(engine) => engine,
        Err(reason) => return Ok(empty(Outcome::Refused, reason)),
    };
    let mut outputs = match agreement(&mut engine, &rows, &theirs, &[]) {
        Ok(outputs) => outputs,
        Err(reason) => return Ok(empty(Outcome::Failed, reason)),
    };
    let mut at_ties = Vec::new();
    if !outputs.iter().all(comparison::agrees) {
        at_ties = ties::find(&model, &mut engine, &mut peer, &rows, &theirs)?;
        outputs = agreement(&mut engine, &rows, &theirs, &at_ties)?;
    }
    let mut report = judged(empty(Outcome::Runs, String::new()), outputs, rows.count);
    report.ties = at_ties.len();
    if task.measure_ms > 0 {
        let time = Duration::from_millis(task.measure_ms);
        let sizes = task.batch.iter().copied().filter(|&size| size == 1 || peer.is_batch_free());
        for size in sizes.collect::<Vec<_>>() {
            report.latency.push(latency::measure(&mut engine, &mut peer, &rows, size, time)?);
        }
    }
    Ok(report)
}

/// Returns the name of a model: its file's without the ending.
pub(crate) fn name(model: &Path) -> String {
    model.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn load(package: &Package) -> Result<TractEngine, String> {
    TractEngine::load(package, BATCH_MAX).map_err(|error| error.to_string())
}

/// Runs all rows in full batches and once more row by row; of each output the worse of the two is returned. Rows `but`
/// are run and not compared.
fn agreement(
    engine: &mut TractEngine,
    rows: &Rows,
    theirs: &[Column],
    but: &[usize],
) -> Result<Vec<OutputReport>, String> {
    let mut worse: Vec<OutputReport> = Vec::new();
    for size in [BATCH_MAX, 1] {
        let mut ours = Vec::new();
        for first in (0..rows.count).step_by(size) {
            let count = size.min(rows.count - first);
            let outputs = engine.run(count, &rows.windows(first, count));
            ours.extend(outputs.map_err(|error| format!("rows from {first} on: {error}"))?);
        }
        let reports = comparison::compare(&ours, theirs, but);
        if worse.is_empty() {
            worse = reports;
        } else {
            let pairs = worse.iter_mut().zip(reports);
            pairs
                .filter(|(before, report)| is_worse(report, before))
                .for_each(|(before, report)| *before = report);
        }
    }
    Ok(worse)
}

fn is_worse(report: &OutputReport, than: &OutputReport) -> bool {
    (report.unequal, report.difference.unwrap_or(0.0)) > (than.unequal, than.difference.unwrap_or(0.0))
}

fn judged(mut report: Report, outputs: Vec<OutputReport>, rows: usize) -> Report {
    let wrong = outputs.iter().find(|output| !comparison::agrees(output));
    report.outcome = if wrong.is_some() { Outcome::Wrong } else { Outcome::Runs };
    report.reason = wrong.map(|output| {
        let what = output.worst.as_deref().unwrap_or("differs");
        format!("output `{}`, {what}, {} unequal", output.name, output.unequal)
    });
    report.difference = outputs.iter().filter_map(|output| output.difference).reduce(f64::max);
    report.rows = rows;
    report.outputs = outputs;
    report
}
