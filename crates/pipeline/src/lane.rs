//! The two lanes of each model: packages come and go while the core runs.
//!
//! Pure. A new lane's instances take over the windows of the lane beside it where both take the same rows, so that a
//! swap leaves no gap; what alerts were announced goes with the role of serving. To be changed when no window waits
//! for its outputs.

use std::collections::HashMap;

use dunlin_model_package::Digest;
use serde::{Deserialize, Serialize};

use crate::compiled_model::{CompiledModel, ModelBinding};
use crate::core::Core;
use crate::instance::Instance;
use crate::postprocess::PostState;
use crate::prediction::{InstanceId, InstanceIdentity, ModelIndex};
use crate::reading::SeriesId;
use crate::refusal::SpecFinding;

/// Lanes of a model.
pub const LANES_PER_MODEL: usize = 2;

/// Returns the index under which a lane of a model runs.
#[must_use]
pub const fn lane_index(model: usize, lane: usize) -> ModelIndex {
    ModelIndex((model * LANES_PER_MODEL + lane) as u16)
}

/// What a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaneRole {
    /// Its predictions are kept and published.
    Serving,
    /// It runs on the same readings; its predictions are kept as shadow predictions, compared and not published.
    Shadow,
    /// Its windows are filled and not run, so that it can serve with the next reading.
    Standby,
}

impl LaneRole {
    /// Returns the role's text in metrics, status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Shadow => "shadow",
            Self::Standby => "standby",
        }
    }
}

/// A model and its key, whichever package runs on it: half a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place([u8; 16]);

impl Place {
    /// Returns the place of an instance.
    #[must_use]
    pub fn of(identity: &InstanceIdentity) -> Self {
        let mut parts: Vec<&[u8]> = vec![identity.model.as_bytes()];
        for (tag, value) in &identity.key {
            parts.extend([tag.as_bytes(), value.as_bytes()]);
        }
        let mut place = [0; 16];
        place.copy_from_slice(&Digest::of_parts(&parts).as_bytes()[..16]);
        Self(place)
    }
}

/// What runs in a lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) role: LaneRole,
    pub(crate) model: CompiledModel,
}

/// Instances that others take over from, with the digest of their lane's post-processing.
struct Former {
    judging: Digest,
    states: HashMap<Place, Instance>,
}

/// The post-processing of the lane whose alerts were published.
struct Announced {
    judging: Digest,
    states: HashMap<Place, PostState>,
}

impl Instance {
    /// Makes a state from a lane with the same rows one of `model`.
    pub(crate) fn adapt(mut self, model: &CompiledModel, judging: Digest) -> Self {
        self.check_ranges(model);
        if judging != model.judging {
            self.post = PostState::default();
        }
        self
    }

    /// Goes on with the alerts that another package announced on the same place.
    pub(crate) fn succeed(&mut self, model: &CompiledModel, former: &PostState, judging: Digest) {
        if judging == model.judging {
            self.post.clone_from(former);
        } else {
            self.post.take_announcements(former);
        }
    }
}

impl Core {
    /// Returns the package that runs in a lane.
    #[must_use]
    pub fn model(&self, index: ModelIndex) -> Option<&CompiledModel> {
        self.lanes.get(usize::from(index.0))?.as_ref().map(|lane| &lane.model)
    }

    /// Returns the role of a lane, or `None` where nothing runs in it.
    #[must_use]
    pub fn role(&self, index: ModelIndex) -> Option<LaneRole> {
        self.lanes.get(usize::from(index.0))?.as_ref().map(|lane| lane.role)
    }

    /// Returns how many lanes there are, empty ones too.
    #[must_use]
    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// Returns the place of a running instance.
    #[must_use]
    pub fn place(&self, instance: InstanceId) -> Option<Place> {
        self.instances.get(&instance).map(|running| running.place)
    }

    /// Returns the running instances of a lane.
    #[must_use]
    pub fn lane_instances(&self, index: ModelIndex) -> Vec<(InstanceId, InstanceIdentity)> {
        let lane = usize::from(index.0);
        let mut found: HashMap<InstanceId, InstanceIdentity> = HashMap::new();
        for (_, series) in self.series.iter() {
            let Some(target) = series.targets.iter().find(|target| target.lane == lane) else { continue };
            if let Some(identity) = self.identity_in(lane, series.source, &series.tags()) {
                found.entry(target.instance).or_insert(identity);
            }
        }
        found.into_iter().collect()
    }

    /// Checks a package for a lane.
    ///
    /// *Errors*: there is no such lane, the package runs in the lane beside it, or it contradicts the model as
    /// configured.
    pub fn fit(&self, index: ModelIndex, binding: ModelBinding) -> Result<CompiledModel, Vec<SpecFinding>> {
        let lane = usize::from(index.0);
        if lane >= self.lanes.len() {
            return Err(vec![SpecFinding::new("model", format!("there is no lane `{lane}`"))]);
        }
        let beside = self.lanes[beside(lane)].as_ref();
        if beside.is_some_and(|other| other.model.binding.package == binding.package) {
            let text = format!("package `{}` runs beside it already", binding.package);
            return Err(vec![SpecFinding::new("package", text)]);
        }
        CompiledModel::compile(binding, &self.sources)
    }

    /// Puts a package into a lane, in place of what ran there.
    ///
    /// *Errors*: those of [`Core::fit`]; nothing has changed.
    pub fn install(
        &mut self,
        index: ModelIndex,
        role: LaneRole,
        binding: ModelBinding,
    ) -> Result<(), Vec<SpecFinding>> {
        let model = self.fit(index, binding)?;
        self.install_fitting(index, role, model);
        Ok(())
    }

    /// Puts a package that was checked by [`Core::fit`] into a lane, in place of what ran there.
    pub fn install_fitting(&mut self, index: ModelIndex, role: LaneRole, model: CompiledModel) {
        let lane = usize::from(index.0);
        let announced = self.announced(lane).filter(|_| role == LaneRole::Serving);
        let rows = Some(model.rows);
        let former = [beside(lane), lane]
            .into_iter()
            .find(|former| self.lanes[*former].as_ref().map(|lane| lane.model.rows) == rows)
            .and_then(|former| self.former(former));
        self.retire(index);
        self.lanes[lane] = Some(Lane { role, model });
        self.follow_lateness();
        let mut series: Vec<SeriesId> = self.series.iter().map(|(id, _)| id).collect();
        series.sort();
        for id in series {
            let Some(running) = self.series.running_mut(id) else { continue };
            let (source, tags) = (running.source, running.tags());
            let Some(target) = self.target(lane, source, &tags) else { continue };
            if let Some(running) = self.series.running_mut(id) {
                let mut targets = std::mem::take(&mut running.targets).into_vec();
                targets.push(target);
                targets.sort_by_key(|target| target.lane);
                running.targets = targets.into();
            }
        }
        if let (Some(former), Some(Lane { model, .. })) = (former, &self.lanes[lane]) {
            let mut states = former.states;
            for running in self.instances.values_mut().filter(|running| running.lane == lane) {
                if let Some(state) = states.remove(&running.place) {
                    running.state = state.adapt(model, former.judging);
                }
            }
        }
        self.announce_on(lane, announced);
        if role == LaneRole::Serving {
            self.last_served[lane / LANES_PER_MODEL] = Some(lane);
        }
    }

    /// Empties a lane.
    pub fn retire(&mut self, index: ModelIndex) {
        let lane = usize::from(index.0);
        let Some(gone) = self.lanes.get_mut(lane).and_then(Option::take) else { return };
        self.series.drop_targets(lane);
        self.instances.retain(|_, running| running.lane != lane);
        self.leave_windows();
        let binding = &gone.model.binding;
        self.ids.touch(&binding.spec.name, binding.package);
        self.forget_idle_ids();
        self.follow_lateness();
        let served = &mut self.last_served[lane / LANES_PER_MODEL];
        served.take_if(|served| *served == lane);
    }

    /// Gives a lane another role. One that serves from here on goes on with the alerts of the one that served.
    pub fn set_role(&mut self, index: ModelIndex, role: LaneRole) {
        let lane = usize::from(index.0);
        let Some(running) = self.lanes.get_mut(lane).and_then(Option::as_mut) else { return };
        running.role = role;
        let served = self.last_served[lane / LANES_PER_MODEL];
        if role == LaneRole::Serving && served != Some(lane) {
            let announced = self.announced(lane);
            self.announce_on(lane, announced);
            self.last_served[lane / LANES_PER_MODEL] = Some(lane);
        }
    }

    /// Forgets the numbers of packages that have not run for long.
    pub(crate) fn forget_idle_ids(&mut self) {
        let lanes = &self.lanes;
        self.ids.forget_idle(|model, package| {
            let mut bindings = lanes.iter().flatten().map(|lane| &lane.model.binding);
            bindings.any(|binding| binding.package == package && binding.spec.name == model)
        });
    }

    /// Sets the lateness of each source to the largest of the lanes that read it.
    pub(crate) fn follow_lateness(&mut self) {
        let models = || self.lanes.iter().flatten().map(|lane| &lane.model);
        self.lateness_us = (0..self.sources.len())
            .map(|source| {
                let reading = models().filter(|model| model.feeds.contains_key(&source));
                reading.map(|model| model.lateness_us).max().unwrap_or(0)
            })
            .collect();
    }

    /// Returns a copy of the instances of a lane.
    fn former(&self, lane: usize) -> Option<Former> {
        let model = &self.lanes[lane].as_ref()?.model;
        let running = self.instances.values().filter(|running| running.lane == lane);
        let states = running.map(|running| (running.place, running.state.clone())).collect();
        Some(Former { judging: model.judging, states })
    }

    /// Returns what the lane that serves a lane's model has announced.
    fn announced(&self, lane: usize) -> Option<Announced> {
        let served = self.last_served[lane / LANES_PER_MODEL]?;
        let judging = self.lanes[served].as_ref()?.model.judging;
        let running = self.instances.values().filter(|running| running.lane == served);
        let states = running.map(|running| (running.place, running.state.post.clone())).collect();
        Some(Announced { judging, states })
    }

    /// Has a lane go on with what was announced.
    fn announce_on(&mut self, lane: usize, announced: Option<Announced>) {
        let (Some(announced), Some(Lane { model, .. })) = (announced, &self.lanes[lane]) else { return };
        for running in self.instances.values_mut().filter(|running| running.lane == lane) {
            if let Some(post) = announced.states.get(&running.place) {
                running.state.succeed(model, post, announced.judging);
            }
        }
    }
}

/// Returns the other lane of the same model.
const fn beside(lane: usize) -> usize {
    lane ^ 1
}
