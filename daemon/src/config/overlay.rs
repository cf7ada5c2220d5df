//! Settings of the fleet server as a layer of the configuration: over the files, below environment and command line.
//!
//! Says what a server may set at all, and refuses everything else by name: nothing that says whom the gateway believes, where
//! it connects, what it reads and writes, or where its state is. Whether the values fit is checked with the other layers.

use std::path::PathBuf;

use dunlin_kit::digest::Digest;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use super::finding::Finding;
use super::hint::did_you_mean;
use super::layer::{Merged, Source};
use super::origin::{child, element};

/// Longest file of settings: every key of sixty-four models and sources.
pub const SETTINGS_BYTES_MAX: u64 = 64 << 10;

/// What a fleet server may set; `*` is the name of a source or model that the gateway's own configuration has. Without
/// brokers, topics, files, trust, the link itself and the state folder.
pub const SETTABLE: [&str; 29] = [
    "publish.mode",
    "publish.qos",
    "storage",
    "inference",
    "update",
    "log.filter",
    "source.*.ignore",
    "source.*.retained",
    "source.*.each",
    "source.*.delimiter",
    "source.*.header",
    "source.*.tags",
    "source.*.time",
    "source.*.fields",
    "source.*.series_max",
    "source.*.new_topics_per_second_max",
    "model.*.skew_max",
    "model.*.inputs",
    "model.*.missing",
    "model.*.window.length",
    "model.*.window.hop",
    "model.*.window.gap_max",
    "model.*.window.lateness",
    "model.*.window.every",
    "model.*.window.resample",
    "model.*.window.method",
    "model.*.trigger",
    "model.*.alert.rate_limit",
    "model.*.alert.debounce",
];

/// A file of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Path of the target, for findings.
    pub target: String,
    /// SHA-256 of the text.
    pub digest: Digest,
    /// The settings, as TOML.
    pub text: String,
}

/// Lays the settings over what the files say.
///
/// *Errors*: it is no TOML, or sets what a server may not set; then nothing is to be used.
pub(super) fn merge(merged: &mut Merged, overlay: &Overlay) -> Result<(), Vec<Finding>> {
    let path = PathBuf::from(format!("the fleet server's `{}`", overlay.target.escape_debug()));
    let source = Source { path: &path, text: &overlay.text };
    let (document, errors) = DeTable::parse_recoverable(&overlay.text);
    if !errors.is_empty() {
        return Err(errors.iter().map(|error| source.syntax_finding(error)).collect());
    }
    let mut errors = Vec::new();
    require_settable(&source, &mut Vec::new(), document.get_ref(), &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    for (key, value) in document.get_ref() {
        let name = key.get_ref().as_ref();
        if matches!(name, "source" | "model") {
            merge_elements(merged, &source, name, value, &mut errors);
            continue;
        }
        let DeValue::Table(more) = value.get_ref() else { continue };
        let table = merged.table.entry(name.to_owned()).or_insert_with(|| Value::Table(toml::Table::new()));
        if let Value::Table(table) = table {
            source.merge_table(table, &mut merged.origins, name, more, &mut errors);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Lays tables over the elements of an array that have their names.
fn merge_elements(
    merged: &mut Merged,
    source: &Source<'_>,
    array: &str,
    tables: &Spanned<DeValue<'_>>,
    errors: &mut Vec<Finding>,
) {
    let DeValue::Table(tables) = tables.get_ref() else { return };
    let mut elements = match merged.table.get_mut(array) {
        Some(Value::Array(elements)) => std::mem::take(elements),
        _ => Vec::new(),
    };
    for (key, value) in tables {
        let name = key.get_ref().as_ref();
        let names: Vec<&str> = elements.iter().filter_map(|one| one.get("name")?.as_str()).collect();
        let Some(index) =
            elements.iter().position(|one| one.get("name").and_then(Value::as_str) == Some(name))
        else {
            errors.push(Finding {
                origin: source.origin(key.span().start),
                path: child(array, name),
                message: format!("the gateway has no {array} `{name}`, and a fleet server adds none"),
                hint: Some(did_you_mean(name, &names).1),
            });
            continue;
        };
        if let (Some(Value::Table(known)), DeValue::Table(more)) = (elements.get_mut(index), value.get_ref())
        {
            source.merge_table(known, &mut merged.origins, &element(array, index), more, errors);
        }
    }
    if let Some(Value::Array(array)) = merged.table.get_mut(array) {
        *array = elements;
    }
}

/// How a path stands to what may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// It may be set, with all below it.
    Settable,
    /// Something below it may.
    Above,
    /// Nothing of it may.
    Closed,
}

fn reach(path: &[String]) -> Reach {
    let mut found = Reach::Closed;
    for pattern in SETTABLE {
        let steps: Vec<&str> = pattern.split('.').collect();
        let is_same = steps.iter().zip(path).all(|(step, key)| *step == "*" || step == key);
        match is_same {
            true if path.len() >= steps.len() => return Reach::Settable,
            true => found = Reach::Above,
            false => {}
        }
    }
    found
}

fn require_settable(
    source: &Source<'_>,
    path: &mut Vec<String>,
    table: &DeTable<'_>,
    errors: &mut Vec<Finding>,
) {
    for (key, value) in table {
        path.push(key.get_ref().clone().into_owned());
        match (reach(path), value.get_ref()) {
            (Reach::Settable, DeValue::Table(_)) => {}
            // A whole table has to be one: `storage = 1` is told of here, where its table is merged.
            (Reach::Settable, _) if path.len() > 1 => {}
            (Reach::Above, DeValue::Table(more)) => require_settable(source, path, more, errors),
            _ => errors.push(Finding {
                origin: source.origin(key.span().start),
                path: path.join("."),
                message: "may not be set by a fleet server".to_owned(),
                hint: Some("what may be is listed in docs/configuration.md; sources and models are named, as in `[model.frost.window]`".to_owned()),
            }),
        }
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadRequest, load};

    const LOCAL: &str = r#"
[mqtt]
url = "mqtt://localhost"
[fleet]
labels = { hall = "3" }
[[source]]
name = "lab"
topics = ["lab/{sensor}"]
format = "json"
[source.fields]
v = { pointer = "/v" }
[[model]]
name = "double"
key = ["sensor"]
inputs.x = ["v"]
window = { length = 1, hop = 1 }
output = { topic = "out/{model}/{key}" }
"#;

    fn loaded(text: &str, set: &[&str]) -> Result<toml::Table, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dunlind.toml");
        dunlin_kit::atomic_file::write(&file, LOCAL.as_bytes()).unwrap();
        let overlay = Overlay {
            target: "settings/a.toml".to_owned(),
            digest: Digest::of(text.as_bytes()),
            text: text.to_owned(),
        };
        let set = set.iter().map(|option| (*option).to_owned()).collect();
        let request = LoadRequest { file, set, overlay: Some(overlay), ..LoadRequest::default() };
        load(&request).map(|loaded| loaded.effective).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_server_wins_over_the_file_and_the_command_line_over_both() {
        let text = "[log]\nfilter = \"debug\"\n[storage]\nbytes_max = \"2GiB\"\n\
                    [model.double.window]\nhop = 3\nlength = 4\n[source.lab.fields.v]\nscale = 2.0\n";
        let effective = loaded(text, &["log.filter=warn"]).unwrap();
        assert_eq!(effective["log"]["filter"].as_str(), Some("warn"));
        assert_eq!(effective["storage"]["bytes_max"].as_str(), Some("2GiB"));
        assert_eq!(effective["model"][0]["window"]["hop"].as_integer(), Some(3));
        assert_eq!(effective["source"][0]["fields"]["v"]["pointer"].as_str(), Some("/v"));
        assert_eq!(effective["source"][0]["fields"]["v"]["scale"].as_float(), Some(2.0));
    }

    #[test]
    fn what_a_server_may_not_set_is_refused_by_name() {
        for (text, named) in [
            ("state_dir = \"/tmp\"", "state_dir"),
            ("gateway = \"other\"", "gateway"),
            ("[mqtt]\nurl = \"mqtt://evil\"", "mqtt"),
            ("[brokers.evil]\nurl = \"mqtt://evil\"", "brokers"),
            ("[fleet]\nurl = \"https://evil\"", "fleet"),
            ("[fleet]\nsettings = \"take\"", "fleet"),
            ("[trust]\nroot = \"/tmp/root.json\"", "trust"),
            ("[http]\nlisten = \"0.0.0.0:1\"", "http"),
            ("[publish]\nbroker = \"evil\"", "publish.broker"),
            ("[source.lab]\ntopics = [\"#\"]", "source.lab.topics"),
            ("[source.lab]\nbroker = \"evil\"", "source.lab.broker"),
            ("[[source]]\nname = \"more\"", "source"),
            ("[[model]]\nname = \"more\"", "model"),
            ("[model.other.window]\nhop = 2", "model.other"),
            ("[model.double]\npackage = \"/tmp\"", "model.double.package"),
            ("[model.double.output]\ntopic = \"evil\"", "model.double.output"),
            ("[model.double.alert]\ntopic = \"evil\"", "model.double.alert.topic"),
            ("storage = 1", "storage"),
        ] {
            let errors = loaded(text, &[]).unwrap_err();
            assert!(errors.contains(&format!(": {named}: ")), "{text}: {errors}");
            assert!(errors.starts_with("the fleet server's `settings/a.toml`:"), "{errors}");
        }
    }

    #[test]
    fn values_are_checked_as_those_of_a_file() {
        for (text, named) in [
            ("[storage]\nbytes_max = \"1\"", "storage.bytes_max"),
            ("[storage]\nbytes_maxx = \"1GiB\"", "storage.bytes_maxx"),
            ("[inference]\nbatch_max = 0", "inference.batch_max"),
            ("[log\n", "settings/a.toml"),
        ] {
            assert!(loaded(text, &[]).unwrap_err().contains(named), "{text}");
        }
    }
}
