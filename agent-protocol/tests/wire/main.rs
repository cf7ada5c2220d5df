//! The wire as it is for ever: golden files, values from the future, hostile ones, and the documentation's example.
//!
//! Never writes a golden file that is there: version 1 is frozen.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops where it fails")]

mod documentation;
mod future;
mod golden;
mod hostile;
mod round_trips;
mod samples;

use std::path::PathBuf;

fn golden_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

fn golden(file: &str) -> Vec<u8> {
    let path = golden_folder().join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
