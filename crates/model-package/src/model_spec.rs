//! The feature specification's second half: how readings become a model's input, and what happens to its output.
//!
//! Declares windows, triggers, inputs, missing-value policies and alerts, exactly as the configuration file writes
//! them. Computes nothing: `dunlin-pipeline` compiles these types and does the work.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::span::Span;

/// Which rows a model sees at once, and how often it is asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WindowSpec {
    /// Rows in a window. Default: what the package says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// Rows between two predictions. Default: what the package says, else 1. Count windows only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop: Option<u32>,
    /// A longer silence than this starts the window anew. Default: what the package says, else never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_max: Option<Span>,
    /// Readings are put in order within this bound; they wait that long in event time. Default: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lateness: Option<Span>,
    /// Time windows: a prediction each such interval of event time. Needs `resample`; a multiple of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// Time windows: the width of a row on a regular grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resample: Option<Span>,
    /// Time windows: what stands for the values of one grid cell. Default: their mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<ResampleMethod>,
}

/// What stands for the values that fall into one cell of a time grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResampleMethod {
    /// Their arithmetic mean.
    #[default]
    Mean,
    /// The latest.
    Last,
    /// The lowest.
    Min,
    /// The highest.
    Max,
}

/// When a row is made of the latest values: one of `on`, `every` and `when`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TriggerSpec {
    /// A row each time a reading brings this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// A row at each multiple of this interval of event time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// `all` (the default): a row once every plain input has a new value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<TriggerWhen>,
}

/// The condition of `trigger.when`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TriggerWhen {
    /// Every plain input has a new value.
    All,
}

/// What stands in for a value that a row lacks. Without a policy the row is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MissingPolicy {
    /// The last known value, if it is not older than this: `hold:15m`.
    Hold(Span),
    /// A constant: `const:0`.
    Const(f64),
    /// Not a number, for models that handle missing values themselves: `nan`.
    Nan,
    /// The row is dropped and counted: `drop`.
    Drop,
}

impl FromStr for MissingPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "nan" => Ok(Self::Nan),
            None if text == "drop" => Ok(Self::Drop),
            Some(("hold", span)) => span.parse().map(Self::Hold).map_err(|error| format!("{error}")),
            Some(("const", number)) => match number.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Self::Const(value)),
                _ => Err(format!("`{number}` is not a finite number")),
            },
            _ => Err(format!(
                "`{text}` is no policy for missing values; write `hold:15m`, `const:0`, `nan` or `drop`"
            )),
        }
    }
}

impl fmt::Display for MissingPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hold(span) => write!(f, "hold:{span}"),
            Self::Const(value) => write!(f, "const:{value}"),
            Self::Nan => f.write_str("nan"),
            Self::Drop => f.write_str("drop"),
        }
    }
}

impl Serialize for MissingPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MissingPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for MissingPolicy {
    fn schema_name() -> Cow<'static, str> {
        "MissingPolicy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(hold:.+|const:.+|nan|drop)$",
            "description": "What stands in for a missing value: `hold:15m`, `const:0`, `nan` or `drop`."
        })
    }
}

/// How a model's predictions raise alerts on a topic of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertSpec {
    /// Where alerts are published; `{gateway}`, `{model}`, `{key}` and the key's tags are replaced.
    pub topic: String,
    /// The label that raises the alert. Default: the label that the package's threshold gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Debounce: the alert is raised when `n` of the last `m` predictions have the label, cleared when fewer have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Debounce>,
    /// At most one raised alert a key in this interval of event time; the rest is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Span>,
}

/// The n-of-m rule of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Debounce {
    /// How many predictions must agree. *Range*: 1 to `m`.
    pub n: u8,
    /// Of how many of the latest. *Range*: 1 to 64.
    pub m: u8,
}

/// Where a model's predictions are published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputTopicSpec {
    /// Topic template; `{gateway}`, `{model}`, `{key}` and the key's tags are replaced.
    pub topic: String,
}

impl Default for OutputTopicSpec {
    fn default() -> Self {
        Self { topic: "dunlin/{gateway}/predictions/{model}/{key}".to_owned() }
    }
}

/// A model that runs on the gateway and what it is fed with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Name of the model in predictions, logs and metrics; unique.
    pub name: String,
    /// A bundle or a repository folder, relative to the configuration file that names it, whose releases of this model are taken over at each start. Without it they are imported with `dunlind import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Sources that feed the model. Default: all that have a field the inputs name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<String>>,
    /// Tags that tell series apart: one window per value. `[]` puts everything into one. Needed where sources have tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// Which rows the model sees at once.
    #[serde(default)]
    pub window: WindowSpec,
    /// When a row is made.
    #[serde(default)]
    pub trigger: TriggerSpec,
    /// Furthest apart in event time that the values of one row may be. Default: 10s.
    #[serde(default = "skew_max_default")]
    pub skew_max: Span,
    /// Feature expressions by model input, in order. Default: the package's feature names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Vec<String>>,
    /// Policies for missing values by field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<String, MissingPolicy>,
    /// Where predictions are published.
    #[serde(default)]
    pub output: OutputTopicSpec,
    /// How predictions raise alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<AlertSpec>,
}

const fn skew_max_default() -> Span {
    Span::from_secs(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_back_as_they_are_printed() {
        for text in ["hold:15m", "const:0", "const:-1.5", "nan", "drop"] {
            assert_eq!(text.parse::<MissingPolicy>().unwrap().to_string(), text);
        }
        for text in ["hold", "hold:x", "const:NaN", "const:", "guess"] {
            assert!(text.parse::<MissingPolicy>().is_err(), "{text}");
        }
    }
}
