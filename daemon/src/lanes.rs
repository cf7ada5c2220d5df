//! What runs for each model: two lanes, one that serves and one beside it.
//!
//! Types alone: the update decides how lanes are arranged, the stage carries it out between two steps and counts what
//! each lane does. Lane 0 and 1 of model `n` have the model indices `2n` and `2n + 1`, whatever runs in them, so that
//! any number of swaps takes no more room than one.

use std::time::Duration;

use dunlin_pipeline::ModelBinding;
pub use dunlin_pipeline::lane::{LANES_PER_MODEL, LaneRole, lane_index};
use tokio::sync::oneshot;

use crate::latencies::Latencies;
use crate::slot::SlotHandle;

/// What happens to windows that a lane still holds when it is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// They are run first.
    Drain,
    /// They are answered as failed at once, and its worker is killed.
    Abandon,
}

/// A lane as it is to be.
pub enum LanePlan {
    /// Nothing runs in it.
    Empty(Leaving),
    /// What runs in it stays, in this role.
    Keep(LaneRole),
    /// This runs in it. Instances take over the windows of the other lane where both models take the same rows.
    Fill(LaneRole, Box<LaneFill>),
}

/// What is to run in a lane.
pub struct LaneFill {
    /// The model and its package.
    pub binding: ModelBinding,
    /// Its slot, whose model is ready.
    pub slot: SlotHandle,
    /// Windows that take longer from submission to answer are counted as slow.
    pub p99_budget: Option<Duration>,
}

/// An arrangement of one model's lanes, carried out between two steps.
pub struct Arrangement {
    /// Number of the model in the configuration.
    pub model: usize,
    /// Its lanes.
    pub lanes: [LanePlan; LANES_PER_MODEL],
    /// Told when it is in force; dropped where it cannot be: a package does not fit or runs in the other lane
    /// already, two lanes would serve, or the stage has ended. Nothing has changed then, but that windows of a lane
    /// to be abandoned are answered, and the slots of the arrangement are ended.
    pub done: oneshot::Sender<()>,
}

/// What a lane did since it got its role; the stage publishes it as it changes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaneCounts {
    /// Rises whenever an arrangement changes what runs in the lane or its role, so that earlier counts are recognised.
    pub epoch: u64,
    /// Windows that were answered.
    pub predictions: u64,
    /// Of these: outputs not finite or not of the declared shape.
    pub invalid: u64,
    /// Of these: the model could not be run.
    pub failed: u64,
    /// Of these: slower from submission to answer than the model's p99 budget, where it has one.
    pub slow: u64,
    /// Of these: the model abstained.
    pub abstained: u64,
    /// Pairs of shadow and serving predictions for the same window that were compared.
    pub compared: u64,
    /// Of these: same label, or outputs within the golden tolerance where there are no labels.
    pub agreed: u64,
    /// Largest difference of an output, relative to `max(1, |serving|)`.
    pub difference_max: f64,
    /// How long windows took from submission to answer, those that failed left out.
    pub latencies: Latencies,
}
