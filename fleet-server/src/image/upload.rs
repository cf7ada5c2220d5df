//! One upload of the owner's from its files to the store: all of it or nothing.
//!
//! What is here is read, the upload judged, the manifests looked at; then everything is written in one transaction, if
//! nothing has changed meanwhile. Never keeps a release whose files are not here.

use std::collections::BTreeSet;
use std::sync::Arc;

use dunlin_kit::digest::Digest;
use dunlin_model_package::Manifest;
use dunlin_model_package::package::MANIFEST_BYTES_MAX;
use dunlin_trust::sign::repository::{Files, SignError};
use serde_json::json;

use super::verify::{Approved, SETTINGS_FOLDER, Verdict, newest, split, verify};
use super::{ImageRefusal, unix};
use crate::fleet::{Fleet, now_ms};
use crate::store::audit::{self, Deed};
use crate::store::releases::{self, Release, SettingsRelease};
use crate::store::{Sql, StoreError, blobs, events, image};

/// Tries where somebody else uploads at the same time.
const TRIES: usize = 4;

/// What an upload came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// Names of the files that are new, the server's own among them.
    pub files: Vec<String>,
    /// Digests of the releases that are new.
    pub releases: Vec<String>,
}

/// A release of a model with its manifest.
#[derive(Debug, Clone)]
struct Incoming {
    release: Release,
    files: Vec<(String, Digest)>,
}

/// Takes what the owner signed: roots, targets and delegated roles by file name. The very first root is taken as it is,
/// on the word of who uploads it; everything after follows from it. Taken again it changes nothing.
///
/// *Errors*: see [`ImageRefusal`]; nothing is kept then.
pub async fn upload(fleet: &Fleet, files: Files, who: &str, reason: &str) -> Result<Uploaded, ImageRefusal> {
    let files = Arc::new(files);
    for _ in 0..TRIES {
        let (uploaded, key, now) = (Arc::clone(&files), Arc::clone(fleet.key.role()), now_ms());
        // On a thread of the store: judging takes a core for some ms.
        let judged = move |sql: &mut dyn Sql| {
            let held = held(sql)?;
            let known: BTreeSet<Digest> = image::release_digests(sql)?;
            let verdict = verify(&held, &uploaded, &key, unix(now));
            Ok((mark(&held), known, verdict))
        };
        let (mark, known, verdict) = fleet.store.read(judged).await?;
        let verdict = verdict?;
        if verdict.new.is_empty() {
            return Ok(Uploaded { files: Vec::new(), releases: Vec::new() });
        }
        let incoming = incoming(fleet, &verdict, &known, who, now).await?;
        let work = Keeping {
            mark,
            verdict: Arc::new(verdict),
            incoming: Arc::new(incoming),
            who: who.to_owned(),
            reason: reason.to_owned(),
            now_ms: now,
        };
        match fleet.store.write(move |sql| work.keep(sql)).await? {
            Kept::All(uploaded) => return Ok(uploaded),
            Kept::Missing(digests) => return Err(ImageRefusal::Missing(digests)),
            Kept::Counter { model, last } => {
                return Err(ImageRefusal::Unfit(SignError::Counter { model, last, given: last }));
            }
            Kept::Raced => {}
        }
    }
    Err(ImageRefusal::Raced)
}

/// Reads what is here: all roots, and the newest file of each other role.
pub(crate) fn held(sql: &mut dyn Sql) -> Result<Files, StoreError> {
    let mut files = Files::new();
    for (role, version, raw) in image::newest(sql)? {
        let name =
            if role == "timestamp" { "timestamp.json".to_owned() } else { format!("{version}.{role}.json") };
        files.insert(name, raw);
    }
    Ok(files)
}

/// What tells whether something has changed meanwhile.
pub(super) fn mark(held: &Files) -> Vec<(String, Digest)> {
    held.iter().map(|(name, raw)| (name.clone(), Digest::of(raw))).collect()
}

/// Reads the manifests of the releases that are new.
async fn incoming(
    fleet: &Fleet,
    verdict: &Verdict,
    known: &BTreeSet<Digest>,
    who: &str,
    now_ms: u64,
) -> Result<Vec<Incoming>, ImageRefusal> {
    let (mut incoming, mut missing) = (Vec::new(), Vec::new());
    for approved in verdict.approved.iter().filter(|approved| !known.contains(&approved.digest)) {
        let Some(note) = &approved.note else { continue };
        let Some(raw) = fleet.blobs.read(&approved.digest, MANIFEST_BYTES_MAX).await? else {
            missing.push(approved.digest);
            continue;
        };
        let wrong = |reason: String| ImageRefusal::Manifest { path: approved.path.clone(), reason };
        let manifest = Manifest::parse(&raw).map_err(|error| wrong(format!("cannot be used: {error}")))?;
        if manifest.target_path() != approved.path || manifest.release_note() != *note {
            return Err(wrong("says another model, version or counter than the metadata".to_owned()));
        }
        let release = Release {
            digest: approved.digest.to_string(),
            model: note.model.clone(),
            counter: note.release_counter,
            version: note.version.clone(),
            path: approved.path.clone(),
            manifest: raw,
            published_ms: now_ms,
            published_by: who.to_owned(),
            removed_ms: None,
            signers: json!(approved.signers).to_string(),
        };
        let files = manifest.blobs.iter().map(|(name, blob)| (name.clone(), blob.sha256)).collect();
        incoming.push(Incoming { release, files });
    }
    if missing.is_empty() { Ok(incoming) } else { Err(ImageRefusal::Missing(missing)) }
}

enum Kept {
    All(Uploaded),
    Missing(Vec<Digest>),
    /// Another release of the model has the counter.
    Counter {
        model: String,
        last: u64,
    },
    Raced,
}

/// The transaction.
struct Keeping {
    mark: Vec<(String, Digest)>,
    verdict: Arc<Verdict>,
    incoming: Arc<Vec<Incoming>>,
    who: String,
    reason: String,
    now_ms: u64,
}

impl Keeping {
    fn keep(&self, sql: &mut dyn Sql) -> Result<Kept, StoreError> {
        if mark(&held(sql)?) != self.mark {
            return Ok(Kept::Raced);
        }
        let missing = self.missing(sql)?;
        if !missing.is_empty() {
            return Ok(Kept::Missing(missing));
        }
        for Incoming { release, .. } in self.incoming.iter() {
            if releases::has_counter(sql, &release.model, release.counter)? {
                return Ok(Kept::Counter { model: release.model.clone(), last: release.counter });
            }
        }
        for (name, raw) in &self.verdict.new {
            match split(name) {
                Some((version, role)) => image::put(sql, role, version, raw)?,
                None => super::renewal::put_timestamp(sql, raw)?,
            }
        }
        self.keep_releases(sql)?;
        self.keep_settings(sql)?;
        let files: Vec<String> = self.verdict.new.keys().cloned().collect();
        let releases: Vec<String> = self.incoming.iter().map(|new| new.release.digest.clone()).collect();
        let root = newest(&self.verdict.new, "root").is_some();
        let action = if root { "image.root" } else { "image.publish" };
        let deed = Deed {
            at_ms: self.now_ms,
            who: self.who.clone(),
            action: action.to_owned(),
            object: "image".to_owned(),
            reason: self.reason.clone(),
            detail: json!({ "files": files, "releases": releases }).to_string(),
        };
        audit::add(sql, &deed)?;
        Ok(Kept::All(Uploaded { files, releases }))
    }

    /// Returns what is named and not here, as the store has it: a blob is noted when all of it is written.
    fn missing(&self, sql: &mut dyn Sql) -> Result<Vec<Digest>, StoreError> {
        let others = self.verdict.approved.iter().filter(|approved| approved.note.is_none());
        let files = self.incoming.iter().flat_map(|new| new.files.iter().map(|(_, sha256)| *sha256));
        let manifests = self.incoming.iter().filter_map(|new| new.release.digest.parse().ok());
        let wanted: BTreeSet<Digest> =
            others.map(|approved| approved.digest).chain(files).chain(manifests).collect();
        let mut missing = Vec::new();
        for sha256 in wanted {
            if blobs::bytes(sql, &sha256.to_string())?.is_none() {
                missing.push(sha256);
            }
        }
        Ok(missing)
    }

    fn keep_releases(&self, sql: &mut dyn Sql) -> Result<(), StoreError> {
        let named = self.verdict.approved.iter().filter(|approved| approved.note.is_some());
        let named: Vec<&Approved> = named.collect();
        let digests: Vec<String> = named.iter().map(|approved| approved.digest.to_string()).collect();
        releases::keep_named(sql, &digests, self.now_ms)?;
        for new in self.incoming.iter() {
            releases::put(sql, &new.release)?;
            let Release { digest, model, version, counter, path, .. } = &new.release;
            let body = json!({ "model": model, "version": version, "counter": counter, "path": path });
            events::add(sql, events::RELEASE_PUBLISHED, digest, &body, self.now_ms)?;
            for (name, sha256) in &new.files {
                blobs::put_file(sql, &new.release.model, name, &sha256.to_string())?;
            }
        }
        for approved in named {
            let signers = json!(approved.signers).to_string();
            releases::name_again(sql, &approved.digest.to_string(), &approved.path, &signers)?;
        }
        Ok(())
    }

    fn keep_settings(&self, sql: &mut dyn Sql) -> Result<(), StoreError> {
        let is_settings =
            |approved: &&Approved| approved.note.is_none() && approved.path.starts_with(SETTINGS_FOLDER);
        let named: Vec<&Approved> = self.verdict.approved.iter().filter(is_settings).collect();
        let digests: Vec<String> = named.iter().map(|approved| approved.digest.to_string()).collect();
        releases::keep_named_settings(sql, &digests, self.now_ms)?;
        for approved in named {
            let settings = SettingsRelease {
                digest: approved.digest.to_string(),
                path: approved.path.clone(),
                bytes: approved.bytes,
                published_ms: self.now_ms,
                published_by: self.who.clone(),
                removed_ms: None,
            };
            releases::put_settings(sql, &settings)?;
        }
        Ok(())
    }
}
