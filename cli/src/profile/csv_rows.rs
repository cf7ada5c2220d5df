//! Rows of CSV: a header line, then lines of as many cells.
//!
//! Strict, unlike the decoder of payloads: a file that was made for training has no lines of unequal length, and guessing would
//! put values under wrong names.

use std::cell::Cell as Counter;
use std::io::{self, Read};
use std::rc::Rc;

use csv::{ErrorKind, ReaderBuilder, StringRecord};

use super::cells::{Cell, Fault, TakeRows};
use super::files::{COLUMNS_MAX, FileFault, names};

/// Longest line: a quote that is never closed does not become the whole file.
const LINE_BYTES_MAX: usize = 1 << 20;
/// What some programs write before the first line.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A reader that ends with an error where a line is too long.
struct Bounded<R> {
    inner: R,
    left: Rc<Counter<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!(
                "a line is longer than {LINE_BYTES_MAX} bytes; is a quote not closed?"
            )));
        }
        let length = buffer.len().min(left);
        let count = self.inner.read(&mut buffer[..length])?;
        self.left.set(left - count);
        Ok(count)
    }
}

/// Hands the rows on.
///
/// *Errors*: see [`FileFault`].
pub(super) fn read(input: impl Read, delimiter: u8, rows: &mut impl TakeRows) -> Result<(), FileFault> {
    let left = Rc::new(Counter::new(LINE_BYTES_MAX));
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(false)
        .delimiter(delimiter)
        .from_reader(Bounded { inner: input, left: Rc::clone(&left) });
    let mut record = StringRecord::new();
    if !reader.read_record(&mut record).map_err(|error| unreadable(&error, 0))? {
        return Err(FileFault::Header("is empty; its first line names the columns".to_owned()));
    }
    let columns = header(&record)?;
    let wanted = rows.begin(&columns).map_err(FileFault::Header)?;
    loop {
        left.set(LINE_BYTES_MAX);
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => return Err(unreadable(&error, columns.len())),
        }
        let cells: Vec<Cell<'_>> =
            wanted.iter().map(|at| Cell::of_text(record.get(*at).unwrap_or_default())).collect();
        if let Err(fault) = rows.row(&cells) {
            let number = record.position().map_or(0, csv::Position::line);
            return Err(FileFault::Row { word: "line", number, columns: names(&columns, &wanted), fault });
        }
    }
}

fn header(record: &StringRecord) -> Result<Vec<String>, FileFault> {
    if record.len() > COLUMNS_MAX {
        return Err(FileFault::Header(format!("has {} columns; {COLUMNS_MAX} are the most", record.len())));
    }
    let name = |name: &str| name.trim_start_matches(BYTE_ORDER_MARK).trim().to_owned();
    Ok(record.iter().map(name).collect())
}

fn unreadable(error: &csv::Error, columns: usize) -> FileFault {
    let fault = |number: u64, reason: String| FileFault::Row {
        word: "line",
        number,
        columns: Vec::new(),
        fault: Fault { column: None, reason },
    };
    match error.kind() {
        ErrorKind::UnequalLengths { pos, len, .. } => fault(
            pos.as_ref().map_or(0, csv::Position::line),
            format!(
                "has {len} cells, and the header names {columns} columns; write an empty cell for a missing value"
            ),
        ),
        ErrorKind::Utf8 { pos, .. } => fault(
            pos.as_ref().map_or(0, csv::Position::line),
            "is not UTF-8; convert the file, or give it as Parquet".to_owned(),
        ),
        ErrorKind::Io(error) => FileFault::Unreadable(error.to_string()),
        _ => FileFault::Unreadable(error.to_string()),
    }
}
