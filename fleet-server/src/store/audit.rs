//! The audit log: who did what, when and why, each line bound to the one before.
//!
//! Lines are added and read, never changed: each holds a digest over itself and its predecessor, so that one that was
//! changed or taken out shows.

use sha2::{Digest, Sha256};

use super::{Sql, StoreError};

/// What somebody did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// When, in ms.
    pub at_ms: u64,
    /// Who: a token's name, or a gateway's id.
    pub who: String,
    /// What, as in `rollout.pause`.
    pub action: String,
    /// To what.
    pub object: String,
    /// Why, in the words of who did it.
    pub reason: String,
    /// What else is to be known, as JSON.
    pub detail: String,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1, without a gap.
    pub seq: u64,
    /// What was done.
    pub deed: Deed,
    /// Digest over the line before and this one.
    pub digest: Vec<u8>,
}

/// The digest before the first line.
const BEGINNING: [u8; 32] = [0; 32];

fn digest(before: &[u8], seq: u64, deed: &Deed) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(seq.to_le_bytes());
    hash.update(deed.at_ms.to_le_bytes());
    for text in [&deed.who, &deed.action, &deed.object, &deed.reason, &deed.detail] {
        // With its length, so that no two lines have the same bytes.
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().to_vec()
}

/// Adds a line.
///
/// *Errors*: the store's.
pub fn add(sql: &mut dyn Sql, deed: &Deed) -> Result<u64, StoreError> {
    let last = sql.query_optional("SELECT seq, digest FROM audit ORDER BY seq DESC LIMIT 1", &[])?;
    let (before, seq) = match last {
        Some(mut row) => (row.take::<Vec<u8>>(1)?, row.take::<u64>(0)? + 1),
        None => (BEGINNING.to_vec(), 1),
    };
    sql.execute(
        "INSERT INTO audit VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        &[
            seq.into(),
            deed.at_ms.into(),
            deed.who.as_str().into(),
            deed.action.as_str().into(),
            deed.object.as_str().into(),
            deed.reason.as_str().into(),
            deed.detail.as_str().into(),
            digest(&before, seq, deed).into(),
        ],
    )?;
    Ok(seq)
}

/// Returns the lines after a number, at most `limit`.
///
/// *Errors*: the store's.
pub fn page(sql: &mut dyn Sql, after: u64, limit: u32) -> Result<Vec<Line>, StoreError> {
    let rows = sql.query(
        "SELECT seq, at_ms, who, action, object, reason, detail, digest FROM audit WHERE seq > $1 \
         ORDER BY seq LIMIT $2",
        &[after.into(), limit.into()],
    )?;
    let line = |mut row: super::Row| {
        let deed = Deed {
            at_ms: row.take(1)?,
            who: row.take(2)?,
            action: row.take(3)?,
            object: row.take(4)?,
            reason: row.take(5)?,
            detail: row.take(6)?,
        };
        Ok(Line { seq: row.take(0)?, deed, digest: row.take(7)? })
    };
    rows.into_iter().map(line).collect()
}

/// Checks lines that follow one another; returns the number of the first that is not as it was written. `before` is the
/// digest of the line before them, nothing for the first.
#[must_use]
pub fn first_broken(before: Option<&Line>, lines: &[Line]) -> Option<u64> {
    let mut digest_before = before.map_or_else(|| BEGINNING.to_vec(), |line| line.digest.clone());
    let mut seq = before.map_or(0, |line| line.seq);
    for line in lines {
        seq += 1;
        if line.seq != seq || line.digest != digest(&digest_before, seq, &line.deed) {
            return Some(seq);
        }
        digest_before.clone_from(&line.digest);
    }
    None
}
