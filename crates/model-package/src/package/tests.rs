//! Packages that are refused: by their signature, their names, their files.

use super::*;
use dunlin_trust::sign::Development;

fn manifest(blob_name: &str) -> serde_json::Value {
    serde_json::json!({
        "schema": 1, "name": "m", "version": "1", "release_counter": 1, "window": { "length": 1 },
        "inputs": [{ "name": "x", "shape": ["batch", 1], "features": [{ "name": "a" }] }],
        "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", 1] }],
        "blobs": { "model.onnx": { "sha256": Digest::of(b"model"), "bytes": 5 }, blob_name: { "sha256": Digest::of(b""), "bytes": 0 } }
    })
}

fn verified(path: &str, manifest: &serde_json::Value) -> Verified<TargetFile> {
    let text = manifest.to_string().into_bytes();
    let (evidence, anchor) = Development::new().sign(path, &text, None);
    evidence.verify(&anchor, text).unwrap()
}

fn open(folder: &Path, blob_name: &str) -> Result<Package, PackageError> {
    Package::open(
        verified("models/m/1/manifest.json", &manifest(blob_name)),
        Blobs::ByName(folder.to_owned()),
    )
}

fn write(path: &Path, bytes: &[u8]) {
    dunlin_kit::atomic_file::write(path, bytes).unwrap();
}

#[test]
fn a_changed_model_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.onnx"), b"mOdel");
    let error = open(folder.path(), "model.onnx2").unwrap_err();
    assert!(error.to_string().contains("model.onnx` is not the one"), "{error}");
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.onnx"), b"model");
    for name in ["../x", "/etc/passwd", ".hidden", "a/b", "", "a\0b"] {
        let error = open(folder.path(), name).unwrap_err();
        assert!(matches!(error, PackageError::Manifest { .. }), "{name}: {error}");
    }
}

#[test]
fn a_link_is_no_file_of_the_package() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.onnx"), b"model");
    std::os::unix::fs::symlink(folder.path().join("model.onnx"), folder.path().join("profile.json")).unwrap();
    assert!(open(folder.path(), "profile.json").unwrap_err().to_string().contains("plain file"));
}

#[test]
fn files_are_found_by_name_or_by_digest() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.onnx"), b"model");
    write(&folder.path().join("empty"), b"");
    assert_eq!(open(folder.path(), "empty").unwrap().read_blob(MODEL_FILE).unwrap(), b"model");
    for bytes in [b"model".as_slice(), b""] {
        write(&folder.path().join(Digest::of(bytes).to_string()), bytes);
    }
    let file = verified("models/m/1/manifest.json", &manifest("empty"));
    let package = Package::open(file, Blobs::ByDigest(folder.path().to_owned())).unwrap();
    assert_eq!(package.read_blob(MODEL_FILE).unwrap(), b"model");
    assert!(package.read_blob("other").is_err());
}

#[test]
fn a_profile_that_is_none_or_too_long_is_refused_when_the_package_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.onnx"), b"model");
    let open = |bytes: &[u8]| {
        write(&folder.path().join("profile.json"), bytes);
        let mut manifest = manifest("profile.json");
        manifest["blobs"]["profile.json"] =
            serde_json::json!({ "sha256": Digest::of(bytes), "bytes": bytes.len() });
        let file = verified("models/m/1/manifest.json", &manifest);
        Package::open(file, Blobs::ByName(folder.path().to_owned())).unwrap_err()
    };
    let newer = open(b"{\"schema\": 2}");
    assert!(matches!(newer, PackageError::Profile(ProfileError::Newer(2))), "{newer}");
    let none = open(b"{}");
    assert!(matches!(none, PackageError::Profile(ProfileError::Json(_))), "{none}");
    let long = open(&vec![b' '; PROFILE_BYTES_MAX as usize + 1]);
    assert!(long.to_string().contains("is longer than"), "{long}");
}

#[test]
fn a_manifest_under_another_models_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = verified("models/other/1/manifest.json", &manifest("empty"));
    let error = Package::without_files(file, Blobs::ByName(folder.path().to_owned())).unwrap_err();
    assert!(error.to_string().contains("signed for another model"), "{error}");
}
