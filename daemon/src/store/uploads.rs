//! What a start must know of the upload, as rows of `state.db`: ceilings of numbers, settled numbers, the server's wishes,
//! bytes spent.
//!
//! Written before what it stands for is done: a number below its stream's ceiling may have been used, a settled one
//! needs no sending. Survives the telemetry log and judges nothing.

use std::collections::BTreeMap;
use std::path::Path;

use dunlin_protocol::Ranges;
use rusqlite::{Connection, OptionalExtension, params};

use super::outbox::STREAMS;
use super::schema::{self, Schema};
use super::{FolderLock, STATE_FILE, StoreError};

/// WAL pages: a receipt changes one row.
const WAL_PAGES: u64 = 16;
/// Schema version that brought these tables.
const SCHEMA_OF_UPLOADS: i64 = 5;
/// Months whose spending is kept: this one and a year before.
const MONTHS_KEPT: u32 = 13;

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptLine {
    /// No number from here on was ever used.
    pub ceiling: u64,
    /// Numbers that need not be sent any more.
    pub settled: Ranges,
}

impl Default for KeptLine {
    fn default() -> Self {
        Self { ceiling: 1, settled: Ranges::new() }
    }
}

/// How much of a stream the server asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPolicy {
    /// `none`, `sampled` or `all`.
    pub share: String,
    /// With `sampled`: one row in so many.
    pub every: u32,
}

/// Bytes spent for a purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeptBytes {
    /// Sent.
    pub sent: u64,
    /// Received.
    pub received: u64,
}

/// The rows.
#[derive(Debug)]
pub struct UploadStore {
    connection: Connection,
}

impl UploadStore {
    /// Opens the rows, beside the other connections to the same file.
    ///
    /// *Errors*: the file cannot be used, or is from the future.
    pub fn open(lock: &FolderLock) -> Result<Self, StoreError> {
        Self::open_in(lock.folder())
    }

    pub(crate) fn open_in(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(STATE_FILE);
        Ok(Self { connection: schema::open_writer(&path, Schema::State, WAL_PAGES)? })
    }

    /// Opens the rows for reading, beside the daemon or without it; none where there are none.
    ///
    /// *Errors*: the file is damaged, of a newer program, or may not be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, StoreError> {
        let path = folder.join(STATE_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let (connection, version) = schema::open_reader_of(&path, Schema::State)?;
        Ok((version >= SCHEMA_OF_UPLOADS).then_some(Self { connection }))
    }

    /// Returns where each stream stands.
    ///
    /// *Errors*: the file cannot be read, or holds what was never written.
    pub fn lines(&self) -> Result<BTreeMap<&'static str, KeptLine>, StoreError> {
        let mut lines = BTreeMap::new();
        for stream in STREAMS {
            let sql = "SELECT ceiling, settled FROM upload_stream WHERE stream = ?1";
            let row: Option<(i64, String)> = self
                .connection
                .query_row(sql, [stream], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
                .map_err(StoreError::sqlite("read where the upload stands"))?;
            let line = match row {
                None => KeptLine::default(),
                Some((ceiling, settled)) => KeptLine {
                    ceiling: ceiling.unsigned_abs(),
                    settled: ranges_of(&settled).ok_or_else(|| StoreError::Damaged {
                        object: format!("the receipts in `{STATE_FILE}`"),
                    })?,
                },
            };
            lines.insert(stream, line);
        }
        Ok(lines)
    }

    /// Raises the ceiling of a stream; a lower one leaves it as it is.
    ///
    /// *Errors*: the file cannot be written.
    pub fn raise_ceiling(&self, stream: &str, ceiling: u64) -> Result<(), StoreError> {
        let sql = "INSERT INTO upload_stream VALUES (?1, ?2, '[]') \
             ON CONFLICT (stream) DO UPDATE SET ceiling = max(ceiling, ?2)";
        let raised =
            self.connection.prepare_cached(sql).and_then(|mut s| s.execute(params![stream, ceiling as i64]));
        raised.map(drop).map_err(StoreError::sqlite("raise the ceiling of a stream's numbers"))
    }

    /// Stores the settled numbers of these streams in one transaction.
    ///
    /// *Errors*: the file cannot be written; the receipts are as if they had not come.
    pub fn settle(&self, settled: &[(&'static str, &Ranges)]) -> Result<(), StoreError> {
        let stored = (|| {
            let transaction = self.connection.unchecked_transaction()?;
            for (stream, numbers) in settled {
                let sql = "INSERT INTO upload_stream VALUES (?1, 1, ?2) ON CONFLICT (stream) DO UPDATE SET settled = ?2";
                transaction.prepare_cached(sql)?.execute(params![stream, text_of(numbers)])?;
            }
            transaction.commit()
        })();
        stored.map_err(StoreError::sqlite("keep receipts"))
    }

    /// Returns the telemetry log that the numbers are of, by its identity.
    ///
    /// *Errors*: the file cannot be read.
    pub fn log(&self) -> Result<Option<String>, StoreError> {
        let text = self.connection.query_row("SELECT text FROM upload_log", [], |row| row.get(0)).optional();
        text.map_err(StoreError::sqlite("read which log the numbers are of"))
    }

    /// Notes the telemetry log that the numbers are of.
    ///
    /// *Errors*: the file cannot be written.
    pub fn note_log(&self, text: &str) -> Result<(), StoreError> {
        let sql =
            "INSERT INTO upload_log VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET text = ?1 WHERE text <> ?1";
        let noted = self.connection.execute(sql, [text]);
        noted.map(drop).map_err(StoreError::sqlite("note which log the numbers are of"))
    }

    /// Returns how much of each stream the server asked for.
    ///
    /// *Errors*: the file cannot be read.
    pub fn policies(&self) -> Result<BTreeMap<String, KeptPolicy>, StoreError> {
        let read = (|| {
            let mut statement = self.connection.prepare("SELECT stream, share, every FROM upload_policy")?;
            let rows = statement.query_map([], |row| {
                Ok((row.get(0)?, KeptPolicy { share: row.get(1)?, every: row.get(2)? }))
            })?;
            rows.collect::<rusqlite::Result<_>>()
        })();
        read.map_err(StoreError::sqlite("read what the server asked for"))
    }

    /// Stores how much of a stream the server asked for.
    ///
    /// *Errors*: the file cannot be written.
    pub fn put_policy(&self, stream: &str, policy: &KeptPolicy) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO upload_policy VALUES (?1, ?2, ?3)";
        let put = self.connection.execute(sql, params![stream, policy.share, policy.every]);
        put.map(drop).map_err(StoreError::sqlite("keep what the server asked for"))
    }

    /// Adds bytes that were spent in a month (`2026-11`), by purpose, in one transaction.
    ///
    /// *Errors*: the file cannot be written; they are to be added another time.
    pub fn spend(&self, month: &str, spent: &BTreeMap<String, KeptBytes>) -> Result<(), StoreError> {
        let stored = (|| {
            let transaction = self.connection.unchecked_transaction()?;
            for (purpose, bytes) in spent {
                let sql = "INSERT INTO upload_spent VALUES (?1, ?2, ?3, ?4) ON CONFLICT (month, purpose) \
                     DO UPDATE SET sent = sent + ?3, received = received + ?4";
                let (sent, received) = (bytes.sent as i64, bytes.received as i64);
                transaction.prepare_cached(sql)?.execute(params![month, purpose, sent, received])?;
            }
            let old = "DELETE FROM upload_spent WHERE month NOT IN \
                 (SELECT DISTINCT month FROM upload_spent ORDER BY month DESC LIMIT ?1)";
            transaction.prepare_cached(old)?.execute([MONTHS_KEPT])?;
            transaction.commit()
        })();
        stored.map_err(StoreError::sqlite("keep what bytes were spent for"))
    }

    /// Returns what was spent in a month, by purpose.
    ///
    /// *Errors*: the file cannot be read.
    pub fn spent(&self, month: &str) -> Result<BTreeMap<String, KeptBytes>, StoreError> {
        let read = (|| {
            let mut statement = self
                .connection
                .prepare_cached("SELECT purpose, sent, received FROM upload_spent WHERE month = ?1")?;
            let rows = statement.query_map([month], |row| {
                let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
                Ok((row.get(0)?, KeptBytes { sent: number(1)?, received: number(2)? }))
            })?;
            rows.collect::<rusqlite::Result<_>>()
        })();
        read.map_err(StoreError::sqlite("read what bytes were spent for"))
    }

    /// Returns the newest month that anything was spent in.
    ///
    /// *Errors*: the file cannot be read.
    pub fn last_month(&self) -> Result<Option<String>, StoreError> {
        let read = self.connection.query_row("SELECT max(month) FROM upload_spent", [], |row| row.get(0));
        read.map_err(StoreError::sqlite("read the month of the data budget"))
    }
}

/// Returns numbers as they are stored. Not the protocol's form, which ends at a number of ranges that a message may have.
fn text_of(numbers: &Ranges) -> String {
    let pairs: Vec<[u64; 2]> = numbers.iter().map(|range| [range.first(), range.last()]).collect();
    serde_json::to_string(&pairs).unwrap_or_else(|_| "[]".to_owned())
}

fn ranges_of(text: &str) -> Option<Ranges> {
    let pairs: Vec<[u64; 2]> = serde_json::from_str(text).ok()?;
    pairs.into_iter().map(|[first, last]| dunlin_protocol::Range::new(first, last).ok()).collect()
}

#[cfg(test)]
mod tests {
    use dunlin_protocol::Range;

    use super::*;

    #[test]
    fn ceilings_receipts_wishes_and_spending_survive_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let store = UploadStore::open(&lock).unwrap();
        assert_eq!(store.lines().unwrap()["events"], KeptLine::default());
        store.raise_ceiling("events", 100).unwrap();
        store.raise_ceiling("events", 50).unwrap();
        let settled: Ranges = (0..2_000).map(|n| Range::new(3 * n + 1, 3 * n + 2).unwrap()).collect();
        store.settle(&[("events", &settled), ("predictions", &Ranges::new())]).unwrap();
        let policy = KeptPolicy { share: "sampled".to_owned(), every: 7 };
        store.put_policy("predictions", &policy).unwrap();
        let bytes = KeptBytes { sent: 5, received: 6 };
        let spent = BTreeMap::from([("exchange".to_owned(), bytes)]);
        store.spend("2026-11", &spent).unwrap();
        store.spend("2026-11", &spent).unwrap();
        drop(store);
        let store = UploadStore::read(folder.path()).unwrap().unwrap();
        assert_eq!(store.lines().unwrap()["events"], KeptLine { ceiling: 100, settled });
        assert_eq!(store.policies().unwrap()["predictions"], policy);
        assert_eq!(store.spent("2026-11").unwrap()["exchange"], KeptBytes { sent: 10, received: 12 });
        assert_eq!(store.last_month().unwrap().as_deref(), Some("2026-11"));
        assert!(store.spent("2026-10").unwrap().is_empty());
    }
}
