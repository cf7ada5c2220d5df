//! Series from the rows of files: told apart by key, in the order of time, each time once.
//!
//! Takes rows in any order and puts them in order at the end; memory is bounded by limits that are refused by name. Converts
//! what a gateway exported into the profile's units.

use std::collections::HashMap;

use dunlin_model_package::profile::labels::Label;
use dunlin_pipeline::decode::WrittenTime;

use super::cells::{Cell, Fault, TakeRows};
use super::fields::Field;
use super::layout::{Layout, Names};

/// Most rows: eight years of minutes. While a feature is described each takes some 60 bytes: 256 MiB.
pub const ROWS_MAX: usize = 4 << 20;
/// Most values of all rows: 256 MiB.
pub const VALUES_MAX: usize = 32 << 20;
/// Most series: more than a reference needs of them.
pub const SERIES_MAX: usize = 10_000;
/// Longest key of a series in bytes.
const KEY_BYTES_MAX: usize = 1_024;

/// Readings of one series.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// Source of an export; none where a file is of no source.
    pub source: Option<String>,
    /// Tags and values.
    pub key: Vec<(String, String)>,
    /// Positions of its fields.
    pub fields: Vec<usize>,
    /// Times in µs since 1970, rising.
    pub times_us: Vec<i64>,
    /// Values by field, in the profile's unit; NaN where there is none.
    pub values: Vec<Vec<f64>>,
    /// What was right by row; empty where the file has no labels.
    pub labels: Vec<Option<Label>>,
}

/// What was taken, and what was left out of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gathered {
    /// The series.
    pub tables: Vec<Table>,
    /// Rows outside of the times that were asked for.
    pub outside: u64,
    /// Rows with a time that their series had already.
    pub repeated: u64,
}

/// Which times are taken, in µs since 1970.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// At or after this one.
    pub since_us: Option<i64>,
    /// Before this one.
    pub until_us: Option<i64>,
}

/// Rows on their way to series.
pub struct Gathering<'f> {
    fields: &'f [Field],
    names: Names,
    export_time: WrittenTime,
    missing: Vec<f64>,
    times: Times,
    layout: Layout,
    tables: Vec<Table>,
    /// Position of the table by source, key and fields.
    places: HashMap<String, usize>,
    rows: usize,
    values: usize,
    outside: u64,
    identity: String,
    joined: String,
}

impl<'f> Gathering<'f> {
    /// Begins; `missing` are numbers that mean that there is no value.
    #[must_use]
    pub fn new(
        fields: &'f [Field],
        names: Names,
        missing: Vec<f64>,
        times: Times,
        milliseconds: WrittenTime,
    ) -> Self {
        Self {
            fields,
            names,
            export_time: milliseconds,
            missing,
            times,
            layout: Layout::default(),
            tables: Vec::new(),
            places: HashMap::new(),
            rows: 0,
            values: 0,
            outside: 0,
            identity: String::new(),
            joined: String::new(),
        }
    }

    /// Checks that a label column that was asked for was in some file.
    ///
    /// *Errors*: what to do.
    pub fn require_label(&self) -> Result<(), String> {
        match &self.names.label {
            Some(label) if self.tables.iter().all(|table| table.labels.is_empty()) => {
                Err(format!("no file has rows with a column `{label}` for the label"))
            }
            _ => Ok(()),
        }
    }

    /// Ends: puts each series in order.
    #[must_use]
    pub fn finish(self) -> Gathered {
        let mut gathered = Gathered { outside: self.outside, ..Gathered::default() };
        for table in self.tables {
            let (table, repeated) = ordered(table);
            gathered.repeated += repeated;
            if !table.fields.is_empty() {
                gathered.tables.push(table);
            }
        }
        let order = |table: &Table| (table.source.clone(), table.key.clone(), table.fields.clone());
        gathered.tables.sort_by_cached_key(order);
        gathered
    }

    fn time(&mut self, cells: &[Cell<'_>]) -> Result<i64, Fault> {
        let is_export = self.layout.export.is_some() && self.names.time.is_empty();
        let written = if is_export { &self.export_time } else { &self.names.written };
        let found = match self.layout.time.as_slice() {
            [] => None,
            [one] => match cells[*one] {
                Cell::Micros(us) => Some(us),
                Cell::Whole(whole) => written.of_whole(whole),
                Cell::Number(number) => written.of_number(number),
                Cell::Text(text) => written.of_text(text),
                Cell::Missing | Cell::Truth(_) => None,
            },
            several => {
                self.joined.clear();
                for (position, cell) in several.iter().enumerate() {
                    if position > 0 {
                        self.joined.push(' ');
                    }
                    cells[*cell].push_to(&mut self.joined);
                }
                written.of_text(&self.joined)
            }
        };
        let column = self.layout.time.first().copied();
        found.ok_or_else(|| Fault {
            column,
            reason: format!(
                "`{}` is no time; say how it is written with `--time-format`, as in `unix-ms` or `%d/%m/%Y %H:%M:%S`",
                column.map(|column| cells[column].shown()).unwrap_or_default()
            ),
        })
    }

    /// Returns the position of the row's series.
    fn table(&mut self, cells: &[Cell<'_>]) -> Result<usize, Fault> {
        self.identity.clear();
        if let Some((source, tags)) = self.layout.export {
            cells[source].push_to(&mut self.identity);
            self.identity.push('\u{1e}');
            cells[tags].push_to(&mut self.identity);
        }
        for (_, cell) in &self.layout.keys {
            self.identity.push('\u{1f}');
            cells[*cell].push_to(&mut self.identity);
        }
        if self.identity.len() > KEY_BYTES_MAX {
            let column = self.layout.keys.first().map(|(_, cell)| *cell);
            return Err(Fault { column, reason: format!("the key is longer than {KEY_BYTES_MAX} bytes") });
        }
        for (field, _) in &self.layout.fields {
            self.identity.push_str(&format!("\u{1d}{field}"));
        }
        if let Some(place) = self.places.get(&self.identity) {
            return Ok(*place);
        }
        if self.tables.len() >= SERIES_MAX {
            let reason = format!("there are more than {SERIES_MAX} series; give fewer, or other key columns");
            return Err(Fault { column: None, reason });
        }
        let table = self.new_table(cells)?;
        self.tables.push(table);
        self.places.insert(self.identity.clone(), self.tables.len() - 1);
        Ok(self.tables.len() - 1)
    }

    fn new_table(&self, cells: &[Cell<'_>]) -> Result<Table, Fault> {
        let text = |cell: usize| {
            let mut text = String::new();
            cells[cell].push_to(&mut text);
            text
        };
        let mut key: Vec<(String, String)> =
            self.layout.keys.iter().map(|(name, cell)| (name.clone(), text(*cell))).collect();
        let mut source = None;
        if let Some((of_source, tags)) = self.layout.export {
            let name = text(of_source);
            if !self.fields.iter().any(|field| field.conversions.contains_key(&name)) {
                let reason = format!(
                    "no source `{name}` feeds the model; give the gateway's configuration with `--config`"
                );
                return Err(Fault { column: Some(of_source), reason });
            }
            source = Some(name);
            let parsed = parse_tags(&text(tags));
            key.extend(parsed.ok_or_else(|| Fault {
                column: Some(tags),
                reason: "is not written as `tag=value;tag=value`".to_owned(),
            })?);
        }
        let fields: Vec<usize> = self.layout.fields.iter().map(|(field, _)| *field).collect();
        Ok(Table { source, key, values: vec![Vec::new(); fields.len()], fields, ..Table::default() })
    }

    fn value(
        &self,
        field: usize,
        cell: usize,
        cells: &[Cell<'_>],
        source: Option<&str>,
    ) -> Result<f64, Fault> {
        let fault = |reason: String| Fault { column: Some(cell), reason };
        let field = &self.fields[field];
        let number = match cells[cell] {
            Cell::Missing => return Ok(f64::NAN),
            Cell::Text(text) => text.parse().ok().or_else(|| field.map.get(text).copied()),
            Cell::Truth(truth) => {
                let text = if truth { "true" } else { "false" };
                field.map.get(text).copied().or_else(|| cells[cell].number())
            }
            other => other.number(),
        };
        let number: f64 = number.ok_or_else(|| {
            fault(format!(
                "`{}` is no number; leave the cell empty where there is no value",
                cells[cell].shown()
            ))
        })?;
        if !number.is_finite()
            || self.missing.contains(&number)
            || source.is_none() && field.missing.contains(&number)
        {
            return Ok(f64::NAN);
        }
        let conversion = source.and_then(|source| field.conversions.get(source));
        Ok(conversion.map_or(number, |conversion| conversion.apply(number)))
    }
}

impl TakeRows for Gathering<'_> {
    fn begin(&mut self, columns: &[String]) -> Result<Vec<usize>, String> {
        self.layout = Layout::of(columns, &self.names, self.fields)?;
        Ok(self.layout.wanted.clone())
    }

    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Fault> {
        let at_us = self.time(cells)?;
        if self.times.since_us.is_some_and(|since| at_us < since)
            || self.times.until_us.is_some_and(|until| at_us >= until)
        {
            self.outside += 1;
            return Ok(());
        }
        self.rows += 1;
        self.values += self.layout.fields.len();
        if self.rows > ROWS_MAX || self.values > VALUES_MAX {
            let reason = format!(
                "there are more than {ROWS_MAX} rows or {VALUES_MAX} values; give fewer series, or a part of the time with `--since` and `--until`"
            );
            return Err(Fault { column: None, reason });
        }
        let place = self.table(cells)?;
        let layout = std::mem::take(&mut self.layout);
        let taken = self.add(place, at_us, &layout, cells);
        self.layout = layout;
        taken
    }
}

impl Gathering<'_> {
    fn add(&mut self, place: usize, at_us: i64, layout: &Layout, cells: &[Cell<'_>]) -> Result<(), Fault> {
        let source = self.tables[place].source.clone();
        for (column, (field, cell)) in layout.fields.iter().enumerate() {
            let value = self.value(*field, *cell, cells, source.as_deref())?;
            self.tables[place].values[column].push(value);
        }
        let table = &mut self.tables[place];
        table.times_us.push(at_us);
        if let Some(cell) = layout.label {
            let label = match cells[cell] {
                Cell::Missing => None,
                Cell::Text(text) => {
                    Some(text.parse().map_or_else(|_| Label::Name(text.to_owned()), Label::Number))
                }
                other => other.number().map(Label::Number),
            };
            // Rows of files without labels came before.
            table.labels.resize(table.times_us.len() - 1, None);
            table.labels.push(label);
        } else if !table.labels.is_empty() {
            table.labels.push(None);
        }
        Ok(())
    }
}

/// Puts a series in the order of time; of rows with one time the first in the files stays. Fields without any value are not
/// of the series.
fn ordered(mut table: Table) -> (Table, u64) {
    let mut order: Vec<usize> = (0..table.times_us.len()).collect();
    order.sort_by_key(|row| table.times_us[*row]);
    order.dedup_by_key(|row| table.times_us[*row]);
    let repeated = (table.times_us.len() - order.len()) as u64;
    table.times_us = order.iter().map(|row| table.times_us[*row]).collect();
    if !table.labels.is_empty() {
        table.labels = order.iter().map(|row| table.labels.get(*row).cloned().flatten()).collect();
    }
    let columns = std::mem::take(&mut table.values);
    let fields = std::mem::take(&mut table.fields);
    for (field, column) in fields.into_iter().zip(columns) {
        if column.iter().any(|value| value.is_finite()) {
            table.fields.push(field);
            table.values.push(order.iter().map(|row| column[*row]).collect());
        }
    }
    (table, repeated)
}

/// Reads `tag=value;…` as an export writes it: a `\` stands before each `\`, `;` and `=` of a tag or value.
fn parse_tags(text: &str) -> Option<Vec<(String, String)>> {
    let (mut tags, mut parts, mut characters) = (Vec::new(), vec![String::new()], text.chars());
    if text.is_empty() {
        return Some(tags);
    }
    let mut end = |parts: &mut Vec<String>| {
        let mut ended = std::mem::replace(parts, vec![String::new()]).into_iter();
        match (ended.next(), ended.next(), ended.next()) {
            (Some(tag), Some(value), None) if !tag.is_empty() => tags.push((tag, value)),
            _ => return None,
        }
        Some(())
    };
    while let Some(character) = characters.next() {
        match character {
            ';' => end(&mut parts)?,
            '=' => parts.push(String::new()),
            '\\' => parts.last_mut()?.push(characters.next()?),
            other => parts.last_mut()?.push(other),
        }
    }
    end(&mut parts)?;
    Some(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_an_export_writes_them() {
        let tags = |pairs: &[(&str, &str)]| {
            Some(
                pairs.iter().map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned())).collect::<Vec<_>>(),
            )
        };
        assert_eq!(parse_tags(""), tags(&[]));
        assert_eq!(parse_tags("room=a;floor=2"), tags(&[("room", "a"), ("floor", "2")]));
        assert_eq!(parse_tags(r"room=a\;b\=c\\;floor="), tags(&[("room", r"a;b=c\"), ("floor", "")]));
        for wrong in ["room", "room=a;", "=a", "a=b=c", "room=a\\"] {
            assert_eq!(parse_tags(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_series_is_put_in_order_and_a_time_that_comes_twice_is_taken_once() {
        let table = Table {
            fields: vec![0, 3],
            times_us: vec![30, 10, 30, 20],
            values: vec![vec![3.0, 1.0, 9.0, 2.0], vec![f64::NAN; 4]],
            ..Table::default()
        };
        let (table, repeated) = ordered(table);
        assert_eq!(
            (table.times_us, table.values, table.fields, repeated),
            (vec![10, 20, 30], vec![vec![1.0, 2.0, 3.0]], vec![0], 1)
        );
    }
}
