//! One blob on its way in: hashed as it comes, seen by others only when all of it is there and is what its name says.
//!
//! Holds one part in memory. What is given up leaves nothing behind in a folder; in a bucket the service's own rule for
//! parts without an end clears what a kill left.

use std::sync::Arc;

use dunlin_kit::digest::Digest;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use sha2::{Digest as _, Sha256};

use super::{BLOB_BYTES_MAX, BlobError, place, unavailable};

/// Bytes of a part: S3 asks for 5 MiB at least, and for equal ones in some services.
const PART_BYTES: usize = 8 << 20;

/// A blob that is being written.
#[derive(Debug)]
pub struct BlobWriter {
    store: Arc<dyn ObjectStore>,
    wanted: Digest,
    hash: Sha256,
    bytes: u64,
    part: Vec<u8>,
    /// Where there is more than one part.
    upload: Option<Box<dyn MultipartUpload>>,
}

impl BlobWriter {
    pub(super) fn new(store: Arc<dyn ObjectStore>, wanted: Digest) -> Self {
        Self { store, wanted, hash: Sha256::new(), bytes: 0, part: Vec::new(), upload: None }
    }

    /// Takes the next bytes.
    ///
    /// *Errors*: [`BlobError::TooLong`], or the folder or bucket cannot be used; nothing is kept then.
    pub async fn push(&mut self, mut piece: &[u8]) -> Result<(), BlobError> {
        self.bytes += piece.len() as u64;
        if self.bytes > BLOB_BYTES_MAX {
            self.give_up().await;
            return Err(BlobError::TooLong);
        }
        self.hash.update(piece);
        while self.part.len() + piece.len() > PART_BYTES {
            let (now, later) = piece.split_at(PART_BYTES - self.part.len());
            self.part.extend_from_slice(now);
            self.send_part().await?;
            piece = later;
        }
        self.part.extend_from_slice(piece);
        Ok(())
    }

    /// Ends the blob; returns its length.
    ///
    /// *Errors*: [`BlobError::Mismatch`], or the folder or bucket cannot be used; nothing is kept then.
    pub async fn finish(mut self) -> Result<u64, BlobError> {
        let got = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        if got != self.wanted {
            self.give_up().await;
            return Err(BlobError::Mismatch { wanted: self.wanted, got });
        }
        if self.upload.is_some() {
            self.send_part().await?;
        }
        match self.upload.take() {
            Some(mut upload) => drop(upload.complete().await.map_err(unavailable("write a blob"))?),
            None => {
                let whole = PutPayload::from(std::mem::take(&mut self.part));
                self.store.put(&place(&self.wanted), whole).await.map_err(unavailable("write a blob"))?;
            }
        }
        Ok(self.bytes)
    }

    /// Ends without a blob.
    pub async fn give_up(&mut self) {
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(%error, "parts of a blob that was given up are left");
        }
    }

    async fn send_part(&mut self) -> Result<(), BlobError> {
        let part = PutPayload::from(std::mem::take(&mut self.part));
        if self.upload.is_none() {
            let begun = self.store.put_multipart(&place(&self.wanted)).await;
            self.upload = Some(begun.map_err(unavailable("write a blob"))?);
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let sent = upload.put_part(part).await;
        if let Err(error) = sent {
            self.give_up().await;
            return Err(unavailable("write a blob")(error));
        }
        Ok(())
    }
}
