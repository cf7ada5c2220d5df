//! Enrolment tokens, gateways that are expected by their key, and enrolments that were answered.
//!
//! Reads and writes rows; whether a proof is good is decided elsewhere. The secret of a token is not here, only the key of
//! its proof.

use super::{Row, Sql, StoreError};

/// A token, as the server keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// The key of its proof: a secret.
    pub proof_key: Vec<u8>,
    /// Labels of the gateways that use it, as JSON.
    pub labels: String,
    /// When it ends, in ms.
    pub expires_ms: u64,
    /// How many gateways may still use it.
    pub uses_left: u64,
    /// When it was made, in ms.
    pub created_ms: u64,
    /// Who made it.
    pub created_by: String,
    /// When it was revoked, in ms.
    pub revoked_ms: Option<u64>,
}

const COLUMNS: &str = "id, secret_key, labels, expires_ms, uses_left, created_ms, created_by, revoked_ms";

fn token(row: &mut Row) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.take(0)?,
        proof_key: row.take(1)?,
        labels: row.take(2)?,
        expires_ms: row.take(3)?,
        uses_left: row.take(4)?,
        created_ms: row.take(5)?,
        created_by: row.take(6)?,
        revoked_ms: row.take(7)?,
    })
}

/// Adds a token.
///
/// *Errors*: [`StoreError::Conflict`] for an id that exists.
pub fn insert(sql: &mut dyn Sql, token: &Token) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO enrol_token (id, secret_key, labels, expires_ms, uses_left, created_ms, created_by) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &[
            token.id.as_str().into(),
            token.proof_key.as_slice().into(),
            token.labels.as_str().into(),
            token.expires_ms.into(),
            token.uses_left.into(),
            token.created_ms.into(),
            token.created_by.as_str().into(),
        ],
    )?;
    Ok(())
}

/// Returns a token.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, id: &str) -> Result<Option<Token>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM enrol_token WHERE id = $1");
    sql.query_optional(&query, &[id.into()])?.map(|mut row| token(&mut row)).transpose()
}

/// Takes one use of a token; false where none is left.
///
/// *Errors*: the store's.
pub fn use_once(sql: &mut dyn Sql, id: &str) -> Result<bool, StoreError> {
    let changed = sql.execute(
        "UPDATE enrol_token SET uses_left = uses_left - 1 WHERE id = $1 AND uses_left > 0",
        &[id.into()],
    )?;
    Ok(changed == 1)
}

/// Ends a token before its time.
///
/// *Errors*: the store's.
pub fn revoke(sql: &mut dyn Sql, id: &str, now_ms: u64) -> Result<(), StoreError> {
    sql.execute(
        "UPDATE enrol_token SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL",
        &[id.into(), now_ms.into()],
    )?;
    Ok(())
}

/// Notes that a gateway with this key is to come; it then needs no token.
///
/// *Errors*: the store's.
pub fn expect(
    sql: &mut dyn Sql,
    device: &str,
    labels: &str,
    now_ms: u64,
    by: &str,
) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO device_expected (id, labels, created_ms, created_by) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (id) DO UPDATE SET labels = $2, created_ms = $3, created_by = $4",
        &[device.into(), labels.into(), now_ms.into(), by.into()],
    )?;
    Ok(())
}

/// Takes a gateway from those that are expected; returns its labels and who expected it.
///
/// *Errors*: the store's.
pub fn take_expected(sql: &mut dyn Sql, device: &str) -> Result<Option<(String, String)>, StoreError> {
    let rows = sql
        .query("DELETE FROM device_expected WHERE id = $1 RETURNING labels, created_by", &[device.into()])?;
    rows.into_iter().next().map(|mut row| Ok((row.take(0)?, row.take(1)?))).transpose()
}

/// Returns the incarnation that an enrolment was answered with.
///
/// *Errors*: the store's.
pub fn answered(sql: &mut dyn Sql, device: &str, nonce: &str) -> Result<Option<String>, StoreError> {
    let row = sql.query_optional(
        "SELECT incarnation FROM device_enrolment WHERE device = $1 AND nonce = $2",
        &[device.into(), nonce.into()],
    )?;
    row.map(|mut row| row.take(0)).transpose()
}

/// Notes how an enrolment was answered.
///
/// *Errors*: the store's.
pub fn note_answered(
    sql: &mut dyn Sql,
    device: &str,
    nonce: &str,
    incarnation: &str,
    now_ms: u64,
) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO device_enrolment VALUES ($1, $2, $3, $4)",
        &[device.into(), nonce.into(), incarnation.into(), now_ms.into()],
    )?;
    Ok(())
}

/// Counts the enrolments of a gateway that were answered.
///
/// *Errors*: the store's.
pub fn count_answered(sql: &mut dyn Sql, device: &str) -> Result<u64, StoreError> {
    count(sql, "SELECT COUNT(*) FROM device_enrolment WHERE device = $1", device)
}

/// Counts the gateways that wait to be accepted.
///
/// *Errors*: the store's.
pub fn count_pending(sql: &mut dyn Sql) -> Result<u64, StoreError> {
    count(sql, "SELECT COUNT(*) FROM device WHERE state = $1", "pending")
}

fn count(sql: &mut dyn Sql, query: &str, value: &str) -> Result<u64, StoreError> {
    let row = sql.query_optional(query, &[value.into()])?;
    row.ok_or_else(|| StoreError::Damaged("nothing was counted".to_owned()))?.take(0)
}

/// A gateway that is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its id.
    pub id: String,
    /// Its labels, as JSON.
    pub labels: String,
    /// Since when, in ms.
    pub created_ms: u64,
    /// Who expects it.
    pub created_by: String,
}

fn expected(row: &mut Row) -> Result<Expected, StoreError> {
    Ok(Expected {
        id: row.take(0)?,
        labels: row.take(1)?,
        created_ms: row.take(2)?,
        created_by: row.take(3)?,
    })
}

/// Returns a gateway that is expected.
///
/// *Errors*: the store's.
pub fn get_expected(sql: &mut dyn Sql, id: &str) -> Result<Option<Expected>, StoreError> {
    let query = "SELECT id, labels, created_ms, created_by FROM device_expected WHERE id = $1";
    sql.query_optional(query, &[id.into()])?.map(|mut row| expected(&mut row)).transpose()
}

/// Returns the expected gateways after an id, at most `limit`.
///
/// *Errors*: the store's.
pub fn expected_page(sql: &mut dyn Sql, after: &str, limit: u32) -> Result<Vec<Expected>, StoreError> {
    let query =
        "SELECT id, labels, created_ms, created_by FROM device_expected WHERE id > $1 ORDER BY id LIMIT $2";
    sql.query(query, &[after.into(), limit.into()])?.iter_mut().map(expected).collect()
}

/// Returns the tokens after an id, at most `limit`.
///
/// *Errors*: the store's.
pub fn page(sql: &mut dyn Sql, after: &str, limit: u32) -> Result<Vec<Token>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM enrol_token WHERE id > $1 ORDER BY id LIMIT $2");
    sql.query(&query, &[after.into(), limit.into()])?.iter_mut().map(token).collect()
}
