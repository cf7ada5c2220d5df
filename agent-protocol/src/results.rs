//! Results of a device that has no network: what exchanges would have brought, in a file that people carry.
//!
//! A file is a line for each part, and each part a signed envelope of its own. It answers no question, and so it has no
//! counter: taking it twice, late or in another order changes nothing, since rows have numbers, and a report counts only
//! where nothing newer is known. The key id of its signature is the device's public key. Types and their soundness alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::enrolment::DeviceState;
use crate::exchange::{Clock, Receipt, Rejected, require_each_number_once};
use crate::health::Health;
use crate::id::{DeviceId, Incarnation, Nonce, ServerId};
use crate::limits::{ANSWER_BYTES_MAX, BATCHES_MAX, RECEIPTS_MAX, REQUEST_BYTES_MAX};
use crate::list::{List, is_default};
use crate::message::Message;
use crate::refusal::Refusal;
use crate::report::DeviceReport;
use crate::text::Words;

/// A part of a device's results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Results {
    /// Whose they are.
    pub device: DeviceId,
    /// For whom; none where the device was never enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// The device's life at the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    /// The file's mark, the same in all its parts.
    pub file: Nonce,
    /// The part's number in the file, from 1.
    pub part: u32,
    /// No exchange of the device had this counter or a higher one when the file was written; 0 where there was none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub counter_ceiling: u64,
    /// The device's clocks.
    pub clock: Clock,
    /// Its report; in the first part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<DeviceReport>>,
    /// How it does; in the first part.
    #[serde(default, skip_serializing_if = "is_default")]
    pub health: Health,
    /// Rows for the server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub batches: List<Batch, BATCHES_MAX>,
}

impl Message for Results {
    const TYPE: &'static str = "application/vnd.dunlin.results.v1+json";
    const ZSTD_TYPE: &'static str = "application/vnd.dunlin.results.v1+json+zstd";
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn require_sound(&self) -> Result<(), Words> {
        require_each_number_once(&self.batches)
    }
}

/// The server's answer to a part, which travels back: what arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResultsAnswer {
    /// Whose results.
    pub device: DeviceId,
    /// Who answers.
    pub server: ServerId,
    /// The file's mark.
    pub file: Nonce,
    /// The part's number.
    pub part: u32,
    /// When, in milliseconds since 1970.
    pub server_time_ms: u64,
    /// What the device is at the server.
    pub state: DeviceState,
    /// Rows that are safe at the server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub receipts: List<Receipt, RECEIPTS_MAX>,
    /// Rows that it will never take.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rejected: List<Rejected, RECEIPTS_MAX>,
    /// How many rows were new.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rows_new: u64,
    /// Why nothing of it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

impl Message for ResultsAnswer {
    const TYPE: &'static str = "application/vnd.dunlin.results-answer.v1+json";
    const ZSTD_TYPE: &'static str = Self::TYPE;
    const BYTES_MAX: usize = ANSWER_BYTES_MAX;

    fn require_sound(&self) -> Result<(), Words> {
        Ok(())
    }
}
