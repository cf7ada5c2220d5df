//! Attacks on signatures and on the root.
//!
//! Who signed what, and how often. Versions stand in `versions`.

use serde_json::json;

use super::{Attack, FROST, PAST, Scene, add, public};

pub(super) fn signatures(all: &mut Vec<Attack>) {
    let (signature, timestamp) = ("signature", "timestamp.json");
    add(all, ("no-attack", "a release as it should be", "", ""), Scene::new(), |s| {
        s.repository.release();
        s.find = Some(FROST);
        s.bytes = Some("frost 1");
    });
    add(
        all,
        ("timestamp-unsigned", "nobody signed the timestamp", signature, timestamp),
        Scene::new(),
        |s| {
            s.repository.release();
            s.repository.spoil("timestamp.json", |file| file["signatures"] = json!([]));
        },
    );
    add(
        all,
        ("timestamp-signed-by-a-stranger", "a key that no root names", signature, timestamp),
        Scene::new(),
        |s| {
            s.repository.signers.insert("timestamp".to_owned(), vec![99]);
            s.repository.release();
        },
    );
    add(
        all,
        (
            "strangers-key-under-the-known-name",
            "the right key id on a stranger's signature",
            signature,
            timestamp,
        ),
        Scene::new(),
        |s| {
            s.repository.signers.insert("timestamp".to_owned(), vec![99]);
            s.repository.release();
            s.repository.spoil("timestamp.json", |file| {
                file["signatures"][0]["keyid"] = json!(public(2).id());
            });
        },
    );
    add(
        all,
        ("timestamp-changed-after-signing", "another version than was signed", signature, timestamp),
        Scene::new(),
        |s| {
            s.repository.release();
            s.repository.spoil("timestamp.json", |file| file["signed"]["version"] = json!(3));
        },
    );
}

/// Fewer keys than there must be.
pub(super) fn thresholds(all: &mut Vec<Attack>) {
    let signature = "signature";
    add(
        all,
        ("key-id-twice", "the same signature twice, where two are needed", signature, "targets.json"),
        Scene::new(),
        |s| {
            need_two(s);
            s.repository.signers.insert("targets".to_owned(), vec![4]);
            s.repository.release();
            s.repository.spoil("2.targets.json", |file| {
                let first = file["signatures"][0].clone();
                file["signatures"].as_array_mut().unwrap().push(first);
            });
            s.repository.name_as_served("targets", 2);
        },
    );
    add(
        all,
        ("one-of-two-signatures", "one signature, where two are needed", signature, "targets.json"),
        Scene::new(),
        |s| {
            need_two(s);
            s.repository.signers.insert("targets".to_owned(), vec![4]);
            s.repository.release();
        },
    );
    add(
        all,
        ("one-key-under-two-names", "two names for one key, where two are needed", signature, "targets.json"),
        Scene::new(),
        |s| {
            need_two(s);
            let again = dunlin_trust::KeyId("again".to_owned());
            s.repository.root.keys.insert(again.clone(), public(4));
            s.repository.root.roles.get_mut("targets").unwrap().keyids.push(again);
            s.repository.publish_root();
            s.repository.signers.insert("targets".to_owned(), vec![4]);
            s.repository.release();
            s.repository.spoil("2.targets.json", |file| {
                let mut second = file["signatures"][0].clone();
                second["keyid"] = json!("again");
                file["signatures"].as_array_mut().unwrap().push(second);
            });
            s.repository.name_as_served("targets", 2);
        },
    );
    add(
        all,
        ("targets-signed-by-the-online-key", "the server's key approves a model", signature, "targets.json"),
        Scene::new(),
        |s| {
            s.repository.signers.insert("targets".to_owned(), vec![2]);
            s.repository.release();
        },
    );
    add(
        all,
        (
            "targets-signed-by-a-revoked-key",
            "the key that the new root leaves out",
            signature,
            "targets.json",
        ),
        Scene::new(),
        |s| {
            s.repository.rotate("targets", &[40]);
            s.repository.signers.insert("targets".to_owned(), vec![4]);
            s.repository.release();
        },
    );
}

/// The next root wants two signatures on targets metadata.
fn need_two(scene: &mut Scene) {
    scene.repository.set_keys("targets", &[4, 5], 2);
    scene.repository.root.version = 2;
    scene.repository.publish_root();
}

pub(super) fn roots(all: &mut Vec<Attack>) {
    let root = "root.json";
    add(
        all,
        ("root-without-the-old-keys", "a root of a stranger's own", "signature", root),
        Scene::new(),
        |s| {
            s.repository.set_keys("root", &[99], 1);
            s.repository.root.version = 2;
            s.repository.publish_root();
        },
    );
    add(
        all,
        ("root-without-the-new-keys", "the new key has not signed", "signature", root),
        Scene::new(),
        |s| {
            s.repository.set_keys("root", &[30], 1);
            s.repository.signers.insert("root".to_owned(), vec![1]);
            s.repository.root.version = 2;
            s.repository.publish_root();
        },
    );
    add(
        all,
        ("root-that-is-the-old-one", "version 1 in the place of version 2", "rollback", root),
        Scene::new(),
        |s| {
            let old = s.repository.files["1.root.json"].clone();
            s.repository.files.insert("2.root.json".to_owned(), old);
        },
    );
    add(
        all,
        ("root-that-leaves-a-gap", "version 3 in the place of version 2", "mismatch", root),
        Scene::new(),
        |s| {
            s.repository.root.version = 3;
            let bytes = s.repository.signed(&s.repository.root, "root");
            s.repository.files.insert("2.root.json".to_owned(), bytes);
        },
    );
}

/// Roots by the right keys that say the wrong thing.
pub(super) fn root_contents(all: &mut Vec<Attack>) {
    let root = "root.json";
    add(
        all,
        ("root-with-threshold-0", "a root for which nobody need sign", "mismatch", root),
        Scene::new(),
        |s| {
            s.repository.root.roles.get_mut("targets").unwrap().threshold = 0;
            s.repository.root.version = 2;
            s.repository.publish_root();
        },
    );
    add(
        all,
        (
            "root-with-keys-of-another-kind",
            "the kinds of keys that gateways refuse",
            "signature",
            "timestamp.json",
        ),
        Scene::new(),
        |s| {
            s.repository.rotate("timestamp", &[41]);
            let id = public(41).id();
            s.repository.root.keys.get_mut(&id).unwrap().scheme = "ecdsa-sha2-nistp256".to_owned();
            s.repository.publish_root();
            s.repository.release();
        },
    );
    add(all, ("root-expired", "the owner's root has expired", "freeze_suspected", root), Scene::new(), |s| {
        s.repository.root.version = 2;
        s.repository.root.expires = PAST;
        s.repository.publish_root();
        s.repository.release();
    });
    add(
        all,
        ("root-signed-after-it-expired", "a time that would outlive its root", "mismatch", root),
        Scene::new(),
        |s| {
            s.repository.root.version = 2;
            s.repository.root.signed_at = Some(dunlin_trust::time::UnixTime(s.repository.root.expires.0 + 1));
            s.repository.publish_root();
        },
    );
}
