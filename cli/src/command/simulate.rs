//! `dunlin simulate`: a crowd of gateways that speak the real protocol with a real server.
//!
//! The crowd is [`dunlin_fleet_simulator`]'s. Its gateways come in by a token that gives them the label `simulated=true`, so
//! that they can be told apart and revoked.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use dunlin_fleet_api::enrolment::{IssuedEnrolmentToken, NewEnrolmentToken};
use dunlin_fleet_api::image::Release;
use dunlin_fleet_simulator::crowd::Progress;
use dunlin_fleet_simulator::plan::Share;
use dunlin_fleet_simulator::{CrowdError, Manner, Plan, Summary};
use dunlin_protocol::EnrolmentToken;
use dunlin_protocol::limits::TOKEN_BYTES_MAX;

use super::CommandError;
use super::devices::label;
use super::rollout::duration_ms;
use crate::fleet::profile::ServerArguments;
use crate::output::{Format, Output, OutputArguments};
use crate::print;

/// How long the token of a run lasts.
const TOKEN_S: u64 = 86_400;
/// Releases that are looked through for models.
const RELEASES_MAX: usize = 10_000;
/// The label of all simulated gateways.
const SIMULATED: (&str, &str) = ("simulated", "true");

/// Arguments of `dunlin simulate`.
#[derive(Debug, Args)]
pub struct SimulateArguments {
    /// How many gateways.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    devices: u32,
    /// How long, as in `5m`, once all have enrolled [default: until Ctrl-C].
    #[arg(long = "for", value_name = "TIME", value_parser = duration_ms)]
    lasts: Option<u64>,
    /// File with an enrolment token; without it one is made over the server's REST interface.
    #[arg(long, value_name = "FILE")]
    enrolment_token_file: Option<PathBuf>,
    /// Label beside `simulated=true`, as in `site=plant-1`; may be given more than once.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label, conflicts_with = "enrolment_token_file")]
    labels: Vec<(String, String)>,
    /// What keys, faults and their times follow from: the same seed makes the same gateways.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Model that the gateways' configuration wants [default: all that the server has releases of].
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Time between two questions of a gateway, `0s` for at once [default: as the server says, with questions that wait].
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    exchange_interval: Option<u64>,
    /// Predictions that each gateway makes an hour.
    #[arg(long, value_name = "COUNT", default_value_t = 60.0, value_parser = count)]
    predictions_per_hour: f64,
    /// On a metered line: no question waits at the server, no predictions are sent.
    #[arg(long)]
    metered: bool,
    /// Share of the gateways that are away now and then, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    outages: f64,
    /// Share of the gateways whose clocks are wrong.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    clock_faults: f64,
    /// Share that takes releases after its first badly: golden_vectors, crash, disagree, slow or nan, as in `crash=0.1`.
    #[arg(long = "bad-release", value_name = "KIND=SHARE", value_parser = bad_release)]
    bad: Vec<Share>,
    /// How many gateways are copied, key and all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    clones: u32,
    /// When all lose their connections at once, as in `30s`.
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    storm: Option<u64>,
    /// Time that a gateway takes for each step of a release.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration_ms)]
    step: u64,
    /// Read statements of the director without checking them: cheaper with thousands of gateways in a rollout.
    #[arg(long)]
    unchecked_statements: bool,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

fn share(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "write a share from 0 to 1".to_owned())
}

fn count(text: &str) -> Result<f64, String> {
    let count: Option<f64> = text.parse().ok().filter(|count| (0.0..=1e9).contains(count));
    count.ok_or_else(|| "write a number that is not negative".to_owned())
}

fn bad_release(text: &str) -> Result<Share, String> {
    let (kind, part) = text.split_once('=').ok_or("write KIND=SHARE, as in `crash=0.1`")?;
    let manner = match kind {
        "golden_vectors" => Manner::FailsGolden,
        "crash" => Manner::CrashesInTrial,
        "disagree" => Manner::Disagrees,
        "slow" => Manner::Slow,
        "nan" => Manner::Invalid,
        _ => return Err("the kinds are golden_vectors, crash, disagree, slow and nan".to_owned()),
    };
    Ok(Share { manner, share: share(part)? })
}

/// Runs the command.
///
/// *Errors*: no token, no server, no gateway that could enrol; too few open files.
pub fn run(arguments: &SimulateArguments) -> Result<(), CommandError> {
    if arguments.bad.iter().map(|bad| bad.share).sum::<f64>() > 1.0 {
        return Err(CommandError::Usage("the shares of `--bad-release` are more than 1 together".to_owned()));
    }
    let plan = plan(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::failed("cannot start threads", error))?;
    let stop = async {
        // Without signals the run ends by its time.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let summary = runtime.block_on(dunlin_fleet_simulator::run(plan, stop, tell)).map_err(failed)?;
    show(&summary, arguments.output.format)
}

fn failed(error: CrowdError) -> CommandError {
    match error {
        CrowdError::Files(error) => CommandError::Usage(error.to_string()),
        other => CommandError::failed("nothing was simulated", other),
    }
}

fn plan(arguments: &SimulateArguments) -> Result<Plan, CommandError> {
    let (token, models) = token_and_models(arguments)?;
    let ms = |time: Option<u64>| time.map(Duration::from_millis);
    Ok(Plan {
        server: arguments.server.server.clone(),
        ca_file: arguments.server.ca_file.clone(),
        seed: arguments.seed,
        lasts: ms(arguments.lasts),
        interval: ms(arguments.exchange_interval),
        outages: arguments.outages,
        clock_faults: arguments.clock_faults,
        bad: arguments.bad.clone(),
        clones: arguments.clones as usize,
        storm: ms(arguments.storm),
        predictions_an_hour: arguments.predictions_per_hour,
        is_metered: arguments.metered,
        checks_statements: !arguments.unchecked_statements,
        models,
        step: Duration::from_millis(arguments.step),
        ..Plan::of(arguments.devices as usize, token)
    })
}

/// Reads the token, or makes one; asks the server for its models where none are named.
fn token_and_models(arguments: &SimulateArguments) -> Result<(EnrolmentToken, Vec<String>), CommandError> {
    let mut models = arguments.models.clone();
    if let Some(file) = &arguments.enrolment_token_file {
        return Ok((read_token(file)?, models));
    }
    let client = arguments.server.client()?;
    if models.is_empty() {
        let releases: Vec<Release> = client.list("/v1/releases", RELEASES_MAX)?;
        models = releases.into_iter().map(|release| release.model).collect();
        models.sort();
        models.dedup();
    }
    let (name, value) = SIMULATED;
    let mut labels: dunlin_fleet_api::Labels = arguments.labels.iter().cloned().collect();
    labels.insert(name.to_owned(), value.to_owned());
    let wish = NewEnrolmentToken {
        labels,
        expires_s: TOKEN_S,
        uses: u64::from(arguments.devices),
        reason: "dunlin simulate".to_owned(),
    };
    let made: IssuedEnrolmentToken = client.post("/v1/enrolment-tokens", &wish)?;
    let token = EnrolmentToken::parse(&made.text)
        .map_err(|error| CommandError::failed("the server made no token", error))?;
    Ok((token, models))
}

fn read_token(file: &Path) -> Result<EnrolmentToken, CommandError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => CommandError::NotFound(format!("`{}` is missing", file.display())),
        _ => CommandError::failed(format!("cannot read `{}`", file.display()), error),
    };
    let mut text = zeroize::Zeroizing::new(String::new());
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(TOKEN_BYTES_MAX as u64 + 2).read_to_string(&mut text).map_err(failed)?;
    EnrolmentToken::parse(&text)
        .map_err(|error| CommandError::CheckFailed(format!("`{}` is {error}", file.display())))
}

fn tell(progress: Progress) {
    print::note(&match progress {
        Progress::Entering(count) => format!("{count} gateways have enrolled"),
        Progress::Begun => "all gateways are in; the time begins".to_owned(),
        Progress::Running(exchanges) => format!("{exchanges} exchanges"),
        Progress::Storm => "all gateways lose their connections".to_owned(),
    });
}

fn show(summary: &Summary, format: Format) -> Result<(), CommandError> {
    Output::of(summary)?.print_object(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_kinds_are_read_and_what_is_none_is_refused() {
        assert_eq!(bad_release("crash=0.25"), Ok(Share { manner: Manner::CrashesInTrial, share: 0.25 }));
        for wrong in ["crash", "crash=2", "fire=0.1", "nan=-1", "slow=x"] {
            assert!(bad_release(wrong).is_err(), "{wrong}");
        }
        assert!(share("1.1").is_err() && share("NaN").is_err() && count("-1").is_err());
    }
}
