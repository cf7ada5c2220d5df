//! Why a whole message is refused: codes, their HTTP status, and the two forms that a refusal has.
//!
//! A device acts on signed refusals alone; an unsigned one may be anybody's on the way and makes it wait. Decides
//! nothing itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::Counter;
use crate::list::is_default;
use crate::open_enum::open_enum;
use crate::text::Words;

open_enum!(
    /// Why a message is refused as a whole.
    RefusalCode {
        /// The body is no envelope, or the payload no message.
        Malformed = "malformed",
        /// Payload type or media type are of no version that the server reads.
        Unsupported = "unsupported",
        /// Not signed by the key of the device that it names.
        Signature = "signature",
        /// No device of this id is enrolled here.
        UnknownDevice = "unknown_device",
        /// Meant for another server.
        WrongServer = "wrong_server",
        /// The root that the device starts from is not of this server's owner.
        WrongRoot = "wrong_root",
        /// The token is unknown, has ended or is used up, or the proof is not of its secret.
        Token = "token",
        /// The incarnation is not the device's present one.
        WrongIncarnation = "wrong_incarnation",
        /// The counter was used, or a higher one was.
        Replayed = "replayed",
        /// Two devices use one key.
        ClonedIdentity = "cloned_identity",
        /// An operator has suspended the device.
        Suspended = "suspended",
        /// An operator has revoked the device.
        Revoked = "revoked",
        /// No operator has accepted the device yet.
        Pending = "pending",
        /// Longer than allowed.
        TooLarge = "too_large",
        /// More messages than allowed, or than the server can take.
        TooMany = "too_many",
        /// The server cannot answer at present.
        Unavailable = "unavailable",
    }
);

impl RefusalCode {
    /// Returns the HTTP status.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Malformed | Self::Other(_) => 400,
            Self::Signature | Self::UnknownDevice => 401,
            Self::Token | Self::WrongRoot | Self::ClonedIdentity => 403,
            Self::Suspended | Self::Revoked | Self::Pending => 403,
            Self::WrongIncarnation | Self::Replayed => 409,
            Self::TooLarge => 413,
            Self::Unsupported => 415,
            Self::WrongServer => 421,
            Self::TooMany => 429,
            Self::Unavailable => 503,
        }
    }

    /// Tells whether the refusal comes as a signed answer: wherever the server knows who asked, and the device whose key
    /// the answer bears. The others are [`Problem`]s.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        matches!(
            self,
            Self::WrongIncarnation
                | Self::Replayed
                | Self::ClonedIdentity
                | Self::Suspended
                | Self::Revoked
                | Self::Pending
                | Self::Token
        )
    }
}

/// A refusal within a signed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// The same for people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub words: Words,
    /// With `replayed`: the highest counter that was seen; the device goes on above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest: Option<Counter>,
}

/// A refusal that is not signed. *Source*: RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `about:blank`, or a URL that describes the code.
    #[serde(rename = "type", default)]
    pub kind: Words,
    /// The code in words.
    #[serde(default)]
    pub title: Words,
    /// The HTTP status again.
    #[serde(default)]
    pub status: u16,
    /// What was wrong with this message.
    #[serde(default)]
    pub detail: Words,
    /// The code.
    pub code: RefusalCode,
}

/// Longest problem: four texts.
const PROBLEM_BYTES_MAX: usize = 8 << 10;

impl Problem {
    /// Makes the problem of a code.
    #[must_use]
    pub fn new(code: RefusalCode, detail: &str) -> Self {
        Self {
            kind: Words::cut("about:blank"),
            title: Words::cut(&code.as_str().replace('_', " ")),
            status: code.http_status(),
            detail: Words::cut(detail),
            code,
        }
    }

    /// Reads a body; none where it is something else, as a proxy's page.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        crate::json::read(body, PROBLEM_BYTES_MAX).ok()
    }
}
