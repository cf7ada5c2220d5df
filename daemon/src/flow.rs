//! What travels between the daemon's stages, and how much of it may wait.
//!
//! Only types and capacities; every channel of the daemon is made in `app.rs` with a capacity from here. Data runs
//! one way: ingest, stage (the pipeline), slots and back, publisher, writer; acknowledgements go back to the broker.

use bytes::Bytes;
use dunlin_pipeline::collect::Observation;
use dunlin_pipeline::prediction::{InstanceId, InstanceIdentity, ModelIndex, Prediction};
use dunlin_pipeline::reading::{Reading, SeriesId, SeriesIdentity};

use crate::store::outbox_windows::WindowEntry;

/// Messages between a broker connection and the stage. QoS 1 messages are bounded by Receive Maximum besides; QoS 0
/// messages fill this and then hold up the socket.
pub const DELIVERIES: usize = 4_096;
/// Steps between the stage and the writer: each holds what one turn of the stage took.
pub const STEPS: usize = 256;
/// Windows that wait for one slot; the stage stops taking messages before it would fill.
pub const WINDOWS_PER_SLOT: usize = 8_192;
/// Result groups between the slots and the stage.
pub const SLOT_RESULTS: usize = 1_024;
/// Predictions between the stage and the publisher; beyond it the publisher reads them back from the store.
pub const PUBLICATIONS: usize = 8_192;
/// Groups of acknowledgements between the writer and a broker connection.
pub const ACKNOWLEDGEMENTS: usize = 1_024;

/// Number of a broker in the running configuration; 0 is the default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BrokerIndex(pub u16);

/// Number of a connection, rising over all brokers: an acknowledgement for another connection is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// What the broker needs to be told once a message is safe: present for QoS 1 alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckToken {
    /// The broker.
    pub broker: BrokerIndex,
    /// The connection the message came over.
    pub connection: ConnectionId,
    /// Its packet identifier.
    pub packet_id: u16,
    /// CRC32C over topic and payload: with the packet identifier it recognises a message that was committed and
    /// delivered again because the acknowledgement was lost.
    pub content_crc: u32,
}

/// A message from a broker.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The broker.
    pub broker: BrokerIndex,
    /// Its topic, as received.
    pub topic: Bytes,
    /// Its payload.
    pub payload: Bytes,
    /// The retain flag.
    pub retained: bool,
    /// The duplicate flag: the broker delivers it again.
    pub duplicate: bool,
    /// For QoS 1.
    pub ack: Option<AckToken>,
    /// Monotonic time of arrival, in microseconds since boot.
    pub arrived_us: i64,
}

/// One turn of the stage: what it took from the brokers and what became of it. The unit of order; the writer puts
/// one or more steps into a transaction.
#[derive(Debug, Default)]
pub struct Step {
    /// Accepted readings, in order.
    pub readings: Vec<Reading>,
    /// Series named by these readings for the first time.
    pub new_series: Vec<(SeriesId, SeriesIdentity)>,
    /// Instances named by these predictions for the first time.
    pub new_instances: Vec<(InstanceId, InstanceIdentity)>,
    /// Predictions of these readings' windows, in order; failed ones too.
    pub predictions: Vec<Prediction>,
    /// Sequence number of the first of them; they count on without gaps.
    pub prediction_sequence: u64,
    /// What is to be counted of these readings; spent once the step is complete.
    pub observations: Vec<Observation>,
    /// Windows of statistics that this step completed.
    pub windows: Vec<WindowEntry>,
    /// Messages to acknowledge once this step is on disk.
    pub acks: Vec<AckToken>,
    /// The pipeline's whole state after this step, where the stage decided to save it.
    pub checkpoint: Option<Vec<u8>>,
    /// Things that were knowingly given up, for the loss ledger.
    pub losses: Vec<Loss>,
}

/// A row of the loss ledger: something was knowingly given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What was lost.
    pub kind: LossKind,
    /// Series, model, topic or file it belonged to; empty for all.
    pub object: String,
    /// First event time, in microseconds since 1970; 0 when unknown.
    pub first_us: i64,
    /// Last event time.
    pub last_us: i64,
    /// How many.
    pub count: u64,
    /// Why: a short fixed text, as in `quota_bytes`, `quota_age`, `free_space`, `disk_full`, `damaged`, `session_reset`.
    pub reason: String,
}

/// What a loss was of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossKind {
    /// Readings.
    Readings,
    /// Predictions.
    Predictions,
    /// Whole batches whose contents nobody can read.
    Batches,
    /// Messages that were not taken from the broker.
    Messages,
    /// Events that had no receipt of the fleet server.
    Events,
    /// Rows of losses that had none.
    Losses,
    /// Windows of statistics that had none.
    Windows,
}

impl LossKind {
    /// Returns the kind's text in the ledger, metrics and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Predictions => "predictions",
            Self::Batches => "batches",
            Self::Messages => "messages",
            Self::Events => "events",
            Self::Losses => "losses",
            Self::Windows => "windows",
        }
    }
}

/// A window for a slot.
#[derive(Debug)]
pub struct SlotJob {
    /// Number that the stage gave it.
    pub ticket: u64,
    /// The model's input, as in `ReadyWindow::values`.
    pub values: Vec<f32>,
}

/// What became of a window in a slot.
#[derive(Debug)]
pub struct SlotResult {
    /// The model.
    pub model: ModelIndex,
    /// The number that the stage gave it.
    pub ticket: u64,
    /// The outputs one after the other, flattened; or why there are none.
    pub outputs: Result<Vec<f32>, SlotFailure>,
}

/// Why a window has no outputs. Its text is a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotFailure {
    /// The worker died or was out of memory on every try.
    Crashed,
    /// The model took longer than its deadline.
    Deadline,
    /// The engine returned an error.
    Engine,
    /// The slot is down and waits to be started again.
    Unavailable,
}

impl SlotFailure {
    /// Returns the failure's text in metrics, status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Deadline => "deadline",
            Self::Engine => "engine",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A message for the publisher.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Sequence number of the prediction it is of; alerts have that of their prediction.
    pub sequence: u64,
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
}
