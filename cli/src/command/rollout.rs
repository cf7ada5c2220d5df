//! `dunlin rollout`: plans, starts, watches and ends rollouts.
//!
//! An order names the revision that was read, so that nobody overrides what somebody else just did.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dunlin_fleet_api::image::Release;
use dunlin_fleet_api::order::Order;
use dunlin_fleet_api::rollout::{
    Bake, NewRollout, OnFailure, PlanRequest, Reach, ReleaseRef, RolloutDetail, RolloutDevice, RolloutPlan,
    RolloutSpec, RolloutSummary, SettingsRef, Spread,
};
use reqwest::Method;

use super::CommandError;
use super::rollout_watch;
use crate::fleet::client::{Client, encoded};
use crate::fleet::profile::ServerArguments;
use crate::output::{Column, Output, OutputArguments, column, wide};
use crate::print;

/// Entries of a list at most.
const LIST_MAX: usize = 10_000;
/// Longest file of a specification.
const SPEC_BYTES_MAX: u64 = 1 << 20;

const COLUMNS: [Column; 8] = [
    column("ROLLOUT", "/id"),
    column("STATUS", "/status"),
    column("PHASE", "/phase"),
    column("OF", "/phases"),
    column("STAGE", "/stage"),
    column("QUERY", "/query"),
    column("CHANGED", "/changed"),
    wide("MADE BY", "/author"),
];
const DEVICE_COLUMNS: [Column; 6] = [
    column("DEVICE", "/device"),
    column("PHASE", "/phase"),
    column("OUTCOME", "/outcome"),
    column("CAUSE", "/cause"),
    column("ASSIGNED", "/assigned"),
    wide("BEFORE", "/before"),
];
const PLAN_COLUMNS: [Column; 6] = [
    column("DEVICE", "/device"),
    column("PHASE", "/phase"),
    column("ONLINE", "/is_online"),
    column("FETCHES BYTES", "/fetch_bytes"),
    column("HAS IT", "/has_it"),
    wide("BUDGET LEFT", "/budget_left_bytes"),
];
const UNFIT_COLUMNS: [Column; 2] = [column("CANNOT RUN IT", "/device"), column("WHY", "/reason")];

/// Plans, starts, watches and ends rollouts.
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Show what a rollout would do, gateway by gateway, and do nothing.
    Plan(PlanArguments),
    /// Make a rollout and start it.
    Start(StartArguments),
    /// Follow a rollout until it ends, and say why it stopped.
    Watch(WatchArguments),
    /// List rollouts.
    List(ListArguments),
    /// Show a rollout: phases, gates with value and bound, what became of gateways.
    Get(OneArguments),
    /// List the gateways of a rollout.
    Devices(OneArguments),
    /// Approve a rollout that somebody else made.
    Approve(OrderArguments),
    /// Give nobody else the release.
    Pause(OrderArguments),
    /// Go on after a pause, or after a halt that reverted nothing.
    Resume(OrderArguments),
    /// Go on to the next phase without waiting for the present one.
    Promote(OrderArguments),
    /// Give the gateways that failed another try.
    Retry(OrderArguments),
    /// Have every gateway go back to what it ran before.
    Revert(OrderArguments),
    /// End it; what has the release keeps it.
    Abort(OrderArguments),
}

/// What is rolled out, and how.
#[derive(Debug, Args)]
pub struct SpecArguments {
    /// Release, as MODEL@VERSION, MODEL for its newest, or the SHA-256 of its manifest; one a model.
    #[arg(value_name = "RELEASE")]
    releases: Vec<String>,
    /// File with the whole specification in JSON or TOML; the options here override what it says.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Which gateways, as a label query, live [default: the file's].
    #[arg(long, value_name = "QUERY")]
    query: Option<String>,
    /// SHA-256 of a file of settings that the owner signed.
    #[arg(long, value_name = "SHA256")]
    settings: Option<String>,
    /// Phases, as in `1,5%,25%,100%`.
    #[arg(long, value_delimiter = ',', value_parser = reach)]
    phases: Vec<Reach>,
    /// How long each phase is watched at least, as in `90s`, `15m`, `1h`, `2d`.
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    bake: Option<u64>,
    /// How many predictions of all its gateways each phase waits for.
    #[arg(long, value_name = "N")]
    bake_predictions: Option<u64>,
    /// How long a gateway that is online may take before it counts as failed.
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    install_time: Option<u64>,
    /// What happens when a gate fails.
    #[arg(long, value_parser = ["revert", "hold"])]
    on_failure: Option<String>,
    /// Never more gateways under way with the same value of this label, as in `site` or `site:2`.
    #[arg(long, value_name = "LABEL[:N]", value_parser = spread)]
    spread: Option<Spread>,
    /// How many people must approve it.
    #[arg(long, value_name = "N")]
    approvals: Option<u32>,
}

/// Arguments of `dunlin rollout plan`.
#[derive(Debug, Args)]
pub struct PlanArguments {
    #[command(flatten)]
    spec: SpecArguments,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Arguments of `dunlin rollout start`.
#[derive(Debug, Args)]
pub struct StartArguments {
    #[command(flatten)]
    spec: SpecArguments,
    /// Why, for the audit log.
    #[arg(long)]
    reason: String,
    /// Follow it until it ends.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    server: ServerArguments,
}

/// Arguments of `dunlin rollout watch`.
#[derive(Debug, Args)]
pub struct WatchArguments {
    /// The rollout's id.
    rollout: String,
    #[command(flatten)]
    server: ServerArguments,
}

/// Arguments of a list.
#[derive(Debug, Args)]
pub struct ListArguments {
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Arguments of a command about one rollout.
#[derive(Debug, Args)]
pub struct OneArguments {
    /// The rollout's id.
    rollout: String,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Arguments of an order.
#[derive(Debug, Args)]
pub struct OrderArguments {
    /// The rollout's id.
    rollout: String,
    /// Why, for the audit log.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    server: ServerArguments,
}

impl RolloutCommand {
    /// Runs the command.
    ///
    /// *Errors*: those of the server; check failed where a rollout that is followed does not complete.
    pub fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Plan(arguments) => plan(&arguments),
            Self::Start(arguments) => start(&arguments),
            Self::Watch(arguments) => rollout_watch::watch(&arguments.server.client()?, &arguments.rollout),
            Self::List(arguments) => {
                let rollouts: Vec<RolloutSummary> =
                    arguments.server.client()?.list("/v1/rollouts", LIST_MAX)?;
                Output::of(&rollouts)?.print_list(arguments.output.format, &COLUMNS)
            }
            Self::Get(arguments) => {
                let rollout: RolloutDetail = arguments.server.client()?.get(&path_of(&arguments.rollout))?;
                match arguments.output.format {
                    format if format.is_for_programs() => Output::of(&rollout)?.print_object(format),
                    _ => {
                        rollout_watch::show(&rollout);
                        Ok(())
                    }
                }
            }
            Self::Devices(arguments) => {
                let path = format!("{}/devices", path_of(&arguments.rollout));
                let devices: Vec<RolloutDevice> = arguments.server.client()?.list(&path, LIST_MAX)?;
                Output::of(&devices)?.print_list(arguments.output.format, &DEVICE_COLUMNS)
            }
            Self::Approve(arguments) => order(&arguments, "approve"),
            Self::Pause(arguments) => order(&arguments, "pause"),
            Self::Resume(arguments) => order(&arguments, "resume"),
            Self::Promote(arguments) => order(&arguments, "promote"),
            Self::Retry(arguments) => order(&arguments, "retry"),
            Self::Revert(arguments) => order(&arguments, "revert"),
            Self::Abort(arguments) => order(&arguments, "abort"),
        }
    }
}

fn plan(arguments: &PlanArguments) -> Result<(), CommandError> {
    let client = arguments.server.client()?;
    let spec = spec_of(&client, &arguments.spec)?;
    let plan: RolloutPlan = client.post("/v1/rollouts/plan", &PlanRequest { spec })?;
    if arguments.output.format.is_for_programs() {
        return Output::of(&plan)?.print_object(arguments.output.format);
    }
    Output::of(&plan.devices)?.print_list(arguments.output.format, &PLAN_COLUMNS)?;
    if !plan.unfit.is_empty() {
        Output::of(&plan.unfit)?.print_list(arguments.output.format, &UNFIT_COLUMNS)?;
    }
    let phases: Vec<String> = plan.phases.iter().map(ToString::to_string).collect();
    print::line(&format!(
        "{} gateways ({} away, {} cannot run it), by phases {}; {} bytes to fetch; {} approvals",
        plan.devices_total,
        plan.offline_total,
        plan.unfit_total,
        phases.join(" → "),
        plan.bytes_total,
        plan.approvals_needed
    ));
    plan.warnings.iter().for_each(|warning| print::note(&format!("warning: {warning}")));
    Ok(())
}

fn start(arguments: &StartArguments) -> Result<(), CommandError> {
    let client = arguments.server.client()?;
    let spec = spec_of(&client, &arguments.spec)?;
    let reason = arguments.reason.clone();
    let made: RolloutDetail = client.post("/v1/rollouts", &NewRollout { spec, reason: reason.clone() })?;
    let id = made.summary.id;
    let started = give(&client, &id, "start", reason)?;
    print::line(&id);
    rollout_watch::show(&started);
    if arguments.wait { rollout_watch::watch(&client, &id) } else { Ok(()) }
}

fn order(arguments: &OrderArguments, word: &str) -> Result<(), CommandError> {
    let client = arguments.server.client()?;
    let rollout = give(&client, &arguments.rollout, word, arguments.reason.clone())?;
    rollout_watch::show(&rollout);
    Ok(())
}

fn give(client: &Client, id: &str, word: &str, reason: String) -> Result<RolloutDetail, CommandError> {
    let path = path_of(id);
    // The machine goes on by itself meanwhile: what it did between reading and ordering is no reason to give up.
    for _ in 0..5 {
        let (_, tag): (RolloutDetail, _) = client.get_with_tag(&path)?;
        let order = Order { reason: reason.clone() };
        match client.send(Method::POST, &format!("{path}/{word}"), &order, tag.as_deref()) {
            Err(CommandError::Conflict(message)) if message.contains("changed") => {}
            answered => return answered,
        }
    }
    Err(CommandError::Conflict(format!("rollout `{id}` changes all the time; try again")))
}

pub(super) fn path_of(id: &str) -> String {
    format!("/v1/rollouts/{}", encoded(id))
}

fn spec_of(client: &Client, arguments: &SpecArguments) -> Result<RolloutSpec, CommandError> {
    let mut spec = match &arguments.file {
        Some(file) => read_spec(file)?,
        None => RolloutSpec {
            releases: Vec::new(),
            settings: None,
            query: String::new(),
            phases: None,
            bake: None,
            gates: None,
            on_failure: OnFailure::default(),
            spread: None,
            windows: Vec::new(),
            site_windows: Vec::new(),
            defer_ms_max: None,
            install_ms_max: None,
            approvals: 0,
        },
    };
    if let Some(query) = &arguments.query {
        spec.query.clone_from(query);
    }
    if spec.query.is_empty() {
        let message = "say which gateways: `--query 'site=plant-1'`, or `--query '*'` for all".to_owned();
        return Err(CommandError::Usage(message));
    }
    if !arguments.releases.is_empty() {
        let found = arguments.releases.iter().map(|name| find_release(client, name));
        spec.releases = found.collect::<Result<_, _>>()?;
    }
    if let Some(digest) = &arguments.settings {
        spec.settings = Some(SettingsRef { digest: digest.clone(), path: None });
    }
    if !arguments.phases.is_empty() {
        spec.phases = Some(arguments.phases.clone());
    }
    if arguments.bake.is_some() || arguments.bake_predictions.is_some() {
        let usual = spec.bake.unwrap_or(Bake { time_ms: 3_600_000, predictions: 1_000 });
        spec.bake = Some(Bake {
            time_ms: arguments.bake.unwrap_or(usual.time_ms),
            predictions: arguments.bake_predictions.unwrap_or(usual.predictions),
        });
    }
    spec.install_ms_max = arguments.install_time.or(spec.install_ms_max);
    match arguments.on_failure.as_deref() {
        Some("hold") => spec.on_failure = OnFailure::Hold,
        Some(_) => spec.on_failure = OnFailure::Revert,
        None => {}
    }
    spec.spread = arguments.spread.clone().or(spec.spread);
    spec.approvals = arguments.approvals.unwrap_or(spec.approvals);
    Ok(spec)
}

fn read_spec(file: &std::path::Path) -> Result<RolloutSpec, CommandError> {
    use std::io::Read as _;
    let failed = |e: std::io::Error| CommandError::failed(format!("cannot read `{}`", file.display()), e);
    let mut text = String::new();
    std::fs::File::open(file)
        .map_err(failed)?
        .take(SPEC_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let is_json = file.extension().is_some_and(|extension| extension == "json");
    let read = match is_json {
        true => serde_json::from_str(&text).map_err(|e| e.to_string()),
        false => toml::from_str(&text).map_err(|e| e.to_string()),
    };
    read.map_err(|e| CommandError::Usage(format!("`{}`: {e}", file.display())))
}

/// Finds a release by name or digest among those that are published.
fn find_release(client: &Client, name: &str) -> Result<ReleaseRef, CommandError> {
    let by_digest = |digest: String| ReleaseRef { digest, model: None, version: None, counter: None };
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(by_digest(name.to_ascii_lowercase()));
    }
    let (model, version) =
        name.split_once('@').map_or((name, None), |(model, version)| (model, Some(version)));
    let releases: Vec<Release> = client.list(&format!("/v1/releases?model={}", encoded(model)), LIST_MAX)?;
    let fits = |release: &&Release| {
        release.removed.is_none() && version.is_none_or(|version| release.version == version)
    };
    let found = releases.iter().filter(fits).max_by_key(|release| release.counter);
    found.map(|release| by_digest(release.digest.clone())).ok_or_else(|| {
        let known: Vec<&str> = releases.iter().map(|release| release.version.as_str()).collect();
        CommandError::NotFound(match known.is_empty() {
            true => {
                format!("no release of a model `{model}` is published: `dunlin sign`, then `dunlin publish`")
            }
            false => format!("no release `{name}` is published; versions of `{model}`: {}", known.join(", ")),
        })
    })
}

fn reach(text: &str) -> Result<Reach, String> {
    let wrong = || format!("`{text}` is neither a count such as `1` nor a share such as `25%`");
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().map(Reach::Percent).map_err(|_| wrong()),
        None => text.parse().map(Reach::Count).map_err(|_| wrong()),
    }
}

pub(super) fn duration_ms(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a number and a unit: ms, s, m, h, d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a number and a unit: ms, s, m, h, d".to_owned())?;
    number.checked_mul(unit_ms).ok_or_else(|| "is too long".to_owned())
}

fn spread(text: &str) -> Result<Spread, String> {
    let (label, at_once) = text.split_once(':').unwrap_or((text, "1"));
    let at_once = at_once.parse().map_err(|_| "write LABEL or LABEL:N".to_owned())?;
    Ok(Spread { label: label.to_owned(), at_once })
}
