//! What happened, numbered, for those who listen.
//!
//! Written in the transaction of what happened. Never removed here.

use super::{Sql, StoreError};

/// Adds an event; returns its number.
///
/// *Errors*: the store's.
pub fn add(
    sql: &mut dyn Sql,
    kind: &str,
    object: &str,
    body: &serde_json::Value,
    now_ms: u64,
) -> Result<u64, StoreError> {
    let last = sql.query_optional("SELECT seq FROM event ORDER BY seq DESC LIMIT 1", &[])?;
    let seq = last.map(|mut row| row.take::<u64>(0)).transpose()?.unwrap_or(0) + 1;
    sql.execute(
        "INSERT INTO event (seq, at_ms, kind, object, body) VALUES ($1, $2, $3, $4, $5)",
        &[seq.into(), now_ms.into(), kind.into(), object.into(), body.to_string().into()],
    )?;
    Ok(seq)
}
