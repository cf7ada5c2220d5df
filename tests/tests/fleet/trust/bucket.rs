//! Blobs in a bucket of an S3 service, over its own protocol.

use dunlin_e2e::bucket::Bucket;
use dunlin_e2e::workspace::skip;
use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::blobs::{BLOB_BYTES_MAX, BlobError, Blobs};
use dunlin_protocol::Digest;

#[test]
fn blobs_of_any_length_are_kept_in_a_bucket_and_wrong_ones_are_not() -> Outcome<()> {
    if !Bucket::is_installed() {
        skip("moto's server is not installed");
        return Ok(());
    }
    let bucket = Bucket::start()?;
    let blobs = Blobs::open_url_with(&bucket.url(), &bucket.environment()).map_err(Failure::of("open"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keep = async |wanted: Digest, content: &[u8]| -> Result<u64, BlobError> {
        let mut writer = blobs.writer(wanted);
        for piece in content.chunks(1 << 20) {
            writer.push(piece).await?;
        }
        writer.finish().await
    };
    // One part, and several.
    for bytes in [0_usize, 5, 1_000_000, 20 << 20] {
        let content: Vec<u8> = (0..bytes).map(|n| (n * 31 + n / 251) as u8).collect();
        let sha256 = Digest::of(&content);
        runtime.block_on(async {
            assert_eq!(blobs.bytes(&sha256).await.map_err(Failure::of("look"))?, None);
            let kept = keep(sha256, &content).await.map_err(Failure::of("write"))?;
            assert_eq!(kept, bytes as u64);
            assert_eq!(blobs.bytes(&sha256).await.map_err(Failure::of("look"))?, Some(kept));
            let read = blobs.read(&sha256, BLOB_BYTES_MAX).await.map_err(Failure::of("read"))?;
            assert!(read.is_some_and(|read| read == content));
            if bytes > 100 {
                let part = blobs.stream(&sha256, Some(50..90)).await.map_err(Failure::of("read"))?.unwrap();
                assert_eq!((part.bytes, part.range), (bytes as u64, 50..90));
            }
            let wanted = Digest::of(&[content.as_slice(), b"more"].concat());
            let refused = keep(wanted, &content).await;
            assert!(matches!(refused, Err(BlobError::Mismatch { .. })), "{refused:?}");
            assert_eq!(blobs.bytes(&wanted).await.map_err(Failure::of("look"))?, None);
            Ok::<_, Failure>(())
        })?;
    }
    Ok(())
}
