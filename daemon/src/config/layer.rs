//! The layers of a configuration: main file, `conf.d`, environment, command line, merged into one table.
//!
//! Reads and parses files and remembers where each value was written; knows no key of the configuration. Its result
//! goes to `decode`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use toml::de::{DeArray, DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::LoadRequest;
use super::finding::{ConfigErrors, Finding};
use super::hint::did_you_mean;
use super::origin::{Origin, Origins, Step, child, element, is_at_or_below, path_text};
use super::overlay;

/// Longest configuration file: thousands of sources with all their fields.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Prefix of the environment variables that are looked at.
const ENVIRONMENT_PREFIX: &str = "DUNLIN_";

/// The merged layers.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) table: Table,
    pub(super) origins: Origins,
    /// What was written, by path, for values of the environment and the command line: `5` may be meant as a text.
    pub(super) texts: BTreeMap<String, String>,
}

/// Reads and merges all layers.
///
/// *Errors*: all files that cannot be read or parsed, all variables and options that lead nowhere.
pub(super) fn merge(request: &LoadRequest) -> Result<Merged, ConfigErrors> {
    let mut merged =
        Merged { table: Table::new(), origins: Origins::new(&request.file), texts: BTreeMap::new() };
    let mut errors = Vec::new();
    match files(&request.file) {
        Ok(paths) => {
            for path in paths {
                if let Err(found) = merge_file(&mut merged, &path) {
                    errors.extend(found);
                }
            }
        }
        Err(finding) => errors.push(finding),
    }
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    if let Some(settings) = &request.overlay {
        overlay::merge(&mut merged, settings).map_err(ConfigErrors)?;
    }
    // In name order, so that a whole table comes before its keys.
    let mut environment: Vec<&(String, String)> = request.environment.iter().collect();
    environment.sort();
    for (name, text) in environment {
        let Some(key) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let keys = key.split("__").map(str::to_ascii_lowercase).collect::<Vec<_>>();
        let origin = Origin::Environment(name.clone());
        errors.extend(assign(&mut merged, &keys, Spelling::Loose, text, origin).err());
    }
    for option in &request.set {
        let outcome = match option.split_once('=') {
            Some((key, text)) => {
                let origin = Origin::Set(key.trim().to_owned());
                match option_keys(key) {
                    Some(keys) => assign(&mut merged, &keys, Spelling::Exact, text.trim(), origin),
                    None => Err(bad_option(key)),
                }
            }
            None => Err(bad_option(option)),
        };
        errors.extend(outcome.err());
    }
    if errors.is_empty() { Ok(merged) } else { Err(ConfigErrors(errors)) }
}

fn bad_option(option: &str) -> Finding {
    Finding {
        origin: Origin::Set(option.to_owned()),
        path: String::new(),
        message: "is not of the form `key.path=value`".to_owned(),
        hint: Some("write for example `--set mqtt.url=mqtt://localhost:1883`".to_owned()),
    }
}

/// Returns the main file and those of `conf.d` beside it, in name order.
fn files(main: &Path) -> Result<Vec<PathBuf>, Finding> {
    let mut paths = vec![main.to_owned()];
    let folder = main.parent().unwrap_or(Path::new("")).join("conf.d");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(paths),
        Err(error) => return Err(file_finding(&folder, 1, 1, format!("cannot read the folder: {error}"))),
    };
    let mut more: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    more.sort();
    paths.append(&mut more);
    Ok(paths)
}

fn file_finding(path: &Path, line: usize, column: usize, message: String) -> Finding {
    Finding {
        origin: Origin::File { path: path.to_owned(), line, column },
        path: String::new(),
        message,
        hint: None,
    }
}

fn merge_file(merged: &mut Merged, path: &Path) -> Result<(), Vec<Finding>> {
    let refuse = |message: String| vec![file_finding(path, 1, 1, message)];
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| refuse(format!("cannot read the configuration file: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse(format!("the configuration file is longer than {FILE_BYTES_MAX} bytes")));
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
            return Err(vec![file_finding(path, line, 1, "is not UTF-8 text".to_owned())]);
        }
    };
    let source = Source { path, text: &text };
    let (document, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        return Err(errors.iter().map(|error| source.syntax_finding(error)).collect());
    }
    let mut errors = Vec::new();
    source.merge_table(&mut merged.table, &mut merged.origins, "", document.get_ref(), &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// A file that is being merged.
pub(super) struct Source<'s> {
    pub(super) path: &'s Path,
    pub(super) text: &'s str,
}

impl Source<'_> {
    pub(super) fn origin(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Origin::File {
            path: self.path.to_owned(),
            line: 1 + before.bytes().filter(|byte| *byte == b'\n').count(),
            column: 1 + before[line_start..].chars().count(),
        }
    }

    pub(super) fn syntax_finding(&self, error: &toml::de::Error) -> Finding {
        Finding {
            origin: self.origin(error.span().map_or(0, |span| span.start)),
            path: String::new(),
            message: error.message().to_owned(),
            hint: Some(
                "texts stand in quotes, and a table or key may be written only once in a file".to_owned(),
            ),
        }
    }

    pub(super) fn merge_table(
        &self,
        into: &mut Table,
        origins: &mut Origins,
        path: &str,
        from: &DeTable<'_>,
        errors: &mut Vec<Finding>,
    ) {
        for (key, value) in from {
            let path = child(path, key.get_ref());
            let name = key.get_ref().as_ref();
            let origin = self.origin(key.span().start);
            match (into.get_mut(name), value.get_ref()) {
                (Some(Value::Table(known)), DeValue::Table(more)) => {
                    self.merge_table(known, origins, &path, more, errors);
                }
                (Some(Value::Array(known)), DeValue::Array(more))
                    if !known.is_empty() && known.iter().all(Value::is_table) && is_of_tables(more) =>
                {
                    for item in more.iter() {
                        let path = element(&path, known.len());
                        origins.insert(path.clone(), self.origin(item.span().start));
                        known.extend(self.value(origins, &path, item, errors));
                    }
                }
                _ => {
                    origins.forget(&path);
                    origins.insert(path.clone(), origin);
                    if let Some(value) = self.value(origins, &path, value, errors) {
                        into.insert(name.to_owned(), value);
                    }
                }
            }
        }
    }

    fn value(
        &self,
        origins: &mut Origins,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        errors: &mut Vec<Finding>,
    ) -> Option<Value> {
        let start = value.span().start;
        match value.get_ref() {
            DeValue::String(text) => Some(Value::String(text.clone().into_owned())),
            DeValue::Boolean(truth) => Some(Value::Boolean(*truth)),
            DeValue::Datetime(time) => Some(Value::Datetime(*time)),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
                self.number(parsed.map(Value::Integer), start, path, errors)
            }
            DeValue::Float(number) => {
                let parsed = number.as_str().parse().ok();
                self.number(parsed.map(Value::Float), start, path, errors)
            }
            DeValue::Array(items) => {
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    let path = element(path, index);
                    origins.insert(path.clone(), self.origin(item.span().start));
                    values.extend(self.value(origins, &path, item, errors));
                }
                Some(Value::Array(values))
            }
            DeValue::Table(table) => {
                let mut into = Table::new();
                self.merge_table(&mut into, origins, path, table, errors);
                Some(Value::Table(into))
            }
        }
    }

    fn number(
        &self,
        parsed: Option<Value>,
        start: usize,
        path: &str,
        errors: &mut Vec<Finding>,
    ) -> Option<Value> {
        if parsed.is_none() {
            errors.push(Finding {
                origin: self.origin(start),
                path: path.to_owned(),
                message: "the number does not fit into 64 bits".to_owned(),
                hint: Some("write a smaller one".to_owned()),
            });
        }
        parsed
    }
}

fn is_of_tables(items: &DeArray<'_>) -> bool {
    items.iter().all(|item| item.get_ref().is_table())
}

/// Reads the key of a `--set` option: dotted, with quotes where needed; `source[0]` is taken as `source.0`.
fn option_keys(key: &str) -> Option<Vec<String>> {
    let dotted =
        if key.contains(['"', '\'']) { key.to_owned() } else { key.replace('[', ".").replace(']', "") };
    let mut table: Table = toml::from_str(&format!("{dotted} = 0")).ok()?;
    let mut keys = Vec::new();
    loop {
        if table.len() != 1 {
            return None;
        }
        let (name, value) = table.into_iter().next()?;
        keys.push(name);
        match value {
            Value::Table(inner) => table = inner,
            Value::Integer(0) => return Some(keys),
            _ => return None,
        }
    }
}

/// How a key of a layer names one of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// As it is written.
    Exact,
    /// Regardless of case, with `_` for `-`: what an environment variable can hold.
    Loose,
}

impl Spelling {
    fn same(self, known: &str, given: &str) -> bool {
        match self {
            Self::Exact => known == given,
            Self::Loose => {
                known.eq_ignore_ascii_case(given) || known.replace('-', "_").eq_ignore_ascii_case(given)
            }
        }
    }
}

fn assign(
    merged: &mut Merged,
    keys: &[String],
    spelling: Spelling,
    text: &str,
    origin: Origin,
) -> Result<(), Finding> {
    let steps = locate(&merged.table, keys, spelling).map_err(|(message, hint)| Finding {
        origin: origin.clone(),
        path: keys.join("."),
        message,
        hint: Some(hint),
    })?;
    let path = path_text(&steps);
    let value = text.parse::<Value>().unwrap_or_else(|_| Value::String(text.to_owned()));
    merged.origins.forget(&path);
    merged.texts.retain(|known, _| !is_at_or_below(known, &path));
    merged.origins.insert(path.clone(), origin);
    merged.texts.insert(path, text.to_owned());
    put(&mut merged.table, &steps, value);
    Ok(())
}

/// Returns the path that the keys mean, or what is wrong with them and a hint.
fn locate(table: &Table, keys: &[String], spelling: Spelling) -> Result<Vec<Step>, (String, String)> {
    let mut steps = Vec::new();
    let root = Value::Table(table.clone());
    let mut current = Some(&root);
    for key in keys {
        if key.is_empty() {
            return Err((
                "has an empty key".to_owned(),
                "write `table.key`, in the environment `TABLE__KEY`".to_owned(),
            ));
        }
        let step = match current {
            None => Step::Key(key.clone()),
            Some(Value::Table(table)) => {
                let known = table.keys().find(|known| spelling.same(known, key));
                Step::Key(known.unwrap_or(key).clone())
            }
            Some(Value::Array(items)) => Step::Index(locate_element(items, key, spelling)?),
            Some(_) => {
                let message = format!("`{}` is a value, not a table", path_text(&steps));
                return Err((message, format!("remove `{key}` and what follows")));
            }
        };
        current = match (&step, current) {
            (Step::Key(key), Some(Value::Table(table))) => table.get(key),
            (Step::Index(index), Some(Value::Array(items))) => items.get(*index),
            _ => None,
        };
        steps.push(step);
    }
    Ok(steps)
}

fn locate_element(items: &[Value], key: &str, spelling: Spelling) -> Result<usize, (String, String)> {
    let name_of = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    let named = items.iter().position(|item| name_of(item).is_some_and(|name| spelling.same(&name, key)));
    let counted = || key.parse::<usize>().ok().filter(|index| *index < items.len());
    named.or_else(counted).ok_or_else(|| {
        let names: Vec<String> = items.iter().filter_map(name_of).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        (format!("there is no element `{key}`"), did_you_mean(key, &names).1)
    })
}

fn put(table: &mut Table, steps: &[Step], value: Value) {
    let Some((Step::Key(key), rest)) = steps.split_first() else { return };
    match rest {
        [] => {
            table.insert(key.clone(), value);
        }
        [Step::Key(_), ..] => {
            let inner = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
        [Step::Index(index), rest @ ..] => {
            let Some(item) = table.get_mut(key).and_then(|array| array.get_mut(*index)) else { return };
            match (rest, item) {
                ([], item) => *item = value,
                (_, Value::Table(inner)) => put(inner, rest, value),
                // Arrays of arrays have no keys that an option could name further down.
                _ => {}
            }
        }
    }
}
