//! What ends a test or a measurement: a sentence for whoever reads the log.
//!
//! One type for the whole harness, since its only reader is a person. Never decides anything.

use std::fmt;

/// Why a run of the harness cannot go on.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure(String);

/// What the harness's functions return.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Returns a failure with this sentence.
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }

    /// Returns a function that turns an error into a failure of `act`, for `map_err`.
    pub fn of<E: fmt::Display>(act: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{act}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The same sentence: a test that returns a failure prints its `Debug`.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(format!("i/o: {error}"))
    }
}

impl From<rcgen::Error> for Failure {
    fn from(error: rcgen::Error) -> Self {
        Self(format!("certificates: {error}"))
    }
}

impl From<rustls::Error> for Failure {
    fn from(error: rustls::Error) -> Self {
        Self(format!("TLS: {error}"))
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("unreadable JSON: {error}"))
    }
}
