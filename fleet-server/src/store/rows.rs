//! Batches as they are kept, to be read.
//!
//! Returns them in the order of their numbers; what stands in them is read elsewhere.

use super::{Sql, StoreError};

/// A batch that is kept for some of its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The first number that it is kept for.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// When it was received, in ms.
    pub received_ms: u64,
    /// The batch, as JSON.
    pub body: Vec<u8>,
}

/// Returns the piece with the lowest numbers above `after`.
///
/// *Errors*: the store's.
pub fn next(sql: &mut dyn Sql, device: &str, stream: &str, after: u64) -> Result<Option<Piece>, StoreError> {
    // Pieces do not overlap: the one that holds the next number is the last that begins at or below it.
    let holds = "SELECT first, last, received_ms, body FROM upload WHERE device = $1 AND stream = $2 AND first <= $3 \
        ORDER BY first DESC LIMIT 1";
    let follows = "SELECT first, last, received_ms, body FROM upload WHERE device = $1 AND stream = $2 AND first > $3 \
        ORDER BY first LIMIT 1";
    for search in [holds, follows] {
        let row = sql.query_optional(search, &[device.into(), stream.into(), after.into()])?;
        let Some(mut row) = row else { continue };
        let piece =
            Piece { first: row.take(0)?, last: row.take(1)?, received_ms: row.take(2)?, body: row.take(3)? };
        if piece.last > after {
            return Ok(Some(piece));
        }
    }
    Ok(None)
}
