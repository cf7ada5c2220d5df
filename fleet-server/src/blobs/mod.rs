//! Blobs: files by their SHA-256, in a folder or in a bucket.
//!
//! What is written is hashed on its way and kept only where it is what its name says; what is read is as it was written,
//! since gateways check it again. Never changes a blob, and knows nothing of what one is for.

mod patch;
mod writer;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use dunlin_kit::digest::Digest;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, RetryConfig};
use tokio::sync::Semaphore;

use crate::store::StoreError;

pub use patch::{PATCHED_BYTES_MAX, Patch};
pub use writer::BlobWriter;

/// Longest blob: as long as a package's file may be.
pub const BLOB_BYTES_MAX: u64 = dunlin_model_package::package::BLOB_BYTES_MAX;

/// How long a service that does not answer is asked again: whoever waits comes back by itself.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Why a blob is not written or read.
#[derive(Debug)]
pub enum BlobError {
    /// The URL names no bucket.
    Url(String),
    /// The folder or bucket cannot be used.
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: object_store::Error,
    },
    /// The bytes are not those that the name says.
    Mismatch {
        /// The name.
        wanted: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// The bytes are more than a blob may have.
    TooLong,
    /// It cannot be noted in the store.
    Store(StoreError),
}

impl fmt::Display for BlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "`{url}` names no bucket; write `s3://BUCKET/FOLDER`"),
            Self::Unavailable { doing, .. } => write!(f, "cannot {doing}"),
            Self::Mismatch { wanted, got } => {
                write!(f, "the bytes of `{wanted}` have the SHA-256 {got}; send them again")
            }
            Self::TooLong => write!(f, "a blob has at most {BLOB_BYTES_MAX} bytes"),
            Self::Store(_) => f.write_str("cannot note the blob"),
        }
    }
}

impl std::error::Error for BlobError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unavailable { source, .. } => Some(source),
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for BlobError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn unavailable(doing: &'static str) -> impl FnOnce(object_store::Error) -> BlobError {
    move |source| BlobError::Unavailable { doing, source }
}

/// A folder or bucket of blobs.
#[derive(Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Patches are made one after the other: each takes a core and some hundred MiB.
    patching: Semaphore,
}

/// A blob that is being read.
#[derive(Debug)]
pub struct Reading {
    /// Bytes of the whole blob.
    pub bytes: u64,
    /// Which of them come.
    pub range: Range<u64>,
    /// The bytes.
    pub body: Body,
}

impl Blobs {
    /// Opens a folder, which is there.
    ///
    /// *Errors*: it is none.
    pub fn open_folder(folder: &Path) -> Result<Self, BlobError> {
        // A release that was acknowledged outlives a power cut.
        let store =
            LocalFileSystem::new_with_prefix(folder).map_err(unavailable("open the folder of blobs"))?;
        Ok(Self::over(Arc::new(store.with_fsync(true))))
    }

    /// Opens a bucket of an S3-compatible service, as in `s3://bucket/folder`; credentials and endpoint are those of the
    /// environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, …).
    ///
    /// *Errors*: the URL names no bucket, or the environment is not complete.
    pub fn open_url(url: &str) -> Result<Self, BlobError> {
        Self::open_bucket(url, AmazonS3Builder::from_env())
    }

    /// Opens a bucket with these settings in place of the environment's, by the same names.
    ///
    /// *Errors*: as [`Blobs::open_url`].
    pub fn open_url_with(url: &str, settings: &[(String, String)]) -> Result<Self, BlobError> {
        let mut builder = AmazonS3Builder::new();
        for (name, value) in settings {
            let key =
                name.to_ascii_lowercase().parse().map_err(unavailable("read the settings of the bucket"))?;
            builder = builder.with_config(key, value);
        }
        Self::open_bucket(url, builder)
    }

    fn open_bucket(url: &str, builder: AmazonS3Builder) -> Result<Self, BlobError> {
        let wrong = || BlobError::Url(url.to_owned());
        let rest = url.strip_prefix("s3://").ok_or_else(wrong)?;
        let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong());
        }
        let retry = RetryConfig { max_retries: 3, retry_timeout: RETRY_MAX, ..RetryConfig::default() };
        let store = builder
            .with_bucket_name(bucket)
            .with_retry(retry)
            .build()
            .map_err(unavailable("open the bucket of blobs"))?;
        let folder = object_store::path::Path::parse(folder.trim_end_matches('/')).map_err(|_| wrong())?;
        Ok(Self::over(Arc::new(PrefixStore::new(store, folder))))
    }

    fn over(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, patching: Semaphore::new(1) }
    }

    /// Begins a blob.
    #[must_use]
    pub fn writer(&self, sha256: Digest) -> BlobWriter {
        BlobWriter::new(Arc::clone(&self.store), sha256)
    }

    /// Returns the length of a blob; nothing where it is not here.
    ///
    /// *Errors*: the folder or bucket cannot be used.
    pub async fn bytes(&self, sha256: &Digest) -> Result<Option<u64>, BlobError> {
        match self.store.head(&place(sha256)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unavailable("look for a blob")(error)),
        }
    }

    /// Reads a blob that has at most so many bytes, as a whole; nothing where it is not here.
    ///
    /// *Errors*: it is longer, is not what its name says, or the folder or bucket cannot be used.
    pub async fn read(&self, sha256: &Digest, bytes_max: u64) -> Result<Option<Vec<u8>>, BlobError> {
        let reading = unavailable("read a blob");
        let found = match self.store.get(&place(sha256)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(reading(error)),
        };
        if found.meta.size > bytes_max {
            return Err(BlobError::TooLong);
        }
        let bytes = found.bytes().await.map_err(unavailable("read a blob"))?;
        let got = Digest::of(&bytes);
        if got == *sha256 {
            Ok(Some(bytes.to_vec()))
        } else {
            Err(BlobError::Mismatch { wanted: *sha256, got })
        }
    }

    /// Begins to read a blob, or a part of it that lies within; nothing where it is not here.
    ///
    /// *Errors*: the folder or bucket cannot be used.
    pub async fn stream(
        &self,
        sha256: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<Option<Reading>, BlobError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        match self.store.get_opts(&place(sha256), options).await {
            Ok(found) => {
                let (bytes, range) = (found.meta.size, found.range.clone());
                Ok(Some(Reading { bytes, range, body: Body::from_stream(found.into_stream()) }))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unavailable("read a blob")(error)),
        }
    }
}

/// Returns where a blob stands: in one of 256 folders, so that none holds too many.
fn place(sha256: &Digest) -> object_store::path::Path {
    let name = sha256.to_string();
    object_store::path::Path::from_iter([&name[..2], name.as_str()])
}

#[cfg(test)]
mod tests;
