//! The operator's program `dunlin`, with keys behind a passphrase, in a folder of its own.
//!
//! Runs the binary; never reads a key.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::package::write;
use crate::workspace::{daemon_program, owner_program, root};

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
        write(&folder.join("pass"), b"correct horse battery\n")?;
        Ok(Self { program: program()?, folder: folder.to_owned(), config: None })
    }

    /// Returns the operator whose logins are kept in this folder, and not in the home of who runs the tests.
    #[must_use]
    pub fn with_config(mut self, folder: &Path) -> Self {
        self.config = Some(folder.to_owned());
        self
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
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        if let Some(config) = &self.config {
            command.env("XDG_CONFIG_HOME", config);
        }
        command.env_remove("DUNLIN_SERVER").env_remove("DUNLIN_TOKEN_FILE");
        let output = command.env_remove("DUNLIN_TRUST").env_remove("DUNLIN_PASSPHRASE").output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(Failure::new(format!("`dunlin {arguments:?}`: {}: {}", output.status, text(&output.stderr))))
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

/// Returns the program beside the daemon's, brought up to date where there is a cargo.
fn program() -> Outcome<PathBuf> {
    if std::env::var_os("DUNLIN_BIN").is_some() {
        return owner_program();
    }
    let program = daemon_program()?.with_file_name("dunlin");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.current_dir(root()).args(["build", "--quiet", "-p", "dunlin-cli", "--bin", "dunlin"]);
        if program.parent().is_some_and(|folder| folder.ends_with("release")) {
            build.arg("--release");
        }
        build.status().map_err(Failure::of("start cargo"))?;
    }
    if program.is_file() {
        return Ok(program);
    }
    Err(Failure::new(format!("`{}` is missing: run `cargo build -p dunlin-cli`", program.display())))
}
