//! Rules by label query that administrators set: what gateways upload, and how often they ask.
//!
//! Keeps them as JSON with a revision; what they mean is elsewhere.

use super::{Sql, StoreError};

/// Rules of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Rises with every change, from 1.
    pub revision: u64,
    /// The rules, as JSON.
    pub rules: String,
}

/// Returns the rules of a name; none where nobody set any.
///
/// *Errors*: the store's.
pub fn get(sql: &mut dyn Sql, name: &str) -> Result<Option<Policy>, StoreError> {
    let row = sql.query_optional("SELECT revision, rules FROM policy WHERE name = $1", &[name.into()])?;
    row.map(|mut row| Ok(Policy { revision: row.take(0)?, rules: row.take(1)? })).transpose()
}

/// Returns all rules with their names: few, and read with every exchange.
///
/// *Errors*: the store's.
pub fn all(sql: &mut dyn Sql) -> Result<Vec<(String, String)>, StoreError> {
    let rows = sql.query("SELECT name, rules FROM policy", &[])?;
    rows.into_iter().map(|mut row| Ok((row.take(0)?, row.take(1)?))).collect()
}

/// Sets the rules of a name; returns their revision.
///
/// *Errors*: the store's.
pub fn put(sql: &mut dyn Sql, name: &str, rules: &str, now_ms: u64) -> Result<u64, StoreError> {
    sql.execute(
        "INSERT INTO policy VALUES ($1, 1, $2, $3) ON CONFLICT (name) DO UPDATE SET \
         revision = policy.revision + 1, rules = $2, changed_ms = $3",
        &[name.into(), rules.into(), now_ms.into()],
    )?;
    Ok(get(sql, name)?.map_or(1, |policy| policy.revision))
}
