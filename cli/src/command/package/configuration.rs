//! The part of a gateway's configuration that feeds one model: its sources and its table.
//!
//! Reads `[[source]]` and `[[model]]` of a `dunlind.toml` and passes over everything else, which `dunlind check` judges.

use std::path::Path;

use dunlin_model_package::{ModelSpec, SourceSpec};
use serde::Deserialize;

use super::read;
use crate::command::CommandError;

/// Longest configuration: as long as any that a person or a program writes for one gateway.
const CONFIGURATION_BYTES_MAX: u64 = 4 << 20;

#[derive(Deserialize)]
struct Tables {
    #[serde(default)]
    source: Vec<SourceSpec>,
    #[serde(default)]
    model: Vec<ModelSpec>,
}

/// How payloads become a model's input.
#[derive(Debug, Clone)]
pub(in crate::command) struct Configuration {
    /// The sources.
    pub(in crate::command) sources: Vec<SourceSpec>,
    /// The model, without the place of its package.
    pub(in crate::command) model: ModelSpec,
}

impl Configuration {
    /// Reads the tables for the model of this name, or for the only model.
    ///
    /// *Errors*: there is no file or no such model (exit code 3), or the file is not readable (exit code 5).
    pub(in crate::command) fn read(path: &Path, name: &str) -> Result<Self, CommandError> {
        let text = text(path, read(path, CONFIGURATION_BYTES_MAX)?)?;
        let tables: Tables = toml::from_str(&text).map_err(|error| {
            CommandError::CheckFailed(format!(
                "`{}` is refused: {}",
                path.display(),
                error.to_string().trim_end()
            ))
        })?;
        let position = match tables.model.iter().position(|model| model.name == name) {
            Some(position) => position,
            None if tables.model.len() == 1 => 0,
            None => {
                let message = format!(
                    "`{}` has no model `{name}`; add a [[model]] table that says what it is fed with",
                    path.display()
                );
                return Err(CommandError::NotFound(message));
            }
        };
        let mut model = tables.model.into_iter().nth(position).expect("the position was found in the list");
        model.package = None;
        Ok(Self { sources: tables.source, model })
    }

    /// Returns the unit that the sources give a field, where one does and no other gives another.
    pub(super) fn unit(&self, field: &str) -> Option<&str> {
        let fields =
            self.sources.iter().filter(|source| self.reads(&source.name)).filter_map(|s| s.fields.get(field));
        let mut units = fields.map(|field| field.unit.as_deref());
        let first = units.next()?;
        units.all(|unit| unit == first).then_some(first)?
    }

    fn reads(&self, source: &str) -> bool {
        self.model.sources.as_ref().is_none_or(|names| names.iter().any(|name| name == source))
    }
}

/// Returns bytes as text.
///
/// *Errors*: they are not UTF-8 (exit code 5).
pub(super) fn text(path: &Path, bytes: Vec<u8>) -> Result<String, CommandError> {
    String::from_utf8(bytes)
        .map_err(|_| CommandError::CheckFailed(format!("`{}` is not UTF-8 text", path.display())))
}
