//! Makes the attacks from fixed seeds, so that the checked-in files can be made again.
//!
//! Each starts from a device that has refreshed at version 1 and changes what is served. Never asks the verifier for an
//! opinion beyond that first refresh.

use dunlin_trust::limits::TIMESTAMP_BYTES_MAX;
use dunlin_trust::metadata::TargetDescription;
use dunlin_trust::sign::sign;
use dunlin_trust::{Stored, TrustedSet};
use serde_json::{Value, json};

use crate::repository::{NOW, PAST, Repository, key, public, signature_on};
use crate::{Asked, Fixture, Side};

const FROST: &str = "models/frost/1/manifest.json";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn side(device: &Stored, repository: &Repository) -> Side {
    let optional = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(text);
    Side {
        root: text(&device.root),
        timestamp: optional(&device.timestamp),
        snapshot: optional(&device.snapshot),
        targets: optional(&device.targets),
        delegated: device.delegated.iter().map(|(name, bytes)| (name.clone(), text(bytes))).collect(),
        floors: device.floors.clone(),
        served: repository.files.iter().map(|(path, bytes)| (path.clone(), text(bytes))).collect(),
    }
}

/// The device's state and the repository; each attack changes one or both.
struct Scene {
    device: Stored,
    repository: Repository,
    find: Option<&'static str>,
    bytes: Option<&'static str>,
    director: Option<Director>,
}

struct Director {
    device: Stored,
    repository: Repository,
    nonce: &'static str,
    floor: u64,
    architecture: &'static str,
    engine: &'static str,
}

impl Scene {
    fn new() -> Self {
        let repository = Repository::new();
        Self { device: repository.device(), repository, find: None, bytes: None, director: None }
    }

    /// A repository at version 2 of which the device knows all.
    fn at_version_2() -> Self {
        let mut scene = Self::new();
        scene.repository.release();
        scene.device = scene.repository.device();
        scene
    }

    /// With the teams `models/a` and `models/b`.
    fn with_teams() -> Self {
        let mut scene = Self::new();
        let repository = &mut scene.repository;
        repository.delegate("targets", "models/a", 11, "models/a-*/*/*", false);
        repository.delegate("targets", "models/b", 12, "models/b-*/*/*", false);
        for (team, path) in [("models/a", "models/a-x/1/m"), ("models/b", "models/b-x/1/m")] {
            let description = TargetDescription::of(b"team", None);
            repository.role_mut(team).targets.insert(path.to_owned(), description);
        }
        repository.release();
        scene.device = scene.repository.device();
        scene.find = Some("models/a-x/1/m");
        scene
    }

    /// With a director that answers the question `n2` with the approved frost model.
    fn with_director() -> Self {
        let mut scene = Self::new();
        let mut repository = Repository::new();
        for (role, seed) in [("root", 21), ("timestamp", 22), ("snapshot", 22), ("targets", 22)] {
            repository.set_keys(role, &[seed], 1);
        }
        repository.targets.targets.get_mut(FROST).unwrap().custom =
            Some(json!({"rollout": "r1", "slot": "frost"}));
        repository.targets.custom = Some(statement("gateway-1", "n1"));
        repository.publish_root();
        repository.publish();
        let device = repository.device();
        repository.targets.custom = Some(statement("gateway-1", "n2"));
        repository.release();
        scene.find = Some(FROST);
        scene.director = Some(Director {
            device,
            repository,
            nonce: "n2",
            floor: 5,
            architecture: "aarch64",
            engine: "tract-0.23",
        });
        scene
    }

    fn director(&mut self) -> &mut Director {
        self.director.as_mut().unwrap()
    }

    fn fixture(self, story: &str, code: &str, object: &str) -> Fixture {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Fixture {
            story: story.to_owned(),
            code: some(code),
            object: some(object),
            now: NOW,
            image: side(&self.device, &self.repository),
            find: self.find.map(str::to_owned),
            director: self.director.map(|director| Asked {
                side: side(&director.device, &director.repository),
                device: "gateway-1".to_owned(),
                architecture: director.architecture.to_owned(),
                engine: director.engine.to_owned(),
                nonce: director.nonce.to_owned(),
                floor: director.floor,
            }),
            bytes: self.bytes.map(str::to_owned),
        }
    }
}

fn statement(device: &str, nonce: &str) -> Value {
    json!({"device": device, "nonce": nonce, "server_time": NOW})
}

type Attack = (&'static str, Fixture);

pub(crate) fn attacks() -> Vec<Attack> {
    let mut all = Vec::new();
    signatures(&mut all);
    roots(&mut all);
    rollbacks(&mut all);
    freezes(&mut all);
    mismatches(&mut all);
    endless(&mut all);
    delegations(&mut all);
    directors(&mut all);
    all
}

/// Adds an attack: a scene, what happens in it, and how it must end.
fn add(
    all: &mut Vec<Attack>,
    (name, story, code, object): (&'static str, &str, &str, &str),
    mut scene: Scene,
    happens: impl FnOnce(&mut Scene),
) {
    happens(&mut scene);
    all.push((name, scene.fixture(story, code, object)));
}

fn signatures(all: &mut Vec<Attack>) {
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

fn roots(all: &mut Vec<Attack>) {
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

fn rollbacks(all: &mut Vec<Attack>) {
    let (rollback, old) = ("rollback", Repository::new());
    add(
        all,
        ("timestamp-older", "the repository as it was at version 1", rollback, "timestamp.json"),
        Scene::at_version_2(),
        |s| s.repository = old.clone(),
    );
    add(
        all,
        (
            "timestamp-older-to-lost-files",
            "the same, to a device that lost its files",
            rollback,
            "timestamp.json",
        ),
        Scene::at_version_2(),
        |s| {
            s.repository = old.clone();
            (s.device.timestamp, s.device.snapshot, s.device.targets) = (None, None, None);
        },
    );
    add(
        all,
        (
            "timestamp-older-to-torn-files",
            "the same, to a device whose files were cut",
            rollback,
            "timestamp.json",
        ),
        Scene::at_version_2(),
        |s| {
            s.repository = old.clone();
            for file in [&mut s.device.timestamp, &mut s.device.snapshot, &mut s.device.targets] {
                file.as_mut().unwrap().truncate(40);
            }
        },
    );
    add(
        all,
        (
            "snapshot-older-in-a-newer-timestamp",
            "a new timestamp names the old snapshot",
            rollback,
            "snapshot.json",
        ),
        Scene::at_version_2(),
        |s| {
            s.repository.timestamp.version = 3;
            s.repository.snapshot.version = 1;
            s.repository.publish();
        },
    );
    add(
        all,
        (
            "targets-older-in-a-newer-snapshot",
            "a new snapshot names the old targets",
            rollback,
            "targets.json",
        ),
        Scene::at_version_2(),
        |s| {
            s.repository.release();
            s.repository.targets.version = 1;
            s.repository.publish();
        },
    );
    add(
        all,
        (
            "targets-older-to-lost-files",
            "the same, to a device that lost its files",
            rollback,
            "targets.json",
        ),
        Scene::at_version_2(),
        |s| {
            s.repository.release();
            s.repository.targets.version = 1;
            s.repository.publish();
            (s.device.timestamp, s.device.snapshot, s.device.targets) = (None, None, None);
        },
    );
    add(
        all,
        ("snapshot-without-a-role", "a role that was listed is listed no more", rollback, "snapshot.json"),
        Scene::with_teams(),
        |s| {
            s.repository.release();
            s.repository.snapshot.meta.remove("models/b.json");
            s.repository.publish_snapshot();
        },
    );
    add(
        all,
        (
            "targets-file-older-than-trusted",
            "version 1 under the name of version 3",
            rollback,
            "targets.json",
        ),
        Scene::at_version_2(),
        |s| {
            s.repository.release();
            let bytes = s.repository.files["1.targets.json"].clone();
            s.repository.files.insert("3.targets.json".to_owned(), bytes.clone());
            let mut named = crate::repository::pin(&bytes, 3);
            named.length = None;
            s.repository.snapshot.meta.insert("targets.json".to_owned(), named);
            s.repository.publish_snapshot();
        },
    );
    add(
        all,
        ("root-below-its-floor", "an old root was put back into the state", rollback, "root.json"),
        Scene::new(),
        |s| s.device.floors.root = 2,
    );
}

fn freezes(all: &mut Vec<Attack>) {
    let freeze = "freeze_suspected";
    add(
        all,
        ("frozen-repository", "the same timestamp for ever, until it expired", freeze, "timestamp.json"),
        Scene::new(),
        |s| {
            let mut repository = Repository::new();
            repository.timestamp.expires = PAST;
            repository.publish_timestamp();
            s.device.timestamp = Some(repository.files["timestamp.json"].clone());
            s.repository = repository;
        },
    );
    add(
        all,
        ("timestamp-expired", "a new timestamp that has expired", freeze, "timestamp.json"),
        Scene::new(),
        |s| {
            s.repository.timestamp.expires = PAST;
            s.repository.release();
        },
    );
    add(
        all,
        ("timestamp-expires-this-second", "expired from the second it names", freeze, "timestamp.json"),
        Scene::new(),
        |s| {
            s.repository.timestamp.expires = NOW;
            s.repository.release();
        },
    );
    add(all, ("snapshot-expired", "an expired snapshot", freeze, "snapshot.json"), Scene::new(), |s| {
        s.repository.snapshot.expires = PAST;
        s.repository.release();
    });
    add(all, ("targets-expired", "expired targets", freeze, "targets.json"), Scene::new(), |s| {
        s.repository.targets.expires = PAST;
        s.repository.release();
    });
    add(
        all,
        ("team-expired", "a team's metadata have expired", freeze, "models/a.json"),
        Scene::with_teams(),
        |s| {
            s.repository.role_mut("models/a").expires = PAST;
            s.repository.role_mut("models/a").version = 2;
            s.repository.release();
        },
    );
}

fn mismatches(all: &mut Vec<Attack>) {
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
            let named = crate::repository::pin(&bytes, 2);
            s.repository.timestamp.meta.insert("snapshot.json".to_owned(), named);
            s.repository.publish_timestamp();
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

fn endless(all: &mut Vec<Attack>) {
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

fn delegations(all: &mut Vec<Attack>) {
    let (approved, team) = ("not_approved", "models/a-x/1/m");
    add(all, ("team-as-it-should-be", "a team's own model", "", ""), Scene::with_teams(), |s| {
        s.bytes = Some("team");
    });
    add(
        all,
        ("target-that-nobody-names", "a model that nobody approved", approved, "models/none/1/m"),
        Scene::new(),
        |s| s.find = Some("models/none/1/m"),
    );
    add(
        all,
        ("team-names-another-teams-model", "team b names a model of team a", approved, "models/a-y/1/m"),
        Scene::with_teams(),
        |s| {
            let description = TargetDescription::of(b"team", None);
            s.repository.role_mut("models/b").targets.insert("models/a-y/1/m".to_owned(), description);
            s.repository.role_mut("models/b").version = 2;
            s.repository.release();
            s.find = Some("models/a-y/1/m");
        },
    );
    add(
        all,
        ("team-signed-by-another-team", "team b signs for team a", "signature", "models/a.json"),
        Scene::with_teams(),
        |s| {
            s.repository.signers.insert("models/a".to_owned(), vec![12]);
            s.repository.role_mut("models/a").version = 2;
            s.repository.release();
        },
    );
    add(
        all,
        ("team-older", "team a's old metadata in a new snapshot", "rollback", "models/a.json"),
        Scene::with_teams(),
        |s| {
            s.repository.role_mut("models/a").version = 2;
            s.repository.release();
            s.device = s.repository.device();
            s.repository.role_mut("models/a").version = 1;
            s.repository.release();
        },
    );
    add(
        all,
        ("team-not-in-the-snapshot", "a team that the snapshot leaves out", "mismatch", "models/c.json"),
        Scene::with_teams(),
        |s| {
            s.repository.delegate("targets", "models/c", 13, "models/c-*/*/*", true);
            s.repository.release();
            s.repository.snapshot.meta.remove("models/c.json");
            s.repository.publish_snapshot();
            s.find = Some("models/c-x/1/m");
        },
    );
    add(
        all,
        ("terminating-team-hides-the-next", "a terminating role ends the search", approved, team),
        Scene::new(),
        |s| {
            s.repository.delegate("targets", "models/first", 11, "models/a-*/*/*", true);
            s.repository.delegate("targets", "models/second", 12, "models/a-*/*/*", false);
            let description = TargetDescription::of(b"team", None);
            s.repository.role_mut("models/second").targets.insert(team.to_owned(), description);
            s.repository.release();
            s.find = Some(team);
        },
    );
    add(
        all,
        ("teams-in-a-circle", "two teams that delegate to each other", approved, team),
        Scene::new(),
        |s| {
            s.repository.delegate("targets", "one", 11, "models/*/*/*", false);
            s.repository.delegate("one", "two", 12, "models/*/*/*", false);
            s.repository.delegate("two", "one", 11, "models/*/*/*", false);
            s.repository.release();
            s.find = Some(team);
        },
    );
    add(
        all,
        ("team-named-like-the-root", "a delegated role of a reserved name", "mismatch", "targets.json"),
        Scene::new(),
        |s| {
            s.repository.delegate("targets", "root", 11, "models/*/*/*", false);
            s.repository.delegated.clear();
            s.repository.signers.insert("root".to_owned(), vec![1]);
            s.repository.release();
        },
    );
    for (name, path) in
        [("path-that-climbs", "models/../../etc/passwd"), ("path-from-the-top", "/etc/passwd")]
    {
        add(all, (name, "a path that leads elsewhere", approved, path), Scene::new(), |s| {
            s.repository.targets.targets.insert(path.to_owned(), TargetDescription::of(b"x", None));
            s.repository.release();
            s.find = Some(path);
        });
    }
    add(
        all,
        ("search-without-end", "more roles than a search looks into", approved, team),
        Scene::new(),
        |s| {
            for at in 0..33 {
                s.repository.delegate("targets", &format!("team-{at}"), 100 + at, "models/*/*/*", false);
            }
            s.repository.release();
            s.find = Some(team);
        },
    );
}

fn directors(all: &mut Vec<Attack>) {
    let approved = "not_approved";
    let object = "director/targets.json";
    add(all, ("director-as-it-should-be", "an assignment", "", ""), Scene::with_director(), |_| {});
    let choose = |s: &mut Scene, bytes: &[u8]| {
        let custom = Some(json!({"rollout": "r1", "slot": "frost"}));
        let director = &mut s.director().repository;
        director.targets.targets.insert(FROST.to_owned(), TargetDescription::of(bytes, custom));
        director.release();
    };
    add(
        all,
        ("director-chooses-another-file", "a stolen online key, another model", approved, FROST),
        Scene::with_director(),
        |s| choose(s, b"evil  1"),
    );
    add(
        all,
        ("director-chooses-another-length", "a stolen online key, a longer model", approved, FROST),
        Scene::with_director(),
        |s| choose(s, b"frost 1 and more"),
    );
    add(
        all,
        (
            "director-chooses-what-nobody-approved",
            "no such model in the image repository",
            approved,
            "models/evil/1/m",
        ),
        Scene::with_director(),
        |s| s.find = Some("models/evil/1/m"),
    );
    add(
        all,
        ("director-does-not-choose-it", "approved, and not for this device", approved, FROST),
        Scene::with_director(),
        |s| {
            s.director().repository.targets.targets.clear();
            s.director().repository.release();
        },
    );
    add(
        all,
        ("directors-answer-to-another-device", "replayed to the wrong gateway", "wrong_device", object),
        Scene::with_director(),
        |s| {
            s.director().repository.targets.custom = Some(statement("gateway-2", "n2"));
            s.director().repository.release();
        },
    );
    add(
        all,
        ("directors-answer-to-an-old-question", "the own answer of last week", "freeze_suspected", object),
        Scene::with_director(),
        |s| s.director().nonce = "n3",
    );
    add(
        all,
        ("directors-older-answer", "the own answer before the last", "rollback", "timestamp.json"),
        Scene::with_director(),
        |s| {
            let director = s.director();
            let first = director.device.clone();
            let set = TrustedSet::load(&first).unwrap();
            director.device = director.repository.refresh(set).unwrap().stored();
            director.repository.files.insert("timestamp.json".to_owned(), first.timestamp.unwrap());
        },
    );
    add(
        all,
        ("director-speaks-to-nobody", "targets without device and question", "mismatch", object),
        Scene::with_director(),
        |s| {
            s.director().repository.targets.custom = None;
            s.director().repository.release();
        },
    );
    add(
        all,
        ("model-for-another-architecture", "an aarch64 model on armv7", "incompatible", FROST),
        Scene::with_director(),
        |s| s.director().architecture = "arm",
    );
    add(
        all,
        ("model-for-another-engine", "a rollout for the next engine", "incompatible", FROST),
        Scene::with_director(),
        |s| {
            let custom =
                json!({"rollout": "r1", "slot": "frost", "requirements": {"engines": ["tract-0.24"]}});
            let director = &mut s.director().repository;
            director.targets.targets.get_mut(FROST).unwrap().custom = Some(custom);
            director.release();
        },
    );
    add(
        all,
        ("release-below-its-floor", "an approved release, older than a good one", "downgrade", FROST),
        Scene::with_director(),
        |s| s.director().floor = 6,
    );
}
