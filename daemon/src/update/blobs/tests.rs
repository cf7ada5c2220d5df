//! Blobs that come in pieces, from sources that end, never end or creep, into stores that are full or tampered with.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A source of one blob, which counts what is read of it.
#[derive(Clone, Default)]
struct Blob {
    bytes: Vec<u8>,
    /// What it says its length is.
    announced: Option<u64>,
    /// The connection breaks after so many bytes.
    breaks_after: Option<u64>,
    /// Bytes of each read.
    stride: Option<usize>,
    /// A file that takes all room as soon as somebody reads.
    fills: Option<PathBuf>,
    given: Arc<AtomicU64>,
}

struct BlobReader {
    blob: Blob,
    offset: usize,
    left: Option<u64>,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.blob.bytes[self.offset.min(self.blob.bytes.len())..];
        let mut count = rest.len().min(buffer.len()).min(self.blob.stride.unwrap_or(usize::MAX));
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return Err(io::Error::other("the stick was pulled out"));
            }
            count = count.min(*left as usize);
            *left -= count as u64;
        }
        buffer[..count].copy_from_slice(&rest[..count]);
        self.offset += count;
        self.blob.given.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl RepositorySource for Blob {
    fn length(&self, _: &RepositoryPath) -> Result<Option<u64>, SourceError> {
        Ok(Some(self.announced.unwrap_or(self.bytes.len() as u64)))
    }

    fn reader_at(
        &self,
        _: &RepositoryPath,
        offset: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, SourceError> {
        if let Some(filler) = &self.fills {
            let mut file = File::create(filler).unwrap();
            while file.write_all(&[0; 4_096]).is_ok() {}
        }
        let left = self.breaks_after;
        Ok(Some(Box::new(BlobReader { blob: self.clone(), offset: offset as usize, left })))
    }
}

fn blob(bytes: &[u8]) -> (Blob, BlobSpec) {
    let spec = BlobSpec { sha256: Digest::of(bytes), bytes: bytes.len() as u64 };
    (Blob { bytes: bytes.to_vec(), ..Blob::default() }, spec)
}

fn store() -> (tempfile::TempDir, BlobStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path(), 0).unwrap();
    (folder, store)
}

fn code(result: Result<Fetched, BlobError>) -> String {
    match result {
        Err(BlobError::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn names(store: &BlobStore) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(store.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_copy_that_breaks_at_any_byte_goes_on_there_and_reads_no_byte_twice() {
    let (_folder, store) = store();
    for cut in 0..120_u64 {
        let content: Vec<u8> = (0..120).map(|n| (n as u8) ^ (cut as u8)).collect();
        let (whole, spec) = blob(&content);
        let broken = Blob { breaks_after: Some(cut), ..whole.clone() };
        let error = store.fetch(&broken, &spec, &mut |_| {}).unwrap_err();
        assert!(matches!(error, BlobError::Source(_)), "{cut}: {error}");
        assert_eq!(store.missing_bytes(&spec).unwrap(), 120 - cut);
        let mut took = 0;
        assert_eq!(store.fetch(&whole, &spec, &mut |bytes| took += bytes).unwrap(), Fetched::Copied);
        assert_eq!((took, whole.given.load(Ordering::Relaxed)), (120 - cut, 120), "{cut}");
        assert_eq!(fs::read(store.path().join(spec.sha256.to_string())).unwrap(), content);
        assert_eq!(store.fetch(&whole, &spec, &mut |_| panic!("copied")).unwrap(), Fetched::Present);
    }
    assert_eq!(names(&store).len(), 120);
}

#[test]
fn a_whole_part_needs_no_source_and_a_torn_one_is_copied_anew() {
    let (_folder, store) = store();
    let (source, spec) = blob(b"0123456789");
    let part = store.path().join(part_name(&spec.sha256.to_string()));
    for (content, given) in
        [("0123456789", 0), ("01xx", 6 + 10), ("0123456789abc", 10), ("", 10), ("xxxxxxxxxx", 10)]
    {
        dunlin_kit::atomic_file::write(&part, content.as_bytes()).unwrap();
        source.given.store(0, Ordering::Relaxed);
        store.fetch(&source, &spec, &mut |_| {}).unwrap();
        assert_eq!(source.given.load(Ordering::Relaxed), given, "{content}");
        assert_eq!(names(&store), [spec.sha256.to_string()]);
        store.remove(&spec.sha256.to_string()).unwrap();
    }
}

#[test]
fn what_is_not_the_blob_is_refused_and_leaves_nothing() {
    let (_folder, store) = store();
    let (right, spec) = blob(b"0123456789");
    for (source, expected) in [
        (Blob { bytes: b"0123456780".to_vec(), ..right.clone() }, "mismatch"),
        (Blob { bytes: b"012345678".to_vec(), ..right.clone() }, "mismatch"),
        (Blob { bytes: b"0123456789a".to_vec(), ..right.clone() }, "endless_data"),
        (Blob { bytes: vec![b'0'; 1 << 20], announced: Some(10), ..right.clone() }, "endless_data"),
    ] {
        assert_eq!(code(store.fetch(&source, &spec, &mut |_| {})), expected);
        assert!(names(&store).is_empty(), "{expected}");
        assert!(source.given.load(Ordering::Relaxed) <= 11, "no more is read than shows that it is too long");
    }
    let (huge, mut spec) = blob(b"x");
    spec.bytes = BLOB_BYTES_MAX + 1;
    assert_eq!(code(store.fetch(&huge, &spec, &mut |_| {})), "endless_data");
}

#[test]
fn an_empty_blob_is_a_blob() {
    let (_folder, store) = store();
    let (source, spec) = blob(b"");
    assert_eq!(store.fetch(&source, &spec, &mut |_| {}).unwrap(), Fetched::Copied);
    assert_eq!(store.fetch(&source, &spec, &mut |_| {}).unwrap(), Fetched::Present);
}

thread_local! {
    static SECONDS: Cell<u64> = const { Cell::new(0) };
}

#[test]
fn a_source_that_creeps_is_left_and_what_it_gave_stays() {
    let (_folder, mut store) = store();
    // Each look at the clock is a second later.
    store.uptime = || Duration::from_secs(SECONDS.replace(SECONDS.get() + 1));
    let (right, spec) = blob(&[7; 60_000]);
    let creeping = Blob { stride: Some(1), ..right.clone() };
    assert_eq!(code(store.fetch(&creeping, &spec, &mut |_| {})), "slow_retrieval");
    let given = creeping.given.load(Ordering::Relaxed);
    assert!((20..40).contains(&given), "{given}");
    assert_eq!(store.missing_bytes(&spec).unwrap(), spec.bytes - given);
    let walking = Blob { stride: Some(1_000), given: Arc::default(), ..right };
    store.fetch(&walking, &spec, &mut |_| {}).unwrap();
    assert_eq!(walking.given.load(Ordering::Relaxed), spec.bytes - given);
}

#[test]
fn links_in_the_store_are_followed_nowhere() {
    let (folder, store) = store();
    let (source, spec) = blob(b"0123456789");
    let name = spec.sha256.to_string();
    let elsewhere = folder.path().join("elsewhere");
    dunlin_kit::atomic_file::write(&elsewhere, b"0123456789").unwrap();
    for link in [name.clone(), part_name(&name)] {
        let link = store.path().join(link);
        symlink(&elsewhere, &link).unwrap();
        assert_eq!(code(store.fetch(&source, &spec, &mut |_| {})), "mismatch");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"0123456789");
        fs::remove_file(&link).unwrap();
    }
    symlink(&elsewhere, store.path().join(&name)).unwrap();
    assert!(store.remove_damaged(&spec).unwrap());
    assert!(elsewhere.exists());
    let other = tempfile::tempdir().unwrap();
    symlink(folder.path().join("models"), other.path().join("models")).unwrap();
    assert!(matches!(BlobStore::open(other.path(), 0), Err(BlobError::Io { .. })));
}

#[test]
fn only_what_nobody_names_is_collected() {
    let (_folder, store) = store();
    let (kept, kept_spec) = blob(b"kept");
    let (dropped, dropped_spec) = blob(b"dropped");
    let (begun, begun_spec) = blob(b"begun");
    store.fetch(&kept, &kept_spec, &mut |_| {}).unwrap();
    store.fetch(&dropped, &dropped_spec, &mut |_| {}).unwrap();
    let broken = Blob { breaks_after: Some(2), ..begun };
    store.fetch(&broken, &begun_spec, &mut |_| {}).unwrap_err();
    store
        .fetch(&Blob { breaks_after: Some(2), ..blob(b"stale").0 }, &blob(b"stale").1, &mut |_| {})
        .unwrap_err();
    dunlin_kit::atomic_file::write(&store.path().join("notes.txt"), b"of the operator").unwrap();
    let wanted = BTreeSet::from([kept_spec.sha256, begun_spec.sha256]);
    assert_eq!(store.collect(&wanted).unwrap(), Collected { files: 2, bytes: 7 + 2 });
    let mut expected =
        [kept_spec.sha256.to_string(), part_name(&begun_spec.sha256.to_string()), "notes.txt".to_owned()];
    expected.sort();
    assert_eq!(names(&store), expected);
}

/// A file system of its own, of 1 MB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("skipped: a tmpfs cannot be mounted; run as root");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_without_room_is_told_of_before_the_first_byte_and_nothing_else_is_touched() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = BlobStore::open(disk.0.path(), u64::MAX).unwrap();
    let (here, here_spec) = blob(&[1; 1_000]);
    store.fetch(&here, &here_spec, &mut |_| {}).unwrap();
    let (large, spec) = blob(&vec![2; 950_000]);
    assert_eq!(code(store.fetch(&large, &spec, &mut |_| {})), "disk_full");
    assert_eq!(large.given.load(Ordering::Relaxed), 0);
    assert_eq!(names(&store), [here_spec.sha256.to_string()]);
    // An eighth of a small disk stays free, whatever is configured.
    let (fits, spec) = blob(&vec![3; 800_000]);
    store.fetch(&fits, &spec, &mut |_| {}).unwrap();
}

#[test]
fn a_disk_that_others_fill_meanwhile_gets_its_room_back() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = BlobStore::open(disk.0.path(), 0).unwrap();
    let (here, here_spec) = blob(&[1; 1_000]);
    store.fetch(&here, &here_spec, &mut |_| {}).unwrap();
    let (large, spec) = blob(&vec![2; 500_000]);
    let filler = disk.0.path().join("of-another-program");
    let fills = Blob { fills: Some(filler.clone()), ..large.clone() };
    assert_eq!(code(store.fetch(&fills, &spec, &mut |_| {})), "disk_full");
    assert_eq!(names(&store), [here_spec.sha256.to_string()]);
    fs::remove_file(filler).unwrap();
    store.fetch(&large, &spec, &mut |_| {}).unwrap();
    assert_eq!(store.fetch(&here, &here_spec, &mut |_| {}).unwrap(), Fetched::Present);
}
