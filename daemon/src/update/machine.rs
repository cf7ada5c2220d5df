//! The life of a model's releases on this gateway, as a pure machine: absent, fetching, verified, admitted, shadow,
//! trial, good, or bad for a reason.
//!
//! Does no input or output and reads no clock: what happened is an [`Event`], what it leads to a new [`ModelState`], to be
//! stored before anything acts on it. Every event may come twice; one that does not fit is refused and changes nothing.
//!
//! What is to run and to be done follows from the state alone: see `plan`.

mod event;

use std::time::Duration;

use dunlin_kit::digest::Digest;

pub use event::{Event, Outcome, Refusal};

use super::guards::{self, Verdict};
use super::release::{Cause, Reason, Release, SelfTest};
use crate::config::settings::UpdateSettings;
use crate::lanes::{LANES_PER_MODEL, LaneCounts};
use crate::store::LastStop;

/// Bad releases that are remembered of a model. Forgetting one is safe: below the floor it is refused as a downgrade,
/// above it is tried once more.
pub const BAD_RELEASES_MAX: usize = 16;
/// Longest explanation that is kept.
const DETAIL_CHARS_MAX: usize = 300;

/// How far a candidate has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its files are being fetched and checked.
    Fetching,
    /// All its files are here, with the hashes that were signed.
    Verified,
    /// A worker ran its golden vectors within its budgets.
    Admitted,
    /// It runs beside the active release; nothing is published.
    Shadow,
    /// It serves.
    Trial,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 5] = [Self::Fetching, Self::Verified, Self::Admitted, Self::Shadow, Self::Trial];

    /// Returns the phase's text in the store, `dunlind models` and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Verified => "verified",
            Self::Admitted => "admitted",
            Self::Shadow => "shadow",
            Self::Trial => "trial",
        }
    }

    /// Returns the phase with this text.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }

    /// Tells whether the candidate's worker runs on live readings.
    #[must_use]
    pub const fn runs(self) -> bool {
        matches!(self, Self::Shadow | Self::Trial)
    }
}

/// A release on its way to being good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub release: Release,
    /// How far it has come.
    pub phase: Phase,
    /// Starts of its worker in this phase: stored before each start.
    pub tries_used: u32,
}

/// A release that is not tried again unless the operator says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRelease {
    /// Which.
    pub release: Release,
    /// Why.
    pub reason: Reason,
    /// What exactly was seen.
    pub detail: String,
    /// When, by the wall clock as it stood, in microseconds since 1970.
    pub at_us: i64,
}

/// The highest release that was good: nothing below it is taken from anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// Its counter; 0 before the first.
    pub counter: u64,
    /// Its digest.
    pub digest: Option<Digest>,
}

/// Everything that is known of a model's releases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelState {
    /// The last good release: it serves, unless a trial does.
    pub active: Option<Release>,
    /// The good one before, kept for rollback.
    pub previous: Option<Release>,
    /// The one being tried.
    pub candidate: Option<Candidate>,
    /// Those that failed, oldest first; at most [`BAD_RELEASES_MAX`].
    pub bad: Vec<BadRelease>,
    /// Below it nothing is taken.
    pub floor: Floor,
    /// The lane of the active release; a candidate takes the other.
    pub lane: usize,
    /// Number of the daemon's start that was taken into account last.
    pub start: u64,
    /// When a release last moved, by the wall clock as it stood, in microseconds since 1970.
    pub since_us: i64,
    /// What came of the last intent or candidate, for people.
    pub last: Option<String>,
}

/// How strongly a release is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// The owner or director names it.
    Desired,
    /// The operator wants it tried again although it failed.
    Retry,
}

/// By which rules releases are judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// How releases are tried.
    pub update: UpdateSettings,
    /// Starts that a candidate's worker has in a phase.
    pub tries: u32,
}

/// Returns the state after an event and what came of it; `now_us` is the wall clock, for people alone.
#[must_use]
pub fn next_state(state: &ModelState, event: &Event, rules: &Rules, now_us: i64) -> (ModelState, Outcome) {
    let mut next = state.clone();
    let outcome = next.take(event, rules, now_us);
    if outcome == Outcome::Changed && next.arranged() != state.arranged() {
        next.since_us = now_us;
    }
    (next, outcome)
}

impl ModelState {
    /// Returns the release that serves or is to serve, the trial's before the active one.
    #[must_use]
    pub fn serving(&self) -> Option<&Release> {
        match &self.candidate {
            Some(candidate) if candidate.phase == Phase::Trial => Some(&candidate.release),
            _ => self.active.as_ref(),
        }
    }

    /// Returns the release that a rollback by the operator leaves: a candidate that runs, else the active one.
    #[must_use]
    pub fn rollback_from(&self) -> Option<&Release> {
        let running = self.candidate.as_ref().filter(|candidate| candidate.phase.runs());
        running.map(|candidate| &candidate.release).or(self.active.as_ref())
    }

    /// Returns why a release is bad, where it is.
    #[must_use]
    pub fn badness(&self, digest: &Digest) -> Option<&BadRelease> {
        self.bad.iter().find(|bad| bad.release.digest == *digest)
    }

    /// Returns the release that was good, whose files are damaged, and that may be fetched again.
    #[must_use]
    pub fn damaged(&self) -> Option<&Release> {
        let bad = self.badness(self.floor.digest.as_ref()?)?;
        (bad.reason == Reason::Damaged).then_some(&bad.release)
    }

    /// Tells whether a trial has nothing to go back to. Ending it would leave the gateway without any model, so it serves
    /// on, and becomes good once it passes; what takes the gateway down with it is left to safe mode.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.active.is_none() && self.candidate.as_ref().is_some_and(|c| c.phase == Phase::Trial)
    }

    /// Returns what of the state says which releases are where.
    fn arranged(&self) -> (Option<Digest>, Option<Digest>, Option<(Digest, Phase)>) {
        let digest = |release: &Option<Release>| release.as_ref().map(|release| release.digest);
        let candidate = self.candidate.as_ref().map(|candidate| (candidate.release.digest, candidate.phase));
        (digest(&self.active), digest(&self.previous), candidate)
    }

    fn take(&mut self, event: &Event, rules: &Rules, now_us: i64) -> Outcome {
        let candidate = self.candidate.as_ref().map(|candidate| (candidate.release.digest, candidate.phase));
        match (candidate, event) {
            (_, Event::Boot { start, .. }) if *start <= self.start => Outcome::Unchanged,
            (_, Event::Boot { start, stop }) => self.boot(*start, *stop, rules, now_us),
            (_, Event::Offer { release, intent }) => self.offer(release, *intent),
            (Some((own, Phase::Fetching)), Event::Verified { digest }) if own == *digest => {
                self.advance(Phase::Verified)
            }
            (None, Event::Verified { digest }) if self.damaged().is_some_and(|d| d.digest == *digest) => {
                self.restore(digest)
            }
            (Some((own, Phase::Verified)), Event::Admitted { digest }) if own == *digest => {
                self.advance(Phase::Admitted)
            }
            (Some((own, Phase::Admitted)), Event::Begin { digest }) if own == *digest => self.begin(rules),
            (Some((own, phase)), Event::Start { digest, attempt }) if own == *digest && phase.runs() => {
                self.start_worker(*attempt, rules, now_us)
            }
            (Some((own, now)), Event::Observed { digest, phase, elapsed, counts })
                if own == *digest && now == *phase && now.runs() =>
            {
                self.observe(counts, *elapsed, rules, now_us)
            }
            (Some((own, _)), Event::Failed { digest, reason, detail }) if own == *digest => {
                self.end_candidate(*reason, detail, now_us)
            }
            (Some((own, _)), Event::Delayed { digest, detail }) if own == *digest => self.note(detail),
            (_, Event::Damaged { digest, detail }) if is(&self.active, digest) => {
                self.leave_active(Reason::Damaged, detail, now_us)
            }
            (Some((own, phase)), Event::Rollback { from, detail }) if own == *from && phase.runs() => {
                self.end_candidate(Reason::RolledBack(Cause::Operator), detail, now_us)
            }
            (_, Event::Rollback { from, .. }) if is(&self.active, from) && self.previous.is_none() => {
                Outcome::Refused(Refusal::NothingToGoBackTo)
            }
            (_, Event::Rollback { from, detail }) if is(&self.active, from) => {
                self.leave_active(Reason::RolledBack(Cause::Operator), detail, now_us)
            }
            (_, Event::Withdraw { digest, detail }) => self.withdraw(digest, detail, now_us),
            (_, _) => Outcome::Refused(Refusal::OutOfTurn),
        }
    }

    /// What is taken back is left for the good one before it; where there is none, what was good goes on, as with an
    /// operator's wish.
    fn withdraw(&mut self, digest: &Digest, detail: &str, now_us: i64) -> Outcome {
        let reason = Reason::RolledBack(Cause::Fleet);
        if self.candidate.as_ref().is_some_and(|candidate| candidate.release.digest == *digest) {
            return self.end_candidate(reason, detail, now_us);
        }
        if is(&self.active, digest) && self.previous.is_none() {
            return Outcome::Refused(Refusal::NothingToGoBackTo);
        }
        if is(&self.active, digest) {
            return self.leave_active(reason, detail, now_us);
        }
        if let Some(release) = self.previous.take_if(|previous| previous.digest == *digest) {
            self.condemn(release, reason, detail, now_us);
            return Outcome::Changed;
        }
        // It is gone already, or was never here.
        Outcome::Unchanged
    }

    /// A start that the gateway did not survive stays counted; one that ended in order is given back, since the start
    /// that follows takes it again.
    fn boot(&mut self, start: u64, stop: LastStop, rules: &Rules, now_us: i64) -> Outcome {
        self.start = start;
        let alone = self.is_alone();
        let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.phase.runs()) else {
            return Outcome::Changed;
        };
        match stop {
            LastStop::Clean => candidate.tries_used = candidate.tries_used.saturating_sub(1),
            LastStop::Unclean if candidate.tries_used >= rules.tries && !alone => {
                let reason = match candidate.phase {
                    Phase::Trial => Reason::RolledBack(Cause::Restart),
                    _ => Reason::SelfTest(SelfTest::Shadow),
                };
                let detail = format!("the gateway went down {} times while it ran", candidate.tries_used);
                return self.end_candidate(reason, &detail, now_us);
            }
            LastStop::Unclean => {}
        }
        Outcome::Changed
    }

    fn offer(&mut self, release: &Release, intent: Intent) -> Outcome {
        let is_candidate =
            self.candidate.as_ref().is_some_and(|candidate| candidate.release.digest == release.digest);
        if is(&self.active, &release.digest) || is_candidate {
            return Outcome::Unchanged;
        }
        let was_floor = self.floor.digest == Some(release.digest);
        let refusal = if release.counter <= self.floor.counter && !was_floor {
            Some(Refusal::Downgrade { offered: release.counter, floor: self.floor.counter })
        } else if let (Some(bad), Intent::Desired) = (self.badness(&release.digest), intent) {
            Some(Refusal::KnownBad(bad.reason))
        } else {
            let newer = self.candidate.as_ref().filter(|c| c.release.counter >= release.counter);
            newer.map(|candidate| Refusal::Superseded { by: candidate.release.counter })
        };
        if let Some(refusal) = refusal {
            self.note(&format!("{release}: {refusal}"));
            return Outcome::Refused(refusal);
        }
        self.bad.retain(|bad| bad.release.digest != release.digest);
        // What serves alone goes on until the newer one may: it is what there is to go back to, and raises no floor.
        if self.is_alone() {
            self.active = self.candidate.take().map(|candidate| candidate.release);
            self.lane = (self.lane + 1) % LANES_PER_MODEL;
        }
        self.candidate = Some(Candidate { release: release.clone(), phase: Phase::Fetching, tries_used: 0 });
        Outcome::Changed
    }

    /// Takes a good release whose files were damaged, and are here again, through all checks once more.
    fn restore(&mut self, digest: &Digest) -> Outcome {
        let Some(position) = self.bad.iter().position(|bad| bad.release.digest == *digest) else {
            return Outcome::Refused(Refusal::OutOfTurn);
        };
        let release = self.bad.remove(position).release;
        self.candidate = Some(Candidate { release, phase: Phase::Verified, tries_used: 0 });
        Outcome::Changed
    }

    fn advance(&mut self, phase: Phase) -> Outcome {
        if let Some(candidate) = &mut self.candidate {
            candidate.phase = phase;
            candidate.tries_used = 0;
        }
        Outcome::Changed
    }

    fn begin(&mut self, rules: &Rules) -> Outcome {
        let alone = self.active.is_none();
        self.advance(if alone || rules.update.shadow_predictions == 0 { Phase::Trial } else { Phase::Shadow })
    }

    fn start_worker(&mut self, attempt: u32, rules: &Rules, now_us: i64) -> Outcome {
        let alone = self.is_alone();
        let Some(candidate) = &mut self.candidate else { return Outcome::Unchanged };
        if attempt <= candidate.tries_used {
            return Outcome::Unchanged;
        }
        if attempt > candidate.tries_used.saturating_add(1) {
            return Outcome::Refused(Refusal::OutOfTurn);
        }
        if attempt <= rules.tries || alone {
            candidate.tries_used = attempt;
            return Outcome::Changed;
        }
        let reason = match candidate.phase {
            Phase::Trial => Reason::RolledBack(Cause::Crash),
            _ => Reason::SelfTest(SelfTest::Shadow),
        };
        let detail = format!("its worker ended {} times", candidate.tries_used);
        self.end_candidate(reason, &detail, now_us)
    }

    fn observe(&mut self, counts: &LaneCounts, elapsed: Duration, rules: &Rules, now_us: i64) -> Outcome {
        let trial = self.candidate.as_ref().is_some_and(|candidate| candidate.phase == Phase::Trial);
        let judge = if trial { guards::judge_trial } else { guards::judge_shadow };
        let seen = || {
            let LaneCounts { predictions, invalid, failed, slow, compared, agreed, .. } = counts;
            format!(
                "of {predictions} predictions {invalid} were invalid, {failed} failed, {slow} were slow; {agreed} of \
                 {compared} agreed"
            )
        };
        match judge(&rules.update, counts, elapsed) {
            Verdict::Wait => Outcome::Unchanged,
            Verdict::Pass if trial => self.confirm(),
            Verdict::Pass => self.promote(),
            Verdict::Fail(cause) if self.is_alone() => self.note(&format!(
                "it would be {}, and there is nothing to go back to",
                Reason::RolledBack(cause)
            )),
            Verdict::Fail(cause) if trial => self.end_candidate(Reason::RolledBack(cause), &seen(), now_us),
            Verdict::Fail(_) | Verdict::Disagrees => {
                self.end_candidate(Reason::SelfTest(SelfTest::Shadow), &seen(), now_us)
            }
        }
    }

    /// The only place where the floor rises.
    fn confirm(&mut self) -> Outcome {
        let Some(candidate) = self.candidate.take() else { return Outcome::Unchanged };
        let release = candidate.release;
        if release.counter >= self.floor.counter {
            self.floor = Floor { counter: release.counter, digest: Some(release.digest) };
        }
        self.note(&format!("{release}: good"));
        self.previous = self.active.replace(release);
        self.lane = (self.lane + 1) % LANES_PER_MODEL;
        Outcome::Changed
    }

    fn end_candidate(&mut self, reason: Reason, detail: &str, now_us: i64) -> Outcome {
        if let Some(candidate) = self.candidate.take() {
            self.condemn(candidate.release, reason, detail, now_us);
        }
        Outcome::Changed
    }

    fn leave_active(&mut self, reason: Reason, detail: &str, now_us: i64) -> Outcome {
        if let Some(release) = self.active.take() {
            self.active = self.previous.take();
            // The lane it leaves is the one that a running candidate does not have.
            let beside = self.candidate.as_ref().is_some_and(|candidate| candidate.phase.runs());
            if self.active.is_some() && !beside {
                self.lane = (self.lane + 1) % LANES_PER_MODEL;
            }
            self.condemn(release, reason, detail, now_us);
        }
        let shadow = self.candidate.as_ref().is_some_and(|candidate| candidate.phase == Phase::Shadow);
        if self.active.is_none() && shadow {
            self.promote();
        }
        Outcome::Changed
    }

    /// The worker that ran beside goes on: that is the trial's first try.
    fn promote(&mut self) -> Outcome {
        self.advance(Phase::Trial);
        self.candidate.iter_mut().for_each(|candidate| candidate.tries_used = 1);
        Outcome::Changed
    }

    fn condemn(&mut self, release: Release, reason: Reason, detail: &str, now_us: i64) {
        let detail: String = detail.chars().take(DETAIL_CHARS_MAX).collect();
        self.note(&format!("{release}: {reason}: {detail}"));
        self.bad.retain(|bad| bad.release.digest != release.digest);
        if self.bad.len() >= BAD_RELEASES_MAX {
            let below = self.bad.iter().position(|bad| bad.release.counter <= self.floor.counter);
            self.bad.remove(below.unwrap_or(0));
        }
        self.bad.push(BadRelease { release, reason, detail, at_us: now_us });
    }

    fn note(&mut self, text: &str) -> Outcome {
        let text: String = text.chars().take(2 * DETAIL_CHARS_MAX).collect();
        if self.last.as_ref() == Some(&text) {
            return Outcome::Unchanged;
        }
        self.last = Some(text);
        Outcome::Changed
    }
}

fn is(release: &Option<Release>, digest: &Digest) -> bool {
    release.as_ref().is_some_and(|release| release.digest == *digest)
}

#[cfg(test)]
#[path = "machine/tests.rs"]
mod tests;
