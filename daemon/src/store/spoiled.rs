//! State databases as they should never be, and all their rows, for tests of those who stand on them.
//!
//! Part of no program; knows the schema so that nobody else has to.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::STATE_FILE;

/// A bit of the chain's roots is another.
pub(crate) const ROOT_FLIPPED: &str =
    "UPDATE trust_root SET raw = CAST(replace(CAST(raw AS TEXT), 'root', 'toor') AS BLOB)";
/// The chain is gone.
pub(crate) const ROOTS_GONE: &str = "DELETE FROM trust_root";
/// The floors are gone.
pub(crate) const FLOORS_GONE: &str = "DELETE FROM trust_floor";
/// A root that is none.
pub(crate) const ROOT_UNKNOWN: &str =
    "INSERT INTO trust_root (repository, version, sha256, raw) VALUES ('image', 1, x'00', x'00')";

/// Spoils the database of a state folder.
pub(crate) fn spoil(folder: &Path, how: &str) {
    let connection = Connection::open(folder.join(STATE_FILE)).unwrap();
    assert!(connection.execute(how, []).unwrap() > 0, "{how}");
}

/// Returns the rows of all tables but that of refusals, by table.
pub(crate) fn rows(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let connection = Connection::open(folder.join(STATE_FILE)).unwrap();
    let mut tables = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let names: Vec<String> =
        tables.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let mut contents = BTreeMap::new();
    for name in names.iter().filter(|name| *name != "trust_refusal") {
        let mut select = connection.prepare(&format!("SELECT * FROM {name}")).unwrap();
        let columns = select.column_count();
        let mut rows: Vec<Vec<Value>> = select
            .query_map([], |row| (0..columns).map(|index| row.get(index)).collect())
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        rows.sort_by_key(|row| format!("{row:?}"));
        contents.insert(format!("table {name}"), format!("{rows:?}").into_bytes());
    }
    contents
}
