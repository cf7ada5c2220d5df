//! Enrolment: a gateway with a token, one that is expected by its key, and one that a person accepts.
//!
//! Decides in one transaction, with the token's use; an enrolment that is sent again is answered with the same life. Never
//! lets one that is suspended or revoked in again.

use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_protocol::enrolment::{EnrollAnswer, EnrollRequest, Enrolment, EnrolmentError};
use dunlin_protocol::list::Labels;
use dunlin_protocol::message::MessageError;
use dunlin_protocol::refusal::{Refusal, RefusalCode};
use dunlin_protocol::{DeviceId, Envelope, Incarnation, Message as _, Name, ProofKey, PublicKey, Words};

use crate::exchange::{Answered, next_of, wire_state};
use crate::fleet::{Fleet, now_ms, random};
use crate::http::Rejection;
use crate::store::audit::{self, Deed};
use crate::store::devices::{self, Device, DeviceState};
use crate::store::{Sql, StoreError, events, image, tokens};

/// Gateways that may wait for a person: as many as somebody looks through. Others are told to come back.
pub const PENDING_MAX: u64 = 1_000;
/// Enrolments of one gateway: one a year for a long life, and many mistakes.
pub const ENROLMENTS_MAX: u64 = 256;

/// Answers an enrolment.
///
/// *Errors*: refusals that are not signed.
pub async fn enrol(fleet: &Fleet, raw: &[u8]) -> Result<Answered, Rejection> {
    let envelope = Envelope::parse(raw, EnrollRequest::BYTES_MAX)
        .map_err(|error| Rejection::of(RefusalCode::Malformed, &error.to_string()))?;
    let enrolment = Enrolment::open(envelope).map_err(|error| match error {
        EnrolmentError::Message(error @ MessageError::Type(_)) => {
            Rejection::of(RefusalCode::Unsupported, &error.to_string())
        }
        EnrolmentError::Message(error) => Rejection::of(RefusalCode::Malformed, &error.to_string()),
        EnrolmentError::Envelope(error) => Rejection::of(RefusalCode::Signature, &error.to_string()),
    })?;
    let enrolment = Arc::new(enrolment);
    let request = enrolment.request();
    if request.server_url.trim_end_matches('/') != fleet.public_url {
        return Err(Rejection::of(RefusalCode::WrongServer, "the message is meant for another URL"));
    }
    let made = random().map_err(|error| Rejection::internal("there is no randomness", &error))?;
    let (work, now) = (Arc::clone(&enrolment), now_ms());
    let decision =
        fleet.store.write(move |sql| decide(sql, &work, Incarnation::from_bytes(made), now)).await?;
    let mut answer = EnrollAnswer {
        device: request.device(),
        server: fleet.server,
        nonce: request.nonce,
        server_time_ms: now_ms(),
        state: wire_state(DeviceState::Pending),
        incarnation: None,
        labels: Labels::default(),
        next_ms: next_of(DeviceState::Pending),
        refusal: None,
    };
    match decision {
        Decision::Enrolled { incarnation, state, labels } => {
            answer.state = wire_state(state);
            answer.next_ms = if state == DeviceState::Active { 0 } else { next_of(state) };
            answer.labels = labels;
            answer.incarnation = Some(incarnation);
        }
        Decision::Refused { code, state } if code.is_signed() => {
            answer.state = wire_state(state);
            answer.next_ms = next_of(state);
            let words = Words::cut(&code.as_str().replace('_', " "));
            answer.refusal = Some(Refusal { code, words, highest: None });
        }
        Decision::Refused { code, .. } => return Err(Rejection::of(code, "the enrolment is refused")),
    }
    let status = answer.refusal.as_ref().map_or(200, |refusal| refusal.code.http_status());
    let sealed = Envelope::of(&answer, &fleet.key.public().to_string(), |message| fleet.key.sign(message));
    let sealed = sealed.map_err(|error| Rejection::internal("an answer cannot be written", &error))?;
    Ok(Answered { status, envelope: sealed.to_bytes(), next_ms: answer.next_ms })
}

enum Decision {
    Enrolled { incarnation: Incarnation, state: DeviceState, labels: Labels },
    Refused { code: RefusalCode, state: DeviceState },
}

/// Who lets a gateway in, and with which labels.
struct Admission {
    state: DeviceState,
    by: String,
    labels: BTreeMap<String, String>,
}

fn decide(
    sql: &mut dyn Sql,
    enrolment: &Enrolment,
    made: Incarnation,
    now_ms: u64,
) -> Result<Decision, StoreError> {
    let request = enrolment.request();
    let (id, nonce) = (request.device().to_string(), request.nonce.to_string());
    let known = devices::get(sql, &id)?;
    let state = known.as_ref().map_or(DeviceState::Pending, |known| known.state);
    let refused = |code| Ok(Decision::Refused { code, state });
    if !image::has_root(sql, &request.root)? {
        return refused(RefusalCode::WrongRoot);
    }
    match state {
        DeviceState::Revoked => return refused(RefusalCode::Revoked),
        DeviceState::Suspended => return refused(RefusalCode::Suspended),
        DeviceState::Active | DeviceState::Pending => {}
    }
    if let (Some(known), Some(life)) = (&known, tokens::answered(sql, &id, &nonce)?) {
        // An older one was recorded, or its sender has been enrolled since.
        return if life == known.incarnation {
            enrolled(known)
        } else {
            refused(RefusalCode::WrongIncarnation)
        };
    }
    if let (Some(known), Some(previous)) = (&known, request.previous)
        && previous.to_string() != known.incarnation
    {
        return refused(RefusalCode::WrongIncarnation);
    }
    if tokens::count_answered(sql, &id)? >= ENROLMENTS_MAX {
        return refused(RefusalCode::TooMany);
    }
    let admission = match admit(sql, enrolment, known.as_ref(), now_ms)? {
        Ok(admission) => admission,
        Err(code) => return refused(code),
    };
    let facts = serde_json::to_string(&request.facts)
        .map_err(|_| StoreError::Damaged("facts cannot be written".to_owned()))?;
    let mut labels = known.as_ref().map(|known| known.labels.clone()).unwrap_or_default();
    labels.extend(admission.labels);
    let device = Device {
        id,
        public_key: request.key.as_bytes().to_vec(),
        state: admission.state,
        reason: None,
        incarnation: made.to_string(),
        counter: 0,
        start: None,
        enrolled_ms: now_ms,
        enrolled_by: admission.by,
        seen_ms: now_ms,
        utc_offset_min: known.as_ref().map_or(0, |known| known.utc_offset_min),
        facts,
        report: None,
        health: None,
        desired_revision: known.as_ref().map_or(0, |known| known.desired_revision),
        director_version: known.as_ref().map_or(0, |known| known.director_version),
        director_ms: known.as_ref().map_or(0, |known| known.director_ms),
        labels,
    };
    devices::enrol(sql, &device)?;
    tokens::note_answered(sql, &device.id, &nonce, &device.incarnation, now_ms)?;
    tell(sql, &device, now_ms)?;
    enrolled(&device)
}

/// Writes down that a gateway came in.
fn tell(sql: &mut dyn Sql, device: &Device, now_ms: u64) -> Result<(), StoreError> {
    let (who, object) = (device.enrolled_by.clone(), device.id.clone());
    let detail = serde_json::json!({ "state": device.state.word() }).to_string();
    let action = "device.enrol".to_owned();
    audit::add(sql, &Deed { at_ms: now_ms, who, action, object, reason: String::new(), detail })?;
    let body = serde_json::json!({ "state": device.state.word(), "labels": device.labels });
    events::add(sql, "device.enrolled", &device.id, &body, now_ms).map(drop)
}

/// Lets a gateway in that is expected by its key and sends its results by file; tells whether it was expected. It never
/// saw this server, and so it knows no incarnation: should it speak to the server one day, it enrols as any other.
///
/// *Errors*: the store's.
pub(crate) fn admit_expected(
    sql: &mut dyn Sql,
    (id, key): (&str, &PublicKey),
    facts: &str,
    made: Incarnation,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let Some((labels, by)) = tokens::take_expected(sql, id)? else { return Ok(false) };
    let device = Device {
        id: id.to_owned(),
        public_key: key.as_bytes().to_vec(),
        state: DeviceState::Active,
        reason: None,
        incarnation: made.to_string(),
        counter: 0,
        start: None,
        enrolled_ms: now_ms,
        enrolled_by: by,
        seen_ms: now_ms,
        utc_offset_min: 0,
        facts: facts.to_owned(),
        report: None,
        health: None,
        desired_revision: 0,
        director_version: 0,
        director_ms: 0,
        labels: read_labels(&labels)?,
    };
    devices::enrol(sql, &device)?;
    tell(sql, &device, now_ms)?;
    Ok(true)
}

fn admit(
    sql: &mut dyn Sql,
    enrolment: &Enrolment,
    known: Option<&Device>,
    now_ms: u64,
) -> Result<Result<Admission, RefusalCode>, StoreError> {
    let request = enrolment.request();
    let id = request.device().to_string();
    if let Some(token) = request.token.map(|token| token.to_string()) {
        let Some(kept) = tokens::get(sql, &token)? else { return Ok(Err(RefusalCode::Token)) };
        let key = <[u8; 32]>::try_from(kept.proof_key.as_slice())
            .map_err(|_| StoreError::Damaged("a token's key is too short".to_owned()))?;
        let is_good = kept.revoked_ms.is_none()
            && now_ms < kept.expires_ms
            && enrolment.is_proven_by(&ProofKey::from_bytes(key));
        if !is_good || !tokens::use_once(sql, &token)? {
            return Ok(Err(RefusalCode::Token));
        }
        let labels = read_labels(&kept.labels)?;
        return Ok(Ok(Admission { state: DeviceState::Active, by: token, labels }));
    }
    if let Some((labels, by)) = tokens::take_expected(sql, &id)? {
        return Ok(Ok(Admission { state: DeviceState::Active, by, labels: read_labels(&labels)? }));
    }
    if let Some(known) = known.filter(|_| request.previous.is_some()) {
        let by = known.enrolled_by.clone();
        return Ok(Ok(Admission { state: known.state, by, labels: BTreeMap::new() }));
    }
    if known.is_none_or(|known| known.state != DeviceState::Pending)
        && tokens::count_pending(sql)? >= PENDING_MAX
    {
        return Ok(Err(RefusalCode::TooMany));
    }
    Ok(Ok(Admission { state: DeviceState::Pending, by: "nobody".to_owned(), labels: BTreeMap::new() }))
}

fn read_labels(text: &str) -> Result<BTreeMap<String, String>, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Damaged("labels cannot be read".to_owned()))
}

fn enrolled(device: &Device) -> Result<Decision, StoreError> {
    let damaged = |what: &str| StoreError::Damaged(format!("{what} of `{}` cannot be read", device.id));
    let incarnation = device.incarnation.parse().map_err(|_| damaged("the incarnation"))?;
    let mut labels = Labels::default();
    for (name, value) in &device.labels {
        let (name, value) = (Name::new(name.as_str()), Name::new(value.as_str()));
        let (Ok(name), Ok(value)) = (name, value) else { return Err(damaged("a label")) };
        // What is beyond the most that a message may bring stays with the server.
        let _ = labels.insert(name, value);
    }
    Ok(Decision::Enrolled { incarnation, state: device.state, labels })
}

/// Lets a gateway speak that waited for it, and wakes its question.
///
/// *Errors*: there is no such gateway that waits.
pub async fn accept(fleet: &Fleet, device: DeviceId, who: &str) -> Result<(), StoreError> {
    let (id, who) = (device.to_string(), who.to_owned());
    let work = move |sql: &mut dyn Sql| {
        match devices::get(sql, &id)?.map(|device| device.state) {
            Some(DeviceState::Pending) => {}
            _ => return Err(StoreError::Conflict(format!("no gateway `{id}` waits to be accepted"))),
        }
        devices::set_state(sql, &id, DeviceState::Active, None)?;
        let action = "device.accept".to_owned();
        let (who, object, detail) = (who.clone(), id.clone(), "{}".to_owned());
        audit::add(sql, &Deed { at_ms: now_ms(), who, action, object, reason: String::new(), detail })?;
        Ok(())
    };
    fleet.store.write(work).await?;
    fleet.waiters.wake(device);
    Ok(())
}
