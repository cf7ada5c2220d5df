//! How much of anything is accepted, so that nobody can fill a gateway's memory or keep it busy with metadata.
//!
//! Constants with their derivation, and the check of each role against them. A file is refused before its signatures
//! are counted.

use crate::evidence::ROLES_MAX;
use crate::metadata::{Delegations, RoleKeys, Root, Snapshot, Targets, Timestamp};

/// Longest root: [`KEYS_MAX`] keys of some 300 bytes with as many signatures are 40 KiB; the rest is for keys of other
/// kinds and for texts of later versions.
pub const ROOT_BYTES_MAX: u64 = 512 << 10;
/// Longest timestamp: it names one file and carries [`crate::envelope::SIGNATURES_MAX`] signatures of 220 bytes at most.
pub const TIMESTAMP_BYTES_MAX: u64 = 16 << 10;
/// Longest snapshot: [`SNAPSHOT_FILES_MAX`] files of some 150 bytes each, with length and hash.
pub const SNAPSHOT_BYTES_MAX: u64 = 2 << 20;
/// Longest targets metadata: [`TARGETS_MAX`] packages of some 400 bytes each. Parsed, it takes about four times that,
/// which a gateway of 512 MiB can spare.
pub const TARGETS_BYTES_MAX: u64 = 4 << 20;
/// Most commas of one file, and so, but for a few, most values: parsed, each takes some 72 bytes, whatever it took in the
/// file. [`TARGETS_MAX`] packages need ten each.
pub const COMMAS_MAX: usize = 128 << 10;
/// Most keys of one root or of one delegator: a check costs 0.2 ms on a Raspberry Pi 3, and people sign by hand.
pub const KEYS_MAX: usize = 64;
/// Most roles that one role may delegate to: teams of one owner, and hash bins that are written out.
pub const DELEGATED_ROLES_MAX: usize = 1024;
/// Most patterns or prefixes of one delegated role.
pub const PATHS_MAX: usize = 256;
/// Most files that one snapshot lists.
pub const SNAPSHOT_FILES_MAX: usize = 16 << 10;
/// Most targets of one role: ten releases of each of a thousand models.
pub const TARGETS_MAX: usize = 10_000;
/// Most new roots in one refresh: two rotations a year for the life of a gateway are 40. The next refresh goes on.
pub const ROOT_ROTATIONS_MAX: u64 = 256;
/// Most roles that one search looks into: each may cost one exchange.
pub const VISITED_ROLES_MAX: usize = 32;
/// Longest path of a target and longest pattern: what file systems take as a path is four times this.
pub const PATH_BYTES_MAX: usize = 1024;
/// Most releases that one statement of a director takes back: a gateway runs some tens of models, and each holds three
/// releases.
pub const WITHDRAWN_MAX: usize = 256;
/// Longest text of such a note; its reason is for people.
pub const NOTE_BYTES_MAX: usize = 1024;
/// Longest name of a role: with a version before it and percent signs within it, it fits a file name of 255 bytes if it
/// is plain.
pub const ROLE_NAME_BYTES_MAX: usize = 200;

const _: () = assert!(ROLES_MAX <= VISITED_ROLES_MAX);

/// Tells whether a path of a target is relative, plain and of sensible length.
#[must_use]
pub fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_BYTES_MAX
        && !path.contains(|c: char| c.is_control() || c == '\\')
        && path.split('/').all(|folder| !matches!(folder, "" | "." | ".."))
}

/// Tells whether a name is one of the four roles that the root speaks for.
#[must_use]
pub fn is_top_level(name: &str) -> bool {
    matches!(name, "root" | "timestamp" | "snapshot" | "targets")
}

/// Checks that a file does not grow out of all proportion when it is parsed.
pub(crate) fn require_sparse(raw: &[u8]) -> Result<(), String> {
    at_most(raw.iter().filter(|byte| **byte == b',').count(), COMMAS_MAX, "commas")
}

pub(crate) fn root(root: &Root) -> Result<(), String> {
    at_most(root.keys.len(), KEYS_MAX, "keys")?;
    at_most(root.roles.len(), KEYS_MAX, "roles")?;
    for (name, keys) in &root.roles {
        require_keys(keys, name)?;
    }
    for name in ["root", "timestamp", "snapshot", "targets"] {
        if !root.roles.contains_key(name) {
            return Err(format!("names no keys for the role `{name}`"));
        }
    }
    require_signed_before(root.signed_at, root.expires)
}

pub(crate) fn timestamp(timestamp: &Timestamp) -> Result<(), String> {
    if !timestamp.meta.contains_key("snapshot.json") {
        return Err("names no `snapshot.json`".to_owned());
    }
    at_most(timestamp.meta.len(), KEYS_MAX, "files")
}

pub(crate) fn snapshot(snapshot: &Snapshot) -> Result<(), String> {
    if !snapshot.meta.contains_key("targets.json") {
        return Err("names no `targets.json`".to_owned());
    }
    at_most(snapshot.meta.len(), SNAPSHOT_FILES_MAX, "files")
}

pub(crate) fn targets(targets: &Targets) -> Result<(), String> {
    at_most(targets.targets.len(), TARGETS_MAX, "targets")?;
    if targets.targets.keys().any(|path| path.len() > PATH_BYTES_MAX) {
        return Err(format!("has a path of more than {PATH_BYTES_MAX} bytes"));
    }
    if let Some(delegations) = &targets.delegations {
        require_delegations(delegations)?;
    }
    require_signed_before(targets.signed_at, targets.expires)
}

fn require_delegations(delegations: &Delegations) -> Result<(), String> {
    at_most(delegations.keys.len(), KEYS_MAX, "delegated keys")?;
    let roles = delegations.roles.as_deref().unwrap_or_default();
    at_most(roles.len(), DELEGATED_ROLES_MAX, "delegated roles")?;
    for role in roles {
        require_role_name(&role.name)?;
        require_keys(&role.role_keys(), &role.name)?;
        for patterns in [&role.paths, &role.path_hash_prefixes].into_iter().flatten() {
            at_most(patterns.len(), PATHS_MAX, "patterns for one role")?;
            if patterns.iter().any(|pattern| pattern.len() > PATH_BYTES_MAX) {
                return Err(format!("has a pattern of more than {PATH_BYTES_MAX} bytes"));
            }
        }
    }
    if let Some(bins) = &delegations.succinct_roles {
        require_role_name(&bins.name_prefix)?;
        require_keys(&bins.role_keys(), &bins.name_prefix)?;
        if !(1..=32).contains(&bins.bit_length) {
            return Err(format!("has bins by {} bits instead of 1 to 32", bins.bit_length));
        }
    }
    Ok(())
}

fn require_role_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > ROLE_NAME_BYTES_MAX {
        return Err(format!("delegates to a role whose name is empty or over {ROLE_NAME_BYTES_MAX} bytes"));
    }
    if is_top_level(name) {
        return Err(format!("delegates to a role of the reserved name `{name}`"));
    }
    Ok(())
}

fn require_keys(keys: &RoleKeys, name: &str) -> Result<(), String> {
    at_most(keys.keyids.len(), KEYS_MAX, "keys for one role")?;
    if keys.threshold == 0 {
        return Err(format!("has a threshold of 0 for the role `{}`", name.escape_debug()));
    }
    Ok(())
}

fn require_signed_before(
    signed_at: Option<crate::time::UnixTime>,
    expires: crate::time::UnixTime,
) -> Result<(), String> {
    match signed_at {
        Some(signed_at) if signed_at > expires => {
            Err(format!("was signed at {signed_at}, after it expired at {expires}"))
        }
        _ => Ok(()),
    }
}

fn at_most(count: usize, most: usize, what: &str) -> Result<(), String> {
    if count > most {
        return Err(format!("has {count} {what}; {most} are the most"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_millions_of_numbers_is_refused_before_it_is_parsed() {
        let bomb = format!("[{}0]", "0,".repeat(TARGETS_BYTES_MAX as usize / 2));
        assert!(require_sparse(bomb.as_bytes()).is_err());
        assert!(crate::envelope::Envelope::<Targets>::parse(bomb.as_bytes(), "t").is_err());
    }

    #[test]
    fn paths_that_lead_elsewhere_are_not_plain() {
        for path in ["a", "models/frost/1.4.0/manifest.json", "nonexistent artifact", "é/ü"] {
            assert!(is_plain_path(path), "{path}");
        }
        let long = "a".repeat(PATH_BYTES_MAX + 1);
        for path in ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\nb", "a\0b", &long] {
            assert!(!is_plain_path(path), "{path:?}");
        }
    }
}
