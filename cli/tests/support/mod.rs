//! A bench for the real `dunlin` binary: folders, passphrases, packages, and what a gateway would say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dunlin_cli::verification::{self, Verdict};
use dunlin_kit::digest::Digest;
use dunlin_kit::{atomic_file, clock};
use dunlin_model_package::RepositoryFolder;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Code, Failure};
use tempfile::TempDir;

/// What a run of `dunlin` came to.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A folder to work in.
pub(crate) struct Bench(TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        bench.file("pass", b"correct horse battery\n");
        bench.file("other-pass", b"wrong horse battery\n");
        bench
    }

    /// A bench with a development key.
    pub(crate) fn development() -> Self {
        let bench = Self::new();
        bench.ok(&["keys", "init", "--development"]);
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        atomic_file::write(&path, bytes).unwrap();
    }

    /// Runs `dunlin` in the bench, without a terminal.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_dunlin"))
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("DUNLIN_TRUST")
            .env_remove("DUNLIN_PASSPHRASE")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs a command that is to succeed; returns what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.code, 0, "{arguments:?}: {} {}", run.out, run.err);
        run.out
    }

    /// As [`Bench::ok`] with the passphrase.
    pub(crate) fn with_pass(&self, arguments: &[&str]) -> String {
        self.ok(&[arguments, &["--passphrase-file", "pass"]].concat())
    }

    /// Runs a command that is to end with this code, a message with `part`, and every file as it was.
    pub(crate) fn refused(&self, arguments: &[&str], code: i32, part: &str) {
        let before = self.snapshot();
        let run = self.run(arguments);
        assert_eq!(run.code, code, "{arguments:?}: {} {}", run.out, run.err);
        assert!(run.err.contains(part), "{arguments:?}: {}", run.err);
        assert!(!run.err.contains("horse"), "a passphrase is never printed");
        assert_eq!(self.snapshot(), before, "{arguments:?} changed something");
    }

    /// Returns all files with their contents.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files_below(self.0.path())
    }

    /// Writes a package of some model.
    pub(crate) fn package(&self, folder: &str, model: &str, version: &str, counter: u64) {
        let onnx = format!("the bytes of {model} {version}").into_bytes();
        let manifest = serde_json::json!({
            "schema": 1, "name": model, "version": version, "release_counter": counter,
            "window": { "length": 1 },
            "inputs": [{ "name": "x", "shape": ["batch", 1], "features": [{ "name": "a" }] }],
            "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", 1] }],
            "blobs": { "model.onnx": { "sha256": Digest::of(&onnx), "bytes": onnx.len() } }
        });
        self.file(&format!("{folder}/manifest.json"), manifest.to_string().as_bytes());
        self.file(&format!("{folder}/model.onnx"), &onnx);
    }

    /// Signs and publishes a package with the passphrase.
    pub(crate) fn release(&self, model: &str, version: &str, counter: u64) {
        let folder = format!("package-{model}-{version}");
        self.package(&folder, model, version, counter);
        self.with_pass(&["sign", &folder]);
        self.ok(&["publish", "--to", "site"]);
    }

    /// Judges a folder as a gateway would that trusts its first root.
    pub(crate) fn judge(&self, folder: &str) -> Result<Verdict, Failure> {
        verification::verify(&RepositoryFolder::new(self.path(folder)), now())
    }

    /// Returns the code by which a gateway refuses a folder.
    pub(crate) fn verdict(&self, folder: &str) -> Result<usize, Code> {
        self.judge(folder).map(|verdict| verdict.targets.len()).map_err(|failure| failure.code)
    }

    /// Returns the short names of the keys that files are here of, by role.
    pub(crate) fn keys(&self, folder: &str, role: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(folder))
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter_map(|name| Some(name.strip_suffix(".key")?.strip_prefix(&format!("{role}-"))?.to_owned()))
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn now() -> UnixTime {
    UnixTime(clock::wall_micros() / 1_000_000)
}

/// Returns all files below a folder by path, lock files left out.
pub(crate) fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with(".lock") {
                files.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Copies a folder with everything below it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    for (path, bytes) in files_below(from) {
        let place = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        atomic_file::write(&place, &bytes).unwrap();
    }
}
