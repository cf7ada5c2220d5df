//! What follows from a model's state: what runs in its lanes, what is to be done next, what is kept on disk.
//!
//! Pure and without memory, so that carrying it out twice does no harm; never looks at what runs at present. The
//! updater compares it with that, by a timer and at every change.

use dunlin_kit::digest::Digest;

use super::machine::{ModelState, Phase};
use super::release::Release;
use super::safe_mode::Mode;
use crate::lanes::{LANES_PER_MODEL, LaneRole};

/// What a lane is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneWish {
    /// Which release.
    pub release: Release,
    /// What for.
    pub role: LaneRole,
}

/// The next step of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Bring all files of the release here and check them against what was signed.
    Fetch(Release),
    /// Run its golden vectors in a worker, within its budgets.
    Admit(Release),
    /// Let it run on live readings.
    Begin(Release),
}

impl Work {
    /// Returns the release that it is about.
    #[must_use]
    pub const fn release(&self) -> &Release {
        match self {
            Self::Fetch(release) | Self::Admit(release) | Self::Begin(release) => release,
        }
    }
}

/// Returns what each lane of a model is to run. A release keeps its lane from shadow to good and as long as it serves.
#[must_use]
pub fn lanes_for(state: &ModelState, mode: Mode) -> [Option<LaneWish>; LANES_PER_MODEL] {
    let mut lanes = [const { None }; LANES_PER_MODEL];
    let wish = |release: &Release, role| Some(LaneWish { release: release.clone(), role });
    let own = state.lane % LANES_PER_MODEL;
    let other = (own + 1) % LANES_PER_MODEL;
    let running = state.candidate.as_ref().filter(|c| c.phase.runs() && mode == Mode::Normal);
    let trial = running.is_some_and(|candidate| candidate.phase == Phase::Trial);
    if let Some(active) = &state.active {
        lanes[own] = wish(active, if trial { LaneRole::Standby } else { LaneRole::Serving });
    }
    if let Some(candidate) = running {
        lanes[other] = wish(&candidate.release, if trial { LaneRole::Serving } else { LaneRole::Shadow });
    }
    lanes
}

/// Returns the next step of a model's update; `None` where it rests or only live readings decide. In safe mode releases
/// are fetched and nothing of a candidate is run.
#[must_use]
pub fn work_for(state: &ModelState, mode: Mode) -> Option<Work> {
    let Some(candidate) = &state.candidate else {
        return state.damaged().cloned().map(Work::Fetch);
    };
    let release = candidate.release.clone();
    match (candidate.phase, mode) {
        (Phase::Fetching, _) => Some(Work::Fetch(release)),
        (Phase::Verified, Mode::Normal) => Some(Work::Admit(release)),
        (Phase::Admitted, Mode::Normal) => Some(Work::Begin(release)),
        (Phase::Shadow | Phase::Trial, _) | (_, Mode::Safe) => None,
    }
}

/// Returns the releases whose files stay on disk.
#[must_use]
pub fn kept_releases(state: &ModelState) -> Vec<Digest> {
    let candidate = state.candidate.as_ref().map(|candidate| &candidate.release);
    let kept = [state.active.as_ref(), state.previous.as_ref(), candidate, state.damaged()];
    kept.into_iter().flatten().map(|release| release.digest).collect()
}
