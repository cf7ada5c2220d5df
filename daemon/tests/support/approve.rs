//! Approves packages of the tests' own with a key that is thrown away.
//!
//! Goes the product's one way: sign, verify, open. Included by the tests that run models.

use std::path::Path;

use dunlin_model_package::{Blobs, Manifest, Package};
use dunlin_trust::sign::Development;

/// Has a key of this call alone approve the package in a folder.
pub(crate) fn approve(folder: &Path) -> Package {
    let text = std::fs::read(folder.join("manifest.json")).unwrap();
    let manifest = Manifest::parse(&text).unwrap();
    let (evidence, anchor) =
        Development::new().sign(&manifest.target_path(), &text, Some(&manifest.release_note()));
    Package::open(evidence.verify(&anchor, text).unwrap(), Blobs::ByName(folder.to_owned())).unwrap()
}
