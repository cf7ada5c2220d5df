//! The pipeline's core: messages in, readings and ready windows out; outputs in, predictions out.
//!
//! Pure: the caller brings messages, runs the engine, keeps what comes out and passes time in. The whole state can be
//! saved and restored; a restored core that is given the later readings again is in exactly the same state.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use dunlin_model_package::manifest::WINDOW_VALUES_MAX;
use dunlin_model_package::{Digest, SourceSpec};

use crate::collect::{Collector, Observation};
use crate::compiled_model::{CompiledModel, Feed, ModelBinding};
use crate::decode::{CompiledSource, Decoded, Record, Route};
use crate::instance::{Instance, Outcome, Share};
use crate::instance_ids::InstanceIds;
use crate::lane::{LANES_PER_MODEL, Lane, LaneRole, Place};
use crate::message::Message;
use crate::prediction::{
    InstanceId, InstanceIdentity, ModelIndex, Prediction, PredictionId, QualityFlags, ReadyWindow,
    WindowHead, instance_digest,
};
use crate::reading::{Reading, SeriesId, SeriesIdentity};
use crate::refusal::{Reason, Refusal, SpecFinding};
use crate::series::{Series, SeriesKey, SeriesTable, Target, TopicRate};

/// Longest topic: with ten thousand series, what is kept of topics stays within some ten megabytes at the worst.
const TOPIC_BYTES_MAX: usize = 1_024;

/// Most values of the windows that one message may make in one lane: 64 MiB. That is the largest window of a package, so
/// that one always fits, and the windows of 1,600 values that follow each of the most records of a payload.
const MESSAGE_VALUES_MAX: usize = WINDOW_VALUES_MAX;

/// What one or more messages led to. Cleared and used again by the caller.
#[derive(Debug, Default)]
pub struct Turn {
    /// Readings that were accepted, in order of arrival.
    pub readings: Vec<Reading>,
    /// Series that these readings name for the first time.
    pub new_series: Vec<(SeriesId, SeriesIdentity)>,
    /// Instances that these windows may name for the first time.
    pub new_instances: Vec<(InstanceId, InstanceIdentity)>,
    /// Windows that are ready for their models.
    pub windows: Vec<ReadyWindow>,
    /// Refusals, with the position of the source where there is one.
    pub refusals: Vec<(Option<usize>, Refusal)>,
    /// What is to be counted of the readings, where windows are counted.
    pub observations: Vec<Observation>,
    /// Rows that were not made, by lane; those of a standby lane are not told.
    pub rows_refused: Vec<(ModelIndex, Reason)>,
    /// Positions of the sources that messages matched.
    pub matched: Vec<usize>,
}

impl Turn {
    /// Empties the turn and keeps its memory.
    pub fn clear(&mut self) {
        self.readings.clear();
        self.new_series.clear();
        self.new_instances.clear();
        self.windows.clear();
        self.observations.clear();
        self.refusals.clear();
        self.rows_refused.clear();
        self.matched.clear();
    }
}

/// How a topic is read by one source.
#[derive(Debug)]
struct TopicRoute {
    source: usize,
    route: Route,
    /// The series of the topic, once known, where the payload holds no tags.
    series: OnceLock<SeriesId>,
}

/// How the known topics of one broker are read.
type RoutesByTopic = HashMap<Box<str>, Arc<[TopicRoute]>>;

/// An instance of the running configuration.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) lane: usize,
    pub(crate) digest: Digest,
    pub(crate) place: Place,
    pub(crate) state: Instance,
}

/// The compiled configuration and the state of every series and instance.
#[derive(Debug)]
pub struct Core {
    pub(crate) sources: Vec<CompiledSource>,
    limits: Vec<(u32, u32)>,
    rates: Vec<TopicRate>,
    /// Largest lateness of the lanes that read a source.
    pub(crate) lateness_us: Vec<i64>,
    /// Two a model: those of model `n` are `2n` and `2n + 1`.
    pub(crate) lanes: Vec<Option<Lane>>,
    /// The lane of each model that serves or, where none does, served last.
    pub(crate) last_served: Vec<Option<usize>>,
    routes: HashMap<Option<String>, RoutesByTopic>,
    routes_max: usize,
    routes_count: usize,
    pub(crate) series: SeriesTable,
    pub(crate) ids: InstanceIds,
    pub(crate) instances: HashMap<InstanceId, Box<Running>>,
    /// Instances that no turn has named yet.
    unannounced: Vec<(InstanceId, InstanceIdentity)>,
    /// Tags that topics gave to running series, where payloads give others: these topics are not new.
    captures: HashSet<(usize, Box<[String]>)>,
    decoded: Decoded,
    ready: Vec<Reading>,
    /// Values that the message at hand may still make, by lane.
    values_left: Vec<usize>,
    pub(crate) collector: Option<Collector>,
}

impl Core {
    /// Compiles a configuration in which every model has one package, which serves.
    ///
    /// *Errors*: all findings, with paths such as `source[0].fields.x.pointer` and `model[1].inputs.x[0]`.
    pub fn serving(sources: &[SourceSpec], models: Vec<ModelBinding>) -> Result<Self, Vec<SpecFinding>> {
        let lanes = models.into_iter().flat_map(|binding| [Some((LaneRole::Serving, binding)), None]);
        Self::compile(sources, lanes.collect())
    }

    /// Compiles a configuration. `lanes` are two a model, in order; without a package in either, the model's sources
    /// are read all the same.
    ///
    /// *Errors*: all findings, with paths such as `source[0].fields.x.pointer` and `model[1].inputs.x[0]`.
    pub fn compile(
        sources: &[SourceSpec],
        mut lanes: Vec<Option<(LaneRole, ModelBinding)>>,
    ) -> Result<Self, Vec<SpecFinding>> {
        let mut found = Vec::new();
        let mut compiled = Vec::new();
        for (index, spec) in sources.iter().enumerate() {
            match CompiledSource::compile(spec) {
                Ok(source) => compiled.push(source),
                Err(findings) => found.extend(findings.into_iter().map(|f| prefixed("source", index, f))),
            }
        }
        if !found.is_empty() {
            return Err(found);
        }
        let models = lanes.len().div_ceil(LANES_PER_MODEL);
        lanes.resize_with(models * LANES_PER_MODEL, || None);
        let mut core = Self::of_sources(sources, compiled, models);
        for (index, lane) in lanes.into_iter().enumerate() {
            let Some((role, binding)) = lane else { continue };
            match core.install(ModelIndex(index as u16), role, binding) {
                Ok(()) => {}
                Err(findings) => {
                    let model = index / LANES_PER_MODEL;
                    found.extend(findings.into_iter().map(|f| prefixed("model", model, f)));
                }
            }
        }
        if found.is_empty() { Ok(core) } else { Err(found) }
    }

    fn of_sources(specs: &[SourceSpec], sources: Vec<CompiledSource>, models: usize) -> Self {
        Self {
            limits: specs.iter().map(|s| (s.series_max, s.new_topics_per_second_max)).collect(),
            rates: vec![TopicRate::default(); specs.len()],
            routes_max: specs.iter().map(|s| 2 * s.series_max as usize).sum(),
            lateness_us: vec![0; sources.len()],
            sources,
            lanes: (0..models * LANES_PER_MODEL).map(|_| None).collect(),
            last_served: vec![None; models],
            routes: HashMap::new(),
            routes_count: 0,
            series: SeriesTable::default(),
            ids: InstanceIds::default(),
            instances: HashMap::new(),
            unannounced: Vec::new(),
            captures: HashSet::new(),
            decoded: Decoded::default(),
            ready: Vec::new(),
            values_left: vec![MESSAGE_VALUES_MAX; models * LANES_PER_MODEL],
            collector: None,
        }
    }

    /// Returns the sources, in order of the configuration.
    #[must_use]
    pub fn sources(&self) -> &[CompiledSource] {
        &self.sources
    }

    /// Returns how many series and instances run.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.series.count(), self.instances.len())
    }

    /// Returns how many instances run in each lane.
    #[must_use]
    pub fn instances_by_lane(&self) -> Vec<u64> {
        let mut counts = vec![0; self.lanes.len()];
        self.instances.values().for_each(|running| counts[running.lane] += 1);
        counts
    }

    /// Takes a message: decodes it, puts its readings in order, and adds what comes of it to `turn`.
    pub fn take(&mut self, message: &Message<'_>, turn: &mut Turn) {
        turn.new_instances.append(&mut self.unannounced);
        self.values_left.fill(MESSAGE_VALUES_MAX);
        let known = self.routes.get(&message.broker.map(str::to_owned));
        if let Some(routes) = known.and_then(|by_topic| by_topic.get(message.topic)).map(Arc::clone) {
            self.take_routed(&routes, message, turn);
            return;
        }
        match self.new_routes(message) {
            Ok(routes) => {
                self.take_routed(&routes, message, turn);
                self.remember(message, routes);
            }
            Err((source, refusal)) => {
                turn.matched.extend(source);
                turn.refusals.push((source, refusal));
            }
        }
    }

    fn take_routed(&mut self, routes: &[TopicRoute], message: &Message<'_>, turn: &mut Turn) {
        for topic_route in routes {
            let source = topic_route.source;
            turn.matched.push(source);
            let mut decoded = std::mem::take(&mut self.decoded);
            decoded.records.clear();
            decoded.refusals.clear();
            self.sources[source].decode(&topic_route.route, message, &mut decoded);
            turn.refusals.extend(decoded.refusals.drain(..).map(|refusal| (Some(source), refusal)));
            for record in decoded.records.drain(..) {
                self.take_record(topic_route, record, turn);
            }
            self.decoded = decoded;
        }
    }

    fn new_routes(&mut self, message: &Message<'_>) -> Result<Vec<TopicRoute>, (Option<usize>, Refusal)> {
        if message.topic.len() > TOPIC_BYTES_MAX {
            let text = format!("the topic has more than {TOPIC_BYTES_MAX} bytes");
            return Err((None, Refusal::new(Reason::BadTopic, text)));
        }
        let found: Vec<TopicRoute> = self
            .sources
            .iter()
            .enumerate()
            .filter(|(_, source)| source.broker() == message.broker)
            .filter_map(|(index, source)| {
                source.route(message.topic).map(|route| TopicRoute {
                    source: index,
                    route,
                    series: OnceLock::new(),
                })
            })
            .collect();
        if found.is_empty() {
            return Err((None, Refusal::new(Reason::UnknownTopic, "no source reads this topic")));
        }
        // A topic that was taken before, perhaps before a restart, is not new.
        if !found.iter().any(|topic_route| self.is_known(topic_route)) {
            for TopicRoute { source, .. } in &found {
                let limit = self.limits[*source].1;
                if !self.rates[*source].admit(message.arrival_us, limit) {
                    let text = format!("more than {limit} new topics a second");
                    return Err((Some(*source), Refusal::new(Reason::TopicRate, text)));
                }
            }
        }
        Ok(found)
    }

    /// Keeps the routes of a topic, without the tags that its series stands for.
    fn remember(&mut self, message: &Message<'_>, mut routes: Vec<TopicRoute>) {
        if self.routes_count >= self.routes_max {
            return;
        }
        for TopicRoute { route, series, .. } in &mut routes {
            if series.get().is_some() {
                route.tags = Vec::new();
            }
        }
        self.routes_count += 1;
        let by_topic = self.routes.entry(message.broker.map(str::to_owned)).or_default();
        by_topic.insert(message.topic.into(), routes.into());
    }

    /// Tells whether a series runs that the topic belongs to.
    fn is_known(&self, TopicRoute { source, route, .. }: &TopicRoute) -> bool {
        let compiled = &self.sources[*source];
        if compiled.has_payload_tags() {
            return self.captures.contains(&(*source, captures_of(compiled, &route.tags).into()));
        }
        self.series.id_of(&self.key(*source, &route.tags)).is_some_and(|id| self.series.is_running(id))
    }

    fn take_record(&mut self, topic_route: &TopicRoute, record: Record, turn: &mut Turn) {
        let source = topic_route.source;
        let series = match topic_route.series.get() {
            Some(series) => *series,
            None => match self.series_of(source, &record.tags, turn) {
                Ok(series) => series,
                Err(refusal) => {
                    turn.refusals.push((Some(source), refusal));
                    return;
                }
            },
        };
        if !self.sources[source].has_payload_tags() {
            let _ = topic_route.series.set(series);
        }
        let reading =
            Reading { series, event_us: record.event_us, timed_by: record.timed_by, values: record.values };
        if let Err(reason) = self.accept_of_message(reading, turn) {
            turn.refusals.push((
                Some(source),
                Refusal::new(reason, "event time is not later than the last accepted one of its series"),
            ));
        }
    }

    fn series_of(&mut self, source: usize, tags: &[String], turn: &mut Turn) -> Result<SeriesId, Refusal> {
        let known = self.series.id_of(&self.key(source, tags));
        if let Some(id) = known.filter(|id| self.series.is_running(*id)) {
            return Ok(id);
        }
        let limit = self.limits[source].0;
        if self.series.count_of(source) >= limit {
            return Err(Refusal::new(Reason::SeriesLimit, format!("more than {limit} series")));
        }
        let id = known.unwrap_or_else(|| {
            let identity = self.identity(source, tags);
            let id = self.series.create(&identity);
            turn.new_series.push((id, identity));
            id
        });
        self.run_series(id, source, tags);
        turn.new_instances.append(&mut self.unannounced);
        Ok(id)
    }

    fn key(&self, source: usize, tags: &[String]) -> SeriesKey {
        let source = &self.sources[source];
        let names = source.tag_names().iter().map(String::as_str);
        SeriesKey::of(source.name(), names.zip(tags.iter().map(String::as_str)), source.field_names())
    }

    fn identity(&self, source: usize, tags: &[String]) -> SeriesIdentity {
        let source = &self.sources[source];
        SeriesIdentity {
            source: source.name().to_owned(),
            tags: source.tag_names().iter().cloned().zip(tags.iter().cloned()).collect(),
            fields: source.field_names().to_vec(),
        }
    }

    /// Accepts a reading of a known series: orders it, joins it, and adds windows that become ready to `turn`.
    /// Stored readings come in here again when a state is restored.
    ///
    /// *Errors*: late or duplicate; nothing has changed.
    pub fn accept(&mut self, reading: Reading, turn: &mut Turn) -> Result<(), Reason> {
        self.values_left.fill(MESSAGE_VALUES_MAX);
        self.accept_of_message(reading, turn)
    }

    fn accept_of_message(&mut self, reading: Reading, turn: &mut Turn) -> Result<(), Reason> {
        let Some(series) = self.series.running_mut(reading.series) else {
            return Ok(());
        };
        let mut ready = std::mem::take(&mut self.ready);
        let accepted = series.order.accept(&reading, self.lateness_us[series.source], &mut ready);
        if let Ok(event_us) = accepted {
            turn.readings.push(Reading { event_us, ..reading });
            for reading in ready.drain(..) {
                self.feed(&reading, turn);
            }
        }
        self.ready = ready;
        accepted.map(|_| ())
    }

    fn feed(&mut self, reading: &Reading, turn: &mut Turn) {
        let Some(series) = self.series.running_mut(reading.series) else { return };
        for target in &*series.targets {
            let Some(running) = self.instances.get_mut(&target.instance) else { continue };
            let Some(lane) = &self.lanes[target.lane] else { continue };
            let share = Share {
                event_us: reading.event_us,
                timed_by: reading.timed_by,
                values: &reading.values,
                fields: &target.fields,
            };
            let row_flags = match (&mut self.collector, &lane.model.plan) {
                (Some(collector), Some(plan)) => {
                    let (of, by) = ((target.instance, reading.series), (&**plan, lane.role));
                    collector.observe(of, by, share, &mut turn.observations)
                }
                _ => QualityFlags::default(),
            };
            let values_left = &mut self.values_left[target.lane];
            let mut outcome = Outcome { values_left: *values_left, row_flags, ..Outcome::default() };
            running.state.take(&lane.model, share, &mut outcome);
            *values_left = outcome.values_left;
            if lane.role == LaneRole::Standby {
                continue;
            }
            let model = ModelIndex(target.lane as u16);
            let left_out = std::iter::repeat_n(Reason::TooManyWindows, outcome.windows_left_out);
            turn.rows_refused
                .extend(outcome.refused.into_iter().chain(left_out).map(|reason| (model, reason)));
            turn.windows.extend(outcome.windows.into_iter().map(|(window_end_us, flags, values)| {
                ReadyWindow {
                    head: WindowHead { model, instance: target.instance, window_end_us, flags },
                    values,
                }
            }));
        }
    }

    /// Turns a window's outputs into its prediction. To be called in the order of the windows of one instance.
    /// `outputs` is `None` where the model could not be run.
    pub fn finish(&mut self, mut head: WindowHead, outputs: Option<Vec<f32>>) -> Prediction {
        let Some(running) = self.instances.get_mut(&head.instance) else {
            return failed(head, PredictionId([0; 16]));
        };
        let id = PredictionId::from_instance(&running.digest, head.window_end_us);
        let Some(Lane { role, model }) = &self.lanes[running.lane] else {
            return failed(head, id);
        };
        if *role == LaneRole::Shadow {
            head.flags.insert(QualityFlags::SHADOW);
        }
        let Some(outputs) = outputs else {
            return failed(head, id);
        };
        let verdict = model.post.judge(&mut running.state.post, &outputs, head.window_end_us);
        let mut flags = head.flags;
        flags.insert(verdict.flags);
        let outputs = if flags.is_valid() { outputs } else { Vec::new() };
        Prediction {
            head: WindowHead { flags, ..head },
            id,
            outputs,
            label: verdict.label,
            alert: verdict.alert,
        }
    }

    /// Registers what the store knows, so that series and instances keep their numbers, and runs the series that
    /// the configuration still has.
    pub fn register(
        &mut self,
        mut series: Vec<(SeriesId, SeriesIdentity)>,
        instances: Vec<(InstanceId, InstanceIdentity)>,
    ) {
        for (id, identity) in instances {
            self.ids.learn(id, &identity, instance_digest(&identity));
        }
        self.ids.order_by_age();
        self.forget_idle_ids();
        // The oldest first, wherever they come from: a limit that was lowered always leaves out the same.
        series.sort_by_key(|(id, _)| *id);
        for (id, identity) in series {
            self.series.register(id, &identity);
            let tags: Vec<String> = identity.tags.iter().map(|(_, value)| value.clone()).collect();
            for source in 0..self.sources.len() {
                if self.sources[source].name() == identity.source
                    && self.identity(source, &tags) == identity
                    && self.series.count_of(source) < self.limits[source].0
                {
                    self.run_series(id, source, &tags);
                }
            }
        }
    }

    /// Returns the instances that no turn has named yet, so that a snapshot can go with their names.
    pub fn announce(&mut self) -> Vec<(InstanceId, InstanceIdentity)> {
        std::mem::take(&mut self.unannounced)
    }

    /// Returns the feed's fields that are read for these tags: where a topic brings one quantity, a reading says
    /// nothing of the others.
    fn active_fields(&self, source: usize, tags: &[String], feed: &Feed) -> Arc<[(usize, usize)]> {
        let active = |(own, _): &(usize, usize)| self.sources[source].is_active(*own, tags);
        if feed.fields.iter().all(active) {
            Arc::clone(&feed.fields)
        } else {
            feed.fields.iter().copied().filter(active).collect()
        }
    }

    fn run_series(&mut self, id: SeriesId, source: usize, tags: &[String]) {
        let targets: Vec<Target> =
            (0..self.lanes.len()).filter_map(|lane| self.target(lane, source, tags)).collect();
        let compiled = &self.sources[source];
        if compiled.has_payload_tags() {
            self.captures.insert((source, captures_of(compiled, tags).into()));
        }
        self.series.run(id, Series::new(source, tags, targets.into()));
    }

    /// Returns the instance of a lane that reads a series with these tags, made where there is none yet.
    pub(crate) fn target(&mut self, lane: usize, source: usize, tags: &[String]) -> Option<Target> {
        let feed = self.lanes[lane].as_ref()?.model.feeds.get(&source)?;
        let fields = self.active_fields(source, tags, feed);
        if fields.is_empty() {
            return None;
        }
        let identity = self.identity_in(lane, source, tags)?;
        let (digest, place) = (instance_digest(&identity), Place::of(&identity));
        let instance = self.ids.find(&identity, &digest).unwrap_or_else(|| {
            let instance = self.ids.give(&identity, digest);
            self.unannounced.push((instance, identity));
            instance
        });
        let running = || Running { lane, digest, place, state: Instance::default() };
        self.instances.entry(instance).or_insert_with(|| Box::new(running()));
        Some(Target { lane, instance, fields })
    }

    /// Returns the identity of the instance of a lane that reads a series with these tags.
    pub(crate) fn identity_in(
        &self,
        lane: usize,
        source: usize,
        tags: &[String],
    ) -> Option<InstanceIdentity> {
        let model = &self.lanes[lane].as_ref()?.model;
        let positions = model.feeds.get(&source)?.key.iter();
        let key = model.key().iter().cloned().zip(positions.map(|position| tags[*position].clone()));
        Some(instance_identity(model, key.collect()))
    }
}

fn captures_of<'t>(source: &CompiledSource, tags: &'t [String]) -> &'t [String] {
    tags.get(..source.captured_tags()).unwrap_or_default()
}

fn failed(head: WindowHead, id: PredictionId) -> Prediction {
    let mut flags = head.flags;
    flags.insert(QualityFlags::INFERENCE_FAILED);
    Prediction { head: WindowHead { flags, ..head }, id, outputs: Vec::new(), label: None, alert: None }
}

fn instance_identity(model: &CompiledModel, key: Vec<(String, String)>) -> InstanceIdentity {
    let manifest = &model.binding.manifest;
    InstanceIdentity {
        model: model.binding.spec.name.clone(),
        version: manifest.version.clone(),
        package: model.binding.package,
        key,
        outputs: manifest
            .outputs
            .iter()
            .map(|o| (o.name.clone(), u32::try_from(o.values()).unwrap_or(u32::MAX)))
            .collect(),
        labels: model.post.labels().to_vec(),
    }
}

fn prefixed(kind: &str, index: usize, finding: SpecFinding) -> SpecFinding {
    SpecFinding { path: format!("{kind}[{index}].{}", finding.path), message: finding.message }
}
