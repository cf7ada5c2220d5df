//! What the fleet reported, as far as a rollout asks.
//!
//! Plain values, made from the gateways' own reports. A gateway that claims nothing here runs nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::query::Labels;
use super::spec::ReleaseName;

/// A gateway is taken for offline when it was silent for so long: three exchanges of the usual metered profile.
pub const OFFLINE_MS: u64 = 15 * 60_000;

/// A gateway.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceFacts {
    /// Its labels.
    pub labels: Labels,
    /// When it was last heard of.
    pub seen_ms: u64,
    /// What its time is ahead of UTC, in minutes.
    pub utc_offset_min: i32,
    /// By model, what it runs.
    pub models: BTreeMap<String, ModelFacts>,
}

/// What a gateway reported of a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelFacts {
    /// The last good release.
    pub good: Option<String>,
    /// The release that is being tried.
    pub candidate: Option<String>,
    /// Releases that failed, with the code of the cause.
    pub bad: Vec<(String, String)>,
    /// What was counted, by release.
    pub counts: BTreeMap<String, Counts>,
}

/// What a gateway counted of a release since it has it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Predictions.
    pub predictions: u64,
    /// Of these: not finite, failed or withheld.
    pub invalid: u64,
    /// Predictions in shadow that were compared with the release before.
    pub compared: u64,
    /// Of these: agreed.
    pub agreed: u64,
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
    Bad(String),
}

impl DeviceFacts {
    /// Tells whether it was heard of of late.
    #[must_use]
    pub const fn is_online(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.seen_ms) < OFFLINE_MS
    }

    /// Returns how far it has come with a release.
    #[must_use]
    pub fn standing(&self, release: &ReleaseName) -> Standing {
        let Some(model) = self.models.get(&release.model) else { return Standing::Untouched };
        let is_it = |digest: &Option<String>| digest.as_ref() == Some(&release.digest);
        if let Some((_, cause)) = model.bad.iter().find(|(digest, _)| *digest == release.digest) {
            return Standing::Bad(cause.clone());
        }
        if is_it(&model.candidate) {
            return Standing::Underway;
        }
        if is_it(&model.good) { Standing::Good } else { Standing::Untouched }
    }

    /// Returns how far it has come with several: as far as with the one that is least far; bad if one is.
    #[must_use]
    pub fn standing_of_all(&self, releases: &[ReleaseName]) -> Standing {
        let mut found = Standing::Good;
        let mut untouched = 0;
        for release in releases {
            match self.standing(release) {
                bad @ Standing::Bad(_) => return bad,
                Standing::Underway => found = Standing::Underway,
                Standing::Untouched => untouched += 1,
                Standing::Good => {}
            }
        }
        match untouched {
            0 => found,
            _ if untouched == releases.len() => Standing::Untouched,
            _ => Standing::Underway,
        }
    }
}
