//! The running daemon, as an order of events: validate, lock, open, restore, start the stages, announce, wait, drain.
//!
//! The one place where tasks, threads and channels are made. Knows no payload and no model. `dunlind run` calls it.

mod generation;
mod lane_control;
mod signals;
mod update_parts;
mod updates;

pub use lane_control::{LaneControl, LaneStart, LaneStarts, SlotStarter, binding, bindings};

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use dunlin_pipeline::Core;
use tokio::sync::{mpsc, watch};

use crate::command::CommandError;
use crate::config::overlay::Overlay;
use crate::config::{self, ConfigErrors, LoadRequest, Loaded};
use crate::link::course::LinkParts;
use crate::link::link_board::LinkBoard;
use crate::link::outgoing::Outgoing;
use crate::link::settings::LinkSettings;
use crate::logging::{self, LogFilter};
use crate::metrics::Metrics;
use crate::remote_settings::SettingsDesk;
use crate::remote_settings::desk::SettingsMode;
use crate::remote_settings::standing::SettingsFile;
use crate::status::ControlRequest;
use crate::status::board::StatusBoard;
use crate::status::http::StatusHttp;
use crate::status::report::StatusFacts;
use crate::status::socket::StatusSocket;
use crate::store::{
    FleetStore, FolderLock, LastStop, SettledNumbers, StoreError, TrustStore, WriterCommand, queue,
};
use crate::systemd::{self, Watchdog};
use crate::upload::Uploads;
use generation::{Ended, Generation};
use signals::{Signal, Signals};
use updates::Updates;

/// Requests of local programs that wait for the stage.
const CONTROL_REQUESTS: usize = 32;

/// What stays the same over reloads of the configuration.
pub(crate) struct Surroundings {
    pub(crate) lock: FolderLock,
    pub(crate) updates: Updates,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) watchdog: Watchdog,
    pub(crate) worker_program: PathBuf,
    /// Tells the socket where the present stage takes requests.
    pub(crate) control: watch::Sender<Option<mpsc::Sender<ControlRequest>>>,
    /// Tells the update how to change the lanes of the present generation.
    pub(crate) lanes: watch::Sender<Option<LaneControl>>,
    /// Tells the upload where the present writer takes orders.
    pub(crate) writer: watch::Sender<Option<queue::Sender<WriterCommand>>>,
    /// Numbers that the fleet server has answered for, for retention to count on.
    pub(crate) settled: SettledNumbers,
    /// What the link to the fleet server needs of the configuration; the link ends with it.
    pub(crate) link: watch::Sender<LinkSettings>,
    /// Settings of the fleet server.
    pub(crate) settings: Arc<SettingsDesk>,
}

/// Compiles a configuration's sources, and its models with what runs in their lanes.
///
/// *Errors*: all findings, with the place where each value was written.
pub fn compile(loaded: &Loaded, lanes: &LaneStarts) -> Result<Core, ConfigErrors> {
    let models = loaded.settings.models.iter().map(|model| &model.spec);
    Core::compile(&loaded.settings.sources, bindings(models, lanes))
        .map_err(|findings| config::findings_to_errors(findings, &loaded.origins))
}

fn refused(errors: &ConfigErrors) -> CommandError {
    CommandError::Configuration { message: format!("the configuration is refused\n{errors}"), source: None }
}

/// Loads a configuration and compiles its sources; models are compiled with the releases that run in them.
///
/// *Errors*: exit code 64 with everything that is wrong.
pub fn load(request: &LoadRequest) -> Result<Loaded, CommandError> {
    let loaded = config::load(request).map_err(|errors| refused(&errors))?;
    logging::check_filter(&loaded.settings.log).map_err(|error| CommandError::Configuration {
        message: "`log.filter` is refused".to_owned(),
        source: Some(error.into()),
    })?;
    compile(&loaded, &LaneStarts::new()).map_err(|errors| refused(&errors))?;
    Ok(loaded)
}

/// Returns a request with settings of the fleet server.
#[must_use]
pub fn with_settings(request: &LoadRequest, file: &SettingsFile) -> LoadRequest {
    let SettingsFile { target, digest, text } = file.clone();
    LoadRequest { overlay: Some(Overlay { target, digest, text }), ..request.clone() }
}

/// Returns the configuration with the settings that the fleet server gave; those that do not fit it are given up.
fn with_settings_in_use(request: &LoadRequest, local: Loaded, desk: &SettingsDesk) -> Loaded {
    while let Some(file) = desk.in_use() {
        if local.settings.fleet.settings.mode == SettingsMode::Refuse {
            break;
        }
        match load(&with_settings(request, &file)) {
            Ok(loaded) => return loaded,
            Err(error) => desk.give_up(file.digest, &Chain(&error).to_string()),
        }
        // `state.db` cannot be written: they run as long as they fit, and these do not.
        if desk.in_use().is_some_and(|still| still.digest == file.digest) {
            break;
        }
    }
    local
}

/// Runs the daemon until it is told to stop.
///
/// *Errors*: the configuration is refused, the state folder cannot be used, or the store failed for good.
pub fn run(request: &LoadRequest) -> Result<ExitCode, CommandError> {
    let loaded = load(request)?;
    let filter = logging::start(&loaded.settings.log)
        .map_err(|error| CommandError::failed("cannot start logging", error))?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::failed("cannot start the runtime", error))?;
    runtime.block_on(serve(request, loaded, &filter))
}

async fn serve(request: &LoadRequest, loaded: Loaded, filter: &LogFilter) -> Result<ExitCode, CommandError> {
    let store_failed = |error: StoreError| CommandError::failed("cannot use the state folder", error);
    let state_dir = loaded.settings.state_dir.clone();
    let lock = FolderLock::acquire(&state_dir).map_err(store_failed)?;
    let metrics = Arc::new(Metrics::new(clock::monotonic_micros()));
    let mut signals =
        Signals::new().map_err(|error| CommandError::failed("cannot receive signals", error))?;
    let worker_program = std::env::current_exe()
        .map_err(|error| CommandError::failed("cannot find this program's file", error))?;
    let (control, present) = watch::channel(None);
    let updates = Updates::open(&lock, &loaded.settings, worker_program.clone())?;
    let desk = Arc::new(SettingsDesk::open(&lock, loaded.settings.fleet.settings));
    desk.note_start();
    signals.follow(&desk);
    let loaded = with_settings_in_use(request, loaded, &desk);
    replace_filter(filter, &loaded);
    let watchdog = Watchdog::default();
    let surroundings = Surroundings {
        lock,
        updates,
        metrics,
        watchdog,
        worker_program,
        control,
        lanes: watch::channel(None).0,
        writer: watch::channel(None).0,
        settled: SettledNumbers::default(),
        link: watch::channel(LinkSettings::of(&loaded)).0,
        settings: desk,
    };
    let board = start_status(&loaded, &surroundings, present).await?;
    start_link(request, &surroundings, board);
    tokio::spawn(surroundings.watchdog.clone().feed());
    tracing::info!(
        gateway = loaded.settings.gateway,
        state_dir = %state_dir.display(),
        sources = loaded.settings.sources.len(),
        models = loaded.settings.models.len(),
        "starting"
    );
    run_generations(request, loaded, filter, (&surroundings, &mut signals)).await?;
    if let Err(error) = surroundings.updates.book.mark_clean() {
        tracing::warn!(error = %Chain(&error), "the clean stop could not be recorded");
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Runs one generation after the other, each with its configuration, until a signal stops the last.
async fn run_generations(
    request: &LoadRequest,
    mut loaded: Loaded,
    filter: &LogFilter,
    (surroundings, signals): (&Surroundings, &mut Signals),
) -> Result<(), CommandError> {
    let updates = &surroundings.updates;
    let mut last_stop = updates.book.last_stop();
    let mut before: Option<Loaded> = None;
    loop {
        updates.configure(&loaded.settings);
        surroundings.settings.configure(loaded.settings.fleet.settings);
        surroundings.link.send_if_modified(|present| {
            let settings = LinkSettings::of(&loaded);
            let is_new = *present != settings;
            *present = settings;
            is_new
        });
        let ended = match settle((surroundings, signals), request, &loaded).await {
            Some(ended) => ended,
            None => match begin_lanes(updates, &loaded).await {
                Ok(begun) => {
                    let ended = run_generation((surroundings, signals), request, &loaded, begun, last_stop);
                    last_stop = LastStop::Clean;
                    ended.await?
                }
                // A release that came with the new configuration does not fit it.
                Err(error) => {
                    let Some(kept) = before.take() else { return Err(error) };
                    tracing::error!("the configuration is kept, the new one is refused: {}", Chain(&error));
                    if let Some(digest) = loaded.overlay.filter(|_| loaded.overlay != kept.overlay) {
                        surroundings.settings.give_up(digest, &Chain(&error).to_string());
                    }
                    replace_filter(filter, &kept);
                    loaded = kept;
                    continue;
                }
            },
        };
        match ended {
            Ended::Stopped => return Ok(()),
            Ended::Reload(new) => {
                surroundings.settings.note_down();
                replace_filter(filter, &new);
                before = Some(std::mem::replace(&mut loaded, *new));
                surroundings.metrics.reloads.add(1);
            }
        }
    }
}

fn replace_filter(filter: &LogFilter, loaded: &Loaded) {
    if let Err(error) = filter.replace(&loaded.settings.log) {
        tracing::warn!(error = %Chain(&error), "the log filter stays as it was");
    }
}

/// Waits until the configured releases are settled, or a signal ends the wait.
async fn settle(
    (surroundings, signals): (&Surroundings, &mut Signals),
    request: &LoadRequest,
    loaded: &Loaded,
) -> Option<Ended> {
    let updates = &surroundings.updates;
    let mut settled = pin!(updates.settle(&loaded.settings));
    loop {
        tokio::select! {
            () = &mut settled => return None,
            signal = signals.next() => {
                let ended = react(signal, request, loaded, surroundings).await;
                if ended.is_some() {
                    return ended;
                }
            }
        }
    }
}

/// Runs a configuration with what its lanes begin with until a signal ends it.
async fn run_generation(
    (surroundings, signals): (&Surroundings, &mut Signals),
    request: &LoadRequest,
    loaded: &Loaded,
    (core, lanes): (Core, LaneStarts),
    last_stop: LastStop,
) -> Result<Ended, CommandError> {
    let updates = &surroundings.updates;
    let generation = Generation::start(surroundings, loaded, (core, lanes.clone()), last_stop).await?;
    let control = surroundings.lanes.borrow().clone();
    let updater = control.map(|control| updates.follow(&loaded.settings, &lanes, control));
    // On disk before anybody is told: whoever kills what is ready must not make it a failed start.
    if let Err(error) = updates.book.note_ready() {
        tracing::warn!(error = %Chain(&error), "the start is counted as a failed one");
    }
    systemd::ready();
    surroundings.metrics.ready.set(1);
    tracing::info!("ready");
    surroundings.settings.note_up(loaded.overlay);
    dunlin_kit::resident::release_program_pages();
    let ended = generation.run(signals, request, (loaded, surroundings)).await;
    if let Some(updater) = updater {
        updater.stop().await;
    }
    ended
}

/// Returns what the lanes begin with, and the core compiled with it. Where candidates alone do not fit the configuration
/// they leave.
///
/// *Errors*: exit code 64 where the configuration does not fit what was good, or the only release there is.
async fn begin_lanes(updates: &Updates, loaded: &Loaded) -> Result<(Core, LaneStarts), CommandError> {
    let lanes = updates.lanes(&loaded.settings).await;
    let errors = match compile(loaded, &lanes) {
        Ok(core) => return Ok((core, lanes)),
        Err(errors) => errors,
    };
    if compile(loaded, &updates.without_candidates(&loaded.settings, lanes)).is_err() {
        return Err(refused(&errors));
    }
    updates.refuse_candidates(&loaded.settings, &errors.to_string());
    let lanes = updates.lanes(&loaded.settings).await;
    compile(loaded, &lanes).map(|core| (core, lanes)).map_err(|errors| refused(&errors))
}

/// Starts the status socket and the metrics server; the tasks end with the runtime.
async fn start_status(
    loaded: &Loaded,
    surroundings: &Surroundings,
    present: watch::Receiver<Option<mpsc::Sender<ControlRequest>>>,
) -> Result<Arc<StatusBoard>, CommandError> {
    let settings = &loaded.settings;
    let facts = StatusFacts {
        gateway: settings.gateway.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        state_dir: settings.state_dir.clone(),
        boot: clock::boot_id(),
        card_endurance_bytes: settings.storage.card_endurance_bytes,
    };
    let board = StatusBoard::new(Arc::clone(&surroundings.metrics), facts)
        .with_imports(Arc::clone(&surroundings.updates.desk));
    board.show_releases(Arc::clone(&surroundings.updates.book));
    let board = Arc::new(board);
    tokio::spawn(Arc::clone(&board).record_samples());
    let (requests, relayed) = mpsc::channel(CONTROL_REQUESTS);
    tokio::spawn(relay(relayed, present));
    let socket = StatusSocket::bind(&settings.state_dir)
        .map_err(|error| CommandError::failed("cannot serve the status socket", error))?;
    tokio::spawn(socket.serve(Arc::clone(&board), requests));
    let Some(address) = settings.http else { return Ok(board) };
    match StatusHttp::bind(address).await {
        Ok(server) => {
            tracing::info!(address = %server.address(), "serving metrics");
            let shown = Arc::clone(&board);
            tokio::spawn(async move {
                if let Err(error) = server.serve(shown).await {
                    tracing::error!(%error, "the metrics server ended");
                }
            });
            Ok(board)
        }
        Err(error) => Err(CommandError::failed("cannot serve metrics; change `http.listen`", error)),
    }
}

/// Starts the link to the fleet server. Models run without it: what keeps it from starting is in the log.
fn start_link(request: &LoadRequest, surroundings: &Surroundings, status: Arc<StatusBoard>) {
    let Surroundings { lock, updates, link, writer, settled, .. } = surroundings;
    let upload = link.borrow().fleet.upload;
    let opened = match updates.book.lost() {
        Some(why) => Err(format!("state_lost: {why}")),
        None => FleetStore::open(lock)
            .and_then(|fleet| {
                let uploads = Uploads::open(lock, upload, settled.clone(), writer.subscribe())?;
                Ok((fleet, TrustStore::open(lock)?, uploads))
            })
            .map_err(|error| Chain(&error).to_string()),
    };
    let (fleet, trust, uploads) = match opened {
        Ok(opened) => opened,
        Err(why) => {
            tracing::error!(why, "there is no link to a fleet server");
            return;
        }
    };
    let board = Arc::<LinkBoard>::default();
    status.show_link(Arc::clone(&board));
    let parts = LinkParts {
        settings: link.subscribe(),
        fleet,
        trust,
        book: Arc::clone(&updates.book),
        desk: Arc::clone(&updates.desk),
        status,
        board,
        clock: Arc::clone(&updates.clock),
        meter: Arc::clone(&updates.meter),
        outgoing: Outgoing::new(uploads),
        remote_settings: Arc::clone(&surroundings.settings),
        request: request.clone(),
    };
    if let Err(error) = parts.spawn() {
        tracing::error!(%error, "there is no link to a fleet server");
    }
}

/// Hands requests to the present stage; between two of them a request is dropped, and its client told so.
async fn relay(
    mut requests: mpsc::Receiver<ControlRequest>,
    present: watch::Receiver<Option<mpsc::Sender<ControlRequest>>>,
) {
    while let Some(request) = requests.recv().await {
        let stage = present.borrow().clone();
        if let Some(stage) = stage {
            let _ = stage.send(request).await;
        }
    }
}

/// Reacts to one signal: says whether to stop, or which configuration to go on with.
pub(crate) async fn react(
    signal: Signal,
    request: &LoadRequest,
    loaded: &Loaded,
    surroundings: &Surroundings,
) -> Option<Ended> {
    match signal {
        Signal::Stop => {
            systemd::stopping();
            tracing::info!("stopping");
            Some(Ended::Stopped)
        }
        Signal::Reload => {
            systemd::reloading();
            let reloaded = reload(request, loaded, surroundings).await;
            if reloaded.is_none() {
                systemd::ready();
            }
            reloaded.map(|reloaded| Ended::Reload(Box::new(reloaded)))
        }
        Signal::Settings => {
            let reloaded = reload(request, loaded, surroundings).await?;
            let is_other = reloaded.overlay != loaded.overlay;
            is_other.then(|| Ended::Reload(Box::new(reloaded)))
        }
    }
}

async fn reload(request: &LoadRequest, present: &Loaded, surroundings: &Surroundings) -> Option<Loaded> {
    match fitting(request, surroundings).await {
        Ok(loaded) if loaded.settings.state_dir != present.settings.state_dir => {
            tracing::error!(
                "the configuration is kept: `state_dir` cannot change while the daemon runs; restart it"
            );
            None
        }
        Ok(reloaded) => {
            tracing::info!("going on with the new configuration");
            Some(reloaded)
        }
        Err(error) => {
            tracing::error!("the configuration is kept, the new one is refused: {}", Chain(&error));
            None
        }
    }
}

/// Loads a configuration that the releases at work fit. Settings of the fleet server that do not are given up.
async fn fitting(request: &LoadRequest, surroundings: &Surroundings) -> Result<Loaded, CommandError> {
    let Surroundings { updates, settings: desk, .. } = surroundings;
    loop {
        let loaded = with_settings_in_use(request, load(request)?, desk);
        let Err(error) = require_fit(&loaded, updates).await else { return Ok(loaded) };
        let Some(digest) = loaded.overlay else { return Err(error) };
        desk.give_up(digest, &Chain(&error).to_string());
        if desk.in_use().is_some_and(|still| still.digest == digest) {
            return Err(error);
        }
    }
}

async fn require_fit(loaded: &Loaded, updates: &Updates) -> Result<(), CommandError> {
    let lanes = updates.lanes(&loaded.settings).await;
    if let Err(errors) = compile(loaded, &lanes) {
        // A candidate leaves where it alone does not fit.
        let without = updates.without_candidates(&loaded.settings, lanes);
        compile(loaded, &without).map_err(|_| refused(&errors))?;
    }
    Ok(())
}
