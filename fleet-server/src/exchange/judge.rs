//! One message of a gateway in one transaction: who speaks, whether it is new, and what is kept of it.
//!
//! Whatever counters accept is on disk before an answer leaves: nothing is kept in memory for it, so that a restart or
//! another process never takes what was taken before. That costs no flush a message, since the store commits messages
//! that arrive together at once. Never signs or sends.

use dunlin_protocol::exchange::{Defer, SettingsOffer};
use dunlin_protocol::refusal::RefusalCode;
use dunlin_protocol::{Digest, ExchangeRequest, Form};

use super::counter::Verdict;
use super::ingest::{self, Sound, Taken};
use super::resends;
use super::wishes::{self, Wishes};
use crate::director::{self, Draft, Standing};
use crate::rollout::facts::Deferral;
use crate::store::audit::{self, Deed};
use crate::store::devices::{self, DeviceState, Speaker};
use crate::store::messages::{self, Heard};
use crate::store::{Sql, StoreError, events, sightings};

/// Why a gateway is suspended whose key speaks twice.
pub(super) const CLONED: &str = "cloned_identity";

/// A message whose signature was checked, ready for the transaction.
#[derive(Debug)]
pub struct Question {
    pub(super) request: ExchangeRequest,
    /// How it was written, and so what the gateway reads.
    pub(super) form: Form,
    /// Over the bytes that are signed: what stands around them in the envelope is anybody's on the way.
    pub(super) digest: [u8; 32],
    pub(super) sound: Sound,
    /// Rows were left out, since the server has too much to do.
    pub(super) is_strained: bool,
    pub(super) health: String,
    pub(super) report: Option<String>,
    pub(super) now_ms: u64,
}

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Judgement {
    /// There is no such gateway.
    Unknown,
    /// It is refused by a signed answer.
    Refused { code: RefusalCode, state: DeviceState, highest: Option<u64> },
    /// It was taken, now or before.
    Taken {
        taken: Taken,
        report_known: Option<Digest>,
        statement: Option<Box<Draft>>,
        settings: Option<SettingsOffer>,
        wishes: Wishes,
    },
}

pub(super) fn judge(sql: &mut dyn Sql, question: &Question) -> Result<Judgement, StoreError> {
    let request = &question.request;
    let id = request.device.to_string();
    let Some(device) = devices::speaker(sql, &id)? else { return Ok(Judgement::Unknown) };
    let refused = |code| Ok(Judgement::Refused { code, state: device.state, highest: None });
    if device.state == DeviceState::Revoked {
        return refused(RefusalCode::Revoked);
    }
    if device.incarnation != request.incarnation.to_string() {
        return refused(RefusalCode::WrongIncarnation);
    }
    let (counter, start) = (request.counter.get(), request.start.to_string());
    let known = messages::known(sql, &id, device.counter, device.start.clone(), (counter, &start))?;
    let replayed = || Judgement::Refused {
        code: RefusalCode::Replayed,
        state: device.state,
        highest: Some(device.counter),
    };
    match known.judge(counter, &start, &question.digest) {
        Verdict::Cloned => return suspend(sql, &id, &device, counter, &start, question.now_ms),
        Verdict::Replayed => return Ok(replayed()),
        Verdict::Repeated if counter < device.counter => return Ok(replayed()),
        Verdict::Repeated => {}
        Verdict::New => {
            let digest = request.report.digest.to_string();
            let heard = Heard {
                device: &id,
                counter,
                start: &start,
                digest: question.digest,
                now_ms: question.now_ms,
                health: &question.health,
                report: question.report.as_deref().map(|report| (report, digest.as_str())),
            };
            messages::take(sql, &heard, device.start.as_deref())?;
            if let Some(defer) = &request.defer {
                note_deferral(sql, &id, defer, question)?;
            }
        }
    }
    match device.state {
        DeviceState::Pending => return refused(RefusalCode::Pending),
        DeviceState::Suspended if device.reason.as_deref() == Some(CLONED) => {
            return refused(RefusalCode::ClonedIdentity);
        }
        DeviceState::Suspended => return refused(RefusalCode::Suspended),
        DeviceState::Active | DeviceState::Revoked => {}
    }
    let taken = ingest::take(sql, &id, &question.sound, question.now_ms)?;
    let report_known = match &question.report {
        Some(_) => Some(request.report.digest),
        None => device.report_digest.as_deref().and_then(|digest| digest.parse().ok()),
    };
    let standing = Standing {
        device: &id,
        revision: device.desired_revision,
        version: device.director_version,
        made_ms: device.director_ms,
    };
    let statement = director::draft(sql, standing, &request.held, request.nonce, question.now_ms)?;
    let settings = director::settings_for(sql, standing, &request.held)?;
    let mut wishes = wishes::of(sql, &id)?;
    // Rows that were left with the gateway do wait there.
    if !question.is_strained {
        let is_jump = counter > device.counter.saturating_add(1);
        wishes.asks.extend(resends::asks(sql, &id, request, is_jump)?);
    }
    Ok(Judgement::Taken { taken, report_known, statement: statement.map(Box::new), settings, wishes })
}

/// Keeps a gateway's wish to be left alone, by the server's clock: the gateway's may be anything.
fn note_deferral(
    sql: &mut dyn Sql,
    device: &str,
    defer: &Defer,
    question: &Question,
) -> Result<(), StoreError> {
    let for_ms = defer.until_ms.saturating_sub(question.request.clock.wall_ms);
    let until_ms = question.now_ms.saturating_add(u64::try_from(for_ms).unwrap_or(0));
    let deferral = Deferral { until_ms, rollout: defer.rollout.map(|rollout| rollout.to_string()) };
    sightings::note_deferral(sql, device, &deferral, defer.reason.as_str(), question.now_ms)
}

/// Suspends a gateway whose key speaks twice: both of them, since nobody can tell which is the right one.
fn suspend(
    sql: &mut dyn Sql,
    id: &str,
    device: &Speaker,
    counter: u64,
    start: &str,
    now_ms: u64,
) -> Result<Judgement, StoreError> {
    if device.reason.as_deref() != Some(CLONED) {
        devices::set_state(sql, id, DeviceState::Suspended, Some(CLONED))?;
        let body = serde_json::json!({ "state": DeviceState::Suspended.word(), "reason": CLONED });
        events::add(sql, "device.state", id, &body, now_ms)?;
        let detail = serde_json::json!({ "counter": counter, "highest": device.counter, "start": start });
        audit::add(
            sql,
            &Deed {
                at_ms: now_ms,
                who: "server".to_owned(),
                action: "device.suspend".to_owned(),
                object: id.to_owned(),
                reason: CLONED.to_owned(),
                detail: detail.to_string(),
            },
        )?;
    }
    Ok(Judgement::Refused { code: RefusalCode::ClonedIdentity, state: DeviceState::Suspended, highest: None })
}
