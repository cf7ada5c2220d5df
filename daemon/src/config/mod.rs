//! The configuration: files, environment and command line, checked as a whole.
//!
//! [`load`] gives settings in which everything holds together, or all that is wrong at once, each with its line and
//! a hint. Connects to nothing and starts nothing; `command/check.rs` and the daemon's start stand on it.

mod brokers;
mod decode;
mod drift;
pub mod effective;
pub mod file;
pub mod finding;
mod fleet;
mod hint;
mod layer;
mod models;
pub mod origin;
pub mod overlay;
pub mod quantity;
pub mod reference;
mod resolve;
pub mod settings;
mod topics;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub(crate) use brokers::is_world_readable;
pub use finding::{ConfigErrors, Finding, findings_to_errors};
pub use origin::{Origin, Origins};
pub use reference::{reference_markdown, schema_json};
pub use settings::Settings;

use finding::Findings;

/// What a configuration is loaded from.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// The main file; `conf.d/*.toml` beside it is read after it, in name order.
    pub file: PathBuf,
    /// `key.path=value`, in order; over everything else.
    pub set: Vec<String>,
    /// The process environment: `DUNLIN_…` overrides files, `STATE_DIRECTORY` and `CREDENTIALS_DIRECTORY` are systemd's.
    pub environment: Vec<(String, String)>,
    /// The state folder of the command line, over every other.
    pub state_dir: Option<PathBuf>,
    /// Settings of the fleet server: over the files, below the environment.
    pub overlay: Option<overlay::Overlay>,
}

impl LoadRequest {
    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// Returns the process environment; variables that are not UTF-8 are left out, since no setting is written so.
#[must_use]
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// A configuration in which everything holds together.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What is allowed but doubtful.
    pub warnings: Vec<Finding>,
    /// Where each value was written.
    pub origins: Origins,
    /// The merged configuration with every default filled in.
    pub effective: toml::Table,
    /// SHA-256 of the fleet server's settings among them, where there are any.
    pub overlay: Option<dunlin_kit::digest::Digest>,
}

/// Loads and checks a configuration.
///
/// *Errors*: everything that is wrong with it; the caller prints it and uses nothing.
pub fn load(request: &LoadRequest) -> Result<Loaded, ConfigErrors> {
    inspect(request).0
}

/// Loads and checks a configuration like [`load`]; beside it, what is allowed but doubtful, of a refused one too.
pub fn inspect(request: &LoadRequest) -> (Result<Loaded, ConfigErrors>, Vec<Finding>) {
    let mut merged = match layer::merge(request) {
        Ok(merged) => merged,
        Err(errors) => return (Err(errors), Vec::new()),
    };
    let (file, decoded) = decode::decode(&mut merged);
    let mut findings = Findings::new(&merged.origins);
    let resolved = file.map(|file| resolve::resolve(file, request, &merged.origins, &mut findings));
    let Findings { mut errors, warnings, .. } = findings;
    errors.retain(|finding| !decoded.explains(finding));
    let mut all = decoded.errors;
    all.append(&mut errors);
    let loaded = match resolved {
        Some(resolved) if all.is_empty() => Ok(Loaded {
            settings: resolved.settings,
            effective: resolved.effective,
            warnings: warnings.clone(),
            origins: merged.origins,
            overlay: request.overlay.as_ref().map(|overlay| overlay.digest),
        }),
        _ => Err(ConfigErrors(all)),
    };
    (loaded, warnings)
}
