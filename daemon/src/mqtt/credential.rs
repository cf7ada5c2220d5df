//! User name and password for a broker, read from the credential file each time a connection is made.
//!
//! Never logs, displays or keeps a password longer than the connection's options need it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest credential file: tokens that brokers take as passwords stay under a few kilobytes.
pub const CREDENTIAL_BYTES_MAX: u64 = 64 * 1024;

/// A user name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// User name.
    pub username: String,
    /// Password; empty where there is none.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Why there is no credential.
#[derive(Debug)]
pub enum CredentialError {
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// The file is too large to be a credential.
    TooLarge(PathBuf),
    /// The first line is empty.
    Empty(PathBuf),
    /// No user name is configured and the first line has none.
    NoUsername(PathBuf),
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, _) => write!(f, "cannot read the credential file `{}`", path.display()),
            Self::TooLarge(path) => write!(
                f,
                "the credential file `{}` is larger than {CREDENTIAL_BYTES_MAX} bytes: its first line should be the password",
                path.display()
            ),
            Self::Empty(path) => write!(
                f,
                "the first line of the credential file `{}` is empty: write the password or `user:password` there",
                path.display()
            ),
            Self::NoUsername(path) => write!(
                f,
                "the credential file `{}` names no user: set `username`, or write `user:password` in its first line",
                path.display()
            ),
        }
    }
}

impl std::error::Error for CredentialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, error) => Some(error),
            Self::TooLarge(_) | Self::Empty(_) | Self::NoUsername(_) => None,
        }
    }
}

/// Returns the credential for a broker, or `None` where neither a user name nor a file is configured.
///
/// *Errors*: the file is missing, too large or incomplete; the caller tries again later, since files are replaced.
pub fn read(username: Option<&str>, file: Option<&Path>) -> Result<Option<Credential>, CredentialError> {
    let Some(path) = file else {
        return Ok(username.map(|name| Credential { username: name.to_owned(), password: String::new() }));
    };
    let text = read_bounded(path)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(CredentialError::Empty(path.to_owned()));
    }
    let (username, password) = match username {
        Some(username) => (username, line),
        None => match line.split_once(':') {
            Some((username, password)) if !username.is_empty() => (username, password),
            _ => return Err(CredentialError::NoUsername(path.to_owned())),
        },
    };
    Ok(Some(Credential { username: username.to_owned(), password: password.to_owned() }))
}

fn read_bounded(path: &Path) -> Result<String, CredentialError> {
    let failed = |error| CredentialError::Read(path.to_owned(), error);
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(CREDENTIAL_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > CREDENTIAL_BYTES_MAX {
        return Err(CredentialError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn the_first_line_is_the_password_or_user_and_password() {
        for (username, text, expected) in [
            (Some("u"), "p:w\nrest\n", ("u", "p:w")),
            (Some("u"), "pw\r\n", ("u", "pw")),
            (None, "user:p:w\n", ("user", "p:w")),
            (None, "user:", ("user", "")),
        ] {
            let credential = read(username, Some(file_of(text).path())).unwrap().unwrap();
            assert_eq!((credential.username.as_str(), credential.password.as_str()), expected);
        }
        assert_eq!(read(None, None).unwrap(), None);
        assert_eq!(read(Some("u"), None).unwrap().unwrap().password, "");
    }

    #[test]
    fn what_is_no_credential_is_refused_without_showing_it() {
        let large = "x".repeat(CREDENTIAL_BYTES_MAX as usize + 1);
        for (username, text) in [(Some("u"), "\nsecret"), (None, "secret"), (None, ":secret"), (None, &large)]
        {
            let error = read(username, Some(file_of(text).path())).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(matches!(read(None, Some(Path::new("/nonexistent/x"))), Err(CredentialError::Read(..))));
        let shown = Credential { username: "u".into(), password: "secret".into() };
        assert!(!format!("{shown:?}").contains("secret"));
    }
}
