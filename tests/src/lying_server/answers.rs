//! The lying server's side of enrolment and exchange, and the files that it gives out.

use dunlin_model_package::Digest;
use dunlin_protocol::enrolment::{DeviceState, EnrollAnswer, EnrollRequest, Enrolment};
use dunlin_protocol::exchange::Receipt;
use dunlin_protocol::list::Labels;
use dunlin_protocol::{
    Counter, DeviceId, Envelope, ExchangeAnswer, ExchangeRequest, Incarnation, List, Message as _, ServerId,
};
use dunlin_trust::metadata::{Targets, Timestamp};
use dunlin_trust::sign::repository::{Files, Lifetimes, Refresh, Repository};
use dunlin_trust::sign::sign;
use dunlin_trust::time::UnixTime;

use super::{LIFETIMES, Lie, State, statement};
use crate::failure::{Failure, Outcome};
use crate::fleet_owner::now;

/// When a gateway asks again: often, so that tests are short.
const NEXT_MS: u64 = 200;
/// What a small frame grows to: more than a gateway may take.
const BOMB_BYTES: u64 = 512 << 20;

/// Enrols whoever asks.
pub(super) fn enrol(state: &mut State, raw: &[u8]) -> Outcome<Vec<u8>> {
    let envelope =
        Envelope::parse(raw, EnrollRequest::BYTES_MAX).map_err(Failure::of("read an enrolment"))?;
    let enrolment = Enrolment::open(envelope).map_err(Failure::of("open an enrolment"))?;
    let request = enrolment.request();
    let incarnation = Incarnation::from_bytes([state.devices.len() as u8 + 1; 16]);
    let (_, incarnation) = state.devices.entry(request.device()).or_insert((request.key, incarnation));
    let answer = EnrollAnswer {
        device: request.device(),
        server: state.id,
        nonce: request.nonce,
        server_time_ms: now_ms(),
        state: DeviceState::Active,
        incarnation: Some(*incarnation),
        labels: Labels::default(),
        next_ms: 0,
        refusal: None,
    };
    let key = state.online.public().id().0;
    let sealed = Envelope::of(&answer, &key, |message| state.sign(message));
    Ok(sealed.map_err(Failure::of("write an answer"))?.to_bytes())
}

/// Answers a question, truly or not.
pub(super) fn exchange(state: &mut State, raw: &[u8]) -> Outcome<Vec<u8>> {
    let envelope =
        Envelope::parse(raw, ExchangeRequest::BYTES_MAX).map_err(Failure::of("read a question"))?;
    let device = envelope.key_ids().find_map(|id| id.parse::<DeviceId>().ok());
    let known = device.and_then(|device| state.devices.get(&device).copied());
    let (key, _) = known.ok_or_else(|| Failure::new("an unknown device"))?;
    let payload = envelope.verify(&[key]).map_err(Failure::of("check a question"))?;
    let read =
        payload.read::<ExchangeRequest>(|frame, bytes_max| zstd::bulk::decompress(frame, bytes_max).ok());
    let question = read.map_err(Failure::of("read a question"))?.into_inner();
    state.questions.push(question.clone());
    let is_due = state.revision > 0 && question.held.desired_revision != state.revision;
    let desired = is_due.then(|| statement::make(state, &question)).transpose()?;
    let receipts = question
        .batches
        .iter()
        .map(|batch| Receipt { stream: batch.stream().clone(), ranges: batch.range().into() });
    let mut answer = ExchangeAnswer {
        device: question.device,
        server: question.server,
        incarnation: question.incarnation,
        counter: question.counter,
        nonce: question.nonce,
        server_time_ms: now_ms(),
        state: DeviceState::Active,
        next_ms: NEXT_MS,
        report_known: Some(question.report.digest),
        receipts: List::first_of(receipts),
        rejected: List::default(),
        desired: desired.map(Box::new),
        settings: None,
        asks: List::default(),
        refusal: None,
    };
    match state.lie {
        Some(Lie::AnswerOfAnotherDevice) => answer.device = DeviceId::from_bytes([7; 16]),
        Some(Lie::AnswerOfAnotherServer) => answer.server = ServerId::new(7, [7; 10]),
        Some(Lie::AnswerToAnotherNumber) => {
            answer.counter = Counter::new(question.counter.get() + 1).map_err(Failure::of("count"))?;
        }
        _ => {}
    }
    let key = state.online.public().id().0;
    if state.lie == Some(Lie::BombAnswer) {
        let bomb = zstd::stream::encode_all(std::io::Read::take(std::io::repeat(b' '), BOMB_BYTES), 1)?;
        return Ok(
            Envelope::seal(ExchangeAnswer::ZSTD_TYPE, bomb, &key, |message| state.sign(message)).to_bytes()
        );
    }
    let sealed = Envelope::of(&answer, &key, |message| state.sign(message));
    Ok(sealed.map_err(Failure::of("write an answer"))?.to_bytes())
}

/// A file that is given out, and how.
pub(super) enum File {
    /// As it is.
    Whole(Vec<u8>),
    /// And then more and more.
    Endless(Vec<u8>),
    /// A byte a second.
    Slow(Vec<u8>),
}

/// Returns a file by its path.
pub(super) fn file(state: &mut State, path: &str) -> Option<File> {
    state.fetched.push(path.to_owned());
    if let Some(name) = path.strip_prefix("/device/v1/director/") {
        return state.director.get(name).cloned().map(File::Whole);
    }
    if let Some(name) = path.strip_prefix("/device/v1/image/") {
        return image_file(state, name);
    }
    // Of patches there are none.
    let sha256: Digest = path.strip_prefix("/device/v1/blobs/")?.parse().ok()?;
    let blob = state.blobs.get(&sha256)?.clone();
    Some(match state.lie {
        Some(Lie::ChangedBlobs) => File::Whole(blob.iter().map(|byte| byte ^ 1).collect()),
        Some(Lie::EndlessBlobs) => File::Endless(blob),
        Some(Lie::SlowBlobs) => File::Slow(blob),
        _ => File::Whole(blob),
    })
}

fn image_file(state: &State, name: &str) -> Option<File> {
    let next_root = || {
        let newest = Repository::read(&state.image).ok()?.root().version;
        Some(format!("{}.root.json", newest + 1))
    };
    let false_files = match state.lie {
        Some(Lie::DirectorAsImageRoot) if Some(name) == next_root().as_deref() => {
            return state.director.values().next_back().cloned().map(File::Whole);
        }
        Some(Lie::OlderImage) => state.image_before.clone(),
        Some(Lie::ExpiredImage) => expired(state),
        Some(Lie::TargetsByTheOnlineKey) => forged(state),
        Some(Lie::MixedImage) => mixed(state),
        _ => None,
    };
    let raw = false_files.as_ref().unwrap_or(&state.image).get(name)?.clone();
    Some(match state.lie {
        Some(Lie::EndlessImage) if name == "timestamp.json" => File::Endless(raw),
        _ => File::Whole(raw),
    })
}

/// A newer timestamp that has expired.
fn expired(state: &State) -> Option<Files> {
    let mut files = state.image.clone();
    let timestamp = Repository::read(&files).ok()?.timestamp()?.clone();
    let timestamp =
        Timestamp { version: timestamp.version + 1, expires: UnixTime(now().0 - 10), ..timestamp };
    files.insert("timestamp.json".to_owned(), sign(&timestamp, &[&state.online]));
    Some(files)
}

/// Newer targets that name whatever is told, and that the owner never saw.
fn forged(state: &State) -> Option<Files> {
    let mut files = state.image.clone();
    let before = Repository::read(&files).ok()?.targets("targets")?.clone();
    let targets = Targets { version: before.version + 1, ..before };
    files.insert(format!("{}.targets.json", targets.version), sign(&targets, &[&state.online]));
    renewed(state, files, LIFETIMES)
}

/// Targets that are not those which a newer snapshot names.
fn mixed(state: &State) -> Option<Files> {
    let mut files = forged(state)?;
    let version = Repository::read(&files).ok()?.targets("targets")?.version;
    let older = state.image.get(&format!("{}.targets.json", version - 1))?.clone();
    files.insert(format!("{version}.targets.json"), older);
    Some(files)
}

fn renewed(state: &State, mut files: Files, lifetimes: Lifetimes) -> Option<Files> {
    let repository = Repository::read(&files).ok()?;
    let online = repository.complete(&[&state.online], now(), lifetimes, Refresh::Always).ok()?;
    files.extend(online);
    Some(files)
}

fn now_ms() -> u64 {
    u64::try_from(dunlin_kit::clock::wall_micros() / 1_000).unwrap_or(0)
}
