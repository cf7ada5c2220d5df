//! What each gateway is to run: the only place that changes it.
//!
//! Each change raises the gateway's revision, so that its next question is answered with a new statement, and marks it
//! as to be woken. Chooses nothing: who is given what is the rollouts' affair; what a release is, the owner's.

use dunlin_protocol::text::Text;

use super::{Row, Sql, StoreError};

/// Releases taken back that a statement says: as many as a gateway reads.
pub const WITHDRAWN_MAX: usize = dunlin_trust::limits::WITHDRAWN_MAX;

/// The name that stands in a statement where a model's does, for a file of settings.
pub const SETTINGS_SLOT: &str = "settings";

/// A release, or a file of settings, that a gateway is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The slot: the model's name, or [`SETTINGS_SLOT`].
    pub slot: String,
    /// Path of the target in the image repository.
    pub path: String,
    /// SHA-256 of the target in hexadecimal.
    pub digest: String,
    /// Length of the target.
    pub bytes: u64,
    /// The rollout that chose it.
    pub rollout: String,
    /// When the gateway found it bad, in ms by its own clock, where people had it tried again after that.
    pub retry_of_ms: Option<i64>,
}

/// A release that a gateway is to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// The model.
    pub model: String,
    /// SHA-256 of its manifest in hexadecimal.
    pub digest: String,
    /// The rollout that is taken back.
    pub rollout: String,
    /// Why, for people.
    pub reason: String,
}

/// Everything that a gateway is to have and to leave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Releases that the owner names at present.
    pub releases: Vec<Assigned>,
    /// Settings, with the revision that they were chosen at.
    pub settings: Option<(Assigned, u64)>,
    /// Releases to leave, the newest first.
    pub withdrawn: Vec<Withdrawn>,
}

/// Gives a gateway a release, in place of the one that it has of the model. Tells whether that changes anything.
///
/// *Errors*: [`StoreError::Conflict`] where there is no such gateway, or the owner names no such release.
pub fn assign(
    sql: &mut dyn Sql,
    device: &str,
    digest: &str,
    rollout: &str,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let same = "SELECT 1 FROM desired WHERE device = $1 AND digest = $2 AND rollout = $3 LIMIT 1";
    if sql.query_optional(same, &[device.into(), digest.into(), rollout.into()])?.is_some() {
        return Ok(false);
    }
    raise(sql, device, now_ms)?;
    let changed = sql.execute(
        "INSERT INTO desired (device, model, digest, path, rollout) \
         SELECT $1, model, digest, path, $3 FROM release WHERE digest = $2 AND removed_ms IS NULL \
         ON CONFLICT (device, model) \
         DO UPDATE SET digest = excluded.digest, path = excluded.path, rollout = excluded.rollout",
        &[device.into(), digest.into(), rollout.into()],
    )?;
    if changed == 0 {
        return Err(StoreError::Conflict(format!("the owner names no release `{digest}`")));
    }
    // It is given again on purpose.
    sql.execute("DELETE FROM withdrawn WHERE device = $1 AND digest = $2", &[device.into(), digest.into()])?;
    Ok(true)
}

/// Gives a gateway settings, in place of those that it has. Tells whether that changes anything.
///
/// *Errors*: [`StoreError::Conflict`] where there is no such gateway, or the owner names no such settings.
pub fn assign_settings(
    sql: &mut dyn Sql,
    device: &str,
    digest: &str,
    rollout: &str,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let same = "SELECT 1 FROM desired_settings WHERE device = $1 AND digest = $2 AND rollout = $3";
    if sql.query_optional(same, &[device.into(), digest.into(), rollout.into()])?.is_some() {
        return Ok(false);
    }
    let revision = raise(sql, device, now_ms)?;
    let changed = sql.execute(
        "INSERT INTO desired_settings (device, digest, path, rollout, revision) \
         SELECT $1, digest, path, $3, CAST($4 AS BIGINT) FROM settings_release \
         WHERE digest = $2 AND removed_ms IS NULL \
         ON CONFLICT (device) DO UPDATE SET digest = excluded.digest, path = excluded.path, \
             rollout = excluded.rollout, revision = excluded.revision",
        &[device.into(), digest.into(), rollout.into(), revision.into()],
    )?;
    if changed == 0 {
        return Err(StoreError::Conflict(format!("the owner names no settings `{digest}`")));
    }
    Ok(true)
}

/// Takes a release back: it is not named any more, and the gateway leaves it for the good one before. Tells whether that
/// changes anything. What was given to the gateway since stays.
///
/// *Errors*: [`StoreError::Conflict`] where there is no such gateway.
pub fn withdraw(
    sql: &mut dyn Sql,
    device: &str,
    withdrawn: &Withdrawn,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let digest = withdrawn.digest.as_str();
    let same = "SELECT 1 FROM withdrawn WHERE device = $1 AND digest = $2 AND rollout = $3";
    if sql.query_optional(same, &[device.into(), digest.into(), withdrawn.rollout.as_str().into()])?.is_some()
    {
        return Ok(false);
    }
    let revision = raise(sql, device, now_ms)?;
    sql.execute("DELETE FROM desired WHERE device = $1 AND digest = $2", &[device.into(), digest.into()])?;
    // What a gateway reads: longer words would cost it the whole statement.
    let text = |text: &str| Text::<{ dunlin_trust::limits::NOTE_BYTES_MAX }>::cut(text).into_string();
    sql.execute(
        "INSERT INTO withdrawn (device, digest, model, rollout, reason, revision) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (device, digest) \
         DO UPDATE SET rollout = excluded.rollout, reason = excluded.reason, revision = excluded.revision",
        &[
            device.into(),
            digest.into(),
            withdrawn.model.as_str().into(),
            withdrawn.rollout.as_str().into(),
            text(&withdrawn.reason).into(),
            revision.into(),
        ],
    )?;
    sql.execute(
        "DELETE FROM withdrawn WHERE device = $1 AND revision < (SELECT revision FROM withdrawn \
         WHERE device = $1 ORDER BY revision DESC LIMIT 1 OFFSET $2)",
        &[device.into(), (WITHDRAWN_MAX - 1).into()],
    )?;
    Ok(true)
}

/// Names a release no more that the gateway was given, without taking it back: one that has it keeps it. Tells whether
/// that changes anything.
///
/// *Errors*: [`StoreError::Conflict`] where there is no such gateway.
pub fn unassign(sql: &mut dyn Sql, device: &str, digest: &str, now_ms: u64) -> Result<bool, StoreError> {
    let changed = sql
        .execute("DELETE FROM desired WHERE device = $1 AND digest = $2", &[device.into(), digest.into()])?;
    if changed > 0 {
        raise(sql, device, now_ms)?;
    }
    Ok(changed > 0)
}

/// Names settings no more: the gateway goes back to those of its own file. Tells whether that changes anything.
///
/// *Errors*: [`StoreError::Conflict`] where there is no such gateway.
pub fn unassign_settings(
    sql: &mut dyn Sql,
    device: &str,
    digest: &str,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let changed = sql.execute(
        "DELETE FROM desired_settings WHERE device = $1 AND digest = $2",
        &[device.into(), digest.into()],
    )?;
    if changed > 0 {
        raise(sql, device, now_ms)?;
    }
    Ok(changed > 0)
}

/// Raises the revision of what a gateway is to run; returns the new one.
fn raise(sql: &mut dyn Sql, device: &str, now_ms: u64) -> Result<u64, StoreError> {
    sql.execute(
        "UPDATE device SET desired_revision = desired_revision + 1, woken_ms = $2 WHERE id = $1",
        &[device.into(), now_ms.into()],
    )?;
    let row = sql.query_optional("SELECT desired_revision FROM device WHERE id = $1", &[device.into()])?;
    row.ok_or_else(|| StoreError::Conflict(format!("there is no gateway `{device}`")))?.take(0)
}

/// Marks a gateway as to be woken, on whatever server its question waits; for changes other than those here.
///
/// *Errors*: the store's.
pub fn mark_woken(sql: &mut dyn Sql, device: &str, now_ms: u64) -> Result<(), StoreError> {
    sql.execute("UPDATE device SET woken_ms = $2 WHERE id = $1", &[device.into(), now_ms.into()])?;
    Ok(())
}

/// Returns the gateways that were marked as to be woken after a time, with when, in that order, at most `limit`.
///
/// *Errors*: the store's.
pub fn woken_since(
    sql: &mut dyn Sql,
    after_ms: u64,
    after_id: &str,
    limit: u32,
) -> Result<Vec<(String, u64)>, StoreError> {
    let rows = sql.query(
        "SELECT id, woken_ms FROM device WHERE woken_ms > $1 OR (woken_ms = $1 AND id > $2) \
         ORDER BY woken_ms, id LIMIT $3",
        &[after_ms.into(), after_id.into(), limit.into()],
    )?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?))).collect()
}

/// Returns what a gateway is to have and to leave. A release that the owner names no more is left out: the gateway would
/// refuse it, and keeps it where it runs.
///
/// *Errors*: the store's.
pub fn of(sql: &mut dyn Sql, device: &str) -> Result<Wanted, StoreError> {
    let assigned = |mut row: Row| {
        Ok(Assigned {
            slot: row.take(0)?,
            path: row.take(1)?,
            digest: row.take(2)?,
            bytes: row.take(3)?,
            rollout: row.take(4)?,
            retry_of_ms: None,
        })
    };
    let rows = sql.query(
        "SELECT d.model, d.path, d.digest, length(r.manifest), d.rollout FROM desired d \
         JOIN release r ON r.digest = d.digest WHERE d.device = $1 AND r.removed_ms IS NULL ORDER BY d.model",
        &[device.into()],
    )?;
    let mut releases = rows.into_iter().map(assigned).collect::<Result<Vec<_>, StoreError>>()?;
    for assigned in &mut releases {
        assigned.retry_of_ms = super::rollouts::retried_failure(sql, &assigned.rollout, device)?;
    }
    let rows = sql.query(
        "SELECT model, digest, rollout, reason FROM withdrawn WHERE device = $1 \
         ORDER BY revision DESC, digest LIMIT $2",
        &[device.into(), WITHDRAWN_MAX.into()],
    )?;
    let withdrawn = rows.into_iter().map(|mut row| {
        Ok(Withdrawn {
            model: row.take(0)?,
            digest: row.take(1)?,
            rollout: row.take(2)?,
            reason: row.take(3)?,
        })
    });
    let withdrawn = withdrawn.collect::<Result<_, StoreError>>()?;
    Ok(Wanted { releases, settings: settings_of(sql, device)?, withdrawn })
}

/// Returns the settings that a gateway is to have, with the revision that they were chosen at.
///
/// *Errors*: the store's.
pub fn settings_of(sql: &mut dyn Sql, device: &str) -> Result<Option<(Assigned, u64)>, StoreError> {
    let row = sql.query_optional(
        "SELECT d.path, d.digest, r.bytes, d.rollout, d.revision FROM desired_settings d \
         JOIN settings_release r ON r.digest = d.digest WHERE d.device = $1 AND r.removed_ms IS NULL",
        &[device.into()],
    )?;
    let settings = row.map(|mut row| {
        let (path, digest, bytes) = (row.take(0)?, row.take(1)?, row.take(2)?);
        let slot = SETTINGS_SLOT.to_owned();
        let assigned = Assigned { slot, path, digest, bytes, rollout: row.take(3)?, retry_of_ms: None };
        Ok::<_, StoreError>((assigned, row.take(4)?))
    });
    settings.transpose()
}

/// Notes that a statement was made for a gateway.
///
/// *Errors*: the store's.
pub fn note_statement(sql: &mut dyn Sql, device: &str, version: u64, now_ms: u64) -> Result<(), StoreError> {
    sql.execute(
        "UPDATE device SET director_version = $2, director_ms = $3 WHERE id = $1",
        &[device.into(), version.into(), now_ms.into()],
    )?;
    Ok(())
}
