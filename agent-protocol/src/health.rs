//! How a device does: figures that change all the time, and so come with each exchange.
//!
//! Counters count since the start of the program, but for those of a lane, which count since it has its role. Holds no
//! sensor values.

use dunlin_kit::digest::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::batch::Stream;
use crate::limits::{LANES_MAX, MODELS_MAX, PURPOSES_MAX, STREAMS_MAX};
use crate::list::{List, is_default};
use crate::open_enum::open_enum;
use crate::report::LaneRole;
use crate::text::Name;

/// What a lane did since it has its role.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Counts {
    /// Windows that were answered.
    #[serde(skip_serializing_if = "is_default")]
    pub predictions: u64,
    /// Of these: outputs not finite or not of the declared shape.
    #[serde(skip_serializing_if = "is_default")]
    pub invalid: u64,
    /// Of these: the model could not be run.
    #[serde(skip_serializing_if = "is_default")]
    pub failed: u64,
    /// Of these: slower than the budget.
    #[serde(skip_serializing_if = "is_default")]
    pub slow: u64,
    /// Of these: the model abstained.
    #[serde(skip_serializing_if = "is_default")]
    pub abstained: u64,
    /// Shadow predictions that were compared.
    #[serde(skip_serializing_if = "is_default")]
    pub compared: u64,
    /// Of these: agreed with the serving model.
    #[serde(skip_serializing_if = "is_default")]
    pub agreed: u64,
    /// Largest relative difference of an output.
    #[serde(skip_serializing_if = "is_default")]
    pub difference_max: f64,
    /// Starts of its worker.
    #[serde(skip_serializing_if = "is_default")]
    pub worker_starts: u64,
}

/// Time of inferences since a lane has its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Latency {
    /// How many.
    #[serde(skip_serializing_if = "is_default")]
    pub count: u64,
    /// Median in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub p50_us: u64,
    /// 99th percentile in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub p99_us: u64,
}

/// What a lane of a model did and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Activity {
    /// The model, by its name in the device's configuration.
    pub model: Name,
    /// What the lane is for.
    pub role: LaneRole,
    /// The release in it, by the SHA-256 of its manifest.
    pub release: Digest,
    /// What it did.
    #[serde(default, skip_serializing_if = "is_default")]
    pub counts: Counts,
    /// How long it took.
    #[serde(default, skip_serializing_if = "is_default")]
    pub latency: Latency,
}

/// Rows of a stream that wait for a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waiting {
    /// The stream.
    pub stream: Stream,
    /// How many rows.
    pub rows: u64,
    /// The next number that the stream will give.
    pub next: u64,
    /// When the oldest row was made, in microseconds since 1970 by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_us: Option<i64>,
}

/// A release whose files are being fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transfer {
    /// The release, by the SHA-256 of its manifest.
    pub release: Digest,
    /// Bytes that are here.
    pub fetched_bytes: u64,
    /// Bytes of all its files.
    pub total_bytes: u64,
}

open_enum!(
    /// What bytes on the network are spent for.
    Purpose {
        /// Exchanges without batches, and enrolment.
        Exchange = "exchange",
        /// Metadata of repositories.
        Metadata = "metadata",
        /// Files of packages.
        Packages = "packages",
        /// Predictions.
        Predictions = "predictions",
        /// Events, labels and losses.
        Events = "events",
        /// Statistics.
        Statistics = "statistics",
        /// Logs.
        Logs = "logs",
    }
);

/// Bytes spent for a purpose since the month of the data budget began, headers and encryption estimated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Spent {
    /// What for.
    pub purpose: Purpose,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

/// How a device does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Health {
    /// Seconds since the program started.
    #[serde(skip_serializing_if = "is_default")]
    pub uptime_s: u64,
    /// Memory that is free for programs, in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_available_bytes: u64,
    /// Memory that the program and its workers hold, in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub resident_bytes: u64,
    /// Load of the processors over a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Temperature of the processor in degrees Celsius.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// Room left on the file system with the state folder, in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub disk_free_bytes: u64,
    /// Bytes of the telemetry store.
    #[serde(skip_serializing_if = "is_default")]
    pub store_bytes: u64,
    /// Bytes written to the card, as far as the device has counted.
    #[serde(skip_serializing_if = "is_default")]
    pub written_bytes: u64,
    /// Brokers that are configured.
    #[serde(skip_serializing_if = "is_default")]
    pub brokers: u32,
    /// Of these: connected.
    #[serde(skip_serializing_if = "is_default")]
    pub brokers_connected: u32,
    /// Messages from brokers.
    #[serde(skip_serializing_if = "is_default")]
    pub messages: u64,
    /// Readings accepted.
    #[serde(skip_serializing_if = "is_default")]
    pub readings: u64,
    /// Readings refused.
    #[serde(skip_serializing_if = "is_default")]
    pub refused: u64,
    /// Predictions made.
    #[serde(skip_serializing_if = "is_default")]
    pub predictions: u64,
    /// What lanes did; all of them, or those that changed.
    #[serde(skip_serializing_if = "is_default")]
    pub activity: List<Activity, { MODELS_MAX * LANES_MAX }>,
    /// What waits for receipts.
    #[serde(skip_serializing_if = "is_default")]
    pub waiting: List<Waiting, STREAMS_MAX>,
    /// What is being fetched.
    #[serde(skip_serializing_if = "is_default")]
    pub transfers: List<Transfer, MODELS_MAX>,
    /// What bytes were spent for.
    #[serde(skip_serializing_if = "is_default")]
    pub spent: List<Spent, PURPOSES_MAX>,
}
