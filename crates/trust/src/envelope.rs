//! A signed file: the bytes as they came, what they say, and who signed them.
//!
//! Reads and counts signatures; never judges versions or expiry. The raw bytes are kept, because they are what is
//! stored, hashed and handed on.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::canonical;
use crate::failure::{Code, Failure};
use crate::key::{KeyId, PublicKey, SignatureCheck};
use crate::metadata::{Role, RoleKeys};

/// Most signatures of one file: a check costs some 0.2 ms on a Raspberry Pi 3.
pub const SIGNATURES_MAX: usize = 64;

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Name of the key.
    pub keyid: KeyId,
    /// The signature in hexadecimal.
    pub sig: String,
}

#[derive(Deserialize, Serialize)]
struct File {
    signed: Value,
    signatures: Vec<Signature>,
}

/// A file of metadata that was read; what it says is not to be believed before its signatures were counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<R> {
    raw: Vec<u8>,
    message: Vec<u8>,
    signatures: Vec<Signature>,
    role: R,
}

impl<R: Role> Envelope<R> {
    /// Reads a file; `object` names it in failures.
    ///
    /// *Errors*: `mismatch` for bytes that are no metadata of this role.
    pub fn parse(raw: &[u8], object: &str) -> Result<Self, Failure> {
        let mismatch = |reason: String| Failure::new(Code::Mismatch, object, reason);
        crate::limits::require_sparse(raw).map_err(mismatch)?;
        let file: File =
            serde_json::from_slice(raw).map_err(|e| mismatch(format!("is no signed metadata: {e}")))?;
        if file.signatures.len() > SIGNATURES_MAX {
            return Err(mismatch(format!("has more than {SIGNATURES_MAX} signatures")));
        }
        let message = canonical::to_bytes(&file.signed).map_err(|e| mismatch(e.to_string()))?;
        let role: R = serde_json::from_value(file.signed)
            .map_err(|e| mismatch(format!("is no {} metadata: {e}", R::TYPE)))?;
        if role.kind() != R::TYPE {
            return Err(mismatch(format!("is of type `{}`, not `{}`", role.kind(), R::TYPE)));
        }
        if role.spec_version() != "1" && !role.spec_version().starts_with("1.") {
            return Err(mismatch(format!("follows version {} of the specification", role.spec_version())));
        }
        if role.version() == 0 {
            return Err(mismatch("has version 0; versions begin at 1".to_owned()));
        }
        role.require_limits().map_err(mismatch)?;
        Ok(Self { raw: raw.to_owned(), message, signatures: file.signatures, role })
    }

    /// Checks that enough different keys of a role have signed.
    ///
    /// *Errors*: `signature`, with how many did and how many must.
    pub fn require_signatures(
        &self,
        role: &RoleKeys,
        keys: &BTreeMap<KeyId, PublicKey>,
        check: &dyn SignatureCheck,
        object: &str,
    ) -> Result<(), Failure> {
        // Keys are told apart by their value: one key under two names or in two spellings signs once.
        let mut signers = BTreeSet::new();
        let mut named = BTreeSet::new();
        for signature in &self.signatures {
            // Empty ones are places kept for keys that have not signed.
            if signature.sig.is_empty() {
                continue;
            }
            if !named.insert(&signature.keyid) {
                return Err(Failure::new(Code::Signature, object, "is signed twice under one key id"));
            }
            if !role.keyids.contains(&signature.keyid) {
                continue;
            }
            if let Some(key) = keys.get(&signature.keyid)
                && !signers.contains(&key.identity())
                && check.is_valid(key, &self.message, &signature.sig)
            {
                signers.insert(key.identity());
            }
        }
        let needed = role.threshold.max(1) as usize;
        if role.threshold == 0 || signers.len() < needed {
            let reason = format!("has {} of the {needed} signatures it needs", signers.len());
            return Err(Failure::new(Code::Signature, object, reason));
        }
        Ok(())
    }
}

impl<R> Envelope<R> {
    /// Returns the bytes as they came.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Returns what the file says.
    #[must_use]
    pub const fn role(&self) -> &R {
        &self.role
    }

    /// Returns the bytes that are signed.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Returns the signatures.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }
}

/// Returns the bytes of a file with this signed part and these signatures.
///
/// *Errors*: the role's type writes something that is no JSON.
pub(crate) fn write(signed: Value, signatures: Vec<Signature>) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec_pretty(&File { signed, signatures })?;
    bytes.push(b'\n');
    Ok(bytes)
}
