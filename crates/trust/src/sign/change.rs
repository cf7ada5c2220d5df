//! One change of a repository's offline metadata: releases, delegations, keys.
//!
//! Collects edits, then writes the next version of every role it touched. Pure; never signs for a role whose key it was
//! not given, so that a change may travel from one keeper of keys to the next.

use std::collections::BTreeMap;

use super::SigningKey;
use super::repository::{Files, Lifetimes, Repository, SignError, TOP_LEVEL, after};
use crate::key::{KeyId, PublicKey};
use crate::metadata::{
    DelegatedRole, Delegations, ReleaseNote, Role, RoleKeys, Root, SPEC_VERSION, TargetDescription, Targets,
};
use crate::time::UnixTime;

/// The keys of a role that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePlan {
    /// The role: one of the four.
    pub role: &'static str,
    /// Its keys.
    pub keys: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: u32,
}

/// Edits on the way to the next versions of root, targets and delegated roles.
#[derive(Debug, Clone)]
pub struct Change<'r> {
    before: Option<&'r Repository>,
    now: UnixTime,
    lifetimes: Lifetimes,
    root: Option<Root>,
    targets: BTreeMap<String, Targets>,
}

impl<'r> Change<'r> {
    /// Begins a change of what is there.
    #[must_use]
    pub fn of(before: &'r Repository, now: UnixTime, lifetimes: Lifetimes) -> Self {
        Self { before: Some(before), now, lifetimes, root: None, targets: BTreeMap::new() }
    }

    /// Begins a repository: its first root and targets metadata that name nothing.
    ///
    /// *Errors*: a role has fewer keys than its threshold, or a threshold of 0.
    pub fn found(plans: &[RolePlan], now: UnixTime, lifetimes: Lifetimes) -> Result<Self, SignError> {
        let mut root = Root {
            kind: Root::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version: 1,
            expires: Lifetimes::end(now, lifetimes.root_days),
            signed_at: Some(now),
            consistent_snapshot: true,
            keys: BTreeMap::new(),
            roles: BTreeMap::new(),
        };
        for plan in plans {
            for key in &plan.keys {
                root.keys.insert(key.id(), key.clone());
            }
            let keyids = plan.keys.iter().map(PublicKey::id).collect();
            root.roles.insert(plan.role.to_owned(), RoleKeys { keyids, threshold: plan.threshold });
        }
        let mut change = Self { before: None, now, lifetimes, root: Some(root), targets: BTreeMap::new() };
        change.require_thresholds()?;
        change.edit_targets("targets");
        Ok(change)
    }

    /// Adds a release: the manifest under its path, and what is said of it.
    ///
    /// *Errors*: the role may not name it, it is there already, or its counter is not above every other release's of the
    /// model.
    pub fn add_release(
        &mut self,
        role: &str,
        path: &str,
        manifest: &[u8],
        note: &ReleaseNote,
    ) -> Result<(), SignError> {
        self.require_may_name(role, path)?;
        let releases = self.before.map(Repository::releases).unwrap_or_default();
        if releases.iter().any(|other| other.path == path) {
            return Err(SignError::TargetExists(path.to_owned()));
        }
        let counters = releases
            .iter()
            .filter(|other| other.note.model == note.model)
            .map(|other| other.note.release_counter);
        if let Some(last) = counters.max().filter(|last| note.release_counter <= *last) {
            let (model, given) = (note.model.clone(), note.release_counter);
            return Err(SignError::Counter { model, last, given });
        }
        let custom = serde_json::to_value(note).expect("a note is texts and numbers");
        let description = TargetDescription::of(manifest, Some(custom));
        self.edit_targets(role).targets.insert(path.to_owned(), description);
        Ok(())
    }

    /// Adds a file that is no release, such as settings, under its path; in place of the one that is there.
    ///
    /// *Errors*: the role may not name it, or the path is a release's.
    pub fn put_file(&mut self, role: &str, path: &str, content: &[u8]) -> Result<(), SignError> {
        self.require_may_name(role, path)?;
        let releases = self.before.map(Repository::releases).unwrap_or_default();
        if releases.iter().any(|other| other.path == path) {
            return Err(SignError::TargetExists(path.to_owned()));
        }
        let description = TargetDescription::of(content, None);
        self.edit_targets(role).targets.insert(path.to_owned(), description);
        Ok(())
    }

    /// Removes a release.
    ///
    /// *Errors*: the role does not name it.
    pub fn remove_release(&mut self, role: &str, path: &str) -> Result<(), SignError> {
        match self.edit_targets(role).targets.remove(path) {
            Some(_) => Ok(()),
            None => Err(SignError::NoSuchTarget(path.to_owned())),
        }
    }

    /// Gives a role's metadata a new version and expiry, and nothing else: `root`, `targets` or a delegated role.
    ///
    /// *Errors*: there are none of this role.
    pub fn renew(&mut self, role: &str) -> Result<(), SignError> {
        match role {
            "root" => drop(self.edit_root()?),
            "targets" => drop(self.edit_targets(role)),
            _ if self.before.is_some_and(|before| before.targets(role).is_some()) => {
                self.edit_targets(role);
            }
            _ => return Err(SignError::NoSuchRole(role.to_owned())),
        }
        Ok(())
    }

    /// Replaces the keys of a role: `remove` go, `add` come.
    ///
    /// *Errors*: the role would have fewer keys than its threshold.
    pub fn replace_keys(&mut self, role: &str, remove: &[KeyId], add: &[PublicKey]) -> Result<(), SignError> {
        let root = self.edit_root()?;
        let keys = root.roles.get_mut(role).ok_or_else(|| SignError::NoSuchRole(role.to_owned()))?;
        keys.keyids.retain(|id| !remove.contains(id));
        for key in add {
            if !keys.keyids.contains(&key.id()) {
                keys.keyids.push(key.id());
            }
            root.keys.insert(key.id(), key.clone());
        }
        let used: Vec<KeyId> = root.roles.values().flat_map(|role| role.keyids.clone()).collect();
        root.keys.retain(|id, _| used.contains(id));
        self.require_thresholds()
    }

    /// Lets a team's keys name the releases of some paths.
    ///
    /// *Errors*: the name is taken by a top-level role or has a form that no file may have.
    pub fn delegate(&mut self, role: DelegatedRole, keys: &[PublicKey]) -> Result<(), SignError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let well_formed = (1..=64).contains(&role.name.len()) && role.name.bytes().all(plain);
        if TOP_LEVEL.contains(&role.name.as_str()) || !well_formed {
            return Err(SignError::Form(role.name));
        }
        if role.threshold == 0 || role.keyids.len() < role.threshold as usize {
            let (keys, threshold) = (role.keyids.len(), role.threshold);
            return Err(SignError::Threshold { role: role.name, keys, threshold });
        }
        let targets = self.edit_targets("targets");
        let delegations = targets.delegations.get_or_insert_with(|| Delegations {
            keys: BTreeMap::new(),
            roles: None,
            succinct_roles: None,
        });
        delegations.keys.extend(keys.iter().map(|key| (key.id(), key.clone())));
        let roles = delegations.roles.get_or_insert_default();
        roles.retain(|other| other.name != role.name);
        roles.push(role);
        let used: Vec<KeyId> = roles.iter().flat_map(|role| role.keyids.clone()).collect();
        delegations.keys.retain(|id, _| used.contains(id));
        Ok(())
    }

    /// Takes a key from a delegated role.
    ///
    /// *Errors*: there is no such role, or it would have fewer keys than its threshold.
    pub fn withdraw_delegated(&mut self, role: &str, id: &KeyId) -> Result<(), SignError> {
        let missing = || SignError::NoSuchRole(role.to_owned());
        let delegations = self.edit_targets("targets").delegations.as_mut().ok_or_else(missing)?;
        let roles = delegations.roles.get_or_insert_default();
        let delegated = roles.iter_mut().find(|other| other.name == role).ok_or_else(missing)?;
        delegated.keyids.retain(|other| other != id);
        if delegated.keyids.len() < delegated.threshold as usize {
            let (keys, threshold) = (delegated.keyids.len(), delegated.threshold);
            return Err(SignError::Threshold { role: role.to_owned(), keys, threshold });
        }
        let used: Vec<KeyId> = roles.iter().flat_map(|role| role.keyids.clone()).collect();
        delegations.keys.retain(|id, _| used.contains(id));
        Ok(())
    }

    /// Writes the changed files, each signed by those of `keys` that speak for its role. A key that spoke for it before
    /// signs too: a device with the last root can then read on while the keys are replaced.
    ///
    /// *Errors*: an edited role is delegated by nobody.
    pub fn files(&self, keys: &[&SigningKey]) -> Result<Files, SignError> {
        let mut unsigned = Files::new();
        if let Some(root) = &self.root {
            unsigned.insert(format!("{}.root.json", root.version), super::sign(root, &[]));
        }
        for (role, targets) in &self.targets {
            unsigned.insert(format!("{}.{role}.json", targets.version), super::sign(targets, &[]));
        }
        let after = after(self.before, &unsigned)?;
        let mut files = Files::new();
        if let Some(root) = &self.root {
            let keys = self.signing("root", &after, keys)?;
            files.insert(format!("{}.root.json", root.version), super::sign(root, &keys));
        }
        for (role, targets) in &self.targets {
            let keys = self.signing(role, &after, keys)?;
            files.insert(format!("{}.{role}.json", targets.version), super::sign(targets, &keys));
        }
        Ok(files)
    }

    fn signing<'k>(
        &self,
        role: &str,
        after: &Repository,
        keys: &[&'k SigningKey],
    ) -> Result<Vec<&'k SigningKey>, SignError> {
        let mut ids = after.authority(role)?.0.keyids;
        if let Some(Ok((before, _))) = self.before.map(|before| before.authority(role)) {
            ids.extend(before.keyids);
        }
        Ok(keys.iter().copied().filter(|key| ids.contains(&key.public().id())).collect())
    }

    fn edit_root(&mut self) -> Result<&mut Root, SignError> {
        if self.root.is_none() {
            let mut root = self.before.ok_or(SignError::NoRoot)?.root().clone();
            root.version += 1;
            root.expires = Lifetimes::end(self.now, self.lifetimes.root_days);
            root.signed_at = Some(self.now);
            self.root = Some(root);
        }
        self.root.as_mut().ok_or(SignError::NoRoot)
    }

    fn edit_targets(&mut self, role: &str) -> &mut Targets {
        let (now, days) = (self.now, self.lifetimes.targets_days);
        self.targets.entry(role.to_owned()).or_insert_with(|| {
            let mut targets =
                self.before.and_then(|before| before.targets(role)).cloned().unwrap_or(Targets {
                    kind: Targets::TYPE.to_owned(),
                    spec_version: SPEC_VERSION.to_owned(),
                    version: 0,
                    expires: now,
                    signed_at: None,
                    custom: None,
                    targets: BTreeMap::new(),
                    delegations: None,
                });
            targets.version += 1;
            targets.expires = Lifetimes::end(now, days);
            targets.signed_at = Some(now);
            targets
        })
    }

    fn require_may_name(&self, role: &str, path: &str) -> Result<(), SignError> {
        if role == "targets" {
            return Ok(());
        }
        let top = self.targets.get("targets").or_else(|| self.before.and_then(|b| b.targets("targets")));
        let delegations = top.and_then(|targets| targets.delegations.as_ref());
        let delegated = delegations
            .and_then(|delegations| delegations.roles.iter().flatten().find(|other| other.name == role))
            .ok_or_else(|| SignError::NoSuchRole(role.to_owned()))?;
        if delegated.may_name(path) {
            return Ok(());
        }
        Err(SignError::OutsideRole { role: role.to_owned(), path: path.to_owned() })
    }

    fn require_thresholds(&self) -> Result<(), SignError> {
        for (role, keys) in self.root.iter().flat_map(|root| &root.roles) {
            if keys.threshold == 0 || keys.keyids.len() < keys.threshold as usize {
                let (count, threshold) = (keys.keyids.len(), keys.threshold);
                return Err(SignError::Threshold { role: role.clone(), keys: count, threshold });
            }
        }
        Ok(())
    }
}
