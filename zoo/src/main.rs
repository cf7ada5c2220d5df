//! `zoo`: one ONNX file by Dunlin's engine and by ONNX Runtime, side by side.
//!
//! Compares what both give for the same rows, how long they take, and what each takes of memory. Never part of the
//! product: ONNX Runtime is loaded from a library that is given, and this program has a workspace of its own. Stands
//! behind `cargo xtask models`, which runs it once for each model of the zoo.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command of developers talks to its terminal"
)]

mod comparison;
mod faults;
mod latency;
mod package;
mod peer;
mod record;
mod report;
mod resident;
mod rows;
mod side_by_side;
mod supervision;
mod ties;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Runs one ONNX file by Dunlin's engine and by ONNX Runtime, and compares.
#[derive(Debug, Parser)]
#[command(name = "zoo")]
enum Command {
    /// Compares outputs, latency and memory; prints one line of JSON, whatever the model does
    Run(Task),
    /// Prints a manifest, rows, and what ONNX Runtime says of them, for the test suite
    Record {
        /// Rows at most, taken from all over the file
        #[arg(long, default_value_t = 20)]
        rows_max: usize,
        /// Positions of rows that are taken besides
        #[arg(long, value_delimiter = ',')]
        guards: Vec<usize>,
        #[command(flatten)]
        task: Task,
    },
    /// Runs minimal models that show faults of libraries; prints one line of JSON each
    Faults {
        /// What `make_faults.py` wrote
        folder: PathBuf,
        /// As of `run`
        #[arg(long, env = "ORT_DYLIB_PATH")]
        library: PathBuf,
    },
    /// Does the comparing, in a process that a model may bring down
    #[command(hide = true)]
    Compare(Task),
    /// Loads one engine alone, runs it, and prints the bytes that are resident then
    #[command(hide = true)]
    Resident {
        /// Which engine
        engine: resident::EngineChoice,
        #[command(flatten)]
        task: Task,
    },
}

/// What is run, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Task {
    /// The ONNX file
    pub(crate) model: PathBuf,
    /// Its input: `.npy` with the rows first, or `.npz` with one such array an input
    #[arg(long)]
    pub(crate) rows: PathBuf,
    /// Batch sizes whose latency is measured
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32])]
    pub(crate) batch: Vec<usize>,
    /// ONNX Runtime's shared library, as the Python package `onnxruntime` carries it in `capi/`
    #[arg(long, env = "ORT_DYLIB_PATH")]
    pub(crate) library: PathBuf,
    /// Longest time for the whole model in seconds
    #[arg(long, default_value_t = 120)]
    pub(crate) seconds_max: u64,
    /// Time for the latency of one batch size in milliseconds; 0 measures neither latency nor memory
    #[arg(long, default_value_t = 1_000)]
    pub(crate) measure_ms: u64,
    /// Folder for the package that is made of the model
    #[arg(long, hide = true)]
    pub(crate) package: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Run(task) => supervision::run(&task),
        Command::Record { rows_max, guards, task } => record::record(&task, rows_max, &guards),
        Command::Faults { folder, library } => faults::run(&folder, &library),
        Command::Compare(task) => side_by_side::compare(&task).map(|report| report.to_line()),
        Command::Resident { engine, task } => resident::measure(engine, &task).map(|bytes| bytes.to_string()),
    };
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
