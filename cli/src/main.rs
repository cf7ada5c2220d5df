//! `dunlin`: the operator's program.
//!
//! Dispatches to the commands; holds no logic of its own.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use dunlin_cli::command;
use dunlin_cli::command::bundle::BundleCommand;
use dunlin_cli::command::devices::{DevicesCommand, LabelsCommand};
use dunlin_cli::command::keys::KeysCommand;
use dunlin_cli::command::login::LoginArguments;
use dunlin_cli::command::manual::{self, CompletionsArguments, ManualArguments};
use dunlin_cli::command::people::{AuditCommand, EnrolmentTokensCommand, TokensCommand};
use dunlin_cli::command::profile::ProfileCommand;
use dunlin_cli::command::publish::PublishArguments;
use dunlin_cli::command::rollout::RolloutCommand;
use dunlin_cli::command::server::ServerCommand;
use dunlin_cli::command::sign::SignArguments;
use dunlin_cli::command::simulate::SimulateArguments;

/// Builds, checks, signs and publishes model packages, and rolls them out to gateways.
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
    /// Bring the fleet server, or a folder, to what was signed.
    Publish(PublishArguments),
    /// Carry releases to sites without a network, and results back.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Build, check and show packages.
    #[command(subcommand)]
    Package(command::package::PackageCommand),
    /// Make and draw reference profiles: what a model's inputs and outputs were like.
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Keep a fleet server and a token for the commands to come.
    Login(LoginArguments),
    /// Show a fleet server, and sign that it speaks for the fleet.
    #[command(subcommand)]
    Server(ServerCommand),
    /// Show gateways, accept, suspend and revoke them.
    #[command(subcommand)]
    Devices(DevicesCommand),
    /// Give gateways labels.
    #[command(subcommand)]
    Labels(LabelsCommand),
    /// Make, list and revoke the tokens by which gateways come in.
    #[command(subcommand)]
    EnrolmentTokens(EnrolmentTokensCommand),
    /// Make, list and revoke tokens of people and programs.
    #[command(subcommand)]
    Tokens(TokensCommand),
    /// Plan, start, watch and end rollouts.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Show who did what, and check that nothing was changed.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Have a crowd of simulated gateways speak with a server, and measure it.
    Simulate(Box<SimulateArguments>),
    /// Print what completes these commands in a shell.
    Completions(CompletionsArguments),
    /// Write man pages.
    Manual(ManualArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    command::finish(match arguments.command {
        Command::Keys(command) => command.run(),
        Command::Sign(arguments) => command::sign::run(&arguments),
        Command::Publish(arguments) => command::publish::run(&arguments),
        Command::Bundle(command) => command.run(),
        Command::Package(package) => command::package::run(&package),
        Command::Profile(command) => command.run(),
        Command::Login(arguments) => command::login::run(&arguments),
        Command::Server(command) => command.run(),
        Command::Devices(command) => command.run(),
        Command::Labels(command) => command.run(),
        Command::EnrolmentTokens(command) => command.run(),
        Command::Tokens(command) => command.run(),
        Command::Rollout(command) => command.run(),
        Command::Audit(command) => command.run(),
        Command::Simulate(arguments) => command::simulate::run(&arguments),
        Command::Completions(arguments) => {
            manual::complete(&arguments, Arguments::command());
            Ok(())
        }
        Command::Manual(arguments) => manual::write(&arguments, Arguments::command()),
    })
}
