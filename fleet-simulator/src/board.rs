//! What a simulated gateway runs: it does as it is ordered, step by step, and reports what became of it.
//!
//! Pure: nothing is fetched and no model runs. A manner says how a release fares; the first release of a slot is always
//! good, so that there is something to go back to.

use std::collections::BTreeMap;

use dunlin_protocol::enrolment::Facts;
use dunlin_protocol::exchange::{Defer, ExchangeAnswer};
use dunlin_protocol::health::{Activity, Counts, Latency};
use dunlin_protocol::report::{
    BadRelease, Budget, Candidate, ClockState, DeviceReport, Disk, Lane, LaneRole, ModelPhase, ModelReport,
    Release, SettingsReport, SettingsState,
};
use dunlin_protocol::text::Text;
use dunlin_protocol::{Digest, ExchangeRequest, List, Name, Words};

use crate::order::Order;

/// How a gateway takes releases after its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// All goes well.
    #[default]
    Good,
    /// The golden vectors do not match.
    FailsGolden,
    /// The worker crashes while it serves on trial.
    CrashesInTrial,
    /// It answers differently from the one before.
    Disagrees,
    /// Good, and slower than the one before by nine times.
    Slow,
    /// Good, and of a hundred predictions ten are not finite.
    Invalid,
    /// Good, but its settings must stay as they are.
    RefusesSettings,
}

/// The way of a candidate; what comes after the last is good.
const WAY: [ModelPhase; 5] =
    [ModelPhase::Fetching, ModelPhase::Verified, ModelPhase::Admitted, ModelPhase::Shadow, ModelPhase::Trial];
const VERIFIED: usize = 1;
const SHADOW: usize = 3;
const TRIAL: usize = 4;

impl Manner {
    /// Returns at which step of its way a candidate fails, with the code of the cause.
    const fn failure(self) -> Option<(usize, &'static str)> {
        match self {
            Self::FailsGolden => Some((VERIFIED, "selftest:golden")),
            Self::Disagrees => Some((SHADOW, "selftest:shadow")),
            Self::CrashesInTrial => Some((TRIAL, "rolled_back:crash")),
            Self::Good | Self::Slow | Self::Invalid | Self::RefusesSettings => None,
        }
    }
}

/// A slot.
#[derive(Debug, Clone, Default)]
struct Slot {
    active: Option<Release>,
    previous: Option<Release>,
    candidate: Option<(Release, usize)>,
    wanted: Option<Release>,
    bad: Vec<BadRelease>,
    /// The first release, which is good in any manner.
    first: Option<Digest>,
    predictions: BTreeMap<Digest, u64>,
}

/// What a gateway runs, and what it was told.
#[derive(Debug, Clone, Default)]
pub struct Board {
    /// How it takes releases.
    pub manner: Manner,
    /// How often it was told to run a release that it was not told to run before, by digest.
    pub moves: BTreeMap<Digest, u32>,
    /// How often it fetched each release.
    pub fetched: BTreeMap<Digest, u32>,
    /// The revision of what it is to run.
    pub revision: u64,
    /// The version of the last statement.
    pub version: u64,
    /// Its wish to be left alone.
    pub defer: Option<Defer>,
    /// The settings that it was offered last: revision and digest.
    pub settings: Option<(u64, Digest)>,
    /// Releases that it knows by their manifests.
    pub known: BTreeMap<Digest, Release>,
    slots: BTreeMap<String, Slot>,
    report_known: Option<Digest>,
}

impl Board {
    /// Returns a gateway whose configuration wants these models, and which runs nothing.
    #[must_use]
    pub fn of_models<'m>(models: impl IntoIterator<Item = &'m str>) -> Self {
        let slots = models.into_iter().map(|model| (model.to_owned(), Slot::default()));
        Self { slots: slots.collect(), ..Self::default() }
    }

    /// Has it run a release already.
    pub fn install(&mut self, release: Release) {
        self.learn(release.clone());
        let slot = self.slots.entry(release.model.as_str().to_owned()).or_default();
        slot.first = Some(release.digest);
        slot.active = Some(release);
    }

    /// Makes a release known to it, as far as a gateway knows one by its manifest.
    pub fn learn(&mut self, release: Release) {
        self.known.insert(release.digest, release);
    }

    /// Returns what runs in a slot.
    #[must_use]
    pub fn runs(&self, slot: &str) -> Option<&Release> {
        self.slots.get(slot)?.active.as_ref()
    }

    /// Returns what runs, slot by slot.
    pub fn running(&self) -> impl Iterator<Item = &Release> {
        self.slots.values().filter_map(|slot| slot.active.as_ref())
    }

    /// Tells whether something is on its way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.slots.values().any(|slot| slot.candidate.is_some() || slot.next().is_some())
    }

    /// Tells whether the server knows the present report.
    #[must_use]
    pub fn is_reported(&self) -> bool {
        self.report_known == Some(self.report().digest())
    }

    /// Puts into a question what it holds, reports and counts.
    pub fn fill(&self, question: &mut ExchangeRequest) {
        question.held.desired_revision = self.revision;
        question.held.director_version = self.version;
        question.held.settings_revision = self.settings.map_or(0, |(revision, _)| revision);
        question.held.director_root = u64::from(self.version > 0);
        let report = self.report();
        question.report.digest = report.digest();
        // What the server may have from before is asked for by its digest first.
        if self.report_known != Some(question.report.digest) {
            question.report.full = Some(Box::new(report));
        }
        question.health.activity = List::first_of(self.activity());
        question.defer.clone_from(&self.defer);
    }

    /// Takes what an answer says beside a statement.
    pub fn hear(&mut self, answer: &ExchangeAnswer) {
        self.report_known = answer.report_known;
        if let Some(offer) = &answer.settings {
            self.settings = Some((offer.revision, offer.digest));
        }
    }

    /// Takes an order: what to run, and what to leave.
    pub fn obey(&mut self, order: &Order) {
        self.revision = order.revision;
        self.version = order.version;
        if !order.has_settings {
            self.settings = None;
        }
        for (name, slot) in &mut self.slots {
            if !order.chosen.iter().any(|chosen| chosen.slot == *name) {
                slot.wanted = None;
            }
        }
        for chosen in &order.chosen {
            self.known.insert(chosen.release.digest, chosen.release.clone());
            let slot = self.slots.entry(chosen.slot.clone()).or_default();
            if slot.wanted.as_ref().map(|wanted| wanted.digest) != Some(chosen.release.digest) {
                *self.moves.entry(chosen.release.digest).or_default() += 1;
            }
            slot.wanted = Some(chosen.release.clone());
        }
        self.slots.values_mut().for_each(|slot| slot.leave(&order.withdrawn));
    }

    /// Goes one step on with what it tries. `at_ms` is the gateway's own time, of a failure.
    pub fn go_on(&mut self, at_ms: i64) {
        for slot in self.slots.values_mut() {
            if let Some(fetches) = slot.go_on(self.manner, at_ms) {
                *self.fetched.entry(fetches).or_default() += 1;
            }
        }
    }

    /// Counts predictions of what runs.
    pub fn predict(&mut self, count: u64) {
        for slot in self.slots.values_mut() {
            if let Some(active) = &slot.active {
                *slot.predictions.entry(active.digest).or_default() += count;
            }
        }
    }

    /// Forgets that releases failed, as somebody does on the gateway to have them tried again.
    pub fn forget_failures(&mut self) {
        self.slots.values_mut().for_each(|slot| slot.bad.clear());
    }

    /// Returns releases that failed.
    pub fn failures(&self) -> impl Iterator<Item = &BadRelease> {
        self.slots.values().flat_map(|slot| &slot.bad)
    }

    /// Returns its facts.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts {
            gateway: Name::cut("simulated"),
            hostname: Name::cut("simulated"),
            architecture: Name::cut("aarch64"),
            board: Name::cut("Raspberry Pi 4 Model B Rev 1.4"),
            board_class: Name::cut("pi4"),
            os: Name::cut("Debian GNU/Linux 12"),
            agent: Name::cut("dunlin-simulator"),
            agent_version: Name::cut(env!("CARGO_PKG_VERSION")),
            engine: Name::cut("tract-0.23"),
            processors: 4,
            memory_bytes: 4 << 30,
            protocols: List::first_of([1]),
            models: List::first_of(self.slots.keys().map(|slot| Name::cut(slot))),
        }
    }

    /// Returns its report.
    #[must_use]
    pub fn report(&self) -> DeviceReport {
        let state = match (self.settings, self.manner) {
            (None, _) => SettingsState::Local,
            (Some(_), Manner::RefusesSettings) => SettingsState::Refused,
            (Some(_), _) => SettingsState::Confirmed,
        };
        DeviceReport {
            facts: self.facts(),
            labels: Default::default(),
            time_zone: Name::cut("Europe/Vienna"),
            settings: SettingsReport {
                digest: Digest::of(b"simulated"),
                revision: self.settings.map_or(0, |(revision, _)| revision),
                state,
                detail: None,
            },
            models: List::first_of(self.slots.iter().map(|(name, slot)| slot.report(name))),
            safe_mode: false,
            state_lost: None,
            refused: List::new(),
            budget: Budget::default(),
            disk: Disk { total_bytes: 16 << 30, quota_bytes: 1 << 30 },
            clock: ClockState::Synchronised,
        }
    }

    fn activity(&self) -> impl Iterator<Item = Activity> {
        self.slots.iter().flat_map(|(name, slot)| slot.activity(name, self.manner))
    }
}

impl Slot {
    /// Returns what is wanted and not tried yet.
    fn next(&self) -> Option<&Release> {
        let wanted = self.wanted.as_ref()?;
        let is_active = self.active.as_ref().is_some_and(|active| active.digest == wanted.digest);
        let is_bad = self.bad.iter().any(|bad| bad.release.digest == wanted.digest);
        Some(wanted).filter(|_| !is_active && !is_bad)
    }

    /// Goes a step on; returns what it begins to fetch.
    fn go_on(&mut self, manner: Manner, at_ms: i64) -> Option<Digest> {
        let Some((release, step)) = self.candidate.take() else {
            let next = self.next()?.clone();
            let digest = next.digest;
            self.candidate = Some((next, 0));
            return Some(digest);
        };
        let is_first = self.first.is_none_or(|first| first == release.digest);
        match manner.failure().filter(|(at, _)| *at == step && !is_first) {
            Some((_, code)) => self.bad.push(BadRelease {
                release,
                code: Text::cut(code),
                detail: Words::default(),
                at_ms: Some(at_ms),
            }),
            None if step < TRIAL => self.candidate = Some((release, step + 1)),
            None => {
                self.first.get_or_insert(release.digest);
                self.previous = self.active.replace(release);
            }
        }
        None
    }

    /// Leaves what is withdrawn: back without a download, since the good one before is still here.
    fn leave(&mut self, withdrawn: &[Digest]) {
        self.candidate =
            self.candidate.take().filter(|(candidate, _)| !withdrawn.contains(&candidate.digest));
        let is_withdrawn = self.active.as_ref().is_some_and(|active| withdrawn.contains(&active.digest));
        if is_withdrawn && let Some(previous) = self.previous.take() {
            self.active = Some(previous);
        }
    }

    fn report(&self, name: &str) -> ModelReport {
        let phase = match (&self.candidate, &self.active) {
            (Some((_, step)), _) => WAY[*step].clone(),
            (None, Some(_)) => ModelPhase::Good,
            (None, None) => ModelPhase::Absent,
        };
        let lane = |role, release: &Release| Lane { role, release: release.clone() };
        let serving = self.active.as_ref().map(|active| lane(LaneRole::Serving, active));
        let shadow = self.candidate.as_ref().filter(|(_, step)| *step == SHADOW);
        let shadow = shadow.map(|(release, _)| lane(LaneRole::Shadow, release));
        ModelReport {
            model: Name::cut(name),
            candidate: self.candidate.as_ref().map(|(release, _)| Candidate {
                release: release.clone(),
                phase: phase.clone(),
                tries_used: 1,
                tries_left: None,
            }),
            phase,
            since_ms: None,
            serving: self.active.clone(),
            active: self.active.clone(),
            previous: self.previous.clone(),
            floor: 0,
            lanes: List::first_of(serving.into_iter().chain(shadow)),
            bad: List::first_of(self.bad.iter().rev().take(16).rev().cloned()),
            last: None,
        }
    }

    fn activity(&self, name: &str, manner: Manner) -> impl Iterator<Item = Activity> {
        let first = self.first;
        self.predictions.iter().map(move |(digest, predictions)| {
            let is_new = first != Some(*digest);
            let invalid = if is_new && manner == Manner::Invalid { predictions / 10 } else { 0 };
            let p99_us = if is_new && manner == Manner::Slow { 900 } else { 100 };
            Activity {
                model: Name::cut(name),
                role: LaneRole::Serving,
                release: *digest,
                counts: Counts { predictions: *predictions, invalid, worker_starts: 1, ..Counts::default() },
                latency: Latency { count: *predictions, p50_us: 80, p99_us },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Chosen;

    fn release(counter: u64) -> Release {
        let digest = Digest::of(&counter.to_le_bytes());
        Release { digest, model: Name::cut("frost"), version: Name::cut("1"), counter }
    }

    fn order(release: Option<Release>, withdrawn: &[Digest]) -> Order {
        let chosen = release.map(|release| Chosen { slot: "frost".into(), release, rollout: "r".into() });
        let withdrawn = withdrawn.to_vec();
        Order {
            revision: 1,
            version: 1,
            chosen: chosen.into_iter().collect(),
            withdrawn,
            has_settings: false,
        }
    }

    /// Returns the phases until the board rests.
    fn way(board: &mut Board) -> Vec<ModelPhase> {
        let mut phases = Vec::new();
        while board.is_busy() {
            board.go_on(1);
            phases.push(board.report().models[0].phase.clone());
        }
        phases
    }

    #[test]
    fn a_release_comes_good_by_all_phases_and_a_withdrawal_goes_back_without_a_fetch() {
        let (old, new) = (release(1), release(2));
        let mut board = Board::default();
        board.install(old.clone());
        board.obey(&order(Some(new.clone()), &[]));
        let mut expected = WAY.to_vec();
        expected.push(ModelPhase::Good);
        assert_eq!(way(&mut board), expected);
        assert_eq!((board.runs("frost"), board.fetched[&new.digest]), (Some(&new), 1));
        board.obey(&order(None, &[new.digest]));
        assert_eq!((board.runs("frost"), board.is_busy()), (Some(&old), false));
        assert!(!board.fetched.contains_key(&old.digest));
    }

    #[test]
    fn each_bad_manner_fails_where_it_shows_and_the_first_release_never_does() {
        for (manner, code, steps) in [
            (Manner::FailsGolden, "selftest:golden", 3),
            (Manner::Disagrees, "selftest:shadow", 5),
            (Manner::CrashesInTrial, "rolled_back:crash", 6),
        ] {
            let mut board = Board { manner, ..Board::of_models(["frost"]) };
            board.obey(&order(Some(release(1)), &[]));
            assert_eq!(way(&mut board).last(), Some(&ModelPhase::Good));
            board.obey(&order(Some(release(2)), &[]));
            assert_eq!(way(&mut board).len(), steps, "{code}");
            assert_eq!(board.failures().map(|bad| bad.code.as_str().to_owned()).collect::<Vec<_>>(), [code]);
            assert_eq!(board.runs("frost"), Some(&release(1)));
        }
    }
}
