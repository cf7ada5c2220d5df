//! Blobs in a bucket of an S3 service, over its own protocol.

use dunlin_e2e::bucket::Bucket;
use dunlin_e2e::fleet_server::ServerPlan;
use dunlin_e2e::workspace::skip;
use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet::blobs::{BLOB_BYTES_MAX, BlobError, Blobs};
use dunlin_protocol::Digest;
use dunlin_protocol::routes::blob_path;

use crate::device::request;

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

#[test]
fn a_server_keeps_its_blobs_in_a_bucket_and_gives_out_parts_of_them() -> Outcome<()> {
    if !Bucket::is_installed() {
        skip("moto's server is not installed");
        return Ok(());
    }
    let (bucket, folder) = (Bucket::start()?, tempfile::tempdir()?);
    let plan =
        ServerPlan::new(folder.path())?.with(&["--blob-url", &bucket.url()]).within(bucket.environment());
    let server = plan.start()?;
    let token = std::fs::read_to_string(plan.data.join("keys/admin.token"))?;
    let authorised = format!("authorization: Bearer {}\r\n", token.trim());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], plan.port));
    let content: Vec<u8> = (0..(9_usize << 20)).map(|n| (n * 31 + n / 251) as u8).collect();
    let sha256 = Digest::of(&content);
    let path = format!("/v1/blobs/{sha256}");
    assert_eq!(request(address, "PUT", &path, &authorised, &content[1..])?.status, 422);
    assert_eq!(request(address, "PUT", &path, &authorised, &content)?.status, 201);
    let whole = request(address, "GET", &blob_path(&sha256), "", b"")?;
    assert!(whole.status == 200 && whole.body == content);
    let part = request(address, "GET", &blob_path(&sha256), "range: bytes=8388600-8388700\r\n", b"")?;
    assert_eq!((part.status, part.body.as_slice()), (206, &content[8_388_600..=8_388_700]));
    // A bucket that is gone is a fault of the server, not a missing blob.
    drop(bucket);
    assert_eq!(request(address, "GET", &blob_path(&Digest::of(b"other")), "", b"")?.status, 503);
    drop(server);
    Ok(())
}
