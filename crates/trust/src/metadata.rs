//! The signed part of each role's metadata, as types.
//!
//! Read from JSON with unknown members kept out of the types but inside the signed bytes; never judged here: versions,
//! expiry and signatures are the verifier's. *Source*: TUF 1.0.34, section 4.

use std::collections::BTreeMap;

use dunlin_kit::digest::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::key::{KeyId, PublicKey};
use crate::limits;
use crate::time::UnixTime;

/// The version of the specification that this build writes; it reads every `1.x`.
pub const SPEC_VERSION: &str = "1.0.34";

/// What the signed parts of all roles have in common.
pub trait Role: Serialize + DeserializeOwned {
    /// The value of `_type`.
    const TYPE: &'static str;

    /// The version of these metadata.
    fn version(&self) -> u64;

    /// When they expire.
    fn expires(&self) -> UnixTime;

    /// The value of `_type` as read.
    fn kind(&self) -> &str;

    /// The version of the specification they follow.
    fn spec_version(&self) -> &str;

    /// Checks them against the limits.
    ///
    /// *Errors*: what there is too much of, or what contradicts itself.
    fn require_limits(&self) -> Result<(), String>;
}

macro_rules! role {
    ($type:ty, $name:literal, $limits:path) => {
        impl Role for $type {
            const TYPE: &'static str = $name;

            fn version(&self) -> u64 {
                self.version
            }

            fn expires(&self) -> UnixTime {
                self.expires
            }

            fn kind(&self) -> &str {
                &self.kind
            }

            fn spec_version(&self) -> &str {
                &self.spec_version
            }

            fn require_limits(&self) -> Result<(), String> {
                $limits(self)
            }
        }
    };
}

role!(Root, "root", limits::root);
role!(Timestamp, "timestamp", limits::timestamp);
role!(Snapshot, "snapshot", limits::snapshot);
role!(Targets, "targets", limits::targets);

/// Which keys speak for a role, and how many of them are needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Names of the keys.
    pub keyids: Vec<KeyId>,
    /// How many different ones must have signed. *Range*: from 1.
    pub threshold: u32,
}

/// The root of trust: which keys speak for the four roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// `root`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Version of these metadata.
    pub version: u64,
    /// When they expire.
    pub expires: UnixTime,
    /// When they were signed, where the signer says so: the gateway's clock is then at least there. Signers that work
    /// offline alone write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<UnixTime>,
    /// Whether file names carry versions and hashes.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// The keys by name.
    pub keys: BTreeMap<KeyId, PublicKey>,
    /// The roles `root`, `timestamp`, `snapshot` and `targets`.
    pub roles: BTreeMap<String, RoleKeys>,
}

/// What one file of metadata says of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    /// Its version.
    pub version: u64,
    /// Its length in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Its hashes by algorithm, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<BTreeMap<String, String>>,
}

/// Says which snapshot is the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// `timestamp`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Version of these metadata.
    pub version: u64,
    /// When they expire.
    pub expires: UnixTime,
    /// `snapshot.json` alone.
    pub meta: BTreeMap<String, FileVersion>,
}

/// Says which versions of all targets metadata belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snapshot`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Version of these metadata.
    pub version: u64,
    /// When they expire.
    pub expires: UnixTime,
    /// Files such as `targets.json` and `ROLE.json`.
    pub meta: BTreeMap<String, FileVersion>,
}

/// Names files, or roles that may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// `targets`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the specification.
    pub spec_version: String,
    /// Version of these metadata.
    pub version: u64,
    /// When they expire.
    pub expires: UnixTime,
    /// When they were signed, as in [`Root::signed_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<UnixTime>,
    /// What the application says beside the targets: for a director, its statement to one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Value>,
    /// The files by path.
    pub targets: BTreeMap<String, TargetDescription>,
    /// Roles that may name files in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegations: Option<Delegations>,
}

/// What is known of a target file before it is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetDescription {
    /// Its length in bytes.
    pub length: u64,
    /// Its hashes by algorithm, in hexadecimal.
    pub hashes: BTreeMap<String, String>,
    /// What the application says of it: for a model package, [`ReleaseNote`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Value>,
}

impl TargetDescription {
    /// Returns the description of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8], custom: Option<Value>) -> Self {
        let hashes = BTreeMap::from([("sha256".to_owned(), Digest::of(bytes).to_string())]);
        Self { length: bytes.len() as u64, hashes, custom }
    }
}

/// What a model package's target says in `custom`, so that a device can judge a release before it fetches anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseNote {
    /// Name of the model.
    pub model: String,
    /// Version for people.
    pub version: String,
    /// Strictly rising number of the release.
    pub release_counter: u64,
    /// Processor architectures it was checked on; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
}

/// Roles that may name files, in order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegations {
    /// Their keys by name.
    pub keys: BTreeMap<KeyId, PublicKey>,
    /// The roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<DelegatedRole>>,
    /// Hash bins, in place of `roles`. *Source*: TAP 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succinct_roles: Option<SuccinctRoles>,
}

/// A role that may name some files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedRole {
    /// Its name; its file is `NAME.json`.
    pub name: String,
    /// Names of its keys.
    pub keyids: Vec<KeyId>,
    /// How many different ones must have signed.
    pub threshold: u32,
    /// Whether the search ends with this role for the paths it matches.
    #[serde(default)]
    pub terminating: bool,
    /// Patterns of the paths it may name: `*` and `?` match within one folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Prefixes of the SHA-256 of the paths it may name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hash_prefixes: Option<Vec<String>>,
}

/// Hash bins with the same keys. *Source*: TAP 15.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccinctRoles {
    /// Names of the bins' keys.
    pub keyids: Vec<KeyId>,
    /// How many different ones must have signed.
    pub threshold: u32,
    /// How many leading bits of the path's SHA-256 choose the bin. *Range*: 1 to 32.
    pub bit_length: u32,
    /// What the bins' names begin with.
    pub name_prefix: String,
}
