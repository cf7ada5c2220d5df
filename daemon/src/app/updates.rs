//! Updates over the daemon's life: the book of releases, the importer, and what joins them.
//!
//! Opened before the first stage, so that a configured release serves from the first reading on; outlives reloads. What an
//! import finds goes into the book, what the book says of it goes back to whoever waits. Decides nothing about a release.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Package;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::lane_control::{LaneControl, LaneStart, LaneStarts};
use super::update_parts::{ReleaseFiles, SelfTests, failure_of, p99_budget};
use crate::command::CommandError;
use crate::config::settings::Settings;
use crate::lanes::{LANES_PER_MODEL, LaneCounts};
use crate::link::meter::Meter;
use crate::link::server_clock::ServerClock;
use crate::slot::TryLedger;
use crate::store::fleet::read_life;
use crate::store::{FolderLock, StateDatabase, TrustStore};
use crate::update::blobs::BlobStore;
use crate::update::book::{BookError, ReleaseBook};
use crate::update::clean_up::sweep_unused;
use crate::update::direct::stored;
use crate::update::import_desk::{Again, ImportDesk};
use crate::update::importer::{ImportEvent, ImportSettings, Importer};
use crate::update::live_stage::LiveStage;
use crate::update::machine::{Event, Intent, ModelState, Outcome, Phase, Rules};
use crate::update::plan::{Work, work_for};
use crate::update::refusal::Refusal;
use crate::update::release::Reason;
use crate::update::stage::{Fetch, LaneOrder, Stage, Step};
use crate::update::updater::{Running, RunningLanes, Updater, UpdaterParts, first_lanes};

/// Events of the importer that wait.
const EVENTS: usize = 32;
/// How long the start waits for configured releases to be verified and tested: messages wait with their broker meanwhile.
/// Longer ones go on beside the stages.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// The parts that outlive a generation.
pub(crate) struct Updates {
    /// What runs, what is tried, what never again.
    pub(crate) book: Arc<ReleaseBook>,
    /// Where imports are handed in.
    pub(crate) desk: Arc<ImportDesk>,
    /// The fleet server's time.
    pub(crate) clock: Arc<ServerClock>,
    /// Bytes by purpose.
    pub(crate) meter: Arc<Meter>,
    files: Arc<ReleaseFiles>,
    import_settings: Arc<Mutex<ImportSettings>>,
    /// Where the gateway was enrolled when the daemon started.
    server: Option<String>,
    worker_program: PathBuf,
    courier: Option<JoinHandle<()>>,
}

/// A running updater; it ends when told so.
pub(crate) struct RunningUpdater {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl RunningUpdater {
    /// Ends the updater; what it was doing is done again by the next one.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

impl Updates {
    /// Opens the book, takes up what was kept and starts the importer.
    ///
    /// *Errors*: `state.db` cannot be used although it can be read, or the system gives no thread.
    pub(crate) fn open(
        lock: &FolderLock,
        settings: &Settings,
        worker_program: PathBuf,
    ) -> Result<Self, CommandError> {
        let failed = |error| CommandError::failed("cannot use `state.db`", error);
        let database = StateDatabase::open(lock).map_err(failed)?;
        let book = ReleaseBook::open(database, &settings.state_dir, rules(settings), names(settings))
            .map_err(failed)?;
        let book = Arc::new(book);
        let (desk, jobs) = ImportDesk::new();
        let desk = Arc::new(desk);
        let server = enrolled_at(&settings.state_dir);
        let (clock, meter) = (Arc::<ServerClock>::default(), Arc::<Meter>::default());
        let import_settings = Arc::new(Mutex::new(ImportSettings::of(settings, server.as_deref())));
        let importer = match trusted(&book, lock) {
            Ok(mut store) => {
                offer_kept(&book, &store);
                sweep_unused(&book, &mut store, &settings.state_dir, settings.storage.free_bytes_min);
                Some(store)
            }
            // What runs goes on; why nothing new is taken is in the log, in `models` and the answer to an import.
            Err(why) => {
                tracing::error!(why, "state_lost: updates are refused");
                book.refuse_updates(&why);
                desk.close(Refusal::state_lost(why));
                None
            }
        };
        let blobs = BlobStore::path_in(&settings.state_dir);
        let files = Arc::new(ReleaseFiles::new(Arc::clone(&desk), blobs, Arc::clone(&book)));
        let courier = importer
            .map(|store| -> Result<_, CommandError> {
                let (events, received) = mpsc::channel(EVENTS);
                let settings = Arc::clone(&import_settings);
                let importer = Importer {
                    settings,
                    store,
                    book: Arc::clone(&book),
                    desk: Arc::clone(&desk),
                    events,
                    clock: Arc::clone(&clock),
                    meter: Arc::clone(&meter),
                };
                importer
                    .spawn(jobs)
                    .map_err(|error| CommandError::failed("cannot start the importer's thread", error))?;
                let courier =
                    Courier { book: Arc::clone(&book), desk: Arc::clone(&desk), files: Arc::clone(&files) };
                Ok(tokio::spawn(courier.run(received)))
            })
            .transpose()?;
        Ok(Self { book, desk, clock, meter, files, import_settings, server, worker_program, courier })
    }

    /// Takes over a reloaded configuration.
    pub(crate) fn configure(&self, settings: &Settings) {
        self.book.configure(rules(settings), names(settings));
        *self.import_settings.lock().unwrap_or_else(PoisonError::into_inner) =
            ImportSettings::of(settings, self.server.as_deref());
    }

    /// Imports what the configuration names, and waits until every model without a release has one or will not get one,
    /// so that it serves from the first reading on.
    pub(crate) async fn settle(&self, settings: &Settings) {
        let settled = async {
            let unfetched = self.import_configured(settings).await;
            if !self.is_settled(settings, &unfetched) {
                let updater = self.start_updater(settings, &Vec::new(), NoStage);
                let mut moves = self.book.moves();
                while !self.is_settled(settings, &unfetched) && moves.changed().await.is_ok() {}
                updater.stop().await;
            }
        };
        if tokio::time::timeout(SETTLE_MAX, settled).await.is_err() {
            tracing::warn!("a configured release is still being tested; its model begins later");
        }
    }

    /// Imports the bundles and repositories that the configuration names, each once. Returns the models whose files
    /// did not come: they are asked for again beside the stages.
    async fn import_configured(&self, settings: &Settings) -> BTreeSet<String> {
        let mut unfetched = BTreeSet::new();
        let places: BTreeSet<_> = settings.models.iter().filter_map(|model| model.package.clone()).collect();
        if self.courier.is_none() {
            return unfetched;
        }
        for place in places {
            let place = std::path::absolute(&place).unwrap_or(place);
            let shown = place.display().to_string();
            self.desk.idle().await;
            if let Err(why) = self.desk.import_configured(place) {
                tracing::warn!(place = shown, why, "a configured package is not taken over");
                continue;
            }
            let report = self.desk.idle().await;
            let counters: Vec<_> =
                report.models.iter().map(|(model, it)| (model.clone(), it.counter)).collect();
            self.wait_offered(&counters).await;
            let stopped = report.models.into_iter().filter(|(_, progress)| progress.cause.is_some());
            unfetched.extend(stopped.map(|(model, _)| model));
        }
        unfetched
    }

    /// Waits until the courier has brought an import's offers to the book, or told why it does not take them.
    async fn wait_offered(&self, offered: &[(String, u64)]) {
        let mut moves = self.book.moves();
        loop {
            let report = self.desk.report();
            let has_cause =
                |model: &String| report.models.get(model).is_some_and(|progress| progress.cause.is_some());
            let is_known = |(model, counter): &(String, u64)| {
                standing(&self.book.state(model), *counter).is_some() || has_cause(model)
            };
            if offered.iter().all(is_known) {
                return;
            }
            tokio::select! {
                _ = moves.changed() => {}
                _ = self.desk.newer_than(report.revision) => {}
            }
        }
    }

    /// Tells whether every model has a release that serves, or nothing is on its way to one.
    fn is_settled(&self, settings: &Settings, unfetched: &BTreeSet<String>) -> bool {
        let mode = self.book.mode();
        settings.models.iter().all(|model| {
            let state = self.book.state(&model.spec.name);
            let work = work_for(&state, mode);
            let waits = matches!(work, Some(Work::Fetch(_))) && unfetched.contains(&model.spec.name);
            state.serving().is_some() || work.is_none() || waits
        })
    }

    /// Returns what the lanes begin with.
    pub(crate) async fn lanes(&self, settings: &Settings) -> LaneStarts {
        let mut starts = LaneStarts::new();
        for model in &settings.models {
            let lanes = first_lanes(&self.book, self.files.as_ref(), &model.spec.name).await;
            starts.push(lanes.map(|lane| {
                lane.map(|(role, package)| LaneStart { role, p99_budget: p99_budget(&package), package })
            }));
        }
        starts
    }

    /// Returns the lanes without the candidates of models that have something else to run.
    pub(crate) fn without_candidates(&self, settings: &Settings, mut lanes: LaneStarts) -> LaneStarts {
        for (model, lanes) in settings.models.iter().zip(&mut lanes) {
            let state = self.book.state(&model.spec.name);
            let Some(candidate) = state.candidate.filter(|_| state.active.is_some()) else { continue };
            for lane in lanes.iter_mut() {
                lane.take_if(|start| start.package.digest() == candidate.release.digest);
            }
        }
        lanes
    }

    /// Has the candidates leave of models that have something else to run.
    pub(crate) fn refuse_candidates(&self, settings: &Settings, why: &str) {
        for model in &settings.models {
            let name = &model.spec.name;
            let state = self.book.state(name);
            let Some(candidate) = state.candidate.filter(|candidate| candidate.phase.runs()) else {
                continue;
            };
            if state.active.is_some() {
                let (digest, detail) = (candidate.release.digest, why.to_owned());
                let failed = Event::Failed { digest, reason: Reason::Incompatible, detail };
                if let Err(error) = self.book.apply(name, &failed) {
                    tracing::warn!(model = name, error = %Chain(&error), "an unfit candidate stays for now");
                }
            }
        }
    }

    /// Starts the updater over the lanes of a generation.
    pub(crate) fn follow(
        &self,
        settings: &Settings,
        lanes: &LaneStarts,
        control: LaneControl,
    ) -> RunningUpdater {
        let specs = settings.models.iter().map(|model| model.spec.clone()).collect();
        self.start_updater(settings, lanes, LiveStage::new(control, specs, p99_budget))
    }

    fn start_updater<S: Stage<Package = Package>>(
        &self,
        settings: &Settings,
        lanes: &LaneStarts,
        stage: S,
    ) -> RunningUpdater {
        let tries = Arc::clone(&self.book) as Arc<dyn TryLedger>;
        let tests = SelfTests::new(self.worker_program.clone(), settings.inference.clone(), tries);
        let running = |number: usize| -> RunningLanes {
            let start = |lane: usize| lanes.get(number)?[lane].as_ref();
            std::array::from_fn(|lane| {
                start(lane).map(|start| Running { digest: start.package.digest(), role: start.role })
            })
        };
        let models = settings.models.iter().enumerate();
        let (stop, stopping) = watch::channel(false);
        let parts = UpdaterParts {
            book: Arc::clone(&self.book),
            fetch: Arc::clone(&self.files) as Arc<dyn Fetch<Package>>,
            admit: Arc::new(tests),
            models: models.map(|(number, model)| (model.spec.name.clone(), running(number))).collect(),
            stopping,
        };
        RunningUpdater { stop, task: tokio::spawn(Updater::new(parts, stage).run()) }
    }
}

/// Returns the rules of a configuration.
fn rules(settings: &Settings) -> Rules {
    Rules { update: settings.update, tries: settings.inference.tries }
}

fn names(settings: &Settings) -> Vec<String> {
    settings.models.iter().map(|model| model.spec.name.clone()).collect()
}

/// Returns the server at which the gateway was enrolled.
fn enrolled_at(state_dir: &Path) -> Option<String> {
    read_life(state_dir)
        .unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), "the life at the fleet server cannot be read");
            None
        })
        .map(|life| life.url)
}

/// Returns the trust rows.
///
/// *Errors*: what was trusted is not known any more.
fn trusted(book: &ReleaseBook, lock: &FolderLock) -> Result<TrustStore, String> {
    if let Some(why) = book.lost() {
        return Err(why);
    }
    let opened = TrustStore::open(lock).and_then(|store| store.load().map(|_| store));
    opened.map_err(|error| Chain(&error).to_string())
}

/// Offers what an import left that nobody could offer: it was done without a daemon, or cut.
fn offer_kept(book: &ReleaseBook, store: &TrustStore) {
    let releases = store.releases().unwrap_or_else(|error| {
        tracing::warn!(error = %Chain(&error), "kept releases cannot be read");
        Vec::new()
    });
    for release in releases.iter().filter(|release| release.approved) {
        let state = book.state(&release.model);
        let is_new = release.counter > state.floor.counter && state.badness(&release.digest).is_none();
        if is_new && let Err(error) = book.offer(&release.model, &stored(release), Intent::Desired) {
            tracing::debug!(model = release.model, error = %Chain(&error), "a kept release is not offered");
        }
    }
}

/// Brings what the importer finds to the book, and what the book says to the desk.
struct Courier {
    book: Arc<ReleaseBook>,
    desk: Arc<ImportDesk>,
    files: Arc<ReleaseFiles>,
}

impl Courier {
    async fn run(self, mut events: mpsc::Receiver<ImportEvent>) {
        let mut moves = self.book.moves();
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                _ = moves.changed() => self.report(),
            }
        }
    }

    fn take(&self, event: ImportEvent) {
        match event {
            ImportEvent::Offered { release, again } => {
                let intent = if again == Again::Retry { Intent::Retry } else { Intent::Desired };
                match self.book.offer(&release.model, &stored(&release), intent) {
                    Ok(Outcome::Changed | Outcome::Unchanged) => self.report(),
                    Ok(Outcome::Refused(refusal)) => {
                        self.desk.enter_phase(&release, "refused", Some(refusal.to_string()));
                    }
                    Err(error) => {
                        let phase = if matches!(error, BookError::Store(_)) { "fetching" } else { "refused" };
                        self.desk.enter_phase(&release, phase, Some(Chain(&error).to_string()));
                    }
                }
            }
            ImportEvent::Fetched { release, package } => {
                let digest = release.digest;
                let told = self.files.arrived(digest, &Ok(*package));
                // The updater may be waiting before it asks again for files that could not be fetched before.
                let verified =
                    (told == 0).then(|| self.book.apply(&release.model, &Event::Verified { digest }));
                if let Some(Err(error)) = verified {
                    tracing::debug!(error = %Chain(&error), "files that are here are asked for once more");
                }
                self.report();
            }
            ImportEvent::NotFetched { digest, error } => {
                self.files.arrived(digest, &Err(failure_of(&error)));
            }
        }
    }

    /// Tells those who wait for an import how far its releases are.
    fn report(&self) {
        let report = self.desk.report();
        for (model, progress) in report.models.iter().filter(|(_, progress)| progress.counter > 0) {
            let Some((phase, cause)) = standing(&self.book.state(model), progress.counter) else { continue };
            // The candidate waits for its files where this import's were refused.
            let waits = phase == Phase::Fetching.as_str() && progress.cause.is_some();
            if progress.phase != phase && !waits {
                self.desk.change(|report| {
                    if let Some(progress) = report.models.get_mut(model) {
                        phase.clone_into(&mut progress.phase);
                        progress.cause = cause;
                    }
                });
            }
        }
    }
}

/// Returns where the release with this counter stands, and why where that is its end.
fn standing(state: &ModelState, counter: u64) -> Option<(&'static str, Option<String>)> {
    if let Some(bad) = state.bad.iter().rfind(|bad| bad.release.counter == counter) {
        return Some(("bad", Some(format!("{}: {}", bad.reason.code(), bad.detail))));
    }
    if state.active.as_ref().is_some_and(|active| active.counter == counter) {
        return Some(("good", None));
    }
    let candidate = state.candidate.as_ref().filter(|candidate| candidate.release.counter == counter)?;
    Some((candidate.phase.as_str(), None))
}

/// Stands in for the stage before there is one: releases are fetched and tested, and wait for it.
struct NoStage;

impl Stage for NoStage {
    type Package = Package;
    type Fill = ();

    fn counts(&self) -> watch::Receiver<Vec<LaneCounts>> {
        watch::channel(Vec::new()).1
    }

    fn load(&self, _: usize, _: usize, _: &Package) -> Step<()> {
        Box::pin(std::future::pending())
    }

    fn arrange(&self, _: usize, _: [LaneOrder<()>; LANES_PER_MODEL]) -> Step<()> {
        Box::pin(std::future::pending())
    }
}

#[cfg(test)]
mod tests;
