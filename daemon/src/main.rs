//! `dunlind`: the daemon's program.
//!
//! Dispatches to the commands and gives them what they need of each other; holds no logic of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use dunlin_daemon::app;
use dunlin_daemon::command::{
    self, check, enroll, export, import, models, offline, predict, query, replay, results, rollback, sources,
    status, stored,
};
use dunlin_daemon::config::{LoadRequest, process_environment};
use dunlin_daemon::slot::worker::worker_main;

/// Runs machine-learning models on MQTT sensor data, and loses nothing.
#[derive(Debug, Parser)]
#[command(name = "dunlind", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run(RunArgs),
    /// Check configuration, packages, brokers, the fleet server and this machine
    Check(check::Args),
    /// Show what the running daemon does
    Status(status::StatusArgs),
    /// Show which release of each model runs, is being tried, or failed
    Models(models::ModelsArgs),
    /// Have a model go back to the release before
    Rollback(rollback::RollbackArgs),
    /// Show stored predictions or readings
    Query(query::QueryArgs),
    /// Write stored predictions or readings as CSV or JSON lines
    Export(export::ExportArgs),
    /// Show what came from each source, and what was refused
    Sources(sources::SourcesArgs),
    /// Take releases from a bundle or the folder of a repository
    Import(import::ImportArgs),
    /// Make this gateway known to a fleet server
    Enroll(enroll::EnrollArgs),
    /// Write report, health and rows into a file for a fleet server that this gateway cannot reach
    ExportResults(results::ExportResultsArgs),
    /// Take a fleet server's receipts for such a file, while no daemon runs
    ImportReceipts(results::ReceiptsArgs),
    /// Run recorded messages through the configuration and print the predictions
    Replay(replay::ReplayArgs),
    /// Run a package's model on given inputs
    Predict(predict::PredictArgs),
    /// The process that runs one model; started by the daemon alone
    #[command(hide = true)]
    Worker,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Configuration file; `conf.d/*.toml` beside it is read too
    #[arg(long, value_name = "FILE", default_value = offline::CONFIG_DEFAULT)]
    config: PathBuf,
    /// Where the daemon keeps its state
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Replaces a value of the configuration; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Worker => return worker_main(),
        Command::Check(args) => return run_check(&args),
        Command::Run(args) => app::run(&LoadRequest {
            file: args.config,
            set: args.set,
            environment: process_environment(),
            state_dir: args.state_dir,
            overlay: None,
        }),
        Command::Status(args) => status::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Query(args) => query::run(&args, stored::open),
        Command::Export(args) => export::run(&args, stored::open),
        Command::Sources(args) => sources::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Enroll(args) => enroll::run(&args),
        Command::ExportResults(args) => results::export(&args),
        Command::ImportReceipts(args) => results::import(&args),
        Command::Replay(args) => replay::run(&args, offline::start_pipeline),
        Command::Predict(args) => predict::run(&args, offline::open_package, offline::load_model),
    };
    command::finish(result)
}

fn run_check(args: &check::Args) -> ExitCode {
    let probes = check::Probes {
        compile: &offline::compile,
        package: &offline::release_of_model,
        golden_vectors: &offline::golden_vectors,
        broker: &offline::broker,
        server: &offline::server,
    };
    check::run(args, &probes)
}
