//! A fleet server that holds the online key and lies: what somebody has who stole the server, and not the owner's keys.
//!
//! Speaks the whole protocol to gateways, over real sockets, and tells the truth until it is told to lie. Made of the
//! protocol's and the verifier's own types, and of nothing of the real server. What a lie must come to stands with it.

mod answers;
mod http;
mod statement;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use dunlin_model_package::Digest;
use dunlin_protocol::{DeviceId, ExchangeRequest, Incarnation, ServerId};
use dunlin_trust::PublicKey;
use dunlin_trust::sign::SigningKey;
use dunlin_trust::sign::repository::{Files, Lifetimes, Refresh, Repository};

use crate::failure::{Failure, Outcome};
use crate::fleet_owner::{ApprovedRelease, FleetOwner, now};

/// Beyond any test.
const LIFETIMES: Lifetimes =
    Lifetimes { root_days: 1, targets_days: 1, snapshot_days: 30, timestamp_days: 7 };

/// A lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The statement is signed by a key that the director's root does not name.
    StatementOfAStranger,
    /// The statement is older than the one before.
    OlderStatement,
    /// The statement answers another question.
    AnswerToAnotherQuestion,
    /// The statement has expired.
    ExpiredStatement,
    /// The statement is not the file that its snapshot names.
    StatementOfAnotherHash,
    /// The statement names a release that nobody approved.
    UnapprovedRelease,
    /// The statement names another file under an approved path.
    AnotherManifest,
    /// The statement is another gateway's.
    StatementOfAnotherDevice,
    /// The statement says that the release is for another processor.
    AnotherArchitecture,
    /// The statement says that the release is for another engine.
    AnotherEngine,
    /// The statement has more withdrawals than a gateway reads.
    WithdrawalsWithoutEnd,
    /// The statement names an old release, approved once, whose counter is below the floor.
    OlderRelease,
    /// The targets of the image repository approve what the owner did not, signed by the online key.
    TargetsByTheOnlineKey,
    /// Timestamp and snapshot of the image repository are those of before.
    OlderImage,
    /// The timestamp of the image repository has expired.
    ExpiredImage,
    /// The targets of the image repository are not those that the snapshot names.
    MixedImage,
    /// The timestamp of the image repository does not end.
    EndlessImage,
    /// The director's newest root is served as the next root of the image repository; of a director with two roots, so
    /// that it has the right number.
    DirectorAsImageRoot,
    /// Blobs are other bytes of the same length.
    ChangedBlobs,
    /// Blobs do not end.
    EndlessBlobs,
    /// Blobs come a byte a second.
    SlowBlobs,
    /// The answer is meant for another device.
    AnswerOfAnotherDevice,
    /// The answer is another server's.
    AnswerOfAnotherServer,
    /// The answer bears another number.
    AnswerToAnotherNumber,
    /// The answer is signed by a key that the director's root does not name.
    AnswerOfAStranger,
    /// The answer grows to half a gigabyte where it is decompressed.
    BombAnswer,
    /// The answer does not end.
    EndlessAnswer,
    /// The answer is a page of a captive portal.
    CaptivePortal,
}

impl Lie {
    /// All lies.
    pub const ALL: [Self; 28] = [
        Self::StatementOfAStranger,
        Self::OlderStatement,
        Self::AnswerToAnotherQuestion,
        Self::ExpiredStatement,
        Self::StatementOfAnotherHash,
        Self::UnapprovedRelease,
        Self::AnotherManifest,
        Self::StatementOfAnotherDevice,
        Self::AnotherArchitecture,
        Self::AnotherEngine,
        Self::WithdrawalsWithoutEnd,
        Self::OlderRelease,
        Self::TargetsByTheOnlineKey,
        Self::OlderImage,
        Self::ExpiredImage,
        Self::MixedImage,
        Self::EndlessImage,
        Self::DirectorAsImageRoot,
        Self::ChangedBlobs,
        Self::EndlessBlobs,
        Self::SlowBlobs,
        Self::AnswerOfAnotherDevice,
        Self::AnswerOfAnotherServer,
        Self::AnswerToAnotherNumber,
        Self::AnswerOfAStranger,
        Self::BombAnswer,
        Self::EndlessAnswer,
        Self::CaptivePortal,
    ];

    /// Returns the code by which a gateway refuses it; nothing where the answer is dropped as none.
    #[must_use]
    pub const fn code(self) -> Option<&'static str> {
        Some(match self {
            Self::StatementOfAStranger | Self::TargetsByTheOnlineKey => "signature",
            Self::OlderStatement | Self::OlderImage => "rollback",
            Self::AnswerToAnotherQuestion | Self::ExpiredStatement | Self::ExpiredImage => "freeze_suspected",
            Self::StatementOfAnotherHash
            | Self::WithdrawalsWithoutEnd
            | Self::MixedImage
            | Self::DirectorAsImageRoot
            | Self::ChangedBlobs => "mismatch",
            Self::EndlessImage | Self::EndlessBlobs => "endless_data",
            Self::SlowBlobs => "slow_retrieval",
            Self::UnapprovedRelease | Self::AnotherManifest => "not_approved",
            Self::StatementOfAnotherDevice => "wrong_device",
            Self::AnotherArchitecture | Self::AnotherEngine => "incompatible",
            Self::OlderRelease => "downgrade",
            Self::AnswerOfAnotherDevice
            | Self::AnswerOfAnotherServer
            | Self::AnswerToAnotherNumber
            | Self::AnswerOfAStranger
            | Self::BombAnswer
            | Self::EndlessAnswer
            | Self::CaptivePortal => return None,
        })
    }
}

/// What the server knows and says.
struct State {
    online: SigningKey,
    stranger: SigningKey,
    id: ServerId,
    image: Files,
    image_before: Option<Files>,
    director: Files,
    blobs: BTreeMap<Digest, Vec<u8>>,
    told: Vec<ApprovedRelease>,
    revision: u64,
    version: u64,
    lie: Option<Lie>,
    devices: BTreeMap<DeviceId, (dunlin_protocol::PublicKey, Incarnation)>,
    questions: Vec<ExchangeRequest>,
    fetched: Vec<String>,
}

impl State {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        let by = if self.lie == Some(Lie::AnswerOfAStranger) { &self.stranger } else { &self.online };
        ed25519_dalek::SigningKey::from_bytes(by.seed()).sign(message).to_bytes()
    }
}

/// The server; stopped when it is dropped.
pub struct LyingServer {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LyingServer {
    /// Starts a server without a repository.
    ///
    /// *Errors*: there is no free port.
    pub fn start() -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = State {
            online: SigningKey::from_seed(&[103; 32]),
            stranger: SigningKey::from_seed(&[104; 32]),
            id: ServerId::new(1, [103; 10]),
            image: Files::new(),
            image_before: None,
            director: Files::new(),
            blobs: BTreeMap::new(),
            told: Vec::new(),
            revision: 0,
            // Older ones must be possible.
            version: 10,
            lie: None,
            devices: BTreeMap::new(),
            questions: Vec::new(),
            fetched: Vec::new(),
        };
        let (state, is_stopping) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (serving, stopping) = (Arc::clone(&state), Arc::clone(&is_stopping));
        let thread = std::thread::spawn(move || http::serve(&listener, &serving, &stopping));
        Ok(Self { state, address, is_stopping, thread: Some(thread) })
    }

    /// Returns where it is found.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its id.
    #[must_use]
    pub fn id(&self) -> ServerId {
        self.state().id
    }

    /// Returns the key that it holds: an owner's roots name it.
    #[must_use]
    pub fn online(&self) -> PublicKey {
        self.state().online.public()
    }

    /// Serves what an owner signed, with a snapshot and a timestamp of its own.
    ///
    /// *Errors*: the owner's root does not name its key.
    pub fn serve(&self, owner: &FleetOwner) -> Outcome<()> {
        let mut state = self.state();
        let mut files = owner.image().clone();
        for (name, raw) in &state.image {
            files.entry(name.clone()).or_insert_with(|| raw.clone());
        }
        let repository = Repository::read(&files).map_err(Failure::of("read the metadata"))?;
        let online = repository.complete(&[&state.online], now(), LIFETIMES, Refresh::Needed);
        files.extend(online.map_err(Failure::of("sign the online metadata"))?);
        let before = std::mem::replace(&mut state.image, files);
        state.image_before = Some(before).filter(|before| !before.is_empty());
        state.director.clone_from(owner.director());
        state.blobs.clone_from(owner.blobs());
        Ok(())
    }

    /// Tells all gateways to run these releases from now on, and no others.
    pub fn tell(&self, releases: &[ApprovedRelease]) {
        let mut state = self.state();
        state.told = releases.to_vec();
        state.revision += 1;
    }

    /// Lies from now on, or no more; tells all gateways anew.
    pub fn lie(&self, lie: Option<Lie>) {
        let mut state = self.state();
        state.lie = lie;
        state.revision += 1;
    }

    /// Returns all questions so far.
    #[must_use]
    pub fn questions(&self) -> Vec<ExchangeRequest> {
        self.state().questions.clone()
    }

    /// Tells whether the newest question says that what was told last was taken.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        let state = self.state();
        state.questions.last().is_some_and(|question| question.held.desired_revision == state.revision)
    }

    /// Returns the paths of all GETs so far.
    #[must_use]
    pub fn fetched(&self) -> Vec<String> {
        self.state().fetched.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LyingServer {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        drop(std::net::TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
