//! The operator's program `dunlin`, with keys behind a passphrase, in a folder of its own.
//!
//! Runs the binary; never reads a key.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::key_files::{self, KeyPlan};
use crate::package::write;
use crate::workspace::owner_program;

/// Opens every key of a test.
const PASSPHRASE: &str = "correct horse battery";

/// Who holds keys in a folder.
#[derive(Debug, Clone)]
pub struct Operator {
    program: PathBuf,
    folder: PathBuf,
    config: Option<PathBuf>,
}

impl Operator {
    /// Returns the operator who works in this folder.
    ///
    /// *Errors*: the program is not there and cannot be built.
    pub fn in_folder(folder: &Path) -> Outcome<Self> {
        write(&folder.join("pass"), format!("{PASSPHRASE}\n").as_bytes())?;
        Ok(Self { program: owner_program()?, folder: folder.to_owned(), config: None })
    }

    /// Returns the operator whose logins are kept in this folder, and not in the home of who runs the tests.
    #[must_use]
    pub fn with_config(mut self, folder: &Path) -> Self {
        self.config = Some(folder.to_owned());
        self
    }

    /// Makes keys and first metadata in the folder `trust`, as `dunlin keys init` does.
    ///
    /// *Errors*: those of the file system.
    pub fn found(&self, plan: KeyPlan) -> Outcome<()> {
        key_files::found(&self.folder.join("trust"), plan, PASSPHRASE)
    }

    /// Runs `dunlin` with these arguments and the passphrase; returns what it printed.
    ///
    /// *Errors*: it fails; what it said is in the failure.
    pub fn with_pass(&self, arguments: &[&str]) -> Outcome<String> {
        self.run(&[arguments, &["--passphrase-file", "pass"]].concat())
    }

    /// Runs `dunlin` with these arguments; returns what it printed.
    ///
    /// *Errors*: as [`Operator::with_pass`].
    pub fn run(&self, arguments: &[&str]) -> Outcome<String> {
        let output = self.output(arguments)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(Failure::new(format!("`dunlin {arguments:?}`: {}: {}", output.status, text(&output.stderr))))
    }

    /// Runs `dunlin` with these arguments, which is to end with this code; returns what it said.
    ///
    /// *Errors*: it ends with another one.
    pub fn refused(&self, arguments: &[&str], code: i32) -> Outcome<String> {
        let output = self.output(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() == Some(code) {
            return Ok(said);
        }
        Err(Failure::new(format!("`dunlin {arguments:?}`: {} in place of {code}: {said}", output.status)))
    }

    /// Runs `dunlin` with these arguments.
    ///
    /// *Errors*: the process cannot be made; what came of it is in the output.
    pub fn output(&self, arguments: &[&str]) -> Outcome<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        if let Some(config) = &self.config {
            command.env("XDG_CONFIG_HOME", config);
        }
        command.env_remove("DUNLIN_SERVER").env_remove("DUNLIN_TOKEN_FILE");
        command.env_remove("DUNLIN_TRUST").env_remove("DUNLIN_PASSPHRASE");
        command.output().map_err(Failure::of("run dunlin"))
    }

    /// Returns the ids of the keys that may sign for a role.
    ///
    /// *Errors*: the folder holds no keys.
    pub fn keys_of(&self, role: &str) -> Outcome<Vec<String>> {
        let shown: Value = serde_json::from_str(&self.run(&["keys", "show", "-o", "json"])?)?;
        let roles = shown["roles"].as_array().into_iter().flatten();
        let keys = roles.filter(|one| one["role"] == role).filter_map(|one| one["keys"].as_array()).flatten();
        Ok(keys.filter_map(|key| Some(key["key"].as_str()?.to_owned())).collect())
    }
}
