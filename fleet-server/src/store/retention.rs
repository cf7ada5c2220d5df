//! What is kept of rows, and what goes: the oldest first.
//!
//! Every row that goes is counted in its gateway's account, in the transaction that drops it; its receipt stays.

use super::{Sql, StoreError, accounts};

/// Pieces that go in one transaction: some MB, a moment's work beside that of gateways.
const TOGETHER: u32 = 256;

/// How long rows are kept, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows that were received before this go, in ms.
    pub before_ms: u64,
    /// Most bytes of rows, as they are kept; more go, the oldest first.
    pub bytes_max: u64,
}

/// Drops some of what is beyond the limits; tells whether there may be more.
///
/// *Errors*: the store's.
pub fn tidy(sql: &mut dyn Sql, limits: Limits) -> Result<bool, StoreError> {
    let row = sql.query_optional("SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM upload", &[])?;
    let bytes: u64 = row.map_or(Ok(0), |mut row| row.take(0))?;
    let mut surplus = bytes.saturating_sub(limits.bytes_max);
    let oldest = "SELECT device, stream, first, received_ms, bytes, row_count FROM upload \
        ORDER BY received_ms, device, stream, first LIMIT $1";
    let rows = sql.query(oldest, &[TOGETHER.into()])?;
    let is_full = rows.len() == TOGETHER as usize;
    for mut row in rows {
        let (device, stream, first): (String, String, u64) = (row.take(0)?, row.take(1)?, row.take(2)?);
        let (received_ms, bytes, row_count): (u64, u64, u64) = (row.take(3)?, row.take(4)?, row.take(5)?);
        if received_ms >= limits.before_ms && surplus == 0 {
            return Ok(false);
        }
        surplus = surplus.saturating_sub(bytes);
        sql.execute(
            "DELETE FROM upload WHERE device = $1 AND stream = $2 AND first = $3",
            &[device.as_str().into(), stream.as_str().into(), first.into()],
        )?;
        accounts::expire(sql, (&device, &stream), row_count)?;
    }
    Ok(is_full)
}
