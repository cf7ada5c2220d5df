//! `dunlin profile`: what a model's inputs and outputs were like, made from data and drawn in the terminal.
//!
//! A profile says later whether gateways see something else. Holds counts and scores, never a series of readings.

mod build;
mod report;
mod show;

use clap::Subcommand;

use super::CommandError;

/// What is done with a reference profile.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Make a package's reference profile from readings: CSV, Parquet, or what a gateway exported.
    Build(Box<build::BuildArguments>),
    /// Draw a profile: what each field and output was like.
    Show(show::ShowArguments),
}

impl ProfileCommand {
    /// Runs the command.
    ///
    /// *Errors*: its failure, with the exit code of its kind.
    pub fn run(&self) -> Result<(), CommandError> {
        match self {
            Self::Build(arguments) => build::run(arguments),
            Self::Show(arguments) => show::run(arguments),
        }
    }
}
