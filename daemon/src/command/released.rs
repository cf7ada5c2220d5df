//! The release that a model would run with, for commands beside the daemon: the configured bundle's, or the installed one.
//!
//! Verified as for a gateway and kept nowhere; never changes the state folder.

use std::path::Path;

use dunlin_kit::error_chain::Chain;

use super::CommandError;
use crate::app::{LaneStart, LaneStarts};
use crate::config::settings::{ModelSettings, Settings};
use crate::lanes::LaneRole;
use crate::update::importer::read_root;
use crate::update::open_release::{OpenError, OpenedRelease, open_installed, open_release, time_of};
use crate::update::place::{Place, PlaceError};
use crate::update::trust_state::Clocks;

/// Opens the newest release of a bundle or repository under a root of trust.
///
/// *Errors*: it is not there (exit code 3), refused (5), or cannot be read (1).
pub fn open(path: &Path, root: &Path, model: Option<&str>) -> Result<OpenedRelease, CommandError> {
    let place = Place::open(path).map_err(|error| match error {
        PlaceError::NotFound(_) => CommandError::NotFound(error.to_string()),
        other => CommandError::failed(format!("cannot open `{}`", path.display()), other),
    })?;
    let root_bytes = read_root(root).map_err(|error| {
        CommandError::failed(format!("cannot read the root of trust `{}`", root.display()), error)
    })?;
    open_release(&place, &root_bytes, model, time_of(&Clocks::read())).map_err(|error| match error {
        OpenError::Refused(refusal) => {
            CommandError::CheckFailed(format!("`{}` is refused: {refusal}", path.display()))
        }
        OpenError::Model { .. } => CommandError::NotFound(format!("`{}`: {error}", path.display())),
        other => CommandError::failed(format!("cannot use `{}`", path.display()), other),
    })
}

/// Opens the release that a configured model would run with; `None` where there is none yet. A configured place that went
/// away, as a stick does, leaves what is installed.
///
/// *Errors*: it is refused, damaged or cannot be read.
pub fn of_model(settings: &Settings, model: &ModelSettings) -> Result<Option<OpenedRelease>, CommandError> {
    let name = &model.spec.name;
    match (&model.package, &settings.trust_root) {
        (Some(place), Some(root)) if place.exists() => open(place, root, Some(name)).map(Some),
        _ => open_installed(&settings.state_dir, name).map_err(|error| CommandError::Failed {
            message: format!("the installed release of `{name}` cannot be used: {}", Chain(&error)),
            source: None,
        }),
    }
}

/// Returns the lanes that serve these releases, model by model.
#[must_use]
pub fn serving(releases: &[Option<OpenedRelease>]) -> LaneStarts {
    let start = |release: &OpenedRelease| LaneStart {
        role: LaneRole::Serving,
        package: release.package.clone(),
        p99_budget: None,
    };
    releases.iter().map(|release| [release.as_ref().map(start), None]).collect()
}
