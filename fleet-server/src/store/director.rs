//! Roots of the director: what the owner signed, by version.
//!
//! Bytes in and out; never reads or verifies what they say.

use dunlin_kit::digest::Digest;

use super::{Sql, StoreError};

/// Adds a root.
///
/// *Errors*: [`StoreError::Conflict`] where there is one of this version.
pub fn put_root(sql: &mut dyn Sql, version: u64, raw: &[u8]) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO director_root (version, sha256, raw) VALUES ($1, $2, $3)",
        &[version.into(), Digest::of(raw).to_string().into(), raw.into()],
    )?;
    Ok(())
}

/// Returns a root.
///
/// *Errors*: the store's.
pub fn root(sql: &mut dyn Sql, version: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let row = sql.query_optional("SELECT raw FROM director_root WHERE version = $1", &[version.into()])?;
    row.map(|mut row| row.take(0)).transpose()
}

/// Returns the version of the newest root; 0 where there is none.
///
/// *Errors*: the store's.
pub fn newest(sql: &mut dyn Sql) -> Result<u64, StoreError> {
    let row = sql.query_optional("SELECT coalesce(max(version), 0) FROM director_root", &[])?;
    row.map_or(Ok(0), |mut row| row.take(0))
}

/// Returns the roots after a version, in order, at most `limit`.
///
/// *Errors*: the store's.
pub fn roots_after(sql: &mut dyn Sql, version: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
    let rows = sql.query(
        "SELECT raw FROM director_root WHERE version > $1 ORDER BY version LIMIT $2",
        &[version.into(), limit.into()],
    )?;
    rows.into_iter().map(|mut row| row.take(0)).collect()
}

/// Returns all roots with their versions, in order.
///
/// *Errors*: the store's.
pub fn roots(sql: &mut dyn Sql) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let rows = sql.query("SELECT version, raw FROM director_root ORDER BY version", &[])?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?))).collect()
}
