//! The package's model over gathered readings: the predictions that a gateway would make of them.
//!
//! Feeds the same core and engine as the daemon, in order of event time, window by window in batches. The sources are those of
//! the configuration with the payload left out: readings come in as they were decoded. Never stores a prediction.

use std::collections::{BTreeMap, HashMap};

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::feature_spec::{FieldSpec, Format, Retained, SourceSpec, TimeSpec};
use dunlin_model_package::profile::labels::Label;
use dunlin_model_package::profile::making::InstancePredictions;
use dunlin_model_package::{ModelSpec, Package, TopicFilter};
use dunlin_pipeline::engine::{Engine, TractEngine};
use dunlin_pipeline::prediction::{InstanceId, InstanceIdentity, WindowHead};
use dunlin_pipeline::reading::{Reading, SeriesId, SeriesIdentity, TimedBy};
use dunlin_pipeline::{Core, ModelBinding, Turn};

use super::fields::Field;
use super::gathering::{Table, VALUES_MAX};
use crate::command::CommandError;

/// Windows in a run: a full batch of a worker.
const BATCH: usize = 32;
/// Most values of the windows that wait for a run, as f32: 64 MiB.
const WAITING_VALUES_MAX: usize = 16 << 20;

/// What came of the readings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predicted {
    /// By instance.
    pub predictions: Vec<InstancePredictions>,
    /// Why rows were not made or readings not taken, and how often.
    pub refused: BTreeMap<&'static str, u64>,
    /// Predictions without a valid output.
    pub invalid: u64,
}

/// A series of the core and the rows of a table that it takes.
struct Feed {
    series: SeriesId,
    table: usize,
    /// Column of the table by field of the source.
    columns: Vec<Option<usize>>,
    ranges: Vec<Option<(f64, f64)>>,
}

type LabelsByInstance<'t> = HashMap<Vec<(String, String)>, HashMap<i64, &'t Label>>;

/// Runs the model over the tables.
///
/// *Errors*: sources and model do not fit the package, the model does not load or fails on a window, or there are too many
/// predictions: exit code 5.
pub fn predict(
    package: &Package,
    sources: &[SourceSpec],
    model: &ModelSpec,
    fields: &[Field],
    tables: &[Table],
) -> Result<Predicted, CommandError> {
    let (sources, model) = without_payloads(sources, model, fields, tables);
    let binding = ModelBinding {
        spec: model.clone(),
        manifest: package.manifest().clone(),
        package: package.digest(),
        profile: None,
    };
    let mut core = Core::serving(&sources, vec![binding]).map_err(|findings| {
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        CommandError::CheckFailed(format!("the configuration does not fit the model: {}", texts.join("; ")))
    })?;
    let (feeds, series) = feeds(&core, fields, tables);
    core.register(series, Vec::new());
    let engine =
        TractEngine::load(package, BATCH).map_err(|error| CommandError::CheckFailed(error.to_string()))?;
    let width = package.manifest().output_values();
    let mut running = Running {
        identities: core.announce().into_iter().collect(),
        core,
        engine,
        waiting: Vec::new(),
        values: Vec::new(),
        found: BTreeMap::new(),
        predicted: Predicted::default(),
        width,
        kept: 0,
    };
    let mut order: Vec<(i64, u32, u32)> = Vec::new();
    for (feed, Feed { table, .. }) in feeds.iter().enumerate() {
        let rows = tables[*table].times_us.iter().enumerate();
        order.extend(rows.map(|(row, at_us)| (*at_us, feed as u32, row as u32)));
    }
    order.sort_unstable();
    let mut turn = Turn::default();
    for (at_us, feed, row) in order {
        let Some(reading) = reading(&feeds[feed as usize], tables, at_us, row as usize) else { continue };
        turn.clear();
        if let Err(reason) = running.core.accept(reading, &mut turn) {
            *running.predicted.refused.entry(reason.as_str()).or_default() += 1;
        }
        running.take(&mut turn)?;
    }
    running.run()?;
    let labels = labels(tables, model.key.as_deref().unwrap_or_default());
    Ok(running.finish(&labels))
}

fn reading(feed: &Feed, tables: &[Table], at_us: i64, row: usize) -> Option<Reading> {
    let table = &tables[feed.table];
    let value = |(column, range): (&Option<usize>, &Option<(f64, f64)>)| {
        let value = column.map_or(f64::NAN, |column| table.values[column][row]);
        // What a sensor cannot say is taken as missing, as by the gateway's decoder.
        if range.is_some_and(|(low, high)| !(low..=high).contains(&value)) { f64::NAN } else { value }
    };
    let values: Vec<f64> = feed.columns.iter().zip(&feed.ranges).map(value).collect();
    // A record without any value is no reading.
    values.iter().any(|value| value.is_finite()).then_some(Reading {
        series: feed.series,
        event_us: at_us,
        timed_by: TimedBy::Payload,
        values,
    })
}

/// Windows that wait for the engine, and what came of those before.
struct Running {
    core: Core,
    engine: TractEngine,
    identities: HashMap<InstanceId, InstanceIdentity>,
    waiting: Vec<WindowHead>,
    values: Vec<f32>,
    found: BTreeMap<InstanceId, InstancePredictions>,
    predicted: Predicted,
    width: usize,
    kept: usize,
}

impl Running {
    fn take(&mut self, turn: &mut Turn) -> Result<(), CommandError> {
        self.identities.extend(turn.new_instances.drain(..));
        for (_, reason) in turn.rows_refused.drain(..) {
            *self.predicted.refused.entry(reason.as_str()).or_default() += 1;
        }
        for window in turn.windows.drain(..) {
            self.waiting.push(window.head);
            self.values.extend_from_slice(&window.values);
            if self.waiting.len() == BATCH || self.values.len() >= WAITING_VALUES_MAX {
                self.run()?;
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), CommandError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let outputs = self.engine.run(self.waiting.len(), &self.values).map_err(|error| {
            CommandError::CheckFailed(format!("the model fails on the data: {}", Chain(&error)))
        })?;
        for (head, outputs) in self.waiting.drain(..).zip(outputs.chunks_exact(self.width.max(1))) {
            let prediction = self.core.finish(head, Some(outputs.to_vec()));
            let found = self.found.entry(head.instance).or_default();
            found.times_us.push(head.window_end_us);
            if prediction.outputs.len() == self.width {
                found.outputs.extend_from_slice(&prediction.outputs);
            } else {
                self.predicted.invalid += 1;
                found.outputs.extend(std::iter::repeat_n(f32::NAN, self.width));
            }
            self.kept += self.width;
        }
        self.values.clear();
        if self.kept > VALUES_MAX {
            return Err(CommandError::CheckFailed(format!(
                "the data make more than {VALUES_MAX} values of predictions; give a part of the time, or `--inputs-only`"
            )));
        }
        Ok(())
    }

    fn finish(self, labels: &LabelsByInstance<'_>) -> Predicted {
        let mut predicted = self.predicted;
        for (instance, mut found) in self.found {
            let key = self.identities.get(&instance).map(|identity| identity.key.clone()).unwrap_or_default();
            if let Some(labels) = labels.get(&key) {
                found.labels =
                    found.times_us.iter().map(|at_us| labels.get(at_us).copied().cloned()).collect();
            }
            found.name = key.iter().map(|(tag, value)| format!("{tag}={value};")).collect();
            predicted.predictions.push(found);
        }
        predicted
    }
}

/// Returns what is right by key of the instance and time.
fn labels<'t>(tables: &'t [Table], key: &[String]) -> LabelsByInstance<'t> {
    let mut found: LabelsByInstance<'t> = HashMap::new();
    for table in tables.iter().filter(|table| !table.labels.is_empty()) {
        let key = key.iter().map(|tag| (tag.clone(), tag_of(table, tag).to_owned())).collect();
        let by_time = found.entry(key).or_default();
        for (at_us, label) in table.times_us.iter().zip(&table.labels) {
            if let Some(label) = label {
                by_time.entry(*at_us).or_insert(label);
            }
        }
    }
    found
}

fn tag_of<'t>(table: &'t Table, tag: &str) -> &'t str {
    table.key.iter().find(|(name, _)| name == tag).map_or("", |(_, value)| value.as_str())
}

/// Returns the tags of all sources, each once: captures of their topics, and what their payloads hold.
#[must_use]
pub fn tags(sources: &[SourceSpec]) -> Vec<String> {
    let mut tags: Vec<String> = Vec::new();
    for source in sources {
        let filters = source.topics.iter().filter_map(|topic| TopicFilter::parse(topic).ok());
        let captures: Vec<String> =
            filters.flat_map(|filter| filter.captures().map(str::to_owned).collect::<Vec<_>>()).collect();
        for tag in captures.into_iter().chain(source.tags.keys().cloned()) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
    }
    tags
}

/// Returns the sources and the model with what was payload left out. Columns that tell series apart and are no tags of the
/// sources, such as a gateway's name, become tags of all.
fn without_payloads(
    sources: &[SourceSpec],
    model: &ModelSpec,
    fields: &[Field],
    tables: &[Table],
) -> (Vec<SourceSpec>, ModelSpec) {
    let known = tags(sources);
    let mut extra: Vec<String> = Vec::new();
    for (name, _) in tables.iter().flat_map(|table| &table.key) {
        if !extra.contains(name) && !known.contains(name) {
            extra.push(name.clone());
        }
    }
    let has_tag = |tag: &String| tables.iter().all(|table| table.key.iter().any(|(name, _)| name == tag));
    let made = sources.iter().map(|source| {
        let mut made = bare(source);
        made.tags.extend(extra.iter().map(|tag| (tag.clone(), tag.clone())));
        made.fields = source
            .fields
            .iter()
            .map(|(name, spec)| {
                let known = fields.iter().find(|field| field.read_as == *name);
                let unit = known.map_or_else(|| spec.unit.clone(), |field| field.unit.clone());
                // Without the capture, the columns that a row has say which quantities it brings.
                let when = if spec.when.keys().all(has_tag) { spec.when.clone() } else { BTreeMap::new() };
                (name.clone(), FieldSpec { unit, when, ..FieldSpec::default() })
            })
            .collect();
        made
    });
    let made = made.collect();
    let mut model = model.clone();
    if !extra.is_empty() {
        model.key.get_or_insert_default().extend(extra);
    }
    (made, model)
}

/// Returns a source with its topics and tags, and nothing else.
fn bare(source: &SourceSpec) -> SourceSpec {
    SourceSpec {
        name: source.name.clone(),
        broker: None,
        topics: source.topics.clone(),
        ignore: Vec::new(),
        format: Format::Csv,
        time: TimeSpec::default(),
        retained: Retained::default(),
        each: None,
        delimiter: None,
        header: Some(true),
        tags: source.tags.keys().map(|tag| (tag.clone(), tag.clone())).collect(),
        fields: BTreeMap::new(),
        series_max: u32::MAX,
        new_topics_per_second_max: u32::MAX,
    }
}

/// Returns the series of the core that take rows of the tables: for each table those of its source, or of all sources that
/// have a field of it.
fn feeds(core: &Core, fields: &[Field], tables: &[Table]) -> (Vec<Feed>, Vec<(SeriesId, SeriesIdentity)>) {
    let (mut feeds, mut series) = (Vec::new(), Vec::new());
    let mut known: HashMap<SeriesIdentity, SeriesId> = HashMap::new();
    for (at, table) in tables.iter().enumerate() {
        for source in core.sources() {
            if table.source.as_ref().is_some_and(|name| name != source.name()) {
                continue;
            }
            let column =
                |name: &String| table.fields.iter().position(|field| fields[*field].read_as == *name);
            let range = |name: &String| fields.iter().find(|field| field.read_as == *name)?.range;
            let columns: Vec<Option<usize>> = source.field_names().iter().map(column).collect();
            if columns.iter().all(Option::is_none) {
                continue;
            }
            let tags = source.tag_names().iter().map(|tag| (tag.clone(), tag_of(table, tag).to_owned()));
            let identity = SeriesIdentity {
                source: source.name().to_owned(),
                tags: tags.collect(),
                fields: source.field_names().to_vec(),
            };
            let next = SeriesId(known.len() as u32);
            let id = *known.entry(identity.clone()).or_insert_with(|| {
                series.push((next, identity));
                next
            });
            let ranges = source.field_names().iter().map(range).collect();
            feeds.push(Feed { series: id, table: at, columns, ranges });
        }
    }
    (feeds, series)
}
