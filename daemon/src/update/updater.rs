//! The updater: compares what is to run with what runs, and does the next step of each model's update.
//!
//! A reconciler: it wakes by a timer, by a move in the book and by the stage's counts, looks at the state alone, and may
//! do every step twice. Never decides about a release: the book does. One model's slow step holds up no other.
//!
//! A rollback needs nothing but an arrangement of lanes that are loaded already, so it waits for no file, no network and
//! no other step.

use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::backoff::{Backoff, random_unit};
use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Digest;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::book::ReleaseBook;
use super::guards::{self, Verdict};
use super::machine::{Event, ModelState, Phase};
use super::plan::{LaneWish, Work, lanes_for, work_for};
use super::release::{Cause, Reason, SelfTest};
use super::safe_mode::{Mode, SAFE_MODE_SPAN};
use super::stage::{Admit, Fetch, LaneOrder, Stage, Step, StepFailure};
use crate::lanes::{LANES_PER_MODEL, LaneCounts, LaneRole, Leaving};
use crate::store::StoredRelease;

/// How often states are looked at without a nudge: trials end by time, waits end.
const TICK: Duration = Duration::from_secs(1);
/// First and longest wait before a step that failed is done again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Arrangements in a row that the stage refuses before the candidate in them is taken for unfit.
const REFUSED_ARRANGEMENTS_MAX: u32 = 3;

/// What runs in a lane at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Which release.
    pub digest: Digest,
    /// What for.
    pub role: LaneRole,
}

/// What runs in the lanes of a model.
pub type RunningLanes = [Option<Running>; LANES_PER_MODEL];

/// What the updater works with.
pub struct UpdaterParts<S: Stage> {
    /// The states.
    pub book: Arc<ReleaseBook>,
    /// The files.
    pub fetch: Arc<dyn Fetch<S::Package>>,
    /// The self-test.
    pub admit: Arc<dyn Admit<S::Package>>,
    /// The models in order of the configuration, with what runs in their lanes.
    pub models: Vec<(String, RunningLanes)>,
    /// True once the updater is to end.
    pub stopping: watch::Receiver<bool>,
}

/// Finds what the lanes of a model begin with: opens what its state wants to run, and has the state fall back where
/// files are damaged. Needs no network.
pub async fn first_lanes<P>(
    book: &ReleaseBook,
    fetch: &dyn Fetch<P>,
    model: &str,
) -> [Option<(LaneRole, P)>; LANES_PER_MODEL] {
    let mut lanes = [const { None }; LANES_PER_MODEL];
    // Each failure takes one release out of at most three.
    for _ in 0..=LANES_PER_MODEL + 1 {
        lanes = [const { None }; LANES_PER_MODEL];
        let mut is_whole = true;
        for (lane, wish) in lanes.iter_mut().zip(lanes_for(&book.state(model), book.mode())) {
            let Some(LaneWish { release, role }) = wish else { continue };
            match open(book, fetch, model, release.digest).await {
                Ok(package) => *lane = Some((role, package)),
                Err(failure) => {
                    is_whole = false;
                    report_unopened(book, model, release.digest, failure);
                }
            }
        }
        if is_whole {
            break;
        }
    }
    lanes
}

async fn open<P>(
    book: &ReleaseBook,
    fetch: &dyn Fetch<P>,
    model: &str,
    digest: Digest,
) -> Result<P, StepFailure> {
    match book.release(model, &digest) {
        Ok(Some(stored)) => fetch.open(model, &stored).await,
        Ok(None) => Err(StepFailure::Damaged("its manifest is not kept".to_owned())),
        Err(error) => Err(StepFailure::Later(Chain(&error).to_string())),
    }
}

/// Tells the book that files which were here cannot be used.
fn report_unopened(book: &ReleaseBook, model: &str, digest: Digest, failure: StepFailure) {
    let is_candidate = book.state(model).candidate.is_some_and(|c| c.release.digest == digest);
    let event = match (failure, is_candidate) {
        // What was good and is refused for once is tried again: the board may be short of memory.
        (StepFailure::Later(detail), _) | (StepFailure::Bad(_, detail), false) => {
            Event::Delayed { digest, detail }
        }
        (StepFailure::Bad(reason, detail), true) => Event::Failed { digest, reason, detail },
        (StepFailure::Damaged(detail), true) => {
            Event::Failed { digest, reason: Reason::SelfTest(SelfTest::Load), detail }
        }
        (StepFailure::Damaged(detail), false) => Event::Damaged { digest, detail },
    };
    tell(book, model, &event);
}

fn tell(book: &ReleaseBook, model: &str, event: &Event) {
    if let Err(error) = book.apply(model, event) {
        tracing::warn!(model, error = %Chain(&error), "a step of an update is not taken; it is done again");
    }
}

/// What a step is for, so that one that is not wanted any more is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Fetch(Digest),
    Admit(Digest),
    Load { lane: usize, digest: Digest },
    Arrange,
}

/// What a step gave.
enum Gave<S: Stage> {
    Package(S::Package),
    Admitted,
    Fill(S::Fill),
    Arranged(RunningLanes),
}

struct Done<S: Stage> {
    model: usize,
    task: Task,
    gave: Result<Gave<S>, StepFailure>,
}

/// The candidate's phase on live readings, as it is watched.
struct Watched {
    digest: Digest,
    phase: Phase,
    lane: usize,
    since: Instant,
}

/// A model's update in this run of the daemon.
struct Course<S: Stage> {
    name: String,
    running: RunningLanes,
    /// A model that is loaded for a lane and not yet in it.
    loaded: Option<(usize, Digest, S::Fill)>,
    /// The candidate's package, kept from its fetching to its loading.
    package: Option<(Digest, S::Package)>,
    tasks: Vec<(Task, tokio::task::AbortHandle)>,
    /// The step that was wanted last.
    wanted: Option<Task>,
    watched: Option<Watched>,
    /// Counts of these epochs belong to earlier arrangements.
    stale: [Option<u64>; LANES_PER_MODEL],
    backoff: Backoff,
    retry_at: Option<Instant>,
    refused: u32,
}

/// The updater.
pub struct Updater<S: Stage> {
    parts: UpdaterParts<S>,
    stage: Arc<S>,
    courses: Vec<Course<S>>,
    steps: JoinSet<Done<S>>,
    counts: watch::Receiver<Vec<LaneCounts>>,
    started: Instant,
}

impl<S: Stage> Updater<S> {
    /// Returns an updater for the models as they run at present.
    #[must_use]
    pub fn new(mut parts: UpdaterParts<S>, stage: S) -> Self {
        let course = |(name, running)| Course {
            name,
            running,
            loaded: None,
            package: None,
            tasks: Vec::new(),
            wanted: None,
            watched: None,
            stale: [None; LANES_PER_MODEL],
            backoff: Backoff::new(RETRY.0, RETRY.1),
            retry_at: None,
            refused: 0,
        };
        let courses = std::mem::take(&mut parts.models).into_iter().map(course).collect();
        let counts = stage.counts();
        parts.book.follow(counts.clone());
        let (steps, started) = (JoinSet::new(), Instant::now());
        Self { parts, stage: Arc::new(stage), courses, steps, counts, started }
    }

    /// Runs until told to stop. Steps that are not done then are dropped: the next run does them again.
    pub async fn run(mut self) {
        let mut moves = self.parts.book.moves();
        let mut stopping = self.parts.stopping.clone();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut has_stage = true;
        self.look();
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => break,
                _ = moves.changed() => self.look(),
                changed = self.counts.changed(), if has_stage => {
                    has_stage = changed.is_ok();
                    self.judge();
                }
                Some(done) = self.steps.join_next(), if !self.steps.is_empty() => {
                    match done {
                        Ok(done) => self.take(done),
                        Err(broken) => self.take_broken(broken.id()),
                    }
                    self.look();
                }
                _ = ticks.tick() => {
                    self.end_safe_mode();
                    self.parts.book.store_again();
                    self.judge();
                    self.look();
                }
            }
        }
        self.steps.shutdown().await;
    }

    fn end_safe_mode(&self) {
        if self.parts.book.mode() == Mode::Safe
            && self.started.elapsed() >= SAFE_MODE_SPAN
            && let Err(error) = self.parts.book.leave_safe_mode()
        {
            tracing::warn!(error = %Chain(&error), "safe mode goes on: its end cannot be stored");
        }
    }

    /// Does the next step of every model.
    fn look(&mut self) {
        for model in 0..self.courses.len() {
            let mode = self.parts.book.mode();
            let mut state = self.parts.book.state(&self.courses[model].name);
            if let Some(Work::Begin(release)) = work_for(&state, mode) {
                let name = &self.courses[model].name;
                tell(&self.parts.book, name, &Event::Begin { digest: release.digest });
                state = self.parts.book.state(name);
            }
            self.arrange(model, &state, mode);
            self.work(model, &state, mode);
            self.courses[model].watch(&state);
        }
    }

    /// Judges the candidates that run by what they did.
    fn judge(&mut self) {
        let counts = self.counts.borrow_and_update().clone();
        let rules = self.parts.book.rules();
        for (model, course) in self.courses.iter().enumerate() {
            let Some(watched) = &course.watched else { continue };
            let lane = watched.lane;
            let Some(counts) = counts.get(model * LANES_PER_MODEL + lane) else { continue };
            if course.stale[lane] == Some(counts.epoch) {
                continue;
            }
            let elapsed = watched.since.elapsed();
            let trial = watched.phase == Phase::Trial;
            let judge = if trial { guards::judge_trial } else { guards::judge_shadow };
            // The book is asked where it would move alone: counts change with every batch.
            if judge(&rules.update, counts, elapsed) != Verdict::Wait {
                let Watched { digest, phase, .. } = *watched;
                let event = Event::Observed { digest, phase, elapsed, counts: *counts };
                tell(&self.parts.book, &course.name, &event);
            }
        }
    }

    /// Fetches or tests, if the state wants that and it is not being done.
    fn work(&mut self, model: usize, state: &ModelState, mode: Mode) {
        let work = work_for(state, mode);
        let wanted = work.as_ref().and_then(|work| match work {
            Work::Fetch(release) => Some(Task::Fetch(release.digest)),
            Work::Admit(release) => Some(Task::Admit(release.digest)),
            Work::Begin(_) => None,
        });
        let course = &mut self.courses[model];
        course.stop_tasks(|task| matches!(task, Task::Fetch(_) | Task::Admit(_)) && Some(*task) != wanted);
        if course.wanted != wanted {
            // What failed was another step: somebody else did it.
            course.wanted = wanted;
            course.retry_at = None;
        }
        let (Some(task), Some(work)) = (wanted, work) else { return };
        if course.is_doing(task) || course.waits() {
            return;
        }
        let name = course.name.clone();
        let Some(stored) = self.stored(model, work.release().digest) else { return };
        match task {
            Task::Fetch(_) => {
                let fetched = self.parts.fetch.fetch(&name, &stored);
                self.spawn(model, task, async move { fetched.await.map(Gave::Package) });
            }
            _ => {
                let package = self.package(model, work.release().digest, &stored);
                let admit = Arc::clone(&self.parts.admit);
                self.spawn(model, task, async move {
                    admit.admit(&name, &package.await?).await.map(|()| Gave::Admitted)
                });
            }
        }
    }

    /// Brings the lanes of a model closer to what its state wants.
    fn arrange(&mut self, model: usize, state: &ModelState, mode: Mode) {
        let wanted = lanes_for(state, mode)
            .map(|wish| wish.map(|LaneWish { release, role }| Running { digest: release.digest, role }));
        let course = &mut self.courses[model];
        // What runs is known again once the stage has answered; it does so between two batches.
        if course.is_doing(Task::Arrange) {
            return;
        }
        let missing = course.missing(&wanted);
        course.stop_tasks(
            |task| matches!(task, Task::Load { lane, digest } if Some((*lane, *digest)) != missing),
        );
        if course.loaded.as_ref().is_some_and(|(lane, digest, _)| !has(&wanted, *lane, digest)) {
            course.loaded = None;
        }
        let target = match missing {
            None => Some(wanted),
            Some((lane, _)) => course.interim(&wanted, lane, state),
        };
        if let Some(target) = target
            && target != course.running
            && (missing.is_some() || !course.waits())
        {
            let orders = course.orders(&target, state);
            let counts = self.counts.borrow();
            for lane in (0..LANES_PER_MODEL).filter(|lane| target[*lane] != course.running[*lane]) {
                course.stale[lane] = counts.get(model * LANES_PER_MODEL + lane).map(|counts| counts.epoch);
            }
            drop(counts);
            let arranged = self.stage.arrange(model, orders);
            let step = async move { arranged.await.map(|()| Gave::Arranged(target)) };
            self.spawn(model, Task::Arrange, step);
        }
        if let Some((lane, digest)) = missing {
            self.load(model, lane, digest);
        }
    }

    fn load(&mut self, model: usize, lane: usize, digest: Digest) {
        let (task, course) = (Task::Load { lane, digest }, &self.courses[model]);
        if course.is_doing(task) || course.waits() {
            return;
        }
        let Some(stored) = self.stored(model, digest) else { return };
        let package = self.package(model, digest, &stored);
        let stage = Arc::clone(&self.stage);
        self.spawn(
            model,
            task,
            async move { stage.load(model, lane, &package.await?).await.map(Gave::Fill) },
        );
    }

    /// Returns a release with its proof; has the state do without one that is not kept.
    fn stored(&mut self, model: usize, digest: Digest) -> Option<StoredRelease> {
        let name = &self.courses[model].name;
        let failure = match self.parts.book.release(name, &digest) {
            Ok(Some(stored)) => return Some(stored),
            Ok(None) => StepFailure::Damaged("its manifest is not kept".to_owned()),
            Err(error) => StepFailure::Later(Chain(&error).to_string()),
        };
        self.courses[model].wait();
        report_unopened(&self.parts.book, &self.courses[model].name, digest, failure);
        None
    }

    /// Returns a release's package: the one at hand, or opened again.
    fn package(&self, model: usize, digest: Digest, stored: &StoredRelease) -> Step<S::Package> {
        let course = &self.courses[model];
        match &course.package {
            Some((at_hand, package)) if *at_hand == digest => {
                let package = package.clone();
                Box::pin(async move { Ok(package) })
            }
            _ => self.parts.fetch.open(&course.name, stored),
        }
    }

    fn spawn(
        &mut self,
        model: usize,
        task: Task,
        step: impl Future<Output = Result<Gave<S>, StepFailure>> + Send + 'static,
    ) {
        let handle = self.steps.spawn(async move { Done { model, task, gave: step.await } });
        self.courses[model].tasks.push((task, handle));
    }

    /// Notes what a step gave.
    fn take(&mut self, Done { model, task, gave }: Done<S>) {
        let course = &mut self.courses[model];
        let Some(position) = course.tasks.iter().position(|(doing, _)| *doing == task) else {
            // It was stopped when it was done already.
            return;
        };
        course.tasks.swap_remove(position);
        match (task, gave) {
            (_, Err(failure)) => return self.take_failure(model, task, failure),
            (Task::Fetch(digest), Ok(Gave::Package(package))) => {
                course.package = Some((digest, package));
                tell(&self.parts.book, &course.name, &Event::Verified { digest });
            }
            (Task::Admit(digest), Ok(Gave::Admitted)) => {
                tell(&self.parts.book, &course.name, &Event::Admitted { digest });
            }
            (Task::Load { lane, digest }, Ok(Gave::Fill(fill))) => course.loaded = Some((lane, digest, fill)),
            (Task::Arrange, Ok(Gave::Arranged(lanes))) => {
                course.running = lanes;
                course.refused = 0;
            }
            // Each kind of step gives its own kind of result.
            (_, Ok(_)) => {}
        }
        let course = &mut self.courses[model];
        course.backoff.reset();
        course.retry_at = None;
    }

    /// Forgets a step that panicked, to do it again; one that was stopped is forgotten already.
    fn take_broken(&mut self, id: tokio::task::Id) {
        for course in &mut self.courses {
            if let Some(position) = course.tasks.iter().position(|(_, handle)| handle.id() == id) {
                course.tasks.swap_remove(position);
                course.wait();
            }
        }
    }

    fn take_failure(&mut self, model: usize, task: Task, failure: StepFailure) {
        let course = &mut self.courses[model];
        course.wait();
        match task {
            Task::Fetch(digest) | Task::Admit(digest) | Task::Load { digest, .. } => {
                tracing::warn!(model = course.name, %digest, %failure, "a step of an update failed");
                report_unopened(&self.parts.book, &course.name, digest, failure);
            }
            Task::Arrange => {
                tracing::warn!(model = course.name, %failure, "lanes are not arranged");
                course.refused += 1;
                let state = self.parts.book.state(&course.name);
                let candidate = state.candidate.filter(|candidate| candidate.phase.runs());
                if let (Some(candidate), true) = (candidate, course.refused >= REFUSED_ARRANGEMENTS_MAX) {
                    let digest = candidate.release.digest;
                    let detail = "it does not fit the configuration it would run in".to_owned();
                    let event = Event::Failed { digest, reason: Reason::Incompatible, detail };
                    tell(&self.parts.book, &course.name, &event);
                }
            }
        }
    }
}

impl<S: Stage> Course<S> {
    fn is_doing(&self, task: Task) -> bool {
        self.tasks.iter().any(|(doing, _)| *doing == task)
    }

    fn stop_tasks(&mut self, unwanted: impl Fn(&Task) -> bool) {
        let mut stopped = false;
        self.tasks.retain(|(task, handle)| {
            let stop = unwanted(task);
            if stop {
                handle.abort();
                stopped = true;
            }
            !stop
        });
        // What failed belonged to another release.
        if stopped {
            self.retry_at = None;
        }
    }

    fn wait(&mut self) {
        self.retry_at = Some(Instant::now() + self.backoff.next_wait(random_unit()));
    }

    fn waits(&self) -> bool {
        self.retry_at.is_some_and(|at| Instant::now() < at)
    }

    /// Returns the first release that is to run in a lane and is neither there nor loaded for it.
    fn missing(&self, wanted: &RunningLanes) -> Option<(usize, Digest)> {
        wanted.iter().enumerate().find_map(|(lane, wish)| {
            let digest = wish.as_ref()?.digest;
            let loaded = self.loaded.as_ref().is_some_and(|(l, d, _)| (*l, *d) == (lane, digest));
            (!has(&self.running, lane, &digest) && !loaded).then_some((lane, digest))
        })
    }

    /// Returns how lanes are to be until what is missing is loaded; `None`: as they are.
    fn interim(&self, wanted: &RunningLanes, missing: usize, state: &ModelState) -> Option<RunningLanes> {
        let is_serving = wanted[missing].is_some_and(|wish| wish.role == LaneRole::Serving);
        let server = self.running.iter().flatten().find(|running| running.role == LaneRole::Serving);
        let may_stay = server.is_some_and(|server| leaves_in_order(state, &server.digest));
        if is_serving && may_stay {
            return None;
        }
        let mut lanes = *wanted;
        // What is loaded for the other lane waits too: it is arranged with the rest.
        for (lane, wish) in lanes.iter_mut().enumerate() {
            if wish.is_some_and(|wish| !has(&self.running, lane, &wish.digest)) {
                *wish = None;
            }
        }
        Some(lanes)
    }

    /// Takes what is loaded into the orders for the stage.
    fn orders(&mut self, target: &RunningLanes, state: &ModelState) -> [LaneOrder<S::Fill>; LANES_PER_MODEL] {
        let mut lane = 0;
        target.map(|wish| {
            let (running, own) = (self.running[lane], lane);
            lane += 1;
            let leaving = match running {
                Some(running) if !leaves_in_order(state, &running.digest) => Leaving::Abandon,
                _ => Leaving::Drain,
            };
            let Some(wish) = wish else { return LaneOrder::Empty(leaving) };
            if running.is_some_and(|running| running.digest == wish.digest) {
                return LaneOrder::Keep(wish.role);
            }
            match self.loaded.take_if(|(l, digest, _)| (*l, *digest) == (own, wish.digest)) {
                Some((_, _, fill)) => LaneOrder::Fill(wish.role, fill),
                None => LaneOrder::Empty(leaving),
            }
        })
    }

    /// Watches the candidate from the moment when it has its role.
    fn watch(&mut self, state: &ModelState) {
        let seen = state.candidate.as_ref().and_then(|candidate| {
            let role = match candidate.phase {
                Phase::Shadow => LaneRole::Shadow,
                Phase::Trial => LaneRole::Serving,
                _ => return None,
            };
            let running = Some(Running { digest: candidate.release.digest, role });
            let lane = self.running.iter().position(|lane| *lane == running)?;
            Some((candidate.release.digest, candidate.phase, lane))
        });
        let known = self.watched.as_ref().map(|watched| (watched.digest, watched.phase, watched.lane));
        if seen != known {
            self.watched =
                seen.map(|(digest, phase, lane)| Watched { digest, phase, lane, since: Instant::now() });
        }
    }
}

fn has(lanes: &RunningLanes, lane: usize, digest: &Digest) -> bool {
    lanes[lane].is_some_and(|running| running.digest == *digest)
}

/// Tells whether a release's open windows are worth running, and it may serve until another can.
fn leaves_in_order(state: &ModelState, digest: &Digest) -> bool {
    let by_people = [Cause::Operator, Cause::Fleet].map(Reason::RolledBack);
    state.badness(digest).is_none_or(|bad| by_people.contains(&bad.reason))
}

#[cfg(test)]
#[path = "updater/tests.rs"]
mod tests;
