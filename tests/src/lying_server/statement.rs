//! The lying server's statements: true ones, and each false one.

use std::collections::BTreeMap;

use dunlin_model_package::Digest;
use dunlin_protocol::List;
use dunlin_protocol::exchange::{Desired, DirectorFiles, ExchangeRequest};
use dunlin_protocol::text::MetadataText;
use dunlin_trust::director::{AssignmentNote, Requirements, StatementNote, WithdrawalNote};
use dunlin_trust::metadata::{
    FileVersion, Role as _, SPEC_VERSION, Snapshot, TargetDescription, Targets, Timestamp,
};
use dunlin_trust::sign::sign;
use dunlin_trust::time::UnixTime;

use super::{Lie, State};
use crate::failure::{Failure, Outcome};
use crate::fleet_owner::{ApprovedRelease, now};

const WEEK_SECONDS: i64 = 7 * 86_400;

/// Returns the statement that answers a question.
pub(super) fn make(state: &mut State, question: &ExchangeRequest) -> Outcome<Desired> {
    let lie = state.lie;
    let version = match lie {
        Some(Lie::OlderStatement) => question.held.director_version.saturating_sub(1).max(1),
        _ => {
            state.version = state.version.max(question.held.director_version) + 1;
            state.version
        }
    };
    let at = if lie == Some(Lie::ExpiredStatement) { UnixTime(now().0 - 2 * WEEK_SECONDS) } else { now() };
    let expires = UnixTime(at.0 + WEEK_SECONDS);
    let key = if lie == Some(Lie::StatementOfAStranger) { &state.stranger } else { &state.online };
    let targets = Targets {
        kind: Targets::TYPE.to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires,
        signed_at: None,
        custom: Some(serde_json::to_value(note(lie, question, at))?),
        targets: state.told.iter().map(|release| target(lie, release)).collect::<Outcome<_>>()?,
        delegations: None,
    };
    let targets_raw = sign(&targets, &[key]);
    let mut named = targets_raw.clone();
    if let (Some(Lie::StatementOfAnotherHash), Some(last)) = (lie, named.last_mut()) {
        *last ^= 1;
    }
    let snapshot = Snapshot {
        kind: Snapshot::TYPE.to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires,
        meta: BTreeMap::from([("targets.json".to_owned(), file_version(version, &named))]),
    };
    let snapshot_raw = sign(&snapshot, &[key]);
    let timestamp = Timestamp {
        kind: Timestamp::TYPE.to_owned(),
        spec_version: SPEC_VERSION.to_owned(),
        version,
        expires,
        meta: BTreeMap::from([("snapshot.json".to_owned(), file_version(version, &snapshot_raw))]),
    };
    let text = |raw: Vec<u8>| MetadataText::new(raw).map_err(Failure::of("send a statement"));
    let director = DirectorFiles {
        roots: List::default(),
        timestamp: text(sign(&timestamp, &[key]))?,
        snapshot: text(snapshot_raw)?,
        targets: text(targets_raw)?,
    };
    Ok(Desired { revision: state.revision, director })
}

fn note(lie: Option<Lie>, question: &ExchangeRequest, at: UnixTime) -> StatementNote {
    let withdrawal = WithdrawalNote {
        model: "nothing".to_owned(),
        digest: Digest::of(b"nothing"),
        rollout: "rol-1".to_owned(),
        reason: String::new(),
    };
    let withdrawn = match lie {
        Some(Lie::WithdrawalsWithoutEnd) => vec![withdrawal; dunlin_trust::limits::WITHDRAWN_MAX + 1],
        _ => Vec::new(),
    };
    let device = match lie {
        Some(Lie::StatementOfAnotherDevice) => dunlin_protocol::DeviceId::from_bytes([7; 16]).to_string(),
        _ => question.device.to_string(),
    };
    let nonce = match lie {
        Some(Lie::AnswerToAnotherQuestion) => dunlin_protocol::Nonce::from_bytes([7; 16]).to_string(),
        _ => question.nonce.to_string(),
    };
    StatementNote { device, nonce, server_time: at, withdrawn }
}

fn target(lie: Option<Lie>, release: &ApprovedRelease) -> Outcome<(String, TargetDescription)> {
    let requirements = Requirements {
        architectures: if lie == Some(Lie::AnotherArchitecture) {
            vec!["pdp11".to_owned()]
        } else {
            Vec::new()
        },
        engines: if lie == Some(Lie::AnotherEngine) { vec!["abacus-1".to_owned()] } else { Vec::new() },
    };
    let (rollout, slot) = ("rol-1".to_owned(), release.note.model.clone());
    let note = AssignmentNote { rollout, slot, requirements, retry_of_ms: None };
    let path = match lie {
        Some(Lie::UnapprovedRelease) => format!("models/{}/99.0.0/manifest.json", release.note.model),
        _ => release.path.clone(),
    };
    let digest = match lie {
        Some(Lie::AnotherManifest) => Digest::of(b"another manifest"),
        _ => release.digest,
    };
    let hashes = BTreeMap::from([("sha256".to_owned(), digest.to_string())]);
    let custom = Some(serde_json::to_value(note)?);
    Ok((path, TargetDescription { length: release.bytes, hashes, custom }))
}

fn file_version(version: u64, raw: &[u8]) -> FileVersion {
    let hashes = BTreeMap::from([("sha256".to_owned(), Digest::of(raw).to_string())]);
    FileVersion { version, length: Some(raw.len() as u64), hashes: Some(hashes) }
}
