//! The SQLite file as a whole, apart from any work on it: copied as it is at one moment, looked at for damage.
//!
//! Never changes it; another process may be writing.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, sqlite};

/// Copies the database to a file that is not there yet, as it is at one moment; work goes on beside it.
///
/// *Errors*: [`StoreError::TooNew`], [`StoreError::Damaged`], or one of the files cannot be used.
pub(crate) fn copy(file: &Path, to: &Path) -> Result<(), StoreError> {
    let database = open(file)?;
    sqlite::require_known(&database, file)?;
    let copying = "copy the database";
    let to = to
        .to_str()
        .ok_or_else(|| StoreError::Unavailable { doing: copying, source: "the path is no UTF-8".into() })?;
    // One read transaction; in WAL mode it holds nobody up.
    database.execute("VACUUM INTO ?1", [to]).map_err(StoreError::unavailable(copying))?;
    Ok(())
}

/// Looks at every page; returns the first damage.
///
/// *Errors*: [`StoreError::TooNew`], or the file cannot be used.
pub(crate) fn check(file: &Path) -> Result<Option<String>, StoreError> {
    let database = open(file)?;
    sqlite::require_known(&database, file)?;
    let said: rusqlite::Result<String> =
        database.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    match said {
        Ok(said) if said == "ok" => {}
        Ok(said) => return Ok(Some(said)),
        Err(error) => return Ok(Some(error.to_string())),
    }
    let orphan: rusqlite::Result<String> =
        database.query_row("PRAGMA foreign_key_check", [], |row| row.get(0));
    Ok(orphan.ok().map(|table| format!("a row of `{table}` belongs to nothing")))
}

fn open(file: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database =
        Connection::open_with_flags(file, flags).map_err(StoreError::unavailable("open the database"))?;
    database.busy_timeout(sqlite::BUSY).map_err(StoreError::unavailable("open the database"))?;
    Ok(database)
}
