//! The exchange: one signed question of a device, one signed answer of its server.
//!
//! The question says what the device holds, how it does, and brings rows; the answer brings receipts and, where there
//! is something new, what the director signed. Types and their soundness alone: counters and clones are the server's.

use dunlin_kit::digest::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Stream};
use crate::enrolment::DeviceState;
use crate::health::Health;
use crate::id::{Counter, DeviceId, Incarnation, Nonce, RolloutId, ServerId, StartId};
use crate::limits::{
    ANSWER_BYTES_MAX, ASKS_MAX, BATCHES_MAX, INTEGER_MAX, NEXT_MS_MAX, RECEIPTS_MAX, REQUEST_BYTES_MAX,
    ROOTS_MAX,
};
use crate::list::{List, is_default};
use crate::message::Message;
use crate::open_enum::open_enum;
use crate::ranges::Ranges;
use crate::refusal::Refusal;
use crate::report::DeviceReport;
use crate::text::{Code, MetadataText, Name, TargetPath, Words};

/// The device's clocks when it wrote the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Clock {
    /// Id of the boot.
    pub boot: Name,
    /// Milliseconds since the boot.
    pub mono_ms: u64,
    /// Milliseconds since 1970 by the system's clock.
    pub wall_ms: i64,
    /// Whether the system says that it is synchronised.
    pub synchronised: bool,
}

/// What the device holds: versions of metadata, 0 where it has none, and revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Held {
    /// The image repository's root.
    #[serde(skip_serializing_if = "is_default")]
    pub root: u64,
    /// Its timestamp.
    #[serde(skip_serializing_if = "is_default")]
    pub timestamp: u64,
    /// Its snapshot.
    #[serde(skip_serializing_if = "is_default")]
    pub snapshot: u64,
    /// Its targets metadata.
    #[serde(skip_serializing_if = "is_default")]
    pub targets: u64,
    /// The director's root.
    #[serde(skip_serializing_if = "is_default")]
    pub director_root: u64,
    /// The director's targets metadata: the statement.
    #[serde(skip_serializing_if = "is_default")]
    pub director_version: u64,
    /// Revision of what the device was told to run.
    #[serde(skip_serializing_if = "is_default")]
    pub desired_revision: u64,
    /// Revision of its settings.
    #[serde(skip_serializing_if = "is_default")]
    pub settings_revision: u64,
}

/// The report, or its digest alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportPart {
    /// What stands for the report.
    pub digest: Digest,
    /// The report; left out where the server has confirmed this digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<Box<DeviceReport>>,
}

/// A device's wish to take an update later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Defer {
    /// Until when, in milliseconds since 1970 by the device's clock.
    pub until_ms: i64,
    /// Which rollout; none for whatever comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Why.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: Words,
}

/// A device's question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExchangeRequest {
    /// Who asks.
    pub device: DeviceId,
    /// Who is asked.
    pub server: ServerId,
    /// The device's life at the server.
    pub incarnation: Incarnation,
    /// The message's number, strictly rising.
    pub counter: Counter,
    /// The start of the program.
    pub start: StartId,
    /// The question's mark.
    pub nonce: Nonce,
    /// The device's clocks.
    pub clock: Clock,
    /// What it holds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub held: Held,
    /// Its report.
    pub report: ReportPart,
    /// How it does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub health: Health,
    /// Rows for the server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub batches: List<Batch, BATCHES_MAX>,
    /// A wish to take an update later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defer: Option<Defer>,
}

impl Message for ExchangeRequest {
    const TYPE: &'static str = "application/vnd.dunlin.exchange-request.v1+json";
    const ZSTD_TYPE: &'static str = "application/vnd.dunlin.exchange-request.v1+json+zstd";
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn require_sound(&self) -> Result<(), Words> {
        require_each_number_once(&self.batches)
    }
}

/// Checks that batches of one message bring no number twice.
///
/// *Errors*: the stream that does.
pub(crate) fn require_each_number_once(batches: &[Batch]) -> Result<(), Words> {
    let mut seen: Vec<(&Stream, Ranges)> = Vec::new();
    for batch in batches {
        let at = seen.iter().position(|(stream, _)| *stream == batch.stream());
        let at = at.unwrap_or_else(|| {
            seen.push((batch.stream(), Ranges::new()));
            seen.len() - 1
        });
        let ranges = &mut seen[at].1;
        if !ranges.intersect(&batch.range().into()).is_empty() {
            let words = format!("brings numbers of the stream `{}` twice", batch.stream());
            return Err(Words::cut(&words));
        }
        ranges.insert(batch.range());
    }
    Ok(())
}

/// Rows that are safe at the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// The stream.
    pub stream: Stream,
    /// Their numbers: at least those of the question's batches that were taken.
    pub ranges: Ranges,
}

/// Rows that the server will never take; the device puts them into its loss ledger and goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rejected {
    /// The stream.
    pub stream: Stream,
    /// Their numbers.
    pub ranges: Ranges,
    /// Why, as in `malformed`.
    pub code: Code,
    /// The same for people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub words: Words,
}

/// The director's files, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DirectorFiles {
    /// Roots after the one that the device holds, in order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub roots: List<MetadataText, ROOTS_MAX>,
    /// The timestamp.
    pub timestamp: MetadataText,
    /// The snapshot.
    pub snapshot: MetadataText,
    /// The targets metadata: the statement, addressed to the device and bearing the question's nonce.
    pub targets: MetadataText,
}

/// What the device is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Desired {
    /// Revision: the device says it back once it has taken the statement.
    pub revision: u64,
    /// What the director signed.
    pub director: DirectorFiles,
}

/// Settings for the device: a target like any other, named by the director's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingsOffer {
    /// Revision: the device says it back once it has taken or refused them.
    pub revision: u64,
    /// Path of the target in both repositories.
    pub target: TargetPath,
    /// SHA-256 of the file, to be fetched as a blob.
    pub digest: Digest,
}

open_enum!(
    /// How much of a stream is sent.
    Share {
        /// Nothing.
        None = "none",
        /// One row in so many.
        Sampled = "sampled",
        /// All rows.
        All = "all",
    }
);

/// What the server asks for beside the exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// The report in full.
    Report,
    /// The newest lines of the log, as events of the kind `log`.
    Logs {
        /// How many lines at most.
        lines_max: u32,
    },
    /// How much of a stream to send from now on.
    Policy {
        /// The stream.
        stream: Stream,
        /// How much.
        share: Share,
        /// With `sampled`: one row in so many. *Range*: from 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        every: Option<u32>,
    },
    /// Rows to be sent again as far as the device still has them: the server has lost what it took.
    Resend {
        /// The stream.
        stream: Stream,
        /// Their numbers.
        ranges: Ranges,
    },
    /// Something that this build does not know; the device passes over it.
    #[serde(other)]
    Unknown,
}

/// The server's answer; signed by its online key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExchangeAnswer {
    /// Who asked.
    pub device: DeviceId,
    /// Who answers.
    pub server: ServerId,
    /// The device's life at the server, as asked.
    pub incarnation: Incarnation,
    /// The question's number.
    pub counter: Counter,
    /// The question's mark.
    pub nonce: Nonce,
    /// The server's time in milliseconds since 1970.
    pub server_time_ms: u64,
    /// How the device stands.
    pub state: DeviceState,
    /// When to ask again, in milliseconds from now.
    #[serde(default, skip_serializing_if = "is_default")]
    pub next_ms: u64,
    /// Digest of the newest report that the server has in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_known: Option<Digest>,
    /// Rows that are safe.
    #[serde(default, skip_serializing_if = "is_default")]
    pub receipts: List<Receipt, RECEIPTS_MAX>,
    /// Rows that will never be taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rejected: List<Rejected, RECEIPTS_MAX>,
    /// What to run, where it is not what the device holds or its statement grows old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Box<Desired>>,
    /// New settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsOffer>,
    /// What the server asks for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asks: List<Ask, ASKS_MAX>,
    /// Why the message was refused; then there is nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

impl Message for ExchangeAnswer {
    const TYPE: &'static str = "application/vnd.dunlin.exchange-answer.v1+json";
    const ZSTD_TYPE: &'static str = "application/vnd.dunlin.exchange-answer.v1+json+zstd";
    const BYTES_MAX: usize = ANSWER_BYTES_MAX;

    fn require_sound(&self) -> Result<(), Words> {
        let has_more = !self.receipts.is_empty()
            || !self.rejected.is_empty()
            || !self.asks.is_empty()
            || self.desired.is_some()
            || self.settings.is_some();
        if self.refusal.is_some() && has_more {
            return Err(Words::cut("refuses a message and answers it"));
        }
        if self.next_ms > NEXT_MS_MAX || self.server_time_ms > INTEGER_MAX {
            return Err(Words::cut("has a time beyond what is allowed"));
        }
        Ok(())
    }
}

impl ExchangeAnswer {
    /// Checks that this answers a question: nothing in it counts otherwise.
    ///
    /// *Errors*: it is another device's, another server's or another life's, or answers another question; to be dropped.
    pub fn require_answer_to(&self, question: &ExchangeRequest) -> Result<(), Words> {
        let wrong = if self.device != question.device {
            "is meant for another device"
        } else if self.server != question.server {
            "is another server's"
        } else if self.incarnation != question.incarnation {
            "is meant for another incarnation"
        } else if self.counter != question.counter || self.nonce != question.nonce {
            "answers another question"
        } else {
            return Ok(());
        };
        Err(Words::cut(wrong))
    }
}
