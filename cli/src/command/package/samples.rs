//! What the real pipeline makes of sample payloads: golden vectors, windows and feature ranges.
//!
//! Runs the same core and engine as a gateway on an approved package. Never changes a payload, and never goes on after a
//! model failed on one.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use dunlin_model_package::golden::{GoldenHeader, RECORDS_MAX, RecordedMessage};
use dunlin_model_package::manifest::Layout;
use dunlin_model_package::{Golden, GoldenRecord, Manifest, Package};
use dunlin_pipeline::engine::{Engine, TractEngine};
use dunlin_pipeline::runner::{Predicted, expectation, recorded_message};
use dunlin_pipeline::{Core, ModelBinding, Turn};

use super::configuration::Configuration;
use crate::command::CommandError;

/// Longest file of samples: a hundred thousand messages of some kilobytes.
const SAMPLES_BYTES_MAX: u64 = 512 << 20;
/// Most kinds of refusals that are told.
const REFUSALS_TOLD_MAX: usize = 8;

/// One window that the samples make.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SampleWindow {
    /// End of the window in microseconds since 1970.
    pub(super) window_end_us: i64,
    /// *Shape*: the outputs one after the other in the manifest's order; empty where one was not finite.
    pub(super) outputs: Vec<f32>,
}

/// What became of the samples.
#[derive(Debug)]
pub(super) struct SampleRun {
    /// Messages and expected predictions.
    pub(super) golden: Golden,
    /// The windows, in order.
    pub(super) windows: Vec<SampleWindow>,
    /// Lowest and highest value by feature, input after input.
    pub(super) ranges: Vec<[f64; 2]>,
    /// Why messages were not used: reason, an example, how often.
    pub(super) refusals: BTreeMap<&'static str, (String, u64)>,
}

/// Reads recorded messages, one JSON object a line, from a file or with `-` from standard input.
///
/// *Errors*: there is no file (exit code 3), or a line is no recorded message (exit code 5).
pub(super) fn read_messages(path: &Path, count_max: usize) -> Result<Vec<RecordedMessage>, CommandError> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                CommandError::NotFound(format!("there is no file `{}`", path.display()))
            }
            _ => CommandError::failed(format!("cannot read `{}`", path.display()), error),
        })?)
    };
    let mut messages = Vec::new();
    for (index, line) in BufReader::new(source.take(SAMPLES_BYTES_MAX)).lines().enumerate() {
        let line =
            line.map_err(|error| CommandError::failed(format!("cannot read `{}`", path.display()), error))?;
        if line.trim().is_empty() {
            continue;
        }
        if messages.len() == count_max {
            break;
        }
        let refuse = |reason: String| {
            CommandError::CheckFailed(format!(
                "`{}`, line {}: {reason}; a line is as in {{\"topic\":\"plant/a\",\"arrival_ms\":1735689600000,\"payload\":\"21.5\"}}",
                path.display(),
                index + 1
            ))
        };
        let message: RecordedMessage =
            serde_json::from_str(&line).map_err(|error| refuse(error.to_string()))?;
        message.payload_bytes().map_err(refuse)?;
        messages.push(message);
    }
    Ok(messages)
}

/// Runs the messages through sources, windows and model of a package.
///
/// *Errors*: the model does not load or fails on a window, sources and model do not fit, or no window is made: exit
/// code 5.
pub(super) fn run(
    package: &Package,
    configuration: &Configuration,
    messages: Vec<RecordedMessage>,
) -> Result<SampleRun, CommandError> {
    let manifest = package.manifest();
    let mut engine =
        TractEngine::load(package, 1).map_err(|error| CommandError::CheckFailed(error.to_string()))?;
    let mut core = core_of(package, configuration)?;
    let header = GoldenHeader {
        golden: 1,
        sources: configuration.sources.clone(),
        model: configuration.model.clone(),
    };
    let features = manifest.inputs.iter().map(|input| input.features.len()).sum();
    let mut made = SampleRun {
        golden: Golden { header, records: Vec::new() },
        windows: Vec::new(),
        ranges: vec![[f64::INFINITY, f64::NEG_INFINITY]; features],
        refusals: BTreeMap::new(),
    };
    let (mut turn, mut identities) = (Turn::default(), HashMap::new());
    let count = messages.len();
    for message in messages {
        let payload = message.payload_bytes().map_err(CommandError::CheckFailed)?;
        turn.clear();
        core.take(
            &recorded_message(&message.topic, &payload, message.arrival_ms, message.retained),
            &mut turn,
        );
        made.golden.records.push(GoldenRecord::Message(message));
        identities.extend(turn.new_instances.drain(..));
        for (_, refusal) in turn.refusals.drain(..) {
            made.refusals.entry(refusal.reason.as_str()).or_insert((refusal.detail, 0)).1 += 1;
        }
        for (_, reason) in turn.rows_refused.drain(..) {
            made.refusals.entry(reason.as_str()).or_insert(("a row was not made".to_owned(), 0)).1 += 1;
        }
        for window in turn.windows.drain(..) {
            widen(manifest, &window.values, &mut made.ranges);
            let outputs = engine.run(1, &window.values).map_err(|error| {
                CommandError::CheckFailed(format!(
                    "window {} of the samples: {error}",
                    made.windows.len() + 1
                ))
            })?;
            let prediction = core.finish(window.head, Some(outputs));
            made.windows.push(SampleWindow {
                window_end_us: window.head.window_end_us,
                outputs: prediction.outputs.clone(),
            });
            let identity = identities.get(&window.head.instance).cloned();
            let identity = identity.expect("a turn announces an instance before its first window");
            let predicted = Predicted { prediction, identity, failure: None };
            made.golden.records.push(GoldenRecord::Expect(expectation(manifest, &predicted)));
        }
    }
    require_usable(&made, manifest, count)?;
    Ok(made)
}

fn core_of(package: &Package, configuration: &Configuration) -> Result<Core, CommandError> {
    let binding = ModelBinding {
        spec: configuration.model.clone(),
        manifest: package.manifest().clone(),
        package: package.digest(),
        profile: None,
    };
    Core::serving(&configuration.sources, vec![binding]).map_err(|findings| {
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        CommandError::CheckFailed(format!("the configuration does not fit the model: {}", texts.join("; ")))
    })
}

/// Refuses samples that make no window, and more golden records than a package may have.
fn require_usable(made: &SampleRun, manifest: &Manifest, count: usize) -> Result<(), CommandError> {
    if made.windows.is_empty() {
        return Err(CommandError::CheckFailed(format!(
            "the {count} sample(s) make no window of {} rows{}",
            manifest.window.length,
            refusals_text(&made.refusals)
        )));
    }
    if made.golden.records.len() > RECORDS_MAX {
        return Err(CommandError::CheckFailed(format!(
            "the samples make {} golden records, {RECORDS_MAX} at most: give fewer, or --samples-max",
            made.golden.records.len()
        )));
    }
    Ok(())
}

/// Returns why messages were not used, for people.
pub(super) fn refusals_text(refusals: &BTreeMap<&'static str, (String, u64)>) -> String {
    let text =
        |(reason, (example, count)): (&&str, &(String, u64))| format!("; {count} × {reason}: {example}");
    refusals.iter().take(REFUSALS_TOLD_MAX).map(text).collect()
}

/// Widens the range of each feature by the values of a window.
fn widen(manifest: &Manifest, values: &[f32], ranges: &mut [[f64; 2]]) {
    let (mut start, mut first) = (0, 0);
    let rows = manifest.window.length as usize;
    for input in &manifest.inputs {
        let features = input.features.len();
        for (position, value) in values[start..start + input.values()].iter().enumerate() {
            let feature = match input.layout {
                Layout::TimeFeature => position % features,
                Layout::FeatureTime => position / rows,
            };
            // NaN stands for a missing value and belongs to no range.
            if value.is_finite() {
                let [low, high] = &mut ranges[first + feature];
                (*low, *high) = (low.min(f64::from(*value)), high.max(f64::from(*value)));
            }
        }
        start += input.values();
        first += features;
    }
}
