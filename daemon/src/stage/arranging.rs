//! Carries out arrangements of lanes between two steps.
//!
//! Takes no message meanwhile and waits until no window is with a slot, so that each message is answered by one
//! arrangement alone. Never waits for a lane that is to be abandoned, nor for a slot to end.

use std::time::Duration;

use dunlin_kit::clock;
use dunlin_pipeline::compiled_model::CompiledModel;
use dunlin_pipeline::prediction::ModelIndex;
use tokio::sync::oneshot;

use super::Stage;
use super::lanes::LaneSlot;
use crate::flow::SlotFailure;
use crate::lanes::{Arrangement, LANES_PER_MODEL, LaneFill, LanePlan, LaneRole, Leaving, lane_index};
use crate::slot::SlotHandle;

/// How long the worker of an emptied lane may take to end, before it is killed. It has nothing to do any more.
const RETIRE_DEADLINE: Duration = Duration::from_secs(5);

/// A lane as it will be, its package checked.
enum Checked {
    Empty,
    Keep(LaneRole),
    Fill(LaneRole, Box<CompiledModel>, LaneSlot),
}

/// An arrangement that waits until nothing is in flight.
pub(super) struct Arranging {
    model: usize,
    lanes: [Checked; LANES_PER_MODEL],
    done: oneshot::Sender<()>,
}

impl Stage {
    /// Checks an arrangement and has it wait for its moment; one that cannot be is told so by the end of `done`.
    pub(super) fn begin(&mut self, arrangement: Arrangement) {
        let Arrangement { model, lanes, done } = arrangement;
        let fitting = match self.check(model, &lanes) {
            Ok(fitting) => fitting,
            Err(reason) => {
                tracing::error!(model, reason, "an arrangement of lanes is refused");
                for plan in lanes {
                    if let LanePlan::Fill(_, fill) = plan {
                        end_in_background(fill.slot);
                    }
                }
                return;
            }
        };
        for (lane, plan) in lanes.iter().enumerate() {
            if matches!(plan, LanePlan::Empty(Leaving::Abandon)) {
                self.abandon(lane_index(model, lane));
            }
        }
        let mut fitting = fitting.into_iter();
        let lanes = lanes.map(|plan| match (plan, fitting.next().flatten()) {
            (LanePlan::Fill(role, fill), Some(fitting)) => {
                let LaneFill { slot, p99_budget, .. } = *fill;
                Checked::Fill(role, Box::new(fitting), LaneSlot { slot, p99_budget })
            }
            (LanePlan::Keep(role), _) => Checked::Keep(role),
            (LanePlan::Empty(_) | LanePlan::Fill(..), _) => Checked::Empty,
        });
        self.arranging = Some(Arranging { model, lanes, done });
    }

    /// Returns the compiled packages of the lanes that are to be filled.
    ///
    /// *Errors*: why the arrangement cannot be.
    fn check(
        &self,
        model: usize,
        lanes: &[LanePlan; LANES_PER_MODEL],
    ) -> Result<[Option<CompiledModel>; LANES_PER_MODEL], String> {
        let core = &self.parts.core;
        if model * LANES_PER_MODEL >= core.lane_count() {
            return Err("there is no such model".to_owned());
        }
        let mut fitting = [None, None];
        let mut serving = 0;
        for (lane, plan) in lanes.iter().enumerate() {
            let index = lane_index(model, lane);
            match plan {
                LanePlan::Empty(_) => {}
                LanePlan::Keep(role) => {
                    serving += u32::from(*role == LaneRole::Serving && core.role(index).is_some());
                }
                LanePlan::Fill(role, fill) => {
                    serving += u32::from(*role == LaneRole::Serving);
                    let found = core.fit(index, fill.binding.clone());
                    fitting[lane] = Some(found.map_err(|findings| {
                        findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
                    })?);
                }
            }
        }
        if serving > 1 {
            return Err("two lanes of one model cannot serve".to_owned());
        }
        if let [Some(one), Some(other)] = &fitting
            && one.binding.package == other.binding.package
        {
            return Err("both lanes would run the same package".to_owned());
        }
        Ok(fitting)
    }

    /// Answers all windows of a lane as failed and kills its worker.
    fn abandon(&mut self, index: ModelIndex) {
        if let Some(slot) = self.lanes.remove(index) {
            slot.abandon();
        }
        let now = clock::monotonic_micros();
        for ticket in self.in_flight.open_in(index) {
            self.answer(ticket, Err(SlotFailure::Unavailable), now);
        }
        self.lanes.publish();
    }

    /// Carries out the arrangement that waits, if there is one, and saves the state, so that a restart knows the new
    /// lanes. To be called when nothing is in flight.
    pub(super) fn arrange(&mut self) {
        let Some(Arranging { model, lanes, done }) = self.arranging.take() else { return };
        let indices = [0, 1].map(|lane| lane_index(model, lane));
        let core = &mut self.parts.core;
        let before = indices.map(|index| core.role(index));
        // Roles, then new packages, then the end of old ones: what is taken over must still be there.
        for (index, plan) in indices.into_iter().zip(&lanes) {
            if let Checked::Keep(role) = plan {
                core.set_role(index, *role);
            }
        }
        let mut replaced = [false; LANES_PER_MODEL];
        let mut emptied = Vec::new();
        for ((index, plan), replaced) in indices.into_iter().zip(lanes).zip(&mut replaced) {
            match plan {
                Checked::Keep(_) => {}
                Checked::Empty => emptied.push(index),
                Checked::Fill(role, fitting, slot) => {
                    core.install_fitting(index, role, *fitting);
                    *replaced = true;
                    let former = self.lanes.replace(index, slot);
                    former.into_iter().for_each(end_in_background);
                }
            }
        }
        for index in emptied {
            core.retire(index);
            self.lanes.remove(index).into_iter().for_each(end_in_background);
        }
        let after = indices.map(|index| core.role(index));
        let changed = [0, 1].map(|lane| replaced[lane] || before[lane] != after[lane]);
        self.lanes.follow(core, model, changed);
        let publishing = &mut self.parts.publishing;
        publishing.keep_instances(|id| core.place(id).is_some());
        for (index, _) in indices.into_iter().zip(replaced).filter(|(_, replaced)| *replaced) {
            core.lane_instances(index).iter().for_each(|(id, identity)| publishing.introduce(*id, identity));
        }
        self.save_state();
        let _ = done.send(());
    }
}

/// Ends a slot that has nothing to do any more.
fn end_in_background(slot: SlotHandle) {
    slot.hide();
    tokio::spawn(slot.shutdown(RETIRE_DEADLINE));
}
