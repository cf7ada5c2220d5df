//! Attacks with other bytes than were signed: other, shorter, longer, of another kind.
//!
//! Versions stand in `versions`.

use dunlin_trust::limits::TIMESTAMP_BYTES_MAX;
use dunlin_trust::sign::sign;
use serde_json::json;

use super::{Attack, FROST, Scene, add, key, pin, signature_on, text};

pub(super) fn mismatches(all: &mut Vec<Attack>) {
    let mismatch = "mismatch";
    let html = b"<html><body>Please log in to the guest network</body></html>";
    for (name, path, object) in [
        ("captive-portal-for-timestamp", "timestamp.json", "timestamp.json"),
        ("captive-portal-for-root", "2.root.json", "root.json"),
    ] {
        add(all, (name, "a page of a captive portal", mismatch, object), Scene::new(), |s| {
            s.repository.release();
            s.repository.files.insert(path.to_owned(), html.to_vec());
        });
    }
    for (name, path, object) in [
        ("timestamp-missing", "timestamp.json", "timestamp.json"),
        ("snapshot-missing", "2.snapshot.json", "2.snapshot.json"),
        ("targets-missing", "2.targets.json", "2.targets.json"),
    ] {
        add(all, (name, "a file that is not there", mismatch, object), Scene::new(), |s| {
            s.repository.release();
            s.repository.files.remove(path);
        });
    }
    add(
        all,
        (
            "snapshot-of-another-hash",
            "one byte more of white space, one less of text",
            mismatch,
            "snapshot.json",
        ),
        Scene::new(),
        |s| {
            s.repository.release();
            let file = s.repository.files.get_mut("2.snapshot.json").unwrap();
            *file = text(file).replacen("30:00:00", "30:00:01", 1).into_bytes();
            let last = file.len() - 1;
            file[last] = b' ';
        },
    );
    add(all, ("snapshot-shorter", "a snapshot that was cut", mismatch, "snapshot.json"), Scene::new(), |s| {
        s.repository.release();
        s.repository.files.get_mut("2.snapshot.json").unwrap().pop();
    });
}

/// Files in another form or of another kind.
pub(super) fn forms(all: &mut Vec<Attack>) {
    let mismatch = "mismatch";
    add(
        all,
        (
            "mixed-versions",
            "a snapshot of another version than the timestamp names",
            mismatch,
            "snapshot.json",
        ),
        Scene::new(),
        |s| {
            s.repository.release();
            s.repository.snapshot.version = 7;
            let bytes = s.repository.signed(&s.repository.snapshot, "snapshot");
            s.repository.files.insert("2.snapshot.json".to_owned(), bytes.clone());
            let named = pin(&bytes, 2);
            s.repository.timestamp.meta.insert("snapshot.json".to_owned(), named);
            s.repository.publish_timestamp();
        },
    );
    add(
        all,
        (
            "snapshot-that-looks-like-a-timestamp",
            "all members of a timestamp, and another type",
            mismatch,
            "timestamp.json",
        ),
        Scene::new(),
        |s| {
            s.repository.release();
            s.repository.spoil("timestamp.json", |file| {
                file["signed"]["_type"] = json!("snapshot");
                file["signatures"] = json!([signature_on(file, 2)]);
            });
        },
    );
    add(
        all,
        ("snapshot-as-timestamp", "a file of another role by the same key", mismatch, "timestamp.json"),
        Scene::new(),
        |s| {
            s.repository.release();
            let bytes = sign(&s.repository.snapshot, &[&key(2)]);
            s.repository.files.insert("timestamp.json".to_owned(), bytes);
        },
    );
    for (name, member, value) in [
        ("timestamp-of-version-0", "version", json!(0)),
        ("timestamp-of-version-minus-1", "version", json!(-1)),
        ("timestamp-of-a-fraction", "version", json!(2.5)),
        ("timestamp-of-specification-2", "spec_version", json!("2.0.0")),
        ("timestamp-that-names-no-snapshot", "meta", json!({})),
    ] {
        add(
            all,
            (name, "well signed, and not what it should be", mismatch, "timestamp.json"),
            Scene::new(),
            |s| {
                s.repository.release();
                s.repository.spoil("timestamp.json", |file| {
                    file["signed"][member] = value;
                    if member != "version" || !file["signed"]["version"].is_f64() {
                        file["signatures"] = json!([signature_on(file, 2)]);
                    }
                });
            },
        );
    }
}

/// Models that are not the approved ones.
pub(super) fn models(all: &mut Vec<Attack>) {
    let mismatch = "mismatch";
    add(
        all,
        ("target-of-another-hash", "another model of the same length", mismatch, FROST),
        Scene::new(),
        |s| (s.find, s.bytes) = (Some(FROST), Some("frost 2")),
    );
    add(all, ("target-cut", "a model that was cut", mismatch, FROST), Scene::new(), |s| {
        (s.find, s.bytes) = (Some(FROST), Some("frost"));
    });
}

pub(super) fn endless(all: &mut Vec<Attack>) {
    let endless = "endless_data";
    add(
        all,
        ("timestamp-endless", "white space without end", endless, "timestamp.json"),
        Scene::new(),
        |s| {
            s.repository.release();
            let file = s.repository.files.get_mut("timestamp.json").unwrap();
            file.resize(TIMESTAMP_BYTES_MAX as usize + 1, b' ');
        },
    );
    for (name, path, object) in [
        ("snapshot-endless", "2.snapshot.json", "snapshot.json"),
        ("targets-endless", "2.targets.json", "targets.json"),
    ] {
        add(all, (name, "longer than was signed", endless, object), Scene::new(), |s| {
            s.repository.release();
            s.repository.files.get_mut(path).unwrap().push(b' ');
        });
    }
    add(all, ("target-endless", "a model that does not end", endless, FROST), Scene::new(), |s| {
        (s.find, s.bytes) = (Some(FROST), Some("frost 1 and so on and so on"));
    });
}
