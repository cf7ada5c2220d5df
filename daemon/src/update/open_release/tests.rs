//! Releases that commands open by themselves.

use std::fs;

use super::*;
use crate::update::testing::{DAY, Draft, NOW, Owner};

#[test]
fn a_release_opens_from_a_folder_and_nothing_is_kept() {
    let mut owner = Owner::new();
    owner.publish(&Draft::new("frost", 1));
    owner.publish(&Draft::new("frost", 2));
    let opened = open_release(&owner.place(), &owner.root(1), None, NOW).unwrap();
    assert_eq!(opened.package.manifest().release_counter, 2);
    assert_eq!(opened.package.read_blob("model.onnx").unwrap(), b"the 2th model called frost");
    assert!(opened._folder.is_none());
    owner.publish(&Draft::new("pump", 1));
    let error = open_release(&owner.place(), &owner.root(1), None, NOW).unwrap_err();
    assert!(error.to_string().contains("`frost`, `pump`"), "{error}");
    let opened = open_release(&owner.place(), &owner.root(1), Some("pump"), NOW).unwrap();
    assert_eq!(opened.package.manifest().name, "pump");
}

#[test]
fn a_bundles_files_are_copied_for_as_long_as_the_release_is_open() {
    let mut owner = Owner::new();
    owner.publish(&Draft::new("frost", 1));
    let (_file, place) = crate::update::testing::bundle(&owner);
    let opened = open_release(&place, &owner.root(1), None, NOW).unwrap();
    let folder = opened._folder.as_ref().unwrap().0.clone();
    let twin = opened.clone();
    drop(opened);
    assert!(twin.package.read_blob("model.onnx").is_ok());
    drop(twin);
    assert!(!folder.exists());
}

#[test]
fn what_a_gateway_would_refuse_is_refused() {
    let mut owner = Owner::new();
    owner.publish(&Draft::new("frost", 1));
    let code = |result: Result<OpenedRelease, OpenError>| match result {
        Err(OpenError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    };
    let place = owner.place();
    assert_eq!(code(open_release(&place, &Owner::new().root(1), None, NOW)), "signature");
    let later = UnixTime(NOW.0 + 40 * DAY);
    assert_eq!(code(open_release(&place, &owner.root(1), None, later)), "freeze_suspected");
    assert_eq!(code(open_release(&place, &owner.root(1), Some("pump"), NOW)), "not_approved");
    let blob = fs::read_dir(owner.file("blobs")).unwrap().next().unwrap().unwrap().path();
    dunlin_kit::atomic_file::write(&blob, b"the 7th model called frost").unwrap();
    let changed = open_release(&place, &owner.root(1), None, NOW);
    assert!(matches!(changed, Err(OpenError::Package(_))), "{changed:?}");
}
