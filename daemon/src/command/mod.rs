//! The commands of `dunlind`: arguments, what they print, and how they end.
//!
//! Each command is a pair of arguments and `run`; none prints anything but its result to standard output, and none
//! ends the process. What needs the running pipeline or the store gets it passed in by `main`.

pub mod check;
pub mod csv_rows;
pub mod enroll;
pub mod export;
pub mod history;
pub mod import;
pub mod models;
pub mod offline;
pub mod output;
pub mod predict;
pub mod query;
pub mod released;
pub mod replay;
pub mod results;
pub mod rollback;
pub mod selection;
pub mod sources;
pub mod status;
pub mod stored;

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use dunlin_kit::error_chain::Chain;

use crate::status::client::ClientError;
use crate::status::escape::terminal_safe;

/// Everything was done.
pub const EXIT_OK: u8 = 0;
/// Something failed.
pub const EXIT_FAILED: u8 = 1;
/// The arguments make no sense.
pub const EXIT_USAGE: u8 = 2;
/// What was asked for does not exist.
pub const EXIT_NOT_FOUND: u8 = 3;
/// What was asked for cannot be done as things are.
pub const EXIT_REFUSED: u8 = 4;
/// A check found something wrong.
pub const EXIT_CHECK_FAILED: u8 = 5;
/// The configuration is refused.
pub const EXIT_CONFIGURATION: u8 = 64;

/// Where the state is when neither `--state-dir` nor `$STATE_DIRECTORY` says so.
pub const STATE_DIR_DEFAULT: &str = "/var/lib/dunlin";

/// The cause of a command's failure.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// Why a command ends without success; the kind decides its exit code.
#[derive(Debug)]
pub enum CommandError {
    /// The arguments make no sense together: exit code 2.
    Usage(String),
    /// What was asked for does not exist: exit code 3.
    NotFound(String),
    /// What was asked for cannot be done as things are: exit code 4.
    Refused(String),
    /// A check found something wrong: exit code 5.
    CheckFailed(String),
    /// The configuration is refused: exit code 64.
    Configuration {
        /// Which configuration.
        message: String,
        /// Why.
        source: Option<Cause>,
    },
    /// Something failed: exit code 1.
    Failed {
        /// What failed.
        message: String,
        /// Why.
        source: Option<Cause>,
    },
    /// Whoever read standard output went away: the command ends quietly with 0.
    OutputClosed,
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
            Self::Usage(_) => EXIT_USAGE,
            Self::NotFound(_) => EXIT_NOT_FOUND,
            Self::Refused(_) => EXIT_REFUSED,
            Self::CheckFailed(_) => EXIT_CHECK_FAILED,
            Self::Configuration { .. } => EXIT_CONFIGURATION,
            Self::Failed { .. } => EXIT_FAILED,
            Self::OutputClosed => EXIT_OK,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message)
            | Self::NotFound(message)
            | Self::Refused(message)
            | Self::CheckFailed(message) => f.write_str(message),
            Self::Configuration { message, .. } | Self::Failed { message, .. } => f.write_str(message),
            Self::OutputClosed => f.write_str("the reader of the output went away"),
        }
    }
}

impl Error for CommandError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Configuration { source, .. } | Self::Failed { source, .. } => {
                source.as_deref().map(|cause| cause as &(dyn Error + 'static))
            }
            _ => None,
        }
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NotRunning(_) => Self::NotFound(format!(
                "{error}; start it with `dunlind run`, or name its state folder with `--state-dir`"
            )),
            ClientError::Forbidden(_) => Self::Failed {
                message: format!("{error}; use `sudo` or join the group of the socket"),
                source: None,
            },
            other => Self::failed("cannot ask the daemon", other),
        }
    }
}

/// Ends a command: prints its error with all causes to standard error and returns the exit code.
#[must_use]
pub fn finish(result: Result<ExitCode, CommandError>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(CommandError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("error: {}", Chain(&error)));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Writes a line for people to standard error, with every control character but line ends escaped.
pub fn note(text: &str) {
    let mut stderr = io::stderr().lock();
    for line in text.lines() {
        // Nobody is left to be told that standard error is gone.
        let _ = writeln!(stderr, "{}", terminal_safe(line));
    }
}

/// The state folder of the daemon that a command is about.
#[derive(Debug, Clone, Default, Args)]
pub struct StateDirArgs {
    /// State folder of the daemon [default: $STATE_DIRECTORY, else /var/lib/dunlin]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl StateDirArgs {
    /// Returns the folder to use.
    #[must_use]
    pub fn resolve(&self) -> PathBuf {
        self.resolve_with(std::env::var_os("STATE_DIRECTORY"))
    }

    /// systemd separates several folders by colons; the daemon uses the first.
    fn resolve_with(&self, environment: Option<std::ffi::OsString>) -> PathBuf {
        let first = environment.and_then(|folders| {
            let folder = folders.to_string_lossy().split(':').next().unwrap_or_default().to_owned();
            (!folder.is_empty()).then(|| PathBuf::from(folder))
        });
        self.state_dir.clone().or(first).unwrap_or_else(|| PathBuf::from(STATE_DIR_DEFAULT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_its_exit_code() {
        let failed = || CommandError::failed("x", io::Error::other("y"));
        for (error, code) in [
            (failed(), 1),
            (CommandError::Usage(String::new()), 2),
            (ClientError::NotRunning("/s".into()).into(), 3),
            (CommandError::Refused(String::new()), 4),
            (CommandError::CheckFailed(String::new()), 5),
            (CommandError::Configuration { message: String::new(), source: None }, 64),
            (CommandError::OutputClosed, 0),
        ] {
            assert_eq!(error.exit_code(), code, "{error}");
        }
        assert_eq!(Chain(&failed()).to_string(), "x: y");
    }

    #[test]
    fn the_state_folder_is_that_of_the_argument_then_of_systemd() {
        let args = |folder: Option<&str>| StateDirArgs { state_dir: folder.map(PathBuf::from) };
        assert_eq!(args(Some("/a")).resolve_with(Some("/b".into())), PathBuf::from("/a"));
        assert_eq!(args(None).resolve_with(Some("/b:/c".into())), PathBuf::from("/b"));
        assert_eq!(args(None).resolve_with(Some("".into())), PathBuf::from(STATE_DIR_DEFAULT));
    }
}
