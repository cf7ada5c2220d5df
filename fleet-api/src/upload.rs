//! What gateways uploaded: rows, and what became of their numbers.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// What became of the numbers of a stream of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// The stream.
    pub stream: String,
    /// Ranges of numbers that were received, first and last.
    pub received: Vec<[u64; 2]>,
    /// Ranges that the gateway gave up before they were received.
    pub lost: Vec<[u64; 2]>,
    /// Ranges below the highest number that nobody has accounted for: on their way, or missing.
    pub unexplained: Vec<[u64; 2]>,
    /// Rows that came.
    pub rows: u64,
    /// Numbers whose rows a policy held back.
    pub held_back: u64,
    /// Rows that came and are kept no longer.
    pub expired: u64,
}

/// Which rows are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RowParams {
    /// `predictions`, `events`, `labels`, `losses` or `statistics`.
    #[param(pattern = "^(predictions|events|labels|losses|statistics)$")]
    pub stream: String,
    /// Only rows with numbers above this.
    #[param(maximum = 9_007_199_254_740_991_u64)]
    pub after: Option<u64>,
    /// Most rows.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
}

/// Rows in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rows {
    /// The rows: `number`, `received`, and what the stream has.
    pub items: Vec<serde_json::Value>,
    /// `after` of the next page; none where this is the last.
    pub next: Option<u64>,
}
