//! The settings that the daemon runs with: every default filled in, every value checked.
//!
//! Made from the configuration files by this module's siblings; the stages see nothing else. Holds no secrets: a
//! credential file is read when a connection is made.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use dunlin_drift::privacy::Privacy;
use dunlin_model_package::{ModelSpec, SourceSpec};
use dunlin_pipeline::collect::CollectSettings;

use crate::flow::BrokerIndex;
use crate::remote_settings::desk::SettingsRule;
use crate::upload::UploadSettings;

/// All settings of a daemon.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the gateway in topics and reports.
    pub gateway: String,
    /// Where the daemon keeps its state.
    pub state_dir: PathBuf,
    /// The brokers; the first is that of `[mqtt]`.
    pub brokers: Vec<BrokerSettings>,
    /// The sources; `broker` holds a name of `brokers` or nothing for the first.
    pub sources: Vec<SourceSpec>,
    /// The models.
    pub models: Vec<ModelSettings>,
    /// How predictions are published.
    pub publish: PublishSettings,
    /// How readings and predictions are kept.
    pub storage: StorageSettings,
    /// How models are run.
    pub inference: InferenceSettings,
    /// The root of trust that this gateway begins with.
    pub trust_root: Option<PathBuf>,
    /// How releases are tried.
    pub update: UpdateSettings,
    /// The fleet server.
    pub fleet: FleetSettings,
    /// How inputs and outputs are counted.
    pub drift: DriftSettings,
    /// Where metrics are served; nowhere if `None`.
    pub http: Option<SocketAddr>,
    /// How long a stop may take.
    pub drain: Duration,
    /// Log filter, as in `info,dunlin_daemon::mqtt=debug`.
    pub log: String,
}

/// How inputs and outputs of models are counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DriftSettings {
    /// How windows are made; none: they are not.
    pub collect: Option<CollectSettings>,
    /// What of a window may leave the gateway.
    pub privacy: Privacy,
}

/// A model and where its releases come from.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// The model as configured.
    pub spec: ModelSpec,
    /// A bundle or repository, resolved against the file that names it; what it holds is taken over at each start where
    /// it is newer than what is installed. Without it releases are imported.
    pub package: Option<PathBuf>,
}

/// How the gateway reaches its fleet server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetSettings {
    /// Where the server is, without a slash at its end; `None`: where the gateway was enrolled, if it was.
    pub url: Option<String>,
    /// File that holds an enrolment token in its first line.
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities to trust; the system's without it.
    pub ca_file: Option<PathBuf>,
    /// A proxy; those of the environment without it.
    pub proxy: Option<String>,
    /// Places to fetch from before the server, without a slash at their ends.
    pub mirrors: Vec<String>,
    /// Shortest time between two questions.
    pub interval_min: Duration,
    /// Longest time between two questions.
    pub interval_max: Duration,
    /// Whether each byte costs.
    pub metered: bool,
    /// What may be uploaded.
    pub upload: UploadSettings,
    /// What is done with settings of the server.
    pub settings: SettingsRule,
    /// Labels that the gateway claims.
    pub labels: BTreeMap<String, String>,
}

/// When a release that is being tried counts as good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateSettings {
    /// Predictions beside the running model before it serves; 0: none.
    pub shadow_predictions: u64,
    /// Longest time beside the running model, where fewer predictions are made.
    pub shadow_time_max: Duration,
    /// Smallest part of compared shadow predictions that must agree with the running model. *Range*: 0 to 1.
    pub shadow_agreement_min: f64,
    /// Predictions that it must have made while serving.
    pub trial_predictions: u64,
    /// How long it must have served.
    pub trial_time: Duration,
    /// Largest part of predictions on trial that may be invalid, failed or slow. *Range*: 0 to 1.
    pub trial_faults_max: f64,
}

/// A broker and how it is reached.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Name in logs, metrics and `source.broker`; `mqtt` for the default one.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS, where the URL is `mqtts://`.
    pub tls: Option<TlsSettings>,
    /// Client identifier of the ingest connection; the publishing one adds `-out`.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// File that holds the password (first line), or `user:password` where `username` is not given.
    pub credential_file: Option<PathBuf>,
    /// Keep-alive interval.
    pub keep_alive: Duration,
    /// How long the broker keeps the session while the daemon is away.
    pub session_expiry: Duration,
    /// Receive Maximum: QoS 1 messages that may wait for their acknowledgement.
    pub receive_max: u16,
    /// Maximum Packet Size announced to the broker, in bytes.
    pub packet_bytes_max: u32,
    /// Quality of service of the subscriptions.
    pub qos: SubscriptionQos,
    /// Longest wait between two attempts to connect.
    pub reconnect_max: Duration,
}

/// Quality of service of subscriptions: 2 is not offered, since clients are known to livelock on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionQos {
    /// At most once.
    AtMostOnce,
    /// At least once; made exactly once by the store.
    AtLeastOnce,
}

/// How a TLS connection is made.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// PEM file of the authorities to trust; the system's without it.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the client's key.
    pub key_file: Option<PathBuf>,
    /// Protocols offered by ALPN, as in `mqtt`.
    pub alpn: Vec<String>,
}

/// When predictions are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishMode {
    /// As soon as the model has run.
    Immediate,
    /// Once they are on disk.
    Committed,
}

/// How predictions are published.
#[derive(Debug, Clone)]
pub struct PublishSettings {
    /// When.
    pub mode: PublishMode,
    /// With which quality of service.
    pub qos: SubscriptionQos,
    /// To which broker.
    pub broker: BrokerIndex,
}

/// When the writer commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitProfile {
    /// As soon as the writer is free.
    Ack,
    /// By rows, in-flight window and quiet, at most two seconds apart (one at QoS 0): the least wear that keeps brokers
    /// flowing.
    Auto,
    /// At this interval, sooner where the broker's in-flight window is full.
    Interval(Duration),
}

/// What is given up of predictions when the quota leaves no room and readings are gone already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredictionRetention {
    /// One in ten is kept of the oldest, then the oldest are dropped.
    Thin,
    /// The oldest are replaced by count, mean, lowest and highest value an hour, then dropped.
    Summarise,
    /// The oldest are dropped.
    DropOldest,
}

/// How readings and predictions are kept.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// When the writer commits.
    pub commit: CommitProfile,
    /// Largest size of the telemetry database in bytes; less where the file system is smaller.
    pub bytes_max: u64,
    /// Bytes of the file system that stay free.
    pub free_bytes_min: u64,
    /// Oldest readings that are kept; `None`: by size alone.
    pub readings_age_max: Option<Duration>,
    /// Oldest predictions that are kept.
    pub predictions_age_max: Option<Duration>,
    /// What goes when there is no room.
    pub predictions_retention: PredictionRetention,
    /// Bytes the card endures, for the estimate of its life in `status`.
    pub card_endurance_bytes: u64,
}

/// Where models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// One worker process a model: what it does wrong costs itself alone.
    Process,
    /// A thread of the daemon, for boards with very little memory.
    Thread,
}

/// How models are run.
#[derive(Debug, Clone)]
pub struct InferenceSettings {
    /// Where.
    pub isolation: Isolation,
    /// Most windows of one run.
    pub batch_max: usize,
    /// Runs of the same windows that are tried before they are given up.
    pub tries: u32,
    /// Longest wait before a slot that fails is started again.
    pub restart_max: Duration,
}
