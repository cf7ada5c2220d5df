//! The book of releases: every model's state in memory and on disk, moved by one event at a time.
//!
//! Stores a transition before anybody sees it, and tells those who wait that something moved; never acts on it. Slots
//! ask it before each start, the updater reports to it, the status socket reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Digest;
use tokio::sync::watch;

use super::active_copy;
use super::machine::{Candidate, Event, Floor, Intent, ModelState, Outcome, Refusal, Rules, next_state};
use super::plan::kept_releases;
use super::report::{ModelsReport, RollbackReport};
use super::safe_mode::{Mode, StartRecord};
use crate::lanes::{LANES_PER_MODEL, LaneCounts};
use crate::slot::TryLedger;
use crate::slot::ledger::START_REFUSED;
use crate::store::state::StateHealth;
use crate::store::{LastStop, StateDatabase, StoreError, StoredModels, StoredRelease};

/// Longest reason an operator may give, in characters.
const OPERATOR_CHARS_MAX: usize = 200;

/// Why the book did not take an event.
#[derive(Debug)]
pub enum BookError {
    /// `state.db` is lost: releases go on running, none is taken.
    StateLost(String),
    /// The transition could not be stored; the state before stands.
    Store(StoreError),
    /// No model of this name is configured.
    UnknownModel(String),
}

impl fmt::Display for BookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StateLost(why) => {
                write!(
                    f,
                    "state_lost: `state.db` cannot be used ({why}); models keep running, no update is taken"
                )
            }
            Self::Store(_) => f.write_str("the release's next step cannot be stored"),
            Self::UnknownModel(model) => write!(f, "no model `{}` is configured", model.escape_debug()),
        }
    }
}

impl std::error::Error for BookError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::StateLost(_) | Self::UnknownModel(_) => None,
        }
    }
}

impl From<StoreError> for BookError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

struct Pages {
    database: StateDatabase,
    models: BTreeMap<String, ModelState>,
    starts: StartRecord,
    rules: Rules,
    configured: Vec<String>,
    /// What the lanes do.
    counts: Option<watch::Receiver<Vec<LaneCounts>>>,
    /// Models that left a release in memory alone.
    unsaved: BTreeSet<String>,
    /// Active releases by their copies, where `state.db` is lost.
    copies: BTreeMap<String, StoredRelease>,
    /// Why no update is taken although the states are known.
    trust_lost: Option<String>,
}

/// The book; shared by all who move or read releases.
pub struct ReleaseBook {
    pages: Mutex<Pages>,
    state_dir: PathBuf,
    moved: watch::Sender<u64>,
}

impl ReleaseBook {
    /// Opens the book at the daemon's start, and takes that start into account.
    ///
    /// *Errors*: `state.db` holds what was never written, or cannot be written.
    pub fn open(
        database: StateDatabase,
        state_dir: &Path,
        rules: Rules,
        configured: Vec<String>,
    ) -> Result<Self, StoreError> {
        let (stop, start) = (database.last_stop(), database.starts());
        let lost = matches!(database.health(), StateHealth::Lost(_));
        let starts = database.start_record()?.after_start(stop, &clock::boot_id(), clock::monotonic_micros());
        let models = database.model_states()?;
        let pages = Pages {
            database,
            models,
            starts,
            rules,
            configured: Vec::new(),
            counts: None,
            unsaved: BTreeSet::new(),
            copies: BTreeMap::new(),
            trust_lost: None,
        };
        let book =
            Self { pages: Mutex::new(pages), state_dir: state_dir.to_owned(), moved: watch::channel(0).0 };
        {
            let pages = &mut *book.lock();
            pages.database.save_start_record(&pages.starts)?;
            if pages.starts.mode == Mode::Safe {
                tracing::error!("safe mode: three starts did not become ready; only good releases run");
            }
            let names: Vec<String> = pages.models.keys().cloned().collect();
            for model in names {
                book.move_on(pages, &model, &Event::Boot { start, stop }, None)?;
                book.copy_active(pages, &model);
            }
            if lost {
                pages.recover(&book.state_dir, &configured);
            }
        }
        book.configure(rules, configured);
        Ok(book)
    }

    /// Takes over the rules and model names of a configuration.
    pub fn configure(&self, rules: Rules, configured: Vec<String>) {
        let pages = &mut *self.lock();
        pages.rules = rules;
        pages.configured = configured;
    }

    /// Returns a channel that changes whenever a release moved.
    #[must_use]
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Returns a model's state; an empty one for a model without releases.
    #[must_use]
    pub fn state(&self, model: &str) -> ModelState {
        self.lock().models.get(model).cloned().unwrap_or_default()
    }

    /// Returns the configured models with their states, and the daemon's starts: what is in memory alone.
    #[must_use]
    pub fn states(&self) -> StoredModels {
        let pages = self.lock();
        let state = |model: &String| pages.models.get(model).cloned().unwrap_or_default();
        let models = pages.configured.iter().map(|model| (model.clone(), state(model))).collect();
        StoredModels { models, starts: pages.starts.clone(), ..StoredModels::default() }
    }

    /// Returns the configured models with their states, the daemon's starts, and what imports said of releases.
    #[must_use]
    pub fn models(&self) -> StoredModels {
        let states = self.states();
        let pages = self.lock();
        let refusals = pages.database.refusals().unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), "what imports refused cannot be read");
            Vec::new()
        });
        let withdrawn = pages.database.withdrawn().unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), "which releases are withdrawn cannot be read");
            BTreeSet::new()
        });
        StoredModels { refusals, withdrawn, ..states }
    }

    /// Returns the floor of each model, for the judgement of what is offered.
    #[must_use]
    pub fn floors(&self) -> BTreeMap<String, u64> {
        let pages = self.lock();
        pages.models.iter().map(|(model, state)| (model.clone(), state.floor.counter)).collect()
    }

    /// Returns the rules in force.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.lock().rules
    }

    /// Returns why no update is taken, where that is so: `state.db` is lost, or what was trusted.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        self.lock().refuses_updates()
    }

    /// Takes no more updates: it is not known any more what was trusted. What runs goes on.
    pub fn refuse_updates(&self, why: &str) {
        self.lock().trust_lost = Some(why.to_owned());
    }

    /// Returns the releases whose files stay on disk: of models that are not configured at present, too.
    #[must_use]
    pub fn kept(&self) -> BTreeSet<Digest> {
        self.lock().models.values().flat_map(kept_releases).collect()
    }

    /// Returns a release with its proof.
    ///
    /// *Errors*: `state.db` cannot be read.
    pub fn release(&self, model: &str, digest: &Digest) -> Result<Option<StoredRelease>, StoreError> {
        let pages = self.lock();
        let copy = pages.copies.get(model).filter(|copy| copy.release.digest == *digest);
        copy.map_or_else(|| pages.database.release(model, digest), |copy| Ok(Some(copy.clone())))
    }

    /// Tells whether a release's proof may stand on the root with this SHA-256: it was trusted here, or nobody knows any
    /// more what was; then what runs is the copy that was kept, and stands on itself.
    ///
    /// *Errors*: `state.db` cannot be read.
    pub fn accepts_root(&self, sha256: &Digest) -> Result<bool, StoreError> {
        let pages = self.lock();
        if pages.refuses_updates().is_some() {
            return Ok(true);
        }
        pages.database.has_root(sha256)
    }

    /// Takes a release that a verified statement names.
    ///
    /// *Errors*: `state_lost`, unknown model, or it could not be stored.
    pub fn offer(&self, model: &str, offered: &StoredRelease, intent: Intent) -> Result<Outcome, BookError> {
        let event = Event::Offer { release: offered.release.clone(), intent };
        self.take(model, &event, Some(offered))
    }

    /// Takes what happened to a model's release.
    ///
    /// *Errors*: unknown model, or the transition could not be stored; the state before stands.
    pub fn apply(&self, model: &str, event: &Event) -> Result<Outcome, BookError> {
        self.take(model, event, None)
    }

    /// Takes the operator's wish to leave what runs.
    ///
    /// *Errors*: as [`ReleaseBook::apply`].
    pub fn roll_back(&self, model: &str, reason: Option<&str>) -> Result<Outcome, BookError> {
        let detail: String = reason.unwrap_or("no reason given").chars().take(OPERATOR_CHARS_MAX).collect();
        match self.state(model).rollback_from().map(|release| release.digest) {
            Some(from) => self.apply(model, &Event::Rollback { from, detail }),
            None => self.require_known(model).map(|()| Outcome::Refused(Refusal::NothingToGoBackTo)),
        }
    }

    /// Takes the operator's wish to leave what runs, and says what came of it.
    ///
    /// *Errors*: the transition could not be stored.
    pub fn roll_back_for_operator(
        &self,
        model: &str,
        reason: Option<&str>,
    ) -> Result<RollbackReport, BookError> {
        let left = self.state(model).rollback_from().cloned();
        let outcome = match self.roll_back(model, reason) {
            Err(BookError::UnknownModel(_)) => return Ok(RollbackReport::UnknownModel),
            other => other?,
        };
        let serving = self.state(model).serving().cloned();
        Ok(match (outcome, left) {
            (Outcome::Changed, Some(left)) => RollbackReport::Left { left, serving },
            _ => RollbackReport::Nothing,
        })
    }

    /// Takes the counts of the lanes over into reports, for as long as their sender lives.
    pub fn follow(&self, counts: watch::Receiver<Vec<LaneCounts>>) {
        self.lock().counts = Some(counts);
    }

    /// Returns what `dunlind models` shows.
    #[must_use]
    pub fn report(&self) -> ModelsReport {
        let stored = self.models();
        let pages = self.lock();
        let counts = pages.counts.as_ref().map(|counts| counts.borrow().clone()).unwrap_or_default();
        // Lanes are numbered by the configuration, reports are sorted by name.
        let of_name = stored.models.keys().flat_map(|name| {
            let number = pages.configured.iter().position(|model| model == name);
            let of_lane = |lane| counts.get(number? * LANES_PER_MODEL + lane).copied();
            (0..LANES_PER_MODEL).map(move |lane| of_lane(lane).unwrap_or_default()).collect::<Vec<_>>()
        });
        let counts: Vec<LaneCounts> = of_name.collect();
        let report = ModelsReport::of(&stored, &counts, Some(pages.rules.tries));
        ModelsReport { state_lost: pages.refuses_updates(), ..report }
    }

    /// Returns whether candidates may run.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.lock().starts.mode
    }

    /// Notes that the daemon is ready.
    ///
    /// *Errors*: it was not stored: the start counts as failed.
    pub fn note_ready(&self) -> Result<(), StoreError> {
        let pages = &mut *self.lock();
        pages.note_starts(pages.starts.after_ready())
    }

    /// Ends safe mode, after a long run or by the operator's command.
    ///
    /// *Errors*: it was not stored, and goes on.
    pub fn leave_safe_mode(&self) -> Result<(), StoreError> {
        {
            let pages = &mut *self.lock();
            if pages.starts.mode == Mode::Normal {
                return Ok(());
            }
            pages.note_starts(pages.starts.after_safe_mode())?;
        }
        tracing::info!("safe mode ends: candidates run again");
        self.tell();
        Ok(())
    }

    /// Returns how the daemon stopped the last time.
    #[must_use]
    pub fn last_stop(&self) -> LastStop {
        self.lock().database.last_stop()
    }

    /// Records that the daemon stopped in order.
    ///
    /// *Errors*: the database cannot be written; the next start checks more than it needs to.
    pub fn mark_clean(&self) -> Result<(), StoreError> {
        self.lock().database.mark_clean()
    }

    /// Stores what could not be stored when it happened.
    pub fn store_again(&self) {
        let pages = &mut *self.lock();
        for model in std::mem::take(&mut pages.unsaved) {
            let stored = pages.models.get(&model).map(|state| pages.database.save_model(&model, state, None));
            if let Some(Err(_)) = stored {
                pages.unsaved.insert(model);
            }
        }
    }

    /// Returns the candidate with this digest, where its starts are tries: those of the only release there is are counted
    /// like a good one's.
    fn tried(&self, model: &str, digest: &Digest) -> Option<Candidate> {
        let state = self.state(model);
        let is_alone = state.is_alone();
        state.candidate.filter(|candidate| candidate.release.digest == *digest && !is_alone)
    }

    fn require_known(&self, model: &str) -> Result<(), BookError> {
        let known = self.lock().configured.iter().any(|name| name == model);
        if known { Ok(()) } else { Err(BookError::UnknownModel(model.to_owned())) }
    }

    fn take(
        &self,
        model: &str,
        event: &Event,
        offered: Option<&StoredRelease>,
    ) -> Result<Outcome, BookError> {
        self.require_known(model)?;
        let pages = &mut *self.lock();
        if let (Some(why), Some(_)) = (pages.refuses_updates(), offered) {
            return Err(BookError::StateLost(why));
        }
        Ok(self.move_on(pages, model, event, offered)?)
    }

    fn move_on(
        &self,
        pages: &mut Pages,
        model: &str,
        event: &Event,
        offered: Option<&StoredRelease>,
    ) -> Result<Outcome, StoreError> {
        let before = pages.models.get(model).cloned().unwrap_or_default();
        let (after, outcome) = next_state(&before, event, &pages.rules, clock::wall_micros());
        if after == before {
            return Ok(outcome);
        }
        if pages.lost().is_none() {
            let offered = offered.filter(|_| outcome == Outcome::Changed);
            match pages.database.save_model(model, &after, offered) {
                Ok(()) => drop(pages.unsaved.remove(model)),
                // A full card does not keep a bad release running: at worst the next start tries it once more.
                Err(error) if after.bad.len() > before.bad.len() => {
                    tracing::warn!(model, error = %Chain(&error), "a rollback is not stored yet");
                    pages.unsaved.insert(model.to_owned());
                }
                Err(error) => return Err(error),
            }
        }
        log_move(model, &before, &after, &outcome);
        let has_new_active = before.active != after.active;
        pages.models.insert(model.to_owned(), after);
        if has_new_active {
            self.copy_active(pages, model);
        }
        self.tell();
        Ok(outcome)
    }

    /// Keeps the copy in step; one that is behind only costs a gateway whose `state.db` is lost its newest model.
    fn copy_active(&self, pages: &Pages, model: &str) {
        if pages.lost().is_some() {
            return;
        }
        let active = pages.models.get(model).and_then(|state| state.active.as_ref());
        let active = active.map(|release| pages.database.release(model, &release.digest)).transpose();
        let copied =
            active.map_err(|error| Chain(&error).to_string()).map(Option::flatten).and_then(|active| {
                active_copy::write(&self.state_dir, model, active.as_ref()).map_err(|e| e.to_string())
            });
        if let Err(error) = copied {
            tracing::warn!(model, error, "the copy of the active release is not up to date");
        }
    }

    fn tell(&self) {
        self.moved.send_modify(|moves| *moves = moves.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn lost(&self) -> Option<String> {
        match self.database.health() {
            StateHealth::Lost(why) => Some(why.clone()),
            StateHealth::Kept => None,
        }
    }

    fn refuses_updates(&self) -> Option<String> {
        self.lost().or_else(|| self.trust_lost.clone())
    }

    fn note_starts(&mut self, starts: StartRecord) -> Result<(), StoreError> {
        if starts != self.starts {
            self.database.save_start_record(&starts)?;
            self.starts = starts;
        }
        Ok(())
    }

    /// Finds what was good by its copies, where `state.db` is lost.
    fn recover(&mut self, state_dir: &Path, configured: &[String]) {
        for model in configured {
            match active_copy::read(state_dir, model) {
                Ok(Some(copy)) => {
                    let release = copy.release.clone();
                    tracing::warn!(model, %release, "state_lost: goes on with the copy of the active release");
                    let floor = Floor { counter: release.counter, digest: Some(release.digest) };
                    let state = ModelState { active: Some(release), floor, ..ModelState::default() };
                    self.models.insert(model.clone(), state);
                    self.copies.insert(model.clone(), copy);
                }
                Ok(None) => tracing::error!(model, "state_lost: no release of the model is known"),
                Err(error) => {
                    tracing::error!(model, %error, "state_lost: the copy of the active release cannot be read");
                }
            }
        }
    }
}

impl TryLedger for ReleaseBook {
    fn record_start(&self, model: &str, digest: &Digest) -> u32 {
        let Some(candidate) = self.tried(model, digest) else {
            let bad = self.state(model).badness(digest).is_some();
            if bad {
                return START_REFUSED;
            }
            return self.lock().database.record_start(model, &digest.to_string()).unwrap_or_else(|error| {
                tracing::warn!(model, error = %Chain(&error), "starts cannot be counted");
                1
            });
        };
        let attempt = candidate.tries_used + 1;
        match self.apply(model, &Event::Start { digest: *digest, attempt }) {
            Ok(Outcome::Changed) if self.state(model).badness(digest).is_none() => attempt,
            Ok(_) => START_REFUSED,
            // Not counted, not run: a trial that cannot be stored could be begun without end.
            Err(error) => {
                tracing::warn!(model, error = %Chain(&error), "a candidate waits: its start cannot be stored");
                START_REFUSED
            }
        }
    }

    fn record_ready(&self, model: &str, digest: &Digest) {
        // A candidate's tries are not given back when it loads: it may crash at the first reading, each time.
        if self.tried(model, digest).is_some() {
            return;
        }
        if let Err(error) = self.lock().database.record_ready(model, &digest.to_string()) {
            tracing::warn!(model, error = %Chain(&error), "starts cannot be counted");
        }
    }
}

/// Says once what moved.
fn log_move(model: &str, before: &ModelState, after: &ModelState, outcome: &Outcome) {
    for bad in after.bad.iter().filter(|bad| !before.bad.contains(bad)) {
        let (code, detail) = (bad.reason.code(), &bad.detail);
        tracing::warn!(model, release = %bad.release, code, detail, "release is bad");
    }
    if before.active != after.active {
        match &after.active {
            Some(release) => tracing::info!(model, %release, "release is the active one"),
            None => tracing::error!(model, "no release of the model is left to run"),
        }
    }
    let phase = |state: &ModelState| state.candidate.as_ref().map(|c| (c.release.digest, c.phase));
    if let (Some(candidate), true) = (&after.candidate, phase(before) != phase(after)) {
        tracing::info!(model, release = %candidate.release, phase = candidate.phase.as_str(), "release moves on");
    }
    if let Outcome::Refused(refusal) = outcome {
        tracing::warn!(model, code = refusal.code(), "release is refused: {refusal}");
    }
}

#[cfg(test)]
#[path = "book/tests.rs"]
mod tests;
