//! The state of a rollout, as it is kept between two steps.
//!
//! Values alone. What time and reports make of them is in `machine`, what people order in `command`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::facts::Counts;
use super::gate::{Gate, GateKind};
use super::query::Query;
use super::spec::RolloutSpec;

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id; the order of gateways comes from it.
    pub id: String,
    /// What was asked for.
    pub spec: RolloutSpec,
    /// Who made it: no approval of theirs counts.
    pub author: String,
    /// The gateways that there are for who made it: it reaches no others, and others of the same view see it.
    #[serde(default = "Query::all")]
    pub limited_to: Query,
    /// Who signed or published what it gives: no approval of theirs counts either.
    #[serde(default)]
    pub signers: BTreeSet<String>,
    /// Where it stands.
    pub status: Status,
    /// When it was started, in ms; 0 before. Of two rollouts of a model the one that was started last wins.
    #[serde(default)]
    pub started_ms: u64,
    /// The present phase, from 0.
    pub phase: usize,
    /// How far the present phase is.
    pub stage: Stage,
    /// Gateways that were given the release.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, Member>,
    /// How many people must approve it.
    #[serde(default)]
    pub approvals: u32,
    /// Who approved it.
    pub approved_by: BTreeSet<String>,
    /// Why it halted last.
    pub halt: Option<Halt>,
    /// Failures that somebody saw and went on all the same: they halt it no more.
    #[serde(default)]
    pub borne: BTreeSet<String>,
    /// Gates whose measurements somebody saw and went on all the same.
    #[serde(default)]
    pub waived: BTreeSet<GateKind>,
    /// Gateways that asked to be left alone, and since when, in ms.
    #[serde(default)]
    pub deferred: BTreeMap<String, u64>,
    /// When somebody looked last, in ms; kept every so often.
    #[serde(default)]
    pub looked_ms: u64,
    /// When nobody looked for a while: gateways that were there before it are waited for after it.
    #[serde(default)]
    pub blind: Option<Blind>,
    /// The gates as they were judged last.
    pub gates: Vec<Gate>,
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was made and not begun.
    Draft,
    /// It waits for people to approve it.
    Approval,
    /// It goes on by itself.
    Running,
    /// Somebody stopped it for a while.
    Paused,
    /// A gate stopped it, and it waits for a decision.
    Halted,
    /// The gateways that have the release go back.
    Reverting,
    /// They all went back, as far as they were heard of.
    Reverted,
    /// The last phase is over; gateways that come later are given the release without being waited for.
    Completed,
    /// Somebody ended it; what has the release keeps it.
    Aborted,
}

impl Status {
    /// Tells whether time and reports can change anything in it.
    #[must_use]
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Draft | Self::Approval | Self::Aborted)
    }

    /// Returns the word that it has on the wire and in the database.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Approval => "approval",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Reverting => "reverting",
            Self::Reverted => "reverted",
            Self::Completed => "completed",
            Self::Aborted => "aborted",
        }
    }
}

/// How far a phase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Gateways are given the release.
    Deploying,
    /// All have it that can be waited for; it is watched since then.
    Baking {
        /// Since when, in ms; later by the time in which nobody looked.
        since_ms: u64,
    },
}

/// A gateway that was given the release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// In which phase.
    pub phase: usize,
    /// When, in ms; the last time.
    pub assigned_ms: u64,
    /// How often it was given the release: more than once where people had it retried.
    pub tries: u32,
    /// By model, what it had before.
    pub before: BTreeMap<String, Before>,
    /// The settings that it had before, by their digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_before: Option<String>,
    /// The revision at which it was given the settings, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_revision: Option<u64>,
    /// The failure that was known when it was given the release again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Failure>,
    /// For how long it was online and in a window since, without coming to an end, in ms.
    pub waited_ms: u64,
    /// When that was last added to.
    pub looked_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a gateway had of a model before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The good release.
    pub digest: String,
    /// What was counted of it by then.
    #[serde(default)]
    pub counts: Counts,
}

/// How a gateway failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The code.
    pub cause: String,
    /// When, by the gateway's clock; tells it from another one.
    pub at_ms: Option<i64>,
}

/// What became of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was told, and has not come to an end.
    Assigned,
    /// It reported the release as its good one.
    Good,
    /// It reported the release as bad, or did not come to an end in time.
    Failed(Failure),
    /// It is to be told again.
    Retrying,
    /// A rollout that was started later chose something else for it.
    Superseded,
    /// It is to go back and has not reported yet.
    Reverting,
    /// It reported that it does not have the release.
    Reverted,
    /// It was told and is told no more, before it came to an end.
    Dropped,
}

impl Outcome {
    /// Returns the word that it has on the wire, and the code of a failure.
    #[must_use]
    pub fn word(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Assigned => ("assigned", None),
            Self::Good => ("good", None),
            Self::Failed(failure) => ("failed", Some(&failure.cause)),
            Self::Retrying => ("retrying", None),
            Self::Superseded => ("superseded", None),
            Self::Reverting => ("reverting", None),
            Self::Reverted => ("reverted", None),
            Self::Dropped => ("dropped", None),
        }
    }
}

/// Why a rollout halted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// The gate.
    pub gate: GateKind,
    /// In which phase, from 0.
    pub phase: usize,
    /// When, in ms.
    pub at_ms: u64,
    /// In words.
    pub words: String,
}

/// A time in which nobody looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blind {
    /// From when, in ms.
    pub from_ms: u64,
    /// Until when, in ms.
    pub until_ms: u64,
}

/// What is to be told to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// To run the releases.
    Assign(String),
    /// To leave the releases, for the ones before.
    Withdraw(String),
    /// Nothing of the releases any more; one that has them keeps them.
    Drop(String),
}

impl Act {
    /// Returns the gateway.
    #[must_use]
    pub fn device(&self) -> &str {
        match self {
            Self::Assign(device) | Self::Withdraw(device) | Self::Drop(device) => device,
        }
    }
}

/// What a step made of a rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The rollout after it.
    pub rollout: Rollout,
    /// What gateways are to be told; to be kept in the same transaction.
    pub acts: Vec<Act>,
    /// What people are to be told, in words.
    pub notes: Vec<String>,
}

impl Rollout {
    /// Returns a new rollout, not begun.
    #[must_use]
    pub fn draft(id: String, spec: RolloutSpec, author: String, signers: BTreeSet<String>) -> Self {
        Self {
            id,
            approvals: spec.approvals,
            spec,
            author,
            limited_to: Query::all(),
            signers,
            status: Status::Draft,
            started_ms: 0,
            phase: 0,
            stage: Stage::Deploying,
            members: BTreeMap::new(),
            approved_by: BTreeSet::new(),
            halt: None,
            borne: BTreeSet::new(),
            waived: BTreeSet::new(),
            deferred: BTreeMap::new(),
            looked_ms: 0,
            blind: None,
            gates: Vec::new(),
        }
    }

    /// Tells whether it stands otherwise than another state of it, as far as people decide by it.
    #[must_use]
    pub fn stands_as(&self, other: &Self) -> bool {
        let stage = |rollout: &Self| std::mem::discriminant(&rollout.stage);
        (self.status, self.phase, &self.halt, &self.approved_by)
            == (other.status, other.phase, &other.halt, &other.approved_by)
            && stage(self) == stage(other)
    }
}
