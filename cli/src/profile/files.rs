//! Files of readings: opened, read row by row, every fault named by file, line and column.
//!
//! Holds one row of CSV, or one page a column of Parquet, and never a file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::cells::{Fault, TakeRows};
use super::{csv_rows, parquet_rows};
use crate::command::CommandError;

/// What a Parquet file begins with.
const PARQUET_MAGIC: &[u8] = b"PAR1";
/// Most columns of a file.
pub(super) const COLUMNS_MAX: usize = 4_096;

/// Why a file is not read to its end.
#[derive(Debug)]
pub(super) enum FileFault {
    /// The header lacks something.
    Header(String),
    /// A row cannot be used: the word for it, its number, the names of the columns asked for.
    Row { word: &'static str, number: u64, columns: Vec<String>, fault: Fault },
    /// It cannot be read at all.
    Unreadable(String),
}

/// Hands the rows of a file on. What it is written in is told by how it begins.
///
/// *Errors*: there is no file (exit code 3), or the first thing in it that cannot be used (5), by name.
pub fn read(path: &Path, delimiter: u8, rows: &mut impl TakeRows) -> Result<(), CommandError> {
    let mut file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            CommandError::NotFound(format!("there is no file `{}`", path.display()))
        }
        _ => CommandError::failed(format!("cannot read `{}`", path.display()), error),
    })?;
    let failed = |error| CommandError::failed(format!("cannot read `{}`", path.display()), error);
    let mut beginning = Vec::new();
    (&mut file).take(PARQUET_MAGIC.len() as u64).read_to_end(&mut beginning).map_err(failed)?;
    let read = if beginning == PARQUET_MAGIC {
        parquet_rows::read(file, rows)
    } else {
        csv_rows::read(beginning.as_slice().chain(file), delimiter, rows)
    };
    read.map_err(|fault| CommandError::CheckFailed(text(path, fault)))
}

fn text(path: &Path, fault: FileFault) -> String {
    let path = path.display();
    match fault {
        FileFault::Header(reason) => format!("`{path}`: {reason}"),
        FileFault::Unreadable(reason) => format!("`{path}` cannot be read: {reason}"),
        FileFault::Row { word, number, columns, fault: Fault { column, reason } } => {
            match column.and_then(|column| columns.get(column)) {
                Some(column) => format!("`{path}`, {word} {number}, column `{column}`: {reason}"),
                None => format!("`{path}`, {word} {number}: {reason}"),
            }
        }
    }
}

/// Returns the names of the columns that are asked for.
pub(super) fn names(columns: &[String], wanted: &[usize]) -> Vec<String> {
    wanted.iter().filter_map(|position| columns.get(*position).cloned()).collect()
}
