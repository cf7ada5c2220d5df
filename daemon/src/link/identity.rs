//! The gateway's identity: one Ed25519 key, made here from the system's randomness, that never leaves.
//!
//! A file of 32 bytes in the state folder, readable by the daemon alone, on disk before anybody is told of the key. Never
//! makes a second one in the place of a file that cannot be read.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use dunlin_kit::atomic_file;
use dunlin_protocol::{DeviceId, PublicKey, words};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

/// The file's name in the state folder.
pub const IDENTITY_FILE: &str = "identity.key";
const SEED_BYTES: usize = 32;
const MODE: u32 = 0o600;

/// The key and what follows from it.
pub struct Identity {
    key: SigningKey,
    public: PublicKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.device()).finish()
    }
}

/// Why there is no identity.
#[derive(Debug)]
pub enum IdentityError {
    /// The file cannot be read or made.
    File(PathBuf, io::Error),
    /// The file is no key.
    NoKey(PathBuf),
    /// The system has no randomness.
    NoRandomness,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => write!(f, "cannot use the gateway's key `{}`", path.display()),
            Self::NoKey(path) => write!(
                f,
                "`{}` is no key; bring it back from a backup, or remove it and enrol the gateway as a new one",
                path.display()
            ),
            Self::NoRandomness => f.write_str("the system has no randomness for a key"),
        }
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(_, error) => Some(error),
            Self::NoKey(_) | Self::NoRandomness => None,
        }
    }
}

impl Identity {
    /// Returns the identity of a state folder, and makes it where there is none.
    ///
    /// *Errors*: the file cannot be used, or there is no randomness.
    pub fn open(state_dir: &Path) -> Result<Self, IdentityError> {
        if let Some(known) = Self::read(state_dir)? {
            return Ok(known);
        }
        let path = state_dir.join(IDENTITY_FILE);
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        getrandom::fill(seed.as_mut_slice()).map_err(|_| IdentityError::NoRandomness)?;
        atomic_file::write_from(&path, &mut seed.as_slice(), MODE)
            .map_err(|error| IdentityError::File(path.clone(), error))?;
        Self::of(&seed).ok_or(IdentityError::NoKey(path))
    }

    /// Returns the identity of a state folder, where there is one.
    ///
    /// *Errors*: the file cannot be used.
    pub fn read(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = state_dir.join(IDENTITY_FILE);
        let mut file = match File::open(&path) {
            Ok(file) => file.take(SEED_BYTES as u64 + 1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IdentityError::File(path, error)),
        };
        let mut raw = Zeroizing::new(Vec::new());
        file.read_to_end(&mut raw).map_err(|error| IdentityError::File(path.clone(), error))?;
        let seed = <[u8; SEED_BYTES]>::try_from(raw.as_slice()).ok().map(Zeroizing::new);
        seed.and_then(|seed| Self::of(&seed)).map(Some).ok_or(IdentityError::NoKey(path))
    }

    fn of(seed: &[u8; SEED_BYTES]) -> Option<Self> {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey::from_bytes(key.verifying_key().as_bytes()).ok()?;
        Some(Self { key, public })
    }

    /// Returns the device's id.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        DeviceId::of(&self.public)
    }

    /// Returns the public key.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Returns the six words by which people compare the key.
    #[must_use]
    pub fn words(&self) -> String {
        words::words(&self.public).join(" ")
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_the_daemon_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Identity::read(folder.path()).unwrap().is_none());
        let first = Identity::open(folder.path()).unwrap();
        let again = Identity::open(folder.path()).unwrap();
        assert_eq!((first.device(), first.words()), (again.device(), again.words()));
        assert!(first.public().has_signed(b"m", &again.sign(b"m")));
        let mode = std::fs::metadata(folder.path().join(IDENTITY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{first:?}").contains("SigningKey"));
    }

    #[test]
    fn a_damaged_key_is_told_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(IDENTITY_FILE);
        for raw in [b"".as_slice(), b"short", &[7; 33]] {
            atomic_file::write(&path, raw).unwrap();
            assert!(matches!(Identity::open(folder.path()), Err(IdentityError::NoKey(_))));
            assert_eq!(std::fs::read(&path).unwrap(), raw);
        }
    }
}
