//! Why something is not trusted: a code that is reported, and words for a person.
//!
//! The codes are a fixed part of reports and of the documentation; their meaning never changes.

use std::fmt;

/// What kind of failure it is, as reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// Bad or too few signatures.
    Signature,
    /// An older version of a role than the trusted one.
    Rollback,
    /// The metadata has expired: somebody may be withholding newer ones.
    FreezeSuspected,
    /// Another hash, length, version or form than expected.
    Mismatch,
    /// Longer than allowed.
    EndlessData,
    /// Slower than the floor.
    SlowRetrieval,
    /// The director names something that the image repository does not hold in the same form.
    NotApproved,
    /// Meant for another device.
    WrongDevice,
    /// Not for this hardware, engine or configuration.
    Incompatible,
    /// A lower release counter than the floor.
    Downgrade,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 10] = [
        Self::Signature,
        Self::Rollback,
        Self::FreezeSuspected,
        Self::Mismatch,
        Self::EndlessData,
        Self::SlowRetrieval,
        Self::NotApproved,
        Self::WrongDevice,
        Self::Incompatible,
        Self::Downgrade,
    ];

    /// Returns the code's text in reports, `dunlind models` and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Rollback => "rollback",
            Self::FreezeSuspected => "freeze_suspected",
            Self::Mismatch => "mismatch",
            Self::EndlessData => "endless_data",
            Self::SlowRetrieval => "slow_retrieval",
            Self::NotApproved => "not_approved",
            Self::WrongDevice => "wrong_device",
            Self::Incompatible => "incompatible",
            Self::Downgrade => "downgrade",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Longest reason, in characters: parts of it may be quoted from a file that nobody signed.
const REASON_CHARS_MAX: usize = 400;

/// A refusal: nothing that was trusted before has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind it is.
    pub code: Code,
    /// The file or role it is about, as in `3.targets.json`.
    pub object: String,
    /// What is wrong with it, and what to do where somebody can do something.
    pub reason: String,
}

impl Failure {
    /// Makes a failure. The reason is cut to a length that fits a log, and control characters in it are escaped.
    #[must_use]
    pub fn new(code: Code, object: impl Into<String>, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let plain = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
        let reason = reason.chars().take(REASON_CHARS_MAX).map(plain).collect();
        Self { code, object: object.into(), reason }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` {}", self.code, self.object.escape_debug(), self.reason)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_cannot_fill_or_colour_a_log() {
        let failure =
            Failure::new(Code::Mismatch, "a\x1b[31m", format!("is `{}`", "\x1b[31m\n".repeat(1000)));
        let text = failure.to_string();
        assert!(text.len() < 4 * REASON_CHARS_MAX && !text.contains(|c: char| c.is_control()), "{text:?}");
    }
}
