//! What the gateway trusts: the chain of roots and the newest metadata, from `state.db` and back.
//!
//! Takes over the configured root once, and follows newer ones by their signatures alone. A refused refresh leaves all
//! as it was, but for roots that were accepted before it: a revoked key stays revoked. Writes nothing itself.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use dunlin_kit::clock;
use dunlin_model_package::{Digest, RepositoryPath, RepositorySource, SourceError};
use dunlin_trust::director::first_root;
use dunlin_trust::envelope::Envelope;
use dunlin_trust::metadata::Root;
use dunlin_trust::time::UnixTime;
use dunlin_trust::trusted_time::ServerTime;
use dunlin_trust::{
    Answer, Code, Ed25519Only, Failure, Fetch, Refresh, Steps, Stored, TrustedSet, TrustedTime,
};

use super::refusal::Refusal;
use crate::store::trust::{KeptRoot, KeptTrust};

/// What the clocks say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// The wall clock, where it was ever set.
    pub system: Option<UnixTime>,
    /// A server's signed time of this boot.
    pub server: Option<ServerTime>,
    /// The clock that never jumps.
    pub uptime: Duration,
}

impl Clocks {
    /// Reads this machine's clocks, beside what a server told in this boot.
    #[must_use]
    pub fn beside(server: Option<ServerTime>) -> Self {
        Self { server, ..Self::read() }
    }

    /// Reads this machine's clocks.
    #[must_use]
    pub fn read() -> Self {
        let wall = clock::wall_micros();
        let uptime = Duration::from_micros(clock::monotonic_micros().unsigned_abs());
        Self { system: clock::is_plausible(wall).then_some(UnixTime(wall / 1_000_000)), server: None, uptime }
    }

    /// Returns the time by which expiry is judged, given the newest time that an offline key signed.
    #[must_use]
    pub fn trusted_time(&self, offline_signed: Option<UnixTime>) -> UnixTime {
        let built = UnixTime(clock::BUILD_EPOCH_MICROS / 1_000_000);
        TrustedTime { built, offline_signed, server: self.server, system: self.system }.at(self.uptime)
    }
}

/// Why a step with a source ended early.
#[derive(Debug)]
pub enum Interruption {
    /// A file was refused.
    Refused(Refusal),
    /// The source cannot be read; to be tried again.
    Source(SourceError),
}

impl From<Failure> for Interruption {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure.into())
    }
}

impl From<Refusal> for Interruption {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What the gateway trusts of the image repository.
#[derive(Debug, Clone)]
pub struct TrustState {
    roots: Vec<KeptRoot>,
    set: TrustedSet,
    signed_at: Option<UnixTime>,
}

impl TrustState {
    /// Begins with the root that the gateway was given.
    ///
    /// *Errors*: `mismatch` or `signature`: it is no root, or has not signed itself.
    pub fn first(root: &[u8]) -> Result<Self, Refusal> {
        let set = TrustedSet::load(&Stored::first(root.to_owned()))?;
        let roots = vec![KeptRoot::new(set.root().version, root.to_owned())];
        Ok(Self { roots, signed_at: set.signed_time(), set })
    }

    /// Begins with the first root of a director: the keys of the owner's root have signed it.
    ///
    /// *Errors*: as [`first_root`].
    pub fn first_of_director(image: &Self, root: &[u8]) -> Result<Self, Refusal> {
        let stored = first_root(&image.set, root)?;
        let set = TrustedSet::load(&stored)?;
        let roots = vec![KeptRoot::new(set.root().version, root.to_owned())];
        Ok(Self { roots, signed_at: None, set })
    }

    /// Returns what is to be kept of a director: its keys are online, so that no time of theirs is.
    #[must_use]
    pub fn kept_of_director(&self) -> KeptTrust {
        KeptTrust { signed_at: None, ..self.kept() }
    }

    /// Takes the root that follows.
    ///
    /// *Errors*: refused; all is as it was.
    pub fn take_next_root(&mut self, raw: &[u8]) -> Result<(), Refusal> {
        let mut set = self.set.clone();
        set.update_root(raw)?;
        let version = set.root().version;
        self.take_set(set, vec![KeptRoot::new(version, raw.to_owned())]);
        Ok(())
    }

    /// Takes up what is kept.
    ///
    /// *Errors*: `state_lost`.
    pub fn load(kept: KeptTrust) -> Result<Self, Refusal> {
        let KeptTrust { roots, mut files, floors, signed_at } = kept;
        let newest = roots.last().ok_or_else(|| Refusal::state_lost("it names no root"))?;
        let stored = Stored {
            root: newest.raw.clone(),
            timestamp: files.remove("timestamp"),
            snapshot: files.remove("snapshot"),
            targets: files.remove("targets"),
            delegated: files,
            floors,
        };
        let set = TrustedSet::load(&stored).map_err(Refusal::state_lost)?;
        for failure in set.discarded() {
            tracing::warn!(%failure, "metadata that were stored are not believed any more");
        }
        let signed_at = signed_at.max(set.signed_time());
        Ok(Self { roots, set, signed_at })
    }

    /// Returns what is to be kept.
    #[must_use]
    pub fn kept(&self) -> KeptTrust {
        let Stored { timestamp, snapshot, targets, delegated, floors, .. } = self.set.stored();
        let mut files = delegated;
        for (role, raw) in [("timestamp", timestamp), ("snapshot", snapshot), ("targets", targets)] {
            files.extend(raw.map(|raw| (role.to_owned(), raw)));
        }
        KeptTrust { roots: self.roots.clone(), files, floors, signed_at: self.signed_at }
    }

    /// Checks the configured root against the chain: one of its versions, or one that follows from it. Tells whether the
    /// chain grew by it.
    ///
    /// *Errors*: `signature`, naming both roots and the remedy.
    pub fn accept_configured(&mut self, configured: &[u8]) -> Result<bool, Refusal> {
        let digest = Digest::of(configured);
        if self.roots.iter().any(|root| root.sha256 == digest) {
            return Ok(false);
        }
        let newest = self.roots.last().map(|root| (root.version, root.sha256));
        let (version, trusted) = newest.ok_or_else(|| Refusal::state_lost("it names no root"))?;
        let mut set = self.set.clone();
        if set.update_root(configured).is_ok() {
            self.take_set(set, vec![KeptRoot::new(version.saturating_add(1), configured.to_owned())]);
            return Ok(true);
        }
        if self.signed_a_later(configured) {
            return Ok(false);
        }
        let reason = format!(
            "with SHA-256 `{digest}` is not the root that this gateway trusts, version {version} with SHA-256 \
             `{trusted}`, nor one before or after it; configure the root of the models' owner, or, to hand the gateway \
             to another owner, stop it and give it a new state folder"
        );
        Err(Refusal::trust(Code::Signature, "trust.root", reason))
    }

    /// Tells whether the trusted root's keys signed a later one; the versions between come with the next refresh.
    fn signed_a_later(&self, configured: &[u8]) -> bool {
        let root = self.set.root();
        Envelope::<Root>::parse(configured, "root.json").is_ok_and(|later| {
            later.role().version > root.version
                && root.roles.get("root").is_some_and(|keys| {
                    later.require_signatures(keys, &root.keys, &Ed25519Only, "root.json").is_ok()
                })
        })
    }

    /// Returns the time by which expiry is judged.
    #[must_use]
    pub fn time(&self, clocks: &Clocks) -> UnixTime {
        clocks.trusted_time(self.signed_at)
    }

    /// Returns the digests of all roots that were ever trusted: the anchors of evidence.
    #[must_use]
    pub fn anchors(&self) -> BTreeSet<Digest> {
        self.roots.iter().map(|root| root.sha256).collect()
    }

    /// Returns the verifier's set.
    #[must_use]
    pub const fn set(&self) -> &TrustedSet {
        &self.set
    }

    /// Returns the verifier's set, for searches that fetch delegated roles.
    pub(super) const fn set_mut(&mut self) -> &mut TrustedSet {
        &mut self.set
    }

    /// Brings the metadata to the newest that the source has.
    ///
    /// *Errors*: refused, or the source failed; the state then holds new roots at most.
    pub fn refresh(&mut self, source: &dyn RepositorySource, now: UnixTime) -> Result<(), Interruption> {
        let mut roots = Vec::new();
        let mut refresh = Refresh::new(self.set.clone(), now);
        let driven = drive(&mut refresh, source, &mut |fetch, raw| {
            if fetch.path.ends_with(".root.json") {
                roots.push(raw.to_owned());
            }
        });
        let refreshed = refresh.finish();
        let accepted = self.walk(&roots, refreshed.set.root().version);
        if let Err(interruption) = driven {
            if !accepted.is_empty() {
                let mut set = self.set.clone();
                accepted.iter().try_for_each(|root| set.update_root(&root.raw))?;
                self.take_set(set, accepted);
            }
            return Err(interruption);
        }
        self.take_set(refreshed.set, accepted);
        Ok(())
    }

    /// Returns those of the fetched roots that were accepted, given the last accepted version.
    fn walk(&self, fetched: &[Vec<u8>], last: u64) -> Vec<KeptRoot> {
        let first = self.set.root().version.saturating_add(1);
        (first..=last).zip(fetched).map(|(version, raw)| KeptRoot::new(version, raw.clone())).collect()
    }

    fn take_set(&mut self, set: TrustedSet, roots: Vec<KeptRoot>) {
        self.set = set;
        self.roots.extend(roots);
        // What is held tells the time; a wrong one leaves with the file that brought it.
        self.signed_at = self.set.signed_time();
    }
}

/// Drives a client of the verifier to its end with a source; `seen` gets every file that was found.
///
/// *Errors*: refused, or the source failed.
pub(super) fn drive(
    steps: &mut impl Steps,
    source: &dyn RepositorySource,
    seen: &mut dyn FnMut(&Fetch, &[u8]),
) -> Result<(), Interruption> {
    while let Some(fetch) = steps.wants() {
        let answer = match read(source, &fetch).map_err(|error| interruption(error, &fetch.path))? {
            Some(raw) => {
                seen(&fetch, &raw);
                Answer::Found(raw)
            }
            None => Answer::NotFound,
        };
        steps.answer(answer)?;
    }
    Ok(())
}

/// A source that gives less than the slowest speed is told by its code.
pub(super) fn interruption(error: SourceError, object: &str) -> Interruption {
    match error {
        SourceError::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => {
            Refusal::trust(Code::SlowRetrieval, object, source.to_string()).into()
        }
        error => Interruption::Source(error),
    }
}

/// Reads a file of metadata, one byte beyond its limit at most: the verifier judges it.
fn read(source: &dyn RepositorySource, fetch: &Fetch) -> Result<Option<Vec<u8>>, SourceError> {
    // A role whose name no repository of ours holds is not there.
    let Ok(path) = format!("metadata/{}", fetch.path).parse::<RepositoryPath>() else { return Ok(None) };
    read_up_to(source, &path, fetch.length_max.saturating_add(1))
}

/// Reads a file up to a length.
///
/// *Errors*: the source's.
pub(super) fn read_up_to(
    source: &dyn RepositorySource,
    path: &RepositoryPath,
    bytes_max: u64,
) -> Result<Option<Vec<u8>>, SourceError> {
    let Some(reader) = source.reader_at(path, 0)? else { return Ok(None) };
    let mut raw = Vec::new();
    let io = |source| SourceError::Io { path: path.to_string().into(), source };
    reader.take(bytes_max).read_to_end(&mut raw).map_err(io)?;
    Ok(Some(raw))
}
