//! Bringing what was signed to the server, and what the server signs into the operator's folder.
//!
//! Uploads files before the metadata that name them. What comes back is verified as a gateway would before it is kept.
//! Sent again after a cut it completes what is missing; sent twice it changes nothing.

use std::collections::BTreeSet;

use dunlin_fleet_api::image::{HeldFiles, NewFiles, TakenFiles};
use dunlin_model_package::package::MANIFEST_BYTES_MAX;
use dunlin_model_package::repository_path::SETTINGS_FOLDER;
use dunlin_model_package::{Digest, Manifest, RepositoryPath, RepositorySource as _};
use dunlin_trust::sign::repository::{Files, Repository, standing};
use dunlin_trust::time::UnixTime;

use super::client::Client;
use crate::command::CommandError;
use crate::keyring::refused;
use crate::verification::{self, MetadataInMemory};
use crate::workspace::Workspace;

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Names of the files that are new at the server.
    pub files: Vec<String>,
    /// Manifests and files of packages that were uploaded.
    pub blobs: usize,
    /// Releases that are named.
    pub releases: usize,
}

/// Brings everything that was signed, a finished change that waits included, to the server.
///
/// *Errors*: a change lacks signatures, a file is missing, or the server refuses.
pub fn publish(
    client: &Client,
    workspace: &mut Workspace,
    now: UnixTime,
    reason: &str,
) -> Result<Published, CommandError> {
    let mut files = workspace.metadata().clone();
    if let Some(pending) = workspace.pending() {
        let standings = standing(workspace.repository(), pending).map_err(refused)?;
        if let Some(open) = standings.iter().find(|standing| standing.missing > 0) {
            return Err(CommandError::Conflict(format!(
                "`{}` needs {} more signatures: add them with `dunlin sign --add`",
                open.file, open.missing
            )));
        }
        files.extend(pending.clone());
    }
    let offline: Files = files.into_iter().filter(|(name, _)| !is_online(name)).collect();
    let repository = Repository::read(&offline).map_err(refused)?;
    let releases = repository.releases();
    let mut blobs = 0;
    for release in &releases {
        blobs += upload_release(client, workspace, &release.path, &release.sha256)?;
    }
    for (path, sha256) in settings(&repository) {
        blobs += upload_settings(client, workspace, path, sha256)?;
    }
    let taken: TakenFiles =
        client.post("/v1/image", &NewFiles { files: texts(&offline)?, reason: reason.to_owned() })?;
    take_back(client, workspace, offline, now)?;
    Ok(Published { files: taken.files, blobs, releases: releases.len() })
}

/// Returns the files of settings that are signed: path and SHA-256.
fn settings(repository: &Repository) -> impl Iterator<Item = (&str, Digest)> {
    let targets = repository.target_roles().filter_map(|role| repository.targets(role));
    let named = targets.flat_map(|targets| &targets.targets);
    named.filter(|(path, _)| path.starts_with(SETTINGS_FOLDER)).filter_map(|(path, description)| {
        Some((path.as_str(), description.hashes.get("sha256")?.parse().ok()?))
    })
}

/// Uploads a file of settings that is not at the server; returns how many.
fn upload_settings(
    client: &Client,
    workspace: &Workspace,
    path: &str,
    sha256: Digest,
) -> Result<usize, CommandError> {
    let address = format!("/v1/blobs/{sha256}");
    if client.has(&address)? {
        return Ok(0);
    }
    let read = workspace.source().read(&RepositoryPath::Blob(sha256), MANIFEST_BYTES_MAX);
    let bytes = read
        .map_err(|e| CommandError::failed(format!("cannot read `{path}`"), e))?
        .ok_or_else(|| CommandError::NotFound(format!("`{path}` is missing in the trust folder")))?;
    client.put_bytes(&address, bytes)?;
    Ok(1)
}

/// Uploads the manifest and the files of a release that are not at the server; returns how many.
fn upload_release(
    client: &Client,
    workspace: &Workspace,
    path: &str,
    sha256: &str,
) -> Result<usize, CommandError> {
    let missing =
        |what: &str| CommandError::NotFound(format!("{what} of `{path}` is missing in the trust folder"));
    let digest: Digest = sha256.parse().map_err(|_| missing("the manifest"))?;
    let place = RepositoryPath::of_target(path, digest).ok_or_else(|| missing("the manifest"))?;
    let read = |place: &RepositoryPath, what: &str| {
        let limit = dunlin_model_package::package::BLOB_BYTES_MAX;
        let bytes = workspace.source().read(place, limit);
        bytes
            .map_err(|e| CommandError::failed(format!("cannot read {what} of `{path}`"), e))?
            .ok_or_else(|| missing(what))
    };
    let raw = read(&place, "the manifest")?;
    let manifest = Manifest::parse(&raw)
        .map_err(|e| CommandError::failed(format!("the manifest of `{path}` is damaged"), e))?;
    let mut wanted: BTreeSet<Digest> = manifest.blobs.values().map(|blob| blob.sha256).collect();
    wanted.insert(digest);
    let mut uploaded = 0;
    for sha256 in wanted {
        let address = format!("/v1/blobs/{sha256}");
        if client.has(&address)? {
            continue;
        }
        let bytes = match sha256 == digest {
            true => raw.clone(),
            false => read(&RepositoryPath::Blob(sha256), "a file")?,
        };
        client.put_bytes(&address, bytes)?;
        uploaded += 1;
    }
    Ok(uploaded)
}

/// Takes the server's snapshot and timestamp beside what was signed here, so that the folder is a whole repository.
fn take_back(
    client: &Client,
    workspace: &mut Workspace,
    mut files: Files,
    now: UnixTime,
) -> Result<(), CommandError> {
    let held: HeldFiles = client.get("/v1/image")?;
    let online: Files = held
        .files
        .into_iter()
        .filter(|(name, _)| is_online(name))
        .map(|(name, raw)| (name, raw.into_bytes()))
        .collect();
    files.extend(online);
    verification::verify_metadata(&MetadataInMemory(files.clone()), now).map_err(|failure| {
        CommandError::CheckFailed(format!("gateways would refuse what the server serves: {failure}"))
    })?;
    // The server counts its snapshots by itself: one of before would pass for newer.
    workspace.take_in_place_of(&files, &|name| is_online(name))
}

/// Brings roots of the director to the server.
///
/// *Errors*: the server refuses.
pub fn publish_director(client: &Client, roots: &Files, reason: &str) -> Result<Vec<String>, CommandError> {
    let body = NewFiles { files: texts(roots)?, reason: reason.to_owned() };
    Ok(client.post::<TakenFiles>("/v1/director", &body)?.files)
}

/// Tells whether a file is one that the server signs.
fn is_online(name: &str) -> bool {
    name == "timestamp.json" || name.ends_with(".snapshot.json")
}

fn texts(files: &Files) -> Result<std::collections::BTreeMap<String, String>, CommandError> {
    let text = |(name, raw): (&String, &Vec<u8>)| {
        let text = String::from_utf8(raw.clone());
        text.map(|text| (name.clone(), text))
            .map_err(|_| CommandError::CheckFailed(format!("`{name}` is no text")))
    };
    files.iter().map(text).collect()
}
