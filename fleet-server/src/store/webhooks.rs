//! Webhooks, and the events on their way to each.
//!
//! Reads and writes rows; sends nothing. The secret of a webhook is a key of signatures and has to be kept as it is.

use super::{Row, Sql, StoreError};

/// A webhook.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Where events are sent.
    pub url: String,
    /// Key of the signatures.
    pub secret: String,
    /// Which events, as JSON.
    pub kinds: String,
    /// When it was made, in ms.
    pub created_ms: u64,
    /// The last event that was looked at for it.
    pub after_seq: u64,
    /// Why nothing is sent any more.
    pub disabled: Option<String>,
}

/// An event on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The webhook.
    pub webhook: String,
    /// Number of the event.
    pub event: u64,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried next, in ms.
    pub next_ms: u64,
    /// `waiting`, `delivered` or `dead`.
    pub state: String,
    /// What came of the last attempt.
    pub last: Option<String>,
}

const COLUMNS: &str = "id, url, secret, kinds, created_ms, after_seq, disabled";

fn webhook(mut row: Row) -> Result<Webhook, StoreError> {
    Ok(Webhook {
        id: row.take(0)?,
        url: row.take(1)?,
        secret: row.take(2)?,
        kinds: row.take(3)?,
        created_ms: row.take(4)?,
        after_seq: row.take(5)?,
        disabled: row.take(6)?,
    })
}

fn delivery(mut row: Row) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        webhook: row.take(0)?,
        event: row.take(1)?,
        tries: row.take(2)?,
        next_ms: row.take(3)?,
        state: row.take(4)?,
        last: row.take(5)?,
    })
}

/// Adds a webhook.
///
/// *Errors*: [`StoreError::Conflict`] for an id that exists.
pub fn insert(sql: &mut dyn Sql, webhook: &Webhook) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO webhook (id, url, secret, kinds, created_ms, after_seq) VALUES ($1, $2, $3, $4, $5, $6)",
        &[
            webhook.id.as_str().into(),
            webhook.url.as_str().into(),
            webhook.secret.as_str().into(),
            webhook.kinds.as_str().into(),
            webhook.created_ms.into(),
            webhook.after_seq.into(),
        ],
    )?;
    Ok(())
}

/// Returns all webhooks, of which there are few.
///
/// *Errors*: the store's.
pub fn all(sql: &mut dyn Sql) -> Result<Vec<Webhook>, StoreError> {
    let found = format!("SELECT {COLUMNS} FROM webhook ORDER BY id LIMIT 1000");
    sql.query(&found, &[])?.into_iter().map(webhook).collect()
}

/// Returns a webhook.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, id: &str) -> Result<Option<Webhook>, StoreError> {
    let found = format!("SELECT {COLUMNS} FROM webhook WHERE id = $1");
    sql.query_optional(&found, &[id.into()])?.map(webhook).transpose()
}

/// Removes a webhook with its deliveries; tells whether it was there.
///
/// *Errors*: the store's.
pub fn remove(sql: &mut dyn Sql, id: &str) -> Result<bool, StoreError> {
    sql.execute("DELETE FROM webhook_delivery WHERE webhook = $1", &[id.into()])?;
    Ok(sql.execute("DELETE FROM webhook WHERE id = $1", &[id.into()])? > 0)
}

/// Sends nothing to a webhook any more.
///
/// *Errors*: the store's.
pub fn disable(sql: &mut dyn Sql, id: &str, why: &str) -> Result<(), StoreError> {
    sql.execute("UPDATE webhook SET disabled = $2 WHERE id = $1", &[id.into(), why.into()])?;
    Ok(())
}

/// Notes up to which event was looked for a webhook.
///
/// *Errors*: the store's.
pub fn note_looked(sql: &mut dyn Sql, id: &str, seq: u64) -> Result<(), StoreError> {
    sql.execute("UPDATE webhook SET after_seq = $2 WHERE id = $1", &[id.into(), seq.into()])?;
    Ok(())
}

/// Puts an event on its way; one that is on its way already starts again.
///
/// *Errors*: the store's.
pub fn enqueue(sql: &mut dyn Sql, webhook: &str, event: u64, now_ms: u64) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO webhook_delivery (webhook, event, tries, next_ms, state) VALUES ($1, $2, 0, $3, 'waiting') \
         ON CONFLICT (webhook, event) DO UPDATE SET tries = 0, next_ms = $3, state = 'waiting'",
        &[webhook.into(), event.into(), now_ms.into()],
    )?;
    Ok(())
}

/// Takes deliveries of a webhook that are due, at most `limit`; each is due again at `again_ms`, should the sender die.
///
/// *Errors*: the store's.
pub fn take_due(
    sql: &mut dyn Sql,
    webhook: &str,
    limit: u32,
    (now_ms, again_ms): (u64, u64),
) -> Result<Vec<Delivery>, StoreError> {
    let rows = sql.query(
        "SELECT webhook, event, tries, next_ms, state, last FROM webhook_delivery \
         WHERE state = 'waiting' AND next_ms <= $2 AND webhook = $1 ORDER BY next_ms, event LIMIT $3",
        &[webhook.into(), now_ms.into(), limit.into()],
    )?;
    let due = rows.into_iter().map(delivery).collect::<Result<Vec<_>, _>>()?;
    for delivery in &due {
        sql.execute(
            "UPDATE webhook_delivery SET next_ms = $3 WHERE webhook = $1 AND event = $2",
            &[webhook.into(), delivery.event.into(), again_ms.into()],
        )?;
    }
    Ok(due)
}

/// Notes what came of an attempt.
///
/// *Errors*: the store's.
pub fn note_tried(sql: &mut dyn Sql, delivery: &Delivery) -> Result<(), StoreError> {
    sql.execute(
        "UPDATE webhook_delivery SET tries = $3, next_ms = $4, state = $5, last = $6 \
         WHERE webhook = $1 AND event = $2",
        &[
            delivery.webhook.as_str().into(),
            delivery.event.into(),
            delivery.tries.into(),
            delivery.next_ms.into(),
            delivery.state.as_str().into(),
            delivery.last.as_deref().into(),
        ],
    )?;
    Ok(())
}

/// Returns the deliveries of a webhook after an event, at most `limit`; of one state where it is named.
///
/// *Errors*: the store's.
pub fn deliveries(
    sql: &mut dyn Sql,
    webhook: &str,
    state: Option<&str>,
    after: u64,
    limit: u32,
) -> Result<Vec<Delivery>, StoreError> {
    let rows = sql.query(
        "SELECT webhook, event, tries, next_ms, state, last FROM webhook_delivery \
         WHERE webhook = $1 AND event > $2 AND state LIKE $3 ORDER BY event LIMIT $4",
        &[webhook.into(), after.into(), state.unwrap_or("%").into(), limit.into()],
    )?;
    rows.into_iter().map(delivery).collect()
}

/// Returns how many deliveries there are, by state.
///
/// *Errors*: the store's.
pub fn count_by_state(sql: &mut dyn Sql) -> Result<Vec<(String, u64)>, StoreError> {
    let rows = sql.query("SELECT state, COUNT(*) FROM webhook_delivery GROUP BY state", &[])?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?))).collect()
}

/// Removes deliveries whose event is gone, at most `limit`.
///
/// *Errors*: the store's.
pub fn sweep(sql: &mut dyn Sql, limit: u32) -> Result<u64, StoreError> {
    sql.execute(
        "DELETE FROM webhook_delivery WHERE (webhook, event) IN (SELECT webhook, event FROM webhook_delivery \
         WHERE event < (SELECT MIN(seq) FROM event) LIMIT $1)",
        &[limit.into()],
    )
}

/// Tells whether an event is new for a webhook, or a delivery is due.
///
/// *Errors*: the store's.
pub fn is_work(sql: &mut dyn Sql, now_ms: u64) -> Result<bool, StoreError> {
    let new =
        "SELECT id FROM webhook WHERE disabled IS NULL AND after_seq < (SELECT MAX(seq) FROM event) LIMIT 1";
    let due = "SELECT d.event FROM webhook_delivery d JOIN webhook w ON w.id = d.webhook \
               WHERE d.state = 'waiting' AND d.next_ms <= $1 AND w.disabled IS NULL LIMIT 1";
    Ok(!sql.query(new, &[])?.is_empty() || !sql.query(due, &[now_ms.into()])?.is_empty())
}
