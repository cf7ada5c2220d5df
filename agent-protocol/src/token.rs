//! The enrolment token: where the server is, which root to expect there, and a secret that never travels.
//!
//! Text form and key derivation; never decides whether a token is still good, which is the server's.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dunlin_kit::digest::Digest;
use hmac::{Hmac, Mac as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::id::TokenId;
use crate::json;
use crate::limits::{INTEGER_MAX, TOKEN_BYTES_MAX};
use crate::text::{Name, Url};

/// What a token's text begins with: version 1.
const PREFIX: &str = "dl1";
/// Keeps the key apart from any other use of the secret.
const DERIVATION: &[u8] = b"dunlin-enrol-v1";
/// Bytes of the secret.
const SECRET_BYTES: usize = 32;

/// What a token says openly; short names, since people copy it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenClaim {
    /// URL of the server, without a path.
    #[serde(rename = "u")]
    pub server_url: Url,
    /// SHA-256 of the root of the image repository that the device is to start with.
    #[serde(rename = "r")]
    pub root: Digest,
    /// Version of that root.
    #[serde(rename = "v")]
    pub root_version: u64,
    /// Group of the devices that use it.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Name>,
    /// When it ends, in seconds since 1970. For people: the server decides by its own clock.
    #[serde(rename = "e")]
    pub expires_s: u64,
    /// How many devices may use it. For people: the server counts.
    #[serde(rename = "n")]
    pub uses: u64,
    /// Its name at the server.
    #[serde(rename = "i")]
    pub token: TokenId,
}

/// An enrolment token. Its secret is not printed but by [`EnrolmentToken::to_text`], and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    claim: TokenClaim,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

/// A text that is no enrolment token. It does not quote the text, which may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenError;

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not an enrolment token: copy the whole text, from `dl1.` on, or make a new one at the server",
        )
    }
}

impl std::error::Error for TokenError {}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken").field("claim", &self.claim).finish_non_exhaustive()
    }
}

impl EnrolmentToken {
    /// Makes a token; the caller brings 32 random bytes.
    #[must_use]
    pub fn new(claim: TokenClaim, secret: [u8; SECRET_BYTES]) -> Self {
        Self { claim, secret: Zeroizing::new(secret) }
    }

    /// Reads a token's text. Space around it is dropped.
    ///
    /// *Errors*: it is none, or of another version.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError);
        }
        let mut parts = text.split('.');
        let (Some(PREFIX), Some(claim), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError);
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError);
        let claim: TokenClaim = json::read(&decode(claim)?, TOKEN_BYTES_MAX).map_err(|_| TokenError)?;
        let is_url = ["https://", "http://"]
            .iter()
            .any(|scheme| claim.server_url.strip_prefix(scheme).is_some_and(|host| !host.is_empty()));
        let are_numbers = [claim.root_version, claim.expires_s, claim.uses].iter().all(|n| *n <= INTEGER_MAX);
        if !is_url
            || claim.server_url.contains(char::is_whitespace)
            || !are_numbers
            || claim.root_version == 0
        {
            return Err(TokenError);
        }
        let secret = Zeroizing::new(decode(secret)?);
        let secret = <[u8; SECRET_BYTES]>::try_from(secret.as_slice()).map_err(|_| TokenError)?;
        Ok(Self::new(claim, secret))
    }

    /// Returns the token's text, the secret with it: for the one who is to enrol a device.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let claim = serde_json::to_vec(&self.claim).expect("a claim is texts and numbers");
        let claim = URL_SAFE_NO_PAD.encode(claim);
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(*self.secret));
        Zeroizing::new(format!("{PREFIX}.{claim}.{}", *secret))
    }

    /// Returns what the token says.
    #[must_use]
    pub const fn claim(&self) -> &TokenClaim {
        &self.claim
    }

    /// Returns the key of the proof.
    #[must_use]
    pub fn proof_key(&self) -> ProofKey {
        let digest = Sha256::new().chain_update(DERIVATION).chain_update(*self.secret).finalize();
        ProofKey(Zeroizing::new(digest.into()))
    }
}

/// The key that proves possession of a token; what a server keeps of one. It is a secret like the token's own.
#[derive(Clone, PartialEq, Eq)]
pub struct ProofKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofKey")
    }
}

impl ProofKey {
    /// Returns the key with these bytes, as a server keeps them.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes, to be stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the proof of a message.
    pub(crate) fn prove(&self, message: &[u8]) -> [u8; 32] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Tells whether a proof is this key's on a message, in a time that does not depend on where it differs.
    pub(crate) fn has_proven(&self, message: &[u8], proof: &[u8]) -> bool {
        self.mac(message).verify_slice(proof).is_ok()
    }

    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        let mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&*self.0);
        mac.expect("HMAC takes keys of any length").chain_update(message)
    }
}
