//! `dunlin login`: keeps a server and a token for the commands to come.
//!
//! Asks the server first, so that what is kept works.

use clap::Args;
use dunlin_fleet_api::server::ServerStatus;

use super::CommandError;
use crate::fleet::profile::ServerArguments;
use crate::print;

/// Arguments of `dunlin login`.
#[derive(Debug, Args)]
#[command(after_help = "\
A new server has its first token, an administrator's, in the file `keys/admin.token` of its data folder. Make one for each \
person and program with `dunlin tokens new`, and revoke the first.")]
pub struct LoginArguments {
    /// URL of the fleet server, as in `https://fleet.example`
    url: String,
    #[command(flatten)]
    server: ServerArguments,
}

/// Runs the command.
///
/// *Errors*: the server cannot be reached or does not know the token.
pub fn run(arguments: &LoginArguments) -> Result<(), CommandError> {
    let server = ServerArguments { server: Some(arguments.url.clone()), ..arguments.server.clone() };
    let client = server.client()?;
    let status: ServerStatus = client.get("/v1/server")?;
    let path = server.keep(client.url(), client.token())?;
    print::line(&format!("logged in to {} ({}), kept in `{}`", client.url(), status.server, path.display()));
    if !status.image.is_adopted {
        print::note("next: `dunlin server adopt`, so that gateways believe this server");
    }
    Ok(())
}
