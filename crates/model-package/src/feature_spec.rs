//! The feature specification's first half: how the payloads of a topic become readings.
//!
//! Declares sources, their fields and times, exactly as the configuration file writes them. Decodes nothing:
//! `dunlin-pipeline` compiles these types and does the work.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::span::Span;

/// What the payloads of a source are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A JSON object, or an array of them under `each`.
    Json,
    /// One number as text, with nothing else but white space.
    Number,
    /// A SenML pack in JSON (RFC 8428).
    Senml,
    /// Comma-separated lines, with a header line or with columns named by position.
    Csv,
    /// A CBOR map (RFC 8949), addressed like JSON.
    Cbor,
}

/// What happens to messages that the broker had retained, whose age nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Retained {
    /// They are counted and dropped.
    #[default]
    Skip,
    /// They are used where the payload holds its own time.
    UseIfTime,
    /// They are used like any other message.
    Use,
}

/// What a reading without a readable time gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimeFallback {
    /// The time at which the message arrived.
    #[default]
    Arrival,
    /// It is refused and counted.
    Reject,
}

/// Where a reading's event time stands and which times are believed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeSpec {
    /// JSON pointer (`json`, `cbor`) or column (`csv`) of the time. SenML carries its own. Without it: arrival.
    pub pointer: Option<String>,
    /// `auto`, `rfc3339`, `unix-s`, `unix-ms`, `unix-us`, `unix-ns`, or a strptime pattern such as `%d/%m/%Y %H:%M:%S` (UTC).
    pub format: String,
    /// What a reading without a readable time gets.
    pub fallback: TimeFallback,
    /// Readings further than this in the future of the gateway's clock are refused.
    pub skew_max: Span,
    /// Readings older than this are refused. Without it any age is accepted.
    pub age_max: Option<Span>,
}

impl Default for TimeSpec {
    fn default() -> Self {
        Self {
            pointer: None,
            format: "auto".to_owned(),
            fallback: TimeFallback::Arrival,
            skew_max: Span::from_secs(300),
            age_max: None,
        }
    }
}

/// One measured quantity of a source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FieldSpec {
    /// JSON pointer of the value (`json`, `cbor`), as in `/values/0`. Default: `/` and the field's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// SenML record name, with or without the base name. Default: the field's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// CSV column: its header, or its position from 0. Default: the field's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The field is read only from topics with these captures, as in `{ quantity = "temperature" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub when: BTreeMap<String, String>,
    /// SenML or UCUM unit of the value after `scale` and `offset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The value is multiplied by this. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// This is added after scaling. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// Lowest and highest believable value; what lies outside is counted and taken as missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// Values that mean "no measurement", before `scale`, as in `[-200]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_values: Vec<f64>,
    /// Numbers for texts and truth values, as in `{ true = 0, false = 1 }`; what is not listed is refused.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub map: BTreeMap<String, f64>,
}

/// A set of topics whose payloads are written alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Name of the source in logs, metrics and errors; unique.
    pub name: String,
    /// Broker to subscribe at: a name from `[brokers]`. Default: the broker of `[mqtt]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// Topic filters; `{name}` captures one level, `{name...}` the tail. Captures become tags.
    pub topics: Vec<String>,
    /// Topic filters (with `+` and `#`) whose messages are not for this source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// What the payloads are written in.
    pub format: Format,
    /// Where the event time stands.
    #[serde(default)]
    pub time: TimeSpec,
    /// What happens to retained messages.
    #[serde(default)]
    pub retained: Retained,
    /// JSON pointer of an array whose elements are one reading each (`json`, `cbor`); `""` is the payload itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// Column separator of `csv`. Default: a comma.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Whether `csv` payloads begin with a header line. Default: when a field or tag names its column by a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// Tags read from the payload: JSON pointer (`json`, `cbor`) or column (`csv`) by tag name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The fields by name; at least one.
    #[serde(default)]
    pub fields: BTreeMap<String, FieldSpec>,
    /// Most series this source may create; further ones are refused and counted. Default: 10,000.
    #[serde(default = "series_max_default")]
    pub series_max: u32,
    /// Most new topics a second; further ones are refused and counted. Default: 1,000.
    #[serde(default = "new_topics_per_second_max_default")]
    pub new_topics_per_second_max: u32,
}

/// Ten thousand series of 1 kB beside their windows are 10 MB: what a 512 MB gateway can spare.
const fn series_max_default() -> u32 {
    10_000
}

/// A plant that starts announces its topics within seconds; an attack goes on.
const fn new_topics_per_second_max_default() -> u32 {
    1_000
}
