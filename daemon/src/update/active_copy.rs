//! A second copy of the release that serves, as a file beside the blobs: for a gateway whose `state.db` is lost.
//!
//! Read in that case alone, to go on running what was good; never an update's ground, for whoever can write it could
//! write an older one. Its proof is verified at every load like any other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dunlin_kit::atomic_file;
use dunlin_trust::Evidence;
use serde::{Deserialize, Serialize};

use super::release::Release;
use crate::store::StoredRelease;

/// Folder of models inside the state folder.
const MODELS_FOLDER: &str = "models";
/// How the files' names end.
const SUFFIX: &str = ".active.json";
/// Longest such file: a manifest and the roles that name it.
const FILE_BYTES_MAX: u64 = 32 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    release: Release,
    manifest: String,
    evidence: Evidence,
}

/// Replaces the copy of a model's active release; without one the file goes.
///
/// *Errors*: those of the file system; the copy before stays.
pub fn write(state_dir: &Path, model: &str, active: Option<&StoredRelease>) -> io::Result<()> {
    let path = path_of(state_dir, model);
    let Some(StoredRelease { release, manifest, evidence }) = active else {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let manifest = String::from_utf8(manifest.clone()).map_err(io::Error::other)?;
    let file = File { release: release.clone(), manifest, evidence: evidence.clone() };
    let bytes = serde_json::to_vec(&file).map_err(io::Error::other)?;
    fs::create_dir_all(state_dir.join(MODELS_FOLDER))?;
    if fs::read(&path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    atomic_file::write(&path, &bytes)
}

/// Reads the copy of a model's active release; `None` where there is none.
///
/// *Errors*: it cannot be read, or is none.
pub fn read(state_dir: &Path, model: &str) -> io::Result<Option<StoredRelease>> {
    let path = path_of(state_dir, model);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if found.len() > FILE_BYTES_MAX => return Err(io::Error::other("the file is too long")),
        Ok(_) => {}
    }
    let File { release, manifest, evidence } =
        serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::other)?;
    Ok(Some(StoredRelease { release, manifest: manifest.into_bytes(), evidence }))
}

/// Names may hold what a file's name may not.
fn path_of(state_dir: &Path, model: &str) -> PathBuf {
    let mut name = String::new();
    for byte in model.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    state_dir.join(MODELS_FOLDER).join(name + SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::tests::signed;

    #[test]
    fn a_copy_is_read_back_replaced_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path(), "m").unwrap(), None);
        for stored in [signed(1), signed(2)] {
            write(folder.path(), "m", Some(&stored)).unwrap();
            assert_eq!(read(folder.path(), "m").unwrap(), Some(stored));
        }
        write(folder.path(), "m", None).unwrap();
        write(folder.path(), "m", None).unwrap();
        assert_eq!(read(folder.path(), "m").unwrap(), None);
    }

    #[test]
    fn a_model_with_any_name_has_its_file_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "../a b", Some(&signed(1))).unwrap();
        assert!(read(folder.path(), "../a b").unwrap().is_some());
        assert!(folder.path().join("models/%2e%2e%2fa%20b.active.json").exists());
    }

    #[test]
    fn a_torn_file_is_an_error_and_no_release() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "m", Some(&signed(1))).unwrap();
        atomic_file::write(&folder.path().join("models/m.active.json"), b"{\"release\":").unwrap();
        assert!(read(folder.path(), "m").is_err());
    }
}
