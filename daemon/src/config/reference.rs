//! The documentation of the configuration, made from its types: JSON Schema, reference page, and hints.
//!
//! Pure; the files in `docs/` are compared with what this makes. Knows no key by name.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::file::ConfigFile;
use super::origin::Step;
use super::overlay::SETTABLE;

/// The complete example of the reference page.
pub const EXAMPLE: &str = include_str!("example.toml");

const INTRODUCTION: &str = "\
# Configuration of `dunlind`

<!-- Generated from daemon/src/config; UPDATE_DOCS=1 cargo nextest run -p dunlin-daemon docs writes it anew. -->

`dunlind run --config /etc/dunlin/dunlind.toml` reads one TOML file and what stands beside it. Three tables are enough: `[mqtt]` with a
`url`, one `[[source]]`, one `[[model]]`. Everything else has a default.

Layers, each over the one before:

1. the main file;
2. `conf.d/*.toml` beside it, in name order: tables are merged key by key, `[[source]]` and `[[model]]` are appended, other arrays are replaced;
3. settings that a fleet server gives, see [below](#settings-from-the-fleet-server);
4. environment variables: `DUNLIN_MQTT__URL=mqtt://broker:1883` sets `mqtt.url` (`__` stands for the dot, case does not matter, `_` may stand for `-`);
5. `--set mqtt.url=mqtt://broker:1883`, as often as needed.

In the environment and with `--set` a value is read as TOML where that is possible, else as text. An element of `[[source]]` or `[[model]]`
is addressed by its name or its position from 0: `--set model.frost.window.hop=4`, `DUNLIN_SOURCE__0__RETAINED=use`.

Relative file names are meant relative to the file that writes them, in the environment and with `--set` relative to the working
directory. Lengths of time are a number and a unit (`us`, `ms`, `s`, `m`, `h`, `d`); bytes are a number, with a unit if wanted (`64MiB`, `1GiB`, `500MB`).
Passwords stand in files of their own, never in the configuration.

`dunlind check --config FILE` says everything that is wrong, with line and remedy; `--effective` prints the merged configuration with
all defaults and where each other value comes from; `--schema` prints the JSON Schema that editors use (`docs/dunlind.schema.json`;
`#:schema PATH` in the first line turns it on in many of them).

## A complete example

";

const SERVER_SETTINGS: &str = "\
## Settings from the fleet server

A file of settings is a TOML file like `dunlind.toml`, laid over it. Sources and models are named (`[model.frost.window]`); those that the
gateway's own configuration has not are refused, as is every key that is not listed here. The gateway tries settings and goes back by
itself where they do not prove themselves, see [a gateway in a fleet](fleet.md#settings). `fleet.settings = \"refuse\"` takes none.

";

/// Returns the JSON Schema of the configuration file, for editors.
#[must_use]
pub fn schema_json() -> String {
    let mut text = format!("{:#}", schema());
    text.push('\n');
    text
}

fn schema() -> Value {
    schemars::schema_for!(ConfigFile).to_value()
}

/// Returns `docs/configuration.md`: introduction, example, and a table for every table of the configuration.
#[must_use]
pub fn reference_markdown() -> String {
    let root = schema();
    let mut page = format!("{INTRODUCTION}```toml\n{EXAMPLE}```\n\n{SERVER_SETTINGS}");
    for pattern in SETTABLE {
        let _ = writeln!(page, "- `{}`", pattern.replace('*', "NAME"));
    }
    page.push_str("\n## All keys\n");
    let mut writer = Writer { root: &root, page: &mut page, written: BTreeSet::new() };
    writer.section("Top level", "", &root);
    page
}

/// Returns type and description of the key at a path, as a hint.
pub(super) fn describe(steps: &[Step]) -> Option<String> {
    let root = schema();
    let mut node = &root;
    let mut described = None;
    for step in steps {
        let table = resolve(&root, node);
        node = match step {
            Step::Key(key) => {
                let property = table.get("properties").and_then(|all| all.get(key));
                property.or_else(|| table.get("additionalProperties"))?
            }
            Step::Index(_) => table.get("items")?,
        };
        if let (Step::Key(key), Some(text)) = (step, text_of(node, "description")) {
            described =
                Some(format!("`{key}` ({}): {}", type_text(&root, node).replace("\\|", "|"), plain(text)));
        }
    }
    described
}

fn text_of<'v>(node: &'v Value, key: &str) -> Option<&'v str> {
    node.get(key).and_then(Value::as_str)
}

fn plain(text: &str) -> String {
    text.replace("*Range*", "Range").replace('\n', " ")
}

/// Follows references, and takes the other half of what may be null.
fn resolve<'v>(root: &'v Value, node: &'v Value) -> &'v Value {
    let mut node = node;
    // A reference leads to a definition, which may be an option of another: no type nests deeper.
    for _ in 0..4 {
        let next = match (text_of(node, "$ref"), node.get("anyOf").and_then(Value::as_array)) {
            (Some(reference), _) => root.pointer(reference.trim_start_matches('#')),
            (None, Some(choices)) => choices.iter().find(|choice| text_of(choice, "type") != Some("null")),
            (None, None) => None,
        };
        match next {
            Some(next) => node = next,
            None => break,
        }
    }
    node
}

fn properties(node: &Value) -> Option<&Map<String, Value>> {
    node.get("properties").and_then(Value::as_object)
}

fn type_text(root: &Value, node: &Value) -> String {
    if let Some(name) = reference_name(node)
        && matches!(name, "Span" | "Bytes")
    {
        return if name == "Span" { "length of time".to_owned() } else { "bytes".to_owned() };
    }
    let node = resolve(root, node);
    if let Some(choices) = node.get("oneOf").and_then(Value::as_array) {
        let values =
            choices.iter().filter_map(|choice| choice.get("const")).map(|value| format!("`{value}`"));
        return values.collect::<Vec<_>>().join(" \\| ");
    }
    if let Some(values) = node.get("enum").and_then(Value::as_array) {
        return values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" \\| ");
    }
    let kind = match node.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("any")
        }
        _ => "any",
    };
    match (kind, node.get("items"), node.get("additionalProperties")) {
        ("string", ..) => "text".to_owned(),
        ("boolean", ..) => "`true` \\| `false`".to_owned(),
        ("array", Some(items), _) => format!("array of {}", type_text(root, items)),
        ("array", None, _) => "array".to_owned(),
        ("object", _, Some(inner)) if inner.is_object() => format!("table of {}", type_text(root, inner)),
        ("object", ..) => "table".to_owned(),
        (other, ..) => other.to_owned(),
    }
}

fn reference_name(node: &Value) -> Option<&str> {
    let direct = text_of(node, "$ref");
    let optional = || {
        let choices = node.get("anyOf").and_then(Value::as_array)?;
        choices.iter().find_map(|choice| text_of(choice, "$ref"))
    };
    direct.or_else(optional)?.rsplit('/').next()
}

struct Writer<'w> {
    root: &'w Value,
    page: &'w mut String,
    written: BTreeSet<String>,
}

impl Writer<'_> {
    fn section(&mut self, title: &str, prefix: &str, node: &Value) {
        let table = resolve(self.root, node);
        let Some(properties) = properties(table) else { return };
        let _ = writeln!(self.page, "\n### {title}\n");
        if let Some(text) = text_of(node, "description").or_else(|| text_of(table, "description")) {
            let _ = writeln!(self.page, "{}\n", plain(text));
        }
        if let Some(name) = reference_name(node)
            && !self.written.insert(name.to_owned())
        {
            let _ = writeln!(self.page, "The keys are those of the table of the same kind above.");
            return;
        }
        let required: Vec<&str> = table
            .get("required")
            .and_then(Value::as_array)
            .map(|all| all.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let (nested, rows): (Vec<_>, Vec<_>) =
            properties.iter().partition(|(_, property)| self.inner(property).is_some());
        if !rows.is_empty() {
            let _ = writeln!(self.page, "| key | type | default | meaning |\n| --- | --- | --- | --- |");
        }
        for (key, property) in rows {
            let default = match property.get("default") {
                Some(Value::Null) | None if required.contains(&key.as_str()) => "**needed**".to_owned(),
                Some(Value::Null) | None => String::new(),
                Some(value) => format!("`{value}`"),
            };
            let kind = type_text(self.root, property);
            let text = text_of(property, "description").unwrap_or_default();
            let _ =
                writeln!(self.page, "| `{key}` | {kind} | {default} | {} |", plain(text).replace('|', "\\|"));
        }
        for (key, property) in nested {
            let Some((inner, shape)) = self.inner(property) else { continue };
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            let (title, path) = match shape {
                Shape::Table => (format!("`[{path}]`"), path),
                Shape::Named => (format!("`[{path}.NAME]`"), format!("{path}.NAME")),
                Shape::Repeated => (format!("`[[{path}]]`"), path),
            };
            let mut inner = inner.clone();
            if let (Value::Object(inner), Some(text)) = (&mut inner, property.get("description")) {
                inner.insert("description".to_owned(), text.clone());
            }
            self.section(&title, &path, &inner);
        }
    }

    /// Returns the table inside a property and how it is repeated, if the property has one.
    fn inner<'v>(&self, property: &'v Value) -> Option<(&'v Value, Shape)>
    where
        Self: 'v,
    {
        let is_table = |node: &Value| properties(resolve(self.root, node)).is_some();
        if is_table(property) {
            return Some((property, Shape::Table));
        }
        let repeated =
            property.get("items").filter(|items| is_table(items)).map(|items| (items, Shape::Repeated));
        let named = || property.get("additionalProperties").filter(|inner| is_table(inner));
        repeated.or_else(|| named().map(|inner| (inner, Shape::Named)))
    }
}

/// How often a table may stand in the file.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Table,
    Named,
    Repeated,
}
