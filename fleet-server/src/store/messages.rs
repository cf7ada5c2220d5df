//! What is kept with each message of a gateway: its counter, its start, its report and its rows.
//!
//! Reads and writes rows; what they mean is judged by the exchange.

use dunlin_protocol::Ranges;

use super::{Sql, StoreError, Value};
use crate::exchange::counter::{Known, REMEMBERED_MAX, STARTS_MAX};

/// Returns what is known of a gateway's messages, as far as it takes to judge this one: of the digests that are
/// remembered, the one of its counter; starts that are over where it is of another start than the last.
///
/// *Errors*: the store's.
pub fn known(
    sql: &mut dyn Sql,
    device: &str,
    highest: u64,
    start: Option<String>,
    (counter, speaks): (u64, &str),
) -> Result<Known, StoreError> {
    let mut known = Known { highest, start, ..Known::default() };
    // Above the highest there is none; a start that is over does not become the one that spoke last.
    if counter <= highest {
        remember(sql, device, counter, &mut known)?;
    }
    if known.start.as_deref() != Some(speaks) {
        let over = "SELECT start FROM device_start WHERE device = $1";
        for mut row in sql.query(over, &[device.into()])? {
            known.superseded.push(row.take(0)?);
        }
    }
    Ok(known)
}

fn remember(sql: &mut dyn Sql, device: &str, counter: u64, known: &mut Known) -> Result<(), StoreError> {
    let same = "SELECT digest FROM device_message WHERE device = $1 AND counter = $2";
    if let Some(mut row) = sql.query_optional(same, &[device.into(), counter.into()])? {
        let digest: Vec<u8> = row.take(0)?;
        let digest = <[u8; 32]>::try_from(digest.as_slice())
            .map_err(|_| StoreError::Damaged("a message's digest is too short".to_owned()))?;
        known.remembered.insert(counter, digest);
    }
    Ok(())
}

/// One in so many messages drops those that are remembered beyond need, as its digest falls. A gateway that grinds digests
/// only fills its own rows, within the rate that it may ask at.
const TIDIED_EACH: u8 = 16;

/// What a message changes of a gateway.
#[derive(Debug)]
pub struct Heard<'a> {
    /// The gateway.
    pub device: &'a str,
    /// The message's counter.
    pub counter: u64,
    /// The start of the program that sent it.
    pub start: &'a str,
    /// The digest of its signed bytes.
    pub digest: [u8; 32],
    /// When it was heard, in ms.
    pub now_ms: u64,
    /// Its health, as JSON.
    pub health: &'a str,
    /// Its report, as JSON, with its digest, where it came in full.
    pub report: Option<(&'a str, &'a str)>,
}

/// Keeps a message that is new; `before` is the start that spoke last.
///
/// *Errors*: the store's.
pub fn take(sql: &mut dyn Sql, heard: &Heard<'_>, before: Option<&str>) -> Result<(), StoreError> {
    let device: Value = heard.device.into();
    sql.execute(
        "UPDATE device SET counter = $2, start = $3, seen_ms = $4, health = $5 WHERE id = $1",
        &[device.clone(), heard.counter.into(), heard.start.into(), heard.now_ms.into(), heard.health.into()],
    )?;
    if let Some((report, digest)) = heard.report {
        sql.execute(
            "UPDATE device SET report = $2, report_digest = $3 WHERE id = $1",
            &[device.clone(), report.into(), digest.into()],
        )?;
    }
    if let Some(before) = before.filter(|before| *before != heard.start) {
        sql.execute(
            "INSERT INTO device_start VALUES ($1, $2, $3) ON CONFLICT (device, start) DO NOTHING",
            &[device.clone(), before.into(), heard.counter.into()],
        )?;
        sql.execute(
            "DELETE FROM device_start WHERE device = $1 AND until_counter <= (SELECT until_counter \
             FROM device_start WHERE device = $1 ORDER BY until_counter DESC LIMIT 1 OFFSET $2)",
            &[device.clone(), STARTS_MAX.into()],
        )?;
    }
    sql.execute(
        "INSERT INTO device_message VALUES ($1, $2, $3)",
        &[device.clone(), heard.counter.into(), heard.digest.as_slice().into()],
    )?;
    // Not with each message, which would cost as much as keeping it.
    if !heard.digest[0].is_multiple_of(TIDIED_EACH) {
        return Ok(());
    }
    sql.execute(
        "DELETE FROM device_message WHERE device = $1 AND counter <= (SELECT counter FROM device_message \
         WHERE device = $1 ORDER BY counter DESC LIMIT 1 OFFSET $2)",
        &[device, REMEMBERED_MAX.into()],
    )?;
    Ok(())
}

/// Keeps health and report of a gateway that came by file, in JSON, the report with its digest. That it was heard is
/// another thing: nobody knows how long the file was under way.
///
/// *Errors*: the store's.
pub fn take_report(
    sql: &mut dyn Sql,
    device: &str,
    health: &str,
    (report, digest): (&str, &str),
) -> Result<(), StoreError> {
    sql.execute(
        "UPDATE device SET health = $2, report = $3, report_digest = $4 WHERE id = $1",
        &[device.into(), health.into(), report.into(), digest.into()],
    )?;
    Ok(())
}

/// Returns the numbers of a stream that were received of a gateway.
///
/// *Errors*: the store's.
pub fn received(sql: &mut dyn Sql, device: &str, stream: &str) -> Result<Ranges, StoreError> {
    let ranges = "SELECT ranges FROM receipt WHERE device = $1 AND stream = $2";
    let Some(mut row) = sql.query_optional(ranges, &[device.into(), stream.into()])? else {
        return Ok(Ranges::new());
    };
    let text: String = row.take(0)?;
    serde_json::from_str(&text)
        .map_err(|_| StoreError::Damaged("a receipt's ranges cannot be read".to_owned()))
}

/// Keeps which numbers of a stream were received.
///
/// *Errors*: the store's.
pub fn set_received(
    sql: &mut dyn Sql,
    device: &str,
    stream: &str,
    ranges: &Ranges,
) -> Result<(), StoreError> {
    let text = serde_json::to_string(ranges)
        .map_err(|_| StoreError::Damaged("a receipt has too many ranges".to_owned()))?;
    sql.execute(
        "INSERT INTO receipt VALUES ($1, $2, $3) ON CONFLICT (device, stream) DO UPDATE SET ranges = $3",
        &[device.into(), stream.into(), text.into()],
    )?;
    Ok(())
}

/// Keeps a batch for the numbers from `first` to `last`, of which `row_count` have a row: its rows of other numbers are
/// kept elsewhere, and not meant.
///
/// *Errors*: the store's.
pub fn upload(
    sql: &mut dyn Sql,
    (device, stream): (&str, &str),
    (first, last): (u64, u64),
    now_ms: u64,
    row_count: u64,
    body: &[u8],
) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO upload (device, stream, first, last, received_ms, body, bytes, row_count) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        &[
            device.into(),
            stream.into(),
            first.into(),
            last.into(),
            now_ms.into(),
            body.into(),
            body.len().into(),
            row_count.into(),
        ],
    )?;
    Ok(())
}

/// Returns the numbers that pieces of a stream were kept for, first and last, from the number `from` on.
///
/// *Errors*: the store's.
pub fn pieces(
    sql: &mut dyn Sql,
    (device, stream): (&str, &str),
    from: u64,
    limit: u32,
) -> Result<Vec<(u64, u64)>, StoreError> {
    let rows = sql.query(
        "SELECT first, last FROM upload WHERE device = $1 AND stream = $2 AND first >= $3 ORDER BY first LIMIT $4",
        &[device.into(), stream.into(), from.into(), limit.into()],
    )?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?))).collect()
}
