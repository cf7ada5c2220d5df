//! Runs the public series in full against the oracle: plain, and under kills and cuts.
//!
//! Prints a table and ends with 0 when every run is exact. Options: `--series NAME` (again for more), `--kills N`,
//! `--seed N`; `--swaps N` runs that many hot swaps of releases under 500 readings a second instead. Needs the folder of public series beside the repository or in `DUNLIN_SHARED`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dunlin_e2e::campaign::{Campaign, Trouble};
use dunlin_e2e::seed::Choices;
use dunlin_e2e::series::Series;
use dunlin_e2e::swaps::Swaps;
use dunlin_e2e::workspace::{root, shared_folder};
use dunlin_e2e::{Failure, Outcome};

/// Longest wait for the last prediction of a full series.
const LIMIT: Duration = Duration::from_secs(300);
/// Readings a second during hot swaps.
const SWAP_RATE: f64 = 500.0;
/// Kills and cuts of a run where the command line names none.
const KILLS: usize = 25;

struct Options {
    series: Vec<Series>,
    kills: usize,
    choices: Choices,
    swaps: Option<usize>,
}

fn main() -> ExitCode {
    match read_options().and_then(|options| run(&options)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failure) => {
            writeln!(io::stderr(), "oracle: {failure}").ok();
            ExitCode::from(2)
        }
    }
}

fn read_options() -> Outcome<Options> {
    let mut options =
        Options { series: Vec::new(), kills: KILLS, choices: Choices::from_environment(), swaps: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| Failure::new(format!("`{name}` needs a value")))?;
        match name.as_str() {
            "--series" => options.series.push(Series::by_name(&value).ok_or_else(|| {
                Failure::new(format!("`{value}` is none of machine-temperature, occupancy, air-quality"))
            })?),
            "--kills" => options.kills = value.parse().map_err(Failure::of("--kills"))?,
            "--seed" => options.choices = Choices::from_seed(value.parse().map_err(Failure::of("--seed"))?),
            "--swaps" => options.swaps = Some(value.parse().map_err(Failure::of("--swaps"))?),
            _ => return Err(Failure::new(format!("`{name}` is none of --series, --kills, --seed, --swaps"))),
        }
    }
    if options.series.is_empty() {
        options.series.extend(Series::ALL);
    }
    Ok(options)
}

/// Runs everything; returns the number of runs that were not exact.
fn run(options: &Options) -> Outcome<usize> {
    if let Some(count) = options.swaps {
        return swap(count);
    }
    let shared = shared_folder()
        .ok_or_else(|| Failure::new("there is no folder of public series: set DUNLIN_SHARED"))?;
    let mut out = io::stdout();
    writeln!(out, "seed {}\n", options.choices.seed())?;
    writeln!(
        out,
        "| series | trouble | times | readings | seconds | result |\n| --- | --- | --- | --- | --- | --- |"
    )?;
    let n = options.kills;
    let troubles =
        [Trouble::Calm, Trouble::DaemonKilled(n), Trouble::WorkerKilled(n), Trouble::ConnectionCut(n)];
    let mut failed = 0;
    for series in &options.series {
        let messages = series.messages(&shared)?;
        let readings = messages.len();
        let config = root().join("examples").join(series.name()).join("dunlind.toml");
        let mut campaign = Campaign {
            config,
            model: series.name().to_owned(),
            messages,
            expected: series.expected(&shared)?,
            trouble: Trouble::Calm,
            limit: LIMIT,
        };
        for trouble in troubles {
            campaign.trouble = trouble;
            let start = Instant::now();
            let result = campaign.run(&mut options.choices.clone());
            failed += usize::from(result.is_err());
            let said =
                result.map_or_else(|failure| format!("**failed**: {failure}"), |found| found.to_string());
            let (name, times) = (trouble.name(), trouble.count());
            let seconds = start.elapsed().as_secs_f64();
            writeln!(out, "| {} | {name} | {times} | {readings} | {seconds:.1} | {said} |", series.name())?;
            out.flush()?;
        }
    }
    Ok(failed)
}

/// Runs hot swaps under load; returns 1 where a prediction was missing, doubled or wrong.
fn swap(count: usize) -> Outcome<usize> {
    let swapped = Swaps { count, rate: SWAP_RATE, limit: LIMIT }.run()?;
    writeln!(io::stdout(), "{swapped}")?;
    Ok(usize::from(!swapped.comparison.is_exact()))
}
