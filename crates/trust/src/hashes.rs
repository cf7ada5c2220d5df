//! Length and hashes of a file against what signed metadata say of it.
//!
//! Knows SHA-256 and SHA-512. Never accepts a file of which only unknown hashes are given. Used for metadata, targets and
//! evidence alike.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256, Sha512};

use crate::failure::{Code, Failure};

/// Running hashes of a file that arrives in parts.
#[derive(Debug, Clone, Default)]
pub struct Hashing {
    sha256: Sha256,
    sha512: Option<Sha512>,
}

impl Hashing {
    /// Begins to hash; SHA-512, which is slow on small processors, where it is asked for alone.
    #[must_use]
    pub fn new(hashes: &BTreeMap<String, String>) -> Self {
        Self { sha256: Sha256::new(), sha512: hashes.contains_key("sha512").then(Sha512::new) }
    }

    /// Takes a part.
    pub fn update(&mut self, part: &[u8]) {
        self.sha256.update(part);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(part);
        }
    }

    /// Tells whether all known hashes are the expected ones and at least one is known.
    #[must_use]
    pub fn is(self, hashes: &BTreeMap<String, String>) -> bool {
        let sha256 = hex(&self.sha256.finalize());
        let sha512 = self.sha512.map(|hash| hex(&hash.finalize()));
        let actual = |algorithm: &str| match algorithm {
            "sha256" => Some(sha256.as_str()),
            "sha512" => sha512.as_deref(),
            _ => None,
        };
        let mut known =
            hashes.iter().filter_map(|(algorithm, hash)| Some((actual(algorithm)?, hash))).peekable();
        known.peek().is_some() && known.all(|(actual, expected)| actual.eq_ignore_ascii_case(expected))
    }
}

/// Checks a file against the length and the hashes that were signed, as far as there are any.
///
/// *Errors*: `endless_data` for a longer file, `mismatch` for any other.
pub fn require(
    bytes: &[u8],
    length: Option<u64>,
    hashes: Option<&BTreeMap<String, String>>,
    object: &str,
) -> Result<(), Failure> {
    if let Some(length) = length {
        require_length(bytes.len() as u64, length, object)?;
    }
    if let Some(hashes) = hashes {
        let mut hashing = Hashing::new(hashes);
        hashing.update(bytes);
        if !hashing.is(hashes) {
            let reason = "is not the file that was signed (its hash differs)";
            return Err(Failure::new(Code::Mismatch, object, reason));
        }
    }
    Ok(())
}

/// Checks a length against the signed one.
pub(crate) fn require_length(bytes: u64, signed: u64, object: &str) -> Result<(), Failure> {
    if bytes > signed {
        let reason = format!("is longer than the {signed} bytes that were signed");
        return Err(Failure::new(Code::EndlessData, object, reason));
    }
    if bytes < signed {
        let reason = format!("has {bytes} of the {signed} bytes that were signed");
        return Err(Failure::new(Code::Mismatch, object, reason));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(a, h)| ((*a).to_owned(), (*h).to_owned())).collect()
    }

    #[test]
    fn every_known_hash_must_be_right_and_one_must_be_known() {
        let (sha256, sha512) = (hex(&Sha256::digest(b"x")), hex(&Sha512::digest(b"x")));
        let upper = sha256.to_uppercase();
        for (hashes, right) in [
            (map(&[("sha256", &sha256)]), true),
            (map(&[("sha256", &upper)]), true),
            (map(&[("sha512", &sha512)]), true),
            (map(&[("sha256", &sha256), ("sha512", &sha512), ("md5", "00")]), true),
            (map(&[("sha256", &sha256), ("sha512", "00")]), false),
            (map(&[("sha256", "00"), ("sha512", &sha512)]), false),
            (map(&[("md5", "9dd4e461268c8034f5c8564e155c67a6")]), false),
            (map(&[]), false),
        ] {
            assert_eq!(require(b"x", Some(1), Some(&hashes), "f").is_ok(), right, "{hashes:?}");
        }
    }

    #[test]
    fn a_longer_file_is_endless_and_a_shorter_one_is_another() {
        assert_eq!(require(b"xx", Some(1), None, "f").unwrap_err().code, Code::EndlessData);
        assert_eq!(require(b"", Some(1), None, "f").unwrap_err().code, Code::Mismatch);
    }
}
