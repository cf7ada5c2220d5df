//! `dunlin`: the operator's program.
//!
//! Dispatches to the commands; holds no logic of its own.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dunlin_cli::command;

/// Builds, checks, signs and publishes model packages for gateways.
#[derive(Debug, Parser)]
#[command(name = "dunlin", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build, check and show packages
    #[command(subcommand)]
    Package(command::package::PackageCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    command::finish(match arguments.command {
        Command::Package(package) => command::package::run(&package),
    })
}
