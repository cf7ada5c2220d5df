//! Why somebody changes something.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest reason in characters.
pub const REASON_CHARS_MAX: usize = 500;

/// The body of an order: why it is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Why, in words for those who read the audit log.
    #[serde(default)]
    #[schema(max_length = 500)]
    pub reason: String,
}
