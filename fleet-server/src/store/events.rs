//! What happened, numbered, for those who listen.
//!
//! Written in the transaction of what happened. Numbers have no gap and rise in the order in which events are kept.

use super::{Row, Sql, StoreError};

/// The kind of the event of a release that the owner published; its object is the release's digest.
pub const RELEASE_PUBLISHED: &str = "release.published";

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number, from 1.
    pub seq: u64,
    /// When, in ms.
    pub at_ms: u64,
    /// What, as in `rollout.halted`.
    pub kind: String,
    /// To what.
    pub object: String,
    /// What else is to be known, as JSON.
    pub body: String,
}

fn event(mut row: Row) -> Result<Event, StoreError> {
    Ok(Event {
        seq: row.take(0)?,
        at_ms: row.take(1)?,
        kind: row.take(2)?,
        object: row.take(3)?,
        body: row.take(4)?,
    })
}

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
    let seq = newest(sql)? + 1;
    sql.execute(
        "INSERT INTO event (seq, at_ms, kind, object, body) VALUES ($1, $2, $3, $4, $5)",
        &[seq.into(), now_ms.into(), kind.into(), object.into(), body.to_string().into()],
    )?;
    Ok(seq)
}

/// Returns the number of the newest event; 0 where there is none.
///
/// *Errors*: the store's.
pub fn newest(sql: &mut dyn Sql) -> Result<u64, StoreError> {
    let last = sql.query_optional("SELECT seq FROM event ORDER BY seq DESC LIMIT 1", &[])?;
    Ok(last.map(|mut row| row.take::<u64>(0)).transpose()?.unwrap_or(0))
}

/// Returns the events after a number, at most `limit`.
///
/// *Errors*: the store's.
pub fn page(sql: &mut dyn Sql, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
    let rows = sql.query(
        "SELECT seq, at_ms, kind, object, body FROM event WHERE seq > $1 ORDER BY seq LIMIT $2",
        &[after.into(), limit.into()],
    )?;
    rows.into_iter().map(event).collect()
}

/// Returns an event.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, seq: u64) -> Result<Option<Event>, StoreError> {
    let found = "SELECT seq, at_ms, kind, object, body FROM event WHERE seq = $1";
    sql.query_optional(found, &[seq.into()])?.map(event).transpose()
}

/// Removes events from before a time, at most `limit`. The newest stays: the next one's number follows from it.
///
/// *Errors*: the store's.
pub fn sweep(sql: &mut dyn Sql, before_ms: u64, limit: u32) -> Result<u64, StoreError> {
    sql.execute(
        "DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE at_ms < $1 \
         AND seq < (SELECT MAX(seq) FROM event) ORDER BY seq LIMIT $2)",
        &[before_ms.into(), limit.into()],
    )
}

/// Tells whether there is an event from before a time, beside the newest.
///
/// *Errors*: the store's.
pub fn is_older(sql: &mut dyn Sql, before_ms: u64) -> Result<bool, StoreError> {
    let first = sql.query_optional("SELECT at_ms, seq FROM event ORDER BY seq LIMIT 1", &[])?;
    let Some(mut first) = first else { return Ok(false) };
    Ok(first.take::<u64>(0)? < before_ms && first.take::<u64>(1)? < newest(sql)?)
}
