//! An owner's folder as `dunlin keys init` makes it, with key files that open at once.
//!
//! A key file names the cost of its passphrase by itself. Those written here name the lowest, so that a test which opens
//! keys dozens of times spends its time on what it tests. Keys that the program makes are as costly as anybody's.

use std::path::Path;

use dunlin_trust::sign::SigningKey;
use dunlin_trust::sign::change::{Change, RolePlan};
use dunlin_trust::sign::repository::{Lifetimes, Refresh, Repository};
use pkcs8::der::pem::LineEnding;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfo};

use crate::failure::{Failure, Outcome};
use crate::fleet_owner::now;
use crate::package::write;

/// Name of Ed25519 keys. *Source*: RFC 8410, section 3.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// Two rounds: the lowest cost that scrypt has.
const SCRYPT_LOG_N: u8 = 1;

/// How many keys an owner has, and how many of them must sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPlan {
    /// Root keys.
    pub roots: usize,
    /// Root keys that must sign.
    pub root_threshold: u32,
    /// Targets keys, one of which must sign.
    pub targets: usize,
}

impl Default for KeyPlan {
    fn default() -> Self {
        Self { roots: 1, root_threshold: 1, targets: 1 }
    }
}

/// Founds the folder `trust` with keys of this passphrase.
///
/// *Errors*: those of the file system; the signer refuses.
pub fn found(trust: &Path, plan: KeyPlan, passphrase: &str) -> Outcome<()> {
    let make = |count: usize| (0..count).map(|_| SigningKey::generate()).collect::<Result<Vec<_>, _>>();
    let made = |count| make(count).map_err(Failure::of("make a key"));
    let (roots, targets, online) = (made(plan.roots)?, made(plan.targets)?, made(1)?);
    let of = |role, keys: &[SigningKey], threshold| RolePlan {
        role,
        keys: keys.iter().map(SigningKey::public).collect(),
        threshold,
    };
    let plans = [
        of("root", &roots, plan.root_threshold),
        of("targets", &targets, 1),
        of("snapshot", &online, 1),
        of("timestamp", &online, 1),
    ];
    let lifetimes = Lifetimes::default();
    let change = Change::found(&plans, now(), lifetimes).map_err(Failure::of("found a repository"))?;
    let keys: Vec<&SigningKey> = roots.iter().chain(&targets).chain(&online).collect();
    let mut files = change.files(&keys).map_err(Failure::of("sign the first files"))?;
    let repository = Repository::read(&files).map_err(Failure::of("read the first files"))?;
    let last = repository.complete(&keys, now(), lifetimes, Refresh::Needed);
    files.extend(last.map_err(Failure::of("sign the online files"))?);
    for folder in ["metadata", "keys"] {
        std::fs::create_dir_all(trust.join(folder))?;
    }
    for (name, raw) in &files {
        write(&trust.join("metadata").join(name), raw)?;
    }
    for (role, keys) in [("root", &roots), ("targets", &targets), ("online", &online)] {
        for key in keys {
            write_key(&trust.join("keys"), role, key, passphrase)?;
        }
    }
    Ok(())
}

/// Writes a key file as the program does, at the lowest cost.
fn write_key(folder: &Path, role: &str, key: &SigningKey, passphrase: &str) -> Outcome<()> {
    let mut wrapped = vec![0x04, 0x20];
    wrapped.extend(key.seed());
    let algorithm = AlgorithmIdentifierRef { oid: ED25519, parameters: None };
    let cost = scrypt::Params::new(SCRYPT_LOG_N, 8, 1, 32).map_err(Failure::of("choose a cost"))?;
    let (salt, iv) = (*b"a test's own key", [7; 16]);
    let encrypted = pbes2::Parameters::scrypt_aes256cbc(cost, &salt, &iv)
        .map_err(pkcs8::Error::from)
        .and_then(|cost| PrivateKeyInfo::new(algorithm, &wrapped).encrypt_with_params(cost, passphrase))
        .map_err(Failure::of("encrypt a key"))?;
    let pem =
        encrypted.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).map_err(Failure::of("write a key"))?;
    let (id, public) = (key.public().id(), key.public().keyval.public);
    let text =
        format!("Dunlin key file.\nRole: {role}\nKey: {id}\nPublic: {public}\nMade: for a test\n\n{}", *pem);
    write(&folder.join(format!("{role}-{}.key", &id.0[..8])), text.as_bytes())
}
