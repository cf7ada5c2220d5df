//! From the typed tables to settings: defaults that depend on the machine, and the checks of every table.
//!
//! Reads the environment it is given and looks at files that are named; connects to nothing. Notes what is wrong and
//! goes on, so that everything is said at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use dunlin_model_package::Span;
use toml::{Table, Value};
use tracing_subscriber::EnvFilter;

use super::LoadRequest;
use super::file::{
    ConfigFile, InferenceTable, IsolationName, PublishModeName, RetentionName, StorageTable, UpdateTable,
};
use super::finding::Findings;
use super::hint::did_you_mean;
use super::origin::Origins;
use super::quantity::{Commit, Qos};
use super::settings::{
    BrokerSettings, CommitProfile, InferenceSettings, Isolation, ModelSettings, PredictionRetention,
    PublishMode, PublishSettings, Settings, StorageSettings, SubscriptionQos, UpdateSettings,
};
use super::{brokers, drift, fleet, models, topics};
use crate::flow::BrokerIndex;

/// Most predictions, and longest time, that a release may be tried.
const PREDICTIONS_MAX: u64 = 1_000_000;
const TRIAL_MAX: Span = Span::from_secs(30 * 86_400);
const STATE_DIR_DEFAULT: &str = "/var/lib/dunlin";
/// Smallest telemetry database: its schema, a WAL and a few pages of rows.
const STORAGE_BYTES_MIN: u64 = 1 << 20;
/// Most windows of one run: beyond it a run takes longer than other series can wait.
const BATCH_MAX: u32 = 1_024;
const TRIES_MAX: u32 = 100;
const HOUR: Span = Span::from_secs(3_600);

/// Settings and what belongs to them.
pub(super) struct Resolved {
    pub(super) settings: Settings,
    /// Aligned with the models, where nothing was wrong.
    pub(super) effective: Table,
}

/// Makes settings of the file, noting everything that is wrong with it.
pub(super) fn resolve(
    mut file: ConfigFile,
    request: &LoadRequest,
    origins: &Origins,
    findings: &mut Findings<'_>,
) -> Resolved {
    let gateway = file.gateway.get_or_insert_with(host_name).clone();
    if let Err(why) = check_name(&gateway) {
        findings.error("gateway", format!("`{gateway}` {why}"), "write for example `gateway = \"hall-3\"`");
    }
    let state_dir = state_dir(&file, request, origins);
    file.state_dir = Some(state_dir.display().to_string());
    let brokers = brokers::resolve(&mut file, &gateway, request, origins, findings);
    for (index, source) in file.source.iter_mut().enumerate() {
        let path = format!("source[{index}].broker");
        source.broker = broker_index(source.broker.as_deref(), &brokers, &path, findings)
            .filter(|index| index.0 > 0)
            .and_then(|index| brokers.get(usize::from(index.0)))
            .map(|broker| broker.name.clone());
    }
    let packages = models::check(&file, origins, findings);
    let trust_root = trust_root(&file, origins, findings);
    let publish = publish(&file, &brokers, findings);
    topics::check(&file, &gateway, &brokers, publish.broker, findings);
    let effective = match Value::try_from(&file) {
        Ok(Value::Table(table)) => table,
        _ => Table::new(),
    };
    let model_settings = file.model.iter().zip(packages);
    let settings = Settings {
        gateway,
        state_dir,
        brokers,
        models: model_settings.map(|(spec, package)| ModelSettings { spec: spec.clone(), package }).collect(),
        publish,
        storage: storage(&file.storage, findings),
        inference: inference(&file.inference, findings),
        trust_root,
        update: update(&file.update, findings),
        fleet: fleet::resolve(&file.fleet, request, origins, findings),
        drift: drift::resolve(&file.drift, findings),
        http: http(&file, findings),
        drain: span_in(findings, "run.drain", file.run.drain, Span::default(), Span::from_secs(600))
            .as_duration(),
        log: log(&file, findings),
        sources: file.source,
    };
    Resolved { settings, effective }
}

/// Says what keeps a text from being a name in topics, metrics and file names.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 {
        Err("is not 1 to 64 characters long")
    } else if !name.bytes().all(plain) || name.starts_with('.') {
        Err("has other characters than letters, digits, `-`, `_` and `.`, or begins with `.`")
    } else {
        Ok(())
    }
}

/// Notes a length of time outside its range and returns the nearest inside.
pub(super) fn span_in(findings: &mut Findings<'_>, path: &str, span: Span, min: Span, max: Span) -> Span {
    if span < min || span > max {
        findings.error(path, format!("`{span}` is out of range"), format!("write `{min}` to `{max}`"));
    }
    span.clamp(min, max)
}

/// Notes a number outside its range and returns the nearest inside.
pub(super) fn number_in(findings: &mut Findings<'_>, path: &str, number: u64, min: u64, max: u64) -> u64 {
    if number < min || number > max {
        findings.error(path, format!("{number} is out of range"), format!("write {min} to {max}"));
    }
    number.clamp(min, max)
}

fn host_name() -> String {
    let name = nix::sys::utsname::uname()
        .ok()
        .and_then(|system| system.nodename().to_str().map(str::to_owned))
        .unwrap_or_default();
    let short: String = name.chars().take(64).collect();
    let plain = short.replace(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'), "-");
    let trimmed = plain.trim_start_matches('.');
    if trimmed.is_empty() { "gateway".to_owned() } else { trimmed.to_owned() }
}

fn state_dir(file: &ConfigFile, request: &LoadRequest, origins: &Origins) -> PathBuf {
    if let Some(given) = &request.state_dir {
        return given.clone();
    }
    if let Some(written) = &file.state_dir {
        return origins.folder_of("state_dir").join(written);
    }
    let first = request.variable("STATE_DIRECTORY").and_then(|all| all.split(':').next());
    Path::new(first.unwrap_or(STATE_DIR_DEFAULT)).to_owned()
}

fn broker_index(
    name: Option<&str>,
    brokers: &[BrokerSettings],
    path: &str,
    findings: &mut Findings<'_>,
) -> Option<BrokerIndex> {
    let name = name?;
    if let Some(index) = brokers.iter().position(|broker| broker.name == name) {
        return u16::try_from(index).ok().map(BrokerIndex);
    }
    let known: Vec<&str> = brokers.iter().map(|broker| broker.name.as_str()).collect();
    let hint = format!("{} Brokers are declared as `[brokers.{name}]`.", did_you_mean(name, &known).1);
    findings.error(path, format!("there is no broker `{name}`"), hint);
    None
}

fn publish(file: &ConfigFile, brokers: &[BrokerSettings], findings: &mut Findings<'_>) -> PublishSettings {
    let table = &file.publish;
    PublishSettings {
        mode: match table.mode {
            PublishModeName::Immediate => PublishMode::Immediate,
            PublishModeName::Committed => PublishMode::Committed,
        },
        qos: subscription_qos(table.qos),
        broker: broker_index(table.broker.as_deref(), brokers, "publish.broker", findings)
            .unwrap_or(BrokerIndex(0)),
    }
}

pub(super) const fn subscription_qos(qos: Qos) -> SubscriptionQos {
    match qos {
        Qos::AtMostOnce => SubscriptionQos::AtMostOnce,
        Qos::AtLeastOnce => SubscriptionQos::AtLeastOnce,
    }
}

fn storage(table: &StorageTable, findings: &mut Findings<'_>) -> StorageSettings {
    let age = |span: Span| (span != Span::default()).then(|| span.as_duration());
    let whole = i64::MAX.unsigned_abs();
    StorageSettings {
        commit: match table.commit {
            Commit::Auto => CommitProfile::Auto,
            Commit::Ack => CommitProfile::Ack,
            Commit::Interval(span) => CommitProfile::Interval(
                span_in(findings, "storage.commit", span, Span::from_millis(1), Span::from_secs(60))
                    .as_duration(),
            ),
        },
        bytes_max: number_in(findings, "storage.bytes_max", table.bytes_max.0, STORAGE_BYTES_MIN, whole),
        free_bytes_min: table.free_bytes_min.0,
        readings_age_max: age(table.readings_age_max),
        predictions_age_max: age(table.predictions_age_max),
        predictions_retention: match table.predictions {
            RetentionName::Thin => PredictionRetention::Thin,
            RetentionName::Summarise => PredictionRetention::Summarise,
            RetentionName::DropOldest => PredictionRetention::DropOldest,
        },
        card_endurance_bytes: number_in(findings, "storage.card_endurance", table.card_endurance.0, 1, whole),
    }
}

fn inference(table: &InferenceTable, findings: &mut Findings<'_>) -> InferenceSettings {
    let batch_max =
        number_in(findings, "inference.batch_max", table.batch_max.into(), 1, BATCH_MAX.into()) as usize;
    let tries = number_in(findings, "inference.tries", table.tries.into(), 1, TRIES_MAX.into()) as u32;
    let restart_max = span_in(findings, "inference.restart_max", table.restart_max, Span::from_secs(1), HOUR);
    InferenceSettings {
        isolation: match table.isolation {
            IsolationName::Process => Isolation::Process,
            IsolationName::Thread => Isolation::Thread,
        },
        batch_max,
        tries,
        restart_max: restart_max.as_duration(),
    }
}

fn trust_root(file: &ConfigFile, origins: &Origins, findings: &mut Findings<'_>) -> Option<PathBuf> {
    let given = file.trust.root.as_ref()?;
    let path = origins.folder_of("trust.root").join(given);
    if !path.is_file() {
        let message = format!("there is no file `{}`", path.display());
        findings.error("trust.root", message, "name the `root.json` that `dunlin keys init` made");
    }
    Some(path)
}

fn update(table: &UpdateTable, findings: &mut Findings<'_>) -> UpdateSettings {
    let mut count =
        |key: &str, number| number_in(findings, &format!("update.{key}"), number, 0, PREDICTIONS_MAX);
    let shadow_predictions = count("shadow_predictions", table.shadow_predictions);
    let trial_predictions = count("trial_predictions", table.trial_predictions);
    let mut time = |key: &str, span| {
        span_in(findings, &format!("update.{key}"), span, Span::default(), TRIAL_MAX).as_duration()
    };
    let shadow_time_max = time("shadow_time_max", table.shadow_time_max);
    let trial_time = time("trial_time", table.trial_time);
    let mut part = |key: &str, part: f64| {
        if !(0.0..=1.0).contains(&part) {
            findings.error(&format!("update.{key}"), format!("{part} is no part of a whole"), "write 0 to 1");
        }
        part
    };
    UpdateSettings {
        shadow_predictions,
        shadow_time_max,
        shadow_agreement_min: part("shadow_agreement_min", table.shadow_agreement_min),
        trial_predictions,
        trial_time,
        trial_faults_max: part("trial_faults_max", table.trial_faults_max),
    }
}

fn http(file: &ConfigFile, findings: &mut Findings<'_>) -> Option<SocketAddr> {
    let text = file.http.listen.replace("localhost:", "127.0.0.1:");
    match text.parse() {
        Ok(address) => file.http.enabled.then_some(address),
        Err(_) => {
            let message = format!("`{}` is no address and port", file.http.listen);
            findings.error("http.listen", message, "write for example `127.0.0.1:9464` or `[::1]:9464`");
            None
        }
    }
}

fn log(file: &ConfigFile, findings: &mut Findings<'_>) -> String {
    let filter = &file.log.filter;
    if let Err(error) = EnvFilter::builder().parse(filter) {
        let hint = "write for example `info` or `info,dunlin_daemon::mqtt=debug`";
        findings.error("log.filter", format!("`{filter}` is no log filter: {error}"), hint);
    }
    filter.clone()
}
