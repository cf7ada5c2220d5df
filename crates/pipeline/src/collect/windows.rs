//! The windows of one instance: aligned spans of event time, each with a summary a part of the profile.
//!
//! A window is over when an observation beyond its end has come, and takes late ones until its grace is over too. What is
//! reported of a window keeps its beginning and end for ever; one with too few readings is reported with the next. Knows
//! event times alone.
//!
//! *Bounds*: windows that are over leave after the grace, so that an instance has the few that the grace spans, and the
//! present one.

use std::collections::VecDeque;
use std::sync::Arc;

use dunlin_drift::summary::{Flaw, Summary};

use super::plan::Plan;
use super::{CollectSettings, Observation, Observed, Predicted, Reporting, WindowReport};
use crate::prediction::{InstanceId, QualityFlags};

/// Times beyond these are counted nowhere: 285 years around 1970, less the longest window.
const TIME_US_MAX: u64 = (1 << 53) - (1 << 40);
/// Windows that are farther apart have no common beginning, in microseconds: a month. A gateway without a clock counts from
/// 1970 until it knows better.
const JOINED_US_MAX: i64 = 31 * 86_400_000_000;

/// What was counted of one instance.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) plan: Arc<Plan>,
    pub(super) settings: CollectSettings,
    /// In order of time; they do not overlap.
    pub(super) windows: VecDeque<Window>,
    /// Latest event time.
    pub(super) newest_us: i64,
    /// Nothing before this is counted any more.
    pub(super) floor_us: i64,
    /// Windows of before the gateway's clock was set back.
    ended: Vec<WindowReport>,
}

/// A span of event time and what was counted in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) from_us: i64,
    pub(super) to_us: i64,
    /// Readings.
    pub(super) n: u64,
    /// How often it was reported.
    pub(super) revision: u32,
    pub(super) change: Change,
    pub(super) summaries: Vec<Summary>,
}

/// Whether a window is as it was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is.
    Told,
    /// Something was counted since.
    Untold,
}

impl Window {
    fn new(from_us: i64, to_us: i64, plan: &Plan) -> Self {
        let summaries = plan.shapes.iter().map(|shape| Summary::empty(shape.bins)).collect();
        Self { from_us, to_us, n: 0, revision: 0, change: Change::Told, summaries }
    }

    const fn spans(&self, at_us: i64) -> bool {
        self.from_us <= at_us && at_us < self.to_us
    }

    /// Takes over what another one of the same plan counted.
    fn absorb(&mut self, other: &Self) {
        self.n = self.n.saturating_add(other.n);
        self.change = Change::Untold;
        for (here, there) in self.summaries.iter_mut().zip(&other.summaries) {
            // Of the same plan, and so of the same bins.
            let _ = here.merge(there);
        }
    }

    /// Takes over what the untold window before counted; tells whether it begins where that did from here on. A beginning
    /// that was told stays.
    fn join(&mut self, before: &Self) -> bool {
        let is_longer = self.revision == 0 && self.to_us.saturating_sub(before.from_us) <= JOINED_US_MAX;
        if is_longer {
            self.from_us = before.from_us;
        }
        self.absorb(before);
        is_longer
    }

    /// Returns the window as it is reported, and notes that it was.
    fn report(&mut self, id: InstanceId, plan: &Plan, values_min: u64) -> WindowReport {
        self.revision = self.revision.saturating_add(1);
        self.change = Change::Told;
        WindowReport {
            instance: id,
            profile: plan.profile,
            from_us: self.from_us,
            to_us: self.to_us,
            revision: self.revision,
            n: self.n,
            summaries: self.summaries.iter().map(|summary| enough(summary, values_min)).collect(),
            shapes: Arc::clone(&plan.shapes),
        }
    }
}

/// Returns a summary without its values where they are too few; what was wrong with readings stays.
fn enough(summary: &Summary, values_min: u64) -> Summary {
    if summary.values() >= values_min {
        return summary.clone();
    }
    Summary { flaws: summary.flaws, ..Summary::empty(summary.counts.len()) }
}

impl Collected {
    pub(super) fn new(plan: &Arc<Plan>, settings: CollectSettings) -> Self {
        Self {
            plan: Arc::clone(plan),
            settings,
            windows: VecDeque::new(),
            newest_us: i64::MIN,
            floor_us: i64::MIN,
            ended: Vec::new(),
        }
    }

    /// Returns how many windows are open.
    pub(super) fn open(&self) -> u64 {
        self.windows.len() as u64
    }

    /// Counts an observation.
    pub(super) fn take(&mut self, observation: &Observation) {
        let plan = Arc::clone(&self.plan);
        match observation.what {
            Observed::ClockSetBack => self.set_back(observation),
            Observed::Reading => {
                if let Some(window) = self.window_at(observation.at_us) {
                    (window.n, window.change) = (window.n.saturating_add(1), Change::Untold);
                }
            }
            Observed::Value(position, value) => {
                if let Some(summary) = self.summary_at(position, observation.at_us)
                    && let Some(counter) = plan.counters.get(usize::from(position))
                {
                    counter.add(summary, value);
                }
            }
            Observed::Flaw(position, flaw) => {
                if let Some(summary) = self.summary_at(position, observation.at_us) {
                    summary.add_flaw(flaw);
                }
            }
        }
    }

    /// Counts a prediction. One that was made of what a faulty sensor says is not what the model does, and one without
    /// values has none.
    pub(super) fn take_prediction(&mut self, plan: &Plan, predicted: &Predicted<'_>) {
        if predicted.flags.contains(QualityFlags::FAULTY_INPUT) {
            return;
        }
        let (at_us, is_valid) = (predicted.window_end_us, predicted.flags.is_valid());
        for (position, output) in (plan.features.len()..).zip(&plan.outputs) {
            let Some(summary) = self.summary_at(position as u16, at_us) else { continue };
            if !is_valid {
                summary.add_flaw(Flaw::Missing);
                continue;
            }
            let label = predicted.label.and_then(|label| output.labels.get(usize::from(label)));
            if let Some(bin) = label {
                if let Some(count) = summary.counts.get_mut(*bin) {
                    *count += 1;
                }
            } else if let (Some(value), Some(counter)) =
                (output.pick.of(predicted.outputs), plan.counters.get(position))
            {
                counter.add(summary, value);
            }
        }
        if let (Some(pick), true) = (&plan.score, is_valid)
            && let Some(score) = pick.of(predicted.outputs)
        {
            let position = plan.score_position();
            if let (Some(summary), Some(counter)) =
                (self.summary_at(position as u16, at_us), plan.counters.get(position))
            {
                counter.add(summary, score);
            }
        }
    }

    /// Returns a summary of the window that a time falls into. A time whose window has left is late: that is counted in the
    /// oldest window there is, and nothing else of it is.
    fn summary_at(&mut self, position: u16, at_us: i64) -> Option<&mut Summary> {
        if at_us < self.floor_us {
            let oldest = self.windows.front_mut()?;
            oldest.change = Change::Untold;
            oldest.summaries.get_mut(usize::from(position))?.add_flaw(Flaw::Late);
            return None;
        }
        let window = self.window_at(at_us)?;
        window.change = Change::Untold;
        window.summaries.get_mut(usize::from(position))
    }

    /// Returns the window that a time falls into, made where there is none; none for a time whose window has left.
    fn window_at(&mut self, at_us: i64) -> Option<&mut Window> {
        if at_us < self.floor_us || at_us.unsigned_abs() > TIME_US_MAX {
            return None;
        }
        self.newest_us = self.newest_us.max(at_us);
        let is_last = self.windows.back().is_some_and(|window| window.spans(at_us));
        let position = if is_last {
            self.windows.len() - 1
        } else {
            self.windows.partition_point(|window| window.to_us <= at_us)
        };
        if !self.windows.get(position).is_some_and(|window| window.spans(at_us)) {
            let window = self.aligned(position, at_us);
            self.windows.insert(position, window);
        }
        self.windows.get_mut(position)
    }

    /// Returns the empty window of a time between the windows before and from a position: aligned, and cut where windows of
    /// another length are.
    fn aligned(&self, position: usize, at_us: i64) -> Window {
        let span_us = self.settings.span_us.max(1);
        let from_us = at_us.div_euclid(span_us).saturating_mul(span_us);
        let to_us = from_us.saturating_add(span_us).max(at_us.saturating_add(1));
        let before = position.checked_sub(1).and_then(|before| self.windows.get(before));
        let earliest_us = before.map_or(self.floor_us, |window| window.to_us.max(self.floor_us));
        let latest_us = self.windows.get(position).map_or(i64::MAX, |window| window.from_us);
        Window::new(from_us.max(earliest_us), to_us.min(latest_us), &self.plan)
    }

    /// Closes what was counted by a clock that is another one from here on.
    fn set_back(&mut self, observation: &Observation) {
        if observation.at_us >= self.newest_us {
            return;
        }
        let mut ended = std::mem::take(&mut self.ended);
        self.report_rest(observation.instance, &mut ended);
        self.ended = ended;
        (self.newest_us, self.floor_us) = (i64::MIN, i64::MIN);
    }

    /// Adds the windows that are to be reported, and lets go those that nothing can change any more.
    pub(super) fn close(&mut self, id: InstanceId, reports: &mut Vec<WindowReport>) {
        reports.append(&mut self.ended);
        let CollectSettings { grace_us, values_min, reporting, .. } = self.settings;
        let plan = Arc::clone(&self.plan);
        let mut position = 0;
        while let Some(window) = self.windows.get_mut(position) {
            if window.to_us > self.newest_us {
                break;
            }
            let leaves = window.to_us.saturating_add(grace_us) <= self.newest_us;
            let is_told = window.revision > 0;
            let is_enough = window.n >= values_min;
            if !is_told && is_enough && (leaves || reporting == Reporting::AtEnd) {
                reports.push(window.report(id, &plan, values_min));
                if !leaves {
                    position += 1;
                    continue;
                }
            }
            if !leaves {
                position += 1;
                continue;
            }
            if is_told && window.change == Change::Untold {
                reports.push(window.report(id, &plan, values_min));
            }
            self.leave(position, values_min);
        }
    }

    /// Takes a window out. What was not reported of it goes to the next one, which there is: the newest time is beyond it.
    fn leave(&mut self, position: usize, values_min: u64) {
        let Some(mut window) = self.windows.remove(position) else { return };
        self.floor_us = self.floor_us.max(window.to_us);
        let Some(next) = self.windows.get_mut(position) else { return };
        if window.revision == 0 {
            if next.join(&window) {
                // Its beginning may take readings of its own as long as it is there.
                self.floor_us = self.floor_us.min(window.from_us);
            }
            return;
        }
        // Of a summary with few values its flaws were told.
        window.n = 0;
        let mut is_left = false;
        for summary in &mut window.summaries {
            let is_few = summary.values() > 0 && summary.values() < values_min;
            is_left |= is_few;
            if is_few {
                summary.flaws = [0; Flaw::ALL.len()];
            } else {
                summary.clear();
            }
        }
        if is_left {
            next.absorb(&window);
        }
    }

    /// Reports all that there is, of an instance that runs no more; windows of too few readings end untold.
    pub(super) fn end(mut self, id: InstanceId, reports: &mut Vec<WindowReport>) {
        reports.append(&mut self.ended);
        self.report_rest(id, reports);
    }

    fn report_rest(&mut self, id: InstanceId, reports: &mut Vec<WindowReport>) {
        let values_min = self.settings.values_min;
        let mut untold: Option<Window> = None;
        for mut window in std::mem::take(&mut self.windows) {
            if let Some(before) = untold.take() {
                window.join(&before);
            }
            if window.change == Change::Told {
                continue;
            }
            if window.revision > 0 || window.n >= values_min {
                reports.push(window.report(id, &self.plan, values_min));
            } else {
                untold = Some(window);
            }
        }
    }
}
