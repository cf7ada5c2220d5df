//! Attacks with what is old: versions that fall, and time that stands still.
//!
//! All well signed; who signs stands in `signatures`.

use super::{Attack, NOW, PAST, Repository, Scene, add, pin};

pub(super) fn rollbacks(all: &mut Vec<Attack>) {
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
}

/// Older files named by newer ones.
pub(super) fn rollbacks_within(all: &mut Vec<Attack>) {
    let rollback = "rollback";
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
}

/// Files that are older than trusted, or gone.
pub(super) fn rollbacks_of_files(all: &mut Vec<Attack>) {
    let rollback = "rollback";
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
            let mut named = pin(&bytes, 3);
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

pub(super) fn freezes(all: &mut Vec<Attack>) {
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
