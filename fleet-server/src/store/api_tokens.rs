//! Tokens of people and programs: the digest of each, what it may do, and when it ends.
//!
//! Reads and writes rows; who may do what is decided elsewhere. The text of a token is nowhere.

use super::{Row, Sql, StoreError};

/// A token, as the server keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Its id.
    pub id: String,
    /// Who or what uses it; no two tokens that are not revoked have the same name.
    pub name: String,
    /// What it may do.
    pub scope: String,
    /// The gateways that there are for it, as a label query.
    pub devices: String,
    /// When it was made, in ms.
    pub created_ms: u64,
    /// Who made it.
    pub created_by: String,
    /// When it ends by itself, in ms.
    pub expires_ms: Option<u64>,
    /// When it was used last, in ms.
    pub used_ms: Option<u64>,
    /// When it was revoked, in ms.
    pub revoked_ms: Option<u64>,
}

const COLUMNS: &str = "id, name, scope, devices, created_ms, created_by, expires_ms, used_ms, revoked_ms";

fn token(row: &mut Row) -> Result<ApiToken, StoreError> {
    Ok(ApiToken {
        id: row.take(0)?,
        name: row.take(1)?,
        scope: row.take(2)?,
        devices: row.take(3)?,
        created_ms: row.take(4)?,
        created_by: row.take(5)?,
        expires_ms: row.take(6)?,
        used_ms: row.take(7)?,
        revoked_ms: row.take(8)?,
    })
}

/// Adds a token with the SHA-256 of its text.
///
/// *Errors*: [`StoreError::Conflict`] for an id that exists.
pub fn insert(sql: &mut dyn Sql, token: &ApiToken, digest: [u8; 32]) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO api_token (id, digest, name, scope, devices, created_ms, created_by, expires_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        &[
            token.id.as_str().into(),
            digest.as_slice().into(),
            token.name.as_str().into(),
            token.scope.as_str().into(),
            token.devices.as_str().into(),
            token.created_ms.into(),
            token.created_by.as_str().into(),
            token.expires_ms.into(),
        ],
    )?;
    Ok(())
}

/// Returns the token whose text has this SHA-256.
///
/// *Errors*: the store's.
pub fn by_digest(sql: &mut dyn Sql, digest: &[u8; 32]) -> Result<Option<ApiToken>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM api_token WHERE digest = $1");
    sql.query_optional(&query, &[digest.as_slice().into()])?.map(|mut row| token(&mut row)).transpose()
}

/// Returns a token.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, id: &str) -> Result<Option<ApiToken>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM api_token WHERE id = $1");
    sql.query_optional(&query, &[id.into()])?.map(|mut row| token(&mut row)).transpose()
}

/// Tells whether a token that is not revoked has this name.
///
/// *Errors*: the store's.
pub fn has_name(sql: &mut dyn Sql, name: &str) -> Result<bool, StoreError> {
    let found =
        sql.query("SELECT id FROM api_token WHERE name = $1 AND revoked_ms IS NULL LIMIT 1", &[name.into()])?;
    Ok(!found.is_empty())
}

/// Tells whether there is any token, revoked or not.
///
/// *Errors*: the store's.
pub fn is_any(sql: &mut dyn Sql) -> Result<bool, StoreError> {
    Ok(!sql.query("SELECT id FROM api_token LIMIT 1", &[])?.is_empty())
}

/// Returns the tokens after an id, at most `limit`.
///
/// *Errors*: the store's.
pub fn page(sql: &mut dyn Sql, after: &str, limit: u32) -> Result<Vec<ApiToken>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM api_token WHERE id > $1 ORDER BY id LIMIT $2");
    sql.query(&query, &[after.into(), limit.into()])?.iter_mut().map(token).collect()
}

/// Ends a token before its time.
///
/// *Errors*: the store's.
pub fn revoke(sql: &mut dyn Sql, id: &str, now_ms: u64) -> Result<(), StoreError> {
    sql.execute(
        "UPDATE api_token SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL",
        &[id.into(), now_ms.into()],
    )?;
    Ok(())
}

/// Tells whether another token than this one is an administrator's of the whole fleet, and good.
///
/// *Errors*: the store's.
pub fn has_another_administrator(sql: &mut dyn Sql, id: &str, now_ms: u64) -> Result<bool, StoreError> {
    let query = "SELECT id FROM api_token WHERE id <> $1 AND scope = 'admin' AND devices = '*' \
        AND revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > $2) LIMIT 1";
    Ok(!sql.query(query, &[id.into(), now_ms.into()])?.is_empty())
}

/// Notes that a token was used.
///
/// *Errors*: the store's.
pub fn note_used(sql: &mut dyn Sql, id: &str, now_ms: u64) -> Result<(), StoreError> {
    sql.execute("UPDATE api_token SET used_ms = $2 WHERE id = $1", &[id.into(), now_ms.into()])?;
    Ok(())
}
