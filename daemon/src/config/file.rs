//! The configuration file as it is written: its tables, keys and defaults.
//!
//! Declares the shape, with the descriptions that `docs/configuration.md` and the JSON Schema are made of; checks
//! nothing beyond the types. Read by `decode`, turned into settings by `resolve`.

use std::collections::BTreeMap;

use dunlin_model_package::{ModelSpec, SourceSpec, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::{Bytes, Commit, Qos};

/// The configuration of `dunlind`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Name of the gateway in topics and reports: letters, digits, `-`, `_` and `.`. Default: the host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Folder of the daemon's state. Default: `$STATE_DIRECTORY`, as systemd sets it, else `/var/lib/dunlin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<String>,
    /// The default broker. Needed; `url` is its only key without a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<BrokerTable>,
    /// Further brokers by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub brokers: BTreeMap<String, BrokerTable>,
    /// How predictions are published.
    #[serde(default)]
    pub publish: PublishTable,
    /// How readings and predictions are kept.
    #[serde(default)]
    pub storage: StorageTable,
    /// How models are run.
    #[serde(default)]
    pub inference: InferenceTable,
    /// Whose models run.
    #[serde(default)]
    pub trust: TrustTable,
    /// How a new release of a model is tried before it is relied on.
    #[serde(default)]
    pub update: UpdateTable,
    /// The fleet server that this gateway belongs to. Without `url`, and without `dunlind enroll`, it belongs to none.
    #[serde(default)]
    pub fleet: FleetTable,
    /// How inputs and outputs of models are counted, where a package says what they were like in training.
    #[serde(default)]
    pub drift: DriftTable,
    /// Where metrics are served.
    #[serde(default)]
    pub http: HttpTable,
    /// How the daemon runs.
    #[serde(default)]
    pub run: RunTable,
    /// What is logged.
    #[serde(default)]
    pub log: LogTable,
    /// The sources: sets of topics whose payloads are written alike. At least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<SourceSpec>,
    /// The models and what they are fed with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<ModelSpec>,
}

/// Whose models run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustTable {
    /// The root of trust, `root.json`, that the models' owner gave out. It is taken over at the first start; newer roots come with updates and are not configured. Needed to install a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// Whether settings of the fleet server are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SettingsModeName {
    /// They are, over those of the files.
    Take,
    /// The gateway's own configuration alone counts.
    Refuse,
}

/// The fleet server that this gateway belongs to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FleetTable {
    /// `https://host` of the server, with a port or a path where it has one. The gateway enrols by itself at the first start; a gateway that is enrolled keeps its server until `dunlind enroll` names another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// File with an enrolment token, `dl1.…`, in its first line. A relative name is looked up in `$CREDENTIALS_DIRECTORY` first. Not needed once the gateway is enrolled. Without it an operator has to accept the gateway, and `trust.root` names the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// PEM file of the authorities to trust for TLS. Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// `http://host:port` of a proxy. Default: `$HTTPS_PROXY`, `$HTTP_PROXY` and `$NO_PROXY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Further places to fetch metadata and packages from, tried before the server: they hold the same paths, and are believed no more than it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// Shortest time between two questions to the server. *Range*: 100ms to 1h.
    pub interval_min: Span,
    /// Longest time between two questions, whatever the server says. *Range*: 1m to 7d.
    pub interval_max: Span,
    /// Whether each byte costs: no question is kept open, and news of this gateway wait for the next one.
    pub metered: bool,
    /// Most bytes of a month, both ways, as in `20MB/month`. As it runs short, predictions are sampled first, then summaries made coarser, then nothing but health travels, and packages come last. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_budget: Option<String>,
    /// How much of the predictions may leave the gateway, whatever the server asks for: `all`, `none`, or one in so many, as in `1/10`. Changes of an alert are always among those of a sample.
    pub upload_predictions: String,
    /// Whether settings of the server are used: `take`, or `refuse`.
    pub settings: SettingsModeName,
    /// How long settings of the server may take to be confirmed by an answer of the server, before the gateway goes back to those before. *Range*: 1s to 1h.
    pub settings_confirm_max: Span,
    /// Labels that this gateway claims, as in `{ hall = "3" }`; the server's own come before them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Default for FleetTable {
    fn default() -> Self {
        Self {
            url: None,
            token_file: None,
            ca_file: None,
            proxy: None,
            mirrors: Vec::new(),
            interval_min: Span::from_secs(1),
            interval_max: Span::from_secs(86_400),
            metered: false,
            data_budget: None,
            upload_predictions: "all".to_owned(),
            settings: SettingsModeName::Take,
            settings_confirm_max: Span::from_secs(5 * 60),
            labels: BTreeMap::new(),
        }
    }
}

/// How a new release of a model is tried before it is relied on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateTable {
    /// Predictions that it makes beside the running model, kept and not published, before it serves. 0 leaves this out. *Range*: 0 to 1,000,000.
    pub shadow_predictions: u64,
    /// Longest time beside the running model, where fewer predictions are made. *Range*: 0s to 30d.
    pub shadow_time_max: Span,
    /// Smallest part of compared predictions that must agree with the running model's, 0 to 1. 0 compares without consequence: a better model may well disagree.
    pub shadow_agreement_min: f64,
    /// Predictions that it must have made while serving before it is good. *Range*: 0 to 1,000,000.
    pub trial_predictions: u64,
    /// How long it must have served before it is good. *Range*: 0s to 30d.
    pub trial_time: Span,
    /// Largest part of its predictions on trial that may fail, be invalid or be slower than its budget, 0 to 1.
    pub trial_faults_max: f64,
}

impl Default for UpdateTable {
    fn default() -> Self {
        Self {
            shadow_predictions: 100,
            shadow_time_max: Span::from_secs(10 * 60),
            shadow_agreement_min: 0.0,
            trial_predictions: 100,
            trial_time: Span::from_secs(5 * 60),
            trial_faults_max: 0.01,
        }
    }
}

/// A broker and how it is reached.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BrokerTable {
    /// `mqtt://host:port`, or `mqtts://host:port` for TLS. The port's default is 1883, with TLS 8883. No password.
    pub url: String,
    /// Client identifier; the publishing connection adds `-out`. Default: `dunlin-` and the gateway's name, for a further broker `-` and its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// User name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password in its first line, or `user:password` where `username` is not given. A relative name is looked up in `$CREDENTIALS_DIRECTORY` first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_file: Option<String>,
    /// PEM file of the authorities to trust. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// PEM file of the client's certificate chain. Needs `key_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<String>,
    /// PEM file of the client's key; a relative name is looked up in `$CREDENTIALS_DIRECTORY` first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// Protocols offered by ALPN, as in `["mqtt"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// Keep-alive interval. *Range*: 5s to 18h.
    #[serde(default = "keep_alive_default")]
    pub keep_alive: Span,
    /// How long the broker keeps what arrives while the daemon is away. *Range*: 0s to 100y; `0s` keeps nothing.
    #[serde(default = "session_expiry_default")]
    pub session_expiry: Span,
    /// Messages that may wait for their acknowledgement. *Range*: 1 to 4,096; the broker may allow fewer.
    #[serde(default = "receive_max_default")]
    pub receive_max: u16,
    /// Largest message that is taken. *Range*: 1KiB to 256MiB.
    #[serde(default = "packet_bytes_max_default")]
    pub packet_bytes_max: Bytes,
    /// Quality of service of the subscriptions. 1 loses nothing.
    #[serde(default = "qos_default")]
    pub qos: Qos,
    /// Longest wait between two attempts to connect. *Range*: 1s to 1h.
    #[serde(default = "reconnect_max_default")]
    pub reconnect_max: Span,
}

const fn keep_alive_default() -> Span {
    Span::from_secs(30)
}

/// A long week-end: what a site may be without power before somebody looks.
const fn session_expiry_default() -> Span {
    Span::from_secs(4 * 86_400)
}

/// 4,000 messages a second at the commit profile's quarter of a second.
const fn receive_max_default() -> u16 {
    1_024
}

const fn packet_bytes_max_default() -> Bytes {
    Bytes(1 << 20)
}

const fn qos_default() -> Qos {
    Qos::AtLeastOnce
}

const fn reconnect_max_default() -> Span {
    Span::from_secs(60)
}

/// When predictions are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PublishModeName {
    /// As soon as the model has run.
    Immediate,
    /// Once they are on disk.
    Committed,
}

/// How predictions are published.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PublishTable {
    /// `immediate`: as soon as the model has run; `committed`: once they are on disk.
    pub mode: PublishModeName,
    /// Quality of service of predictions and alerts.
    pub qos: Qos,
    /// Broker to publish to: a name from `[brokers]`. Default: the broker of `[mqtt]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
}

impl Default for PublishTable {
    fn default() -> Self {
        Self { mode: PublishModeName::Immediate, qos: Qos::AtLeastOnce, broker: None }
    }
}

/// What is given up of predictions when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RetentionName {
    /// One in ten of the oldest is kept, then the oldest are dropped.
    Thin,
    /// The oldest are replaced by hourly figures, then dropped.
    Summarise,
    /// The oldest are dropped.
    DropOldest,
}

/// How readings and predictions are kept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StorageTable {
    /// `auto`: the least wear that keeps brokers flowing, at most two seconds apart; `ack`: at once; or an interval, as in `250ms`. *Range*: 1ms to 1m.
    pub commit: Commit,
    /// Largest size of the telemetry database; less where the file system is smaller. *Range*: 1MiB and more.
    pub bytes_max: Bytes,
    /// What stays free of the file system.
    pub free_bytes_min: Bytes,
    /// Oldest readings that are kept; `0s`: of any age, limited by size alone.
    pub readings_age_max: Span,
    /// Oldest predictions that are kept; `0s`: of any age, limited by size alone.
    pub predictions_age_max: Span,
    /// What is given up of predictions when readings are gone and there is no room: `thin`, `summarise` or `drop-oldest`.
    pub predictions: RetentionName,
    /// Bytes that can be written to the card in its life, for the estimate in `status`. The default is 32 GB of flash at 500 cycles.
    pub card_endurance: Bytes,
}

impl Default for StorageTable {
    fn default() -> Self {
        Self {
            commit: Commit::Auto,
            bytes_max: Bytes(1 << 30),
            free_bytes_min: Bytes(64 << 20),
            readings_age_max: Span::from_secs(30 * 86_400),
            predictions_age_max: Span::from_secs(365 * 86_400),
            predictions: RetentionName::Thin,
            card_endurance: Bytes(16_000_000_000_000),
        }
    }
}

/// Where models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IsolationName {
    /// One worker process a model.
    Process,
    /// A thread of the daemon.
    Thread,
}

/// How models are run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InferenceTable {
    /// `process`: one worker a model, with limits of its own; `thread`: inside the daemon, for boards with very little memory.
    pub isolation: IsolationName,
    /// Most windows of one run. *Range*: 1 to 1,024.
    pub batch_max: u32,
    /// Runs of the same windows that are tried before they are given up. *Range*: 1 to 100.
    pub tries: u32,
    /// Longest wait before a worker that fails is started again. *Range*: 1s to 1h.
    pub restart_max: Span,
}

impl Default for InferenceTable {
    fn default() -> Self {
        Self { isolation: IsolationName::Process, batch_max: 64, tries: 3, restart_max: Span::from_secs(60) }
    }
}

/// Length of a window of statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DriftWindow {
    /// A quarter of an hour.
    #[serde(rename = "15m")]
    Quarter,
    /// An hour.
    #[serde(rename = "1h")]
    Hour,
    /// A day.
    #[serde(rename = "1d")]
    Day,
}

/// How inputs and outputs of models are counted, where a package says what they were like in training.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DriftTable {
    /// Whether they are counted. Counts travel to the fleet server, never a reading.
    pub enabled: bool,
    /// Length of a window: those that packages are calibrated for.
    pub window: DriftWindow,
    /// How long a window takes late readings after its end; it is then reported again. *Range*: 0s to 1d.
    pub grace: Span,
    /// Fewest readings of a window and values of a summary that are reported; fewer wait for the next window. *Range*: 1 to 1,000,000.
    pub min_n: u32,
    /// Categories that were seen less often in a window are counted with all others. *Range*: 1 to 1,000,000.
    pub rare_names: u32,
    /// Privacy loss ε of each reported summary: its counts get noise, its sums stay, and a window is reported once. Default: no noise. *Range*: 0.001 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_epsilon: Option<f64>,
    /// Most privacy loss ε that the summaries of one feature may add up to in a day. *Range*: 0.001 to 1,000.
    pub noise_budget: f64,
}

impl Default for DriftTable {
    fn default() -> Self {
        Self {
            enabled: true,
            window: DriftWindow::Hour,
            grace: Span::from_secs(15 * 60),
            min_n: 20,
            rare_names: 10,
            noise_epsilon: None,
            noise_budget: 8.0,
        }
    }
}

/// Where metrics are served.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpTable {
    /// Address and port of `/metrics` and `/healthz`; port 0 takes a free one.
    pub listen: String,
    /// Whether they are served.
    pub enabled: bool,
}

impl Default for HttpTable {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".to_owned(), enabled: true }
    }
}

/// How the daemon runs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunTable {
    /// How long a stop may take to finish what was begun. *Range*: 0s to 10m.
    pub drain: Span,
}

impl Default for RunTable {
    fn default() -> Self {
        Self { drain: Span::from_secs(10) }
    }
}

/// What is logged.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogTable {
    /// Levels by module, as in `info,dunlin_daemon::mqtt=debug`.
    pub filter: String,
}

impl Default for LogTable {
    fn default() -> Self {
        Self { filter: "info".to_owned() }
    }
}
