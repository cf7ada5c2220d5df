//! Releases that the owner named, with their manifests, and files of settings.
//!
//! Written with the metadata that name them, in one transaction; a release that is named no more stays, for gateways that
//! run it. Never reads a manifest.

use super::{Row, Sql, StoreError};

/// A release of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// SHA-256 of its manifest in hexadecimal.
    pub digest: String,
    /// The model.
    pub model: String,
    /// Strictly rising number of the release.
    pub counter: u64,
    /// Version for people.
    pub version: String,
    /// Path of the target.
    pub path: String,
    /// The manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// When it came here, in ms.
    pub published_ms: u64,
    /// Who brought it.
    pub published_by: String,
    /// When the owner named it no more, in ms.
    pub removed_ms: Option<u64>,
    /// Ids of the keys that signed the role which names it, as a JSON list: for whoever must not be signer and approver.
    pub signers: String,
}

/// A file of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsRelease {
    /// SHA-256 in hexadecimal.
    pub digest: String,
    /// Path of the target.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// When it came here, in ms.
    pub published_ms: u64,
    /// Who brought it.
    pub published_by: String,
    /// When the owner named it no more, in ms.
    pub removed_ms: Option<u64>,
}

const COLUMNS: &str =
    "digest, model, counter, version, path, manifest, published_ms, published_by, removed_ms, signers";

fn release(mut row: Row) -> Result<Release, StoreError> {
    Ok(Release {
        digest: row.take(0)?,
        model: row.take(1)?,
        counter: row.take(2)?,
        version: row.take(3)?,
        path: row.take(4)?,
        manifest: row.take(5)?,
        published_ms: row.take(6)?,
        published_by: row.take(7)?,
        removed_ms: row.take(8)?,
        signers: row.take(9)?,
    })
}

/// Writes a release; one that was named no more is named again.
///
/// *Errors*: [`StoreError::Conflict`] for another release of the model with this counter.
pub fn put(sql: &mut dyn Sql, release: &Release) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO release (digest, model, counter, version, path, manifest, published_ms, published_by, signers) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (digest) DO UPDATE SET removed_ms = NULL, path = excluded.path, signers = excluded.signers",
        &[
            release.digest.as_str().into(),
            release.model.as_str().into(),
            release.counter.into(),
            release.version.as_str().into(),
            release.path.as_str().into(),
            release.manifest.as_slice().into(),
            release.published_ms.into(),
            release.published_by.as_str().into(),
            release.signers.as_str().into(),
        ],
    )?;
    Ok(())
}

/// Notes that a release is named, by which path and signed by whom.
///
/// *Errors*: the store's.
pub fn name_again(sql: &mut dyn Sql, digest: &str, path: &str, signers: &str) -> Result<(), StoreError> {
    sql.execute(
        "UPDATE release SET removed_ms = NULL, path = $2, signers = $3 WHERE digest = $1",
        &[digest.into(), path.into(), signers.into()],
    )?;
    Ok(())
}

/// Tells whether there is a release of a model with a counter, named at present or not.
///
/// *Errors*: the store's.
pub fn has_counter(sql: &mut dyn Sql, model: &str, counter: u64) -> Result<bool, StoreError> {
    let found = "SELECT 1 FROM release WHERE model = $1 AND counter = $2";
    Ok(sql.query_optional(found, &[model.into(), counter.into()])?.is_some())
}

/// Returns a release, named at present or not.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, digest: &str) -> Result<Option<Release>, StoreError> {
    let found = format!("SELECT {COLUMNS} FROM release WHERE digest = $1");
    sql.query_optional(&found, &[digest.into()])?.map(release).transpose()
}

/// Returns releases after a model and counter, in that order, of one model where it is said; at most `limit`.
///
/// *Errors*: the store's.
pub fn page(
    sql: &mut dyn Sql,
    model: Option<&str>,
    after: (&str, u64),
    limit: u32,
) -> Result<Vec<Release>, StoreError> {
    let (after_model, after_counter) = after;
    let rows = match model {
        Some(model) => sql.query(
            &format!(
                "SELECT {COLUMNS} FROM release WHERE model = $1 AND (model > $2 OR (model = $2 AND counter > $3)) \
                 ORDER BY model, counter LIMIT $4"
            ),
            &[model.into(), after_model.into(), after_counter.into(), limit.into()],
        )?,
        None => sql.query(
            &format!(
                "SELECT {COLUMNS} FROM release WHERE model > $1 OR (model = $1 AND counter > $2) \
                 ORDER BY model, counter LIMIT $3"
            ),
            &[after_model.into(), after_counter.into(), limit.into()],
        )?,
    };
    rows.into_iter().map(release).collect()
}

/// Notes that all releases but those with these digests are named no more.
///
/// *Errors*: the store's.
pub fn keep_named(sql: &mut dyn Sql, digests: &[String], now_ms: u64) -> Result<(), StoreError> {
    let rows = sql.query("SELECT digest FROM release WHERE removed_ms IS NULL", &[])?;
    for mut row in rows {
        let digest: String = row.take(0)?;
        if !digests.contains(&digest) {
            let removed = "UPDATE release SET removed_ms = $2 WHERE digest = $1";
            sql.execute(removed, &[digest.into(), now_ms.into()])?;
        }
    }
    Ok(())
}

/// Writes a file of settings; one that was named no more is named again.
///
/// *Errors*: the store's.
pub fn put_settings(sql: &mut dyn Sql, settings: &SettingsRelease) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO settings_release (digest, path, bytes, published_ms, published_by) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (digest) DO UPDATE SET removed_ms = NULL, path = excluded.path",
        &[
            settings.digest.as_str().into(),
            settings.path.as_str().into(),
            settings.bytes.into(),
            settings.published_ms.into(),
            settings.published_by.as_str().into(),
        ],
    )?;
    Ok(())
}

/// Returns files of settings after [`settings_place`] of one, in the order of paths, at most `limit`.
///
/// *Errors*: the store's.
pub fn settings_page(sql: &mut dyn Sql, after: &str, limit: u32) -> Result<Vec<SettingsRelease>, StoreError> {
    let rows = sql.query(
        "SELECT digest, path, bytes, published_ms, published_by, removed_ms FROM settings_release \
         WHERE path || ' ' || digest > $1 ORDER BY path || ' ' || digest LIMIT $2",
        &[after.into(), limit.into()],
    )?;
    let settings = |mut row: Row| {
        Ok(SettingsRelease {
            digest: row.take(0)?,
            path: row.take(1)?,
            bytes: row.take(2)?,
            published_ms: row.take(3)?,
            published_by: row.take(4)?,
            removed_ms: row.take(5)?,
        })
    };
    rows.into_iter().map(settings).collect()
}

/// Returns where a file of settings stands among all: one that was signed again shares its path with those before.
#[must_use]
pub fn settings_place(settings: &SettingsRelease) -> String {
    format!("{} {}", settings.path, settings.digest)
}

/// Notes that all files of settings but those with these digests are named no more.
///
/// *Errors*: the store's.
pub fn keep_named_settings(sql: &mut dyn Sql, digests: &[String], now_ms: u64) -> Result<(), StoreError> {
    let rows = sql.query("SELECT digest FROM settings_release WHERE removed_ms IS NULL", &[])?;
    for mut row in rows {
        let digest: String = row.take(0)?;
        if !digests.contains(&digest) {
            let removed = "UPDATE settings_release SET removed_ms = $2 WHERE digest = $1";
            sql.execute(removed, &[digest.into(), now_ms.into()])?;
        }
    }
    Ok(())
}
