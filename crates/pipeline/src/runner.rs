//! The whole path in one call: a message in, its predictions out.
//!
//! Runs core and engines in the caller's thread, window by window. For golden vectors, replay and benches; the daemon
//! drives the same core and engines through its stages.

use std::collections::BTreeMap;
use std::fmt;

use dunlin_model_package::golden::{ExpectedPrediction, Golden, GoldenRecord};
use dunlin_model_package::{Manifest, Package, PackageError};

use crate::compiled_model::ModelBinding;
use crate::core::{Core, Turn};
use crate::engine::{Engine, EngineError, TractEngine};
use crate::lane::LANES_PER_MODEL;
use crate::message::{ClockState, Message};
use crate::prediction::{InstanceId, InstanceIdentity, Prediction};
use crate::refusal::{Refusal, SpecFinding};

/// A core with an engine for each of its models, whose packages all serve.
pub struct Runner {
    core: Core,
    engines: Vec<Box<dyn Engine>>,
    identities: BTreeMap<InstanceId, InstanceIdentity>,
    turn: Turn,
}

/// A prediction and what it is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicted {
    /// The prediction.
    pub prediction: Prediction,
    /// Its instance.
    pub identity: InstanceIdentity,
    /// Why the engine failed, where it did.
    pub failure: Option<String>,
}

impl Runner {
    /// Joins a core with the engines of its models, in order.
    #[must_use]
    pub fn new(core: Core, engines: Vec<Box<dyn Engine>>) -> Self {
        Self { core, engines, identities: BTreeMap::new(), turn: Turn::default() }
    }

    /// Returns the core.
    #[must_use]
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// Takes a message and returns the predictions it led to, and what was refused.
    pub fn take(&mut self, message: &Message<'_>) -> (Vec<Predicted>, Vec<(Option<usize>, Refusal)>) {
        self.turn.clear();
        self.core.take(message, &mut self.turn);
        self.identities.extend(self.turn.new_instances.drain(..));
        let mut predictions = Vec::new();
        for window in self.turn.windows.drain(..) {
            let run = self.engines[usize::from(window.head.model.0) / LANES_PER_MODEL].run(1, &window.values);
            let failure = run.as_ref().err().map(ToString::to_string);
            let prediction = self.core.finish(window.head, run.ok());
            let identity = self.identities[&window.head.instance].clone();
            predictions.push(Predicted { prediction, identity, failure });
        }
        (predictions, self.turn.refusals.drain(..).collect())
    }
}

/// How a golden file was kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenReport {
    /// Predictions compared.
    pub predictions: usize,
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

/// Returns a runner for one model with the sources of a golden file's header.
///
/// *Errors*: the model does not load, or the header does not fit the package.
pub fn golden_runner(package: &Package, golden: &Golden) -> Result<Runner, GoldenFailure> {
    let engine = TractEngine::load(package, 1).map_err(GoldenFailure::Engine)?;
    let binding = ModelBinding {
        spec: golden.header.model.clone(),
        manifest: package.manifest().clone(),
        package: package.digest(),
    };
    let core = Core::serving(&golden.header.sources, vec![binding]).map_err(GoldenFailure::Specification)?;
    Ok(Runner::new(core, vec![Box::new(engine)]))
}

/// Runs a package's golden vectors; `None` where it has none.
///
/// *Errors*: the first thing that differs.
pub fn run_golden(package: &Package) -> Result<Option<GoldenReport>, GoldenFailure> {
    let Some(golden) = package.golden().map_err(GoldenFailure::Package)? else {
        return Ok(None);
    };
    let mut runner = golden_runner(package, &golden)?;
    let mut pending: Vec<ExpectedPrediction> = Vec::new();
    let mut report = GoldenReport { predictions: 0, worst: 0.0 };
    for (index, record) in golden.records.iter().enumerate() {
        let refuse = |reason: String| GoldenFailure::Record { record: index + 1, reason };
        match record {
            GoldenRecord::Message(recorded) => {
                if let Some(unexpected) = pending.first() {
                    return Err(refuse(format!(
                        "a prediction at {} us was not expected before this message",
                        unexpected.window_end_us
                    )));
                }
                let payload = recorded.payload_bytes().map_err(refuse)?;
                let (predicted, _) = runner.take(&recorded_message(
                    &recorded.topic,
                    &payload,
                    recorded.arrival_ms,
                    recorded.retained,
                ));
                pending.extend(predicted.iter().map(|one| expectation(package.manifest(), one)));
            }
            GoldenRecord::Expect(expected) => {
                if pending.is_empty() {
                    return Err(refuse(format!(
                        "the prediction at {} us was not made",
                        expected.window_end_us
                    )));
                }
                let made = pending.remove(0);
                let difference = compare(expected, &made).map_err(refuse)?;
                if difference > package.manifest().golden_tolerance {
                    return Err(refuse(format!(
                        "outputs differ by {difference:.3e}, tolerance {:.1e}",
                        package.manifest().golden_tolerance
                    )));
                }
                report.predictions += 1;
                report.worst = report.worst.max(difference);
            }
        }
    }
    match pending.first() {
        Some(rest) => Err(GoldenFailure::Record {
            record: golden.records.len(),
            reason: format!("a prediction at {} us was not expected", rest.window_end_us),
        }),
        None => Ok(Some(report)),
    }
}

/// Returns a recorded message as the pipeline takes it; without an arrival time the clock counts as not set.
#[must_use]
pub fn recorded_message<'m>(
    topic: &'m str,
    payload: &'m [u8],
    arrival_ms: Option<i64>,
    retained: bool,
) -> Message<'m> {
    let clock = if arrival_ms.is_some() { ClockState::Set } else { ClockState::Unset };
    Message {
        broker: None,
        topic,
        payload,
        retained,
        arrival_us: arrival_ms.unwrap_or(0).saturating_mul(1_000),
        clock,
    }
}

/// Returns a prediction as a golden file holds it.
#[must_use]
pub fn expectation(manifest: &Manifest, predicted: &Predicted) -> ExpectedPrediction {
    let (mut outputs, mut start) = (BTreeMap::new(), 0);
    for output in &manifest.outputs {
        let end = start + output.values();
        outputs.insert(
            output.name.clone(),
            predicted.prediction.outputs.get(start..end).unwrap_or_default().to_vec(),
        );
        start = end;
    }
    ExpectedPrediction {
        key: predicted.identity.key.iter().cloned().collect(),
        window_end_us: predicted.prediction.head.window_end_us,
        outputs,
        label: predicted
            .prediction
            .label
            .and_then(|label| predicted.identity.labels.get(usize::from(label)).cloned()),
    }
}

fn compare(expected: &ExpectedPrediction, made: &ExpectedPrediction) -> Result<f64, String> {
    if (&expected.key, expected.window_end_us) != (&made.key, made.window_end_us) {
        return Err(format!(
            "expected {:?} at {} us, made {:?} at {} us",
            expected.key, expected.window_end_us, made.key, made.window_end_us
        ));
    }
    if expected.label != made.label {
        return Err(format!("expected label {:?}, made {:?}", expected.label, made.label));
    }
    let mut worst = 0.0_f64;
    for (name, values) in &expected.outputs {
        let found = made.outputs.get(name).filter(|found| found.len() == values.len());
        let found =
            found.ok_or_else(|| format!("output `{name}` was not made with {} values", values.len()))?;
        for (want, have) in values.iter().zip(found) {
            worst = worst.max((f64::from(*want) - f64::from(*have)).abs() / f64::from(want.abs()).max(1.0));
        }
    }
    Ok(worst)
}
