//! A folder of blobs: what is kept, and what is not.

use std::io::Read as _;

use super::*;

fn on_a_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn files_in(folder: &Path) -> usize {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() { files_in(&entry.path()) } else { 1 }
        })
        .sum()
}

#[test]
fn a_blob_of_any_length_comes_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open_folder(folder.path()).unwrap();
    on_a_runtime(async {
        for bytes in [0, 1, 1_000, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, (17 << 20) + 5] {
            let content: Vec<u8> = (0..bytes).map(|n: usize| (n * 31 + n / 251) as u8).collect();
            let sha256 = Digest::of(&content);
            let mut writer = blobs.writer(sha256);
            for piece in content.chunks(100_000) {
                writer.push(piece).await.unwrap();
            }
            assert_eq!(writer.finish().await.unwrap(), content.len() as u64);
            assert_eq!(blobs.bytes(&sha256).await.unwrap(), Some(content.len() as u64));
            assert_eq!(blobs.read(&sha256, BLOB_BYTES_MAX).await.unwrap().unwrap(), content);
        }
    });
}

#[test]
fn bytes_that_are_not_what_their_name_says_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open_folder(folder.path()).unwrap();
    on_a_runtime(async {
        for bytes in [10, 20 << 20] {
            let wanted = Digest::of(b"another");
            let mut writer = blobs.writer(wanted);
            writer.push(&vec![7; bytes]).await.unwrap();
            let refused = writer.finish().await;
            assert!(matches!(refused, Err(BlobError::Mismatch { wanted: named, .. }) if named == wanted));
            assert_eq!(blobs.bytes(&wanted).await.unwrap(), None);
        }
        assert!(blobs.read(&Digest::of(b"nobody"), 1).await.unwrap().is_none());
    });
    assert_eq!(files_in(folder.path()), 0);
}

#[test]
fn a_patch_makes_the_blob_of_its_base_and_is_small() {
    let base: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut blob = base.clone();
    blob.splice(500_000..500_010, *b"something else in the middle");
    let frame = patch::make(&blob, &base).unwrap();
    assert!(frame.len() < blob.len() / 100, "{}", frame.len());
    let mut made = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(frame.as_slice(), &base).unwrap();
    decoder.read_to_end(&mut made).unwrap();
    assert_eq!(made, blob);
}

#[test]
fn a_bucket_is_named_by_its_url() {
    for url in ["", "s3://", "s3:///folder", "https://bucket", "file:///tmp"] {
        assert!(matches!(Blobs::open_url(url), Err(BlobError::Url(_))), "{url}");
    }
}
