//! The image repository as a fleet server serves it: metadata of one moment, and files that are fetched when they are read.
//!
//! Believes nothing: whoever reads verifies. Files are kept in a temporary folder, so that each is fetched once.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::PathBuf;

use dunlin_fleet_api::image::HeldFiles;
use dunlin_model_package::package::BLOB_BYTES_MAX;
use dunlin_model_package::{Digest, RepositoryPath, RepositorySource, SourceError};
use dunlin_trust::sign::repository::Files;
use tempfile::TempDir;

use super::client::Client;
use crate::command::CommandError;

/// What a server serves.
#[derive(Debug)]
pub struct ServedRepository<'c> {
    client: &'c Client,
    metadata: Files,
    folder: TempDir,
}

impl<'c> ServedRepository<'c> {
    /// Asks a server for its metadata.
    ///
    /// *Errors*: the server refuses, or there is no room for files.
    pub fn of(client: &'c Client) -> Result<Self, CommandError> {
        let held: HeldFiles = client.get("/v1/image")?;
        let metadata = held.files.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
        let folder =
            tempfile::tempdir().map_err(|e| CommandError::failed("cannot make a temporary folder", e))?;
        Ok(Self { client, metadata, folder })
    }

    fn metadata(&self, path: &RepositoryPath) -> Option<&Vec<u8>> {
        self.metadata.get(path.to_string().strip_prefix("metadata/")?)
    }

    /// Returns a file of a package, fetched where it is not here yet.
    fn file(&self, path: &RepositoryPath) -> Result<Option<File>, SourceError> {
        let failed = |source| SourceError::Io { path: PathBuf::from(path.to_string()), source };
        let Some(sha256) = digest_of(path) else { return Ok(None) };
        let place = self.folder.path().join(sha256.to_string());
        if !place.exists() {
            let fetched = self.client.fetch(&format!("/device/v1/blobs/{sha256}"), &place, BLOB_BYTES_MAX);
            match fetched {
                Ok(()) => {}
                Err(CommandError::NotFound(_)) => return Ok(None),
                Err(error) => return Err(failed(io::Error::other(error))),
            }
        }
        File::open(&place).map(Some).map_err(failed)
    }
}

fn digest_of(path: &RepositoryPath) -> Option<Digest> {
    match path {
        RepositoryPath::Manifest { sha256, .. } | RepositoryPath::Blob(sha256) => Some(*sha256),
        _ => None,
    }
}

impl RepositorySource for ServedRepository<'_> {
    fn length(&self, path: &RepositoryPath) -> Result<Option<u64>, SourceError> {
        if let Some(raw) = self.metadata(path) {
            return Ok(Some(raw.len() as u64));
        }
        let failed = |source| SourceError::Io { path: PathBuf::from(path.to_string()), source };
        self.file(path)?.map(|file| file.metadata().map(|file| file.len()).map_err(failed)).transpose()
    }

    fn reader_at(
        &self,
        path: &RepositoryPath,
        offset: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, SourceError> {
        if let Some(raw) = self.metadata(path) {
            let rest = raw.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default().to_vec();
            return Ok(Some(Box::new(io::Cursor::new(rest))));
        }
        let failed = |source| SourceError::Io { path: PathBuf::from(path.to_string()), source };
        let Some(mut file) = self.file(path)? else { return Ok(None) };
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        Ok(Some(Box::new(file)))
    }
}
