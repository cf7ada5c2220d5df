//! Enrolment: a device says which key it has, what it is and, where it has a token, that it has; the server says who it is
//! from then on.
//!
//! Opens and checks messages; never decides whether a device is accepted. The proof of a token stands beside the
//! signature in the envelope, over the same bytes, so that nobody has to write a message twice in the same form.

use dunlin_kit::digest::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, EnvelopeError};
use crate::id::{DeviceId, Incarnation, Nonce, ServerId, TokenId};
use crate::key::PublicKey;
use crate::limits::{ENROLMENT_BYTES_MAX, INTEGER_MAX, MODELS_MAX, NEXT_MS_MAX, SUPPORTED_MAX};
use crate::list::{Labels, List, is_default};
use crate::message::{Message, MessageError};
use crate::open_enum::open_enum;
use crate::refusal::Refusal;
use crate::text::{Name, Url, Words};
use crate::token::ProofKey;
use crate::verified::Verified;

open_enum!(
    /// How a device stands with its server.
    DeviceState {
        /// It is served.
        Active = "active",
        /// An operator has to accept it.
        Pending = "pending",
        /// It is not served for the time being.
        Suspended = "suspended",
        /// It is not served any more.
        Revoked = "revoked",
    }
);

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Facts {
    /// Name of the gateway in its configuration.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gateway: Name,
    /// Host name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hostname: Name,
    /// Processor architecture, as in `aarch64`.
    pub architecture: Name,
    /// The board as its firmware names it, or empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub board: Name,
    /// Class of the board in packages' budgets, as in `pi4`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub board_class: Name,
    /// Operating system and version.
    #[serde(default, skip_serializing_if = "is_default")]
    pub os: Name,
    /// Name of the program, as in `dunlind`.
    pub agent: Name,
    /// Its version.
    pub agent_version: Name,
    /// Engine, as in `tract-0.23`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub engine: Name,
    /// Processors.
    #[serde(default, skip_serializing_if = "is_default")]
    pub processors: u32,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory_bytes: u64,
    /// Versions of this protocol that it speaks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocols: List<u32, SUPPORTED_MAX>,
    /// Names of the models that its configuration wants.
    #[serde(default, skip_serializing_if = "is_default")]
    pub models: List<Name, MODELS_MAX>,
}

/// A device's wish to be enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnrollRequest {
    /// The device's key, which signs this message.
    pub key: PublicKey,
    /// What it is.
    pub facts: Facts,
    /// Labels that its configuration claims; what they are worth is the operator's to say.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// The URL it was given: a message that was meant for another server is worth nothing at this one.
    pub server_url: Url,
    /// SHA-256 of the root of the image repository that it trusts.
    pub root: Digest,
    /// The token that the proof is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// The question's mark.
    pub nonce: Nonce,
    /// Its present incarnation, where it has been enrolled before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Incarnation>,
}

impl Message for EnrollRequest {
    const TYPE: &'static str = "application/vnd.dunlin.enroll-request.v1+json";
    const ZSTD_TYPE: &'static str = Self::TYPE;
    const BYTES_MAX: usize = ENROLMENT_BYTES_MAX;

    fn require_sound(&self) -> Result<(), Words> {
        Ok(())
    }
}

impl EnrollRequest {
    /// Returns the id of the device.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        DeviceId::of(&self.key)
    }

    /// Signs the message; `proof` is the key of the token that the message names.
    ///
    /// *Errors*: it is longer than a server reads.
    pub fn seal(
        &self,
        proof: Option<&ProofKey>,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<Envelope, MessageError> {
        let mut envelope = Envelope::seal(Self::TYPE, self.to_plain()?, &self.device().to_string(), sign);
        if let (Some(token), Some(key)) = (self.token, proof) {
            let proof = key.prove(&envelope.signed_bytes());
            envelope.add(&token.to_string(), proof.to_vec());
        }
        Ok(envelope)
    }
}

/// Why an envelope brings no enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolmentError {
    /// The payload is no wish to be enrolled.
    Message(MessageError),
    /// The message is not signed by the key that it brings.
    Envelope(EnvelopeError),
}

impl std::fmt::Display for EnrolmentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the enrolment cannot be used")
    }
}

impl std::error::Error for EnrolmentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Message(error) => Some(error),
            Self::Envelope(error) => Some(error),
        }
    }
}

/// A wish to be enrolled, signed by the key that it brings. Whether the device is welcome is not said by that.
#[derive(Debug, Clone, PartialEq)]
pub struct Enrolment {
    request: Verified<EnrollRequest>,
    message: Vec<u8>,
    proof: Option<Vec<u8>>,
}

impl Enrolment {
    /// Opens an envelope.
    ///
    /// *Errors*: it is of another type, no sound message, or not signed by the key within.
    pub fn open(envelope: Envelope) -> Result<Self, EnrolmentError> {
        if EnrollRequest::form_of(envelope.payload_type()).is_none() {
            let other = Words::cut(envelope.payload_type());
            return Err(EnrolmentError::Message(MessageError::Type(other)));
        }
        let request =
            EnrollRequest::from_plain(envelope.unverified_bytes()).map_err(EnrolmentError::Message)?;
        let token = request.token.map(|token| token.to_string());
        let mut signatures = envelope.signatures().iter();
        let proof = signatures.find(|signature| Some(signature.key_id.as_str()) == token.as_deref());
        let proof = proof.map(|signature| signature.bytes.clone());
        let message = envelope.signed_bytes();
        envelope.verify_message(&[request.key], &message).map_err(EnrolmentError::Envelope)?;
        Ok(Self { request: Verified::attest(request), message, proof })
    }

    /// Returns the message.
    #[must_use]
    pub const fn request(&self) -> &Verified<EnrollRequest> {
        &self.request
    }

    /// Tells whether the device has the secret of the token that it names. `key` is what the server keeps of it.
    #[must_use]
    pub fn is_proven_by(&self, key: &ProofKey) -> bool {
        self.proof.as_ref().is_some_and(|proof| key.has_proven(&self.message, proof))
    }
}

/// The server's answer to an enrolment; signed by its online key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnrollAnswer {
    /// The device, by its key.
    pub device: DeviceId,
    /// The server.
    pub server: ServerId,
    /// The question's mark.
    pub nonce: Nonce,
    /// The server's time in milliseconds since 1970.
    pub server_time_ms: u64,
    /// How the device stands.
    pub state: DeviceState,
    /// The device's life from now on; none where the wish was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    /// The labels that the server keeps for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// When to exchange first, in milliseconds from now.
    #[serde(default, skip_serializing_if = "is_default")]
    pub next_ms: u64,
    /// Why the wish was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

impl Message for EnrollAnswer {
    const TYPE: &'static str = "application/vnd.dunlin.enroll-answer.v1+json";
    const ZSTD_TYPE: &'static str = Self::TYPE;
    const BYTES_MAX: usize = ENROLMENT_BYTES_MAX;

    fn require_sound(&self) -> Result<(), Words> {
        if self.incarnation.is_some() == self.refusal.is_some() {
            return Err(Words::cut("must bring either an incarnation or a refusal"));
        }
        if self.next_ms > NEXT_MS_MAX || self.server_time_ms > INTEGER_MAX {
            return Err(Words::cut("has a time beyond what is allowed"));
        }
        Ok(())
    }
}

impl EnrollAnswer {
    /// Checks that this answers a request.
    ///
    /// *Errors*: it is another device's, or answers another question; to be dropped.
    pub fn require_answer_to(&self, request: &EnrollRequest) -> Result<(), Words> {
        if self.device != request.device() {
            return Err(Words::cut("is meant for another device"));
        }
        if self.nonce != request.nonce {
            return Err(Words::cut("answers another question"));
        }
        Ok(())
    }
}
