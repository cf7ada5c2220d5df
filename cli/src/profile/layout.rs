//! Where in a file the time, the key, the fields and the label stand, by its header.
//!
//! Decides by names alone and says what is missing; reads no row. A table that `dunlind export --readings` wrote is known by
//! its header.

use std::collections::BTreeMap;

use dunlin_pipeline::decode::WrittenTime;

use super::fields::Field;

/// Columns that are the time where nobody says which is, in this order.
const TIME_NAMES: [&str; 7] = ["time", "timestamp", "ts", "datetime", "date", "event_ms", "window_end_ms"];
/// Columns of a gateway's export beside those of the fields.
const EXPORT_NAMES: [&str; 4] = ["event_ms", "source", "tags", "timed_by"];
/// Most key columns.
const KEYS_MAX: usize = 16;

/// How columns are named, and how times are written.
#[derive(Debug, Clone)]
pub struct Names {
    /// Columns of the time; several are joined by a space. Found by their name where there is none.
    pub time: Vec<String>,
    /// How the time is written.
    pub written: WrittenTime,
    /// Columns that tell series apart; those that are named as the sources' tags where there is none.
    pub keys: Vec<String>,
    /// Tags of the sources.
    pub tags: Vec<String>,
    /// Columns of fields that have another name.
    pub columns: BTreeMap<String, String>,
    /// Column of the label.
    pub label: Option<String>,
}

/// Where the parts of a row stand among the cells that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Positions in the file of the cells that are wanted.
    pub(super) wanted: Vec<usize>,
    pub(super) time: Vec<usize>,
    pub(super) keys: Vec<(String, usize)>,
    /// Position among the fields, and of the cell.
    pub(super) fields: Vec<(usize, usize)>,
    pub(super) label: Option<usize>,
    /// Source and tags of an export.
    pub(super) export: Option<(usize, usize)>,
}

impl Layout {
    /// Returns the layout of a file with these columns.
    ///
    /// *Errors*: what it lacks.
    pub(super) fn of(columns: &[String], names: &Names, fields: &[Field]) -> Result<Self, String> {
        let mut layout = Self::default();
        let find = |name: &str| columns.iter().position(|column| column == name);
        let need = |name: &str, what: &str| {
            find(name).ok_or_else(|| format!("has no column `{name}` for {what}; it has {}", listed(columns)))
        };
        let mut want = |position: usize| {
            layout.wanted.push(position);
            layout.wanted.len() - 1
        };
        let is_export = EXPORT_NAMES.iter().all(|name| find(name).is_some());
        for position in times(columns, names, is_export)? {
            layout.time.push(want(position));
        }
        if is_export {
            layout.export = Some((want(need("source", "the source")?), want(need("tags", "the tags")?)));
        }
        let keys: Vec<&String> = match names.keys.as_slice() {
            [] => names.tags.iter().filter(|tag| find(tag).is_some()).collect(),
            given => given.iter().collect(),
        };
        if keys.len() > KEYS_MAX {
            return Err(format!("would be told apart by {} columns; {KEYS_MAX} are the most", keys.len()));
        }
        for key in keys {
            layout.keys.push((key.clone(), want(need(key, "the key")?)));
        }
        for (at, field) in fields.iter().enumerate() {
            let found = match names.columns.get(&field.name) {
                Some(column) => Some(need(column, &format!("field `{}`", field.name))?),
                None => find(&field.name).or_else(|| find(&field.read_as)),
            };
            layout.fields.extend(found.map(|position| (at, want(position))));
        }
        if layout.fields.is_empty() {
            let all: Vec<String> = fields.iter().map(|field| field.name.clone()).collect();
            return Err(format!(
                "has a column for none of the model's fields {}; it has {}: name them with `--column FIELD=COLUMN`",
                listed(&all),
                listed(columns)
            ));
        }
        if let Some(label) = names.label.as_ref().and_then(|label| find(label)) {
            layout.label = Some(want(label));
        }
        Ok(layout)
    }
}

fn times(columns: &[String], names: &Names, is_export: bool) -> Result<Vec<usize>, String> {
    let find = |name: &str| columns.iter().position(|column| column == name);
    if !names.time.is_empty() {
        let need = |name: &String| {
            find(name)
                .ok_or_else(|| format!("has no column `{name}` for the time; it has {}", listed(columns)))
        };
        return names.time.iter().map(need).collect();
    }
    if is_export {
        return Ok(find("event_ms").into_iter().collect());
    }
    let named = |name: &&str| columns.iter().position(|column| column.eq_ignore_ascii_case(name));
    TIME_NAMES.iter().find_map(named).map(|position| vec![position]).ok_or_else(|| {
        format!(
            "has no column that is named as a time; say which is with `--time COLUMN`: it has {}",
            listed(columns)
        )
    })
}

/// Returns names as a short list.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN_MAX: usize = 24;
    let mut shown: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| format!("`{name}`")).collect();
    if names.len() > SHOWN_MAX {
        shown.push(format!("and {} more", names.len() - SHOWN_MAX));
    }
    shown.join(", ")
}
