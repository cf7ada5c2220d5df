//! Which blobs are here, which file of which model each is, and what patches there are between them.
//!
//! A blob is noted when all of it is written. Never holds the bytes.

use super::{Sql, StoreError};

/// Notes a blob; tells whether it is new.
///
/// *Errors*: the store's.
pub fn put(sql: &mut dyn Sql, sha256: &str, bytes: u64, now_ms: u64) -> Result<bool, StoreError> {
    let changed = sql.execute(
        "INSERT INTO blob (sha256, bytes, added_ms) VALUES ($1, $2, $3) ON CONFLICT (sha256) DO NOTHING",
        &[sha256.into(), bytes.into(), now_ms.into()],
    )?;
    Ok(changed > 0)
}

/// Returns the length of a blob; nothing where it is not here.
///
/// *Errors*: the store's.
pub fn bytes(sql: &mut dyn Sql, sha256: &str) -> Result<Option<u64>, StoreError> {
    let row = sql.query_optional("SELECT bytes FROM blob WHERE sha256 = $1", &[sha256.into()])?;
    row.map(|mut row| row.take(0)).transpose()
}

/// Notes that a model has a file of this name: releases of it may be patched from one another.
///
/// *Errors*: the store's.
pub fn put_file(sql: &mut dyn Sql, model: &str, name: &str, sha256: &str) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO release_file (model, name, sha256) VALUES ($1, $2, $3) \
         ON CONFLICT (model, name, sha256) DO NOTHING",
        &[model.into(), name.into(), sha256.into()],
    )?;
    Ok(())
}

/// Tells whether two blobs are the same file of two releases, and neither is longer than so many bytes.
///
/// *Errors*: the store's.
pub fn may_patch(sql: &mut dyn Sql, sha256: &str, base: &str, bytes_max: u64) -> Result<bool, StoreError> {
    let row = sql.query_optional(
        "SELECT 1 FROM release_file a JOIN release_file b ON b.model = a.model AND b.name = a.name \
         JOIN blob x ON x.sha256 = a.sha256 JOIN blob y ON y.sha256 = b.sha256 \
         WHERE a.sha256 = $1 AND b.sha256 = $2 AND x.bytes <= $3 AND y.bytes <= $3 LIMIT 1",
        &[sha256.into(), base.into(), bytes_max.into()],
    )?;
    Ok(row.is_some())
}

/// What became of a patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchRow {
    /// What it makes.
    pub sha256: String,
    /// Of what.
    pub base: String,
    /// The blob that it is kept as; none where it is not worth it.
    pub patch: Option<String>,
    /// Its length.
    pub bytes: u64,
    /// When it was made, in ms.
    pub made_ms: u64,
}

/// Writes what became of a patch.
///
/// *Errors*: the store's.
pub fn put_patch(sql: &mut dyn Sql, row: &PatchRow) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO blob_patch (sha256, base, patch, bytes, made_ms) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (sha256, base) DO NOTHING",
        &[
            row.sha256.as_str().into(),
            row.base.as_str().into(),
            row.patch.clone().into(),
            row.bytes.into(),
            row.made_ms.into(),
        ],
    )?;
    Ok(())
}

/// Returns what became of a patch: nothing where nobody asked, else the blob that it is kept as, where it is worth it.
///
/// *Errors*: the store's.
pub fn patch(
    sql: &mut dyn Sql,
    sha256: &str,
    base: &str,
) -> Result<Option<(Option<String>, u64)>, StoreError> {
    let found = "SELECT patch, bytes FROM blob_patch WHERE sha256 = $1 AND base = $2";
    let row = sql.query_optional(found, &[sha256.into(), base.into()])?;
    row.map(|mut row| Ok((row.take(0)?, row.take(1)?))).transpose()
}
