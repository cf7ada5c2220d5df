//! Manifests: what is accepted stays in its limits, names no file outside its folder, and reads again as it is written.
//!
//! Takes any bytes as a manifest.

#![no_main]

use dunlin_model_package::Manifest;
use dunlin_model_package::manifest::{
    BLOBS_MAX, FEATURES_MAX, OUTPUT_VALUES_MAX, TENSORS_MAX, WINDOW_LENGTH_MAX, WINDOW_VALUES_MAX,
};
use dunlin_trust::limits::is_plain_path;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = Manifest::parse(data) else { return };
    let written = serde_json::to_vec(&manifest).expect("a manifest can be written");
    let again = Manifest::parse(&written).expect("what was read can be written and read");
    assert_eq!(again, manifest);

    assert!(is_plain_path(&manifest.target_path()));
    assert!((1..=WINDOW_LENGTH_MAX).contains(&manifest.window.length));
    assert!(manifest.inputs.len() <= TENSORS_MAX && manifest.outputs.len() <= TENSORS_MAX);
    assert!(manifest.inputs.iter().map(|input| input.values()).sum::<usize>() <= WINDOW_VALUES_MAX);
    assert!(manifest.inputs.iter().all(|input| input.features.len() <= FEATURES_MAX));
    assert!(manifest.outputs.iter().all(|output| output.values() <= OUTPUT_VALUES_MAX));
    assert!(manifest.blobs.len() <= BLOBS_MAX);
    assert!(manifest.blobs.keys().all(|name| is_plain_path(name) && !name.contains('/')));
});
