//! `dunlind sources`: what arrived from each source, and which payloads were refused and why.
//!
//! Asks over the status socket and prints; changes nothing. Payloads are shown cut and escaped.

use std::process::ExitCode;

use clap::Args;

use crate::command::output::print;
use crate::command::{CommandError, StateDirArgs};
use crate::status::client::StatusClient;
use crate::status::terminal::{render_source_errors, render_sources};

/// Arguments of `dunlind sources`.
#[derive(Debug, Clone, Args)]
pub struct SourcesArgs {
    /// Where the daemon is
    #[command(flatten)]
    pub state: StateDirArgs,
    /// Print the last refused payload of each source and reason
    #[arg(long)]
    pub errors: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints the sources of the running daemon.
///
/// *Errors*: no daemon answers (exit code 3), or writing failed.
pub fn run(args: &SourcesArgs) -> Result<ExitCode, CommandError> {
    let mut sources = StatusClient::new(&args.state.resolve()).sources()?;
    if args.json {
        if !args.errors {
            sources.values_mut().for_each(|source| source.samples.clear());
        }
        let json = serde_json::to_string_pretty(&sources);
        print(&(json.map_err(|error| CommandError::failed("cannot print the sources", error))? + "\n"))?;
    } else if args.errors {
        print(&render_source_errors(&sources))?;
    } else {
        print(&render_sources(&sources))?;
    }
    Ok(ExitCode::SUCCESS)
}
