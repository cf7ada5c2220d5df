//! Measures the fleet server with crowds of simulated gateways, and prints a table.
//!
//! Options: `--devices N` (repeatable; 1,000 and 10,000), `--for SECONDS` of each stretch (30), `--rounds N` (3), `--sqlite`
//! or `--postgres` alone, `--stretch NAME` (repeatable), `--output FILE` (the table as Markdown). Server and generator share the machine; the load of others
//! stands beside each figure. `cargo xtask bench fleet` builds the programs and runs this.

mod stretch;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use dunlin_e2e::package::write;
use dunlin_e2e::postgres::Postgres;
use dunlin_e2e::workspace::note;
use dunlin_e2e::{Failure, Outcome};

use crate::stretch::{Figures, Kind, Server};

/// Questions a second of the paced stretch: the target.
const PACED: u64 = 2_000;

struct Options {
    devices: Vec<u64>,
    seconds: u64,
    rounds: u64,
    stores: Vec<&'static str>,
    /// Names of the stretches; all where none is named.
    stretches: Vec<String>,
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    match read_options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note(&format!("fleet_bench: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn read_options() -> Outcome<Options> {
    let mut options = Options {
        devices: Vec::new(),
        seconds: 30,
        rounds: 3,
        stores: Vec::new(),
        stretches: Vec::new(),
        output: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut number = || {
            let number = arguments.next().and_then(|number| number.parse().ok());
            number.ok_or_else(|| Failure::new(format!("`{name}` needs a number")))
        };
        match name.as_str() {
            "--devices" => options.devices.push(number()?),
            "--for" => options.seconds = number()?,
            "--rounds" => options.rounds = number()?,
            "--sqlite" => options.stores.push("SQLite"),
            "--postgres" => options.stores.push("PostgreSQL"),
            "--stretch" => {
                let name = arguments.next().ok_or_else(|| Failure::new("`--stretch` needs a name"))?;
                options.stretches.push(name);
            }
            "--output" => {
                let path = arguments.next().ok_or_else(|| Failure::new("`--output` needs a file"))?;
                options.output = Some(std::path::absolute(path)?);
            }
            _ => {
                let known = "--devices, --for, --rounds, --sqlite, --postgres, --stretch, --output";
                return Err(Failure::new(format!("`{name}` is none of {known}")));
            }
        }
    }
    if options.devices.is_empty() {
        options.devices = vec![1_000, 10_000];
    }
    if options.stores.is_empty() {
        options.stores = vec!["SQLite", "PostgreSQL"];
    }
    Ok(options)
}

fn run(options: &Options) -> Outcome<()> {
    let mut text = String::from(HEAD);
    for store in &options.stores {
        let database = match *store {
            "PostgreSQL" if Postgres::is_installed() => Some(Postgres::start_durable()?),
            "PostgreSQL" => {
                note("PostgreSQL is not installed: left out");
                continue;
            }
            _ => None,
        };
        for devices in &options.devices {
            let url = database.as_ref().map(|database| database.new_database(&format!("fleet_{devices}")));
            let mut server = Server::start(url.transpose()?.as_deref())?;
            for round in 1..=options.rounds {
                for kind in [
                    Kind::Saturation,
                    Kind::Paced { interval_ms: devices * 1_000 / PACED },
                    Kind::Metered { interval_ms: 5_000 },
                    Kind::Default,
                ] {
                    // Questions of the default profile wait for 50 s each.
                    let seconds =
                        if kind == Kind::Default { options.seconds.max(110) } else { options.seconds };
                    let is_asked = options.stretches.is_empty()
                        || options.stretches.iter().any(|name| name == kind.name());
                    if !is_asked || (matches!(kind, Kind::Metered { .. } | Kind::Default) && round > 1) {
                        continue;
                    }
                    let figures = server.measure(kind, *devices, seconds)?;
                    let line = row(store, *devices, kind, &figures);
                    note(line.trim_end());
                    text.push_str(&line);
                }
            }
        }
    }
    std::io::stdout().write_all(text.as_bytes())?;
    if let Some(path) = &options.output {
        write(path, text.as_bytes())?;
    }
    Ok(())
}

const HEAD: &str = "\
| store | gateways | stretch | exchanges/s | p50 ms | p99 ms | max ms | errors | server MB | server cores | generator cores | B up + down an exchange | load before |
| --- | ---: | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |
";

fn row(store: &str, devices: u64, kind: Kind, figures: &Figures) -> String {
    let summary = &figures.summary;
    let number = |pointer: &str| summary.pointer(pointer).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    let times = if kind == Kind::Default { "kept_open_late" } else { "nothing_new" };
    let mut line = format!("| {store} | {devices} | {} | {:.0} ", kind.name(), number("/exchanges_a_second"));
    for name in ["p50_ms", "p99_ms", "max_ms"] {
        let _ = write!(line, "| {:.1} ", number(&format!("/{times}/{name}")));
    }
    let errors: Vec<String> = summary["errors"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(code, count)| format!("{code} {count}"))
        .collect();
    let errors = if errors.is_empty() { "none".to_owned() } else { errors.join(", ") };
    let _ = write!(
        line,
        "| {errors} | {:.0} | {:.2} | {:.2} | {:.0} + {:.0} | {:.1} |",
        figures.resident_bytes as f64 / 1e6,
        figures.server_cores,
        figures.generator_cores,
        number("/bytes/sent_an_exchange"),
        number("/bytes/received_an_exchange"),
        figures.load_before,
    );
    if kind == Kind::Default {
        let _ = write!(
            line,
            "\n| | | restart in it: back {:.0} of {:.0} | | {:.0} | {:.0} | {:.0} | | | | | {:.0} B a day | |",
            number("/reconnection/back"),
            number("/reconnection/lost"),
            number("/reconnection/times/p50_ms"),
            number("/reconnection/times/p99_ms"),
            number("/reconnection/times/max_ms"),
            number("/bytes/a_device_and_day"),
        );
    }
    line.push('\n');
    line
}
