//! The check of golden vectors, step by step: messages in, windows to be run out, outputs in, a verdict in the end.
//!
//! Runs the core and compares; never an engine: the caller does, in its own process or another one. Reads the records
//! one at a time, and keeps no more series than fit a bound, so that a package cannot fill the memory of the caller.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use dunlin_model_package::golden::{
    ExpectedPrediction, GoldenHeader, GoldenReader, GoldenRecord, RecordedMessage,
};
use dunlin_model_package::package::golden_error;
use dunlin_model_package::{Manifest, Package, PackageError};

use crate::compiled_model::ModelBinding;
use crate::core::{Core, Turn};
use crate::engine::EngineError;
use crate::prediction::{InstanceId, InstanceIdentity, WindowHead};
use crate::refusal::SpecFinding;
use crate::runner::{Predicted, expectation, recorded_message};

/// Most bytes that the windows of all series of a golden file may take: any window once, or the windows of thousands
/// of small series.
const WINDOWS_BYTES_MAX: usize = 64 << 20;

/// How a golden file was kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenReport {
    /// Predictions compared.
    pub predictions: usize,
    /// Of these: with outputs. The others are expected to be invalid.
    pub valid: usize,
    /// Largest difference, relative to `max(1, |expected|)`.
    pub worst: f64,
}

/// Why a package does not keep its golden vectors.
#[derive(Debug)]
pub enum GoldenFailure {
    /// The package cannot be read.
    Package(PackageError),
    /// The engine does not take the model.
    Engine(EngineError),
    /// The golden file's own sources and model do not fit the package.
    Specification(Vec<SpecFinding>),
    /// A record: its position after the header, from 1, and what differs.
    Record {
        /// Position.
        record: usize,
        /// What differs.
        reason: String,
    },
}

impl fmt::Display for GoldenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(_) => f.write_str("the package cannot be used"),
            Self::Engine(_) => f.write_str("the engine does not take the model"),
            Self::Specification(findings) => {
                let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
                write!(f, "the golden vectors' specification does not fit the package: {}", texts.join("; "))
            }
            Self::Record { record, reason } => write!(f, "golden vectors, record {record}: {reason}"),
        }
    }
}

impl std::error::Error for GoldenFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Package(source) => Some(source),
            Self::Engine(source) => Some(source),
            Self::Specification(_) | Self::Record { .. } => None,
        }
    }
}

/// What the check needs next.
#[derive(Debug, PartialEq)]
pub enum GoldenStep {
    /// These windows are to be run, and their outputs given to [`GoldenCheck::finish`].
    ///
    /// *Shape*: each as `ReadyWindow::values`.
    Run(Vec<Vec<f32>>),
    /// All records were kept.
    Done(GoldenReport),
}

/// A prediction that no record has expected yet, and why it has no outputs where the engine failed.
struct Made {
    prediction: ExpectedPrediction,
    failure: Option<String>,
}

/// The check of one package's golden vectors.
pub struct GoldenCheck {
    core: Core,
    manifest: Manifest,
    identities: BTreeMap<InstanceId, InstanceIdentity>,
    turn: Turn,
    records: GoldenReader,
    record: usize,
    running: Vec<WindowHead>,
    made: VecDeque<Made>,
    report: GoldenReport,
}

impl GoldenCheck {
    /// Begins the check of a package; `None` where it has no golden vectors.
    ///
    /// *Errors*: the file cannot be read, or its header does not fit the package.
    pub fn open(package: &Package) -> Result<Option<Self>, GoldenFailure> {
        let Some((header, records)) = package.golden_reader().map_err(GoldenFailure::Package)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            core: golden_core(package, header)?,
            manifest: package.manifest().clone(),
            identities: BTreeMap::new(),
            turn: Turn::default(),
            records,
            record: 0,
            running: Vec::new(),
            made: VecDeque::new(),
            report: GoldenReport { predictions: 0, valid: 0, worst: 0.0 },
        }))
    }

    /// Goes on to the next windows or to the end.
    ///
    /// *Errors*: the first thing that differs; the check is over.
    pub fn step(&mut self) -> Result<GoldenStep, GoldenFailure> {
        while let Some(record) = self.records.next() {
            self.record += 1;
            match record.map_err(|error| GoldenFailure::Package(golden_error(error)))? {
                GoldenRecord::Message(recorded) => {
                    let windows = self.take(&recorded)?;
                    if !windows.is_empty() {
                        return Ok(GoldenStep::Run(windows));
                    }
                }
                GoldenRecord::Expect(expected) => self.expect(&expected)?,
            }
        }
        match self.made.front() {
            Some(rest) => {
                Err(self
                    .refuse(format!("a prediction at {} us was not expected", rest.prediction.window_end_us)))
            }
            None => Ok(GoldenStep::Done(self.report)),
        }
    }

    /// Takes what the engine made of the windows of the last step, in order: outputs, or why there are none.
    pub fn finish(&mut self, outputs: impl IntoIterator<Item = Result<Vec<f32>, String>>) {
        for (head, outputs) in self.running.drain(..).zip(outputs) {
            let failure = outputs.as_ref().err().cloned();
            let prediction = self.core.finish(head, outputs.ok());
            // An instance is announced with the windows that name it.
            let Some(identity) = self.identities.get(&head.instance).cloned() else { continue };
            let predicted = Predicted { prediction, identity, failure };
            let prediction = expectation(&self.manifest, &predicted);
            self.made.push_back(Made { prediction, failure: predicted.failure });
        }
    }

    fn take(&mut self, recorded: &RecordedMessage) -> Result<Vec<Vec<f32>>, GoldenFailure> {
        if let Some(made) = self.made.front() {
            let at = made.prediction.window_end_us;
            return Err(self.refuse(format!("a prediction at {at} us was not expected before this message")));
        }
        let payload = recorded.payload_bytes().map_err(|reason| self.refuse(reason))?;
        let message = recorded_message(&recorded.topic, &payload, recorded.arrival_ms, recorded.retained);
        self.turn.clear();
        self.core.take(&message, &mut self.turn);
        self.identities.extend(self.turn.new_instances.drain(..));
        let (heads, windows) = self.turn.windows.drain(..).map(|window| (window.head, window.values)).unzip();
        self.running = heads;
        Ok(windows)
    }

    fn expect(&mut self, expected: &ExpectedPrediction) -> Result<(), GoldenFailure> {
        let Some(made) = self.made.pop_front() else {
            return Err(self.refuse(format!("the prediction at {} us was not made", expected.window_end_us)));
        };
        let difference = compare(&self.manifest, expected, &made.prediction).map_err(|reason| {
            let why = made.failure.map_or_else(String::new, |failure| format!(": {failure}"));
            self.refuse(format!("{reason}{why}"))
        })?;
        let tolerance = self.manifest.golden_tolerance;
        if difference > tolerance {
            return Err(self.refuse(format!("outputs differ by {difference:.3e}, tolerance {tolerance:.1e}")));
        }
        self.report.predictions += 1;
        self.report.valid += usize::from(expected.outputs.values().any(|values| !values.is_empty()));
        self.report.worst = self.report.worst.max(difference);
        Ok(())
    }

    const fn refuse(&self, reason: String) -> GoldenFailure {
        GoldenFailure::Record { record: self.record, reason }
    }
}

/// Returns a core for one model with the sources of a golden file's header.
///
/// *Errors*: the header does not fit the package.
pub(crate) fn golden_core(package: &Package, header: GoldenHeader) -> Result<Core, GoldenFailure> {
    let mut sources = header.sources;
    let window_values: usize = package.manifest().inputs.iter().map(|input| input.values()).sum();
    let series_max =
        WINDOWS_BYTES_MAX / window_values.saturating_mul(size_of::<f32>()).max(1) / sources.len().max(1);
    for source in &mut sources {
        source.series_max = source.series_max.min(u32::try_from(series_max.max(1)).unwrap_or(u32::MAX));
    }
    let binding = ModelBinding {
        spec: header.model,
        manifest: package.manifest().clone(),
        package: package.digest(),
        profile: None,
    };
    Core::serving(&sources, vec![binding]).map_err(GoldenFailure::Specification)
}

/// Returns the largest difference of two predictions for the same window.
///
/// *Errors*: they are not for the same window, or differ in label or shape.
fn compare(
    manifest: &Manifest,
    expected: &ExpectedPrediction,
    made: &ExpectedPrediction,
) -> Result<f64, String> {
    let is_label =
        |name: &str| manifest.outputs.iter().any(|output| output.name == name && output.is_label());
    if (&expected.key, expected.window_end_us) != (&made.key, made.window_end_us) {
        return Err(format!(
            "expected {:?} at {} us, made {:?} at {} us",
            expected.key, expected.window_end_us, made.key, made.window_end_us
        ));
    }
    if let Some(name) = made.outputs.keys().find(|name| !expected.outputs.contains_key(*name)) {
        return Err(format!("nothing is expected of output `{name}`"));
    }
    let mut worst = 0.0_f64;
    for (name, values) in &expected.outputs {
        let found = made.outputs.get(name).filter(|found| found.len() == values.len());
        let found =
            found.ok_or_else(|| format!("output `{name}` was not made with {} values", values.len()))?;
        if is_label(name) && values != found {
            return Err(format!("output `{name}` is the label at {found:?}, not at {values:?}"));
        }
        for (want, have) in values.iter().zip(found) {
            worst = worst.max((f64::from(*want) - f64::from(*have)).abs() / f64::from(want.abs()).max(1.0));
        }
    }
    if expected.label != made.label {
        return Err(format!("expected label {:?}, made {:?}", expected.label, made.label));
    }
    Ok(worst)
}
