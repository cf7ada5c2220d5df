//! Files of the image repository: what the owner signed, by role and version.
//!
//! Bytes in and out; never reads or verifies what they say.

use std::collections::BTreeSet;

use dunlin_kit::digest::Digest;

use super::{Sql, StoreError};

/// Adds a file of a role; one that is there already stays as it is.
///
/// *Errors*: the store's.
pub fn put(sql: &mut dyn Sql, role: &str, version: u64, raw: &[u8]) -> Result<(), StoreError> {
    let digest = Digest::of(raw).to_string();
    sql.execute(
        "INSERT INTO image_file VALUES ($1, $2, $3, $4) ON CONFLICT (name, version) DO NOTHING",
        &[role.into(), version.into(), digest.into_bytes().into(), raw.into()],
    )?;
    Ok(())
}

/// Returns a role's file: of a version, or its newest.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, role: &str, version: Option<u64>) -> Result<Option<Vec<u8>>, StoreError> {
    let row = match version {
        Some(version) => sql.query_optional(
            "SELECT raw FROM image_file WHERE name = $1 AND version = $2",
            &[role.into(), version.into()],
        )?,
        None => sql.query_optional(
            "SELECT raw FROM image_file WHERE name = $1 ORDER BY version DESC LIMIT 1",
            &[role.into()],
        )?,
    };
    row.map(|mut row| row.take(0)).transpose()
}

/// Tells whether a root of this digest is among the repository's.
///
/// *Errors*: the store's.
pub fn has_root(sql: &mut dyn Sql, digest: &Digest) -> Result<bool, StoreError> {
    let digest = digest.to_string().into_bytes();
    let found = "SELECT version FROM image_file WHERE name = 'root' AND sha256 = $1 LIMIT 1";
    Ok(sql.query_optional(found, &[digest.into()])?.is_some())
}

/// Returns all roots, and the newest file of each other role: role, version, bytes.
///
/// *Errors*: the store's.
pub fn newest(sql: &mut dyn Sql) -> Result<Vec<(String, u64, Vec<u8>)>, StoreError> {
    let rows = sql.query(
        "SELECT f.name, f.version, f.raw FROM image_file f WHERE f.name = 'root' OR f.version = \
         (SELECT max(g.version) FROM image_file g WHERE g.name = f.name)",
        &[],
    )?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?, row.take(2)?))).collect()
}

/// Returns the digests of all releases that ever were named.
///
/// *Errors*: the store's.
pub fn release_digests(sql: &mut dyn Sql) -> Result<BTreeSet<Digest>, StoreError> {
    let rows = sql.query("SELECT digest FROM release", &[])?;
    let digest = |mut row: super::Row| {
        let text: String = row.take(0)?;
        text.parse().map_err(|_| StoreError::Damaged(format!("the digest `{text}` of a release")))
    };
    rows.into_iter().map(digest).collect()
}

/// Returns the version of a role's newest file.
///
/// *Errors*: the store's.
pub fn newest_version(sql: &mut dyn Sql, role: &str) -> Result<Option<u64>, StoreError> {
    let query = "SELECT version FROM image_file WHERE name = $1 ORDER BY version DESC LIMIT 1";
    sql.query_optional(query, &[role.into()])?.map(|mut row| row.take(0)).transpose()
}
