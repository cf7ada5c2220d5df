//! Which release of a model the owner approves now: the one with the highest counter that signed metadata name.
//!
//! Reads names from metadata and believes none before the search of the verifier has found it on a way of signatures.
//! Never opens a blob. The import and the offline commands ask it.

use std::collections::BTreeSet;

use dunlin_model_package::package::MANIFEST_BYTES_MAX;
use dunlin_model_package::{Digest, RepositoryPath, RepositorySource};
use dunlin_trust::director::Device;
use dunlin_trust::envelope::Envelope;
use dunlin_trust::limits::VISITED_ROLES_MAX;
use dunlin_trust::metadata::{ReleaseNote, TargetDescription, Targets};
use dunlin_trust::time::UnixTime;
use dunlin_trust::{ApprovedTarget, Code, Failure, Lookup, TargetFile, TrustedSet, Verified};

use super::compatibility::require_architecture;
use super::refusal::Refusal;
use super::trust_state::{Interruption, drive, interruption, read_up_to};

/// Most releases of one model that are searched for before one is found: only names in nested roles that may not name
/// them are searched in vain.
const SEARCHES_MAX: usize = 256;

/// A release that is approved; its manifest is not here yet.
#[derive(Debug, Clone)]
pub struct Approved {
    /// The target with the proof.
    pub target: Verified<ApprovedTarget>,
    /// What the owner says of it.
    pub note: ReleaseNote,
    /// SHA-256 of its manifest.
    pub digest: Digest,
}

/// Returns the newest approved release of a model; nothing where none is named.
///
/// *Errors*: a role on the way is refused, or the source failed; `mismatch` for an entry that is no release's.
pub fn newest(
    set: &mut TrustedSet,
    source: &dyn RepositorySource,
    model: &str,
    now: UnixTime,
) -> Result<Option<Approved>, Interruption> {
    for probe in probes(set.targets(), model) {
        // Nothing has this name: the search brings every role here that may name a release of the model.
        let mut lookup = Lookup::new(set, &probe, now)?;
        drive(&mut lookup, source, &mut |_, _| {})?;
    }
    let mut named: Vec<(u64, String)> = named_releases(set, model).into_iter().collect();
    named.sort_unstable();
    for (counter, path) in named.into_iter().rev().take(SEARCHES_MAX) {
        match find(set, source, &path, now) {
            Ok(target) => {
                let approved = approved(target, model)?;
                if approved.note.release_counter == counter {
                    return Ok(Some(approved));
                }
            }
            // Named by a role that may not, and by none that may.
            Err(Interruption::Refused(refusal)) if refusal.is(Code::NotApproved) => {}
            Err(interruption) => return Err(interruption),
        }
    }
    Ok(None)
}

/// Searches a target.
///
/// *Errors*: `not_approved` where no role names it; a role on the way is refused, or the source failed.
pub fn find(
    set: &mut TrustedSet,
    source: &dyn RepositorySource,
    path: &str,
    now: UnixTime,
) -> Result<Verified<ApprovedTarget>, Interruption> {
    let mut lookup = Lookup::new(set, path, now)?;
    drive(&mut lookup, source, &mut |_, _| {})?;
    Ok(lookup.finish()?)
}

fn approved(target: Verified<ApprovedTarget>, model: &str) -> Result<Approved, Failure> {
    let mismatch = |reason: &str| Failure::new(Code::Mismatch, &target.path, reason);
    let note = target.note().ok_or_else(|| mismatch("is not signed as a release"))?;
    if note.model != model {
        return Err(mismatch("is signed as a release of another model"));
    }
    let digest = target.description.hashes.get("sha256").and_then(|hash| hash.parse().ok());
    let digest = digest.ok_or_else(|| mismatch("is signed without a SHA-256"))?;
    Ok(Approved { note, digest, target })
}

/// Returns what metadata name as releases of the model, believed or not: counters and paths.
fn named_releases(set: &TrustedSet, model: &str) -> BTreeSet<(u64, String)> {
    let of_role = |targets: &Targets| -> Vec<(u64, String)> {
        let release = |(path, description): (&String, &TargetDescription)| {
            let counter = description.custom.as_ref()?.get("release_counter")?.as_u64()?;
            is_of_model(path, model).then(|| (counter, path.clone()))
        };
        targets.targets.iter().filter_map(release).collect()
    };
    let mut named: BTreeSet<_> = set.targets().into_iter().flat_map(of_role).collect();
    let delegations = set.targets().and_then(|targets| targets.delegations.as_ref());
    for (role, raw) in &set.stored().delegated {
        let delegated = delegations.and_then(|d| d.roles.iter().flatten().find(|other| other.name == *role));
        if let Ok(file) = Envelope::<Targets>::parse(raw, "delegated role") {
            let releases = of_role(file.role()).into_iter();
            named.extend(releases.filter(|(_, path)| delegated.is_none_or(|role| role.may_name(path))));
        }
    }
    named
}

fn is_of_model(path: &str, model: &str) -> bool {
    path.strip_prefix("models/")
        .and_then(|rest| rest.strip_prefix(model))
        .is_some_and(|rest| rest.strip_prefix('/').is_some_and(|rest| rest.ends_with("/manifest.json")))
}

/// Returns paths of releases of the model as they might be named: one for any version, and one for each pattern of a
/// delegation that asks for certain ones.
fn probes(targets: Option<&Targets>, model: &str) -> BTreeSet<String> {
    let any = format!("models/{model}/0/manifest.json");
    let roles = targets.and_then(|targets| targets.delegations.as_ref()).and_then(|d| d.roles.as_ref());
    let Some(roles) = roles else { return BTreeSet::new() };
    let patterns = roles.iter().flat_map(|role| role.paths.iter().flatten());
    let certain = patterns.filter_map(|pattern| {
        let folders: Vec<&str> = pattern.split('/').collect();
        let [_, _, version, name] = folders.as_slice() else { return None };
        let [version, name] = [version, name].map(|text| text.replace(['*', '?'], "0"));
        let probe = format!("models/{model}/{version}/{name}");
        roles.iter().any(|role| role.may_name(&probe)).then_some(probe)
    });
    [any].into_iter().chain(certain).take(VISITED_ROLES_MAX).collect()
}

/// Fetches the manifest of an approved release and verifies it.
///
/// *Errors*: `incompatible` with the device before anything is fetched; `mismatch`, `endless_data`; the source failed.
pub fn fetch_manifest(
    approved: &Approved,
    set: &TrustedSet,
    source: &dyn RepositorySource,
    device: &Device,
) -> Result<Verified<TargetFile>, Interruption> {
    let target = &approved.target;
    require_architecture(&approved.note.architectures, device, &target.path)?;
    let length = target.description.length;
    if length > MANIFEST_BYTES_MAX {
        let reason = format!("is {length} bytes long; {MANIFEST_BYTES_MAX} are the most of a manifest");
        return Err(Refusal::trust(Code::EndlessData, &target.path, reason).into());
    }
    let absent = || Refusal::trust(Code::Mismatch, &target.path, "is signed and not in the repository");
    let path = RepositoryPath::of_target(&target.path, approved.digest).ok_or_else(absent)?;
    let read = read_up_to(source, &path, length + 1).map_err(|error| interruption(error, &target.path))?;
    let bytes = read.ok_or_else(absent)?;
    if bytes.len() as u64 > length {
        let reason = format!("goes on beyond the {length} bytes that were signed");
        return Err(Refusal::trust(Code::EndlessData, &target.path, reason).into());
    }
    Ok(target.evidence.verify(&set.anchor(), bytes)?)
}
