//! What a model's inputs and outputs do over time, counted on the data path: sensor faults first, then windows of summaries.
//!
//! Pure, and a function of the steps alone: `sensors` judges each reading as an instance takes it, and `windows` counts what
//! was judged once the reading's step is complete. A core that is restored and given the later steps again therefore has the
//! same windows, to the bit. Reads no clock, draws no chance, and allocates nothing for a reading.
//!
//! `plan` joins a profile with a model, `saved` keeps the state with the pipeline's. Stands beside the models: it never
//! changes what they see, it marks their predictions.

mod plan;
mod saved;
mod sensors;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dunlin_drift::summary::{Flaw, Summary};
use dunlin_kit::digest::Digest;
use dunlin_model_package::profile_window::Shape;

use crate::core::Core;
use crate::instance::Share;
use crate::lane::LaneRole;
use crate::prediction::{InstanceId, Prediction, QualityFlags};
use crate::reading::SeriesId;

pub use plan::Plan;
use sensors::Sensors;
use windows::Collected;

/// How windows are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectSettings {
    /// Length of a window in microseconds. *Range*: above 0.
    pub span_us: i64,
    /// How long a window takes late readings after its end, in microseconds of event time.
    pub grace_us: i64,
    /// Fewest readings of a window, and fewest values of a summary: what has fewer waits for the next.
    pub values_min: u64,
    /// When a window is reported.
    pub reporting: Reporting,
}

/// When a window is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reporting {
    /// At its end, and again where late readings changed it.
    AtEnd,
    /// Once, when no reading can change it any more: what each report costs of privacy is then spent once a reading.
    Once,
}

/// What is counted of one reading or prediction. Made by the thousand: small and plain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// The instance.
    pub instance: InstanceId,
    /// What it is of.
    pub what: Observed,
    /// Its event time, in microseconds since 1970.
    pub at_us: i64,
}

/// What an observation is of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Observed {
    /// A reading came.
    Reading,
    /// The gateway's clock was set back: what was counted by the old one is closed.
    ClockSetBack,
    /// A sound value of a summary, by its position in the profile's order.
    Value(u16, f64),
    /// Something is wrong with one.
    Flaw(u16, Flaw),
}

/// A prediction, as far as it is counted.
#[derive(Debug, Clone, Copy)]
pub struct Predicted<'p> {
    /// Its instance.
    pub instance: InstanceId,
    /// Event time of its window's last row, in microseconds since 1970.
    pub window_end_us: i64,
    /// Its quality.
    pub flags: QualityFlags,
    /// Position in the instance's labels.
    pub label: Option<u16>,
    /// Its outputs.
    pub outputs: &'p [f32],
}

impl<'p> From<&'p Prediction> for Predicted<'p> {
    fn from(prediction: &'p Prediction) -> Self {
        Self {
            instance: prediction.head.instance,
            window_end_us: prediction.head.window_end_us,
            flags: prediction.head.flags,
            label: prediction.label,
            outputs: &prediction.outputs,
        }
    }
}

/// A window that is to be reported.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowReport {
    /// Its instance.
    pub instance: InstanceId,
    /// The profile that it was counted by.
    pub profile: Digest,
    /// Where it begins, event time in microseconds since 1970.
    pub from_us: i64,
    /// Where it ends; this moment is not in it.
    pub to_us: i64,
    /// How often it was reported, this time included.
    pub revision: u32,
    /// Readings in it.
    pub n: u64,
    /// Its summaries in the profile's order; one of fewer values than the least has none.
    pub summaries: Vec<Summary>,
    /// How they are read.
    pub shapes: Arc<[Shape]>,
}

/// How the counting stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectCounts {
    /// Windows that are open.
    pub windows_open: u64,
    /// Sensors that are watched.
    pub sensors: u64,
    /// Sensors that are faulty, by what is wrong.
    pub faulty: BTreeMap<Flaw, u64>,
    /// Those sensors, at most [`FAULTY_SHOWN`].
    pub shown: Vec<FaultySensor>,
}

/// A sensor that is faulty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultySensor {
    /// Its series.
    pub series: SeriesId,
    /// Source and tags of the series, for people.
    pub name: String,
    /// Its field.
    pub field: String,
    /// What is wrong.
    pub flaw: Flaw,
}

/// Most faulty sensors that are named.
pub const FAULTY_SHOWN: usize = 32;

/// The counting of all instances.
#[derive(Debug)]
pub(crate) struct Collector {
    settings: CollectSettings,
    instances: BTreeMap<InstanceId, Collected>,
    sensors: HashMap<InstanceId, Sensors>,
    /// Windows of instances that run no more.
    left: Vec<WindowReport>,
    /// Up to when those were counted: should one come back, what it told keeps its beginning and end.
    floors: BTreeMap<InstanceId, i64>,
    touched: Vec<InstanceId>,
}

impl Core {
    /// Has windows counted from here on, or not any more. To be called before a state is restored.
    pub fn collect_with(&mut self, settings: Option<CollectSettings>) {
        self.collector = settings.map(|settings| Collector {
            settings,
            instances: BTreeMap::new(),
            sensors: HashMap::new(),
            left: Vec::new(),
            floors: BTreeMap::new(),
            touched: Vec::new(),
        });
    }

    /// Counts what a complete step brought: its observations as [`crate::Turn`] had them, then its predictions. To be called
    /// for each step, in order. Adds the windows that are to be reported.
    pub fn collect<'p>(
        &mut self,
        observations: &[Observation],
        predictions: impl Iterator<Item = Predicted<'p>>,
        reports: &mut Vec<WindowReport>,
    ) {
        let Some(collector) = &mut self.collector else { return };
        let plan_of = |id: InstanceId| {
            let lane = self.instances.get(&id)?.lane;
            self.lanes[lane].as_ref()?.model.plan.as_ref()
        };
        for observation in observations {
            if let Some(collected) = collector.collected(observation.instance, plan_of) {
                collected.take(observation);
            }
        }
        for predicted in predictions {
            let Some(plan) = plan_of(predicted.instance) else { continue };
            if let Some(collected) = collector.collected(predicted.instance, plan_of) {
                collected.take_prediction(plan, &predicted);
            }
        }
        collector.close(reports);
    }

    /// Returns windows of instances that run no more: the rest of what they counted.
    pub fn left_windows(&mut self) -> Vec<WindowReport> {
        self.collector.as_mut().map_or_else(Vec::new, |collector| std::mem::take(&mut collector.left))
    }

    /// Tells whether there are windows of instances that run no more.
    #[must_use]
    pub fn has_left_windows(&self) -> bool {
        self.collector.as_ref().is_some_and(|collector| !collector.left.is_empty())
    }

    /// Returns how the counting stands.
    #[must_use]
    pub fn collect_counts(&self) -> CollectCounts {
        let mut counts = CollectCounts::default();
        let Some(collector) = &self.collector else { return counts };
        counts.windows_open = collector.instances.values().map(Collected::open).sum();
        let mut watched: Vec<_> = collector.sensors.iter().collect();
        watched.sort_by_key(|(id, _)| **id);
        for (id, sensors) in watched {
            if let Some(plan) = self.plan_of(*id) {
                sensors.count(plan, &mut counts);
            }
        }
        for (id, series) in self.series.iter() {
            for shown in counts.shown.iter_mut().filter(|shown| shown.series == id) {
                let source = &self.sources[series.source];
                let tags = source.tag_names().iter().zip(series.tags());
                let tags: Vec<String> = tags.map(|(name, value)| format!("{name}={value}")).collect();
                shown.name = format!("{} {}", source.name(), tags.join(" ")).trim_end().to_owned();
            }
        }
        counts
    }

    /// Returns how an instance is counted; none where its package has no profile.
    fn plan_of(&self, id: InstanceId) -> Option<&Arc<Plan>> {
        let lane = self.instances.get(&id)?.lane;
        self.lanes[lane].as_ref()?.model.plan.as_ref()
    }

    /// Closes the windows of instances that run no more.
    pub(crate) fn leave_windows(&mut self) {
        let Some(collector) = &mut self.collector else { return };
        collector.sensors.retain(|id, _| self.instances.contains_key(id));
        let gone: Vec<InstanceId> =
            collector.instances.keys().filter(|id| !self.instances.contains_key(id)).copied().collect();
        for id in gone {
            if let Some(collected) = collector.instances.remove(&id) {
                collector.end(id, collected);
            }
        }
    }
}

/// Most instances that run no more of which it is known how far they counted.
const FLOORS_MAX: usize = 16_384;

impl Collector {
    /// Judges a reading of an instance; returns the flag for the predictions that follow from it.
    pub(crate) fn observe(
        &mut self,
        (instance, series): (InstanceId, SeriesId),
        (plan, role): (&Plan, LaneRole),
        share: Share<'_>,
        observations: &mut Vec<Observation>,
    ) -> QualityFlags {
        if role == LaneRole::Standby {
            return QualityFlags::default();
        }
        let sensors = self.sensors.entry(instance).or_insert_with(|| Sensors::new(plan));
        let mut put = |what, at_us| observations.push(Observation { instance, what, at_us });
        sensors.take(plan, self.settings.grace_us, series, share, &mut put);
        if sensors.is_any_faulty() { QualityFlags::FAULTY_INPUT } else { QualityFlags::default() }
    }

    /// Returns what was counted of an instance; it is due to be looked at when the step ends.
    fn collected<'c, 'l>(
        &'c mut self,
        id: InstanceId,
        plan_of: impl Fn(InstanceId) -> Option<&'l Arc<Plan>>,
    ) -> Option<&'c mut Collected> {
        if self.touched.last() != Some(&id) {
            self.touched.push(id);
        }
        if !self.instances.contains_key(&id) {
            let mut collected = Collected::new(plan_of(id)?, self.settings);
            collected.floor_us = self.floors.remove(&id).unwrap_or(i64::MIN);
            self.instances.insert(id, collected);
        }
        self.instances.get_mut(&id)
    }

    /// Tells the rest of what an instance counted.
    fn end(&mut self, id: InstanceId, collected: Collected) {
        if collected.newest_us > i64::MIN {
            self.floors.insert(id, collected.newest_us.saturating_add(1));
        }
        while self.floors.len() > FLOORS_MAX {
            // The lowest number is the oldest instance.
            self.floors.pop_first();
        }
        collected.end(id, &mut self.left);
    }

    fn close(&mut self, reports: &mut Vec<WindowReport>) {
        self.touched.sort_unstable();
        self.touched.dedup();
        for id in self.touched.drain(..) {
            if let Some(collected) = self.instances.get_mut(&id) {
                collected.close(id, reports);
            }
        }
    }
}
