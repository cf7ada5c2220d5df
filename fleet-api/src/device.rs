//! Gateways.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Labels;

/// Whether a gateway may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody accepted it yet.
    Pending,
    /// It may.
    Active,
    /// Not until somebody decides.
    Suspended,
    /// Never again.
    Revoked,
}

/// A gateway in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceSummary {
    /// Its id.
    pub id: String,
    /// Whether it may speak.
    pub state: State,
    /// Why it is suspended or revoked.
    pub reason: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// Its host name.
    pub hostname: String,
    /// When it was last heard of.
    pub seen: String,
    /// Whether it was heard of in the last quarter of an hour.
    pub is_online: bool,
    /// What it runs, by model.
    pub models: Vec<RunningModel>,
}

/// What a gateway reported of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunningModel {
    /// The model.
    pub model: String,
    /// How far its newest release is, as in `good`.
    pub phase: String,
    /// SHA-256 of the manifest of its last good release.
    pub digest: Option<String>,
    /// That release's version for people.
    pub version: Option<String>,
}

/// All that is known of a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDetail {
    /// What stands in lists.
    #[serde(flatten)]
    pub summary: DeviceSummary,
    /// The six words that stand for its key: compare them with `dunlind enroll` before you accept it.
    pub words: Vec<String>,
    /// Its ed25519 key in hexadecimal.
    pub public_key: String,
    /// Its present life as a member of this fleet.
    pub incarnation: String,
    /// The highest counter of its messages.
    pub counter: u64,
    /// When it enrolled.
    pub enrolled: String,
    /// The token or person that it enrolled by.
    pub enrolled_by: String,
    /// What it said of itself when it enrolled.
    pub facts: serde_json::Value,
    /// Its newest report, as it came.
    pub report: Option<serde_json::Value>,
    /// Its health, as it came.
    pub health: Option<serde_json::Value>,
    /// Revision of what it is to run.
    pub desired_revision: u64,
}

/// Which gateways are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeviceParams {
    /// Label query, as in `site=plant-1 && board~pi4*`.
    #[param(max_length = 2048, format = "label-query")]
    pub query: Option<String>,
    /// Only those of this state.
    pub state: Option<State>,
    /// Most entries of the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
    /// Where the page begins: `next` of the one before.
    #[param(format = "cursor", pattern = "^[A-Za-z0-9_-]*$")]
    pub cursor: Option<String>,
}

/// Labels to give a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLabels {
    /// All labels that it is to have; others are taken away.
    #[schema(schema_with = crate::labels_schema)]
    pub labels: Labels,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}
