//! `dunlind check`: says whether this configuration would run well on this gateway, with a remedy for what would not.
//!
//! Reads the configuration, opens packages, connects to brokers; changes nothing and starts nothing. What needs the
//! pipeline, the engine or an MQTT client is asked through [`Probes`].

mod link;
mod readiness;
mod report;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use dunlin_model_package::Package;

use crate::config::settings::{BrokerSettings, ModelSettings, Settings};
use crate::config::{
    ConfigErrors, Finding, LoadRequest, Loaded, effective, inspect, process_environment, schema_json,
};
use crate::link::remote::{RemoteSettings, ServerSeen};
use crate::update::open_release::OpenedRelease;
use report::{Report, Section};

/// Longest wait for a broker to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Fewer messages in flight than this hold up a busy source: at 20 and a commit a second, 20 messages a second.
const RECEIVE_MAX_WANTED: u16 = 100;

/// What `dunlind check` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Configuration file; conf.d/*.toml beside it is read after it
    #[arg(long, value_name = "FILE", default_value = "/etc/dunlin/dunlind.toml")]
    pub config: PathBuf,
    /// Override a value of the configuration, as in mqtt.url=mqtt://localhost
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Folder of the daemon's state
    #[arg(long, value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
    /// Print the merged configuration with all defaults and the origin of every other value
    #[arg(long, conflicts_with = "schema")]
    pub effective: bool,
    /// Print the JSON Schema of the configuration file
    #[arg(long)]
    pub schema: bool,
    /// Leave out what needs the network
    #[arg(long)]
    pub offline: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What a broker says of itself when a connection is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerReport {
    /// Receive Maximum: how many QoS 1 messages the daemon may publish before the first acknowledgement.
    pub receive_max: Option<u16>,
    /// Largest packet it takes, in bytes.
    pub packet_bytes_max: Option<u32>,
    /// Highest quality of service it grants.
    pub qos_max: Option<u8>,
    /// Whether it keeps retained messages.
    pub retain_available: Option<bool>,
    /// How long it keeps a session, where it grants less than asked for.
    pub session_expiry: Option<Duration>,
}

/// What a probe could not do, and what the operator can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// What failed and why.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// Compiles sources and models of a configuration; what it refuses counts as bad configuration.
pub type CompileProbe<'p> = dyn Fn(&Loaded) -> Result<(), ConfigErrors> + 'p;
/// Opens the package that a model would run with; `None` where none is installed or configured.
pub type PackageProbe<'p> =
    dyn Fn(&Settings, &ModelSettings) -> Result<Option<OpenedRelease>, ProbeFailure> + 'p;
/// Loads a model and runs its golden vectors; returns how many predictions agreed, or `None` without vectors.
pub type GoldenProbe<'p> = dyn Fn(&Package) -> Result<Option<usize>, ProbeFailure> + 'p;
/// Connects to a broker as the daemon would, under another client identifier, and reads what it announces.
pub type BrokerProbe<'p> = dyn Fn(&BrokerSettings) -> Result<BrokerReport, ProbeFailure> + 'p;

/// Asks the fleet server for a file that it has for anybody.
pub type ServerProbe<'p> = dyn Fn(&RemoteSettings) -> Result<ServerSeen, ProbeFailure> + 'p;

/// The checks that need other parts of the daemon; each is called at most once a subject.
pub struct Probes<'p> {
    /// What the pipeline says of sources and models.
    pub compile: &'p CompileProbe<'p>,
    /// What the trust in its owner says of a package.
    pub package: &'p PackageProbe<'p>,
    /// What the engine says of a model.
    pub golden_vectors: &'p GoldenProbe<'p>,
    /// What a broker says of itself.
    pub broker: &'p BrokerProbe<'p>,
    /// What the fleet server says of itself.
    pub server: &'p ServerProbe<'p>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing failed.
    Passed,
    /// A check failed.
    Failed,
    /// The configuration cannot be used.
    BadConfiguration,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Passed => Self::SUCCESS,
            Outcome::Failed => Self::from(5),
            Outcome::BadConfiguration => Self::from(64),
        }
    }
}

/// Runs the command on standard output with the process environment.
#[must_use]
pub fn run(args: &Args, probes: &Probes<'_>) -> ExitCode {
    let environment = process_environment();
    // A reader that went away, such as `head`, has seen what it wanted.
    check(args, probes, environment, &mut io::stdout().lock()).unwrap_or(Outcome::Passed).into()
}

/// Runs the command and prints to `out`.
///
/// *Errors*: `out` cannot be written.
pub fn check(
    args: &Args,
    probes: &Probes<'_>,
    environment: Vec<(String, String)>,
    out: &mut dyn Write,
) -> io::Result<Outcome> {
    if args.schema {
        out.write_all(schema_json().as_bytes())?;
        return Ok(Outcome::Passed);
    }
    let request = LoadRequest {
        file: args.config.clone(),
        set: args.set.clone(),
        environment,
        state_dir: args.state_dir.clone(),
        overlay: None,
    };
    let (loaded, warnings) = inspect(&request);
    let loaded = loaded.and_then(|loaded| (probes.compile)(&loaded).map(|()| loaded));
    let mut report = Report::default();
    match loaded {
        Err(errors) => {
            report.refuse_configuration(&errors);
            warnings.iter().for_each(|warning| warn_of(warning, &mut report));
        }
        Ok(loaded) if args.effective => {
            out.write_all(effective::render(&loaded.effective, &loaded.origins).as_bytes())?;
            return Ok(Outcome::Passed);
        }
        Ok(loaded) => {
            let models = &loaded.settings.models;
            let releases: Vec<OpenedPackage> =
                models.iter().map(|model| (probes.package)(&loaded.settings, model)).collect();
            check_configuration(&loaded, &releases, args, &mut report);
            check_packages(&loaded, releases, probes, &mut report);
            check_brokers(&loaded, args, probes, &mut report);
            link::check(&loaded.settings, args, probes, &mut report);
            readiness::check(&loaded.settings, &mut report);
        }
    }
    report.print(args.output, out)?;
    Ok(report.outcome())
}

/// What a model would run with, where that is anything.
type OpenedPackage = Result<Option<OpenedRelease>, ProbeFailure>;

fn check_configuration(loaded: &Loaded, releases: &[OpenedPackage], args: &Args, report: &mut Report) {
    let settings = &loaded.settings;
    let counts = format!("{} sources, {} models", settings.sources.len(), settings.models.len());
    report.pass(Section::Configuration, format!("`{}` holds together: {counts}", args.config.display()));
    for warning in &loaded.warnings {
        let of_warning = |index: &usize| warning.path == format!("model[{index}].package");
        let model = (0..releases.len()).find(of_warning);
        // The daemon starts without the place, and with nothing to run.
        if model.is_some_and(|model| matches!(releases[model], Ok(None))) {
            let place = format!("{}, and no release is installed", said_of(warning));
            report.fail(Section::Configuration, place, warning.hint.clone().unwrap_or_default());
        } else {
            warn_of(warning, report);
        }
    }
}

fn warn_of(warning: &Finding, report: &mut Report) {
    report.warn(Section::Configuration, said_of(warning), warning.hint.clone().unwrap_or_default());
}

fn said_of(warning: &Finding) -> String {
    format!("{}: {}: {}", warning.origin, warning.path, warning.message)
}

fn check_packages(loaded: &Loaded, releases: Vec<OpenedPackage>, probes: &Probes<'_>, report: &mut Report) {
    for (model, release) in loaded.settings.models.iter().zip(releases) {
        let name = format!("model `{}`", model.spec.name);
        let package = match release {
            Ok(Some(release)) => release,
            // The place that the configuration names is not there: that was told with its line.
            Ok(None) if model.package.is_some() => continue,
            Ok(None) => {
                let remedy = "import one with `dunlind import`, or name a bundle in `package`";
                report.warn(Section::Packages, format!("{name} has no release to run"), remedy);
                continue;
            }
            Err(failure) => {
                report.fail(Section::Packages, format!("{name}: {}", failure.message), failure.remedy);
                continue;
            }
        };
        let package = &package.package;
        let name = format!("{name} ({})", package.manifest().version);
        match (probes.golden_vectors)(package) {
            Ok(Some(count)) => {
                report.pass(Section::Packages, format!("{name}: {count} golden predictions agree"));
            }
            Ok(None) => report.warn(
                Section::Packages,
                format!("{name} loads, but has no golden vectors"),
                "add `golden.jsonl` to the package: without it nobody knows that it predicts the same here",
            ),
            Err(failure) => {
                report.fail(Section::Packages, format!("{name}: {}", failure.message), failure.remedy);
            }
        }
    }
}

fn check_brokers(loaded: &Loaded, args: &Args, probes: &Probes<'_>, report: &mut Report) {
    for broker in &loaded.settings.brokers {
        let name = format!("broker `{}` at {}:{}", broker.name, broker.host, broker.port);
        if args.offline {
            report.skip(Section::Connectivity, format!("{name}: left out, since `--offline` was asked for"));
            continue;
        }
        if let Err(error) = connect(broker) {
            let remedy = "start the broker, and check `url`, name resolution and firewall";
            report.fail(Section::Connectivity, format!("{name} cannot be reached: {error}"), remedy);
            continue;
        }
        match (probes.broker)(broker) {
            Ok(answer) => {
                report.pass(Section::Connectivity, format!("{name} accepts the connection"));
                check_limits(broker, &name, &answer, report);
            }
            Err(failure) => {
                report.fail(Section::Connectivity, format!("{name}: {}", failure.message), failure.remedy);
            }
        }
    }
}

fn connect(broker: &BrokerSettings) -> io::Result<()> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (broker.host.as_str(), broker.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn check_limits(broker: &BrokerSettings, name: &str, answer: &BrokerReport, report: &mut Report) {
    let section = Section::Readiness;
    let before = report.troubles();
    if let Some(limit) = answer.receive_max.filter(|limit| *limit < RECEIVE_MAX_WANTED) {
        let remedy = "raise the broker's in-flight window, for mosquitto `max_inflight_messages 1000`";
        report.warn(section, format!("{name} allows {limit} messages in flight"), remedy);
    }
    if let Some(limit) = answer.packet_bytes_max.filter(|limit| *limit < broker.packet_bytes_max) {
        let remedy = "raise the broker's limit, for mosquitto `max_packet_size`, or lower `packet_bytes_max`";
        report.warn(section, format!("{name} takes packets of at most {limit} bytes"), remedy);
    }
    if answer.qos_max == Some(0) {
        let remedy =
            "use a broker that grants QoS 1; with QoS 0 what arrives while the daemon is away is lost";
        report.fail(section, format!("{name} grants no QoS 1"), remedy);
    }
    if answer.retain_available == Some(false) {
        let remedy = "allow retained messages, or do not rely on the status topic";
        report.warn(section, format!("{name} keeps no retained messages"), remedy);
    }
    if let Some(granted) = answer.session_expiry.filter(|granted| *granted < broker.session_expiry) {
        let message = format!("{name} keeps the session for {} s only", granted.as_secs());
        let remedy = "raise the broker's session expiry, for mosquitto `persistent_client_expiration`";
        report.warn(section, message, remedy);
    }
    if report.troubles() == before {
        report.pass(section, format!("{name} has limits that suffice"));
    }
}
