//! `dunlind enroll`: makes this gateway known to a fleet server, while no daemon runs.
//!
//! The daemon does the same by itself where the configuration names a server; by hand it is done before the first start,
//! and anew where a server has forgotten or refuses the gateway. Shows the six words that people compare.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use dunlin_kit::error_chain::Chain;

use crate::command::offline::CONFIG_DEFAULT;
use crate::command::output::print;
use crate::command::{CommandError, StateDirArgs};
use crate::config::{self, LoadRequest, process_environment};
use crate::link::enrolment::{EnrolError, Enrolling, read_token};
use crate::link::identity::Identity;
use crate::link::meter::Meter;
use crate::link::remote::Remote;
use crate::link::server_clock::ServerClock;
use crate::link::settings::LinkSettings;
use crate::store::{FleetStore, FolderLock, StoreError, TrustStore};

/// Arguments of `dunlind enroll`.
#[derive(Debug, Clone, Args)]
pub struct EnrollArgs {
    /// The server, as in `https://fleet.example` [default: the one of the token, else `fleet.url`]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// File with an enrolment token in its first line [default: `fleet.token_file`]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print the gateway's public key and its six words, and enrol nowhere: for `dunlin devices expect`
    #[arg(long, conflicts_with_all = ["server", "token_file"])]
    pub show_key: bool,
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    pub config: PathBuf,
    /// Where the daemon keeps its state
    #[command(flatten)]
    pub state: StateDirArgs,
}

/// Enrols the gateway.
///
/// *Errors*: the daemon runs or the server refuses (exit code 4), what came is not to be trusted (5), there is nothing to
/// enrol with (2), or the server was not reached (1).
pub fn run(args: &EnrollArgs) -> Result<ExitCode, CommandError> {
    let loaded = config::load(&LoadRequest {
        file: args.config.clone(),
        set: Vec::new(),
        environment: process_environment(),
        state_dir: args.state.state_dir.clone(),
        overlay: None,
    })
    .map_err(|errors| CommandError::Configuration {
        message: format!("the configuration is refused\n{errors}"),
        source: None,
    })?;
    let mut settings = LinkSettings::of(&loaded);
    if args.show_key {
        return show_key(&settings.state_dir);
    }
    let token_file = args.token_file.clone().or_else(|| settings.fleet.token_file.clone());
    let token = token_file.as_deref().filter(|path| args.token_file.is_some() || path.exists());
    let token = token.map(read_token).transpose().map_err(refused)?;
    let named = token.as_ref().map(|token| token.claim().server_url.to_string());
    settings.fleet.url = args.server.clone().or(named).or(settings.fleet.url);
    let remote = settings.remote(None);
    let remote = remote.ok_or_else(|| {
        CommandError::Usage("name the server with `--server`, or give a token with `--token-file`".to_owned())
    })?;
    let lock = lock(&settings.state_dir)?;
    let store_failed = |error: StoreError| CommandError::failed("cannot use the state folder", error);
    let mut trust = TrustStore::open(&lock).map_err(store_failed)?;
    let mut fleet = FleetStore::open(&lock).map_err(store_failed)?;
    let identity = Identity::open(&settings.state_dir)
        .map_err(|error| CommandError::failed("the gateway has no identity", error))?;
    let remote = Remote::open(&remote, Arc::<Meter>::default())
        .map_err(|error| CommandError::failed("no connection can be made", error))?;
    let life = Enrolling {
        remote: &remote,
        identity: &identity,
        settings: &settings,
        token: token.as_ref(),
        trust: &mut trust,
        fleet: &mut fleet,
        clock: &ServerClock::default(),
    }
    .run()
    .map_err(refused)?;
    print(&format!(
        "enrolled at {} ({})\ngateway {}\nwords   {}\n",
        life.url,
        life.server,
        identity.device(),
        identity.words()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the key, which is made where there is none; beside a running daemon too, which has made it already.
fn show_key(state_dir: &Path) -> Result<ExitCode, CommandError> {
    let no_identity = |error| CommandError::failed("the gateway has no identity", error);
    let identity = match Identity::read(state_dir).map_err(no_identity)? {
        Some(identity) => identity,
        None => {
            let _alone = lock(state_dir)?;
            Identity::open(state_dir).map_err(no_identity)?
        }
    };
    let (key, device, words) = (identity.public(), identity.device(), identity.words());
    print(&format!("key     {key}\ngateway {device}\nwords   {words}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn lock(folder: &Path) -> Result<FolderLock, CommandError> {
    FolderLock::acquire(folder).map_err(|error| match error {
        error @ StoreError::Locked { .. } => CommandError::Refused(format!(
            "{}: stop the daemon first, or name the server in `fleet.url` and restart it, and it enrols by itself",
            Chain(&error)
        )),
        error => CommandError::failed("cannot use the state folder", error),
    })
}

fn refused(error: EnrolError) -> CommandError {
    let words = Chain(&error).to_string();
    match error {
        EnrolError::Refused { .. } => CommandError::Refused(words),
        EnrolError::Untrusted(_) => CommandError::CheckFailed(words),
        EnrolError::Token(_) | EnrolError::NoRoot => CommandError::Usage(words),
        error => CommandError::failed("the gateway is not enrolled", error),
    }
}
