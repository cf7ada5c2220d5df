//! The search for a target: the top-level targets metadata first, then the roles they delegate to, in pre-order.
//!
//! Says which delegated file it wants and takes what came. Never looks into a role twice, never believes a role that the
//! delegator on this very way does not vouch for. Ends with the target's description and the evidence for it.
//! *Source*: TUF 1.0.34, section 5.6.7.

use std::collections::BTreeSet;

use crate::evidence::{Evidence, ROLES_MAX};
use crate::failure::{Code, Failure};
use crate::limits::{TARGETS_BYTES_MAX, VISITED_ROLES_MAX, is_plain_path};
use crate::metadata::{ReleaseNote, TargetDescription};
use crate::refresh::{Change, fetch};
use crate::steps::{Answer, Fetch, Steps};
use crate::time::UnixTime;
use crate::trusted::TrustedSet;
use crate::verified::Verified;

/// A target that the owner's keys approved; its bytes are not here yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovedTarget {
    /// Its path, as in `models/frost/1.4.0/manifest.json`.
    pub path: String,
    /// Its path below the repository's targets folder: with the hash before the name where snapshots are consistent.
    pub file: String,
    /// Length, hashes and note.
    pub description: TargetDescription,
    /// The proof.
    pub evidence: Evidence,
}

impl ApprovedTarget {
    /// Returns what the metadata say of the release, where the target is one.
    #[must_use]
    pub fn note(&self) -> Option<ReleaseNote> {
        self.description.custom.clone().and_then(|custom| serde_json::from_value(custom).ok())
    }
}

/// A role to look into, and the roles on the way to it, the top-level one first.
#[derive(Debug, Clone)]
struct Visit {
    role: String,
    way: Vec<String>,
}

impl Visit {
    fn delegator(&self) -> &str {
        self.way.last().map_or("root", String::as_str)
    }
}

/// A search in progress.
#[derive(Debug)]
pub struct Lookup<'a> {
    set: &'a mut TrustedSet,
    now: UnixTime,
    path: String,
    /// The next one is the last.
    pending: Vec<Visit>,
    visited: BTreeSet<String>,
    wanted: Option<Visit>,
    found: Option<Visit>,
    changes: Vec<Change>,
}

impl<'a> Lookup<'a> {
    /// Begins a search in metadata that were refreshed. What it fetches becomes part of the set.
    ///
    /// *Errors*: `not_approved` for a path that is none; `mismatch` or `freeze_suspected` where the set is not fresh.
    pub fn new(set: &'a mut TrustedSet, path: &str, now: UnixTime) -> Result<Self, Failure> {
        if !is_plain_path(path) {
            return Err(Failure::new(Code::NotApproved, path, "is no plain relative path"));
        }
        set.require_fresh_root(now)?;
        if !set.has_named_targets(now)? {
            let reason = "is not the one that the snapshot names; refresh the metadata first";
            return Err(Failure::new(Code::Mismatch, "targets.json", reason));
        }
        let pending = vec![Visit { role: "targets".to_owned(), way: Vec::new() }];
        let (visited, wanted, found, changes) = (BTreeSet::new(), None, None, Vec::new());
        let mut lookup = Self { set, now, path: path.to_owned(), pending, visited, wanted, found, changes };
        lookup.advance()?;
        Ok(lookup)
    }

    /// Looks into roles until one names the target, one has to be fetched, or none is left.
    fn advance(&mut self) -> Result<(), Failure> {
        while let Some(visit) = self.pending.pop() {
            if self.visited.contains(&visit.role) {
                continue;
            }
            if self.visited.len() == VISITED_ROLES_MAX {
                return Err(self.refuse(&format!("was not found in {VISITED_ROLES_MAX} roles")));
            }
            if visit.role != "targets"
                && !self.set.has_named_delegated(&visit.role, visit.delegator(), self.now)?
            {
                self.wanted = Some(visit);
                return Ok(());
            }
            if self.look_into(visit) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Looks into a role that is here; true when it names the target.
    fn look_into(&mut self, visit: Visit) -> bool {
        let Some(targets) = self.set.role_file(&visit.role).map(|file| file.role()) else { return false };
        self.visited.insert(visit.role.clone());
        if targets.targets.contains_key(&self.path) {
            self.found = Some(visit);
            return true;
        }
        let way: Vec<String> = visit.way.iter().chain([&visit.role]).cloned().collect();
        let mut children = Vec::new();
        // Evidence for a deeper role could not be stated.
        if way.len() < ROLES_MAX {
            for role in targets.delegations.iter().flat_map(|d| d.roles_for(&self.path)) {
                children.push(Visit { role: role.name, way: way.clone() });
                if role.terminating {
                    self.pending.clear();
                    break;
                }
            }
        }
        self.pending.extend(children.into_iter().rev());
        false
    }

    /// Ends the search.
    ///
    /// *Errors*: `not_approved` where no role names the target.
    pub fn finish(self) -> Result<Verified<ApprovedTarget>, Failure> {
        let visit = self.found.as_ref().ok_or_else(|| self.refuse("is named by no role"))?;
        let files: Vec<_> =
            visit.way.iter().chain([&visit.role]).filter_map(|role| self.set.role_file(role)).collect();
        let description = files.last().and_then(|file| file.role().targets.get(&self.path));
        let description = description.ok_or_else(|| self.refuse("is named by no role"))?.clone();
        let text = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
        let evidence = Evidence {
            target: self.path.clone(),
            root: text(self.set.root_bytes()),
            roles: files.iter().map(|file| text(file.raw())).collect(),
        };
        let file = file_of(&self.path, &description, self.set.root().consistent_snapshot);
        Ok(Verified::attest(ApprovedTarget { path: self.path, file, description, evidence }))
    }

    /// Returns the delegated roles that were fetched so far.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    fn refuse(&self, reason: &str) -> Failure {
        Failure::new(Code::NotApproved, &self.path, reason)
    }

    fn take(&mut self, visit: Visit, answer: Answer) -> Result<(), Failure> {
        let Answer::Found(raw) = answer else {
            let object = format!("{}.json", visit.role);
            return Err(Failure::new(Code::Mismatch, object, "is not in the repository"));
        };
        self.set.update_delegated(&raw, &visit.role, visit.delegator(), self.now)?;
        let version = self.set.role_file(&visit.role).map_or(0, |file| file.role().version);
        self.changes.push(Change { role: visit.role.clone(), version });
        if self.look_into(visit) { Ok(()) } else { self.advance() }
    }
}

impl Steps for Lookup<'_> {
    fn wants(&self) -> Option<Fetch> {
        let role = &self.wanted.as_ref()?.role;
        let named = self.set.named_role(role, self.now).ok()?;
        Some(fetch(self.set, role, named, TARGETS_BYTES_MAX))
    }

    fn answer(&mut self, answer: Answer) -> Result<(), Failure> {
        let Some(visit) = self.wanted.take() else { return Ok(()) };
        let taken = self.take(visit, answer);
        if taken.is_err() {
            self.pending.clear();
        }
        taken
    }
}

fn file_of(path: &str, description: &TargetDescription, is_consistent: bool) -> String {
    let hash = ["sha256", "sha512"].into_iter().find_map(|algorithm| description.hashes.get(algorithm));
    match (is_consistent, hash, path.rsplit_once('/')) {
        (true, Some(hash), Some((folder, name))) => format!("{folder}/{hash}.{name}"),
        (true, Some(hash), None) => format!("{hash}.{path}"),
        _ => path.to_owned(),
    }
}
