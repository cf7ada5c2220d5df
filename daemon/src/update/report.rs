//! What `dunlind models` shows of each model's releases, as one value that is also its JSON form.
//!
//! Made from the states alone, with the stage's counts beside them where the daemon runs; decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_kit::digest::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::machine::{BadRelease, ModelState};
use super::plan::lanes_for;
use super::release::Release;
use super::safe_mode::Mode;
use crate::lanes::{LANES_PER_MODEL, LaneCounts};
use crate::store::StoredModels;
use crate::store::trust::KeptRefusal;

/// All models of a gateway.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelsReport {
    /// Whether the daemon answered; else the report is what it stored last.
    pub running: bool,
    /// Whether safe mode keeps candidates from running.
    pub safe_mode: bool,
    /// Starts in a row that did not become ready, the present one included until it is.
    #[serde(default)]
    pub unready_starts: u32,
    /// Why `state.db` is lost, where it is: then no update is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_lost: Option<String>,
    /// What the last imports refused, by check.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedReport>,
    /// By the models' configured names.
    pub models: BTreeMap<String, ModelReport>,
}

/// What an import refused; gone once the same check passes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefusedReport {
    /// `metadata` for the import as a whole, or `model/` with a model's name.
    pub check: String,
    /// The code.
    pub code: String,
    /// The file, role or model that it is about.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
    /// When, as RFC 3339 by the clock as it stood.
    pub at: Option<String>,
}

/// One model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// `absent`, the candidate's phase, or `good`.
    pub phase: String,
    /// When a release last moved, as RFC 3339 by the clock as it stood.
    pub since: Option<String>,
    /// The release that serves.
    pub serving: Option<Release>,
    /// The last good one.
    pub active: Option<Release>,
    /// The good one before, for rollback.
    pub previous: Option<Release>,
    /// The one that is being tried.
    pub candidate: Option<CandidateReport>,
    /// The lowest release counter that is taken is one above.
    pub floor: u64,
    /// What runs in the lanes.
    pub lanes: Vec<LaneReport>,
    /// Of these releases, those that the newest trusted metadata do not name any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<Release>,
    /// Releases that failed, oldest first.
    pub bad: Vec<BadReport>,
    /// What came of the last intent or candidate.
    pub last: Option<String>,
}

/// A release that is being tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// Which.
    pub release: Release,
    /// How far it has come.
    pub phase: String,
    /// Starts of its worker in this phase.
    pub tries_used: u32,
    /// Starts that are left, where the daemon runs and knows how many there are.
    pub tries_left: Option<u32>,
}

/// A lane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneReport {
    /// Its number, 0 or 1.
    pub lane: usize,
    /// `serving`, `shadow` or `standby`.
    pub role: String,
    /// What runs in it.
    pub release: Release,
    /// What it did since it has its role, where the daemon runs.
    pub counts: Option<CountsReport>,
}

/// What a lane did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CountsReport {
    /// Windows that were answered.
    pub predictions: u64,
    /// Of these: outputs not finite or not of the declared shape.
    pub invalid: u64,
    /// Of these: the model could not be run.
    pub failed: u64,
    /// Of these: slower than the budget.
    pub slow: u64,
    /// Of these: the model abstained.
    #[serde(default)]
    pub abstained: u64,
    /// Shadow predictions that were compared.
    pub compared: u64,
    /// Of these: agreed with the serving model.
    pub agreed: u64,
    /// Largest relative difference of an output.
    pub difference_max: f64,
    /// Windows whose time from submission to answer was measured.
    #[serde(default)]
    pub timed: u64,
    /// Median of it in microseconds.
    #[serde(default)]
    pub p50_us: u64,
    /// 99th percentile of it in microseconds.
    #[serde(default)]
    pub p99_us: u64,
}

/// A release that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BadReport {
    /// Which.
    pub release: Release,
    /// The code of the reason.
    pub code: String,
    /// What exactly was seen.
    pub detail: String,
    /// When, as RFC 3339 by the clock as it stood.
    pub at: Option<String>,
}

impl ModelsReport {
    /// Returns the report of stored states; the counts by lane and the candidates' tries are the running daemon's.
    #[must_use]
    pub fn of(stored: &StoredModels, counts: &[LaneCounts], tries: Option<u32>) -> Self {
        let mode = stored.starts.mode;
        let report = |(position, (name, state)): (usize, (&String, &ModelState))| {
            let counts = counts.get(position * LANES_PER_MODEL..).unwrap_or_default();
            let mut report = ModelReport::of(state, mode, counts, tries);
            report.note_withdrawn(&stored.withdrawn);
            (name.clone(), report)
        };
        Self {
            running: tries.is_some(),
            safe_mode: mode == Mode::Safe,
            unready_starts: stored.starts.unready,
            state_lost: None,
            refused: stored.refusals.iter().map(RefusedReport::of).collect(),
            models: stored.models.iter().enumerate().map(report).collect(),
        }
    }
}

impl ModelReport {
    fn of(state: &ModelState, mode: Mode, counts: &[LaneCounts], tries: Option<u32>) -> Self {
        let ModelState { active, previous, candidate, bad, floor, since_us, last, .. } = state;
        let phase = match (candidate, active) {
            (Some(candidate), _) => candidate.phase.as_str(),
            (None, Some(_)) => "good",
            (None, None) => "absent",
        };
        let lanes = lanes_for(state, mode).into_iter().enumerate().filter_map(|(lane, wish)| {
            let wish = wish?;
            let counts = counts.get(lane).map(CountsReport::of);
            Some(LaneReport { lane, role: wish.role.as_str().to_owned(), release: wish.release, counts })
        });
        let candidate = candidate.as_ref().map(|candidate| CandidateReport {
            release: candidate.release.clone(),
            phase: candidate.phase.as_str().to_owned(),
            tries_used: candidate.tries_used,
            tries_left: tries.map(|tries| tries.saturating_sub(candidate.tries_used)),
        });
        let has_moved = active.is_some() || candidate.is_some() || !bad.is_empty();
        let lanes: Vec<LaneReport> = lanes.collect();
        Self {
            phase: phase.to_owned(),
            since: (has_moved && *since_us > 0).then(|| time(*since_us)).flatten(),
            serving: lanes.iter().find(|lane| lane.role == "serving").map(|lane| lane.release.clone()),
            active: active.clone(),
            previous: previous.clone(),
            candidate,
            floor: floor.counter,
            lanes,
            withdrawn: Vec::new(),
            bad: bad.iter().map(BadReport::of).collect(),
            last: last.clone(),
        }
    }

    fn note_withdrawn(&mut self, withdrawn: &BTreeSet<Digest>) {
        let candidate = self.candidate.as_ref().map(|candidate| &candidate.release);
        let known = [self.active.as_ref(), self.previous.as_ref(), candidate].into_iter().flatten();
        self.withdrawn = known.filter(|release| withdrawn.contains(&release.digest)).cloned().collect();
    }
}

impl RefusedReport {
    fn of(kept: &KeptRefusal) -> Self {
        let KeptRefusal { subject, code, object, reason, at_us } = kept.clone();
        Self { check: subject, code, object, reason, at: time(at_us) }
    }
}

impl CountsReport {
    fn of(counts: &LaneCounts) -> Self {
        Self {
            predictions: counts.predictions,
            invalid: counts.invalid,
            failed: counts.failed,
            slow: counts.slow,
            abstained: counts.abstained,
            compared: counts.compared,
            agreed: counts.agreed,
            difference_max: counts.difference_max,
            timed: counts.latencies.count(),
            p50_us: counts.latencies.percentile_us(50),
            p99_us: counts.latencies.percentile_us(99),
        }
    }
}

impl BadReport {
    fn of(bad: &BadRelease) -> Self {
        Self {
            release: bad.release.clone(),
            code: bad.reason.code().to_owned(),
            detail: bad.detail.clone(),
            // The moment tells one failure from the next.
            at: Timestamp::from_millisecond(bad.at_us.div_euclid(1_000)).ok().map(|at| at.to_string()),
        }
    }
}

fn time(us: i64) -> Option<String> {
    let time = Timestamp::from_second(us.div_euclid(1_000_000)).ok()?;
    Some(time.to_string())
}

/// What came of the operator's wish to go back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackReport {
    /// The release was left.
    Left {
        /// Which.
        left: Release,
        /// What serves in its place; nothing after a first release was left.
        serving: Option<Release>,
    },
    /// There is no release to go back to.
    Nothing,
    /// No such model is configured.
    UnknownModel,
}
