//! What all gateways of a crowd know of the owner: roots, and files of the image repository, fetched once for all.
//!
//! A gateway fetches and keeps them itself; ten thousand in one process share them, and each checks its own statement
//! against them. The first root is the one whose hash the token carries.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dunlin_protocol::exchange::Desired;
use dunlin_protocol::routes::image_path;
use dunlin_protocol::{Digest, EnrolmentToken, PublicKey};
use dunlin_trust::director::DIRECTOR_ROLE;
use dunlin_trust::metadata::Root;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Failure, TrustedSet};
use tokio::sync::Mutex as Turn;

use crate::gateway_trust::{GatewayTrust, Source, Told};
use crate::line::{Line, LineError};

/// Longest file of metadata.
const FILE_BYTES_MAX: usize = 8 << 20;
/// Longest wait for one.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a timestamp is taken for the newest, and a file that is not there for missing.
const FRESH: Duration = Duration::from_secs(5);
/// Files that one statement needs at most: roots, and delegated roles of some models.
const FETCHES_MAX: usize = 64;

/// Why a crowd trusts nobody.
#[derive(Debug)]
pub enum MirrorError {
    /// A file cannot be fetched.
    Line(LineError),
    /// The server has no root of the token's version, or another one: it was not adopted by the token's owner.
    Root,
    /// The owner's files are refused.
    Refused(Failure),
    /// No key of the director's can be used.
    NoKey,
}

impl fmt::Display for MirrorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line(_) => "cannot fetch the owner's files",
            Self::Root => "the server does not have the root that the token carries the hash of; is it another server's token?",
            Self::Refused(_) => "the owner's files are refused",
            Self::NoKey => "the director's root names no key that answers could be signed by",
        })
    }
}

impl std::error::Error for MirrorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Line(error) => Some(error),
            Self::Refused(failure) => Some(failure),
            Self::Root | Self::NoKey => None,
        }
    }
}

#[derive(Default)]
struct Files {
    held: HashMap<String, Option<Vec<u8>>>,
    since: Option<Instant>,
}

/// Files that were fetched, and the line over which they come, one after the other.
struct Shelf {
    files: Mutex<Files>,
    line: Turn<Line>,
}

/// What all share.
pub(crate) struct Mirror {
    base: Mutex<GatewayTrust>,
    shelf: Shelf,
    server_key: PublicKey,
    director_root: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mirror {
    /// Takes the owner's roots, beginning with the token's.
    pub(crate) async fn open(
        mut line: Line,
        token: &EnrolmentToken,
        now: UnixTime,
    ) -> Result<Self, MirrorError> {
        let claim = token.claim();
        let path = image_path(&format!("{}.root.json", claim.root_version));
        let root = line.get(&path, FILE_BYTES_MAX, PATIENCE).await.map_err(MirrorError::Line)?;
        let root = root.filter(|root| Digest::of(root) == claim.root).ok_or(MirrorError::Root)?;
        let first = GatewayTrust::new("", &root).map_err(MirrorError::Refused)?;
        let shelf = Shelf { files: Mutex::default(), line: Turn::new(line) };
        let begin = |source: Source<'_>| {
            let mut trust = first.clone();
            trust.refresh(now, source)?;
            trust.take_director(source)?;
            Ok(trust)
        };
        let base = shelf.with_files(begin).await?;
        let director = base.director.as_ref().map(TrustedSet::root).ok_or(MirrorError::NoKey)?;
        let server_key = key_of(director).ok_or(MirrorError::NoKey)?;
        let director_root = director.version;
        Ok(Self { base: Mutex::new(base), shelf, server_key, director_root })
    }

    /// Returns the key that answers are signed by.
    pub(crate) const fn server_key(&self) -> PublicKey {
        self.server_key
    }

    /// Returns the version of the director's root that all hold.
    pub(crate) const fn director_root(&self) -> u64 {
        self.director_root
    }

    /// Checks a statement as the gateway `id` does; returns what it orders, with its version.
    pub(crate) async fn check(
        &self,
        id: &str,
        desired: &Desired,
        nonce: &str,
        now: UnixTime,
    ) -> Result<(Told, u64), MirrorError> {
        let checked = self.shelf.with_files(|source| {
            let mut trust = lock(&self.base).clone();
            id.clone_into(&mut trust.device.id);
            let told = trust.take(desired, nonce, now, source)?;
            Ok((told, trust))
        });
        let (told, trust) = checked.await?;
        let version = trust.held().director_version;
        // What is known of the owner's files is known to all; what was said to one is not.
        lock(&self.base).image = trust.image;
        Ok((told, version))
    }
}

impl Shelf {
    /// Does work with files that are here, fetches those that are missing, and does it again.
    async fn with_files<T>(&self, work: impl Fn(Source<'_>) -> Result<T, Failure>) -> Result<T, MirrorError> {
        self.forget_old();
        let mut done = None;
        for _ in 0..FETCHES_MAX {
            let mut missing = None;
            let outcome = {
                let files = lock(&self.files);
                let mut source = |path: &str, _: u64| match files.held.get(path) {
                    Some(held) => held.clone(),
                    None => {
                        missing.get_or_insert_with(|| path.to_owned());
                        None
                    }
                };
                work(&mut source)
            };
            let Some(path) = missing else { return outcome.map_err(MirrorError::Refused) };
            done = Some(outcome);
            let mut line = self.line.lock().await;
            // Another gateway may have fetched it meanwhile.
            if !lock(&self.files).held.contains_key(&path) {
                let file = line.get(&path, FILE_BYTES_MAX, PATIENCE).await.map_err(MirrorError::Line)?;
                let mut files = lock(&self.files);
                files.since.get_or_insert_with(Instant::now);
                files.held.insert(path, file);
            }
        }
        done.ok_or(MirrorError::NoKey)?.map_err(MirrorError::Refused)
    }

    /// Forgets what may be newer at the server.
    fn forget_old(&self) {
        let mut files = lock(&self.files);
        if files.since.is_none_or(|since| since.elapsed() < FRESH) {
            return;
        }
        files.since = None;
        files.held.retain(|path, file| file.is_some() && !path.ends_with("timestamp.json"));
    }
}

fn key_of(root: &Root) -> Option<PublicKey> {
    let role = root.roles.get(DIRECTOR_ROLE)?;
    let key = role.keyids.iter().find_map(|id| root.keys.get(id))?;
    key.keyval.public.to_ascii_lowercase().parse().ok()
}
