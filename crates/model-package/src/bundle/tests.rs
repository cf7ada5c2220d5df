//! Bundles: what is written is read back, and nothing but what a writer writes is read.

use std::io::Seek;

use dunlin_kit::digest::Digest;
use proptest::prelude::*;

use super::*;

fn sample() -> Vec<(RepositoryPath, Vec<u8>)> {
    let (manifest, model) = (b"{}".to_vec(), vec![7; 1500]);
    let texts = [
        ("metadata/1.root.json".to_owned(), b"root".to_vec()),
        ("metadata/2.snapshot.json".to_owned(), vec![b'x'; 512]),
        ("metadata/timestamp.json".to_owned(), Vec::new()),
        (format!("targets/models/m/1/{}.manifest.json", Digest::of(&manifest)), manifest.clone()),
        (format!("blobs/{}", Digest::of(&model)), model),
    ];
    texts.into_iter().map(|(path, bytes)| (path.parse().unwrap(), bytes)).collect()
}

fn write(files: &[(RepositoryPath, Vec<u8>)]) -> Vec<u8> {
    let mut writer = BundleWriter::new(Vec::new());
    for (path, bytes) in files {
        writer.add(path.clone(), bytes.len() as u64, &mut bytes.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

fn open(bytes: &[u8]) -> Result<BundleReader, BundleError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    BundleReader::open(file)
}

/// Writes an archive as another program would: `edit` changes the header before its checksum is made.
fn foreign(path: &str, content: &[u8], edit: impl Fn(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_ustar();
    let name = &mut header.as_old_mut().name;
    name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(EntryType::Regular);
    edit(&mut header);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    bytes
}

#[test]
fn what_is_written_is_read_back_whole_and_from_any_offset() {
    let files = sample();
    let bytes = write(&files);
    assert_eq!(bytes, write(&files), "the same files give the same bytes");
    let bundle = open(&bytes).unwrap();
    assert_eq!(bundle.entries().count(), files.len());
    for (path, expected) in &files {
        assert_eq!(&bundle.read(path, 1 << 20).unwrap().unwrap(), expected);
        for offset in [0, 1, expected.len() as u64, u64::MAX] {
            let mut rest = Vec::new();
            bundle.reader_at(path, offset).unwrap().unwrap().read_to_end(&mut rest).unwrap();
            assert_eq!(rest, expected[(offset as usize).min(expected.len())..]);
        }
    }
    let model = &files[4].0;
    assert!(matches!(bundle.read(model, 1499), Err(SourceError::TooLong { length: 1500, .. })));
    assert_eq!(bundle.read(&RepositoryPath::Blob(Digest::of(b"other")), 9).unwrap(), None);
}

#[test]
fn a_writer_refuses_disorder_duplicates_and_false_lengths() {
    let files = sample();
    let mut writer = BundleWriter::new(Vec::new());
    writer.add(files[1].0.clone(), 1, &mut b"x".as_slice()).unwrap();
    for wrong in [0, 1] {
        let result = writer.add(files[wrong].0.clone(), 1, &mut b"x".as_slice());
        assert!(matches!(result, Err(BundleError::Order(_))));
    }
    for (length, content) in [(2, b"x".as_slice()), (1, b"xy"), (u64::MAX / 2, b"")] {
        let mut content = content;
        let result = writer.add(files[2].0.clone(), length, &mut content);
        assert!(matches!(result, Err(BundleError::Length(_))), "{length}");
    }
}

#[test]
fn the_longest_names_fit_a_header() {
    let name = "n".repeat(64);
    let path = format!("targets/models/{name}/{name}/{}.manifest.json", Digest::of(b""));
    let files = [(path.parse().unwrap(), Vec::new())];
    assert_eq!(open(&write(&files)).unwrap().entries().next().unwrap().0, &files[0].0);
}

#[test]
fn tricks_of_archives_are_refused_by_name() {
    let root = "metadata/1.root.json";
    let kind = |kind: EntryType| move |header: &mut Header| header.set_entry_type(kind);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("absolute", foreign("/etc/passwd", b"x", |_| ()), "/etc/passwd"),
        ("parent", foreign("metadata/../../x", b"x", |_| ()), "metadata/../../x"),
        ("hidden", foreign("metadata/.1.root.json", b"x", |_| ()), "no path"),
        ("other name", foreign("metadata/root.json", b"x", |_| ()), "metadata/root.json"),
        ("escape", foreign("metadata/\x1b[2J", b"x", |_| ()), "\\u{1b}"),
        ("symbolic link", foreign(root, b"", kind(EntryType::Symlink)), "type 50"),
        ("hard link", foreign(root, b"", kind(EntryType::Link)), "type 49"),
        ("device", foreign(root, b"", kind(EntryType::Char)), "type 51"),
        ("pipe", foreign(root, b"", kind(EntryType::Fifo)), "type 54"),
        ("folder", foreign(root, b"", kind(EntryType::Directory)), "type 53"),
        ("sparse", foreign(root, b"x", kind(EntryType::GNUSparse)), "type 83"),
        ("pax", foreign(root, b"20 path=/etc/passwd\n", kind(EntryType::XHeader)), "type 120"),
        ("pax for all", foreign(root, b"20 path=/etc/passwd\n", kind(EntryType::XGlobalHeader)), "type 103"),
        ("long name", foreign(root, b"/etc/passwd\0", kind(EntryType::GNULongName)), "type 76"),
        ("contiguous", foreign(root, b"x", kind(EntryType::Continuous)), "type 55"),
        ("set-uid", foreign(root, b"x", |header| header.set_mode(0o4755)), "another form"),
        ("owner", foreign(root, b"x", |header| header.set_uid(1000)), "another form"),
        ("time", foreign(root, b"x", |header| header.set_mtime(1)), "another form"),
        ("giant", foreign(root, b"x", |header| header.set_size(1 << 40)), "longer than"),
        ("beyond the end", foreign(root, b"x", |header| header.set_size(4096)), "beyond the end"),
    ];
    for (case, bytes, part) in cases {
        let error = open(&bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{case}: {error}");
    }
}

#[test]
fn duplicates_and_what_follows_the_end_are_refused() {
    let files = sample();
    let one = write(&files[..1]);
    let entry = &one[..one.len() - 1024];
    let error = open(&[entry, &one].concat()).unwrap_err().to_string();
    assert!(error.contains("metadata/1.root.json` stands twice"), "{error}");
    let reversed = [&write(&files[1..2])[..1024], &one].concat();
    assert!(open(&reversed).unwrap_err().to_string().contains("out of order"));
    for bytes in [[one.clone(), vec![0; 512]].concat(), [one.clone(), one.clone()].concat()] {
        assert!(open(&bytes).unwrap_err().to_string().contains("after the end"));
    }
    let mut padded = one.clone();
    padded[512 + 4] = 1;
    assert!(open(&padded).unwrap_err().to_string().contains("zeros"));
    assert!(open(b"").is_err());
}

#[test]
fn a_bundle_cut_at_any_block_is_refused() {
    let bytes = write(&sample());
    for length in (0..bytes.len()).step_by(64) {
        assert!(open(&bytes[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn no_mutation_panics_or_yields_a_path_of_another_form(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        sums_right in any::<prop::sample::Index>(),
    ) {
        let original = write(&sample());
        let mut bytes = original.clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            // Half of the mutations get past the checksum.
            let block = at / 512 * 512;
            if sums_right.index(2) == 0 && block + 512 <= bytes.len() {
                let mut header = Header::from_byte_slice(&bytes[block..block + 512]).clone();
                if header.as_ustar().is_some() {
                    header.set_cksum();
                    bytes[block..block + 512].copy_from_slice(header.as_bytes());
                }
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(bundle) = open(&bytes) {
            for (path, length) in bundle.entries() {
                prop_assert_eq!(path.to_string().parse::<RepositoryPath>().unwrap(), path.clone());
                let content = bundle.read(path, 1 << 20).unwrap().unwrap();
                prop_assert_eq!(content.len() as u64, length);
            }
            // One form: what was opened is what a writer makes of its entries.
            let mut files: Vec<_> = bundle.entries().map(|(path, _)| path.clone()).collect();
            files.sort_by_key(order);
            let files: Vec<_> = files
                .into_iter()
                .map(|path| { let bytes = bundle.read(&path, 1 << 20).unwrap().unwrap(); (path, bytes) })
                .collect();
            prop_assert_eq!(write(&files), bytes);
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(open(&bytes).is_err());
    }
}
