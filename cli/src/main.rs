//! `dunlin`: the operator's program.
//!
//! Dispatches to the commands; holds no logic of its own.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dunlin_cli::command;
use dunlin_cli::command::bundle::BundleCommand;
use dunlin_cli::command::keys::KeysCommand;
use dunlin_cli::command::publish::PublishArguments;
use dunlin_cli::command::sign::SignArguments;

/// Builds, checks, signs and publishes model packages for gateways.
#[derive(Debug, Parser)]
#[command(name = "dunlin", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, show, replace and withdraw the keys that gateways trust.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Approve a model package, so that gateways may run it.
    Sign(SignArguments),
    /// Bring a folder to what was signed, for gateways to fetch from.
    Publish(PublishArguments),
    /// Put signed releases into one file for a stick.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Build, check and show packages
    #[command(subcommand)]
    Package(command::package::PackageCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    command::finish(match arguments.command {
        Command::Keys(command) => command.run(),
        Command::Sign(arguments) => command::sign::run(&arguments),
        Command::Publish(arguments) => command::publish::run(&arguments),
        Command::Bundle(command) => command.run(),
        Command::Package(package) => command::package::run(&package),
    })
}
