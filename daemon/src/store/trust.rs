//! What the gateway trusts, as rows of `state.db`: roots, metadata, floors under their versions, releases, refusals.
//!
//! Written in one transaction a cycle; every file under its SHA-256. Judges nothing, but never lets a floor fall while
//! the root stays, never forgets a release that a slot names, and tells rows that cannot be what was written: then what
//! was trusted is lost. `update` reads and writes it. A release has one row, which `slots` reads: what a review says of
//! its proof holds for the slots from the same commit on.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_model_package::Digest;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Evidence, Floors};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::schema::{self, Schema};
use super::{FolderLock, STATE_FILE, StoreError};

/// Which of the two repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trusted {
    /// What may run at all: the owner's.
    Image,
    /// What this gateway is to run: the fleet server's.
    Director,
}

impl Trusted {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Director => "director",
        }
    }
}

/// WAL pages: a cycle writes some megabytes of metadata at most, a usual one some kilobytes.
const WAL_PAGES: u64 = 64;
/// Refusals that are kept: one a model and one for the metadata; more would be models that were renamed.
const REFUSALS_MAX: i64 = 256;

/// A root that was trusted, and is the next one's warrant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRoot {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its bytes: the anchor of evidence that it signed.
    pub sha256: Digest,
    /// Its bytes.
    pub raw: Vec<u8>,
}

impl KeptRoot {
    /// Takes the bytes of a root of this version.
    #[must_use]
    pub fn new(version: u64, raw: Vec<u8>) -> Self {
        Self { version, sha256: Digest::of(&raw), raw }
    }
}

/// All that is kept of a repository's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptTrust {
    /// Every root that was walked, by version without a gap; the last is the trusted one.
    pub roots: Vec<KeptRoot>,
    /// The last trusted files of the other roles, by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The lowest versions that are accepted.
    pub floors: Floors,
    /// The newest time that an offline key signed.
    pub signed_at: Option<UnixTime>,
}

/// A release that the owner's keys approved when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRelease {
    /// SHA-256 of the manifest: the release's identity.
    pub digest: Digest,
    /// Name of the model.
    pub model: String,
    /// Version for people.
    pub version: String,
    /// Release counter.
    pub counter: u64,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Proof of the approval.
    pub evidence: Evidence,
    /// Whether the newest trusted metadata still name it.
    pub approved: bool,
    /// The bundle or repository whose files it is made of.
    pub place: Option<String>,
}

/// The last refusal of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRefusal {
    /// What was checked: `metadata`, or `model/NAME`.
    pub subject: String,
    /// The code.
    pub code: String,
    /// The file, role or model.
    pub object: String,
    /// What is wrong.
    pub reason: String,
    /// When, in microseconds since 1970 by the wall clock as it stood.
    pub at_us: i64,
}

/// Everything that one cycle changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cycle {
    /// The metadata of the image repository, where they changed.
    pub trust: Option<KeptTrust>,
    /// The director's, where they changed.
    pub director: Option<KeptTrust>,
    /// New releases, and known ones with newer evidence, another place or another standing.
    pub releases: Vec<KeptRelease>,
    /// Checks that were refused.
    pub refused: Vec<KeptRefusal>,
    /// Checks that went well: their refusals are forgotten.
    pub passed: Vec<String>,
}

/// The trust rows of a state folder's `state.db`.
#[derive(Debug)]
pub struct TrustStore {
    connection: Connection,
}

impl TrustStore {
    /// Opens the rows, beside the connection that counts starts.
    ///
    /// *Errors*: the file cannot be used, is damaged or from the future: updates are to be refused.
    pub fn open(lock: &FolderLock) -> Result<Self, StoreError> {
        let path = lock.folder().join(STATE_FILE);
        let connection = schema::open_writer(&path, Schema::State, WAL_PAGES)?;
        schema::quick_check(&connection, "`state.db`")?;
        Ok(Self { connection })
    }

    /// Returns what is kept of the image repository; nothing where no root was ever trusted.
    ///
    /// *Errors*: [`StoreError::Damaged`] for rows that cannot be what was written; the file cannot be read.
    pub fn load(&self) -> Result<Option<KeptTrust>, StoreError> {
        self.load_of(Trusted::Image)
    }

    /// Returns what is kept of a repository; nothing where no root of it was ever trusted.
    ///
    /// *Errors*: as [`TrustStore::load`].
    pub fn load_of(&self, repository: Trusted) -> Result<Option<KeptTrust>, StoreError> {
        let roots = self.roots(repository)?;
        let files = self.files(repository)?;
        let floors = read_floors(&self.connection, repository)?;
        let signed_at = self
            .connection
            .query_row(
                "SELECT signed_at FROM trust_time WHERE repository = ?1",
                [repository.as_str()],
                |row| row.get(0),
            )
            .optional()
            .map_err(StoreError::sqlite("read the newest signed time"))?
            .map(UnixTime);
        let Some(newest) = roots.last() else {
            let releases: i64 = if repository == Trusted::Director {
                0
            } else {
                self.connection
                    .query_row("SELECT count(*) FROM release", [], |row| row.get(0))
                    .map_err(StoreError::sqlite("count the releases"))?
            };
            let is_new = files.is_empty() && floors.is_none() && signed_at.is_none() && releases == 0;
            return if is_new { Ok(None) } else { Err(damaged("the chain of roots")) };
        };
        let has_gap = roots.windows(2).any(|pair| pair[0].version.checked_add(1) != Some(pair[1].version));
        let floors = floors.ok_or_else(|| damaged("the floors under the versions"))?;
        if has_gap || floors.root != newest.version {
            return Err(damaged("the chain of roots"));
        }
        Ok(Some(KeptTrust { roots, files, floors, signed_at }))
    }

    fn roots(&self, repository: Trusted) -> Result<Vec<KeptRoot>, StoreError> {
        let reading = "read the chain of roots";
        let mut statement = self
            .connection
            .prepare("SELECT version, sha256, raw FROM trust_root WHERE repository = ?1")
            .map_err(StoreError::sqlite(reading))?;
        let rows = statement
            .query_map([repository.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?)))
            .map_err(StoreError::sqlite(reading))?;
        let mut roots = Vec::new();
        for row in rows {
            let (version, sha256, raw) = row.map_err(StoreError::sqlite(reading))?;
            let version = version.cast_unsigned();
            let raw = whole(sha256, raw, "a root")?;
            roots.push(KeptRoot::new(version, raw));
        }
        roots.sort_by_key(|root| root.version);
        Ok(roots)
    }

    fn files(&self, repository: Trusted) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let reading = "read the trusted metadata";
        let mut statement = self
            .connection
            .prepare("SELECT role, sha256, raw FROM trust_file WHERE repository = ?1")
            .map_err(StoreError::sqlite(reading))?;
        let rows = statement
            .query_map([repository.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))
            .map_err(StoreError::sqlite(reading))?;
        let mut files = BTreeMap::new();
        for row in rows {
            let (role, sha256, raw) = row.map_err(StoreError::sqlite(reading))?;
            files.insert(role, whole(sha256, raw, "a trusted file")?);
        }
        Ok(files)
    }

    /// Stores a cycle, whole or not at all.
    ///
    /// *Errors*: [`StoreError::Damaged`] where a floor would fall under the same root, or a root would be replaced; the
    /// file cannot be written. Nothing is stored then.
    pub fn save(&mut self, cycle: &Cycle) -> Result<(), StoreError> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::sqlite("begin to store what is trusted"))?;
        for (repository, trust) in [(Trusted::Image, &cycle.trust), (Trusted::Director, &cycle.director)] {
            if let Some(trust) = trust {
                save_trust(&transaction, repository, trust)?;
            }
        }
        for release in &cycle.releases {
            save_release(&transaction, release).map_err(StoreError::sqlite("store a release"))?;
        }
        save_refusals(&transaction, cycle).map_err(StoreError::sqlite("store a refusal"))?;
        transaction.commit().map_err(StoreError::sqlite("store what is trusted"))
    }

    /// Returns all releases that are kept, by model and counter.
    ///
    /// *Errors*: the file cannot be read, or a row cannot be what was written.
    pub fn releases(&self) -> Result<Vec<KeptRelease>, StoreError> {
        let reading = "read the releases";
        let mut statement = self
            .connection
            .prepare(&format!("{RELEASES} ORDER BY model"))
            .map_err(StoreError::sqlite(reading))?;
        let rows = statement.query_map([], columns_of).map_err(StoreError::sqlite(reading))?;
        let mut releases = Vec::new();
        for row in rows {
            releases.push(release_of(row.map_err(StoreError::sqlite(reading))?)?);
        }
        releases.sort_by(|a, b| (&a.model, a.counter).cmp(&(&b.model, b.counter)));
        Ok(releases)
    }

    /// Returns a release.
    ///
    /// *Errors*: as [`TrustStore::releases`].
    pub fn release(&self, digest: &Digest) -> Result<Option<KeptRelease>, StoreError> {
        self.connection
            .query_row(&format!("{RELEASES} WHERE digest = ?1"), [digest.to_string()], columns_of)
            .optional()
            .map_err(StoreError::sqlite("read a release"))?
            .map(release_of)
            .transpose()
    }

    /// Forgets all releases but these and those that a slot names: one may have moved since the caller asked.
    ///
    /// *Errors*: the file cannot be written.
    pub fn keep_releases(&mut self, kept: &BTreeSet<Digest>) -> Result<(), StoreError> {
        let doing = "forget releases";
        let all = self.releases()?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::sqlite(doing))?;
        let forget = format!("DELETE FROM release WHERE digest = ?1 AND NOT {NAMED_BY_SLOT}");
        for release in all.iter().filter(|release| !kept.contains(&release.digest)) {
            transaction.execute(&forget, [release.digest.to_string()]).map_err(StoreError::sqlite(doing))?;
        }
        transaction.commit().map_err(StoreError::sqlite(doing))
    }

    /// Returns the release counters below which nothing is taken, by model; none where nothing was found good yet.
    ///
    /// *Errors*: the file cannot be read.
    pub fn counter_floors(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let reading = "read the floors under the release counters";
        let has_floors = self
            .connection
            .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'release_floor'", [], |_| Ok(()))
            .optional()
            .map_err(StoreError::sqlite(reading))?;
        if has_floors.is_none() {
            return Ok(BTreeMap::new());
        }
        let mut statement = self
            .connection
            .prepare("SELECT model, counter FROM release_floor")
            .map_err(StoreError::sqlite(reading))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())));
        rows.and_then(Iterator::collect).map_err(StoreError::sqlite(reading))
    }

    /// Returns the last refusal of each check.
    ///
    /// *Errors*: the file cannot be read.
    pub fn refusals(&self) -> Result<Vec<KeptRefusal>, StoreError> {
        read_refusals(&self.connection)
    }
}

/// Reads the last refusal of each check.
///
/// *Errors*: the file cannot be read.
pub(super) fn read_refusals(connection: &Connection) -> Result<Vec<KeptRefusal>, StoreError> {
    let reading = "read the refusals";
    let mut statement = connection
        .prepare("SELECT subject, code, object, reason, at_us FROM trust_refusal ORDER BY subject")
        .map_err(StoreError::sqlite(reading))?;
    let rows = statement.query_map([], |row| {
        Ok(KeptRefusal {
            subject: row.get(0)?,
            code: row.get(1)?,
            object: row.get(2)?,
            reason: row.get(3)?,
            at_us: row.get(4)?,
        })
    });
    rows.and_then(Iterator::collect).map_err(StoreError::sqlite(reading))
}

fn save_trust(
    transaction: &Transaction<'_>,
    repository: Trusted,
    trust: &KeptTrust,
) -> Result<(), StoreError> {
    let writing = "store the trusted metadata";
    require_floors(transaction, repository, &trust.floors)?;
    for root in &trust.roots {
        let kept: Vec<u8> = transaction
            .query_row(
                "INSERT INTO trust_root VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (repository, version) DO UPDATE SET version = version RETURNING sha256",
                params![repository.as_str(), root.version.cast_signed(), root.sha256.as_bytes(), root.raw],
                |row| row.get(0),
            )
            .map_err(StoreError::sqlite(writing))?;
        if kept != root.sha256.as_bytes() {
            return Err(damaged("the chain of roots"));
        }
    }
    let rewritten = rewrite(transaction, repository.as_str(), trust);
    rewritten.map_err(StoreError::sqlite(writing))
}

fn rewrite(transaction: &Transaction<'_>, repository: &str, trust: &KeptTrust) -> rusqlite::Result<()> {
    let roles: BTreeSet<&str> = trust.files.keys().map(String::as_str).collect();
    let mut statement = transaction.prepare("SELECT role FROM trust_file WHERE repository = ?1")?;
    let kept: Vec<String> = statement.query_map([repository], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for role in kept.iter().filter(|role| !roles.contains(role.as_str())) {
        transaction
            .execute("DELETE FROM trust_file WHERE repository = ?1 AND role = ?2", [repository, role])?;
    }
    for (role, raw) in &trust.files {
        transaction.execute(
            "INSERT INTO trust_file VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (repository, role) DO UPDATE SET sha256 = ?3, raw = ?4 WHERE sha256 <> ?3",
            params![repository, role, Digest::of(raw).as_bytes(), raw],
        )?;
    }
    transaction.execute("DELETE FROM trust_floor WHERE repository = ?1", [repository])?;
    let floors = &trust.floors;
    let top = [("root", floors.root), ("timestamp", floors.timestamp), ("snapshot", floors.snapshot)];
    let top = top.into_iter().map(|(role, version)| ("top", role, version));
    let listed = floors.targets.iter().map(|(role, version)| ("listed", role.as_str(), *version));
    for (kind, role, version) in top.chain(listed) {
        transaction.execute(
            "INSERT INTO trust_floor VALUES (?1, ?2, ?3, ?4)",
            params![repository, kind, role, version.cast_signed()],
        )?;
    }
    transaction.execute("DELETE FROM trust_time WHERE repository = ?1", [repository])?;
    if let Some(signed_at) = trust.signed_at {
        transaction.execute("INSERT INTO trust_time VALUES (?1, ?2)", params![repository, signed_at.0])?;
    }
    Ok(())
}

/// Floors fall by a new root alone, which is the verifier's to judge.
fn require_floors(
    transaction: &Transaction<'_>,
    repository: Trusted,
    new: &Floors,
) -> Result<(), StoreError> {
    let Some(old) = read_floors(transaction, repository)? else { return Ok(()) };
    let same_root = old.root == new.root;
    let listed_fall = old
        .targets
        .iter()
        .any(|(role, version)| new.targets.get(role).is_none_or(|new_version| new_version < version));
    let falls = new.timestamp < old.timestamp || new.snapshot < old.snapshot || listed_fall;
    if new.root < old.root || (same_root && falls) {
        return Err(damaged("a floor that would fall"));
    }
    Ok(())
}

pub(super) fn read_floors(
    connection: &Connection,
    repository: Trusted,
) -> Result<Option<Floors>, StoreError> {
    let reading = "read the floors under the versions";
    let mut statement = connection
        .prepare("SELECT kind, role, version FROM trust_floor WHERE repository = ?1")
        .map_err(StoreError::sqlite(reading))?;
    let rows = statement
        .query_map([repository.as_str()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        })
        .map_err(StoreError::sqlite(reading))?;
    let mut top = BTreeMap::new();
    let mut targets = BTreeMap::new();
    for row in rows {
        let (kind, role, version) = row.map_err(StoreError::sqlite(reading))?;
        let floors = if kind == "top" { &mut top } else { &mut targets };
        floors.insert(role, version.cast_unsigned());
    }
    let (root, timestamp, snapshot) = (top.remove("root"), top.remove("timestamp"), top.remove("snapshot"));
    match (root, timestamp, snapshot) {
        (Some(root), Some(timestamp), Some(snapshot)) => {
            Ok(Some(Floors { root, timestamp, snapshot, targets }))
        }
        (None, None, None) if targets.is_empty() => Ok(None),
        _ => Err(damaged("the floors under the versions")),
    }
}

fn save_release(transaction: &Transaction<'_>, release: &KeptRelease) -> rusqlite::Result<()> {
    let evidence = serde_json::to_string(&release.evidence)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    transaction.execute(
        "INSERT INTO release VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
         ON CONFLICT (digest) DO UPDATE SET evidence = ?6, approved = ?7, place = ?8 \
         WHERE evidence <> ?6 OR approved <> ?7 OR place IS NOT ?8",
        params![
            release.digest.to_string(),
            release.model,
            release.version,
            release.counter.cast_signed(),
            release.manifest,
            evidence,
            release.approved,
            release.place,
        ],
    )?;
    Ok(())
}

fn save_refusals(transaction: &Transaction<'_>, cycle: &Cycle) -> rusqlite::Result<()> {
    for subject in &cycle.passed {
        transaction.execute("DELETE FROM trust_refusal WHERE subject = ?1", [subject])?;
    }
    for refused in &cycle.refused {
        transaction.execute(
            "INSERT INTO trust_refusal VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (subject) DO UPDATE SET code = ?2, object = ?3, reason = ?4, at_us = ?5",
            params![refused.subject, refused.code, refused.object, refused.reason, refused.at_us],
        )?;
    }
    transaction.execute(
        "DELETE FROM trust_refusal WHERE subject NOT IN \
         (SELECT subject FROM trust_refusal ORDER BY at_us DESC LIMIT ?1)",
        [REFUSALS_MAX],
    )?;
    Ok(())
}

const RELEASES: &str =
    "SELECT digest, model, version, counter, manifest, evidence, approved, place FROM release";

/// A damaged release is bad and is fetched again, so its manifest is needed still.
const NAMED_BY_SLOT: &str = "(EXISTS (SELECT 1 FROM model_slot WHERE release.digest IN (active, previous, candidate)) \
     OR EXISTS (SELECT 1 FROM bad_release \
                WHERE bad_release.digest = release.digest AND bad_release.reason = 'damaged'))";

type ReleaseColumns = (String, String, String, i64, Vec<u8>, String, bool, Option<String>);

fn columns_of(row: &Row<'_>) -> rusqlite::Result<ReleaseColumns> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
    ))
}

fn release_of(columns: ReleaseColumns) -> Result<KeptRelease, StoreError> {
    let (digest, model, version, counter, manifest, evidence, approved, place) = columns;
    if Digest::of(&manifest).to_string() != digest {
        return Err(damaged("a release's manifest"));
    }
    let evidence =
        serde_json::from_str(&evidence).map_err(|_| damaged("the proof of a release's approval"))?;
    let (digest, counter) = (Digest::of(&manifest), counter.cast_unsigned());
    Ok(KeptRelease { digest, model, version, counter, manifest, evidence, approved, place })
}

/// Returns bytes that have their digest.
fn whole(sha256: Vec<u8>, raw: Vec<u8>, object: &str) -> Result<Vec<u8>, StoreError> {
    if Digest::of(&raw).as_bytes().as_slice() == sha256 { Ok(raw) } else { Err(damaged(object)) }
}

fn damaged(object: &str) -> StoreError {
    StoreError::Damaged { object: format!("{object} in `state.db`") }
}

#[cfg(test)]
mod tests;
