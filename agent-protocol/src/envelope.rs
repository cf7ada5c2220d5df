//! The signed envelope (DSSE 1.0): payload type, payload and signatures over both.
//!
//! Signs by a function that the caller brings; a payload of a peer is had as [`Verified`] alone. Never reads what the
//! payload says, never compresses. *Source*: DSSE, protocol 1.0.0.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::json::{self, JsonError};
use crate::key::PublicKey;
use crate::limits::{
    ENVELOPE_OVERHEAD_BYTES, KEY_ID_BYTES_MAX, PAYLOAD_TYPE_BYTES_MAX, SIGNATURES_MAX, envelope_bytes_max,
};
use crate::list::List;
use crate::message::{Message, MessageError};
use crate::text::Text;
use crate::verified::Verified;

/// Longest signature in bytes of base64: twice Ed25519's.
const SIGNATURE_TEXT_BYTES_MAX: usize = 176;
const _: () = assert!(
    SIGNATURES_MAX * (SIGNATURE_TEXT_BYTES_MAX + KEY_ID_BYTES_MAX + 32) + PAYLOAD_TYPE_BYTES_MAX
        < ENVELOPE_OVERHEAD_BYTES
);

type KeyId = Text<KEY_ID_BYTES_MAX>;
type SignatureText = Text<SIGNATURE_TEXT_BYTES_MAX>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    payload_type: Text<PAYLOAD_TYPE_BYTES_MAX>,
    payload: String,
    signatures: List<WireSignature, SIGNATURES_MAX>,
}

#[derive(Serialize, Deserialize)]
struct WireSignature {
    #[serde(default)]
    keyid: KeyId,
    sig: SignatureText,
}

/// A signature as it came: of no meaning before a key has checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Says which key it is of; a hint.
    pub(crate) key_id: KeyId,
    pub(crate) bytes: Vec<u8>,
}

/// Why an envelope is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvelopeError {
    /// It is no envelope: too long, or of another form.
    Json(JsonError),
    /// Payload or signature are not in the one spelling of base64, or the payload is too long.
    Payload,
    /// None of its signatures is of a key that may sign it.
    Signature,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json(_) => "the body is no envelope",
            Self::Payload => "payload or signature of the envelope are no base64 of an allowed length",
            Self::Signature => "the envelope is not signed by a key that may sign it",
        })
    }
}

impl std::error::Error for EnvelopeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::Payload | Self::Signature => None,
        }
    }
}

/// An envelope; what came in one is not to be read before its signature was checked, and there is no way to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload: Payload,
    signatures: Vec<Signature>,
}

/// What an envelope holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    payload_type: Text<PAYLOAD_TYPE_BYTES_MAX>,
    bytes: Vec<u8>,
}

impl Payload {
    /// Returns the payload type.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// Returns the payload as it was signed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns the bytes that are signed: DSSE's pre-authentication encoding of a payload type and a payload.
#[must_use]
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

impl Envelope {
    /// Signs a payload. `key_id` tells the reader which key to look for; `sign` is given the bytes to sign.
    ///
    /// The payload type is one of [`crate::Message::payload_type`]'s.
    #[must_use]
    pub fn seal(
        payload_type: &'static str,
        payload: Vec<u8>,
        key_id: &str,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Self {
        let payload = Payload { payload_type: Text::cut(payload_type), bytes: payload };
        let mut envelope = Self { payload, signatures: Vec::new() };
        let signature = sign(&envelope.signed_bytes());
        envelope.add(key_id, signature.to_vec());
        envelope
    }

    /// Signs a message in its plain form.
    ///
    /// *Errors*: it is longer than a peer reads, or contradicts itself.
    pub fn of<M: Message>(
        message: &M,
        key_id: &str,
        sign: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<Self, MessageError> {
        Ok(Self::seal(M::TYPE, message.to_plain()?, key_id, sign))
    }

    /// Adds a signature or a proof; there are few, all of this crate's making.
    pub(crate) fn add(&mut self, key_id: &str, bytes: Vec<u8>) {
        self.signatures.push(Signature { key_id: Text::cut(key_id), bytes });
    }

    /// Reads an envelope whose payload has at most `payload_bytes_max` bytes.
    ///
    /// *Errors*: it is none, or too long.
    pub fn parse(raw: &[u8], payload_bytes_max: usize) -> Result<Self, EnvelopeError> {
        let wire: Wire =
            json::read(raw, envelope_bytes_max(payload_bytes_max)).map_err(EnvelopeError::Json)?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| EnvelopeError::Payload);
        let bytes = decode(&wire.payload)?;
        if bytes.len() > payload_bytes_max {
            return Err(EnvelopeError::Payload);
        }
        let signatures = wire
            .signatures
            .into_iter()
            .map(|signature| Ok(Signature { key_id: signature.keyid, bytes: decode(&signature.sig)? }));
        let signatures = signatures.collect::<Result<_, EnvelopeError>>()?;
        Ok(Self { payload: Payload { payload_type: wire.payload_type, bytes }, signatures })
    }

    /// Returns the envelope as it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let signatures = self.signatures.iter().map(|signature| WireSignature {
            keyid: signature.key_id.clone(),
            sig: Text::cut(&STANDARD.encode(&signature.bytes)),
        });
        let wire = Wire {
            payload_type: self.payload.payload_type.clone(),
            payload: STANDARD.encode(&self.payload.bytes),
            signatures: List::first_of(signatures),
        };
        serde_json::to_vec(&wire).expect("texts are JSON")
    }

    /// Returns the payload type, which nobody has vouched for yet.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        self.payload.payload_type()
    }

    /// Returns whom the envelope says it is signed by: hints, to look up a key. A device's is its id.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.signatures.iter().map(|signature| signature.key_id.as_str())
    }

    /// Returns the bytes that are signed.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        pre_authentication_encoding(self.payload.payload_type(), &self.payload.bytes)
    }

    /// Gives the payload once a signature by one of `keys` was found. Key ids are hints and play no part.
    ///
    /// *Errors*: `Signature`.
    pub fn verify(self, keys: &[PublicKey]) -> Result<Verified<Payload>, EnvelopeError> {
        let message = self.signed_bytes();
        self.verify_message(keys, &message)
    }

    /// As [`Envelope::verify`], for a caller that has the signed bytes already.
    pub(crate) fn verify_message(
        self,
        keys: &[PublicKey],
        message: &[u8],
    ) -> Result<Verified<Payload>, EnvelopeError> {
        let mut signatures =
            self.signatures.iter().filter_map(|s| <&[u8; 64]>::try_from(s.bytes.as_slice()).ok());
        if signatures.any(|signature| keys.iter().any(|key| key.has_signed(message, signature))) {
            Ok(Verified::attest(self.payload))
        } else {
            Err(EnvelopeError::Signature)
        }
    }

    /// Returns the payload's bytes, unverified: for a message that brings its own key.
    pub(crate) fn unverified_bytes(&self) -> &[u8] {
        &self.payload.bytes
    }

    pub(crate) fn signatures(&self) -> &[Signature] {
        &self.signatures
    }
}
