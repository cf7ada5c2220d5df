//! The signer: makes keys and signed metadata. Apart from the verifier, which never calls it.
//!
//! Never stores a key and never asks for a passphrase. Used by the operator's command line, by the server's online key
//! and by tests; the daemon never names this module.

pub mod change;
pub mod repository;

use std::collections::BTreeMap;
use std::fmt;

use dunlin_kit::digest::Digest;
use ed25519_dalek::Signer as _;

use crate::envelope::{self, Signature};
use crate::evidence::Evidence;
use crate::key::PublicKey;
use crate::metadata::{ReleaseNote, Role, RoleKeys, Root, SPEC_VERSION, TargetDescription, Targets};
use crate::time::UnixTime;

/// A private key of a role. Its value is wiped when it is dropped and never printed.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

impl SigningKey {
    /// Makes a key from the system's randomness.
    ///
    /// *Errors*: the system gives none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self::from_seed(&seed))
    }

    /// Returns the key with this seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Returns the seed, to be encrypted and stored.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Returns the public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::ed25519(self.0.verifying_key().as_bytes())
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        let sig = self.0.sign(message).to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Signature { keyid: self.public().id(), sig }
    }
}

/// Returns the file with these metadata, signed by these keys.
#[must_use]
pub fn sign<R: Role>(role: &R, keys: &[&SigningKey]) -> Vec<u8> {
    let signed = serde_json::to_value(role).expect("metadata are texts, numbers and lists");
    let message = crate::canonical::to_bytes(&signed).expect("metadata hold no fractions");
    let signatures = keys.iter().map(|key| key.sign(&message)).collect();
    envelope::write(signed, signatures).expect("metadata are JSON")
}

/// A key that approves packages on the machine that made it: for development, tests and checks before a release.
pub struct Development(SigningKey);

impl Default for Development {
    fn default() -> Self {
        Self::new()
    }
}

impl Development {
    /// When metadata of a development key expire: 2100-01-01. A gateway that trusts such a key trusts it for good.
    pub const EXPIRES: UnixTime = UnixTime(4_102_444_800);

    /// Makes a development key that is never stored.
    ///
    /// # Panics
    /// Where the system has no randomness, as early as a program could notice.
    #[must_use]
    pub fn new() -> Self {
        Self(SigningKey::generate().expect("the system gives randomness"))
    }

    /// Approves one target; returns the proof and the digest of the root to trust.
    #[must_use]
    pub fn sign(&self, path: &str, bytes: &[u8], note: Option<&ReleaseNote>) -> (Evidence, Digest) {
        let public = self.0.public();
        let role = RoleKeys { keyids: vec![public.id()], threshold: 1 };
        let root = Root {
            kind: Root::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
            expires: Self::EXPIRES,
            signed_at: None,
            consistent_snapshot: true,
            keys: BTreeMap::from([(public.id(), public)]),
            roles: ["root", "timestamp", "snapshot", "targets"].map(|n| (n.to_owned(), role.clone())).into(),
        };
        let custom = note.map(|note| serde_json::to_value(note).expect("a note is texts and numbers"));
        let targets = Targets {
            kind: Targets::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
            expires: Self::EXPIRES,
            signed_at: None,
            custom: None,
            targets: BTreeMap::from([(path.to_owned(), TargetDescription::of(bytes, custom))]),
            delegations: None,
        };
        let text = |bytes| String::from_utf8(bytes).expect("JSON is UTF-8");
        let root = text(sign(&root, &[&self.0]));
        let anchor = Digest::of(root.as_bytes());
        let roles = vec![text(sign(&targets, &[&self.0]))];
        (Evidence { target: path.to_owned(), root, roles }, anchor)
    }
}
