//! What runs in the lanes when a generation starts, and what changes them while it runs.
//!
//! Starts slots and hands out the ends of the channels; never decides which package runs. The update does, the stage
//! carries it out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::{ModelSpec, Package, Profile};
use dunlin_pipeline::ModelBinding;
use dunlin_pipeline::prediction::ModelIndex;
use tokio::sync::{mpsc, watch};

use crate::config::settings::InferenceSettings;
use crate::flow::SlotResult;
use crate::lanes::{Arrangement, LANES_PER_MODEL, LaneCounts, LaneRole};
use crate::metrics::Metrics;
use crate::slot::{SlotHandle, SlotSpec, TryLedger, spawn_slot};

/// What runs in a lane from the start.
#[derive(Clone)]
pub struct LaneStart {
    /// The lane's role.
    pub role: LaneRole,
    /// Its package, whose files were checked.
    pub package: Package,
    /// Windows that take longer from submission to answer are counted as slow.
    pub p99_budget: Option<Duration>,
}

/// The lanes of each model from the start, in order of the configuration.
pub type LaneStarts = Vec<[Option<LaneStart>; LANES_PER_MODEL]>;

/// Returns a model as configured with a package.
#[must_use]
pub fn binding(spec: &ModelSpec, package: &Package) -> ModelBinding {
    ModelBinding {
        spec: spec.clone(),
        manifest: package.manifest().clone(),
        package: package.digest(),
        profile: profile_of(&spec.name, package).map(Arc::new),
    }
}

/// Returns what a package's inputs and outputs were like in training; none where it does not say so, or not in a form that
/// this build reads: its model runs all the same, uncounted.
fn profile_of(model: &str, package: &Package) -> Option<Profile> {
    let profile = package.profile();
    profile.unwrap_or_else(|error| {
        let error = Chain(&error);
        tracing::warn!(model, %error, "the profile of a package cannot be used; nothing is counted by it");
        None
    })
}

/// Returns what the core compiles for these lanes of these models.
#[must_use]
pub fn bindings<'m>(
    models: impl IntoIterator<Item = &'m ModelSpec>,
    lanes: &LaneStarts,
) -> Vec<Option<(LaneRole, ModelBinding)>> {
    let of_model = |(spec, lanes): (&ModelSpec, &[Option<LaneStart>; LANES_PER_MODEL])| {
        let bound =
            |lane: &Option<LaneStart>| lane.as_ref().map(|lane| (lane.role, binding(spec, &lane.package)));
        [bound(&lanes[0]), bound(&lanes[1])]
    };
    models.into_iter().zip(lanes).flat_map(of_model).collect()
}

/// Starts slots for the lanes of one generation.
#[derive(Clone)]
pub struct SlotStarter {
    /// Where the stage takes results.
    pub results: mpsc::Sender<Vec<SlotResult>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How models are run.
    pub inference: InferenceSettings,
    /// The program whose command `worker` is the worker.
    pub worker_program: PathBuf,
    /// Where starts are counted.
    pub tries: Arc<dyn TryLedger>,
}

impl SlotStarter {
    /// Starts a slot for a lane; `role` is `None` for one that is prepared beside what runs there. To be called on the
    /// thread of the stage, whose life the worker shares.
    #[must_use]
    pub fn start(
        &self,
        lane: ModelIndex,
        model: &str,
        package: Package,
        role: Option<LaneRole>,
    ) -> SlotHandle {
        let spec = SlotSpec {
            model: lane,
            name: model.to_owned(),
            role,
            package,
            inference: self.inference.clone(),
            worker_program: self.worker_program.clone(),
            tries: Arc::clone(&self.tries),
        };
        spawn_slot(spec, self.results.clone(), Arc::clone(&self.metrics))
    }
}

/// What an update needs of a running generation. Of no use once the generation has ended: arrangements are refused
/// then.
#[derive(Clone)]
pub struct LaneControl {
    /// How lanes are to be.
    pub arrangements: mpsc::Sender<Arrangement>,
    /// What each lane did, by lane.
    pub counts: watch::Receiver<Vec<LaneCounts>>,
    /// Starts the slots that arrangements bring.
    pub slots: SlotStarter,
}
