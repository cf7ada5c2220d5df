//! Rules by label query: what gateways upload, and how often they ask.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How much of a stream is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadShare {
    /// Nothing.
    None,
    /// One row in so many.
    Sampled,
    /// All rows.
    All,
}

impl UploadShare {
    /// Returns the word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sampled => "sampled",
            Self::All => "all",
        }
    }
}

/// How much of a stream some gateways upload. Of rules for one stream the first that means a gateway counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRule {
    /// Label query over gateways.
    #[schema(max_length = 2048, format = "label-query")]
    pub query: String,
    /// The stream: `predictions`, `events`, `labels` or `statistics`.
    #[schema(pattern = "^(predictions|events|labels|statistics)$")]
    pub stream: String,
    /// How much of it.
    pub share: UploadShare,
    /// With `sampled`: one row in so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub every: Option<u32>,
}

/// How often some gateways ask. The first rule that means a gateway counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExchangeRule {
    /// Label query over gateways.
    #[schema(max_length = 2048, format = "label-query")]
    pub query: String,
    /// When a gateway asks again, on average, in seconds: at most four days.
    #[schema(minimum = 1, maximum = 345_600)]
    pub next_s: u64,
}

/// Rules of uploads to set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUploadPolicy {
    /// All rules, in order.
    #[schema(max_items = 64)]
    pub rules: Vec<UploadRule>,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}

/// Rules of uploads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadPolicy {
    /// Rises with every change; 0 where nobody set any.
    pub revision: u64,
    /// The rules, in order.
    pub rules: Vec<UploadRule>,
}

/// Rules of exchanges to set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExchangePolicy {
    /// All rules, in order.
    #[schema(max_items = 64)]
    pub rules: Vec<ExchangeRule>,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub reason: String,
}

/// Rules of exchanges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExchangePolicy {
    /// Rises with every change; 0 where nobody set any.
    pub revision: u64,
    /// The rules, in order.
    pub rules: Vec<ExchangeRule>,
}
