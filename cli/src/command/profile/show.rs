//! `dunlin profile show`: a reference profile, drawn in the terminal or as it stands in the file.
//!
//! Reads a profile alone or the one of a package's folder; judges nothing but whether it is sound.

use std::path::{Path, PathBuf};

use clap::Args;
use dunlin_model_package::Manifest;
use dunlin_model_package::package::{MANIFEST_BYTES_MAX, read_blob};
use dunlin_model_package::profile::{PROFILE_BYTES_MAX, PROFILE_FILE, Profile};

use crate::command::CommandError;
use crate::command::package::{MANIFEST_FILE, check_failed, read};
use crate::output::{Output, OutputArguments};
use crate::print;
use crate::profile::chart::{self, Ink, View};

/// Arguments of `dunlin profile show`.
#[derive(Debug, Clone, Args)]
pub struct ShowArguments {
    /// A profile, or the folder of a package that has one
    #[arg(value_name = "PACKAGE|FILE", default_value = "package")]
    pub profile: PathBuf,
    /// Show this field or output alone; may be given several times
    #[arg(long = "feature", value_name = "NAME")]
    pub features: Vec<String>,
    /// Draw with ASCII characters alone, as where the terminal's language has no others
    #[arg(long)]
    pub ascii: bool,
    /// How the result is shown.
    #[command(flatten)]
    pub output: OutputArguments,
}

/// Shows the profile.
///
/// *Errors*: there is none, or no such field (exit code 3), or it is not sound (5).
pub(super) fn run(arguments: &ShowArguments) -> Result<(), CommandError> {
    let mut profile = open(&arguments.profile)?;
    choose(&mut profile, &arguments.features)?;
    let format = arguments.output.format;
    if format.is_for_programs() {
        return Output::of(&profile)?.print_object(format);
    }
    let ink = if arguments.ascii || !print::has_unicode() { Ink::Ascii } else { Ink::Blocks };
    let view = View { columns: print::columns(), ink, all: format == crate::output::Format::Wide };
    chart::draw(&profile, &view).iter().for_each(|line| print::parts(line));
    Ok(())
}

fn open(path: &Path) -> Result<Profile, CommandError> {
    let bytes = if path.is_dir() {
        let manifest = Manifest::parse(&read(&path.join(MANIFEST_FILE), MANIFEST_BYTES_MAX)?)
            .map_err(|error| check_failed(&error))?;
        let Some(blob) = manifest.blobs.get(PROFILE_FILE) else {
            return Err(CommandError::NotFound(format!(
                "package `{}` has no reference profile; make one with `dunlin profile build`",
                path.display()
            )));
        };
        read_blob(&path.join(PROFILE_FILE), blob).map_err(|error| check_failed(&error))?
    } else {
        read(path, PROFILE_BYTES_MAX)?
    };
    Profile::parse(&bytes).map_err(|error| check_failed(&error))
}

/// Keeps the fields and outputs of these names; all where there is none.
fn choose(profile: &mut Profile, names: &[String]) -> Result<(), CommandError> {
    let known = |name: &&String| profile.features.contains_key(*name) || profile.outputs.contains_key(*name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        let all: Vec<String> =
            profile.features.keys().chain(profile.outputs.keys()).map(|name| format!("`{name}`")).collect();
        return Err(CommandError::NotFound(format!(
            "the profile has no `{name}`; it has {}",
            all.join(", ")
        )));
    }
    if !names.is_empty() {
        profile.features.retain(|name, _| names.contains(name));
        profile.outputs.retain(|name, _| names.contains(name));
        profile.together = None;
    }
    Ok(())
}
