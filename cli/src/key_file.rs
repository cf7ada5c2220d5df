//! Files of private keys: PKCS#8 in PEM, encrypted with a passphrase, with a few lines for people before it.
//!
//! Reads and writes one file; knows nothing of roles' thresholds. What is private is wiped from memory after use and
//! never printed. The lines before the key are for finding it: what is decrypted is checked against them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use dunlin_kit::atomic_file;
use dunlin_trust::sign::SigningKey;
use dunlin_trust::{KeyId, PublicKey};
use pkcs8::der::pem::LineEnding;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{
    AlgorithmIdentifierRef, EncryptedPrivateKeyInfo, ObjectIdentifier, PrivateKeyInfo, SecretDocument,
};
use zeroize::Zeroizing;

/// Name of Ed25519 keys. *Source*: RFC 8410, section 3.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// An octet string of 32 bytes, as the private key of Ed25519 is wrapped. *Source*: RFC 8410, section 7.
const SEED_PREFIX: [u8; 2] = [0x04, 0x20];
/// Cost of one guess of the passphrase: 128 MiB and some 0.4 s. *Source*: OWASP's advice for scrypt, N = 2^17.
const SCRYPT_LOG_N: u8 = 17;
/// A file that asks for more was not made here: 1 GiB.
const SCRYPT_LOG_N_MAX: u8 = 20;
/// A key file has some 700 bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024;
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
const PLAIN: &str = "PRIVATE KEY";

/// A key file, unopened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it was made for: `root`, `targets`, `online`, `development` or a team's role.
    pub role: String,
    /// Its public key, as it says.
    pub public: PublicKey,
    /// Whether a passphrase is needed.
    pub is_encrypted: bool,
    pem: String,
}

/// Why a key file cannot be used.
#[derive(Debug)]
pub enum KeyFileError {
    /// The file system failed.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no key file.
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The passphrase does not open it.
    Passphrase(PathBuf),
    /// The system gives no randomness.
    Randomness(getrandom::Error),
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, .. } => write!(f, "cannot read or write key file `{}`", path.display()),
            Self::Form { path, reason } => write!(f, "`{}` is no key file: {reason}", path.display()),
            Self::Passphrase(path) => write!(f, "wrong passphrase for key file `{}`", path.display()),
            Self::Randomness(_) => f.write_str("the system gives no randomness"),
        }
    }
}

impl std::error::Error for KeyFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Randomness(source) => Some(source),
            _ => None,
        }
    }
}

impl KeyFile {
    /// Reads a key file without opening the key.
    ///
    /// *Errors*: it cannot be read, or is no key file.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io { path: path.to_owned(), source };
        let form = |reason: &str| KeyFileError::Form { path: path.to_owned(), reason: reason.to_owned() };
        let mut text = String::new();
        let file = File::open(path).map_err(io)?;
        match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(form("it is no text")),
            Err(error) => return Err(io(error)),
        }
        let begin = text.find("-----BEGIN ").ok_or_else(|| form("it holds no key"))?;
        let (head, pem) = text.split_at(begin);
        let line = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
        };
        let role = line("Role").ok_or_else(|| form("the line `Role` is missing"))?;
        let hex = line("Public").and_then(|text| bytes_of(&text));
        let public = hex.map(|bytes| PublicKey::ed25519(&bytes));
        let public = public.ok_or_else(|| form("the line `Public` is missing or no key"))?;
        let is_encrypted = pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----");
        Ok(Self { path: path.to_owned(), role, public, is_encrypted, pem: pem.to_owned() })
    }

    /// Returns the name of its key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.public.id()
    }

    /// Opens the key with its passphrase, which is not looked at where the file is not encrypted.
    ///
    /// *Errors*: a wrong passphrase, or a file that was changed.
    pub fn open(&self, passphrase: &str) -> Result<SigningKey, KeyFileError> {
        let form = |reason: String| KeyFileError::Form { path: self.path.clone(), reason };
        let (label, document) =
            SecretDocument::from_pem(&self.pem).map_err(|error| form(error.to_string()))?;
        let document = match label {
            PLAIN => document,
            ENCRYPTED => {
                let encrypted = EncryptedPrivateKeyInfo::try_from(document.as_bytes())
                    .map_err(|error| form(error.to_string()))?;
                if !is_bearable(&encrypted) {
                    return Err(form("it is not encrypted by scrypt at a bearable cost".to_owned()));
                }
                encrypted.decrypt(passphrase).map_err(|_| KeyFileError::Passphrase(self.path.clone()))?
            }
            _ => return Err(form(format!("it holds a `{}`", label.escape_debug()))),
        };
        let wrong_key = || match label {
            ENCRYPTED => KeyFileError::Passphrase(self.path.clone()),
            _ => form("it holds no Ed25519 key".to_owned()),
        };
        let key = PrivateKeyInfo::try_from(document.as_bytes()).map_err(|_| wrong_key())?;
        let seed =
            key.private_key.strip_prefix(&SEED_PREFIX).and_then(|seed| <&[u8; 32]>::try_from(seed).ok());
        let (true, Some(seed)) = (key.algorithm.oid == ED25519, seed) else { return Err(wrong_key()) };
        let key = SigningKey::from_seed(seed);
        if key.public() != self.public {
            return Err(form("the key is not the one that the line `Public` names".to_owned()));
        }
        Ok(key)
    }
}

/// Writes a new key file, mode 0600; without a passphrase it is not encrypted, and its name says so.
///
/// *Errors*: those of the file system.
pub fn write(
    folder: &Path,
    role: &str,
    key: &SigningKey,
    passphrase: Option<&str>,
    made: &str,
) -> Result<KeyFile, KeyFileError> {
    let id = key.public().id();
    let short = short(&id);
    let name = match passphrase {
        Some(_) => format!("{role}-{short}.key"),
        None => format!("{role}-UNENCRYPTED-{short}.key"),
    };
    let path = folder.join(name);
    let form = |error: pkcs8::Error| KeyFileError::Form { path: path.clone(), reason: error.to_string() };
    let mut wrapped = Zeroizing::new([0; 34]);
    wrapped[..2].copy_from_slice(&SEED_PREFIX);
    wrapped[2..].copy_from_slice(key.seed());
    let algorithm = AlgorithmIdentifierRef { oid: ED25519, parameters: None };
    let private = PrivateKeyInfo::new(algorithm, wrapped.as_slice());
    let (label, document, advice) = match passphrase {
        Some(passphrase) => {
            let mut random = [0; 32];
            getrandom::fill(&mut random).map_err(KeyFileError::Randomness)?;
            let (salt, iv) = random.split_at(16);
            let iv: &[u8; 16] = iv.try_into().expect("half of 32 bytes");
            let cost = scrypt::Params::new(SCRYPT_LOG_N, 8, 1, 32).expect("a cost that scrypt allows");
            let parameters =
                pbes2::Parameters::scrypt_aes256cbc(cost, salt, iv).map_err(|e| form(e.into()))?;
            let document = private.encrypt_with_params(parameters, passphrase).map_err(form)?;
            (ENCRYPTED, document, "Encrypted with a passphrase. Keep a copy of this file in another place.")
        }
        None => {
            let document = SecretDocument::try_from(private).map_err(form)?;
            (
                PLAIN,
                document,
                "NOT ENCRYPTED: for trying things out on one machine, never for gateways in use.",
            )
        }
    };
    let pem = document.to_pem(label, LineEnding::LF).map_err(|e| form(e.into()))?;
    let head = format!(
        "Dunlin key file. {advice}\nRole: {role}\nKey: {id}\nPublic: {}\nMade: {made}\n\n",
        key.public().keyval.public
    );
    let text = Zeroizing::new(head + pem.as_str());
    let io = |source| KeyFileError::Io { path: path.clone(), source };
    if path.exists() {
        return Err(io(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    atomic_file::write_from(&path, &mut text.as_bytes(), 0o600).map_err(io)?;
    KeyFile::read(&path)
}

/// Returns the first eight digits of a key's name, as people use it.
#[must_use]
pub fn short(id: &KeyId) -> &str {
    id.0.get(..8).unwrap_or(&id.0)
}

fn is_bearable(encrypted: &EncryptedPrivateKeyInfo<'_>) -> bool {
    let Some(parameters) = encrypted.encryption_algorithm.pbes2() else { return false };
    let cost_max = 1 << SCRYPT_LOG_N_MAX;
    // The library computes a logarithm of the cost: it must be a power of two.
    parameters.kdf.scrypt().is_some_and(|scrypt| {
        let cost = scrypt.cost_parameter;
        (2..=cost_max).contains(&cost)
            && cost.is_power_of_two()
            && scrypt.block_size <= 8
            && scrypt.parallelization <= 4
    })
}

fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    hex.trim_end().parse::<dunlin_kit::digest::Digest>().ok().map(|digest| *digest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_comes_back_with_its_passphrase_alone() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate().unwrap();
        let file = write(folder.path(), "targets", &key, Some("correct horse"), "today").unwrap();
        assert!(file.is_encrypted);
        assert_eq!(file.open("correct horse").unwrap().seed(), key.seed());
        assert!(matches!(file.open("correct horses"), Err(KeyFileError::Passphrase(_))));
        let mode = std::fs::metadata(&file.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(write(folder.path(), "targets", &key, Some("another one"), "today").is_err());
    }

    #[test]
    fn an_unencrypted_key_says_so_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate().unwrap();
        let file = write(folder.path(), "development", &key, None, "today").unwrap();
        assert!(file.path.to_string_lossy().contains("UNENCRYPTED"));
        assert_eq!(file.open("").unwrap().seed(), key.seed());
    }

    #[test]
    fn a_changed_file_is_refused_by_name_and_never_panics() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate().unwrap();
        let file = write(folder.path(), "development", &key, None, "today").unwrap();
        let bytes = std::fs::read(&file.path).unwrap();
        let other = SigningKey::generate().unwrap().public().keyval.public;
        let text = String::from_utf8(bytes.clone()).unwrap().replace(&file.public.keyval.public, &other);
        atomic_file::write(&file.path, text.as_bytes()).unwrap();
        let error = KeyFile::read(&file.path).unwrap().open("").unwrap_err().to_string();
        assert!(error.contains("not the one that the line `Public` names"), "{error}");
        for length in 0..bytes.len() {
            atomic_file::write(&file.path, &bytes[..length]).unwrap();
            let opened = KeyFile::read(&file.path).and_then(|file| file.open(""));
            assert!(opened.is_err() || length + 1 == bytes.len(), "{length}");
        }
    }
}
