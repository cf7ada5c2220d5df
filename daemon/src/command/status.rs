//! `dunlind status`: what the running daemon does, for people or as JSON.
//!
//! Asks over the status socket and prints; changes nothing.

use std::process::ExitCode;

use clap::Args;

use crate::command::output::print;
use crate::command::{CommandError, StateDirArgs};
use crate::status::client::StatusClient;
use crate::status::terminal::render_status;

/// Arguments of `dunlind status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Where the daemon is
    #[command(flatten)]
    pub state: StateDirArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints the status of the running daemon.
///
/// *Errors*: no daemon answers (exit code 3), or writing failed.
pub fn run(args: &StatusArgs) -> Result<ExitCode, CommandError> {
    let report = StatusClient::new(&args.state.resolve()).status()?;
    if args.json {
        let json = serde_json::to_string_pretty(&report);
        print(&(json.map_err(|error| CommandError::failed("cannot print the status", error))? + "\n"))?;
    } else {
        print(&render_status(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
