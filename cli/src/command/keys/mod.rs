//! `dunlin keys`: makes, shows, replaces and withdraws the keys that gateways trust.
//!
//! Dispatches; each command has a file.

use clap::Subcommand;

use super::CommandError;

pub mod init;

/// Makes, shows, replaces and withdraws the keys that gateways trust.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make the keys and the first metadata of a repository.
    Init(init::InitArguments),
}

impl KeysCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the command.
    pub fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Init(arguments) => init::run(&arguments),
        }
    }
}
