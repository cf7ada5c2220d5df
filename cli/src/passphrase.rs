//! Where passphrases come from: files, the environment, or the terminal.
//!
//! Never stores, logs or prints one, and never takes one from the command line, where other users could read it.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::command::CommandError;

/// Name of the variable that holds the passphrase of all roles.
pub const VARIABLE: &str = "DUNLIN_PASSPHRASE";
/// Fewest characters of a new passphrase; short ones are guessed in spite of scrypt.
const LENGTH_MIN: usize = 8;
/// Longest file of a passphrase.
const FILE_BYTES_MAX: u64 = 4096;

/// The places that a command was told of.
#[derive(Debug, Clone, Default)]
pub struct Passphrases {
    /// Files by role; `None` is for every role.
    files: Vec<(Option<String>, PathBuf)>,
}

impl Passphrases {
    /// Reads arguments of the form `FILE` or `ROLE=FILE`.
    #[must_use]
    pub fn of(arguments: &[String]) -> Self {
        let files = arguments.iter().map(|argument| match argument.split_once('=') {
            Some((role, file)) if !role.contains('/') => (Some(role.to_owned()), file.into()),
            _ => (None, argument.into()),
        });
        Self { files: files.collect() }
    }

    /// Returns the passphrase that opens a key of this role; asks for it where none was given.
    ///
    /// *Errors*: a file cannot be read, or there is nobody to ask.
    pub fn of_key(&self, role: &str, path: &Path) -> Result<Zeroizing<String>, CommandError> {
        match self.given(role)? {
            Some(passphrase) => Ok(passphrase),
            None => ask(&format!("Passphrase of `{}`: ", path.display())),
        }
    }

    /// Returns the passphrase for new keys of this role; asks for it twice where none was given.
    ///
    /// *Errors*: it is too short, or the two differ.
    pub fn of_new_key(&self, role: &str) -> Result<Zeroizing<String>, CommandError> {
        let passphrase = match self.given(role)? {
            Some(passphrase) => passphrase,
            None => {
                let first = ask(&format!("New passphrase for the {role} keys: "))?;
                if first != ask("The same once more: ")? {
                    return Err(CommandError::Usage("the two passphrases differ; begin again".to_owned()));
                }
                first
            }
        };
        if passphrase.chars().count() < LENGTH_MIN {
            let message =
                format!("the passphrase for the {role} keys is shorter than {LENGTH_MIN} characters");
            return Err(CommandError::Usage(message));
        }
        Ok(passphrase)
    }

    fn given(&self, role: &str) -> Result<Option<Zeroizing<String>>, CommandError> {
        let of_role = self.files.iter().find(|(name, _)| name.as_deref() == Some(role));
        let of_all = || self.files.iter().find(|(name, _)| name.is_none());
        if let Some((_, file)) = of_role.or_else(of_all) {
            return read(file).map(Some);
        }
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => Ok(Some(Zeroizing::new(text))),
            _ => Ok(None),
        }
    }
}

fn read(file: &Path) -> Result<Zeroizing<String>, CommandError> {
    let mut text = Zeroizing::new(String::new());
    File::open(file)
        .and_then(|open| open.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|e| CommandError::failed(format!("cannot read passphrase file `{}`", file.display()), e))?;
    let trimmed = text.trim_end_matches(['\n', '\r']);
    if trimmed.is_empty() {
        return Err(CommandError::Usage(format!("passphrase file `{}` is empty", file.display())));
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, CommandError> {
    if !io::stdin().is_terminal() {
        let message = format!(
            "a passphrase is needed: give `--passphrase-file FILE` or set `{VARIABLE}` (no terminal)"
        );
        return Err(CommandError::Usage(message));
    }
    rpassword::prompt_password(prompt)
        .map(Zeroizing::new)
        .map_err(|e| CommandError::failed("cannot read a passphrase from the terminal", e))
}
