//! What rollouts read of gateways: who was heard of since, with reports and health where they changed.
//!
//! Narrow reads, for a look every second. Parses nothing, writes nothing but gateways' wishes to be left alone.

use super::{Row, Sql, StoreError};
use crate::rollout::facts::Deferral;

/// A gateway at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Its id.
    pub device: String,
    /// The counter of its last message.
    pub counter: u64,
    /// When it was last heard of, in ms.
    pub seen_ms: u64,
    /// What stands for its report.
    pub report_digest: Option<String>,
}

/// What a gateway said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// Its report, as JSON.
    pub report: Option<String>,
    /// Its health, as JSON.
    pub health: Option<String>,
}

fn sighting(mut row: Row) -> Result<Sighting, StoreError> {
    Ok(Sighting {
        device: row.take(0)?,
        counter: row.take(1)?,
        seen_ms: row.take(2)?,
        report_digest: row.take(3)?,
    })
}

/// Returns the active gateways that were heard of since a time; all of them since 0.
///
/// *Errors*: the store's.
pub fn since(sql: &mut dyn Sql, seen_ms: u64) -> Result<Vec<Sighting>, StoreError> {
    let rows = sql.query(
        "SELECT id, counter, seen_ms, report_digest FROM device WHERE seen_ms >= $1 AND state = 'active'",
        &[seen_ms.into()],
    )?;
    rows.into_iter().map(sighting).collect()
}

/// Returns what a gateway said last; the report only where it is asked for.
///
/// *Errors*: the store's.
pub fn said(sql: &mut dyn Sql, device: &str, with_report: bool) -> Result<Said, StoreError> {
    let columns = if with_report { "health, report" } else { "health, NULL" };
    let columns = columns.replace("NULL", "CAST(NULL AS TEXT)");
    let row = sql.query_optional(&format!("SELECT {columns} FROM device WHERE id = $1"), &[device.into()])?;
    let Some(mut row) = row else { return Ok(Said::default()) };
    Ok(Said { health: row.take(0)?, report: row.take(1)? })
}

/// Returns the labels of all gateways, as gateway, name and value.
///
/// *Errors*: the store's.
pub fn labels(sql: &mut dyn Sql) -> Result<Vec<(String, String, String)>, StoreError> {
    let rows = sql.query("SELECT device, name, value FROM device_label", &[])?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?, row.take(2)?))).collect()
}

/// Returns the gateways that ask to be left alone: those whose last message said so.
///
/// *Errors*: the store's.
pub fn deferrals(sql: &mut dyn Sql, now_ms: u64) -> Result<Vec<(String, Deferral)>, StoreError> {
    let rows = sql.query(
        "SELECT f.device, f.until_ms, f.rollout FROM device_deferral f JOIN device d ON d.id = f.device \
         WHERE f.until_ms > $1 AND f.noted_ms >= d.seen_ms",
        &[now_ms.into()],
    )?;
    let deferral = |mut row: Row| {
        let deferral = Deferral { until_ms: row.take(1)?, rollout: row.take(2)? };
        Ok((row.take(0)?, deferral))
    };
    rows.into_iter().map(deferral).collect()
}

/// Notes that a gateway asks to be left alone; `until_ms` is by the server's clock.
///
/// *Errors*: the store's.
pub fn note_deferral(
    sql: &mut dyn Sql,
    device: &str,
    deferral: &Deferral,
    reason: &str,
    now_ms: u64,
) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO device_deferral VALUES ($1, $2, $3, $4, $5) ON CONFLICT (device) DO UPDATE SET \
         until_ms = $2, rollout = $3, reason = $4, noted_ms = $5",
        &[
            device.into(),
            deferral.until_ms.into(),
            deferral.rollout.clone().into(),
            reason.into(),
            now_ms.into(),
        ],
    )?;
    Ok(())
}
