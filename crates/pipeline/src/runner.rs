//! The whole path in one call: a message in, its predictions out.
//!
//! Runs core and engines in the caller's thread, window by window; never in another process. For golden vectors, replay
//! and benches; the daemon drives the same core and engines through its stages.

use std::collections::BTreeMap;

use dunlin_model_package::golden::{ExpectedPrediction, Golden};
use dunlin_model_package::{Manifest, Package};

use crate::core::{Core, Turn};
use crate::engine::{Engine, TractEngine};
use crate::golden_check::{GoldenCheck, GoldenStep, golden_core};
use crate::lane::LANES_PER_MODEL;
use crate::message::{ClockState, Message};
use crate::prediction::{InstanceId, InstanceIdentity, Prediction};
use crate::refusal::Refusal;

pub use crate::golden_check::{GoldenFailure, GoldenReport};

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

/// Returns a runner for one model with the sources of a golden file's header.
///
/// *Errors*: the model does not load, or the header does not fit the package.
pub fn golden_runner(package: &Package, golden: &Golden) -> Result<Runner, GoldenFailure> {
    let engine = TractEngine::load(package, 1).map_err(GoldenFailure::Engine)?;
    Ok(Runner::new(golden_core(package, golden.header.clone())?, vec![Box::new(engine)]))
}

/// Runs a package's golden vectors with an engine in the caller's thread; `None` where it has none.
///
/// *Errors*: the first thing that differs.
pub fn run_golden(package: &Package) -> Result<Option<GoldenReport>, GoldenFailure> {
    let Some(mut check) = GoldenCheck::open(package)? else { return Ok(None) };
    let mut engine = TractEngine::load(package, 1).map_err(GoldenFailure::Engine)?;
    loop {
        match check.step()? {
            GoldenStep::Run(windows) => {
                let outputs = windows.iter().map(|values| engine.run(1, values).map_err(|e| e.to_string()));
                check.finish(outputs);
            }
            GoldenStep::Done(report) => return Ok(Some(report)),
        }
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
