//! The audit log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// Its number, from 1 on without a gap.
    pub seq: u64,
    /// When.
    pub at: String,
    /// Who: a token's name, an enrolment token, `server`.
    pub who: String,
    /// What was done, as in `rollout.pause`.
    pub action: String,
    /// To what.
    pub object: String,
    /// Why.
    pub reason: String,
    /// What else is to be known.
    pub detail: serde_json::Value,
    /// SHA-256 over the line before and this one, in hexadecimal.
    pub digest: String,
}

/// What a check of the whole log found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditCheck {
    /// How many lines there are.
    pub lines: u64,
    /// The first line that is not as it was written.
    pub first_broken: Option<u64>,
    /// Digest of the last line: keep it elsewhere, and a log that was cut shows.
    pub last_digest: Option<String>,
}
