//! An upload, judged as a gateway would that holds what is here.
//!
//! Pure: files, key and time in; the files to keep and the targets that they approve out. Never reads a blob.

use std::collections::BTreeSet;

use dunlin_kit::digest::Digest;
use dunlin_trust::director::DIRECTOR_ROLE;
use dunlin_trust::envelope::Envelope;
use dunlin_trust::metadata::{ReleaseNote, Root};
use dunlin_trust::refresh::Refresh;
use dunlin_trust::sign::SigningKey;
use dunlin_trust::sign::repository::{self, Files, Repository};
use dunlin_trust::steps::{Answer, Fetch, Interrupted, run};
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Code, Failure, Lookup, Stored, TrustedSet};

use super::{ImageRefusal, LIFETIMES, speaks_for};

/// The roles that the server signs for.
pub(super) const ONLINE_ROLES: [&str; 2] = ["snapshot", "timestamp"];
/// Where files of settings stand.
pub(crate) const SETTINGS_FOLDER: &str = "settings/";

/// A target that the owner approves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Approved {
    pub(super) path: String,
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    pub(super) note: Option<ReleaseNote>,
    /// Ids of the keys that signed the role which names it.
    pub(super) signers: Vec<String>,
}

/// What an upload comes to.
#[derive(Debug)]
pub(super) struct Verdict {
    /// New files, by name: the owner's and the server's.
    pub(super) new: Files,
    /// Everything that is approved from then on.
    pub(super) approved: Vec<Approved>,
}

/// Judges an upload onto what is held: all roots, and the newest file of each other role.
pub(super) fn verify(
    held: &Files,
    uploaded: &Files,
    key: &SigningKey,
    now: UnixTime,
) -> Result<Verdict, ImageRefusal> {
    let mut new = news(held, uploaded)?;
    let mut files = held.clone();
    files.extend(new.clone());
    require_roots(held, &files)?;
    let before = set_of(held, &files)?;
    let complete = Repository::read(&files)?;
    let roles: Vec<&str> = new.keys().filter_map(|name| split(name)).map(|(_, role)| role).collect();
    for role in roles.iter().filter(|role| **role != "root") {
        require_signed(&complete, role, now)?;
    }
    for role in ONLINE_ROLES {
        if !speaks_for(complete.root(), role, &key.public()) {
            return Err(ImageRefusal::NotNamed { role, key: key.public().keyval.public });
        }
    }
    let sent: BTreeSet<String> = roles.into_iter().map(str::to_owned).collect();
    let online = complete.complete(&[key], now, LIFETIMES, repository::Refresh::Needed)?;
    new.extend(online.clone());
    files.extend(online);
    let mut set = refresh(before, &files, now)?;
    let approved = approved(&mut set, &files, &sent, now)?;
    Ok(Verdict { new, approved })
}

/// Returns what of an upload is new: all roots, and the newest file of each other role, the only one that is checked.
fn news(held: &Files, uploaded: &Files) -> Result<Files, ImageRefusal> {
    let mut new = Files::new();
    for (name, raw) in uploaded {
        let (version, role) = require_name(name)?;
        let newest = |files| versions(files, role).map(|(version, _)| version).max();
        match held.get(name) {
            Some(other) if other == raw => {}
            Some(_) => return Err(ImageRefusal::Taken(name.clone())),
            None if role != "root" && newest(uploaded) < newest(held) => {
                let here = newest(held).unwrap_or(0);
                let reason = format!("is older than what is here; sign the change anew on version {here}");
                return Err(Failure::new(Code::Rollback, name.as_str(), reason).into());
            }
            None if role != "root" && Some(version) < newest(uploaded) => {}
            None => drop(new.insert(name.clone(), raw.clone())),
        }
    }
    Ok(new)
}

/// Checks that enough keys of its role signed a file, and that it has not expired: also of a role that names nothing,
/// which no search for a target would look into.
fn require_signed(repository: &Repository, role: &str, now: UnixTime) -> Result<(), ImageRefusal> {
    let (keys, _) = repository.authority(role)?;
    let (signed, needed) = (repository.signers(role).len(), keys.threshold.max(1) as usize);
    let object = format!("{role}.json");
    if signed < needed {
        let reason = format!("has {signed} of the {needed} signatures it needs");
        return Err(Failure::new(Code::Signature, object, reason).into());
    }
    match repository.targets(role) {
        Some(targets) if targets.expires <= now => {
            let reason = format!("expired at {}", targets.expires);
            Err(Failure::new(Code::FreezeSuspected, object, reason).into())
        }
        _ => Ok(()),
    }
}

/// Returns the set of a gateway that holds what is here; where nothing is, of one that was given the oldest root.
fn set_of(held: &Files, files: &Files) -> Result<TrustedSet, ImageRefusal> {
    let root = match newest(held, "root") {
        Some(root) => root,
        None => oldest(files, "root").ok_or(ImageRefusal::Unfit(repository::SignError::NoRoot))?,
    };
    let first = Envelope::<Root>::parse(root, "root.json")?;
    if first.role().roles.contains_key(DIRECTOR_ROLE) {
        let reason = "is a director's root, not the image repository's";
        return Err(Failure::new(Code::Mismatch, "root.json", reason).into());
    }
    let mut stored = Stored::first(root.to_vec());
    stored.timestamp = held.get("timestamp.json").cloned();
    stored.snapshot = newest(held, "snapshot").map(<[u8]>::to_vec);
    stored.targets = newest(held, "targets").map(<[u8]>::to_vec);
    Ok(TrustedSet::load(&stored)?)
}

/// Roots follow one another without a gap, since gateways walk through all of them, and none comes before those here,
/// since nobody would have checked it.
fn require_roots(held: &Files, files: &Files) -> Result<(), ImageRefusal> {
    let in_order = |files| {
        let mut all: Vec<u64> = versions(files, "root").map(|(version, _)| version).collect();
        all.sort_unstable();
        all
    };
    let (before, all) = (in_order(held), in_order(files));
    if let (Some(oldest), Some(first)) = (before.first(), all.first())
        && first < oldest
    {
        let reason = format!("comes before version {oldest}, the first that this server was given");
        return Err(Failure::new(Code::Rollback, format!("{first}.root.json"), reason).into());
    }
    match all.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        Some(pair) => {
            let reason = format!("does not follow version {}", pair[0]);
            Err(Failure::new(Code::Mismatch, format!("{}.root.json", pair[1]), reason).into())
        }
        None => Ok(()),
    }
}

fn refresh(set: TrustedSet, files: &Files, now: UnixTime) -> Result<TrustedSet, ImageRefusal> {
    let mut refresh = Refresh::new(set, now);
    walk(&mut refresh, files)?;
    Ok(refresh.finish().set)
}

fn walk(steps: &mut impl dunlin_trust::Steps, files: &Files) -> Result<(), ImageRefusal> {
    let source = |fetch: &Fetch| {
        Ok::<_, std::convert::Infallible>(
            files.get(&fetch.path).map_or(Answer::NotFound, |raw| Answer::Found(raw.clone())),
        )
    };
    run(steps, source).map_err(|interrupted| match interrupted {
        Interrupted::Refused(failure) => ImageRefusal::Untrusted(failure),
        Interrupted::Source(never) => match never {},
    })
}

/// Looks every target up as a gateway would. One that a role may not name is refused with the upload that brings the role;
/// a role that was here before and is good no more approves nothing, and hinders nobody else.
fn approved(
    set: &mut TrustedSet,
    files: &Files,
    sent: &BTreeSet<String>,
    now: UnixTime,
) -> Result<Vec<Approved>, ImageRefusal> {
    let repository = Repository::read(files)?;
    let mut approved = Vec::new();
    for role in repository.target_roles().filter(|role| is_delegated(&repository, role)) {
        let signers: Vec<String> = repository.signers(role).into_iter().map(|id| id.0).collect();
        for path in repository.targets(role).iter().flat_map(|targets| targets.targets.keys()) {
            match look_up(set, files, path, now) {
                Ok(found) => approved.push(Approved { signers: signers.clone(), ..found }),
                Err(refusal) if sent.contains(role) => return Err(refusal),
                Err(_) => {}
            }
        }
    }
    approved.sort_by(|a, b| a.path.cmp(&b.path));
    approved.dedup_by(|a, b| a.path == b.path);
    Ok(approved)
}

fn look_up(set: &mut TrustedSet, files: &Files, path: &str, now: UnixTime) -> Result<Approved, ImageRefusal> {
    let mut lookup = Lookup::new(set, path, now)?;
    walk(&mut lookup, files)?;
    let target = lookup.finish()?;
    let sha256 = target.description.hashes.get("sha256").and_then(|hash| hash.parse().ok());
    let digest = sha256.ok_or_else(|| {
        let reason = "has no SHA-256 in lower-case digits, by which files are kept";
        Failure::new(Code::Mismatch, path, reason)
    })?;
    let (bytes, note) = (target.description.length, target.note());
    Ok(Approved { path: path.to_owned(), digest, bytes, note, signers: Vec::new() })
}

/// A role that is delegated no more keeps its last file, since a snapshot that drops a role is refused.
fn is_delegated(repository: &Repository, role: &str) -> bool {
    repository.authority(role).is_ok()
}

fn require_name(name: &str) -> Result<(u64, &str), ImageRefusal> {
    let of_owner = |(_, role): &(u64, &str)| !ONLINE_ROLES.contains(role) && is_role(role);
    split(name).filter(of_owner).ok_or_else(|| ImageRefusal::Name(name.to_owned()))
}

/// Names of roles as `dunlin keys delegate` makes them: plain in a file's name and in a URL.
fn is_role(role: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    (1..=64).contains(&role.len()) && role.bytes().all(is_plain)
}

/// Returns version and role of a file's name, as in `3.targets.json`.
pub(super) fn split(name: &str) -> Option<(u64, &str)> {
    let (version, role) = name.strip_suffix(".json")?.split_once('.')?;
    let is_number = !version.starts_with('0') && version.bytes().all(|b| b.is_ascii_digit());
    // What a column holds.
    let version = version.parse().ok().filter(|version| is_number && *version < 1 << 53)?;
    Some((version, role))
}

fn versions<'f>(files: &'f Files, role: &'f str) -> impl Iterator<Item = (u64, &'f [u8])> {
    files.iter().filter_map(move |(name, raw)| match split(name) {
        Some((version, of)) if of == role => Some((version, raw.as_slice())),
        _ => None,
    })
}

/// Returns the newest file of a role.
pub(super) fn newest<'f>(files: &'f Files, role: &'f str) -> Option<&'f [u8]> {
    versions(files, role).max_by_key(|(version, _)| *version).map(|(_, raw)| raw)
}

fn oldest<'f>(files: &'f Files, role: &'f str) -> Option<&'f [u8]> {
    versions(files, role).min_by_key(|(version, _)| *version).map(|(_, raw)| raw)
}
