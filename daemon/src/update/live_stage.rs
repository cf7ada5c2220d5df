//! The updater's lanes in the running daemon: slots are started, arrangements go to the stage.
//!
//! Joins the update's orders with the stage's plans; decides nothing. Lives as long as one generation of the stages.

use std::time::Duration;

use dunlin_model_package::{ModelSpec, Package};
use tokio::sync::{oneshot, watch};

use super::release::{Reason, SelfTest};
use super::stage::{LaneOrder, Stage, Step, StepFailure};
use crate::app::{LaneControl, binding};
use crate::lanes::{Arrangement, LANES_PER_MODEL, LaneCounts, LaneFill, LanePlan, lane_index};
use crate::slot::SlotState;

/// The lanes of one generation.
pub struct LiveStage {
    control: LaneControl,
    models: Vec<ModelSpec>,
    p99_budget: fn(&Package) -> Option<Duration>,
}

impl LiveStage {
    /// Joins a generation's lanes with its models, in order of the configuration; `p99_budget` says beyond what a
    /// package's windows count as slow on this board.
    #[must_use]
    pub const fn new(
        control: LaneControl,
        models: Vec<ModelSpec>,
        p99_budget: fn(&Package) -> Option<Duration>,
    ) -> Self {
        Self { control, models, p99_budget }
    }
}

impl Stage for LiveStage {
    type Package = Package;
    type Fill = LaneFill;

    fn counts(&self) -> watch::Receiver<Vec<LaneCounts>> {
        self.control.counts.clone()
    }

    fn load(&self, model: usize, lane: usize, package: &Package) -> Step<LaneFill> {
        let Some(spec) = self.models.get(model) else {
            return Box::pin(async { Err(StepFailure::Later("no such model is configured".to_owned())) });
        };
        let slot = self.control.slots.start(lane_index(model, lane), &spec.name, package.clone(), None);
        let fill = LaneFill { binding: binding(spec, package), slot, p99_budget: (self.p99_budget)(package) };
        Box::pin(async move {
            let state = fill.slot.ready().await;
            let last = fill.slot.faults().borrow().last.clone();
            let why = last.unwrap_or_else(|| format!("its slot is {}", state.as_str()));
            match state {
                SlotState::Ready => Ok(fill),
                SlotState::Failed => Err(StepFailure::Bad(Reason::SelfTest(SelfTest::Load), why)),
                SlotState::Starting | SlotState::Waiting => Err(StepFailure::Later(why)),
            }
        })
    }

    fn arrange(&self, model: usize, orders: [LaneOrder<LaneFill>; LANES_PER_MODEL]) -> Step<()> {
        let lanes = orders.map(|order| match order {
            LaneOrder::Empty(leaving) => LanePlan::Empty(leaving),
            LaneOrder::Keep(role) => LanePlan::Keep(role),
            LaneOrder::Fill(role, fill) => LanePlan::Fill(role, Box::new(fill)),
        });
        let arrangements = self.control.arrangements.clone();
        Box::pin(async move {
            let (done, in_force) = oneshot::channel();
            let refused = |_| StepFailure::Later("the stage refuses the arrangement, or ends".to_owned());
            arrangements
                .send(Arrangement { model, lanes, done })
                .await
                .map_err(|_| StepFailure::Later("the stage has ended".to_owned()))?;
            in_force.await.map_err(refused)
        })
    }
}
