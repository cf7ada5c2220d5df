//! The `csv` format: lines of cells, with or without a header line; each line is a record.
//!
//! Lenient on quotes and on lines of unequal length, as devices are; what a line lacks is missing.

use csv::{ReaderBuilder, StringRecord, Trim};

use super::RECORDS_MAX;
use super::record::{Place, Recorder};
use super::time::FoundTime;
use super::value::Raw;
use crate::refusal::Reason;

/// A column by its header or position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    header: String,
    position: Option<usize>,
}

impl Column {
    pub(super) fn new(text: &str) -> Self {
        Self { header: text.to_owned(), position: text.parse().ok() }
    }

    pub(super) fn needs_header(&self) -> bool {
        self.position.is_none()
    }

    /// A header of this text goes before a position, so that a column titled `2` can be named.
    fn position_in(&self, header: Option<&StringRecord>) -> Option<usize> {
        header.and_then(|line| line.iter().position(|cell| cell == self.header)).or(self.position)
    }
}

/// Where times, tags and fields stand in a line.
#[derive(Debug, Clone)]
pub(super) struct CsvLayout {
    pub(super) delimiter: u8,
    pub(super) has_header: bool,
    pub(super) time: Option<Column>,
    pub(super) tags: Vec<Column>,
    pub(super) fields: Vec<Column>,
}

/// The layout's columns in one payload; `None` where its header does not have them.
struct Positions {
    time: Option<usize>,
    tags: Vec<Option<usize>>,
    fields: Vec<Option<usize>>,
}

impl Positions {
    fn of(layout: &CsvLayout, header: Option<&StringRecord>) -> Self {
        let all = |columns: &[Column]| columns.iter().map(|column| column.position_in(header)).collect();
        Self {
            time: layout.time.as_ref().and_then(|column| column.position_in(header)),
            tags: all(&layout.tags),
            fields: all(&layout.fields),
        }
    }
}

pub(super) fn decode(layout: &CsvLayout, recorder: &mut Recorder<'_>) {
    let payload = recorder.message.payload;
    if std::str::from_utf8(payload).is_err() {
        return recorder.refuse(Reason::InvalidUtf8, "the payload");
    }
    // The reader's own buffer need not exceed the payload.
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .delimiter(layout.delimiter)
        .buffer_capacity(payload.len().clamp(64, 8_192))
        .from_reader(payload);
    let mut line = StringRecord::new();
    let mut positions = None;
    if !layout.has_header {
        positions = Some(Positions::of(layout, None));
    }
    let mut lines = 0_usize;
    loop {
        match reader.read_record(&mut line) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => return recorder.refuse(Reason::Syntax, "not readable as lines of cells"),
        }
        let Some(positions) = &positions else {
            positions = Some(Positions::of(layout, Some(&line)));
            continue;
        };
        lines += 1;
        if lines <= RECORDS_MAX {
            decode_line(positions, &line, recorder);
        }
    }
    if lines > RECORDS_MAX {
        let detail = format!("{lines} lines, of which the first {RECORDS_MAX} are used");
        recorder.refuse(Reason::TooManyRecords, detail);
    }
    if lines == 0 {
        recorder.refuse(Reason::NoFields, "the payload has no line of values");
    }
}

fn decode_line(positions: &Positions, line: &StringRecord, recorder: &mut Recorder<'_>) {
    let cell = |position: Option<usize>| {
        position.and_then(|position| line.get(position)).map_or(Raw::Missing, Raw::of_cell)
    };
    let place = Place::Line(line.position().map_or(1, csv::Position::line));
    let mut draft = recorder.draft(place);
    for (field, position) in positions.fields.iter().enumerate() {
        if recorder.is_active(field) {
            recorder.set(&mut draft, field, cell(*position), None);
        }
    }
    let time = match cell(positions.time) {
        Raw::Missing => FoundTime::None,
        raw => recorder.source.times.found(raw),
    };
    recorder.finish(draft, time, |tag| cell(positions.tags[tag]));
}
