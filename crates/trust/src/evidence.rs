//! Portable proof that the owner approved one file: what a device keeps beside it, and checks again at every load.
//!
//! Holds the root, the targets metadata and the delegated roles on the way to the file. Judges signatures, paths, length
//! and hash; never versions or expiry: these were judged when the file was accepted, and a model that was good keeps
//! running when its metadata have expired.

use dunlin_kit::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;
use crate::failure::{Code, Failure};
use crate::hashes;
use crate::key::Ed25519Only;
use crate::metadata::{ReleaseNote, Root, TargetDescription, Targets};
use crate::verified::Verified;

/// Most roles on the way to a file, the top-level one included.
pub const ROLES_MAX: usize = 8;

/// The files that prove a target, as texts of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Path of the target, as in `models/frost/1.4.0/manifest.json`.
    pub target: String,
    /// The root whose keys signed.
    pub root: String,
    /// The top-level targets metadata, then each delegated role up to the one that names the target.
    pub roles: Vec<String>,
}

/// A file that the owner's keys approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFile {
    /// Its path in the repository.
    pub path: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What the metadata say of it beside its hash.
    pub note: Option<ReleaseNote>,
    /// The proof, to be kept beside the file.
    pub evidence: Evidence,
}

impl Evidence {
    /// Checks that the root is `anchor` (the SHA-256 of a root that is trusted), that its keys approved the target, and
    /// that `bytes` are the target.
    ///
    /// *Errors*: `signature` for another root or missing signatures, `not_approved` where no role names the target,
    /// `mismatch` for other bytes.
    pub fn verify(&self, anchor: &Digest, bytes: Vec<u8>) -> Result<Verified<TargetFile>, Failure> {
        let description = self.description(anchor)?;
        // No matter how much of it there is: it is not arriving, it is here.
        hashes::require(&bytes, Some(description.length), Some(&description.hashes), &self.target)
            .map_err(|failure| Failure { code: Code::Mismatch, ..failure })?;
        let note = description.custom.and_then(|custom| serde_json::from_value(custom).ok());
        let file = TargetFile { path: self.target.clone(), bytes, note, evidence: self.clone() };
        Ok(Verified::attest(file))
    }

    fn description(&self, anchor: &Digest) -> Result<TargetDescription, Failure> {
        if Digest::of(self.root.as_bytes()) != *anchor {
            let reason = "is not the root that this gateway trusts";
            return Err(Failure::new(Code::Signature, "root.json", reason));
        }
        let root = Envelope::<Root>::parse(self.root.as_bytes(), "root.json")?;
        let root = root.role();
        let (Some((top, delegated)), true) = (self.roles.split_first(), self.roles.len() <= ROLES_MAX) else {
            return Err(self.refuse("has no chain of roles to it, or one that is too long"));
        };
        let mut role = Envelope::<Targets>::parse(top.as_bytes(), "targets.json")?;
        let keys = root.roles.get("targets").ok_or_else(|| self.refuse("has a root without targets role"))?;
        role.require_signatures(keys, &root.keys, &Ed25519Only, "targets.json")?;
        for text in delegated {
            role = self.step(&role, text)?;
        }
        role.role().targets.get(&self.target).cloned().ok_or_else(|| self.refuse("is named by no role"))
    }

    /// Returns the delegated role that `text` is, where `role` lets it name the target. Of a delegator's roles the one
    /// whose keys signed: files do not hold their own names.
    fn step(&self, role: &Envelope<Targets>, text: &str) -> Result<Envelope<Targets>, Failure> {
        let file = Envelope::<Targets>::parse(text.as_bytes(), "delegated role")?;
        let delegations =
            role.role().delegations.as_ref().ok_or_else(|| self.refuse("is delegated by nobody"))?;
        let mut refused = self.refuse("is delegated to no role that may name it");
        for delegated in delegations.roles_for(&self.target) {
            match file.require_signatures(
                &delegated.role_keys(),
                &delegations.keys,
                &Ed25519Only,
                &delegated.name,
            ) {
                Ok(()) => return Ok(file),
                Err(failure) => refused = failure,
            }
        }
        Err(refused)
    }

    fn refuse(&self, reason: &str) -> Failure {
        Failure::new(Code::NotApproved, &self.target, reason)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::key::KeyId;
    use crate::metadata::{Role as _, RoleKeys, SPEC_VERSION};
    use crate::sign::Development;
    use crate::sign::{self, SigningKey};
    use crate::time::UnixTime;

    #[test]
    fn what_a_key_signed_is_verified_and_nothing_else() {
        let (evidence, anchor) = Development::new().sign("models/m/1/manifest.json", b"{}", None);
        let file = evidence.verify(&anchor, b"{}".to_vec()).unwrap();
        assert_eq!(
            (file.path.as_str(), file.bytes.as_slice()),
            ("models/m/1/manifest.json", b"{}".as_slice())
        );
        assert_eq!(evidence.verify(&anchor, b"{ }".to_vec()).unwrap_err().code, Code::Mismatch);
        assert_eq!(evidence.verify(&Digest::of(b""), b"{}".to_vec()).unwrap_err().code, Code::Signature);
        let other = Evidence { target: "models/n/1/manifest.json".to_owned(), ..evidence.clone() };
        assert_eq!(other.verify(&anchor, b"{}".to_vec()).unwrap_err().code, Code::NotApproved);
        let (forged, _) = Development::new().sign("models/m/1/manifest.json", b"{}", None);
        let forged = Evidence { root: evidence.root.clone(), ..forged };
        assert_eq!(forged.verify(&anchor, b"{}".to_vec()).unwrap_err().code, Code::Signature);
    }

    #[test]
    fn one_key_in_two_spellings_signs_once() {
        let key = SigningKey::from_seed(&[1; 32]);
        let mut second = key.public();
        second.keyval.public = second.keyval.public.to_uppercase();
        let second_id = KeyId("second".to_owned());
        let role = RoleKeys { keyids: vec![key.public().id(), second_id.clone()], threshold: 2 };
        let root = Root {
            kind: Root::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
            expires: UnixTime(4_000_000_000),
            signed_at: None,
            consistent_snapshot: true,
            keys: BTreeMap::from([(key.public().id(), key.public()), (second_id.clone(), second)]),
            roles: ["root", "timestamp", "snapshot", "targets"].map(|n| (n.to_owned(), role.clone())).into(),
        };
        let targets = Targets {
            kind: Targets::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
            expires: UnixTime(4_000_000_000),
            signed_at: None,
            custom: None,
            targets: BTreeMap::from([("t".to_owned(), TargetDescription::of(b"x", None))]),
            delegations: None,
        };
        let root = String::from_utf8(sign::sign(&root, &[&key])).unwrap();
        let mut file: Value = serde_json::from_slice(&sign::sign(&targets, &[&key])).unwrap();
        let signatures = file["signatures"].as_array_mut().unwrap();
        let mut again = signatures[0].clone();
        again["keyid"] = second_id.0.into();
        signatures.push(again);

        let anchor = Digest::of(root.as_bytes());
        let evidence = Evidence { target: "t".to_owned(), root, roles: vec![file.to_string()] };
        assert_eq!(evidence.verify(&anchor, b"x".to_vec()).unwrap_err().code, Code::Signature);
    }
}
