//! Why an update is refused: the codes of trust, and the two that only a gateway has.
//!
//! A refusal changes nothing but the record of it. Failures without a code (a stick that was pulled out, a disk that
//! does not answer) are no refusals: they are tried again.

use std::fmt;

use dunlin_trust::{Code, Failure};
use serde::{Deserialize, Serialize};

/// What kind of refusal it is, as reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The verifier's.
    Trust(Code),
    /// What was trusted is not known any more.
    StateLost,
    /// There is no room for the files.
    DiskFull,
}

impl RefusalCode {
    /// Returns the code's text in reports, `dunlind models` and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trust(code) => code.as_str(),
            Self::StateLost => "state_lost",
            Self::DiskFull => "disk_full",
        }
    }
}

/// A refusal: what was trusted and what runs stay as they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind it is, as [`RefusalCode::as_str`] writes it.
    pub code: String,
    /// The file, role or model it is about.
    pub object: String,
    /// What is wrong with it, and what to do where somebody can do something.
    pub reason: String,
}

impl Refusal {
    /// Makes a refusal.
    #[must_use]
    pub fn new(code: RefusalCode, object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { code: code.as_str().to_owned(), object: object.into(), reason: reason.into() }
    }

    /// Makes a refusal with one of the verifier's codes.
    #[must_use]
    pub fn trust(code: Code, object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(RefusalCode::Trust(code), object, reason)
    }

    /// Makes the refusal of a gateway that does not know what it trusted.
    #[must_use]
    pub fn state_lost(why: impl fmt::Display) -> Self {
        let reason = format!(
            "cannot be relied on ({why}); models keep running, nothing new is taken: see `state_lost` in the manual"
        );
        Self::new(RefusalCode::StateLost, "state.db", reason)
    }

    /// Tells whether it has one of the verifier's codes.
    #[must_use]
    pub fn is(&self, code: Code) -> bool {
        self.code == code.as_str()
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::trust(failure.code, failure.object, failure.reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` {}", self.code, self.object.escape_debug(), self.reason)
    }
}

impl std::error::Error for Refusal {}
