//! The server's online key: signs its answers, and the online roles of both repositories.
//!
//! Made at the first start and kept in one file that its owner alone reads; never printed, never sent.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dunlin_kit::atomic_file;
use dunlin_protocol::PublicKey;
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

/// What PKCS#8 puts before the 32 bytes of an Ed25519 seed. *Source*: RFC 8410, section 7.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
/// Read and written by its owner alone.
const MODE: u32 = 0o600;

/// The key.
pub struct OnlineKey {
    key: SigningKey,
    public: PublicKey,
    role: Arc<dunlin_trust::sign::SigningKey>,
}

impl fmt::Debug for OnlineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnlineKey({})", self.public)
    }
}

impl OnlineKey {
    /// Reads the key of a file, and makes one where there is none.
    ///
    /// *Errors*: the file cannot be read or written, or holds no such key.
    pub fn open(file: &Path) -> io::Result<Self> {
        match fs::read_to_string(file) {
            Ok(text) => Self::of_pem(&Zeroizing::new(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(file),
            Err(error) => Err(error),
        }
    }

    fn make(file: &Path) -> io::Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(io::Error::other)?;
        let der = Zeroizing::new([PKCS8_HEAD.as_slice(), seed.as_slice()].concat());
        let body = Zeroizing::new(STANDARD.encode(&*der));
        let pem = Zeroizing::new(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", *body));
        atomic_file::write_from(file, &mut pem.as_bytes(), MODE)?;
        Self::of_seed(&seed)
    }

    fn of_pem(pem: &str) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the file holds no Ed25519 key in PKCS#8");
        let body = pem.trim().strip_prefix(PEM_BEGIN).and_then(|rest| rest.strip_suffix(PEM_END));
        let body = Zeroizing::new(body.ok_or_else(wrong)?.split_whitespace().collect::<String>());
        let der = Zeroizing::new(STANDARD.decode(body.as_bytes()).map_err(|_| wrong())?);
        let seed = der.strip_prefix(PKCS8_HEAD.as_slice()).ok_or_else(wrong)?;
        Self::of_seed(&Zeroizing::new(<[u8; 32]>::try_from(seed).map_err(|_| wrong())?))
    }

    fn of_seed(seed: &[u8; 32]) -> io::Result<Self> {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey::from_bytes(key.verifying_key().as_bytes()).map_err(io::Error::other)?;
        Ok(Self { key, public, role: Arc::new(dunlin_trust::sign::SigningKey::from_seed(seed)) })
    }

    /// Returns the public key: what the owner's root names.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Returns the same key as one that signs metadata.
    #[must_use]
    pub const fn role(&self) -> &Arc<dunlin_trust::sign::SigningKey> {
        &self.role
    }

    /// Signs bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}
