//! Public keys and the check of a signature.
//!
//! The product accepts Ed25519 alone; the check is passed in, so that a test program can accept more. Never holds a
//! private key.

use std::fmt;

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::canonical;

/// Name of a key in metadata. Without meaning of its own: what counts is the key it names there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A public key as metadata hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// Type, as in `ed25519`.
    pub keytype: String,
    /// Signature scheme, as in `ed25519`.
    pub scheme: String,
    /// The key's value.
    pub keyval: KeyValue,
}

/// The value of a public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// For Ed25519: 64 hexadecimal digits.
    pub public: String,
}

impl PublicKey {
    /// Returns the Ed25519 key with these bytes.
    #[must_use]
    pub fn ed25519(bytes: &[u8; 32]) -> Self {
        let public = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { keytype: "ed25519".to_owned(), scheme: "ed25519".to_owned(), keyval: KeyValue { public } }
    }

    /// Returns what tells the key from others: its value, for Ed25519 in the one spelling of its hexadecimal digits.
    pub(crate) fn identity(&self) -> String {
        let value = &self.keyval.public;
        if self.keytype == "ed25519" { value.to_ascii_lowercase() } else { value.clone() }
    }

    /// Returns the name that our own metadata give the key: SHA-256 of its canonical form.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let value: Value = json!({
            "keytype": self.keytype, "keyval": { "public": self.keyval.public }, "scheme": self.scheme,
        });
        let bytes = canonical::to_bytes(&value).expect("a key holds texts alone");
        KeyId(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Checks one signature by one key.
pub trait SignatureCheck: Sync {
    /// Tells whether `signature` (hexadecimal) is `key`'s on `message`; false for keys of an unknown kind.
    fn is_valid(&self, key: &PublicKey, message: &[u8], signature: &str) -> bool;
}

/// Accepts Ed25519, strictly: no key of small order, no second form of a signature.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ed25519Only;

impl SignatureCheck for Ed25519Only {
    fn is_valid(&self, key: &PublicKey, message: &[u8], signature: &str) -> bool {
        if key.keytype != "ed25519" || key.scheme != "ed25519" {
            return false;
        }
        let (Some(key), Some(signature)) = (bytes_of::<32>(&key.keyval.public), bytes_of::<64>(signature))
        else {
            return false;
        };
        VerifyingKey::from_bytes(&key)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(&signature)).is_ok())
    }
}

/// Reads exactly `N` bytes of hexadecimal text.
fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}
