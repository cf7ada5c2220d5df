//! Patches: what makes one file of a model of the one before.
//!
//! Made when the first gateway asks, kept as a blob of its own, remembered where it is not worth it. Never made between
//! files that no model has under the same name: anybody may ask.

use std::io::Write as _;

use dunlin_kit::digest::Digest;
use tokio::sync::oneshot;

use super::{BlobError, Blobs};
use crate::fleet::now_ms;
use crate::store::blobs as table;
use crate::store::{Store, StoreError};

/// Longest blob that is patched, and longest base: making one takes some six times as much memory, reading one the sum
/// of both.
pub const PATCHED_BYTES_MAX: u64 = 32 << 20;
/// Window of a patch: covers base and blob.
const WINDOW_LOG: u32 = 26;
/// Level of Zstandard: half a second for 10 MiB; higher ones gain some percent.
const LEVEL: i32 = 9;
/// A patch is worth it below this share of the blob, in percent: a gateway has to keep base and blob at once.
const WORTH_PERCENT: u64 = 75;

/// A patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// The blob that it is kept as.
    pub sha256: Digest,
    /// Its length.
    pub bytes: u64,
}

impl Blobs {
    /// Returns the patch that makes `sha256` of `base`, and makes it where nobody has asked before; nothing where there
    /// is none.
    ///
    /// *Errors*: the store, the folder or bucket cannot be used.
    pub async fn patch(
        &self,
        store: &Store,
        sha256: Digest,
        base: Digest,
    ) -> Result<Option<Patch>, BlobError> {
        if let Some(known) = known(store, sha256, base).await? {
            return Ok(known);
        }
        let pair = (sha256.to_string(), base.to_string());
        if sha256 == base
            || !store.read(move |sql| table::may_patch(sql, &pair.0, &pair.1, PATCHED_BYTES_MAX)).await?
        {
            return Ok(None);
        }
        let Ok(_turn) = self.patching.acquire().await else { return Ok(None) };
        // Somebody else's turn may have made it.
        if let Some(known) = known(store, sha256, base).await? {
            return Ok(known);
        }
        let (Some(blob), Some(before)) =
            (self.read(&sha256, PATCHED_BYTES_MAX).await?, self.read(&base, PATCHED_BYTES_MAX).await?)
        else {
            return Ok(None);
        };
        let made = self.keep(blob, before).await?;
        let row = table::PatchRow {
            sha256: sha256.to_string(),
            base: base.to_string(),
            patch: made.map(|patch| patch.sha256.to_string()),
            bytes: made.map_or(0, |patch| patch.bytes),
            made_ms: now_ms(),
        };
        store.write(move |sql| table::put_patch(sql, &row)).await?;
        Ok(made)
    }

    async fn keep(&self, blob: Vec<u8>, base: Vec<u8>) -> Result<Option<Patch>, BlobError> {
        let whole = blob.len() as u64;
        let Some(frame) = made_beside(blob, base).await else { return Ok(None) };
        let bytes = frame.len() as u64;
        if bytes * 100 >= whole * WORTH_PERCENT {
            return Ok(None);
        }
        let sha256 = Digest::of(&frame);
        let mut writer = self.writer(sha256);
        writer.push(&frame).await?;
        writer.finish().await?;
        Ok(Some(Patch { sha256, bytes }))
    }
}

async fn known(store: &Store, sha256: Digest, base: Digest) -> Result<Option<Option<Patch>>, BlobError> {
    let pair = (sha256.to_string(), base.to_string());
    let row = store.read(move |sql| table::patch(sql, &pair.0, &pair.1)).await?;
    let Some((patch, bytes)) = row else { return Ok(None) };
    let parsed = patch.map(|patch| patch.parse::<Digest>()).transpose();
    let parsed = parsed.map_err(|_| StoreError::Damaged("the digest of a patch".to_owned()))?;
    Ok(Some(parsed.map(|sha256| Patch { sha256, bytes })))
}

/// Makes a patch on a thread of its own: it takes a core for a while.
async fn made_beside(blob: Vec<u8>, base: Vec<u8>) -> Option<Vec<u8>> {
    let (reply, made) = oneshot::channel();
    let work = move || {
        let frame = make(&blob, &base);
        if let Err(error) = &frame {
            tracing::warn!(%error, "a patch cannot be made");
        }
        // Who asked may have gone away.
        let _ = reply.send(frame.ok());
    };
    std::thread::Builder::new().name("patch".to_owned()).spawn(work).ok()?;
    made.await.ok().flatten()
}

/// Returns the frame that makes `blob` of `base`: what `zstd --patch-from` makes.
pub(super) fn make(blob: &[u8], base: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), LEVEL, base)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.long_distance_matching(true)?;
    encoder.set_pledged_src_size(Some(blob.len() as u64))?;
    encoder.include_contentsize(true)?;
    encoder.write_all(blob)?;
    encoder.finish()
}
