//! Results that came by file: a part's envelope, and the signed answer that travels back to the gateway.
//!
//! The same rows are taken once, however they come. Needs no counter, and moves none: a part that is taken again changes
//! nothing. Its report counts only while the gateway has not been heard since, and no later file was taken.

use std::sync::Arc;

use dunlin_protocol::message::MessageError;
use dunlin_protocol::refusal::{Refusal, RefusalCode};
use dunlin_protocol::results::{Results, ResultsAnswer};
use dunlin_protocol::{
    DeviceId, Digest, Envelope, Incarnation, List, Message as _, PublicKey, Range, Verified, Words,
};

use super::answer::wire_state;
use super::ingest::{self, Sound, Taken};
use super::judge::CLONED;
use crate::enrolment::admit_expected;
use crate::fleet::{Fleet, now_ms, random};
use crate::http::{Rejection, zstd_frame};
use crate::store::devices::{self, DeviceState};
use crate::store::{Sql, StoreError, messages};

use super::answer::Answered;

/// The pretended stream under which it is kept how new the newest report is that came by file: as one range up to the
/// gateway's clock in ms. No gateway has a stream of this name.
const FILES: &str = "results";

/// A part whose signature was checked.
struct Part {
    results: Results,
    key: PublicKey,
    sound: Sound,
    health: String,
    report: Option<(String, String)>,
    facts: String,
}

enum Judgement {
    Unknown,
    Refused { code: RefusalCode, state: DeviceState },
    Taken { taken: Taken, state: DeviceState },
}

/// Takes a part.
///
/// *Errors*: refusals that are not signed.
pub async fn take_results(fleet: &Fleet, raw: &[u8]) -> Result<Answered, Rejection> {
    let part = Arc::new(open(fleet, raw)?);
    let made = random().map_err(|error| Rejection::internal("there is no randomness", &error))?;
    let (work, now) = (Arc::clone(&part), now_ms());
    let judgement =
        fleet.store.write(move |sql| judge(sql, &work, Incarnation::from_bytes(made), now)).await?;
    let results = &part.results;
    let mut answer = ResultsAnswer {
        device: results.device,
        server: fleet.server,
        file: results.file,
        part: results.part,
        server_time_ms: now_ms(),
        state: wire_state(DeviceState::Active),
        receipts: List::default(),
        rejected: List::default(),
        rows_new: 0,
        refusal: None,
    };
    match judgement {
        Judgement::Unknown => {
            let words = "no such device is enrolled or expected here";
            return Err(Rejection::of(RefusalCode::UnknownDevice, words));
        }
        Judgement::Refused { code, state } => {
            answer.state = wire_state(state);
            let words = Words::cut(&code.as_str().replace('_', " "));
            answer.refusal = Some(Refusal { code, words, highest: None });
        }
        Judgement::Taken { taken, state } => {
            answer.state = wire_state(state);
            answer.rows_new = taken.rows_new;
            answer.receipts = List::first_of(taken.receipts);
            answer.rejected = List::first_of(taken.rejected);
        }
    }
    let status = answer.refusal.as_ref().map_or(200, |refusal| refusal.code.http_status());
    let sealed = Envelope::of(&answer, &fleet.key.public().to_string(), |message| fleet.key.sign(message));
    let sealed = sealed.map_err(|error| Rejection::internal("an answer cannot be written", &error))?;
    Ok(Answered { status, envelope: sealed.to_bytes(), next_ms: 0 })
}

/// Checks who signed a part, then reads it.
fn open(fleet: &Fleet, raw: &[u8]) -> Result<Part, Rejection> {
    let refused = |code, words: &str| Rejection::of(code, words);
    let envelope = Envelope::parse(raw, Results::BYTES_MAX)
        .map_err(|error| refused(RefusalCode::Malformed, &error.to_string()))?;
    if Results::form_of(envelope.payload_type()).is_none() {
        return Err(refused(RefusalCode::Unsupported, "the payload is no part of results of version 1"));
    }
    let key = envelope.key_ids().find_map(|id| id.parse::<PublicKey>().ok());
    let key = key.ok_or_else(|| refused(RefusalCode::Signature, "no signature names a device's key"))?;
    let payload =
        envelope.verify(&[key]).map_err(|error| refused(RefusalCode::Signature, &error.to_string()))?;
    let results: Verified<Results> = payload.read(zstd_frame).map_err(|error| {
        let code = match error {
            MessageError::Compressed => RefusalCode::TooLarge,
            MessageError::Type(_) => RefusalCode::Unsupported,
            MessageError::Json(_) | MessageError::Unsound(_) => RefusalCode::Malformed,
        };
        refused(code, &error.to_string())
    })?;
    let results = results.into_inner();
    if results.device != DeviceId::of(&key) {
        return Err(refused(RefusalCode::Signature, "the results are another device's"));
    }
    if results.server.is_some_and(|server| server != fleet.server) {
        return Err(refused(RefusalCode::WrongServer, "the results are meant for another server"));
    }
    let write = |error| Rejection::internal("results cannot be kept", &error);
    let health = serde_json::to_string(&results.health).map_err(write)?;
    let report = results.report.as_ref().map(serde_json::to_string).transpose().map_err(write)?;
    let report = report.map(|text| (Digest::of(text.as_bytes()).to_string(), text));
    let facts = results.report.as_ref().map(|report| serde_json::to_string(&report.facts)).transpose();
    let facts = facts.map_err(write)?.unwrap_or_else(|| "{}".to_owned());
    let sound = ingest::inspect(&results.batches);
    Ok(Part { results, key, sound, health, report, facts })
}

fn judge(sql: &mut dyn Sql, part: &Part, made: Incarnation, now_ms: u64) -> Result<Judgement, StoreError> {
    let results = &part.results;
    let id = results.device.to_string();
    let mut speaker = devices::speaker(sql, &id)?;
    if speaker.is_none() && admit_expected(sql, (&id, &part.key), &part.facts, made, now_ms)? {
        speaker = devices::speaker(sql, &id)?;
    }
    let Some(device) = speaker else { return Ok(Judgement::Unknown) };
    let state = device.state;
    let refused = |code| Ok(Judgement::Refused { code, state });
    match state {
        DeviceState::Revoked => return refused(RefusalCode::Revoked),
        DeviceState::Pending => return refused(RefusalCode::Pending),
        DeviceState::Suspended if device.reason.as_deref() == Some(CLONED) => {
            return refused(RefusalCode::ClonedIdentity);
        }
        DeviceState::Suspended => return refused(RefusalCode::Suspended),
        DeviceState::Active => {}
    }
    if results.incarnation.is_some_and(|life| life.to_string() != device.incarnation) {
        return refused(RefusalCode::WrongIncarnation);
    }
    let taken = ingest::take(sql, &id, &part.sound, now_ms)?;
    if let Some((digest, report)) = &part.report
        && is_newest(sql, &id, results, device.counter)?
    {
        messages::take_report(sql, &id, &part.health, (report, digest))?;
    }
    Ok(Judgement::Taken { taken, state })
}

/// Tells whether nothing newer is known of a gateway than a file, and keeps that this is the newest then.
fn is_newest(sql: &mut dyn Sql, id: &str, results: &Results, heard: u64) -> Result<bool, StoreError> {
    if heard > 0 && heard >= results.counter_ceiling {
        return Ok(false);
    }
    let Ok(time) = u64::try_from(results.clock.wall_ms) else { return Ok(false) };
    let Ok(until) = Range::new(1, time) else { return Ok(false) };
    let before = messages::received(sql, id, FILES)?;
    if before.iter().any(|range| range.last() >= time) {
        return Ok(false);
    }
    messages::set_received(sql, id, FILES, &until.into())?;
    Ok(true)
}
