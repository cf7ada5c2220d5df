//! How often a model was started without becoming ready: kept on disk, so that a model that takes the whole gateway
//! down with it is noticed at the next start.
//!
//! Counts; never decides what follows. The slot writes a start before it happens and takes it back once the model
//! is ready.

use std::fs;
use std::path::PathBuf;

use dunlin_kit::atomic_file;
use dunlin_model_package::Digest;

/// Where starts are counted.
pub trait TryLedger: Send + Sync {
    /// Records durably that this model is about to be started; returns the starts since it was last ready, this one
    /// included. A ledger that cannot be written returns 1: inference goes on without it.
    fn record_start(&self, model: &str, digest: &Digest) -> u32;

    /// Records that the model became ready.
    fn record_ready(&self, model: &str, digest: &Digest);
}

/// One small file a model that is not ready, in a folder of its own.
#[derive(Debug, Clone)]
pub struct FolderLedger {
    folder: PathBuf,
}

impl FolderLedger {
    /// Returns a ledger in this folder, which is made at the first start that is recorded.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, model: &str, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}.starts", Digest::of_parts(&[model.as_bytes(), digest.as_bytes()])))
    }
}

impl TryLedger for FolderLedger {
    fn record_start(&self, model: &str, digest: &Digest) -> u32 {
        let path = self.path(model, digest);
        let before: u32 =
            fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let starts = before.saturating_add(1);
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| atomic_file::write(&path, starts.to_string().as_bytes()));
        match written {
            Ok(()) => starts,
            Err(error) => {
                tracing::warn!(model, path = %path.display(), %error, "starts cannot be counted");
                1
            }
        }
    }

    fn record_ready(&self, model: &str, digest: &Digest) {
        // A removal that a power cut undoes counts one start too many: harmless.
        let _ = fs::remove_file(self.path(model, digest));
    }
}

/// Counts nothing, for commands that run a model once.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLedger;

impl TryLedger for NoLedger {
    fn record_start(&self, _: &str, _: &Digest) -> u32 {
        1
    }

    fn record_ready(&self, _: &str, _: &Digest) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_count_up_across_processes_until_the_model_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = || FolderLedger::new(folder.path().join("starts"));
        let digest = Digest::of(b"a");
        assert_eq!(ledger().record_start("m", &digest), 1);
        assert_eq!(ledger().record_start("m", &digest), 2);
        assert_eq!(ledger().record_start("m", &Digest::of(b"b")), 1);
        ledger().record_ready("m", &digest);
        assert_eq!(ledger().record_start("m", &digest), 1);
    }

    #[test]
    fn a_ledger_that_cannot_be_written_holds_nothing_up() {
        let ledger = FolderLedger::new("/proc/nowhere".into());
        assert_eq!(ledger.record_start("m", &Digest::of(b"a")), 1);
        assert_eq!(ledger.record_start("m", &Digest::of(b"a")), 1);
    }
}
