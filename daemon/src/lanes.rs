//! What runs for each model: two lanes, one that serves and one beside it.
//!
//! Types alone: the update decides how lanes are arranged, the stage carries it out between two steps and counts what
//! each lane does. Lane 0 and 1 of model `n` have the model indices `2n` and `2n + 1`, whatever runs in them, so that
//! any number of swaps takes no more room than one.

use dunlin_pipeline::ModelBinding;
use dunlin_pipeline::prediction::ModelIndex;
use tokio::sync::oneshot;

use crate::slot::SlotHandle;

/// Lanes of a model.
pub const LANES_PER_MODEL: usize = 2;

/// Returns the index under which a lane of a model runs.
#[must_use]
pub const fn lane_index(model: usize, lane: usize) -> ModelIndex {
    ModelIndex((model * LANES_PER_MODEL + lane) as u16)
}

/// What a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneRole {
    /// Its predictions are kept and published.
    Serving,
    /// It runs on the same readings; its predictions are kept as shadow predictions, compared and not published.
    Shadow,
    /// Its windows are filled and not run, so that it can serve with the next reading.
    Standby,
}

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
}

/// An arrangement of one model's lanes, carried out between two steps.
pub struct Arrangement {
    /// Number of the model in the configuration.
    pub model: usize,
    /// Its lanes.
    pub lanes: [LanePlan; LANES_PER_MODEL],
    /// Told when it is in force.
    pub done: oneshot::Sender<()>,
}

/// What a lane did since it got its role; the stage publishes it as it changes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaneCounts {
    /// Rises with each arrangement of the lane, so that counts of an earlier one are recognised.
    pub epoch: u64,
    /// Windows that were answered.
    pub predictions: u64,
    /// Of these: outputs not finite or not of the declared shape.
    pub invalid: u64,
    /// Of these: the model could not be run.
    pub failed: u64,
    /// Of these: slower from submission to answer than the model's p99 budget, where it has one.
    pub slow: u64,
    /// Pairs of shadow and serving predictions for the same window that were compared.
    pub compared: u64,
    /// Of these: same label, or outputs within the golden tolerance where there are no labels.
    pub agreed: u64,
    /// Largest difference of an output, relative to `max(1, |serving|)`.
    pub difference_max: f64,
}
