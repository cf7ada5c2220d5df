//! `dunlin package`: from an ONNX file to a folder that can be signed, and what is known of it.
//!
//! Builds, checks and shows packages; never signs for others and never loads a model that the verifier has not passed:
//! while it builds and checks, a key that lives as long as the command approves the folder.

mod arrays;
pub(super) mod build;
mod check;
pub(super) mod configuration;
mod draft;
mod evidence;
mod init;
mod inspect;
mod measure;
mod published;
mod report;
mod samples;
mod spec;

use std::path::Path;

use clap::{Subcommand, ValueEnum};
use dunlin_model_package::package::{MANIFEST_BYTES_MAX, read_limited};
use dunlin_model_package::{Blobs, Manifest, Package, PackageError};
use dunlin_trust::sign::Development;

use super::CommandError;

/// Name of the manifest's file in a package's folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What is done with a package.
#[derive(Debug, Subcommand)]
pub enum PackageCommand {
    /// Builds a package from an ONNX file, package.toml and sample payloads
    Build(build::Args),
    /// Says whether a package would run well, with a remedy for what would not
    Check(check::Args),
    /// Shows what a package holds
    Inspect(inspect::Args),
    /// Runs a package's model and prints what it takes, for `check`
    #[command(hide = true)]
    Measure(measure::Args),
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Runs the command.
///
/// *Errors*: its failure, with the exit code of its kind.
pub fn run(command: &PackageCommand) -> Result<(), CommandError> {
    match command {
        PackageCommand::Build(args) => build::run(args),
        PackageCommand::Check(args) => check::run(args),
        PackageCommand::Inspect(args) => inspect::run(args),
        PackageCommand::Measure(args) => measure::run(args),
    }
}

/// Reads a file of at most this many bytes.
///
/// *Errors*: there is none (exit code 3), or it cannot be read.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, CommandError> {
    read_limited(path, bytes_max).map_err(|error| match error {
        PackageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            CommandError::NotFound(format!("there is no file `{}`", path.display()))
        }
        other => CommandError::Failed { message: other.to_string(), source: other.into_io() },
    })
}

/// Keeps the cause of a failed read.
trait IntoIo {
    fn into_io(self) -> Option<super::Cause>;
}

impl IntoIo for PackageError {
    fn into_io(self) -> Option<super::Cause> {
        match self {
            Self::Io { source, .. } => Some(source.into()),
            _ => None,
        }
    }
}

/// Returns an error with its causes as what a check found.
pub(super) fn check_failed(error: &dyn std::error::Error) -> CommandError {
    CommandError::CheckFailed(dunlin_kit::error_chain::Chain(error).to_string())
}

/// Has a key of this process approve the package in a folder and opens it, as a gateway would.
///
/// *Errors*: there is no manifest, it is refused, or a file is missing or another than it names (exit code 5).
pub(crate) fn approve(folder: &Path) -> Result<Package, CommandError> {
    let bytes = read(&folder.join(MANIFEST_FILE), MANIFEST_BYTES_MAX)?;
    let manifest = Manifest::parse(&bytes).map_err(|error| check_failed(&error))?;
    let (evidence, anchor) =
        Development::new().sign(&manifest.target_path(), &bytes, Some(&manifest.release_note()));
    let file = evidence.verify(&anchor, bytes).map_err(|error| check_failed(&error))?;
    Package::open(file, Blobs::ByName(folder.to_owned())).map_err(|error| check_failed(&error))
}
