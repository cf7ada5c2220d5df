//! One refresh of a repository's metadata: root, timestamp, snapshot, targets, in that order.
//!
//! Says which file it wants and takes what came; never fetches and never stores. It ends with the set as far as it got,
//! to be stored in one transaction whether or not the last step was refused. *Source*: TUF 1.0.34, sections 5.2 to 5.6.

use crate::failure::{Code, Failure};
use crate::limits::{
    ROOT_BYTES_MAX, ROOT_ROTATIONS_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX,
};
use crate::metadata::FileVersion;
use crate::steps::{Answer, Fetch, Steps, metadata_path};
use crate::time::UnixTime;
use crate::trusted::{TrustedSet, Update};

/// A file that took the place of an older one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The role, as in `root` or `models/team`.
    pub role: String,
    /// Its version.
    pub version: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// With the number of roots taken so far.
    Root(u64),
    Timestamp,
    Snapshot,
    Targets,
    Complete,
    Refused,
}

/// A refresh in progress.
#[derive(Debug, Clone)]
pub struct Refresh {
    set: TrustedSet,
    now: UnixTime,
    stage: Stage,
    changes: Vec<Change>,
}

/// What a refresh came to.
#[derive(Debug, Clone)]
pub struct Refreshed {
    /// The set, to be stored.
    pub set: TrustedSet,
    /// What is new in it, in order.
    pub changes: Vec<Change>,
    /// Whether all four roles are the newest that the repository names.
    pub is_complete: bool,
}

impl Refresh {
    /// Begins a refresh; `now` counts from its beginning to its end.
    #[must_use]
    pub const fn new(set: TrustedSet, now: UnixTime) -> Self {
        Self { set, now, stage: Stage::Root(0), changes: Vec::new() }
    }

    /// Ends the refresh, wherever it stands.
    #[must_use]
    pub fn finish(self) -> Refreshed {
        Refreshed { set: self.set, changes: self.changes, is_complete: self.stage == Stage::Complete }
    }

    fn take(&mut self, answer: Answer) -> Result<Stage, Failure> {
        match (self.stage, answer) {
            (Stage::Root(taken), Answer::Found(raw)) => {
                self.set.update_root(&raw)?;
                self.note("root", self.set.root().version);
                if taken + 1 < ROOT_ROTATIONS_MAX {
                    return Ok(Stage::Root(taken + 1));
                }
                self.after_root()
            }
            (Stage::Root(_), Answer::NotFound) => self.after_root(),
            (Stage::Timestamp, Answer::Found(raw)) => {
                if self.set.update_timestamp(&raw, self.now)? == Update::Replaced {
                    self.note("timestamp", self.set.floors().timestamp);
                }
                self.after_timestamp()
            }
            (Stage::Snapshot, Answer::Found(raw)) => {
                self.set.update_snapshot(&raw, self.now)?;
                self.note("snapshot", self.set.floors().snapshot);
                self.after_snapshot()
            }
            (Stage::Targets, Answer::Found(raw)) => {
                self.set.update_targets(&raw, self.now)?;
                self.note("targets", self.set.targets().map_or(0, |targets| targets.version));
                Ok(Stage::Complete)
            }
            (Stage::Complete | Stage::Refused, _) => Ok(self.stage),
            (_, Answer::NotFound) => {
                let object = self.wants().map_or_else(String::new, |fetch| fetch.path);
                Err(Failure::new(Code::Mismatch, object, "is not in the repository"))
            }
        }
    }

    fn after_root(&self) -> Result<Stage, Failure> {
        self.set.require_fresh_root(self.now)?;
        Ok(Stage::Timestamp)
    }

    fn after_timestamp(&self) -> Result<Stage, Failure> {
        if self.set.has_named_snapshot() { self.after_snapshot() } else { Ok(Stage::Snapshot) }
    }

    fn after_snapshot(&self) -> Result<Stage, Failure> {
        Ok(if self.set.has_named_targets(self.now)? { Stage::Complete } else { Stage::Targets })
    }

    fn note(&mut self, role: &str, version: u64) {
        self.changes.push(Change { role: role.to_owned(), version });
    }
}

impl Steps for Refresh {
    fn wants(&self) -> Option<Fetch> {
        let set = &self.set;
        match self.stage {
            Stage::Root(_) => {
                let version = set.root().version.checked_add(1);
                Some(Fetch { path: metadata_path("root", version), length_max: ROOT_BYTES_MAX })
            }
            Stage::Timestamp => {
                Some(Fetch { path: metadata_path("timestamp", None), length_max: TIMESTAMP_BYTES_MAX })
            }
            Stage::Snapshot => {
                let named = set.named_snapshot(self.now).ok()?;
                Some(fetch(set, "snapshot", named, SNAPSHOT_BYTES_MAX))
            }
            Stage::Targets => {
                let named = set.named_role("targets", self.now).ok()?;
                Some(fetch(set, "targets", named, TARGETS_BYTES_MAX))
            }
            Stage::Complete | Stage::Refused => None,
        }
    }

    fn answer(&mut self, answer: Answer) -> Result<(), Failure> {
        match self.take(answer) {
            Ok(stage) => {
                self.stage = stage;
                Ok(())
            }
            Err(failure) => {
                self.stage = Stage::Refused;
                Err(failure)
            }
        }
    }
}

/// Returns the file that other metadata name.
pub(crate) fn fetch(set: &TrustedSet, role: &str, named: &FileVersion, bytes_max: u64) -> Fetch {
    let version = set.root().consistent_snapshot.then_some(named.version);
    let length_max = named.length.map_or(bytes_max, |length| length.min(bytes_max));
    Fetch { path: metadata_path(role, version), length_max }
}
