//! Bundles: what the reader takes is, byte for byte, what the writer makes of the same files.
//!
//! The first byte chooses whether the rest is the file, or the names and lengths of files to be written and read.

#![no_main]

use std::fs::File;
use std::io::{Cursor, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::LazyLock;

use dunlin_model_package::bundle::{BundleReader, BundleWriter, ENTRIES_MAX};
use dunlin_model_package::{RepositoryPath, RepositorySource};
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("dunlin-fuzz-bundle-{}", std::process::id())));

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    if kind & 1 == 0 { check(rest) } else { check_written(rest) }
});

fn check(bytes: &[u8]) {
    File::create(&*FILE).and_then(|mut file| file.write_all(bytes)).expect("a temporary file can be written");
    let Ok(reader) = BundleReader::open_path(&FILE) else { return };
    let mut writer = BundleWriter::new(Vec::new());
    let entries: Vec<(RepositoryPath, u64)> =
        reader.entries().map(|(path, length)| (path.clone(), length)).collect();
    assert!(entries.len() <= ENTRIES_MAX && entries.iter().all(|(_, length)| *length <= bytes.len() as u64));
    // Entries are listed by path and stand in the bundle by kind.
    let mut contents = Vec::new();
    for (path, length) in &entries {
        let mut content = Vec::new();
        let read = reader.reader_at(path, 0).expect("the file is there").expect("the entry is there");
        read.take(length + 1).read_to_end(&mut content).expect("the entry can be read");
        assert_eq!(content.len() as u64, *length);
        let kind = path.to_string();
        let kind = ["metadata", "targets", "blobs"].iter().position(|folder| kind.starts_with(folder));
        contents.push((kind, path.to_string(), path.clone(), content));
    }
    contents.sort();
    for (_, _, path, content) in contents {
        let length = content.len() as u64;
        writer.add(path, length, &mut Cursor::new(content)).expect("the files stand in order");
    }
    assert_eq!(writer.finish().expect("memory takes everything"), bytes);
}

/// Each line is a path; its content is the line itself.
fn check_written(lines: &[u8]) {
    let Ok(text) = std::str::from_utf8(lines) else { return };
    let mut writer = BundleWriter::new(Vec::new());
    for line in text.lines() {
        let Ok(path) = line.parse::<RepositoryPath>() else { continue };
        assert_eq!(path.to_string(), line, "a path has one spelling");
        assert!(line.split('/').all(|part| !matches!(part, "" | "." | "..")), "`{line}` leads elsewhere");
        // Out of order or twice: refused, and nothing was written of it.
        let _ = writer.add(path, line.len() as u64, &mut Cursor::new(line));
    }
    check(&writer.finish().expect("memory takes everything"));
}
