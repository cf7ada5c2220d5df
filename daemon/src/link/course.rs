//! The link's thread: enrols where that is to be done, asks, takes the answer, waits, and so on for ever.
//!
//! Every failure ends in a wait and a new question; none ends the thread or reaches a stage. A question that news overtake
//! is dropped: its number is used up, and the next one says more.

mod outcome;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dunlin_kit::backoff::random_unit;
use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::exchange::{Ask, Clock, Desired, ReportPart};
use dunlin_protocol::limits::{ANSWER_BYTES_MAX, WAIT_SECONDS_MAX, envelope_bytes_max};
use dunlin_protocol::routes::{director_root_path, exchange_path};
use dunlin_protocol::{
    Counter, Digest, Envelope, ExchangeAnswer, ExchangeRequest, Form, List, Message as _, Nonce, StartId,
};
use dunlin_trust::director::Device;
use dunlin_trust::limits::ROOT_BYTES_MAX;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::counter::MessageCounter;
use super::enrolment::{EnrolError, Enrolling, follow_roots, read_token, uptime};
use super::facts::{is_synchronised, name};
use super::health::health_of;
use super::heard::{Heard, Reply};
use super::identity::Identity;
use super::link_board::LinkBoard;
use super::meter::Meter;
use super::outgoing::Outgoing;
use super::reaction::{Patience, Reaction, reaction};
use super::remote::{Remote, words_of};
use super::report::device_report;
use super::rhythm::Rhythm;
use super::server_clock::ServerClock;
use super::server_keys::director_keys;
use super::server_repository::ServerRepository;
use super::settings::LinkSettings;
use crate::config::LoadRequest;
use crate::remote_settings::SettingsDesk;
use crate::remote_settings::standing::Event;
use crate::status::board::StatusBoard;
use crate::store::trust::{Cycle, Trusted};
use crate::store::{FleetLife, FleetStore, TrustStore};
use crate::update::book::ReleaseBook;
use crate::update::compatibility::this_device;
use crate::update::direct::Letter;
use crate::update::import::{Import, ImportError};
use crate::update::import_desk::{Asker, ImportDesk};
use crate::update::importer::read_root;
use crate::update::trust_state::{Clocks, TrustState};

/// How long a gateway without a server rests; a reload of the configuration wakes it.
const IDLE: Duration = Duration::from_secs(86_400);
/// After this long a server that does not know the gateway is asked to enrol it again.
const UNKNOWN_MAX: Duration = Duration::from_secs(86_400);
/// Longest wait between two questions while settings wait for their confirmation.
const TRIAL_WAIT: Duration = Duration::from_secs(5);
/// Questions longer than this are compressed: below it the frame saves nothing.
const PLAIN_BYTES_MAX: usize = 1_024;
/// Fast, and within a few percent of the slower levels on JSON.
const ZSTD_LEVEL: i32 = 3;

/// What the link works with.
pub struct LinkParts {
    /// What the configuration says; closed when the daemon stops.
    pub settings: watch::Receiver<LinkSettings>,
    /// The life at the server.
    pub fleet: FleetStore,
    /// What is trusted.
    pub trust: TrustStore,
    /// What runs, and where assignments go.
    pub book: Arc<ReleaseBook>,
    /// Who fetches files.
    pub desk: Arc<ImportDesk>,
    /// What the daemon does.
    pub status: Arc<StatusBoard>,
    /// Where the link is shown.
    pub board: Arc<LinkBoard>,
    /// The server's time.
    pub clock: Arc<ServerClock>,
    /// Counts bytes.
    pub meter: Arc<Meter>,
    /// Rows for the server.
    pub outgoing: Outgoing,
    /// The server's settings.
    pub remote_settings: Arc<SettingsDesk>,
    /// What the configuration is loaded from: settings are checked with it.
    pub request: LoadRequest,
}

impl LinkParts {
    /// Starts the thread; it ends soon after the settings' sender is gone.
    ///
    /// *Errors*: the system gives no thread, no runtime or no randomness.
    pub fn spawn(self) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut start = [0; 8];
        getrandom::fill(&mut start).map_err(|_| io::Error::other("the system has no randomness"))?;
        let settings = self.settings.borrow().clone();
        let course = Course {
            rhythm: Rhythm::within((settings.fleet.interval_min, settings.fleet.interval_max)),
            settings,
            runtime,
            remote: None,
            identity: None,
            life: None,
            counter: None,
            start: StartId::from_bytes(start),
            confirmed: None,
            is_heard: false,
            form: Form::Zstd,
            unknown_since: None,
            last_said: String::new(),
            to_confirm: None,
            settings_moves: self.remote_settings.moves(),
            parts: self,
        };
        std::thread::Builder::new().name("fleet-link".to_owned()).spawn(move || course.run())
    }
}

/// The link in this run of the daemon.
struct Course {
    parts: LinkParts,
    settings: LinkSettings,
    runtime: Runtime,
    remote: Option<Remote>,
    identity: Option<Identity>,
    life: Option<FleetLife>,
    counter: Option<MessageCounter>,
    start: StartId,
    rhythm: Rhythm,
    /// Digest of the report that the server has.
    confirmed: Option<Digest>,
    /// Whether the last question was answered: then news are sent at once.
    is_heard: bool,
    form: Form,
    unknown_since: Option<Instant>,
    /// What was logged last, so that it is logged once.
    last_said: String,
    /// Settings on trial that an answer to the present question confirms.
    to_confirm: Option<Digest>,
    settings_moves: watch::Receiver<u64>,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// It is over, or there is news.
    Now,
    /// The daemon stops.
    Stopping,
}

/// A reply, or the news that came before it.
enum Posted {
    Reply(Reply),
    Overtaken,
    Failed(String),
    Stopping,
}

impl Course {
    fn run(mut self) {
        let mut wait =
            if self.settings.remote(None).is_some() { Rhythm::first(random_unit()) } else { Duration::ZERO };
        let mut moves = self.parts.book.moves();
        loop {
            if self.rest(wait, &mut moves) == Woken::Stopping {
                return;
            }
            self.settings = self.parts.settings.borrow_and_update().clone();
            self.rhythm.set_bounds((self.settings.fleet.interval_min, self.settings.fleet.interval_max));
            self.parts.outgoing.configure(self.settings.fleet.upload);
            moves.mark_unchanged();
            self.settings_moves.mark_unchanged();
            wait = match self.prepare() {
                Ok(false) => IDLE,
                Ok(true) if self.life.is_none() => self.enrol(),
                Ok(true) => match self.exchange(&mut moves) {
                    Some(wait) => wait,
                    None => return,
                },
                Err(words) => self.failed(&words, Patience::BackOff),
            };
        }
    }

    /// Waits for a time, for a new configuration, or for news that the server is to hear at once.
    fn rest(&mut self, wait: Duration, moves: &mut watch::Receiver<u64>) -> Woken {
        let tells_news = self.is_heard && self.life.is_some() && !self.settings.fleet.metered;
        let least = self.settings.fleet.interval_min;
        let settings = &mut self.parts.settings;
        let settings_moves = &mut self.settings_moves;
        self.runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(wait) => Woken::Now,
                Ok(()) = settings_moves.changed() => Woken::Now,
                changed = settings.changed() => if changed.is_ok() { Woken::Now } else { Woken::Stopping },
                Ok(()) = moves.changed(), if tells_news => {
                    tokio::time::sleep(least).await;
                    Woken::Now
                }
            }
        })
    }

    /// Sees to a client, an identity and a life; tells whether there is a server at all.
    fn prepare(&mut self) -> Result<bool, String> {
        if self.life.is_none() {
            self.life = self.parts.fleet.life().map_err(|error| Chain(&error).to_string())?;
        }
        let token_url = || {
            let token = read_token(self.settings.fleet.token_file.as_deref()?).ok()?;
            Some(token.claim().server_url.to_string())
        };
        let known = self.life.as_ref().map(|life| life.url.clone()).or_else(token_url);
        let Some(settings) = self.settings.remote(known.as_deref()) else { return Ok(false) };
        if self.remote.as_ref().is_none_or(|remote| *remote.settings() != settings) {
            let remote = Remote::open(&settings, Arc::clone(&self.parts.meter));
            self.remote = Some(remote.map_err(|error| words_of(&error))?);
            self.parts.desk.set_server(settings.clone());
        }
        if self.identity.is_none() {
            let identity = Identity::open(&self.settings.state_dir);
            self.identity = Some(identity.map_err(|error| Chain(&error).to_string())?);
        }
        let (identity, life) = (self.identity.as_ref(), self.life.as_ref());
        self.parts.board.change(|report| {
            report.url.clone_from(&settings.server);
            if let Some(identity) = identity.filter(|_| report.device.is_empty()) {
                report.device = identity.device().to_string();
                report.words = identity.words();
            }
            if report.state.is_empty() {
                "enrolling".clone_into(&mut report.state);
            }
            report.desired_revision = life.map_or(0, |life| life.desired_revision);
        });
        Ok(true)
    }

    /// Enrols; returns how long to wait then.
    fn enrol(&mut self) -> Duration {
        let token = match self.settings.fleet.token_file.as_deref().filter(|path| path.exists()) {
            Some(path) => match read_token(path) {
                Ok(token) => Some(token),
                Err(error) => return self.failed(&error.to_string(), Patience::BackOff),
            },
            None => None,
        };
        let (Some(remote), Some(identity)) = (&self.remote, &self.identity) else { return IDLE };
        let enrolled = {
            let _alone = self.parts.desk.trust_gate();
            let mut enrolling = Enrolling {
                remote,
                identity,
                settings: &self.settings,
                token: token.as_ref(),
                trust: &mut self.parts.trust,
                fleet: &mut self.parts.fleet,
                clock: &self.parts.clock,
            };
            enrolling.run()
        };
        match enrolled {
            Ok(life) => {
                self.counter = None;
                self.life = Some(life);
                self.unknown_since = None;
                "enrolled".clone_into(&mut self.last_said);
                self.wait(Patience::AsTold, Some(Duration::ZERO), None)
            }
            Err(EnrolError::Refused { code, warrant, next, words, retry_after }) => {
                let Reaction { patience, .. } = reaction(&code, warrant);
                self.say(code.as_str(), &format!("{code}: the server refuses the enrolment ({words})"));
                self.wait(patience, next, retry_after)
            }
            Err(error @ (EnrolError::Untrusted(_) | EnrolError::Token(_) | EnrolError::NoRoot)) => {
                self.failed(&Chain(&error).to_string(), Patience::BackOff)
            }
            Err(error) => self.failed(&Chain(&error).to_string(), Patience::BackOff),
        }
    }

    /// Asks once; returns how long to wait then, nothing when the daemon stops.
    fn exchange(&mut self, moves: &mut watch::Receiver<u64>) -> Option<Duration> {
        let (question, digest) = match self.question() {
            Ok(question) => question,
            Err(words) => return Some(self.failed(&words, Patience::BackOff)),
        };
        let is_known = self.confirmed == Some(digest);
        let is_on_trial = self.parts.remote_settings.is_on_trial();
        // After a failure the first answer is not waited for: it tells that the server is back.
        let is_kept_open = is_known
            && !self.rhythm.has_failed()
            && !is_on_trial
            && !self.settings.fleet.metered
            && self.parts.outgoing.may_be_kept_open();
        let wait_seconds = if is_kept_open { WAIT_SECONDS_MAX } else { 0 };
        let sealed = match self.seal(&question) {
            Ok(sealed) => sealed,
            Err(words) => return Some(self.failed(&words, Patience::BackOff)),
        };
        let posted = self.post(sealed, wait_seconds, moves)?;
        self.parts.outgoing.meter(&self.parts.meter);
        let upload = self.parts.outgoing.report();
        self.parts.board.change(|report| report.upload = upload);
        let reply = match posted {
            Posted::Reply(reply) => reply,
            Posted::Overtaken => return Some(self.settings.fleet.interval_min),
            Posted::Failed(words) => return Some(self.failed(&words, Patience::BackOff)),
            Posted::Stopping => return None,
        };
        let retry_after = reply.retry_after();
        Some(match reply.read(ANSWER_BYTES_MAX) {
            Heard::Nothing(why) => {
                self.failed(&why, Patience::BackOff);
                self.wait(Patience::BackOff, None, retry_after)
            }
            Heard::Problem { code, words } => self.refused_unsigned(&code, &words, retry_after),
            Heard::Envelope(envelope) => match self.verify(envelope, &question) {
                Ok(answer) => self.take(&question, digest, answer),
                Err(words) => self.failed(&words, Patience::BackOff),
            },
        })
    }

    fn question(&mut self) -> Result<(ExchangeRequest, Digest), String> {
        let words = |error: &dyn std::error::Error| Chain(error).to_string();
        let (Some(life), Some(identity)) = (&self.life, &self.identity) else {
            return Err("the gateway is not enrolled".to_owned());
        };
        let models = self.parts.book.report();
        let of_server = self.parts.remote_settings.report(self.settings.digest);
        self.show_settings(&of_server);
        let report = device_report(&self.settings, &models, of_server, self.parts.outgoing.budget());
        let digest = report.digest();
        // What the server may have from before the start is asked for by its digest first.
        let is_new = self.confirmed.is_some_and(|confirmed| confirmed != digest);
        let status = self.parts.status.report(clock::monotonic_micros());
        let connected = status.brokers.values().filter(|broker| broker.connected).count();
        self.to_confirm = self.parts.remote_settings.ready_to_confirm(connected);
        let health = health_of(&status, &models, &self.parts.desk);
        let held = self.parts.fleet.held().map_err(|error| words(&error))?;
        let counter = self.counter.get_or_insert_with(|| MessageCounter::from_ceiling(life.counter_ceiling));
        let fleet = &mut self.parts.fleet;
        let number = counter.take(|ceiling| fleet.raise_ceiling(ceiling)).map_err(|error| words(&error))?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| "the system has no randomness".to_owned())?;
        let mut question = ExchangeRequest {
            device: identity.device(),
            server: life.server,
            incarnation: life.incarnation,
            counter: Counter::new(number).map_err(|error| words(&error))?,
            start: self.start,
            nonce: Nonce::from_bytes(nonce),
            clock: Clock {
                boot: name(&clock::boot_id()),
                mono_ms: (clock::monotonic_micros() / 1_000).unsigned_abs(),
                wall_ms: clock::wall_micros() / 1_000,
                synchronised: is_synchronised(),
            },
            held,
            report: ReportPart { digest, full: is_new.then(|| Box::new(report)) },
            health,
            batches: List::default(),
            defer: None,
        };
        self.parts.outgoing.load(&mut question, self.is_heard, self.settings.fleet.metered);
        Ok((question, digest))
    }

    fn seal(&mut self, question: &ExchangeRequest) -> Result<Vec<u8>, String> {
        let identity = self.identity.as_ref().ok_or("there is no identity")?;
        let plain = question.to_plain().map_err(|error| Chain(&error).to_string())?;
        let plain_bytes = plain.len();
        let form = if plain_bytes > PLAIN_BYTES_MAX { self.form } else { Form::Plain };
        let payload = match form {
            Form::Plain => plain,
            Form::Zstd => zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(|error| error.to_string())?,
        };
        let key_id = identity.device().to_string();
        let kind = ExchangeRequest::payload_type(form);
        let sealed = Envelope::seal(kind, payload, &key_id, |message| identity.sign(message)).to_bytes();
        self.parts.outgoing.packed(plain_bytes, sealed.len());
        Ok(sealed)
    }

    fn post(
        &mut self,
        sealed: Vec<u8>,
        wait_seconds: u64,
        moves: &mut watch::Receiver<u64>,
    ) -> Option<Posted> {
        let remote = self.remote.clone()?;
        let settings = &mut self.parts.settings;
        let settings_moves = &mut self.settings_moves;
        let wait = Duration::from_secs(wait_seconds);
        let path = exchange_path(wait_seconds);
        let posted = remote.post(&path, sealed, wait, envelope_bytes_max(ANSWER_BYTES_MAX));
        Some(remote.runtime().block_on(async {
            tokio::select! {
                posted = posted => match posted {
                    Ok(reply) => Posted::Reply(reply),
                    Err(error) => Posted::Failed(words_of(&error)),
                },
                Ok(()) = moves.changed(), if wait_seconds > 0 => Posted::Overtaken,
                Ok(()) = settings_moves.changed(), if wait_seconds > 0 => Posted::Overtaken,
                changed = settings.changed() => match changed {
                    Ok(()) => Posted::Overtaken,
                    Err(_) => Posted::Stopping,
                },
            }
        }))
    }

    /// Checks who signed an answer, and that it answers this question. Where the key is not known, newer roots of the
    /// director are fetched first.
    fn verify(&mut self, envelope: Envelope, question: &ExchangeRequest) -> Result<ExchangeAnswer, String> {
        let words = |error: &dyn std::error::Error| Chain(error).to_string();
        let kept = self.parts.trust.load_of(Trusted::Director).map_err(|error| words(&error))?;
        let kept =
            kept.ok_or("no root of a director is kept; enrol the gateway again with `dunlind enroll`")?;
        let mut director = TrustState::load(kept).map_err(|error| words(&error))?;
        let keys = director_keys(director.set().root());
        let payload = match envelope.clone().verify(&keys) {
            Ok(payload) => payload,
            Err(first) => {
                self.follow_director(&mut director)?;
                let newer = director_keys(director.set().root());
                if newer == keys {
                    return Err(format!("signature: the answer is dropped: {}", words(&first)));
                }
                let verified = envelope.verify(&newer);
                verified.map_err(|error| format!("signature: the answer is dropped: {}", words(&error)))?
            }
        };
        let decompress = |frame: &[u8], bytes_max: usize| zstd::bulk::decompress(frame, bytes_max).ok();
        let answer = payload.read::<ExchangeAnswer>(decompress);
        let answer =
            answer.map_err(|error| format!("the answer is dropped: {}", words(&error)))?.into_inner();
        let wrong = |why| format!("wrong_device: the answer is dropped: it {why}");
        answer.require_answer_to(question).map_err(wrong)?;
        Ok(answer)
    }

    fn follow_director(&mut self, director: &mut TrustState) -> Result<(), String> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let _alone = self.parts.desk.trust_gate();
        let before = director.kept_of_director();
        let fetch = |version| remote.get(&director_root_path(version), ROOT_BYTES_MAX);
        let followed = follow_roots(director, fetch);
        let after = director.kept_of_director();
        if after != before {
            let saved = self.parts.trust.save(&Cycle { director: Some(after), ..Cycle::default() });
            saved.map_err(|error| Chain(&error).to_string())?;
        }
        followed.map_err(|error| Chain(&error).to_string())
    }

    /// Takes an answer that is this question's.
    fn take(&mut self, question: &ExchangeRequest, digest: Digest, answer: ExchangeAnswer) -> Duration {
        self.parts.clock.set(answer.server_time_ms, uptime());
        let told = Duration::from_millis(answer.next_ms);
        if let Some(refusal) = &answer.refusal {
            return self.refused_signed(refusal, told);
        }
        self.unknown_since = None;
        self.is_heard = true;
        let wants_report = answer.asks.iter().any(|ask| matches!(ask, Ask::Report));
        let was_kept_open = self.confirmed == Some(digest);
        // The server has another one, or none: the next question brings ours.
        self.confirmed = answer.report_known.filter(|_| !wants_report).or(Some(Digest::of(b"")));
        let state = answer.state.clone();
        self.answered(&state);
        if let Some(digest) = self.to_confirm.take() {
            self.parts.remote_settings.confirm(digest);
        }
        let hurry = self.parts.outgoing.answered(&answer, self.settings.fleet.metered);
        let granted = self.parts.outgoing.interval_min();
        let fetches = self.parts.outgoing.fetches_packages();
        if let Some(desired) = answer.desired.as_ref().filter(|_| fetches) {
            let taken = self.direct(question, desired).map_err(|error| Chain(&error).to_string());
            let taken = taken.and_then(|()| self.take_settings(&answer));
            return self.waited("statement", taken);
        }
        if answer.settings.is_some() {
            let taken = self.take_settings(&answer);
            return self.waited("settings", taken);
        }
        // What was answered at once is followed by a question that is kept open.
        let is_behind = self.confirmed != Some(digest) || !(was_kept_open || self.settings.fleet.metered);
        let told = if self.parts.remote_settings.is_on_trial() { told.min(TRIAL_WAIT) } else { told };
        let told = if is_behind { Duration::ZERO } else { hurry.unwrap_or(told) };
        self.wait(Patience::AsTold, Some(told), None).max(granted)
    }

    /// Takes the director's statement.
    fn direct(&mut self, question: &ExchangeRequest, desired: &Desired) -> Result<(), ImportError> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let repository = ServerRepository::new(remote.clone());
        let device = Device { id: question.device.to_string(), ..this_device() };
        let root = self.settings.root.as_deref().map(read_root).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "the configured root of trust cannot be read; what is trusted already counts");
            None
        });
        let nonce = question.nonce.to_string();
        let named = {
            let _alone = self.parts.desk.trust_gate();
            let floors = self.parts.trust.counter_floors()?;
            let mut import = Import {
                store: &mut self.parts.trust,
                state_dir: &self.settings.state_dir,
                root: root.as_deref(),
                device: &device,
                models: &self.settings.models,
                floors: &floors,
                clocks: Clocks::beside(self.parts.clock.time()),
                asker: Asker::Operator,
            };
            let letter = Letter { files: &desired.director, nonce: &nonce };
            import.direct(
                &letter,
                &repository,
                &self.parts.book,
                self.parts.remote_settings.named().as_ref(),
            )?
        };
        self.parts.remote_settings.apply(Event::Named(named))?;
        self.parts.fleet.take_desired(desired.revision)?;
        if let Some(life) = &mut self.life {
            life.desired_revision = desired.revision;
        }
        tracing::info!(revision = desired.revision, "the director's statement is taken");
        if let Err(why) = self.parts.desk.sweep() {
            tracing::debug!(why, "files of old releases stay until the next time");
        }
        Ok(())
    }
}
