//! Webhooks: events that are sent to an address, signed.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Where events are sent.
    pub url: String,
    /// Which: kinds, or beginnings of them as in `rollout.*`; all where there is none.
    pub kinds: Vec<String>,
    /// When it was made.
    pub created: String,
    /// Why nothing is sent any more, where that is so.
    pub disabled: Option<String>,
}

/// A kind of events, or the beginning of some.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 64, pattern = "^[a-z._-]*[*]?$")]
pub struct KindPattern(pub String);

/// A webhook to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Where events are to be sent: `https://` or `http://`.
    #[schema(min_length = 8, max_length = 2048, format = "webhook-url")]
    pub url: String,
    /// Which: kinds, or beginnings of them as in `rollout.*`; all where there is none.
    #[serde(default)]
    #[schema(max_items = 32, value_type = Vec<KindPattern>)]
    pub kinds: Vec<String>,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}

/// A webhook that was made: the only time that its secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedWebhook {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
    /// Key of the signatures, as it is: the whole text.
    pub secret: String,
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// Whether the receiver took it.
    pub is_delivered: bool,
    /// What the receiver answered, or why there was no answer.
    pub result: String,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is sent, or sent again, at its time.
    Waiting,
    /// The receiver took it.
    Delivered,
    /// It was tried for as long as it is tried; only a person sends it again.
    Dead,
}

/// An event on its way to a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// Number of the event.
    pub event: u64,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried next, where it is.
    pub next: Option<String>,
    /// What came of the last attempt.
    pub last: Option<String>,
}

/// Which deliveries are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeliveryParams {
    /// Only those of this state.
    pub state: Option<DeliveryState>,
    /// Most entries of the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
    /// Where the page begins: `next` of the one before.
    #[param(format = "cursor", pattern = "^[A-Za-z0-9_-]*$")]
    pub cursor: Option<String>,
}
