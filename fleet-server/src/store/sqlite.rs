//! The store in one SQLite file: one connection that writes, some that read beside it.
//!
//! Work that waits at the same moment is kept by one commit, each piece in a savepoint of its own. The only file that
//! speaks to SQLite.

use std::path::Path;
use std::time::Duration;

use refinery::Runner;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection as Database, ErrorCode, OpenFlags, OptionalExtension, Statement, ToSql};

use super::queue::{Connection, Work, run_caught};
use super::sql::require_storable;
use super::{Row, Sql, StoreError, Value};

mod embedded {
    refinery::embed_migrations!("src/store/migrations/sqlite");
}

/// Pages of the log before it is copied into the file: 16 MB, some seconds of a busy fleet.
const WAL_PAGES: u32 = 4_000;
/// Another connection holds a lock for a checkpoint's instant only; a backup from outside for longer.
pub(super) const BUSY: Duration = Duration::from_secs(10);
/// Statements that stay prepared: all that the store has.
const STATEMENTS: usize = 256;

/// The connection that writes.
pub(super) struct Writer(Database);

/// A connection that reads.
pub(super) struct Reader(Database);

impl Writer {
    /// Opens the file and brings its schema up to date.
    pub(super) fn open(file: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut database = open(file, flags)?;
        database
            .execute_batch(&format!(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint={WAL_PAGES};
                 PRAGMA journal_size_limit=67108864; PRAGMA foreign_keys=ON;"
            ))
            .map_err(StoreError::unavailable("set up the database"))?;
        migrate(&mut database, file)?;
        Ok(Self(database))
    }
}

impl Reader {
    /// Opens the file for reading; a writer has shaped it.
    pub(super) fn open(file: &Path) -> Result<Self, StoreError> {
        let database = open(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        database
            .execute_batch("PRAGMA query_only=ON;")
            .map_err(StoreError::unavailable("set up the database"))?;
        Ok(Self(database))
    }
}

fn open(file: &Path, flags: OpenFlags) -> Result<Database, StoreError> {
    let database =
        Database::open_with_flags(file, flags).map_err(StoreError::unavailable("open the database"))?;
    database.set_prepared_statement_cache_capacity(STATEMENTS);
    let set_up = database.busy_timeout(BUSY).and_then(|()| {
        database.execute_batch("PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF; PRAGMA mmap_size=0;")
    });
    set_up.map_err(StoreError::unavailable("set up the database"))?;
    Ok(database)
}

/// Refuses a database that a newer program shaped.
///
/// *Errors*: [`StoreError::TooNew`], or it cannot be read.
pub(super) fn require_known(database: &Database, file: &Path) -> Result<(), StoreError> {
    let runner: Runner = embedded::migrations::runner();
    let newest = runner.get_migrations().iter().map(|step| i64::from(step.version())).max().unwrap_or(0);
    let reading = "read the schema's version";
    let has_history: bool = database
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'refinery_schema_history'", [], |row| {
            row.get(0)
        })
        .map_err(|error| damaged(error, reading))?;
    let mut found = 0_i64;
    if has_history {
        found = database
            .query_row("SELECT coalesce(max(version), 0) FROM refinery_schema_history", [], |row| row.get(0))
            .map_err(|error| damaged(error, reading))?;
    }
    if found <= newest {
        return Ok(());
    }
    let needed: Option<String> = database
        .query_row("SELECT version FROM origin WHERE id = 1", [], |row| row.get(0))
        .optional()
        .ok()
        .flatten();
    let needed = needed.unwrap_or_else(|| format!("with schema {found}"));
    Err(StoreError::TooNew { object: file.display().to_string(), needed })
}

fn migrate(database: &mut Database, file: &Path) -> Result<(), StoreError> {
    require_known(database, file)?;
    let mut runner: Runner = embedded::migrations::runner();
    // Grouped: else a kill between a migration and its entry in the history leaves a file that cannot be opened.
    runner = runner.set_grouped(true);
    runner.run(database).map_err(StoreError::unavailable("bring the schema up to date"))?;
    database
        .execute(super::NOTE_ORIGIN, [env!("CARGO_PKG_VERSION")])
        .map_err(StoreError::unavailable("note the program's version"))?;
    Ok(())
}

fn damaged(error: rusqlite::Error, doing: &'static str) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged(format!("{error}; restore a backup"))
        }
        _ => StoreError::Unavailable { doing, source: Box::new(error) },
    }
}

impl Connection for Writer {
    const TOGETHER: usize = 128;

    fn run(&mut self, mut works: Vec<Box<dyn Work>>) {
        let mut outcomes = Vec::with_capacity(works.len());
        let mut group = || -> Result<(), StoreError> {
            batch(&self.0, "BEGIN IMMEDIATE")?;
            for work in &mut works {
                batch(&self.0, "SAVEPOINT piece")?;
                let outcome = run_caught(&mut **work, &mut Transaction(&self.0));
                if outcome.is_err() {
                    batch(&self.0, "ROLLBACK TO piece")?;
                }
                batch(&self.0, "RELEASE piece")?;
                outcomes.push(outcome);
            }
            batch(&self.0, "COMMIT")
        };
        let failed = group().is_err_and(|error| {
            tracing::error!(error = %error, source = ?std::error::Error::source(&error), "a commit failed");
            true
        });
        if failed && !self.0.is_autocommit() {
            // Nothing of it is kept; the next group begins anew.
            let _ = batch(&self.0, "ROLLBACK");
        }
        let mut outcomes = outcomes.into_iter();
        for work in works {
            let outcome = outcomes.next().unwrap_or(Ok(()));
            let lost = || StoreError::Unavailable { doing: "commit", source: "see the log".into() };
            work.end(if failed { outcome.and_then(|()| Err(lost())) } else { outcome });
        }
    }
}

impl Connection for Reader {
    const TOGETHER: usize = 1;

    fn run(&mut self, works: Vec<Box<dyn Work>>) {
        for mut work in works {
            let outcome = batch(&self.0, "BEGIN").and_then(|()| {
                let outcome = run_caught(&mut *work, &mut Transaction(&self.0));
                batch(&self.0, "COMMIT").and(outcome)
            });
            if !self.0.is_autocommit() {
                let _ = batch(&self.0, "ROLLBACK");
            }
            work.end(outcome);
        }
    }
}

fn batch(database: &Database, sql: &'static str) -> Result<(), StoreError> {
    let mut statement = database.prepare_cached(sql).map_err(|error| failed(error, sql))?;
    statement.execute([]).map_err(|error| failed(error, sql))?;
    Ok(())
}

fn failed(error: rusqlite::Error, sql: &str) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => StoreError::Conflict(error.to_string()),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged(format!("{error}; restore a backup"))
        }
        Some(
            ErrorCode::DiskFull
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory,
        ) => StoreError::Unavailable { doing: "use the database", source: Box::new(error) },
        _ => StoreError::Refused { sql: sql.to_owned(), source: Box::new(error) },
    }
}

struct Transaction<'c>(&'c Database);

impl Transaction<'_> {
    fn with<T>(
        &self,
        sql: &str,
        values: &[Value],
        run: impl FnOnce(&mut Statement<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        require_storable(values, sql)?;
        let act = || {
            let mut statement = self.0.prepare_cached(sql)?;
            for (position, value) in values.iter().enumerate() {
                // SQLite numbers `$2` by where it stands; the text says which value it is.
                let name = format!("${}", position + 1);
                let index = statement.parameter_index(&name)?;
                let index = index.ok_or(rusqlite::Error::InvalidParameterName(name))?;
                statement.raw_bind_parameter(index, value)?;
            }
            run(&mut statement)
        };
        act().map_err(|error| failed(error, sql))
    }
}

impl Sql for Transaction<'_> {
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        self.with(sql, values, |statement| statement.raw_execute().map(|changed| changed as u64))
    }

    fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        self.with(sql, values, |statement| {
            let columns = statement.column_count();
            let mut rows = statement.raw_query();
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let values = (0..columns).map(|column| row.get_ref(column).map(read));
                found.push(Row(values.collect::<rusqlite::Result<_>>()?));
            }
            Ok(found)
        })
    }
}

fn read(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(inner) => Value::Integer(inner),
        ValueRef::Real(inner) => Value::Real(inner),
        ValueRef::Text(inner) => Value::Text(String::from_utf8_lossy(inner).into_owned()),
        ValueRef::Blob(inner) => Value::Blob(inner.to_owned()),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(inner) => ValueRef::Integer(*inner),
            Self::Real(inner) => ValueRef::Real(*inner),
            Self::Text(inner) => ValueRef::Text(inner.as_bytes()),
            Self::Blob(inner) => ValueRef::Blob(inner),
        }))
    }
}
