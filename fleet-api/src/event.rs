//! What happened, for those who listen.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Something that happened: the data of a server-sent event, and the body of a webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number, rising by one; 0 for a test of a webhook.
    pub seq: u64,
    /// When.
    pub at: String,
    /// What, as in `rollout.halted`.
    pub kind: String,
    /// To what: the id of a gateway or a rollout, the digest of a release.
    pub object: String,
    /// What else is to be known.
    pub body: serde_json::Value,
}

/// An event as it goes over the stream: what stands behind `id:`, `event:` and `data:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamedEvent {
    /// Its number.
    pub id: String,
    /// Its kind.
    pub event: String,
    /// An [`Event`] in JSON.
    pub data: String,
}

/// Where listening begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventParams {
    /// Number of the last event that is known; from the present on where there is none. `Last-Event-ID` goes before it.
    pub after: Option<u64>,
}
