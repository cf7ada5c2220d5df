//! `dunlind rollback`: has a model go back to the release before, at once and without a network.
//!
//! Asks the running daemon, which decides and remembers; the release that is left is not tried again by itself.

use std::process::ExitCode;

use clap::Args;

use crate::command::models::release_text;
use crate::command::output::print;
use crate::command::{CommandError, StateDirArgs};
use crate::status::client::StatusClient;
use crate::status::escape::terminal_safe;
use crate::update::report::RollbackReport;

/// Arguments of `dunlind rollback`.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// The model's configured name
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Why, for `dunlind models` and the log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Where the daemon is
    #[command(flatten)]
    pub state: StateDirArgs,
}

/// Has the running daemon leave what serves, or what is being tried.
///
/// *Errors*: no daemon answers or the model is not configured (exit code 3), there is nothing to go back to (4).
pub fn run(args: &RollbackArgs) -> Result<ExitCode, CommandError> {
    let client = StatusClient::new(&args.state.resolve());
    let model = terminal_safe(&args.model);
    match client.rollback(&args.model, args.reason.as_deref())? {
        RollbackReport::Left { left, serving: Some(serving) } => {
            print(&format!("{model}: left {}; {} serves\n", release_text(&left), release_text(&serving)))?;
            Ok(ExitCode::SUCCESS)
        }
        RollbackReport::Left { left, serving: None } => {
            print(&format!(
                "{model}: left {}; nothing serves until a release is imported\n",
                release_text(&left)
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        RollbackReport::Nothing => Err(CommandError::Refused(format!(
            "model `{model}` has no release to go back to; import one with `dunlind import`"
        ))),
        RollbackReport::UnknownModel => Err(CommandError::NotFound(format!(
            "no model `{model}` is configured; `dunlind models` lists those that are"
        ))),
    }
}
