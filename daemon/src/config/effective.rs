//! The merged configuration as TOML, with the origin of every value that is not a default.
//!
//! Writes text; what it writes reads back as the same configuration. For `dunlind check --effective`.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::origin::{Origins, child, element};

/// Returns the effective configuration as TOML; values that a layer wrote carry their origin as a comment.
#[must_use]
pub fn render(effective: &Table, origins: &Origins) -> String {
    let mut text = String::new();
    write_table(&mut text, origins, "", "", effective);
    text.trim_start().to_owned()
}

/// Writes the keys of a table, then the tables in it. `header` is its name in the file, `path` that in findings.
fn write_table(text: &mut String, origins: &Origins, header: &str, path: &str, table: &Table) {
    for (key, value) in table.iter().filter(|(_, value)| !has_header(value)) {
        let path = child(path, key);
        let _ = write!(text, "{} = {value}", key_text(key));
        if let Some(origin) = origins.exact(&path) {
            let _ = write!(text, "  # {origin}");
        }
        text.push('\n');
    }
    for (key, value) in table {
        let path = child(path, key);
        let header = child(header, &key_text(key));
        match value {
            Value::Table(inner) => {
                let _ = writeln!(text, "\n[{header}]");
                write_table(text, origins, &header, &path, inner);
            }
            Value::Array(items) if has_header(value) => {
                for (index, inner) in items.iter().enumerate() {
                    let _ = writeln!(text, "\n[[{header}]]");
                    if let Value::Table(inner) = inner {
                        write_table(text, origins, &header, &element(&path, index), inner);
                    }
                }
            }
            _ => {}
        }
    }
}

fn has_header(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_table),
        _ => false,
    }
}

fn key_text(key: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !key.is_empty() && key.bytes().all(bare) {
        key.to_owned()
    } else {
        // JSON's texts are TOML's, but for DEL, which TOML wants escaped.
        serde_json::Value::String(key.to_owned()).to_string().replace('\u{7f}', "\\u007f")
    }
}
