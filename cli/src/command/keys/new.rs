//! `dunlin keys new`: makes a key file alone.
//!
//! Signs nothing; the key counts once a root or a delegation names it.

use std::path::PathBuf;

use clap::Args;
use dunlin_trust::sign::SigningKey;
use dunlin_trust::time::UnixTime;

use crate::command::CommandError;
use crate::command::trust_arguments::{PassphraseArguments, now};
use crate::key_file::{self, KeyFile, short};
use crate::passphrase::Passphrases;
use crate::{print, workspace};

/// Arguments of `dunlin keys new`.
#[derive(Debug, Args)]
pub struct NewArguments {
    /// Name of the role that the key is for, as in `vision-team`.
    #[arg(value_parser = role_name)]
    role: String,
    /// Folder to put it in.
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    #[command(flatten)]
    passphrases: PassphraseArguments,
}

fn role_name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err("write 1 to 64 of a-z, 0-9, `-` and `_`".to_owned())
}

/// Runs the command.
///
/// *Errors*: no passphrase, or the file cannot be written.
pub fn run(arguments: &NewArguments) -> Result<(), CommandError> {
    let now = now()?;
    let passphrase = Passphrases::of(&arguments.passphrases.passphrase_file).of_new_key(&arguments.role)?;
    let (file, _) = make(&arguments.to, &arguments.role, Some(&passphrase), now)?;
    print::line(&format!("{} key {}: {}", arguments.role, short(&file.id()), file.path.display()));
    print::line(&format!("public: {}", file.public.keyval.public));
    print::note(
        "next: give the key file or a copy of its first lines to the keeper of the targets keys, for `dunlin keys delegate`",
    );
    Ok(())
}

/// Makes a key and stores it.
///
/// *Errors*: the system gives no randomness, or the file cannot be written.
pub(super) fn make(
    folder: &std::path::Path,
    role: &str,
    passphrase: Option<&str>,
    now: UnixTime,
) -> Result<(KeyFile, SigningKey), CommandError> {
    let key =
        SigningKey::generate().map_err(|e| CommandError::failed("the system gives no randomness", e))?;
    workspace::make_key_folder(folder)?;
    let file = key_file::write(folder, role, &key, passphrase, &now.to_string())
        .map_err(|e| CommandError::failed("cannot store a key", e))?;
    Ok((file, key))
}
