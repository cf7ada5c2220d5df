//! Enrolment: the gateway gets to know its server, and the server the gateway.
//!
//! Trusts the root that a token names by its hash, or the configured one; the director because the owner's keys signed its
//! root; the answer because the director did. Changes the root by itself never. What was begun and cut is done again.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use dunlin_kit::clock;
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::limits::{ENROLMENT_BYTES_MAX, TOKEN_BYTES_MAX, envelope_bytes_max};
use dunlin_protocol::routes::{ENROLL, director_root_path, image_path};
use dunlin_protocol::text::Url;
use dunlin_protocol::{Digest, EnrollAnswer, EnrollRequest, EnrolmentToken, Nonce, PublicKey, RefusalCode};
use dunlin_trust::limits::{ROOT_BYTES_MAX, ROOT_ROTATIONS_MAX};
use zeroize::Zeroizing;

use super::facts::{facts_of, labels_of};
use super::heard::Heard;
use super::identity::Identity;
use super::reaction::Warrant;
use super::remote::{Remote, RemoteError};
use super::server_clock::ServerClock;
use super::server_keys::director_keys;
use super::settings::LinkSettings;
use crate::store::trust::{Cycle, Trusted};
use crate::store::{FleetLife, FleetStore, StoreError, TrustStore};
use crate::update::import::{ImportError, open_trust};
use crate::update::importer::read_root;
use crate::update::refusal::Refusal;
use crate::update::trust_state::TrustState;

/// Why the gateway is not enrolled.
#[derive(Debug)]
pub enum EnrolError {
    /// The token cannot be used.
    Token(String),
    /// Nothing says whose models may run.
    NoRoot,
    /// What came is not what the token, the configuration or the owner's keys say.
    Untrusted(Refusal),
    /// The server refuses.
    Refused {
        /// The code.
        code: RefusalCode,
        /// Whether it is signed.
        warrant: Warrant,
        /// When to ask again.
        next: Option<Duration>,
        /// What it says.
        words: String,
        /// What `Retry-After` said.
        retry_after: Option<Duration>,
    },
    /// No answer came.
    Remote(RemoteError),
    /// What came was no answer of the server.
    NoAnswer(String),
    /// `state.db` failed.
    Store(StoreError),
    /// The system has no randomness.
    NoRandomness,
}

impl fmt::Display for EnrolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(why) => write!(f, "the enrolment token {why}"),
            Self::NoRoot => f.write_str(
                "nothing says whose models may run: give an enrolment token (`fleet.token_file`), or name the owner's \
                 `root.json` in `trust.root`",
            ),
            Self::Untrusted(refusal) => refusal.fmt(f),
            Self::Refused { code, words, .. } => write!(f, "{code}: the server refuses the enrolment ({words})"),
            Self::Remote(error) => error.fmt(f),
            Self::NoAnswer(why) => f.write_str(why),
            Self::Store(error) => error.fmt(f),
            Self::NoRandomness => f.write_str("the system has no randomness"),
        }
    }
}

impl std::error::Error for EnrolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Remote(error) => error.source(),
            Self::Store(error) => error.source(),
            _ => None,
        }
    }
}

impl From<StoreError> for EnrolError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RemoteError> for EnrolError {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}

impl From<Refusal> for EnrolError {
    fn from(refusal: Refusal) -> Self {
        Self::Untrusted(refusal)
    }
}

impl From<ImportError> for EnrolError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Refused(refusal) => Self::Untrusted(refusal),
            ImportError::Store(error) => Self::Store(error),
            error => Self::NoAnswer(Chain(&error).to_string()),
        }
    }
}

/// Reads the token in the first line of a file.
///
/// *Errors*: the file cannot be read, or holds no token; its contents are never said.
pub fn read_token(path: &Path) -> Result<EnrolmentToken, EnrolError> {
    let wrong = |why: String| EnrolError::Token(why);
    let mut text = Zeroizing::new(String::new());
    let read =
        File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX as u64 + 2).read_to_string(&mut text));
    read.map_err(|error| wrong(format!("cannot be read from `{}`: {error}", path.display())))?;
    let line = text.lines().next().unwrap_or_default().trim();
    EnrolmentToken::parse(line).map_err(|_| {
        wrong(format!("in `{}` is none; copy the whole line that begins with `dl1.`", path.display()))
    })
}

/// What an enrolment works with.
pub struct Enrolling<'a> {
    /// The way to the server.
    pub remote: &'a Remote,
    /// Who the gateway is.
    pub identity: &'a Identity,
    /// What the configuration says.
    pub settings: &'a LinkSettings,
    /// A token, where there is one.
    pub token: Option<&'a EnrolmentToken>,
    /// What is trusted.
    pub trust: &'a mut TrustStore,
    /// The life at the server.
    pub fleet: &'a mut FleetStore,
    /// Takes the server's time.
    pub clock: &'a ServerClock,
}

impl Enrolling<'_> {
    /// Enrols, and stores the new life.
    ///
    /// *Errors*: see [`EnrolError`]; what is trusted by then stays, and the next call goes on.
    pub fn run(&mut self) -> Result<FleetLife, EnrolError> {
        let image = self.trust_root()?;
        let director = self.trust_director(&image)?;
        let previous = self.fleet.life()?;
        let mut fresh = [0; 16];
        getrandom::fill(&mut fresh).map_err(|_| EnrolError::NoRandomness)?;
        let nonce = self.fleet.wish(Nonce::from_bytes(fresh))?;
        let server = self.remote.settings().server.as_str();
        let request = EnrollRequest {
            key: self.identity.public(),
            facts: facts_of(self.settings),
            labels: labels_of(self.settings),
            server_url: Url::cut(server),
            root: image.set().anchor(),
            token: self.token.map(|token| token.claim().token),
            nonce,
            previous: previous.map(|life| life.incarnation),
        };
        let answer = self.ask(&request, &director_keys(director.set().root()))?;
        self.clock.set(answer.server_time_ms, uptime());
        if let Some(refusal) = &answer.refusal {
            // Another token is another wish.
            self.fleet.forget_wish()?;
            return Err(EnrolError::Refused {
                code: refusal.code.clone(),
                warrant: Warrant::Signed,
                next: Some(Duration::from_millis(answer.next_ms)),
                words: refusal.words.to_string(),
                retry_after: None,
            });
        }
        let missing = || EnrolError::NoAnswer("the answer brings no incarnation".to_owned());
        let life = FleetLife {
            url: server.to_owned(),
            server: answer.server,
            incarnation: answer.incarnation.ok_or_else(missing)?,
            counter_ceiling: 1,
            desired_revision: 0,
            settings_revision: 0,
        };
        self.fleet.begin_life(&life)?;
        tracing::info!(server = %life.server, device = %self.identity.device(), state = %answer.state, "enrolled");
        Ok(life)
    }

    fn ask(&self, request: &EnrollRequest, keys: &[PublicKey]) -> Result<EnrollAnswer, EnrolError> {
        let proof = self.token.map(EnrolmentToken::proof_key);
        let envelope = request
            .seal(proof.as_ref(), |message| self.identity.sign(message))
            .map_err(|error| EnrolError::NoAnswer(Chain(&error).to_string()))?;
        let bytes_max = envelope_bytes_max(ENROLMENT_BYTES_MAX);
        let posted = self.remote.post(ENROLL, envelope.to_bytes(), Duration::ZERO, bytes_max);
        let reply = self.remote.runtime().block_on(posted)?;
        let envelope = match reply.read(ENROLMENT_BYTES_MAX) {
            Heard::Envelope(envelope) => envelope,
            Heard::Problem { code, words } => {
                let retry_after = reply.retry_after();
                let warrant = Warrant::Unsigned;
                return Err(EnrolError::Refused { code, warrant, next: None, words, retry_after });
            }
            Heard::Nothing(why) => return Err(EnrolError::NoAnswer(why)),
        };
        let foreign = |error: &dyn std::error::Error| {
            EnrolError::NoAnswer(format!("the answer to the enrolment is dropped: {}", Chain(error)))
        };
        let payload = envelope.verify(keys).map_err(|error| foreign(&error))?;
        let answer = payload.read::<EnrollAnswer>(|_, _| None).map_err(|error| foreign(&error))?.into_inner();
        let wrong =
            |words| EnrolError::NoAnswer(format!("the answer to the enrolment is dropped: it {words}"));
        answer.require_answer_to(request).map_err(wrong)?;
        Ok(answer)
    }

    /// Returns what is trusted of the owner: what was before, what the token names, or what the configuration does; with
    /// all newer roots that the server has.
    fn trust_root(&mut self) -> Result<TrustState, EnrolError> {
        let named = match self.token {
            Some(token) => {
                let claim = token.claim();
                let path = image_path(&format!("{}.root.json", claim.root_version));
                let raw = self.remote.get(&path, ROOT_BYTES_MAX)?;
                let raw = raw.ok_or_else(|| EnrolError::NoAnswer(format!("the server has no `{path}`")))?;
                let found = Digest::of(&raw);
                if found != claim.root {
                    let reason = format!(
                        "has SHA-256 `{found}`, and the enrolment token names `{}`: somebody stands in between, or the \
                         token is another server's; nothing was shown to it",
                        claim.root
                    );
                    return Err(Refusal::trust(dunlin_trust::Code::Mismatch, path, reason).into());
                }
                Some(raw)
            }
            None => None,
        };
        let configured = match &self.settings.root {
            Some(path) => Some(read_root(path).map_err(|error| {
                let why = format!("the root of trust `{}` cannot be read: {error}", path.display());
                EnrolError::NoAnswer(why)
            })?),
            None => None,
        };
        let is_kept = self.trust.load()?.is_some();
        let roots: Vec<Vec<u8>> = configured.into_iter().chain(named).collect();
        if roots.is_empty() && !is_kept {
            return Err(EnrolError::NoRoot);
        }
        let mut state = open_trust(self.trust, &self.settings.state_dir, roots.first().map(Vec::as_slice))?;
        for root in roots.iter().skip(1) {
            state.accept_configured(root)?;
        }
        let next =
            |version: u64| self.remote.get(&image_path(&format!("{version}.root.json")), ROOT_BYTES_MAX);
        let followed = follow_roots(&mut state, next);
        self.trust.save(&Cycle { trust: Some(state.kept()), ..Cycle::default() })?;
        followed?;
        Ok(state)
    }

    /// Returns what is trusted of the director: what was before, or the newest root that the owner's keys signed.
    fn trust_director(&mut self, image: &TrustState) -> Result<TrustState, EnrolError> {
        let fetch = |version: u64| self.remote.get(&director_root_path(version), ROOT_BYTES_MAX);
        let mut state = match self.trust.load_of(Trusted::Director)? {
            Some(kept) => TrustState::load(kept)?,
            None => {
                let mut newest = None;
                for version in 1..=ROOT_ROTATIONS_MAX {
                    let Some(raw) = fetch(version)? else { break };
                    newest = Some(raw);
                }
                let none = || {
                    let words = "the server has no director yet: its owner has to adopt it with `dunlin server adopt`";
                    EnrolError::NoAnswer(words.to_owned())
                };
                TrustState::first_of_director(image, &newest.ok_or_else(none)?)?
            }
        };
        let followed = follow_roots(&mut state, fetch);
        self.trust.save(&Cycle { director: Some(state.kept_of_director()), ..Cycle::default() })?;
        followed?;
        Ok(state)
    }
}

/// Takes newer roots until there is none.
///
/// *Errors*: one is refused, or the server was not reached; those before it are taken.
pub fn follow_roots(
    state: &mut TrustState,
    fetch: impl Fn(u64) -> Result<Option<Vec<u8>>, RemoteError>,
) -> Result<(), EnrolError> {
    for _ in 0..ROOT_ROTATIONS_MAX {
        let Some(raw) = fetch(state.set().root().version.saturating_add(1))? else { return Ok(()) };
        state.take_next_root(&raw)?;
    }
    Ok(())
}

/// Returns the clock that never jumps.
#[must_use]
pub fn uptime() -> Duration {
    Duration::from_micros(clock::monotonic_micros().unsigned_abs())
}
