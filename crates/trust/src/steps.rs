//! What a client without I/O says and hears: which file it wants next, and what came.
//!
//! Never fetches. The same steps are driven by a folder, a bundle or an exchange over a network.

use std::fmt;

use crate::failure::Failure;

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Its path below the repository's metadata folder, with everything but letters, digits and `_.-~` in percent signs:
    /// fit for a URL and for a file name alike.
    pub path: String,
    /// How many bytes to read at most; one more is `endless_data`, and the source may be cut there.
    pub length_max: u64,
}

/// What came of a fetch. A source that cannot be reached gives none: the refresh is dropped and begun again later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The file's bytes; of a file that is too long, the first `length_max + 1`.
    Found(Vec<u8>),
    /// There is no such file.
    NotFound,
}

/// A client that is driven step by step.
pub trait Steps {
    /// Returns the file that is wanted next; nothing at the end or after a failure.
    fn wants(&self) -> Option<Fetch>;

    /// Takes what came of the wanted file.
    ///
    /// *Errors*: why it is refused; the steps end there, and what was accepted before stays accepted.
    fn answer(&mut self, answer: Answer) -> Result<(), Failure>;
}

/// Why [`run`] ended early.
#[derive(Debug)]
pub enum Interrupted<E> {
    /// A file was refused.
    Refused(Failure),
    /// The source failed.
    Source(E),
}

impl<E: fmt::Display> fmt::Display for Interrupted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(failure) => failure.fmt(f),
            Self::Source(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Interrupted<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Source(error) => error.source(),
        }
    }
}

/// Drives a client to its end with a source of files.
///
/// *Errors*: the first refusal or the source's error.
pub fn run<E>(
    steps: &mut impl Steps,
    mut source: impl FnMut(&Fetch) -> Result<Answer, E>,
) -> Result<(), Interrupted<E>> {
    while let Some(fetch) = steps.wants() {
        let answer = source(&fetch).map_err(Interrupted::Source)?;
        steps.answer(answer).map_err(Interrupted::Refused)?;
    }
    Ok(())
}

/// Returns a role's name as it stands in file names.
#[must_use]
pub fn file_name_of(role: &str) -> String {
    role.bytes().fold(String::with_capacity(role.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

/// Returns the path of a role's file; `version` where the repository keeps consistent snapshots.
#[must_use]
pub fn metadata_path(role: &str, version: Option<u64>) -> String {
    let name = file_name_of(role);
    version.map_or_else(|| format!("{name}.json"), |version| format!("{version}.{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roles_name_cannot_leave_the_folder() {
        for (role, path) in [
            ("models/team", "1.models%2Fteam.json"),
            ("../root", "1...%2Froot.json"),
            ("?#%", "1.%3F%23%25.json"),
        ] {
            assert_eq!(metadata_path(role, Some(1)), path);
        }
        assert_eq!(metadata_path("timestamp", None), "timestamp.json");
    }
}
