//! Gateways: what is known of each, by id and by label.
//!
//! Reads and writes rows; decides nothing about who may speak or what it may run.

use std::collections::BTreeMap;

use super::{Row, Sql, StoreError, Value};

/// Gateways of one page at most.
pub const PAGE_MAX: u32 = 1_000;

/// Whether a gateway may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// Nobody accepted it yet.
    Pending,
    /// It may.
    Active,
    /// Not until somebody decides.
    Suspended,
    /// Never again.
    Revoked,
}

impl DeviceState {
    /// Returns the word that stands in the database and on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }

    fn of(word: &str) -> Result<Self, StoreError> {
        [Self::Pending, Self::Active, Self::Suspended, Self::Revoked]
            .into_iter()
            .find(|state| state.word() == word)
            .ok_or_else(|| StoreError::Damaged(format!("a gateway is `{word}`")))
    }
}

/// A gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its id, which follows from its key.
    pub id: String,
    /// Its ed25519 key.
    pub public_key: Vec<u8>,
    /// Whether it may speak.
    pub state: DeviceState,
    /// Why it is suspended or revoked.
    pub reason: Option<String>,
    /// Its present life as a member of this fleet.
    pub incarnation: String,
    /// The highest counter of its messages.
    pub counter: u64,
    /// The start of its program that spoke last.
    pub start: Option<String>,
    /// When it enrolled, in ms.
    pub enrolled_ms: u64,
    /// The token or person that it enrolled by.
    pub enrolled_by: String,
    /// When it was last heard of, in ms.
    pub seen_ms: u64,
    /// What its time is ahead of UTC.
    pub utc_offset_min: i64,
    /// What it said of itself when it enrolled, as JSON.
    pub facts: String,
    /// What it reported last, as JSON, with its digest.
    pub report: Option<(String, String)>,
    /// Its health, as JSON.
    pub health: Option<String>,
    /// Rises with every change of what it is to run.
    pub desired_revision: u64,
    /// Version of the last statement that was made for it.
    pub director_version: u64,
    /// When that statement was made, in ms.
    pub director_ms: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What it takes to judge a message of a gateway, and no more: it is read with each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// Whether it may speak.
    pub state: DeviceState,
    /// Why it is suspended or revoked.
    pub reason: Option<String>,
    /// Its present life as a member of this fleet.
    pub incarnation: String,
    /// The highest counter of its messages.
    pub counter: u64,
    /// The start of its program that spoke last.
    pub start: Option<String>,
    /// Digest of what it reported last.
    pub report_digest: Option<String>,
    /// Rises with every change of what it is to run.
    pub desired_revision: u64,
    /// Version of the last statement that was made for it.
    pub director_version: u64,
    /// When that statement was made, in ms.
    pub director_ms: u64,
}

/// Returns what it takes to judge a message of a gateway.
///
/// *Errors*: the store's.
pub fn speaker(sql: &mut dyn Sql, id: &str) -> Result<Option<Speaker>, StoreError> {
    let narrow = "SELECT state, reason, incarnation, counter, start, report_digest, desired_revision, \
        director_version, director_ms FROM device WHERE id = $1";
    let Some(mut row) = sql.query_optional(narrow, &[id.into()])? else { return Ok(None) };
    Ok(Some(Speaker {
        state: DeviceState::of(&row.take::<String>(0)?)?,
        reason: row.take(1)?,
        incarnation: row.take(2)?,
        counter: row.take(3)?,
        start: row.take(4)?,
        report_digest: row.take(5)?,
        desired_revision: row.take(6)?,
        director_version: row.take(7)?,
        director_ms: row.take(8)?,
    }))
}

/// Returns the labels of a gateway.
///
/// *Errors*: the store's.
pub fn labels(sql: &mut dyn Sql, id: &str) -> Result<BTreeMap<String, String>, StoreError> {
    let rows = sql.query("SELECT name, value FROM device_label WHERE device = $1", &[id.into()])?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?))).collect()
}

const COLUMNS: &str = "id, public_key, state, reason, incarnation, counter, start, enrolled_ms, enrolled_by, seen_ms, \
    utc_offset_min, facts, report, report_digest, health, desired_revision, director_version, director_ms";

fn device(row: &mut Row) -> Result<Device, StoreError> {
    let report: Option<String> = row.take(12)?;
    let report_digest: Option<String> = row.take(13)?;
    Ok(Device {
        id: row.take(0)?,
        public_key: row.take(1)?,
        state: DeviceState::of(&row.take::<String>(2)?)?,
        reason: row.take(3)?,
        incarnation: row.take(4)?,
        counter: row.take(5)?,
        start: row.take(6)?,
        enrolled_ms: row.take(7)?,
        enrolled_by: row.take(8)?,
        seen_ms: row.take(9)?,
        utc_offset_min: row.take(10)?,
        facts: row.take(11)?,
        report: report.zip(report_digest),
        health: row.take(14)?,
        desired_revision: row.take(15)?,
        director_version: row.take(16)?,
        director_ms: row.take(17)?,
        labels: BTreeMap::new(),
    })
}

/// Writes a gateway that enrols, in place of what it was before; its labels are set, others stay.
///
/// *Errors*: the store's.
pub fn enrol(sql: &mut dyn Sql, device: &Device) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO device (id, public_key, state, reason, incarnation, counter, start, enrolled_ms, enrolled_by, \
             seen_ms, utc_offset_min, facts, desired_revision, director_version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
         ON CONFLICT (id) DO UPDATE SET state = $3, reason = $4, incarnation = $5, counter = $6, start = $7, \
             enrolled_ms = $8, enrolled_by = $9, seen_ms = $10, utc_offset_min = $11, facts = $12",
        &[
            device.id.as_str().into(),
            device.public_key.as_slice().into(),
            device.state.word().into(),
            device.reason.clone().into(),
            device.incarnation.as_str().into(),
            device.counter.into(),
            device.start.clone().into(),
            device.enrolled_ms.into(),
            device.enrolled_by.as_str().into(),
            device.seen_ms.into(),
            device.utc_offset_min.into(),
            device.facts.as_str().into(),
            device.desired_revision.into(),
            device.director_version.into(),
        ],
    )?;
    // Another life counts anew.
    sql.execute("DELETE FROM device_message WHERE device = $1", &[device.id.as_str().into()])?;
    sql.execute("DELETE FROM device_start WHERE device = $1", &[device.id.as_str().into()])?;
    for (name, value) in &device.labels {
        set_label(sql, &device.id, name, Some(value))?;
    }
    Ok(())
}

/// Sets a label, or takes it away.
///
/// *Errors*: [`StoreError::Conflict`] where there is no such gateway.
pub fn set_label(sql: &mut dyn Sql, device: &str, name: &str, value: Option<&str>) -> Result<(), StoreError> {
    match value {
        Some(value) => sql.execute(
            "INSERT INTO device_label VALUES ($1, $2, $3) ON CONFLICT (device, name) DO UPDATE SET value = $3",
            &[device.into(), name.into(), value.into()],
        )?,
        None => sql.execute(
            "DELETE FROM device_label WHERE device = $1 AND name = $2",
            &[device.into(), name.into()],
        )?,
    };
    Ok(())
}

/// Returns a gateway with its labels.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, id: &str) -> Result<Option<Device>, StoreError> {
    let row = sql.query_optional(&format!("SELECT {COLUMNS} FROM device WHERE id = $1"), &[id.into()])?;
    let Some(mut row) = row else { return Ok(None) };
    let mut found = device(&mut row)?;
    found.labels = labels(sql, id)?;
    Ok(Some(found))
}

/// Returns the gateways after this id, in the order of their ids, at most `limit` of them.
///
/// *Errors*: the store's.
pub fn page(sql: &mut dyn Sql, after: &str, limit: u32) -> Result<Vec<Device>, StoreError> {
    let limit = limit.min(PAGE_MAX);
    let found = format!("SELECT {COLUMNS} FROM device WHERE id > $1 ORDER BY id LIMIT $2");
    let mut rows = sql.query(&found, &[after.into(), limit.into()])?;
    let mut devices = rows.iter_mut().map(device).collect::<Result<Vec<_>, _>>()?;
    let (Some(first), Some(last)) = (devices.first(), devices.last()) else { return Ok(devices) };
    let mut of_device = labels_between(sql, &first.id, &last.id)?;
    for device in &mut devices {
        device.labels = of_device.remove(&device.id).unwrap_or_default();
    }
    Ok(devices)
}

/// Lets a gateway speak or not.
///
/// *Errors*: [`StoreError::Conflict`] where there is no such gateway.
pub fn set_state(
    sql: &mut dyn Sql,
    id: &str,
    state: DeviceState,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let changed = sql.execute(
        "UPDATE device SET state = $2, reason = $3 WHERE id = $1",
        &[id.into(), state.word().into(), reason.into()],
    )?;
    if changed == 0 { Err(StoreError::Conflict(format!("there is no gateway `{id}`"))) } else { Ok(()) }
}

/// Notes when gateways were last heard of: of many at once, since it is no news to anybody else.
///
/// *Errors*: the store's.
pub fn note_seen(sql: &mut dyn Sql, seen: &[(String, u64)]) -> Result<(), StoreError> {
    for (id, at_ms) in seen {
        sql.execute(
            "UPDATE device SET seen_ms = $2 WHERE id = $1 AND seen_ms < $2",
            &[id.as_str().into(), (*at_ms).into()],
        )?;
    }
    Ok(())
}

/// Returns the key of a gateway.
///
/// *Errors*: the store's.
pub fn public_key(sql: &mut dyn Sql, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let row = sql.query_optional("SELECT public_key FROM device WHERE id = $1", &[id.into()])?;
    row.map(|mut row| row.take(0)).transpose()
}

/// Gateways that are looked at together in a search.
const SEARCHED_TOGETHER: u32 = 5_000;

/// Returns the gateways after this id whose state and labels are meant, in the order of their ids, at most `limit`.
///
/// *Errors*: the store's.
pub fn search(
    sql: &mut dyn Sql,
    after: &str,
    limit: u32,
    is_meant: &dyn Fn(DeviceState, &BTreeMap<String, String>) -> bool,
) -> Result<Vec<Device>, StoreError> {
    let mut found = Vec::new();
    let mut after = after.to_owned();
    loop {
        let narrow = "SELECT id, state FROM device WHERE id > $1 ORDER BY id LIMIT $2";
        let rows = sql.query(narrow, &[after.as_str().into(), SEARCHED_TOGETHER.into()])?;
        let is_last = rows.len() < SEARCHED_TOGETHER as usize;
        let mut ids = Vec::with_capacity(rows.len());
        for mut row in rows {
            ids.push((row.take::<String>(0)?, DeviceState::of(&row.take::<String>(1)?)?));
        }
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(found) };
        let last = last.0.clone();
        let mut labels = labels_between(sql, &first.0, &last)?;
        for (id, state) in ids {
            let own = labels.remove(&id).unwrap_or_default();
            if !is_meant(state, &own) {
                continue;
            }
            found.extend(get(sql, &id)?);
            if found.len() >= limit as usize {
                return Ok(found);
            }
        }
        if is_last {
            return Ok(found);
        }
        after = last;
    }
}

/// Counts gateways by the word of their state.
///
/// *Errors*: the store's.
pub fn count_by_state(sql: &mut dyn Sql) -> Result<BTreeMap<String, u64>, StoreError> {
    let rows = sql.query("SELECT state, COUNT(*) FROM device GROUP BY state", &[])?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?))).collect()
}

/// Returns the labels of the gateways from one id to another, both included.
fn labels_between(
    sql: &mut dyn Sql,
    first: &str,
    last: &str,
) -> Result<BTreeMap<String, BTreeMap<String, String>>, StoreError> {
    let bounds: [Value; 2] = [first.into(), last.into()];
    let rows =
        sql.query("SELECT device, name, value FROM device_label WHERE device BETWEEN $1 AND $2", &bounds)?;
    let mut of_device: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for mut row in rows {
        of_device.entry(row.take(0)?).or_default().insert(row.take(1)?, row.take(2)?);
    }
    Ok(of_device)
}
