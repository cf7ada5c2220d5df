//! What is wrong with a configuration: a message, where it is, and what to do.
//!
//! Only the report; the checks are this module's siblings. Holds names and reasons, never a secret.

use std::fmt;

use dunlin_pipeline::refusal::SpecFinding;
use serde::Serialize;

use super::origin::{Origin, Origins};

/// One thing that is wrong, or in a list of warnings, doubtful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where the value was written.
    pub origin: Origin,
    /// Path of the value, as in `model[0].window.every`; empty for a whole file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = serializer.serialize_struct("Finding", 4)?;
        fields.serialize_field("origin", &self.origin.to_string())?;
        fields.serialize_field("path", &self.path)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("hint", &self.hint)?;
        fields.end()
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Finding>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Gives the pipeline's findings their lines; their paths are those of the merged configuration.
#[must_use]
pub fn findings_to_errors(findings: Vec<SpecFinding>, origins: &Origins) -> ConfigErrors {
    ConfigErrors(
        findings
            .into_iter()
            .map(|SpecFinding { path, message }| Finding {
                origin: origins.nearest(&path),
                path,
                message,
                hint: None,
            })
            .collect(),
    )
}

/// Collects the findings of several checks.
#[derive(Debug)]
pub(super) struct Findings<'o> {
    origins: &'o Origins,
    pub(super) errors: Vec<Finding>,
    pub(super) warnings: Vec<Finding>,
}

impl<'o> Findings<'o> {
    pub(super) const fn new(origins: &'o Origins) -> Self {
        Self { origins, errors: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn error(&mut self, path: &str, message: impl Into<String>, hint: impl Into<String>) {
        let finding = self.finding(path, message.into(), hint.into());
        self.errors.push(finding);
    }

    pub(super) fn warning(&mut self, path: &str, message: impl Into<String>, hint: impl Into<String>) {
        let finding = self.finding(path, message.into(), hint.into());
        self.warnings.push(finding);
    }

    fn finding(&self, path: &str, message: String, hint: String) -> Finding {
        Finding { origin: self.origins.nearest(path), path: path.to_owned(), message, hint: Some(hint) }
    }
}
