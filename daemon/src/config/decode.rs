//! From the merged table to typed tables, with every mistake found in one run.
//!
//! Decodes, and where that fails notes the finding, repairs the spot (the misspelled key renamed, the wrong value
//! removed, the missing one stood in for) and decodes again. Checks no meaning: `resolve` does, and only a
//! configuration without any finding is used.

use std::collections::BTreeSet;

use serde_path_to_error::Segment;
use toml::{Table, Value};

use super::file::ConfigFile;
use super::finding::Finding;
use super::hint::did_you_mean;
use super::layer::Merged;
use super::origin::{Step, child, is_at_or_below, path_text};
use super::reference;

/// Most repairs of one run: a file with more mistakes is another program's.
const REPAIRS_MAX: usize = 200;

/// What decoding found besides the typed tables.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    pub(super) errors: Vec<Finding>,
    /// Paths whose values were removed or stood in for: later findings about them would be our own doing.
    pub(super) broken: BTreeSet<String>,
}

/// Decodes the table, repairing it in place. Returns no file where the repairs did not suffice.
pub(super) fn decode(merged: &mut Merged) -> (Option<ConfigFile>, Decoded) {
    let mut decoded = Decoded::default();
    for _ in 0..REPAIRS_MAX {
        match serde_path_to_error::deserialize::<_, ConfigFile>(Value::Table(merged.table.clone())) {
            Ok(file) => return (Some(file), decoded),
            Err(error) => {
                let steps = steps_of(error.path());
                if !repair(merged, &mut decoded, steps, error.inner().message()) {
                    break;
                }
            }
        }
    }
    (None, decoded)
}

fn steps_of(path: &serde_path_to_error::Path) -> Vec<Step> {
    path.iter()
        .map_while(|segment| match segment {
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// Notes the finding and repairs its spot. Returns whether anything was changed.
fn repair(merged: &mut Merged, decoded: &mut Decoded, steps: Vec<Step>, message: &str) -> bool {
    if let Some(rest) = message.strip_prefix("missing field `") {
        let field = rest.split('`').next().unwrap_or_default();
        return stand_in(merged, decoded, &steps, field);
    }
    if message.starts_with("unknown field `") {
        return rename(merged, decoded, &steps, message);
    }
    let path = path_text(&steps);
    if message.contains("expected a string") && restore_text(merged, &steps, &path) {
        return true;
    }
    let hint = match message.strip_prefix("unknown variant `") {
        Some(rest) => {
            let word = rest.split('`').next().unwrap_or_default();
            did_you_mean(word, &expected_words(message, word)).1
        }
        None => reference::describe(&steps).unwrap_or_else(|| "see docs/configuration.md".to_owned()),
    };
    note(merged, decoded, &path, in_words(message), hint);
    remove(merged, decoded, &steps)
}

fn in_words(message: &str) -> String {
    message.replace("expected a string", "expected a text in quotes")
}

fn note(merged: &Merged, decoded: &mut Decoded, path: &str, message: String, hint: String) {
    let origin = merged.origins.nearest(path);
    decoded.errors.push(Finding { origin, path: path.to_owned(), message, hint: Some(hint) });
}

/// A number in the environment or on the command line may be meant as a text: `mqtt.username=1234`.
fn restore_text(merged: &mut Merged, steps: &[Step], path: &str) -> bool {
    let Some(text) = merged.texts.get(path).cloned() else { return false };
    match value_mut(&mut merged.table, steps) {
        Some(value) if !value.is_str() => {
            *value = Value::String(text);
            true
        }
        _ => false,
    }
}

fn stand_in(merged: &mut Merged, decoded: &mut Decoded, steps: &[Step], field: &str) -> bool {
    let table_path = path_text(steps);
    let path = child(&table_path, field);
    if decoded.broken.insert(path.clone()) {
        let mut full = steps.to_vec();
        full.push(Step::Key(field.to_owned()));
        let hint = reference::describe(&full).unwrap_or_else(|| format!("add `{field} = …`"));
        note(merged, decoded, &table_path, format!("key `{field}` is missing"), hint);
    }
    let value = match field {
        "topics" => Value::Array(Vec::new()),
        "format" => "json".into(),
        // With TLS, so that its other keys keep their meaning.
        "url" => "mqtts://localhost".into(),
        "n" | "m" => Value::Integer(1),
        _ => Value::String(format!("missing-{}", decoded.broken.len())),
    };
    match table_mut(&mut merged.table, steps) {
        Some(table) => table.insert(field.to_owned(), value).is_none(),
        None => false,
    }
}

fn rename(merged: &mut Merged, decoded: &mut Decoded, steps: &[Step], message: &str) -> bool {
    let Some((Step::Key(key), parent)) = steps.split_last() else { return false };
    let known = expected_words(message, key);
    let (candidate, mut hint) = did_you_mean(key, &known);
    if key.contains("password") && known.contains(&"credential_file") {
        hint = "write the password into a file and name that in `credential_file`".to_owned();
    }
    let path = path_text(steps);
    note(merged, decoded, &path, format!("unknown key `{key}`"), hint);
    let candidate = candidate.map(str::to_owned);
    let Some(table) = table_mut(&mut merged.table, parent) else { return false };
    let Some(value) = table.remove(key) else { return false };
    decoded.broken.insert(path.clone());
    if let Some(meant) = candidate.filter(|meant| !table.contains_key(meant)) {
        table.insert(meant.clone(), value);
        merged.origins.rename(&path, &child(&path_text(parent), &meant));
    }
    true
}

/// Removes the value at a path; of a value inside an array, the array, so that no other element changes its place.
fn remove(merged: &mut Merged, decoded: &mut Decoded, steps: &[Step]) -> bool {
    let cut = steps.iter().rposition(|step| matches!(step, Step::Key(_)));
    let Some((cut, Step::Key(key))) = cut.map(|cut| (cut, &steps[cut])) else { return false };
    decoded.broken.insert(path_text(&steps[..=cut]));
    table_mut(&mut merged.table, &steps[..cut]).is_some_and(|table| table.remove(key).is_some())
}

/// Returns the words in backticks after `expected` in a message of serde.
fn expected_words<'m>(message: &'m str, word: &str) -> Vec<&'m str> {
    let rest = message.split_once(word).map_or(message, |(_, rest)| rest);
    let rest = rest.split_once("expected").map_or("", |(_, rest)| rest);
    rest.split('`').skip(1).step_by(2).collect()
}

fn value_mut<'t>(table: &'t mut Table, steps: &[Step]) -> Option<&'t mut Value> {
    let (Step::Key(first), rest) = steps.split_first()? else { return None };
    rest.iter().try_fold(table.get_mut(first)?, |value, step| match step {
        Step::Key(key) => value.get_mut(key.as_str()),
        Step::Index(index) => value.get_mut(*index),
    })
}

fn table_mut<'t>(table: &'t mut Table, steps: &[Step]) -> Option<&'t mut Table> {
    if steps.is_empty() { Some(table) } else { value_mut(table, steps)?.as_table_mut() }
}

impl Decoded {
    /// Tells whether a finding of a later check comes from a repair of this one.
    pub(super) fn explains(&self, finding: &Finding) -> bool {
        let path = finding.path.as_str();
        let related =
            |broken: &String| path.is_empty() || is_at_or_below(path, broken) || is_at_or_below(broken, path);
        let names_others = finding.path.contains(".sources") || finding.path.ends_with("broker");
        let names_broken = || {
            self.broken
                .iter()
                .any(|path| path.ends_with(".name") || path.starts_with("brokers") || !path.contains('.'))
        };
        self.broken.iter().any(related) || (names_others && names_broken())
    }
}
