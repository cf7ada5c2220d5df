//! `dunlin package check`: everything that would keep a package from running well, at once, with a remedy a line.
//!
//! Reads the package and has it run in a process of its own; changes nothing. What this check refuses no gateway takes.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::package::{BLOB_BYTES_MAX, MANIFEST_BYTES_MAX, MODEL_FILE, read_blob};
use dunlin_model_package::{Manifest, Package};
use dunlin_pipeline::engine::OnnxFile;

use super::draft::remedy;
use super::measure::{Measured, OperatorCost};
use super::report::{Report, Section};
use super::{Format, MANIFEST_FILE, approve, read};
use crate::command::CommandError;

/// Longest wait for the measuring process: loading, two batch sizes and 100,000 golden records.
const MEASURING_WAIT: Duration = Duration::from_secs(120);
/// Longest answer of the measuring process.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Operators that are named with what they take: more do not fit a line.
const OPERATORS_NAMED_MAX: usize = 6;
/// Compression of deltas: made once, fetched by every gateway.
const DELTA_LEVEL: i32 = 19;
/// Largest window of compression: 128 MiB, what a gateway can decompress in its memory.
const DELTA_WINDOW_LOG_MAX: u32 = 27;

/// Arguments of `dunlin package check`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The package's folder
    #[arg(value_name = "FOLDER", default_value = "package")]
    package: PathBuf,
    /// Folder of the release before, to tell how large an update is
    #[arg(long, value_name = "FOLDER")]
    previous: Option<PathBuf>,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Checks and prints.
///
/// *Errors*: there is no package (exit code 3), or something failed (5).
pub(super) fn run(args: &Args) -> Result<(), CommandError> {
    let bytes = read(&args.package.join(MANIFEST_FILE), MANIFEST_BYTES_MAX)?;
    let mut report = Report::default();
    check(args, &bytes, &mut report);
    report.print(args.output);
    match report.failed() {
        0 => Ok(()),
        count => Err(CommandError::CheckFailed(format!("{count} check(s) failed"))),
    }
}

fn check(args: &Args, bytes: &[u8], report: &mut Report) {
    let manifest = match Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            for finding in error.0 {
                report.fail(Section::Manifest, finding, "correct package.toml and build the package again");
            }
            return;
        }
    };
    report.pass(
        Section::Manifest,
        format!("{} {}, release {}", manifest.name, manifest.version, manifest.release_counter),
    );
    if !files(&args.package, &manifest, report) {
        return;
    }
    evidence(&manifest, report);
    let package = match approve(&args.package) {
        Ok(package) => package,
        Err(error) => return report.fail(Section::Manifest, error.to_string(), "build the package again"),
    };
    profile(&package, report);
    if nodes(&package, report) {
        match measured(&args.package) {
            Ok(measured) => judge(&manifest, &measured, report),
            Err(why) => report.fail(
                Section::Model,
                format!("the process that ran the model {why}"),
                "the model takes more time or memory than any gateway would give it; export a smaller one",
            ),
        }
    }
    match &args.previous {
        Some(previous) => delta(&package, previous, report),
        None => report.skip(Section::Update, "size of the update: no --previous package was given"),
    }
}

fn files(folder: &Path, manifest: &Manifest, report: &mut Report) -> bool {
    let mut all = true;
    for (name, blob) in &manifest.blobs {
        match read_blob(&folder.join(name), blob) {
            Ok(_) => report.pass(Section::Manifest, format!("{name}: {} bytes, {}", blob.bytes, blob.sha256)),
            Err(error) => {
                all = false;
                report.fail(Section::Manifest, Chain(&error).to_string(), "build the package again");
            }
        }
    }
    all
}

fn evidence(manifest: &Manifest, report: &mut Report) {
    match &manifest.evidence {
        Some(evidence) => report.pass(
            Section::Evidence,
            format!(
                "agreed with the training framework in {} row(s), worst difference {:.1e} of {:.1e}",
                evidence.rows, evidence.worst, evidence.tolerance
            ),
        ),
        None => report.warn(
            Section::Evidence,
            "nobody has compared the model with its training framework",
            "build it with --evidence: engines can be silently wrong",
        ),
    }
}

/// Tells of the reference profile, which opening the package has checked.
fn profile(package: &Package, report: &mut Report) {
    match package.profile() {
        Ok(Some(profile)) => report.pass(
            Section::Evidence,
            format!(
                "a reference profile of {} field(s) and {} output(s), made of {} readings of {} series",
                profile.features.len(),
                profile.outputs.len(),
                profile.made_of.rows,
                profile.made_of.series
            ),
        ),
        Ok(None) => report.skip(
            Section::Evidence,
            "no reference profile: drift is not told from it; `dunlin profile build` makes one",
        ),
        Err(error) => report.fail(
            Section::Evidence,
            Chain(&error).to_string(),
            "make it anew with `dunlin profile build` for this package",
        ),
    }
}

/// Tells of every node that the engine does not take; returns whether there is none.
fn nodes(package: &Package, report: &mut Report) -> bool {
    let file = package
        .read_blob(MODEL_FILE)
        .map_err(|error| Chain(&error).to_string())
        .and_then(|bytes| OnnxFile::read(&bytes).map_err(|error| error.to_string()));
    let mut file = match file {
        Ok(file) => file,
        Err(why) => {
            report.fail(Section::Model, why, "export the model again");
            return false;
        }
    };
    let manifest = package.manifest();
    let kept: Vec<&str> = manifest.outputs.iter().map(|output| output.name.as_str()).collect();
    file.keep_outputs(&kept);
    let refused = file.refused_nodes();
    for node in &refused {
        report.fail(
            Section::Model,
            format!(
                "operator `{}` of node `{}` with shape {} is not supported: {}",
                node.operator, node.node, node.shape, node.reason
            ),
            remedy(&node.operator),
        );
    }
    if refused.is_empty() {
        report.pass(Section::Model, format!("all operators are supported: {}", file.operators().join(", ")));
    }
    refused.is_empty()
}

fn judge(manifest: &Manifest, measured: &Measured, report: &mut Report) {
    report.record("latency", &measured.latency);
    report.record("operators", &measured.operators);
    report.record("resident_bytes", measured.resident_bytes);
    report.record("model_bytes", measured.model_bytes);
    if let Some(why) = &measured.load_failure {
        return report.fail(
            Section::Model,
            why.clone(),
            "export the model another way, or correct package.toml",
        );
    }
    report.pass(Section::Model, "the engine loads it");
    match &measured.golden {
        Some(Ok((predictions, worst))) => report.pass(
            Section::Evidence,
            format!("{predictions} golden predictions came out again, worst difference {worst:.1e}"),
        ),
        Some(Err(why)) => report.fail(Section::Evidence, why.clone(), "build the package again"),
        None => report.fail(
            Section::Evidence,
            "there are no golden vectors",
            "build the package with sample payloads; a gateway tests a release with them",
        ),
    }
    latency(manifest, measured, report);
    if !measured.operators.is_empty() {
        report.pass(Section::Budgets, format!("time by operator: {}", shares(&measured.operators)));
    }
    let (resident, budget) = (measured.resident_bytes, manifest.budgets.resident_bytes);
    let text = format!(
        "{:.1} MiB resident, {:.1} MiB of it the model's; the budget is {:.1} MiB",
        mebibytes(resident),
        mebibytes(measured.model_bytes),
        mebibytes(budget)
    );
    if resident > budget {
        report.fail(Section::Budgets, text, "raise budgets.resident_bytes, or make the model smaller");
    } else {
        report.pass(Section::Budgets, text);
    }
}

fn latency(manifest: &Manifest, measured: &Measured, report: &mut Report) {
    let deadline_us = manifest.budgets.deadline.as_micros();
    if measured.latency.is_empty() {
        report.skip(Section::Budgets, "latency: the model does not take zeros");
    }
    for one in &measured.latency {
        let text = format!(
            "batch of {}: p50 {:.3} ms, p99 {:.3} ms on this machine",
            one.batch,
            one.p50_us as f64 / 1e3,
            one.p99_us as f64 / 1e3
        );
        if i64::try_from(one.p99_us).unwrap_or(i64::MAX) > deadline_us {
            let remedy = "raise budgets.deadline, or make the model smaller; a worker that is late is killed";
            report.fail(
                Section::Budgets,
                format!("{text}, beyond the deadline of {}", manifest.budgets.deadline),
                remedy,
            );
        } else {
            report.pass(Section::Budgets, text);
        }
    }
    let single = measured.latency.iter().find(|one| one.batch == 1);
    for (board, budget) in &manifest.budgets.p99 {
        let Some(single) = single else { continue };
        if i64::try_from(single.p99_us).unwrap_or(i64::MAX) > budget.as_micros() {
            report.fail(
                Section::Budgets,
                format!("one window takes longer here than budgets.p99 allows on `{board}` ({budget})"),
                "raise the budget, or make the model smaller; a gateway refuses the release otherwise",
            );
        }
    }
}

/// Returns the dearest operators as text, the rest together.
fn shares(operators: &[OperatorCost]) -> String {
    let text = |operator: &str, share: f64| format!("{operator} {:.0} %", share * 100.0);
    let (named, rest) = operators.split_at(operators.len().min(OPERATORS_NAMED_MAX));
    let mut texts: Vec<String> = named.iter().map(|one| text(&one.operator, one.share)).collect();
    if !rest.is_empty() {
        texts.push(text("others", rest.iter().map(|one| one.share).sum()));
    }
    texts.join(", ")
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Has another process of this program run the model.
fn measured(folder: &Path) -> Result<Measured, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot be started: {error}"))?;
    let mut child = Command::new(program)
        .args(["package", "measure"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let answer = answer(&mut child);
    // Ended or not: it is not waited for any longer.
    let _ = child.kill();
    let status = child.wait().map_err(|error| format!("is lost: {error}"))?;
    match serde_json::from_slice(&answer?) {
        Ok(measured) => Ok(measured),
        Err(_) => Err(format!("ended with {status}")),
    }
}

fn answer(child: &mut Child) -> Result<Vec<u8>, String> {
    let output = child.stdout.take().ok_or("has no output")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("measure".to_owned())
        .spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
            // Nobody listens any more after the wait is over.
            let _ = sender.send(read.map(|_| bytes));
        })
        .map_err(|error| format!("cannot be listened to: {error}"))?;
    match receiver.recv_timeout(MEASURING_WAIT) {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(format!("cannot be read: {error}")),
        Err(_) => Err(format!("was not done after {} s", MEASURING_WAIT.as_secs())),
    }
}

fn delta(package: &Package, previous: &Path, report: &mut Report) {
    let sizes =
        read(&previous.join(MODEL_FILE), BLOB_BYTES_MAX).map_err(|error| error.to_string()).and_then(|old| {
            let new = package.read_blob(MODEL_FILE).map_err(|error| Chain(&error).to_string())?;
            let patch = patch_bytes(&old, &new).map_err(|error| error.to_string())?;
            Ok((new.len(), patch))
        });
    match sizes {
        Ok((model, patch)) => {
            report.record("model_file_bytes", model);
            report.record("delta_bytes", patch);
            report.pass(
                Section::Update,
                format!("the model is {model} bytes, the delta to the release before {patch}"),
            );
        }
        Err(why) => {
            report.fail(Section::Update, why, "give the folder of the release before with --previous")
        }
    }
    let before = read(&previous.join(MANIFEST_FILE), MANIFEST_BYTES_MAX)
        .ok()
        .and_then(|bytes| Manifest::parse(&bytes).ok());
    let Some(before) = before else { return };
    let manifest = package.manifest();
    if before.name == manifest.name && before.release_counter >= manifest.release_counter {
        report.fail(
            Section::Update,
            format!("release {} follows release {}", manifest.release_counter, before.release_counter),
            "raise release_counter: gateways refuse what is not newer",
        );
    }
}

/// Returns the length of `new` compressed with `old` at hand.
fn patch_bytes(old: &[u8], new: &[u8]) -> std::io::Result<usize> {
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), DELTA_LEVEL, old)?;
    let span = (old.len() + new.len()).max(1 << 10);
    encoder.window_log((usize::BITS - span.leading_zeros()).min(DELTA_WINDOW_LOG_MAX))?;
    encoder.long_distance_matching(true)?;
    std::io::copy(&mut &*new, &mut encoder)?;
    Ok(encoder.finish()?.len())
}
