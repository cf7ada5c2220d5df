//! The commands of `dunlin`: arguments, what they do, and how they end.
//!
//! Each command is a pair of arguments and `run`; none ends the process. What a command prints goes through
//! [`crate::print`].

pub mod bundle;
pub mod devices;
pub mod keys;
pub mod login;
pub mod manual;
pub mod package;
pub mod people;
pub mod profile;
pub mod publish;
pub mod results;
pub mod rollout;
mod rollout_watch;
pub mod server;
pub mod sign;
pub mod simulate;
pub mod trust_arguments;

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use dunlin_kit::error_chain::Chain;

use crate::print;

/// The cause of a command's failure.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// Why a command ends without success; the kind decides its exit code.
#[derive(Debug)]
pub enum CommandError {
    /// The arguments make no sense together: exit code 2.
    Usage(String),
    /// What was asked for does not exist: exit code 3.
    NotFound(String),
    /// Something is there already, or is newer: exit code 4.
    Conflict(String),
    /// A check found something wrong: exit code 5.
    CheckFailed(String),
    /// Something failed: exit code 1.
    Failed {
        /// What failed.
        message: String,
        /// Why.
        source: Option<Cause>,
    },
}

impl CommandError {
    /// Returns a failure with its cause.
    pub fn failed(message: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Failed { message: message.into(), source: Some(source.into()) }
    }

    /// Returns the exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Failed { .. } => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Conflict(_) => 4,
            Self::CheckFailed(_) => 5,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message)
            | Self::NotFound(message)
            | Self::Conflict(message)
            | Self::CheckFailed(message)
            | Self::Failed { message, .. } => f.write_str(message),
        }
    }
}

impl Error for CommandError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed { source, .. } => source.as_deref().map(|cause| cause as &(dyn Error + 'static)),
            _ => None,
        }
    }
}

/// Ends a command: prints its error with all causes to standard error and returns the exit code.
#[must_use]
pub fn finish(result: Result<(), CommandError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::note(&format!("error: {}", Chain(&error)));
            ExitCode::from(error.exit_code())
        }
    }
}
