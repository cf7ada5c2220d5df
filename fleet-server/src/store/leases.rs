//! Leases: who of several servers does what is to be done by one.
//!
//! A lease ends by time alone; a server that lost one finds out when it renews it, and its work is done again by the next,
//! so that work under a lease must bear that.

use super::{Sql, StoreError};

/// Takes a lease, or renews one's own. Tells whether it is held until `until_ms`.
///
/// *Errors*: the store's.
pub fn take(
    sql: &mut dyn Sql,
    name: &str,
    holder: &str,
    now_ms: u64,
    until_ms: u64,
) -> Result<bool, StoreError> {
    let changed = sql.execute(
        "INSERT INTO lease VALUES ($1, $2, $4) ON CONFLICT (name) DO UPDATE SET holder = $2, until_ms = $4 \
         WHERE lease.holder = $2 OR lease.until_ms <= $3",
        &[name.into(), holder.into(), now_ms.into(), until_ms.into()],
    )?;
    Ok(changed > 0)
}

/// Gives a lease back, where it is one's own.
///
/// *Errors*: the store's.
pub fn give_back(sql: &mut dyn Sql, name: &str, holder: &str) -> Result<(), StoreError> {
    sql.execute("DELETE FROM lease WHERE name = $1 AND holder = $2", &[name.into(), holder.into()])?;
    Ok(())
}
