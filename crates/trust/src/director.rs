//! The director's word: what this device is to run, checked against what the owner approved.
//!
//! Pure functions over the director's own trusted set and targets of the image repository. The director may choose among
//! what is approved, for this device and for this question alone; it can approve nothing. *Source*: Uptane 2.1,
//! section 5.4.4.

use std::collections::BTreeMap;

use dunlin_kit::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;
use crate::failure::{Code, Failure};
use crate::key::Ed25519Only;
use crate::limits::{NOTE_BYTES_MAX, ROOT_BYTES_MAX, WITHDRAWN_MAX};
use crate::lookup::ApprovedTarget;
use crate::metadata::{ReleaseNote, Root, TargetDescription};
use crate::time::UnixTime;
use crate::trusted::{Stored, TrustedSet};
use crate::verified::Verified;

/// What a director writes into `custom` of its targets metadata: for whom and in answer to what they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementNote {
    /// Identity of the device.
    pub device: String,
    /// What the device asked with.
    pub nonce: String,
    /// The server's time when it answered.
    pub server_time: UnixTime,
    /// Releases that the device is to leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<WithdrawalNote>,
}

/// A release that a device is to leave: it goes back to the good one before, by itself and without a download. Taking
/// back needs no approval by the owner, since the device keeps every release that was good with its approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawalNote {
    /// Name of the model as signed.
    pub model: String,
    /// SHA-256 of the release's manifest.
    pub digest: Digest,
    /// The rollout that is taken back.
    pub rollout: String,
    /// Why, for people.
    pub reason: String,
}

/// What a director writes into `custom` of each target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentNote {
    /// The rollout that the device is part of.
    pub rollout: String,
    /// The slot to fill: the name under which the device runs the model.
    pub slot: String,
    /// What the device must be.
    #[serde(default)]
    pub requirements: Requirements,
    /// Which failure of the release is to be forgotten: when the device found it bad, in milliseconds since 1970 by the
    /// device's clock, as it reported it. It tries the release again then, and never for a failure that came later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of_ms: Option<i64>,
}

/// What a device must be to run a model; an empty list asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Requirements {
    /// Processor architectures, as in `aarch64`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Engines, as in `tract-0.23`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engines: Vec<String>,
}

/// What this device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its identity.
    pub id: String,
    /// Its architecture, as in `aarch64`.
    pub architecture: String,
    /// Its engine, as in `tract-0.23`.
    pub engine: String,
}

/// What the director says to this device, in answer to its own question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Version of the director's targets metadata.
    pub version: u64,
    /// The server's time: trusted for this boot.
    pub server_time: UnixTime,
    /// What to run, by path of the target.
    pub targets: BTreeMap<String, (TargetDescription, AssignmentNote)>,
    /// What to leave.
    pub withdrawn: Vec<WithdrawalNote>,
}

/// The role that a director's root names beside the four, and no other root: its keys sign what a server answers. It
/// keeps the two kinds of root apart, which the same keys sign: without it a director's root would pass for the image
/// repository's next one, and a stolen online key could approve models.
pub const DIRECTOR_ROLE: &str = "director";

/// Takes the first root of a director that a device ever sees: it is the director's because the keys that speak for the
/// root of the image repository have signed it, as many as that root asks for. Newer ones follow the rules of roots.
/// Returns what to store.
///
/// Any version may be the first: after a rotation of the root keys, those of the day have signed the newest alone.
///
/// *Errors*: `endless_data`; `signature` where the owner has not signed it, or it has not signed itself; `mismatch` for
/// something that is no root, or none of a director. Whether it has expired shows when it is refreshed.
pub fn first_root(image: &TrustedSet, raw: &[u8]) -> Result<Verified<Stored>, Failure> {
    let object = "director/root.json";
    if raw.len() as u64 > ROOT_BYTES_MAX {
        let reason = format!("is longer than {ROOT_BYTES_MAX} bytes");
        return Err(Failure::new(Code::EndlessData, object, reason));
    }
    let root = Envelope::<Root>::parse(raw, object)?;
    let owner = image.root();
    let owners_keys = owner.roles.get("root").ok_or_else(|| {
        Failure::new(
            Code::Signature,
            object,
            "has no owner: the image repository's root names no keys for roots",
        )
    })?;
    root.require_signatures(owners_keys, &owner.keys, &Ed25519Only, object)?;
    if !root.role().roles.contains_key(DIRECTOR_ROLE) {
        let reason = format!("is no director's root: it names no keys for the role `{DIRECTOR_ROLE}`");
        return Err(Failure::new(Code::Mismatch, object, reason));
    }
    let stored = Stored::first(raw.to_owned());
    let about_director = |failure: Failure| Failure { object: object.to_owned(), ..failure };
    let set = TrustedSet::load(&stored).map_err(about_director)?;
    Ok(Verified::attest(set.stored()))
}

/// What the device is to run: chosen by the director, approved by the owner, fit for the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The approved target.
    pub target: ApprovedTarget,
    /// What the owner says of the release.
    pub release: ReleaseNote,
    /// Rollout, slot and requirements.
    pub note: AssignmentNote,
}

impl Statement {
    /// Reads what a refreshed set of the director says to `device`, which asked with `nonce`. `now` is the time of the
    /// refresh.
    ///
    /// *Errors*: `wrong_device` for another's answer, `freeze_suspected` for an answer to another question or metadata
    /// that expired, `mismatch` where the set is not complete or says nothing of the kind. An answer with an older version
    /// was refused with `rollback` before it came here.
    pub fn read(
        director: &TrustedSet,
        device: &Device,
        nonce: &str,
        now: UnixTime,
    ) -> Result<Verified<Self>, Failure> {
        let object = "director/targets.json";
        let mismatch = |reason: String| Failure::new(Code::Mismatch, object, reason);
        director.require_fresh_root(now)?;
        let targets = match director.targets() {
            Some(targets) if director.has_named_targets(now)? => targets,
            _ => return Err(mismatch("is not the one that the snapshot names; refresh it first".to_owned())),
        };
        let custom = targets.custom.clone().ok_or_else(|| mismatch("is addressed to nobody".to_owned()))?;
        let note: StatementNote =
            serde_json::from_value(custom).map_err(|e| mismatch(format!("is addressed to nobody: {e}")))?;
        if note.device != device.id {
            let reason = format!("is meant for the device `{}`", note.device.escape_debug());
            return Err(Failure::new(Code::WrongDevice, object, reason));
        }
        if note.nonce != nonce {
            let reason = "answers another question than was asked; newer ones may be withheld";
            return Err(Failure::new(Code::FreezeSuspected, object, reason));
        }
        let mut chosen = BTreeMap::new();
        for (path, description) in &targets.targets {
            let custom = description.custom.clone().unwrap_or_default();
            let note: AssignmentNote = serde_json::from_value(custom)
                .map_err(|e| mismatch(format!("gives no slot to `{}`: {e}", path.escape_debug())))?;
            chosen.insert(path.clone(), (description.clone(), note));
        }
        let StatementNote { server_time, withdrawn, .. } = note;
        require_withdrawal_limits(&withdrawn).map_err(mismatch)?;
        Ok(Verified::attest(Self { version: targets.version, server_time, targets: chosen, withdrawn }))
    }
}

fn require_withdrawal_limits(withdrawn: &[WithdrawalNote]) -> Result<(), String> {
    if withdrawn.len() > WITHDRAWN_MAX {
        return Err(format!("withdraws {} releases; {WITHDRAWN_MAX} are the most", withdrawn.len()));
    }
    let texts = withdrawn.iter().flat_map(|note| [&note.model, &note.rollout, &note.reason]);
    if texts.into_iter().any(|text| text.len() > NOTE_BYTES_MAX) {
        return Err(format!("withdraws a release with a text of more than {NOTE_BYTES_MAX} bytes"));
    }
    Ok(())
}

impl Assignment {
    /// Checks one of the director's targets against the same target of the image repository. `floor` is the lowest release
    /// counter that the model may have.
    ///
    /// *Errors*: `not_approved` where the owner approved no such release, or another file under the path; `incompatible`,
    /// `downgrade`.
    pub fn check(
        statement: &Verified<Statement>,
        image: &Verified<ApprovedTarget>,
        device: &Device,
        floor: u64,
    ) -> Result<Verified<Self>, Failure> {
        let refuse = |code, reason: String| Failure::new(code, &image.path, reason);
        let (description, note) = statement
            .targets
            .get(&image.path)
            .ok_or_else(|| refuse(Code::NotApproved, "is not what the director chose".to_owned()))?;
        if !is_same(description, &image.description) {
            let reason = "is another file at the director than the owner approved".to_owned();
            return Err(refuse(Code::NotApproved, reason));
        }
        let release = image
            .note()
            .ok_or_else(|| refuse(Code::NotApproved, "was approved, but not as a release".to_owned()))?;
        for (what, wanted, actual) in [
            ("architectures", &release.architectures, &device.architecture),
            ("architectures", &note.requirements.architectures, &device.architecture),
            ("engines", &note.requirements.engines, &device.engine),
        ] {
            if !wanted.is_empty() && !wanted.contains(actual) {
                let reason = format!("is for the {what} {wanted:?}; this device has `{actual}`");
                return Err(refuse(Code::Incompatible, reason));
            }
        }
        if release.release_counter < floor {
            let counter = release.release_counter;
            let reason =
                format!("has release counter {counter}; {floor} is the lowest for `{}`", release.model);
            return Err(refuse(Code::Downgrade, reason));
        }
        let target = ApprovedTarget::clone(image);
        Ok(Verified::attest(Self { target, release, note: note.clone() }))
    }
}

/// The same file: both give a SHA-256, and it is one.
fn is_same(director: &TargetDescription, image: &TargetDescription) -> bool {
    let sha256 = |description: &TargetDescription| {
        description.hashes.get("sha256").map(|hash| hash.to_ascii_lowercase())
    };
    director.length == image.length && sha256(director).is_some() && sha256(director) == sha256(image)
}
