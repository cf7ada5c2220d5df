//! From payload to records: one module a format, and the compiled source that drives them.
//!
//! Never reads a clock, never keeps state between messages, never panics on a payload. Stands between the MQTT
//! ingest, which hands over messages, and the series, which take the records in order.

mod cbor;
mod compile;
mod csv;
mod json;
mod number;
mod record;
mod route;
mod senml;
mod time;
mod tree;
mod value;

#[cfg(test)]
mod tests;

use dunlin_model_package::feature_spec::{Retained, SourceSpec};

use crate::message::Message;
use crate::reading::TimedBy;
use crate::refusal::{Reason, Refusal, SpecFinding};
use record::Recorder;
use route::Topics;
use time::TimeRule;
use value::FieldRule;

pub use route::Route;

/// Most records of one payload: a day of readings at ten-second steps. Further ones are refused, the rest flows.
pub const RECORDS_MAX: usize = 10_000;
/// Most refusals that one payload leaves behind; one a record. Each takes about 100 bytes, so 1 MB at most.
pub const REFUSALS_MAX: usize = RECORDS_MAX;
/// Most fields of one source: each costs a lookup a record.
pub const FIELDS_MAX: usize = 256;
/// Most topic filters of one source, and most ignored ones: each is tried on every new topic.
pub const TOPICS_MAX: usize = 64;
/// Most tags of one source, captures included.
pub const TAGS_MAX: usize = 32;
/// Longest name of a source, field or tag, in bytes: names become metric labels and column titles.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest value of a tag that the payload holds, in bytes: tags name series and are kept with each.
pub const TAG_BYTES_MAX: usize = 256;
/// Deepest nesting of a payload that is read, for JSON and CBOR alike. It is the limit of `serde_json`.
pub const DEPTH_MAX: usize = 128;

/// How a time is written, for who reads recorded readings from files: the formats of a source's `time.format`.
#[derive(Debug, Clone)]
pub struct WrittenTime(time::TimeFormat);

impl WrittenTime {
    /// Reads the name of a format, or a strptime pattern.
    ///
    /// *Errors*: what is wrong and what to write instead.
    pub fn parse(format: &str) -> Result<Self, String> {
        time::TimeFormat::parse(format).map(Self)
    }

    /// Returns the µs since 1970 that a text says; none where it is no time in this format.
    #[must_use]
    pub fn of_text(&self, text: &str) -> Option<i64> {
        self.0.micros_of(value::Raw::Text(text))
    }

    /// Returns the µs since 1970 that a whole number says, likewise.
    #[must_use]
    pub fn of_whole(&self, whole: i64) -> Option<i64> {
        self.0.micros_of(value::Raw::Integer(whole))
    }

    /// Returns the µs since 1970 that a number says, likewise.
    #[must_use]
    pub fn of_number(&self, number: f64) -> Option<i64> {
        self.0.micros_of(value::Raw::Float(number))
    }
}

/// A source that is ready to decode messages.
#[derive(Debug, Clone)]
pub struct CompiledSource {
    name: String,
    broker: Option<String>,
    topics: Topics,
    /// Captures first, then the tags that the payload holds.
    tag_names: Vec<String>,
    field_names: Vec<String>,
    /// Aligned to `field_names`.
    fields: Vec<FieldRule>,
    times: TimeRule,
    retained: Retained,
    layout: Layout,
}

/// How records stand in a payload. Lists of fields are aligned to the source's.
#[derive(Debug, Clone)]
enum Layout {
    Json(tree::TreeLayout),
    Cbor(tree::TreeLayout),
    Number,
    Senml(senml::SenmlLayout),
    Csv(csv::CsvLayout),
}

/// What one payload, or several, gave. The caller clears it.
#[derive(Debug, Clone, Default)]
pub struct Decoded {
    /// The records, in the order of the payload.
    pub records: Vec<Record>,
    /// What was not used, at most [`REFUSALS_MAX`] a payload.
    pub refusals: Vec<Refusal>,
}

impl Decoded {
    /// Empties both lists and keeps their memory.
    pub fn clear(&mut self) {
        self.records.clear();
        self.refusals.clear();
    }
}

/// The values of one record at one event time.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Event time in microseconds since 1970.
    pub event_us: i64,
    /// Where the event time came from.
    pub timed_by: TimedBy,
    /// Values of [`CompiledSource::tag_names`], all of them filled in.
    pub tags: Vec<String>,
    /// Values of [`CompiledSource::field_names`]; NaN where a field is missing, refused or not read from this topic.
    /// At least one is a number.
    pub values: Vec<f64>,
}

impl CompiledSource {
    /// Compiles a specification.
    ///
    /// *Errors*: everything that is wrong with it, with paths relative to the source, as in `topics[1]` or
    /// `fields.temperature.pointer`.
    pub fn compile(spec: &SourceSpec) -> Result<Self, Vec<SpecFinding>> {
        compile::compile(spec)
    }

    /// Returns the source's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name of the broker it reads from; `None` is the default one.
    #[must_use]
    pub fn broker(&self) -> Option<&str> {
        self.broker.as_deref()
    }

    /// Returns the names of the fields, sorted: the order of a record's values.
    #[must_use]
    pub fn field_names(&self) -> &[String] {
        &self.field_names
    }

    /// Returns the unit of the field at this position, if it has one.
    #[must_use]
    pub fn field_unit(&self, position: usize) -> Option<&str> {
        self.fields.get(position).and_then(|field| field.unit.as_deref())
    }

    /// Returns the names of the tags: captures of the topics in order of their first appearance, then the tags that
    /// the payload holds, sorted. The order of a record's tags.
    #[must_use]
    pub fn tag_names(&self) -> &[String] {
        &self.tag_names
    }

    /// Tells whether tags are read from payloads: topics do not say the series then.
    #[must_use]
    pub fn has_payload_tags(&self) -> bool {
        !self.payload_tags().is_empty()
    }

    /// Returns how many of the tags come from the topic: the first ones.
    #[must_use]
    pub fn captured_tags(&self) -> usize {
        self.payload_tags().start
    }

    /// Tells whether the field at this position is read for these values of the tags.
    #[must_use]
    pub fn is_active(&self, position: usize, tags: &[String]) -> bool {
        self.fields.get(position).is_some_and(|field| field.is_active(tags))
    }

    /// Returns the filters to subscribe to, each once.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<String> {
        self.topics.subscriptions()
    }

    /// Returns what is known of a topic, or `None` where no filter matches it or it is ignored.
    ///
    /// The first filter that matches gives the tags. Costs a walk over the filters: keep the result.
    #[must_use]
    pub fn route(&self, topic: &str) -> Option<Route> {
        self.topics.route(topic, self.tag_names.len(), &self.fields)
    }

    /// Decodes a message into records and refusals, which are added to `out`. `route` is this source's for the
    /// message's topic.
    ///
    /// *Shape*: one record a payload, or one an element of `each`, a CSV line, or a time of a SenML pack. A field
    /// that is refused leaves NaN in a record that has another value; a record without any value is refused.
    pub fn decode(&self, route: &Route, message: &Message<'_>, out: &mut Decoded) {
        let mut recorder = Recorder::new(self, route, message, out);
        if message.retained && self.retained == Retained::Skip {
            recorder.refuse(Reason::Retained, "the broker had retained the message");
            return;
        }
        if !route.active.contains(&true) {
            recorder.refuse(Reason::NoFields, "no field of the source is read from this topic");
            return;
        }
        match &self.layout {
            Layout::Json(layout) => json::decode(layout, &mut recorder),
            Layout::Cbor(layout) => cbor::decode(layout, &mut recorder),
            Layout::Number => number::decode(&mut recorder),
            Layout::Senml(layout) => senml::decode(layout, &mut recorder),
            Layout::Csv(layout) => csv::decode(layout, &mut recorder),
        }
    }
}
