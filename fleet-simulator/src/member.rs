//! One gateway of a crowd, from its enrolment to the end of the run.
//!
//! Asks as the protocol says: by the server's word, by a growing series of waits where there is none, and the same question
//! again where an answer was lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_kit::clock;
use dunlin_protocol::enrolment::{DeviceState, EnrollAnswer};
use dunlin_protocol::exchange::{Desired, ExchangeAnswer};
use dunlin_protocol::limits::{ANSWER_BYTES_MAX, ENROLMENT_BYTES_MAX, WAIT_SECONDS_MAX, envelope_bytes_max};
use dunlin_protocol::routes::{ENROLL, ENVELOPE_MEDIA_TYPE, exchange_path};
use dunlin_protocol::{ExchangeRequest, List, Name, Problem, RefusalCode, StartId};
use dunlin_trust::time::UnixTime;
use tokio::sync::Semaphore;

use crate::agent::{Agent, AgentError};
use crate::board::Board;
use crate::figures::{Came, Figures};
use crate::line::{Line, Reply};
use crate::mirror::{Mirror, MirrorError};
use crate::order::Order;
use crate::outbox::Outbox;
use crate::plan::Plan;
use crate::rhythm::{FIRST_SPREAD, Rhythm};
use crate::watch::{Call, Listener};

/// Longest wait for an answer beside what the server may keep a question for.
const PATIENCE: Duration = Duration::from_secs(60);
/// A connection that is silent for longer is not kept: whoever asks once an hour connects each time.
const KEPT: Duration = Duration::from_secs(60);
/// Tries to come in, and to have a first answer.
const ENTRIES_MAX: u32 = 8;

/// What all gateways of a crowd share.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) mirror: Mirror,
    pub(crate) figures: Figures,
    /// Gateways that may come in at the same time.
    pub(crate) doors: Semaphore,
    pub(crate) began: Instant,
}

/// A gateway.
pub(crate) struct Member {
    number: usize,
    shared: Arc<Shared>,
    pub(crate) agent: Agent,
    pub(crate) board: Board,
    pub(crate) outbox: Outbox,
    line: Line,
    listener: Listener,
    pub(crate) state: String,
    rhythm: Rhythm,
    /// The question that had no answer.
    open: Option<ExchangeRequest>,
    lost_at: Option<Instant>,
    predicted_at: Instant,
    clock_offset_ms: i64,
    outage_at: Option<Instant>,
    outages: usize,
    wishes_at_once: bool,
    pub(crate) receipts: u64,
}

/// Offset of a clock that was never set, and of one that runs ahead, in ms.
const NEVER_SET_MS: i64 = -1_700_000_000_000;
const AHEAD_MS: i64 = 400 * 86_400_000;

impl Member {
    pub(crate) fn new(
        number: usize,
        agent: Agent,
        line: Line,
        listener: Listener,
        shared: &Arc<Shared>,
    ) -> Self {
        let plan = &shared.plan;
        let mut board = Board::of_models(plan.models.iter().map(String::as_str));
        board.manner = plan.manner(number);
        let clock_offset_ms = match plan.is_of("clock", number, plan.clock_faults) {
            true if number.is_multiple_of(2) => NEVER_SET_MS,
            true => AHEAD_MS,
            false => 0,
        };
        Self {
            number,
            shared: Arc::clone(shared),
            agent,
            board,
            outbox: Outbox::default(),
            line,
            listener,
            state: "not_enrolled".to_owned(),
            rhythm: Rhythm::default(),
            open: None,
            lost_at: None,
            predicted_at: Instant::now(),
            clock_offset_ms,
            outage_at: None,
            outages: 0,
            wishes_at_once: false,
            receipts: 0,
        }
    }

    /// Copies the gateway, key and all, onto another card.
    pub(crate) fn copied(&self, line: Line, start: [u8; 8]) -> Self {
        let mut agent = self.agent.clone();
        agent.start = StartId::from_bytes(start);
        let mut copy = Self::new(self.number, agent, line, self.listener.clone(), &self.shared);
        copy.board = self.board.clone();
        copy.state.clone_from(&self.state);
        copy
    }

    fn random(&self, purpose: &str) -> f64 {
        self.shared
            .plan
            .draw_unit(purpose, self.number ^ usize::try_from(self.agent.counter << 20).unwrap_or(0))
    }

    /// Enrols and reports in full; false where that failed for good.
    pub(crate) async fn enter(&mut self) -> bool {
        for attempt in 0..ENTRIES_MAX {
            let shared = Arc::clone(&self.shared);
            let Ok(_door) = shared.doors.acquire().await else { return false };
            if self.listener.has_ended() {
                return false;
            }
            if self.agent.incarnation.is_none() && !self.enrol().await {
                drop(_door);
                tokio::time::sleep(Duration::from_millis(200 << attempt.min(6))).await;
                continue;
            }
            // The report in full, so that what is measured later is the everyday question.
            self.exchange(0).await;
            if self.board.is_reported() || self.state != "active" {
                return true;
            }
        }
        self.agent.incarnation.is_some()
    }

    async fn enrol(&mut self) -> bool {
        let token = self.shared.plan.token.clone();
        let prepared = self.agent.wish(Some(&token), self.board.facts()).and_then(|wish| {
            let sealed = self.agent.seal_wish(&wish, Some(&token))?;
            Ok((wish, sealed))
        });
        let Ok((wish, sealed)) = prepared else {
            self.shared.figures.failed("wish");
            return false;
        };
        let bounds = (envelope_bytes_max(ENROLMENT_BYTES_MAX), PATIENCE);
        let reply = match self.line.post(ENROLL, ENVELOPE_MEDIA_TYPE, &sealed, bounds).await {
            Ok(reply) => reply,
            Err(error) => {
                self.shared.figures.failed(error.word());
                return false;
            }
        };
        let Ok(answer) = self.agent.read::<EnrollAnswer>(&reply.body) else {
            self.unsigned(&reply);
            return false;
        };
        if let Some(refusal) = &answer.refusal {
            self.shared.figures.failed(refusal.code.as_str());
            return false;
        }
        answer.state.as_str().clone_into(&mut self.state);
        self.agent.take_life(&wish, &answer).is_ok() && self.agent.incarnation.is_some()
    }

    /// Lives until the end of the run.
    pub(crate) async fn live(&mut self) {
        self.predicted_at = Instant::now();
        self.plan_outage();
        let spread = self.shared.plan.interval.unwrap_or(FIRST_SPREAD);
        let mut wait = spread.mul_f64(self.random("first"));
        loop {
            if !self.rest(wait).await {
                return;
            }
            if self.outage_at.is_some_and(|at| at <= Instant::now()) && !self.be_away().await {
                return;
            }
            wait = self.ask().await;
            if wait > KEPT {
                self.line.lose();
            }
        }
    }

    /// Waits; false at the end of the run.
    async fn rest(&mut self, wait: Duration) -> bool {
        let mut until = Instant::now() + wait;
        loop {
            let called = tokio::time::timeout_at(until.into(), self.listener.call()).await;
            match called {
                Err(_) => return true,
                Ok(Call::End) => return false,
                Ok(Call::Storm) => until = Instant::now() + self.lose(),
            }
        }
    }

    /// Loses its connection with all others; returns how long to wait then.
    fn lose(&mut self) -> Duration {
        self.line.lose();
        self.note_loss();
        self.rhythm.after_failure(self.random("storm"), None)
    }

    fn note_loss(&mut self) {
        if self.lost_at.is_none() {
            self.lost_at = Some(Instant::now());
            self.shared.figures.lost();
        }
    }

    fn plan_outage(&mut self) {
        let plan = &self.shared.plan;
        if !plan.is_of("outage", self.number, plan.outages) {
            return;
        }
        let lasts = plan.lasts.unwrap_or(Duration::from_secs(60));
        let up = 0.1 + 0.2 * plan.draw_unit("up", self.number + self.outages);
        self.outage_at = Some(Instant::now() + lasts.mul_f64(up));
    }

    /// Is away for a while; false at the end of the run.
    async fn be_away(&mut self) -> bool {
        self.outages += 1;
        self.shared.figures.outage();
        self.line.lose();
        let plan = &self.shared.plan;
        let lasts = plan.lasts.unwrap_or(Duration::from_secs(60));
        let down = lasts.mul_f64(0.05 + 0.1 * plan.draw_unit("down", self.number + self.outages));
        let goes_on = self.rest(down).await;
        self.plan_outage();
        goes_on
    }

    /// Asks once; returns how long to wait then.
    async fn ask(&mut self) -> Duration {
        let plan = &self.shared.plan;
        // After a failure the first answer is not waited for: it tells that the server is back.
        let may_be_kept = self.lost_at.is_none()
            && plan.interval.is_none()
            && !plan.is_metered
            && !self.board.is_busy()
            && self.board.is_reported();
        let has_rows = self.outbox.waiting() > 0;
        self.exchange(if may_be_kept && !has_rows { WAIT_SECONDS_MAX } else { 0 }).await
    }

    fn question(&mut self) -> ExchangeRequest {
        let plan = &self.shared.plan;
        let seconds = self.predicted_at.elapsed().as_secs_f64();
        self.predicted_at = Instant::now();
        if self.board.running().next().is_some() {
            let made = self.outbox.predict(seconds, plan.predictions_an_hour);
            self.board.predict(made);
        }
        let mut batches = Vec::new();
        if !plan.is_metered {
            let running = self.board.running().next();
            batches = self.outbox.batches(running).unwrap_or_default();
        }
        let mut question = self.agent.question(Vec::new());
        question.batches = List::first_of(batches);
        self.board.fill(&mut question);
        question.held.director_root = self.shared.mirror.director_root();
        question.health.uptime_s = self.shared.began.elapsed().as_secs();
        question.health.resident_bytes = 30 << 20;
        question.health.memory_available_bytes = 3 << 30;
        question.health.disk_free_bytes = 8 << 30;
        question.health.load = Some(0.25);
        question.clock.boot = Name::cut("simulated");
        question.clock.mono_ms = u64::try_from(clock::monotonic_micros() / 1_000).unwrap_or(0);
        question.clock.wall_ms = self.wall_ms();
        question.clock.synchronised = self.clock_offset_ms == 0;
        question
    }

    fn wall_ms(&self) -> i64 {
        clock::wall_micros() / 1_000 + self.clock_offset_ms
    }

    async fn exchange(&mut self, wait_seconds: u64) -> Duration {
        // A lost answer is asked for by the same question.
        let question = self.open.take().unwrap_or_else(|| self.question());
        let Ok(sealed) = self.agent.seal_short(&question) else {
            self.shared.figures.failed("question");
            return PATIENCE;
        };
        let asked_at = Instant::now();
        let kept = Duration::from_secs(wait_seconds);
        let bounds = (envelope_bytes_max(ANSWER_BYTES_MAX), PATIENCE + kept);
        let path = exchange_path(wait_seconds);
        let replied = tokio::select! {
            reply = self.line.post(&path, ENVELOPE_MEDIA_TYPE, &sealed, bounds) => Ok(reply),
            call = self.listener.call() => Err(call),
        };
        let reply = match replied {
            Ok(reply) => reply,
            Err(call) => {
                self.open = Some(question);
                return if call == Call::Storm { self.lose() } else { Duration::ZERO };
            }
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.shared.figures.failed(error.word());
                return self.no_answer(question, None);
            }
        };
        let answer = match self.agent.read::<ExchangeAnswer>(&reply.body) {
            Ok(answer) => answer,
            Err(AgentError::Envelope(_)) => {
                self.unsigned(&reply);
                return self.no_answer(question, reply.retry_after);
            }
            Err(_) => {
                self.shared.figures.failed("no_answer");
                return self.no_answer(question, None);
            }
        };
        if answer.require_answer_to(&question).is_err() {
            self.shared.figures.failed("other_answer");
            return self.no_answer(question, None);
        }
        self.answered(&question, &answer, asked_at.elapsed(), kept).await
    }

    fn no_answer(&mut self, question: ExchangeRequest, retry_after: Option<Duration>) -> Duration {
        self.open = Some(question);
        self.note_loss();
        self.rhythm.after_failure(self.random("failure"), retry_after)
    }

    fn unsigned(&self, reply: &Reply) {
        let problem = Problem::parse(&reply.body);
        let code =
            problem.map_or_else(|| format!("http_{}", reply.status), |problem| problem.code.to_string());
        self.shared.figures.failed(&code);
    }

    async fn answered(
        &mut self,
        question: &ExchangeRequest,
        answer: &ExchangeAnswer,
        time: Duration,
        kept: Duration,
    ) -> Duration {
        self.rhythm.answered();
        if let Some(lost_at) = self.lost_at.take() {
            self.shared.figures.back(lost_at.elapsed());
        }
        answer.state.as_str().clone_into(&mut self.state);
        if let Some(refusal) = &answer.refusal {
            self.shared.figures.failed(refusal.code.as_str());
            match &refusal.code {
                RefusalCode::Replayed => {
                    self.agent.counter = refusal.highest.map_or(self.agent.counter, |highest| highest.get());
                    return Duration::ZERO;
                }
                RefusalCode::ClonedIdentity => {
                    "cloned_identity".clone_into(&mut self.state);
                    self.shared.figures.cloned(self.agent.id());
                }
                _ => {}
            }
            return Duration::from_millis(answer.next_ms).max(self.shared.plan.interval.unwrap_or_default());
        }
        let brings_nothing = answer.desired.is_none()
            && answer.settings.is_none()
            && answer.receipts.is_empty()
            && answer.rejected.is_empty()
            && question.report.full.is_none();
        match (brings_nothing, time.checked_sub(kept)) {
            (true, Some(late)) if !kept.is_zero() => self.shared.figures.answered(Came::Kept, late),
            (true, _) if kept.is_zero() => self.shared.figures.answered(Came::Nothing, time),
            _ => self.shared.figures.answered(Came::News, time),
        }
        let before = self.outbox.waiting();
        self.outbox.hear(answer);
        self.receipts += before.saturating_sub(self.outbox.waiting());
        self.board.hear(answer);
        if let Some(desired) = &answer.desired {
            self.take(desired, question, answer.server_time_ms).await;
        }
        self.next(answer)
    }

    /// Takes a statement; one that is refused changes nothing.
    async fn take(&mut self, desired: &Desired, question: &ExchangeRequest, server_time_ms: u64) {
        let shared = Arc::clone(&self.shared);
        let order = if shared.plan.checks_statements {
            let now = UnixTime(i64::try_from(server_time_ms / 1_000).unwrap_or(0));
            let (id, nonce) = (self.agent.id().to_string(), question.nonce.to_string());
            match shared.mirror.check(&id, desired, &nonce, now).await {
                Ok((_, version)) if version < self.board.version => Err("rollback".to_owned()),
                Ok((told, version)) => Ok(Order::believed(&told, desired.revision, version)),
                Err(MirrorError::Refused(failure)) => Err(failure.code.to_string()),
                Err(_) => Err("files".to_owned()),
            }
        } else {
            Order::unverified(desired, &self.board.known).map_err(|_| "mismatch".to_owned())
        };
        match order {
            Ok(order) => {
                for chosen in &order.chosen {
                    shared.figures.told(&chosen.rollout, self.agent.id());
                }
                self.board.obey(&order);
                self.outbox.event();
                // What was taken is said at once.
                self.wishes_at_once = true;
            }
            Err(code) => shared.figures.refused_statement(&code),
        }
    }

    /// Goes on with what it tries, and returns how long to wait for the next question.
    fn next(&mut self, answer: &ExchangeAnswer) -> Duration {
        let plan = &self.shared.plan;
        let told = plan.interval.unwrap_or(Duration::from_millis(answer.next_ms));
        if self.board.is_busy() {
            self.board.go_on(self.wall_ms());
            return plan.step.min(told);
        }
        if std::mem::take(&mut self.wishes_at_once) || !self.board.is_reported() {
            return plan.step.min(told);
        }
        if answer.state != DeviceState::Active || plan.is_metered {
            return told;
        }
        // After rows comes the question that the server keeps open.
        if plan.interval.is_none() && !answer.receipts.is_empty() { Duration::ZERO } else { told }
    }
}
