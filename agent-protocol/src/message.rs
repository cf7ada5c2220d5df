//! The messages of the protocol: their types on the wire, their limits, and the way from signed bytes to a value.
//!
//! A value that came from a peer is had as [`Verified`] alone. Never compresses: the caller, who does I/O, brings that.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope::Payload;
use crate::json::{self, JsonError};
use crate::text::Words;
use crate::verified::Verified;

/// How a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Plain,
    /// JSON in one frame of Zstandard; the signature is over the frame.
    Zstd,
}

/// A message that travels in an envelope.
pub trait Message: Serialize + DeserializeOwned {
    /// Payload type of the plain form.
    const TYPE: &'static str;
    /// Payload type of the compressed form; the same as [`Message::TYPE`] where there is none.
    const ZSTD_TYPE: &'static str;
    /// Longest plain form in bytes.
    const BYTES_MAX: usize;

    /// Checks what types alone do not.
    ///
    /// *Errors*: what contradicts itself or is too much.
    fn require_sound(&self) -> Result<(), Words>;

    /// Returns the payload type of a form.
    #[must_use]
    fn payload_type(form: Form) -> &'static str {
        match form {
            Form::Plain => Self::TYPE,
            Form::Zstd => Self::ZSTD_TYPE,
        }
    }

    /// Returns the form that a payload type names; none for another message's.
    #[must_use]
    fn form_of(payload_type: &str) -> Option<Form> {
        match payload_type {
            _ if payload_type == Self::TYPE => Some(Form::Plain),
            _ if payload_type == Self::ZSTD_TYPE => Some(Form::Zstd),
            _ => None,
        }
    }

    /// Returns the plain form, to be sealed as it is or compressed.
    ///
    /// *Errors*: it is longer than a peer reads, or contradicts itself.
    fn to_plain(&self) -> Result<Vec<u8>, MessageError> {
        self.require_sound().map_err(MessageError::Unsound)?;
        let bytes =
            serde_json::to_vec(self).map_err(|e| MessageError::Unsound(Words::cut(&e.to_string())))?;
        if bytes.len() > Self::BYTES_MAX {
            return Err(JsonError::TooLong { bytes: bytes.len(), bytes_max: Self::BYTES_MAX }.into());
        }
        Ok(bytes)
    }

    /// Reads the plain form. The result is not verified: from a peer, use [`Verified::read`].
    ///
    /// *Errors*: it is too long, too deep, of another form, or contradicts itself.
    fn from_plain(bytes: &[u8]) -> Result<Self, MessageError> {
        let message: Self = json::read(bytes, Self::BYTES_MAX)?;
        message.require_sound().map_err(MessageError::Unsound)?;
        Ok(message)
    }
}

/// Why a payload is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageError {
    /// It is of another type than expected.
    Type(Words),
    /// Its frame cannot be decompressed, or comes to more than allowed.
    Compressed,
    /// It is too long, too deep or of another form.
    Json(JsonError),
    /// It contradicts itself.
    Unsound(Words),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(other) => write!(f, "the payload is of the type `{other}`"),
            Self::Compressed => f.write_str("the payload cannot be decompressed to a size that is allowed"),
            Self::Json(_) => f.write_str("the payload cannot be read"),
            Self::Unsound(reason) => write!(f, "the message {reason}"),
        }
    }
}

impl std::error::Error for MessageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::Type(_) | Self::Compressed | Self::Unsound(_) => None,
        }
    }
}

impl From<JsonError> for MessageError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

impl Verified<Payload> {
    /// Reads the message. `decompress` is given a frame of Zstandard and the most bytes it may come to, and returns none
    /// for one that is broken or longer.
    ///
    /// *Errors*: another type, a broken or too large frame, or no sound message.
    pub fn read<M: Message>(
        &self,
        decompress: impl FnOnce(&[u8], usize) -> Option<Vec<u8>>,
    ) -> Result<Verified<M>, MessageError> {
        let form = M::form_of(self.payload_type())
            .ok_or_else(|| MessageError::Type(Words::cut(self.payload_type())))?;
        let message = match form {
            Form::Plain => M::from_plain(self.bytes())?,
            Form::Zstd => {
                let plain = decompress(self.bytes(), M::BYTES_MAX).ok_or(MessageError::Compressed)?;
                M::from_plain(&plain)?
            }
        };
        Ok(Verified::attest(message))
    }
}
