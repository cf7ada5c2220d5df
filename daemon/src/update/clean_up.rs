//! Which releases' files stay, and the removal of all others: at the start and after every import.
//!
//! Keeps what a model runs, may go back to or tries, and the newest release that may be tried still. Only the importer's
//! thread calls it while the daemon runs, so that nothing is being fetched meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dunlin_kit::error_chain::Chain;
use dunlin_model_package::Digest;

use super::blobs::BlobStore;
use super::book::ReleaseBook;
use super::import::sweep;
use crate::store::TrustStore;
use crate::store::trust::KeptRelease;

/// Removes the files of releases that nobody needs any more. What cannot be removed stays until the next time.
pub fn sweep_unused(book: &ReleaseBook, store: &mut TrustStore, state_dir: &Path, free_bytes_min: u64) {
    // A store that is made before the first root is trusted would look like one whose trust was lost.
    if !BlobStore::exists(state_dir) {
        return;
    }
    let swept = BlobStore::open(state_dir, free_bytes_min)
        .map_err(|error| Chain(&error).to_string())
        .and_then(|blobs| {
            let releases = store.releases().map_err(|error| Chain(&error).to_string())?;
            let kept = wanted(book, &releases);
            sweep(store, &blobs, &kept).map_err(|error| Chain(&error).to_string())
        });
    match swept {
        Ok(swept) if swept.files > 0 => tracing::info!(?swept, "files of old releases are removed"),
        Ok(_) => {}
        Err(error) => tracing::warn!(error, "files of old releases stay"),
    }
}

/// What the book names, and of each configured model the newest release above its floor: an offer may be on its way to the
/// book.
fn wanted(book: &ReleaseBook, releases: &[KeptRelease]) -> BTreeSet<Digest> {
    let models = book.models().models;
    let mut newest: BTreeMap<&str, &KeptRelease> = BTreeMap::new();
    for release in releases.iter().filter(|release| release.approved) {
        let is_new = models.get(&release.model).is_some_and(|state| release.counter > state.floor.counter);
        let known = newest.get(release.model.as_str());
        if is_new && known.is_none_or(|known| known.counter < release.counter) {
            newest.insert(&release.model, release);
        }
    }
    let on_their_way = newest.values().map(|release| release.digest);
    book.kept().into_iter().chain(on_their_way).collect()
}
