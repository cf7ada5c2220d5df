//! Requests that were answered under a name of their sender's, so that one sent again is not done again.
//!
//! Reads and writes rows in the transaction of what was asked. Names are each token's own and are kept for a day.

use super::{Sql, StoreError};

/// How long a name is kept, in ms.
pub const KEPT_MS: u64 = 24 * 3_600_000;
/// Rows that are removed at once: more than come in between.
const SWEEP: u32 = 100;

/// How a request was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// SHA-256 of the request.
    pub request: Vec<u8>,
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Returns how a request of this name was answered.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, token: &str, name: &str, now_ms: u64) -> Result<Option<Kept>, StoreError> {
    let row = sql.query_optional(
        "SELECT request, status, body FROM idempotency WHERE token = $1 AND name = $2 AND at_ms > $3",
        &[token.into(), name.into(), now_ms.saturating_sub(KEPT_MS).into()],
    )?;
    let Some(mut row) = row else { return Ok(None) };
    let status = u16::try_from(row.take::<u32>(1)?).unwrap_or(500);
    Ok(Some(Kept { request: row.take(0)?, status, body: row.take(2)? }))
}

/// Keeps how a request was answered, and forgets some that are old.
///
/// *Errors*: the store's.
pub fn put(
    sql: &mut dyn Sql,
    (token, name): (&str, &str),
    kept: &Kept,
    now_ms: u64,
) -> Result<(), StoreError> {
    sql.execute(
        "DELETE FROM idempotency WHERE (token, name) IN \
         (SELECT token, name FROM idempotency WHERE at_ms <= $1 ORDER BY at_ms LIMIT $2)",
        &[now_ms.saturating_sub(KEPT_MS).into(), SWEEP.into()],
    )?;
    sql.execute(
        "INSERT INTO idempotency VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            token.into(),
            name.into(),
            kept.request.as_slice().into(),
            u32::from(kept.status).into(),
            kept.body.as_str().into(),
            now_ms.into(),
        ],
    )?;
    Ok(())
}
