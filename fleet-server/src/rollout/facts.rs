//! What the fleet reported, as far as a rollout asks.
//!
//! Plain values, made from the gateways' own reports. A gateway that claims nothing here runs nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::query::Labels;
use super::spec::ReleaseName;

/// A gateway is not taken for offline before it was silent for so long: the server may have been away, or its link.
pub const OFFLINE_MS: u64 = 15 * 60_000;

/// A gateway.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceFacts {
    /// Its labels.
    pub labels: Labels,
    /// When it was last heard of.
    pub seen_ms: u64,
    /// After how long a silence it is taken for offline; [`OFFLINE_MS`] at least.
    pub patience_ms: u64,
    /// What its time is ahead of UTC, in minutes.
    pub utc_offset_min: i32,
    /// By model, what it runs.
    pub models: BTreeMap<String, ModelFacts>,
    /// What it made of the settings that it was sent last.
    pub settings: Option<SettingsFacts>,
    /// Its wish to be left alone for a while.
    pub deferral: Option<Deferral>,
    /// By model, which rollout chose what it is to run.
    pub intents: BTreeMap<String, Intent>,
    /// People that must approve before it is given anything.
    pub approvals: u32,
    /// By a release's digest, why it can never run it.
    pub unfit: BTreeMap<String, String>,
}

/// What a gateway reported of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelFacts {
    /// The last good release.
    pub good: Option<String>,
    /// The release that is being tried.
    pub candidate: Option<String>,
    /// Releases that failed.
    pub bad: Vec<Bad>,
    /// What was counted, by release.
    pub counts: BTreeMap<String, Counts>,
}

/// A release that failed on a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Which.
    pub digest: String,
    /// Code of the cause.
    pub cause: String,
    /// When, by the gateway's clock: tells one failure from the next.
    pub at_ms: Option<i64>,
}

/// What a gateway made of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFacts {
    /// The revision at which they were chosen for it.
    pub revision: u64,
    /// How far they have come.
    pub standing: Standing,
}

/// A gateway's wish to take an update later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferral {
    /// Until when, in ms by the server's clock.
    pub until_ms: u64,
    /// Which rollout; none for whatever comes.
    pub rollout: Option<String>,
}

/// Which rollout chose something for a gateway. The one that was started last is the greatest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Intent {
    /// When the rollout was started, in ms.
    pub started_ms: u64,
    /// Its id.
    pub rollout: String,
}

/// What a gateway counted of a release since it has it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Predictions.
    pub predictions: u64,
    /// Of these: not finite, or the model could not be run.
    pub invalid: u64,
    /// Of these: the model abstained.
    pub abstained: u64,
    /// Predictions in shadow that were compared with the release before.
    pub compared: u64,
    /// Of these: agreed.
    pub agreed: u64,
    /// Largest relative difference of an output from the release before, in shadow.
    pub difference_max: f64,
    /// Starts of the worker.
    pub starts: u64,
    /// p99 of an inference, in us.
    pub p99_us: Option<f64>,
    /// The package's budget for it, in us.
    pub p99_us_budget: Option<f64>,
}

/// The fleet at one moment, by device id.
pub type Fleet = BTreeMap<String, DeviceFacts>;

/// How far a gateway has come with a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has nothing of it.
    Untouched,
    /// It fetches or tries it.
    Underway,
    /// The release is its last good one.
    Good,
    /// It found the release bad.
    Bad {
        /// Code of the cause.
        cause: String,
        /// When, by the gateway's clock.
        at_ms: Option<i64>,
    },
}

impl DeviceFacts {
    /// Tells whether it was heard of of late.
    #[must_use]
    pub const fn is_online(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.seen_ms) < self.patience_ms()
    }

    /// Returns after how long a silence it is taken for offline.
    #[must_use]
    pub const fn patience_ms(&self) -> u64 {
        if self.patience_ms > OFFLINE_MS { self.patience_ms } else { OFFLINE_MS }
    }

    /// Returns how far it has come with a release.
    #[must_use]
    pub fn standing(&self, release: &ReleaseName) -> Standing {
        let Some(model) = self.models.get(&release.model) else { return Standing::Untouched };
        let is_it = |digest: &Option<String>| digest.as_ref() == Some(&release.digest);
        // Tried again after it failed: what it is now counts.
        if is_it(&model.candidate) {
            return Standing::Underway;
        }
        if is_it(&model.good) {
            return Standing::Good;
        }
        let newest = model.bad.iter().rev().find(|bad| bad.digest == release.digest);
        newest.map_or(Standing::Untouched, |bad| Standing::Bad { cause: bad.cause.clone(), at_ms: bad.at_ms })
    }

    /// Returns how far it has come with several releases and, where they were sent with a revision, settings: as far as
    /// with the one that is least far; bad if one is.
    #[must_use]
    pub fn standing_of_all(&self, releases: &[ReleaseName], settings_revision: Option<u64>) -> Standing {
        let mut standings: Vec<Standing> = releases.iter().map(|release| self.standing(release)).collect();
        if let Some(revision) = settings_revision {
            let of_these = self.settings.as_ref().filter(|settings| settings.revision == revision);
            standings.push(of_these.map_or(Standing::Untouched, |settings| settings.standing.clone()));
        }
        if let Some(bad) = standings.iter().find(|standing| matches!(standing, Standing::Bad { .. })) {
            return bad.clone();
        }
        if standings.iter().all(|standing| *standing == Standing::Untouched) {
            return Standing::Untouched;
        }
        let is_good = standings.iter().all(|standing| *standing == Standing::Good);
        if is_good { Standing::Good } else { Standing::Underway }
    }
}
