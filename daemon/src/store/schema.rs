//! Opens database files with their settings and brings their schema up to date.
//!
//! Never touches rows. Migrations are embedded and append-only; a file from the future is refused.

use std::path::Path;
use std::time::Duration;

use refinery::Runner;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::StoreError;

mod telemetry {
    refinery::embed_migrations!("src/store/migrations/telemetry");
}

mod state {
    refinery::embed_migrations!("src/store/migrations/state");
}

/// Bytes of a page: what SD cards and ext4 write at least.
pub(crate) const PAGE_BYTES: u64 = 4_096;
/// Pages of WAL before it is copied into the database, where the quota allows that many.
pub(crate) const WAL_PAGES: u64 = 1_000;
/// Fewest pages of WAL: below it every second commit would copy.
const WAL_PAGES_MIN: u64 = 16;
/// A writer waits this long for another connection's lock: a reader holds one for a checkpoint's instant only.
const BUSY: Duration = Duration::from_secs(5);

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Schema {
    /// Readings and predictions.
    Telemetry,
    /// Counters.
    State,
}

impl Schema {
    fn runner(self) -> Runner {
        match self {
            Self::Telemetry => telemetry::migrations::runner(),
            Self::State => state::migrations::runner(),
        }
    }
}

/// Returns the pages of WAL that suit a database of this size: a sixteenth of it.
pub(crate) fn wal_pages(quota_bytes: u64) -> u64 {
    (quota_bytes / PAGE_BYTES / 16).clamp(WAL_PAGES_MIN, WAL_PAGES)
}

/// Opens a database for writing and brings its schema up to date.
///
/// *Errors*: [`StoreError::TooNew`] for a file from the future; failures of class `Damaged` for one to set aside.
pub(crate) fn open_writer(path: &Path, schema: Schema, wal_pages: u64) -> Result<Connection, StoreError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(StoreError::sqlite("open the database"))?;
    configure(&connection, wal_pages).map_err(StoreError::sqlite("set up the database"))?;
    migrate(&mut connection, path, schema)?;
    Ok(connection)
}

/// Returns an empty telemetry log in memory, for file systems that cannot be written.
pub(crate) fn open_in_memory() -> Result<Connection, StoreError> {
    let mut connection = Connection::open_in_memory().map_err(StoreError::sqlite("open a log in memory"))?;
    migrate(&mut connection, Path::new(":memory:"), Schema::Telemetry)?;
    Ok(connection)
}

/// Opens a telemetry log for reading beside its writer.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    open_reader_of(path, Schema::Telemetry).map(|(connection, _)| connection)
}

/// Opens a database for reading beside its writer; returns it with its schema's version.
pub(crate) fn open_reader_of(path: &Path, schema: Schema) -> Result<(Connection, i64), StoreError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection =
        Connection::open_with_flags(path, flags).map_err(StoreError::sqlite("open the database"))?;
    let set_up = connection.busy_timeout(BUSY).and_then(|()| {
        connection.execute_batch(
            "PRAGMA query_only=ON; PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF; PRAGMA mmap_size=0;",
        )
    });
    set_up.map_err(StoreError::sqlite("set up the database"))?;
    let version = refuse_future(&connection, path, schema)?;
    Ok((connection, version))
}

fn configure(connection: &Connection, wal_pages: u64) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    let journal_bytes = (wal_pages * PAGE_BYTES).min(4 << 20);
    connection.execute_batch(&format!(
        "PRAGMA page_size={PAGE_BYTES}; PRAGMA auto_vacuum=NONE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         PRAGMA wal_autocheckpoint={wal_pages}; PRAGMA journal_size_limit={journal_bytes};
         PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0;
         PRAGMA foreign_keys=OFF; PRAGMA cache_size=-1024;"
    ))
}

fn migrate(connection: &mut Connection, path: &Path, schema: Schema) -> Result<(), StoreError> {
    if refuse_future(connection, path, schema)? < newest(schema) {
        // Grouped: else a kill between a migration and its entry in the history leaves a file that cannot be opened.
        schema
            .runner()
            .set_grouped(true)
            .run(connection)
            .map_err(|source| StoreError::Migration { path: path.to_owned(), source: Box::new(source) })?;
    }
    connection
        .execute(
            "INSERT INTO origin VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET version = ?1 WHERE version <> ?1",
            [env!("CARGO_PKG_VERSION")],
        )
        .map_err(StoreError::sqlite("note the program's version"))?;
    Ok(())
}

fn newest(schema: Schema) -> i64 {
    schema.runner().get_migrations().iter().map(|m| i64::from(m.version())).max().unwrap_or(0)
}

/// Returns the file's schema version, 0 for none, unless it is newer than this program.
fn refuse_future(connection: &Connection, path: &Path, schema: Schema) -> Result<i64, StoreError> {
    let reading = "read the schema's version";
    let history = connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'refinery_schema_history'", [], |_| Ok(()))
        .optional()
        .map_err(StoreError::sqlite(reading))?;
    if history.is_none() {
        return Ok(0);
    }
    let found: Option<i64> = connection
        .query_row("SELECT max(version) FROM refinery_schema_history", [], |row| row.get(0))
        .map_err(StoreError::sqlite(reading))?;
    let found = found.unwrap_or(0);
    if found <= newest(schema) {
        return Ok(found);
    }
    let needed = connection
        .query_row("SELECT version FROM origin WHERE id = 1", [], |row| row.get::<_, String>(0))
        .unwrap_or_else(|_| format!("with schema {found}"));
    Err(StoreError::TooNew { path: path.to_owned(), needed })
}

/// Runs SQLite's quick check.
///
/// *Errors*: [`StoreError::Damaged`] with the first finding.
pub(crate) fn quick_check(connection: &Connection, object: &str) -> Result<(), StoreError> {
    let finding: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(StoreError::sqlite("check the database"))?;
    if finding == "ok" { Ok(()) } else { Err(StoreError::Damaged { object: object.to_owned() }) }
}
