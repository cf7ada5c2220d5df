//! The slots of all lanes: which window goes where, and what each lane is known for.
//!
//! Never decides what runs: arrangements do. Windows that their slot has no room for wait here. Stands between the
//! stage and the slots.

use std::collections::VecDeque;
use std::time::Duration;

use dunlin_pipeline::Core;
use dunlin_pipeline::prediction::{ModelIndex, Prediction, QualityFlags};
use tokio::sync::watch;

use super::in_flight::{InFlight, OpenWindow};
use super::shadow::{ShadowPairs, Side};
use crate::flow::SlotJob;
use crate::lanes::{LANES_PER_MODEL, LaneCounts, LaneRole, lane_index};
use crate::metrics::SlotCounts;
use crate::slot::SlotHandle;

/// A slot in a lane.
pub struct LaneSlot {
    /// The slot.
    pub slot: SlotHandle,
    /// Windows that take longer from submission to answer are counted as slow.
    pub p99_budget: Option<Duration>,
}

/// The slots of all lanes.
pub(super) struct Lanes {
    slots: Vec<Option<LaneSlot>>,
    /// Windows that their slot has no room for.
    unsent: Vec<VecDeque<SlotJob>>,
    counts: Vec<LaneCounts>,
    /// By model: what its two lanes make of the same windows, while one is in shadow.
    pairs: Vec<Option<ShadowPairs>>,
    published: watch::Sender<Vec<LaneCounts>>,
}

impl Lanes {
    /// Returns the slots of a core's lanes.
    pub(super) fn new(
        core: &Core,
        mut slots: Vec<Option<LaneSlot>>,
        published: watch::Sender<Vec<LaneCounts>>,
    ) -> Self {
        let count = core.lane_count();
        slots.resize_with(count, || None);
        let mut lanes = Self {
            slots,
            unsent: (0..count).map(|_| VecDeque::new()).collect(),
            counts: vec![LaneCounts::default(); count],
            pairs: Vec::new(),
            published,
        };
        lanes.pairs = (0..count / LANES_PER_MODEL).map(|model| pairs_of(core, model)).collect();
        lanes.publish();
        lanes
    }

    /// Takes a window for a lane.
    pub(super) fn push(&mut self, index: ModelIndex, job: SlotJob) {
        self.unsent[usize::from(index.0)].push_back(job);
    }

    /// Hands windows to the slots as far as these have room; returns those of lanes that have none.
    pub(super) fn submit(&mut self, in_flight: &mut InFlight, now_us: i64) -> Vec<u64> {
        let mut homeless = Vec::new();
        for (lane, unsent) in self.slots.iter().zip(&mut self.unsent) {
            let Some(LaneSlot { slot, .. }) = lane else {
                homeless.extend(unsent.drain(..).map(|job| job.ticket));
                continue;
            };
            while let Some(job) = unsent.pop_front() {
                let ticket = job.ticket;
                if let Err(job) = slot.try_submit(job) {
                    unsent.push_front(job);
                    break;
                }
                in_flight.submitted(ticket, now_us);
            }
        }
        homeless
    }

    /// Tells whether no window waits for room.
    pub(super) fn all_submitted(&self) -> bool {
        self.unsent.iter().all(VecDeque::is_empty)
    }

    /// Changes the counts of the slot in a lane.
    pub(super) fn count(&self, lane: usize, change: impl FnOnce(&mut SlotCounts)) {
        if let Some(LaneSlot { slot, .. }) = &self.slots[lane] {
            slot.count(change);
        }
    }

    /// Notes what became of a window.
    pub(super) fn note(&mut self, core: &Core, window: &OpenWindow, prediction: &Prediction, now_us: i64) {
        let lane = usize::from(window.head.model.0);
        let flags = prediction.head.flags;
        let budget = self.slots[lane].as_ref().and_then(|slot| slot.p99_budget);
        let counts = &mut self.counts[lane];
        counts.predictions += 1;
        counts.invalid += u64::from(flags.contains(QualityFlags::INVALID_OUTPUT));
        counts.failed += u64::from(flags.contains(QualityFlags::INFERENCE_FAILED));
        counts.abstained += u64::from(flags.contains(QualityFlags::ABSTAINED));
        let taken_us =
            window.submitted_us.map_or(0, |submitted| now_us.saturating_sub(submitted).unsigned_abs());
        if window.submitted_us.is_some() && !flags.contains(QualityFlags::INFERENCE_FAILED) {
            counts.latencies.add(taken_us);
        }
        counts.slow += u64::from(budget.is_some_and(|budget| u128::from(taken_us) > budget.as_micros()));
        let model = lane / LANES_PER_MODEL;
        let (Some(pairs), Some(place)) = (&mut self.pairs[model], core.place(window.head.instance)) else {
            return;
        };
        let side = if flags.contains(QualityFlags::SHADOW) { Side::Shadow } else { Side::Serving };
        if let Some(found) = pairs.add(side, place, prediction) {
            for counts in &mut self.counts[model * LANES_PER_MODEL..][..LANES_PER_MODEL] {
                counts.compared += 1;
                counts.agreed += u64::from(found.agree);
                counts.difference_max = counts.difference_max.max(found.difference);
            }
        }
    }

    /// Makes the counts known.
    pub(super) fn publish(&self) {
        self.published.send_modify(|published| published.clone_from(&self.counts));
    }

    /// Takes the slot out of a lane, with the windows that wait for it.
    pub(super) fn remove(&mut self, index: ModelIndex) -> Option<SlotHandle> {
        let lane = usize::from(index.0);
        self.unsent[lane].clear();
        let slot = self.slots.get_mut(lane)?.take()?.slot;
        slot.hide();
        Some(slot)
    }

    /// Puts a slot into a lane; returns the one that was there.
    pub(super) fn replace(&mut self, index: ModelIndex, slot: LaneSlot) -> Option<SlotHandle> {
        let former = self.remove(index);
        self.slots[usize::from(index.0)] = Some(slot);
        former
    }

    /// Has counts, names and comparisons follow the lanes of a model; `changed` are those that something else runs in
    /// or that have another role.
    pub(super) fn follow(&mut self, core: &Core, model: usize, changed: [bool; LANES_PER_MODEL]) {
        let indices = [0, 1].map(|lane| lane_index(model, lane));
        for (index, changed) in indices.into_iter().zip(changed) {
            if changed {
                let counts = &mut self.counts[usize::from(index.0)];
                *counts = LaneCounts { epoch: counts.epoch + 1, ..LaneCounts::default() };
            }
        }
        // The name of the serving lane is free once the other lane has its own.
        let serves = |index: &ModelIndex| core.role(*index) == Some(LaneRole::Serving);
        let (serving, beside): (Vec<_>, Vec<_>) = indices.into_iter().partition(serves);
        for index in beside.into_iter().chain(serving) {
            if let Some(LaneSlot { slot, .. }) = &self.slots[usize::from(index.0)] {
                slot.show_as(core.role(index));
            }
        }
        if changed.contains(&true) {
            self.pairs[model] = pairs_of(core, model);
        }
        self.publish();
    }

    /// Takes all slots out; those that did not serve are shown no longer.
    pub(super) fn into_slots(self, core: &Core) -> Vec<SlotHandle> {
        let mut slots = Vec::new();
        for (lane, slot) in self.slots.into_iter().enumerate() {
            let Some(LaneSlot { slot, .. }) = slot else { continue };
            if core.role(ModelIndex(lane as u16)) != Some(LaneRole::Serving) {
                slot.hide();
            }
            slots.push(slot);
        }
        slots
    }
}

/// Returns an empty comparison where one lane of the model is in shadow of the other.
fn pairs_of(core: &Core, model: usize) -> Option<ShadowPairs> {
    let lane_in = |role| {
        let indices = [0, 1].map(|lane| lane_index(model, lane));
        indices.into_iter().find(|index| core.role(*index) == Some(role)).and_then(|index| core.model(index))
    };
    Some(ShadowPairs::new(lane_in(LaneRole::Serving)?, lane_in(LaneRole::Shadow)?))
}
