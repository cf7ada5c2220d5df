//! Measures Dunlin on this machine beside what a user would pick instead, and prints a table with the targets.
//!
//! Options: `--quick` (short stretches, no growth), `--no-peers`, `--output FILE` (the table as Markdown). Works on
//! loopback with children of its own alone. Needs a release build: `cargo run --release --bin bench`.

mod measure;
mod session;
mod systems;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use dunlin_e2e::package::write;
use dunlin_e2e::workspace::note;
use dunlin_e2e::{Failure, Outcome};

use crate::systems::{Equipment, Peers};

/// How long each figure is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lengths {
    /// One rate of a search for the highest one.
    pub(crate) ramp: Duration,
    /// Latency and bytes at one rate.
    pub(crate) steady: Duration,
    /// Bytes and processor time at ten readings a second.
    pub(crate) slow: Duration,
    /// Sensors of the growth figures; 0: they are left out.
    pub(crate) many_sensors: usize,
}

const FULL: Lengths = Lengths {
    ramp: Duration::from_secs(3),
    steady: Duration::from_secs(8),
    slow: Duration::from_secs(20),
    many_sensors: 10_000,
};
const QUICK: Lengths = Lengths {
    ramp: Duration::from_millis(1_500),
    steady: Duration::from_secs(3),
    slow: Duration::from_secs(5),
    many_sensors: 0,
};

struct Options {
    lengths: Lengths,
    peers: Peers,
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    match read_options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note(&format!("bench: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn read_options() -> Outcome<Options> {
    let mut options = Options { lengths: FULL, peers: Peers::Measured, output: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--quick" => options.lengths = QUICK,
            "--no-peers" => options.peers = Peers::LeftOut,
            "--output" => {
                let path = arguments.next().ok_or_else(|| Failure::new("`--output` needs a file"))?;
                // The table is written whole, so its folder must be named.
                options.output = Some(std::path::absolute(Path::new(&path))?);
            }
            _ => return Err(Failure::new(format!("`{name}` is none of --quick, --no-peers, --output"))),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Outcome<()> {
    if cfg!(debug_assertions) {
        note("warning: this is a debug build; its figures say nothing");
    }
    let equipment = Equipment::prepare(options.peers)?;
    let table = measure::all(&equipment, options.lengths);
    let text = table.to_markdown(&machine());
    io::stdout().write_all(text.as_bytes())?;
    if let Some(path) = &options.output {
        write(path, text.as_bytes())?;
    }
    Ok(())
}

/// Returns a line about the machine: processor, cores, kernel.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find(|line| line.starts_with("model name") || line.starts_with("Model"));
    let model =
        model.and_then(|line| line.split(':').nth(1)).unwrap_or("unknown processor").trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
