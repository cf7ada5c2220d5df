//! `dunlin-fleet`: the fleet server's program.
//!
//! Reads the command line, starts the log, and serves until it is told to stop; holds no logic of its own.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use dunlin_fleet::backup::{self, BackupError};
use dunlin_fleet::exchange::waiters::WAITERS_MAX;
use dunlin_fleet::http::Bounds;
use dunlin_fleet::metrics::MetricsAccess;
use dunlin_fleet::open_files::bounds_within_files;
use dunlin_fleet::retention::Retention;
use dunlin_fleet::server::{ServeError, Server, Settings};
use dunlin_fleet::webhooks::Targets;
use dunlin_kit::error_chain::Chain;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Rolls models out to gateways, and keeps what they report.
#[derive(Debug, Parser)]
#[command(name = "dunlin-fleet", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Copy a server's database, keys and blobs, also while it runs
    Backup(BackupArgs),
    /// Make a server's folder of a backup
    Restore(RestoreArgs),
    /// Look for damage in a server's folder or a backup
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Folder of the database, the keys and the blobs; made where it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where gateways find the server, as in `https://fleet.example`
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// A PostgreSQL database in place of the one in the folder; `DUNLIN_FLEET_DATABASE_URL` says it as well, and shows no
    /// password in lists of processes
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// A bucket in place of the folder of blobs, as in `s3://bucket/folder`; credentials come from the environment
    #[arg(long, value_name = "URL")]
    blob_url: Option<String>,
    /// How many days rows that gateways uploaded are kept
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_days: u32,
    /// Most bytes of such rows; beyond, the oldest go first
    #[arg(long, value_name = "BYTES", default_value_t = 20_000_000_000)]
    keep_bytes: u64,
    /// Most connections at the same time; more wait
    #[arg(long, value_name = "COUNT", default_value_t = Bounds::default().connections)]
    connections: usize,
    /// Most questions of gateways that are kept open, so that news reach them at once; others ask each minute
    #[arg(long, value_name = "COUNT", default_value_t = WAITERS_MAX)]
    waiters: usize,
    /// Answer `/metrics` without a token
    #[arg(long)]
    open_metrics: bool,
    /// Let webhooks be in the server's own networks and on its machine
    #[arg(long)]
    private_webhooks: bool,
}

#[derive(Debug, Args)]
struct BackupArgs {
    /// The server's folder; the server may be running
    data: PathBuf,
    /// A folder that is not there yet
    to: PathBuf,
    /// The database is in PostgreSQL, and backed up by its own means: back up keys and blobs alone
    #[arg(long)]
    without_database: bool,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// Folder of a backup
    from: PathBuf,
    /// Folder of the server to be; empty or not there yet
    data: PathBuf,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Folder of a server, which may be running, or of a backup
    data: PathBuf,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    start_log();
    match command {
        Command::Serve(args) => run(args),
        Command::Backup(args) => {
            let database =
                if args.without_database { backup::Database::Elsewhere } else { backup::Database::InFolder };
            ended(backup::back_up(&args.data, &args.to, database), "the backup is complete")
        }
        Command::Restore(args) => ended(backup::restore(&args.from, &args.data), "restored"),
        Command::Check(args) => ended(backup::check(&args.data), "no damage was found"),
    }
}

/// Variable that names a database.
const DATABASE_URL: &str = "DUNLIN_FLEET_DATABASE_URL";
/// Exit code of a check that found damage.
const DAMAGED: u8 = 5;

fn ended(outcome: Result<backup::Summary, BackupError>, words: &'static str) -> ExitCode {
    match outcome {
        Ok(summary) => {
            tracing::info!(files = summary.files, bytes = summary.bytes, "{words}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = %Chain(&error), "failed");
            if matches!(error, BackupError::Damaged(_)) { ExitCode::from(DAMAGED) } else { ExitCode::FAILURE }
        }
    }
}

fn run(args: ServeArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start threads");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "cannot serve");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: ServeArgs) -> Result<(), ServeError> {
    let ServeArgs {
        data,
        listen,
        public_url,
        database_url,
        blob_url,
        keep_days,
        keep_bytes,
        connections,
        waiters,
        open_metrics,
        private_webhooks,
    } = args;
    let database_url =
        database_url.or_else(|| std::env::var(DATABASE_URL).ok().filter(|url| !url.is_empty()));
    let webhook_targets = if private_webhooks { Targets::Private } else { Targets::Public };
    let metrics_access = if open_metrics { MetricsAccess::Open } else { MetricsAccess::Token };
    let server = Server::open(Settings {
        data,
        listen,
        public_url,
        database_url,
        blob_url,
        retention: Retention::new(keep_days, keep_bytes),
        webhook_targets,
        metrics_access,
        waiters,
        bounds: bounds_within_files(Bounds { connections, ..Bounds::default() }),
    })
    .await?;
    server.serve(told_to_stop()).await;
    Ok(())
}

/// Is over when the service manager or the terminal asks to stop. Listens from the call on, before the server says that it
/// is ready: a signal that came sooner than the first poll would end the program at once.
fn told_to_stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::error!("signals cannot be listened to");
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Lines go to the standard error output; `RUST_LOG` says which.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        .with_writer(std::io::stderr)
        .init();
}
