//! The server itself: its id, made once with its database.
//!
//! Every process over one database has the same id.

use super::{Sql, StoreError};

/// Returns the id of the server; `made` becomes it where the database has none.
///
/// *Errors*: the store's.
pub fn server_id(sql: &mut dyn Sql, made: &str, now_ms: u64) -> Result<String, StoreError> {
    sql.execute(
        "INSERT INTO fleet (id, server, created_ms) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING",
        &[made.into(), now_ms.into()],
    )?;
    let row = sql.query_optional("SELECT server FROM fleet WHERE id = 1", &[])?;
    row.ok_or_else(|| StoreError::Damaged("the server has no id".to_owned()))?.take(0)
}

/// Asks the database for anything at all.
///
/// *Errors*: the store's.
pub fn require_reachable(sql: &mut dyn Sql) -> Result<(), StoreError> {
    sql.query("SELECT 1", &[]).map(drop)
}
