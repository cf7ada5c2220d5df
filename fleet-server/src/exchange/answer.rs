//! From the envelope of a question to the envelope of its answer.
//!
//! The signature is checked before the payload is decompressed or read. Never touches a table: the transaction stands in
//! `judge`.

use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::backoff::random_unit;
use dunlin_protocol::enrolment::DeviceState as WireState;
use dunlin_protocol::exchange::Ask;
use dunlin_protocol::limits::WAIT_SECONDS_MAX;
use dunlin_protocol::message::MessageError;
use dunlin_protocol::refusal::{Refusal, RefusalCode};
use dunlin_protocol::{
    Counter, DeviceId, Envelope, ExchangeAnswer, ExchangeRequest, Form, List, Message as _, PublicKey,
    Verified, Words,
};

use sha2::{Digest as _, Sha256};

use super::ingest::{self, Sound};
use super::judge::{Judgement, Question, judge};
use super::waiters::Woken;
use crate::fleet::{Fleet, now_ms};
use crate::http::{Rejection, zstd_frame};
use crate::store::StoreError;
use crate::store::devices::{self, DeviceState};

/// When a gateway that is served asks again, on average: what a rollout waits for at most where no question waits.
const NEXT_MS: u64 = 60_000;
/// The same for one whose question may wait, after an answer that brought something: it asks on with what came of it. One
/// that refuses what it is told comes no more often.
const NEXT_WAITING_MS: u64 = 3_000;
/// The same for one that a person has to decide about.
const NEXT_UNDECIDED_MS: u64 = 300_000;
/// The same for one that is not served any more.
const NEXT_REVOKED_MS: u64 = 24 * 3_600 * 1_000;

/// The same for one whose rows were left with it, since the server has too much to do.
const NEXT_STRAINED_MS: u64 = 30_000;
/// Over how long those come back that waited when the server stopped: a second's work is some thousand questions.
const STOPPING_SPREAD_MS: u64 = 10_000;
/// Level of Zstandard for answers: texts of some hundred bytes to some kilobytes, made anew each time.
const ANSWER_LEVEL: i32 = 3;

/// An answer, with its HTTP status.
#[derive(Debug)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The signed answer.
    pub envelope: Vec<u8>,
    /// When the gateway asks next, in ms.
    pub next_ms: u64,
}

/// Answers a question; where there is nothing new, after `wait_seconds` or when there is. A question in a compressed form
/// is answered in one where that is shorter.
///
/// *Errors*: refusals that are not signed.
pub async fn exchange(fleet: &Fleet, question: Question, wait_seconds: u64) -> Result<Answered, Rejection> {
    let question = Arc::new(question);
    let request = &question.request;
    // The place is taken before the state is read, so that no change falls in between.
    let waiter = (wait_seconds > 0).then(|| fleet.waiters.join(request.device)).flatten();
    let mut answer = judged(fleet, &question).await?;
    let (may_wait, mut has_waited, mut is_stopping) = (waiter.is_some(), false, false);
    if let Some(waiter) = waiter.filter(|_| brings_nothing(&answer)) {
        let wait = Duration::from_secs(wait_seconds.min(WAIT_SECONDS_MAX));
        let woken = tokio::time::timeout(wait, waiter.woken()).await;
        has_waited = woken.is_err();
        if woken == Ok(Woken::News) {
            answer = judged(fleet, &question).await?;
        }
        is_stopping = woken == Ok(Woken::Stopping);
        answer.server_time_ms = now_ms();
    }
    if may_wait && answer.refusal.is_none() {
        answer.next_ms = match (is_stopping, has_waited) {
            // The next server is not asked by all at once.
            (true, _) => spread_over(STOPPING_SPREAD_MS),
            // Who waits is asked to wait on: else nothing would reach it between two questions.
            (_, true) => 0,
            _ => next_ms(NEXT_WAITING_MS),
        };
    }
    let status = answer.refusal.as_ref().map_or(200, |refusal| refusal.code.http_status());
    let plain =
        answer.to_plain().map_err(|error| Rejection::internal("an answer cannot be written", &error))?;
    let (form, payload) = match question.form {
        Form::Zstd => shorter(plain),
        Form::Plain => (Form::Plain, plain),
    };
    let sign = |message: &[u8]| fleet.key.sign(message);
    let sealed =
        Envelope::seal(ExchangeAnswer::payload_type(form), payload, &fleet.key.public().to_string(), sign);
    Ok(Answered { status, envelope: sealed.to_bytes(), next_ms: answer.next_ms })
}

/// Compresses a payload where that makes it shorter.
fn shorter(plain: Vec<u8>) -> (Form, Vec<u8>) {
    match zstd::bulk::compress(&plain, ANSWER_LEVEL) {
        Ok(frame) if frame.len() < plain.len() => (Form::Zstd, frame),
        _ => (Form::Plain, plain),
    }
}

fn brings_nothing(answer: &ExchangeAnswer) -> bool {
    answer.receipts.is_empty()
        && answer.rejected.is_empty()
        && !answer.asks.iter().any(|ask| matches!(ask, Ask::Report | Ask::Resend { .. }))
        && answer.refusal.is_none()
        && answer.desired.is_none()
        && answer.settings.is_none()
}

/// Checks who sent an envelope, then reads it.
///
/// *Errors*: refusals that are not signed.
pub async fn open(fleet: &Fleet, raw: &[u8]) -> Result<Question, Rejection> {
    let envelope = Envelope::parse(raw, ExchangeRequest::BYTES_MAX)
        .map_err(|error| Rejection::of(RefusalCode::Malformed, &error.to_string()))?;
    let Some(form) = ExchangeRequest::form_of(envelope.payload_type()) else {
        return Err(Rejection::of(RefusalCode::Unsupported, "the payload is no question of version 1"));
    };
    let device = envelope.key_ids().find_map(|id| id.parse::<DeviceId>().ok());
    let device =
        device.ok_or_else(|| Rejection::of(RefusalCode::Signature, "no signature names a device"))?;
    let key = key_of(fleet, device).await?;
    let digest = Sha256::digest(envelope.signed_bytes()).into();
    let payload =
        envelope.verify(&[key]).map_err(|error| Rejection::of(RefusalCode::Signature, &error.to_string()))?;
    let request: Verified<ExchangeRequest> = payload.read(zstd_frame).map_err(|error| {
        let code = match error {
            MessageError::Compressed => RefusalCode::TooLarge,
            MessageError::Type(_) => RefusalCode::Unsupported,
            MessageError::Json(_) | MessageError::Unsound(_) => RefusalCode::Malformed,
        };
        Rejection::of(code, &error.to_string())
    })?;
    let request = request.into_inner();
    if request.device != device {
        return Err(Rejection::of(RefusalCode::Signature, "the message is another device's"));
    }
    if request.server != fleet.server {
        return Err(Rejection::of(RefusalCode::WrongServer, "the message is meant for another server"));
    }
    let write = |error| Rejection::internal("a message cannot be kept", &error);
    let health = serde_json::to_string(&request.health).map_err(write)?;
    let report = request.report.full.as_ref().map(serde_json::to_string).transpose().map_err(write)?;
    // Whoever has too much to do takes the health of gateways, and leaves their rows with them until later.
    let is_strained = !request.batches.is_empty() && fleet.store.is_strained();
    let sound = if is_strained { Sound::default() } else { ingest::inspect(&request.batches) };
    Ok(Question { request, form, digest, sound, is_strained, health, report, now_ms: now_ms() })
}

async fn key_of(fleet: &Fleet, device: DeviceId) -> Result<PublicKey, Rejection> {
    if let Some(key) = fleet.keys.get(device) {
        return Ok(key);
    }
    let id = device.to_string();
    let key = fleet.store.read(move |sql| devices::public_key(sql, &id)).await?;
    let unknown = || Rejection::of(RefusalCode::UnknownDevice, "no such device is enrolled here");
    let key = <[u8; 32]>::try_from(key.ok_or_else(unknown)?.as_slice()).ok();
    let key = key.and_then(|key| PublicKey::from_bytes(&key).ok());
    let key = key.ok_or_else(|| StoreError::Damaged("a gateway's key is none".to_owned()))?;
    fleet.keys.put(key);
    Ok(key)
}

async fn judged(fleet: &Fleet, question: &Arc<Question>) -> Result<ExchangeAnswer, Rejection> {
    let work = Arc::clone(question);
    let judgement = fleet.store.write(move |sql| judge(sql, &work)).await?;
    let request = &question.request;
    let mut answer = ExchangeAnswer {
        device: request.device,
        server: fleet.server,
        incarnation: request.incarnation,
        counter: request.counter,
        nonce: request.nonce,
        server_time_ms: now_ms(),
        state: WireState::Active,
        next_ms: next_ms(NEXT_MS),
        report_known: None,
        receipts: List::default(),
        rejected: List::default(),
        desired: None,
        settings: None,
        asks: List::default(),
        refusal: None,
    };
    match judgement {
        Judgement::Unknown => {
            return Err(Rejection::of(RefusalCode::UnknownDevice, "no such device is enrolled here"));
        }
        Judgement::Refused { code, state, highest } => {
            answer.state = wire_state(state);
            answer.next_ms = next_of(state);
            let highest = highest.and_then(|highest| Counter::new(highest).ok());
            answer.refusal =
                Some(Refusal { words: Words::cut(&code.as_str().replace('_', " ")), code, highest });
        }
        Judgement::Taken { taken, report_known, statement, settings, wishes } => {
            let desired = statement.map(|draft| draft.sign(fleet.key.role())).transpose();
            let desired = desired.map_err(|error| Rejection::internal("a statement is too long", &error))?;
            answer.desired = desired.map(Box::new);
            answer.settings = settings;
            answer.receipts = List::first_of(taken.receipts);
            answer.rejected = List::first_of(taken.rejected);
            let report = (report_known != Some(request.report.digest)).then_some(Ask::Report);
            answer.asks = List::first_of(report.into_iter().chain(wishes.asks));
            if let Some(mean) = wishes.next_ms {
                answer.next_ms = next_ms(mean);
            }
            if question.is_strained {
                answer.next_ms = next_ms(NEXT_STRAINED_MS);
            }
            answer.report_known = report_known;
        }
    }
    Ok(answer)
}

/// Returns a moment within a time.
fn spread_over(time_ms: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "some seconds in ms"
    )]
    let moment = (time_ms as f64 * random_unit()) as u64;
    moment
}

/// Spreads a time by a quarter either way, so that gateways which were switched on together drift apart.
fn next_ms(mean: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a day in ms times at most 1.25"
    )]
    let spread = (mean as f64 * (0.75 + random_unit() / 2.0)) as u64;
    spread
}

/// Returns when a gateway of a state asks next.
pub(crate) fn next_of(state: DeviceState) -> u64 {
    next_ms(match state {
        DeviceState::Active => NEXT_MS,
        DeviceState::Pending | DeviceState::Suspended => NEXT_UNDECIDED_MS,
        DeviceState::Revoked => NEXT_REVOKED_MS,
    })
}

/// Returns a state as the wire has it.
pub(crate) const fn wire_state(state: DeviceState) -> WireState {
    match state {
        DeviceState::Active => WireState::Active,
        DeviceState::Pending => WireState::Pending,
        DeviceState::Suspended => WireState::Suspended,
        DeviceState::Revoked => WireState::Revoked,
    }
}
