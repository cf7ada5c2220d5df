//! Attacks with who may name what: teams of the owner, and the director.
//!
//! The director's key is online, and so taken for stolen.

use dunlin_trust::TrustedSet;
use dunlin_trust::metadata::TargetDescription;
use serde_json::json;

use super::{Attack, FROST, Scene, add, statement};

pub(super) fn delegations(all: &mut Vec<Attack>) {
    let approved = "not_approved";
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
}

/// Searches that end where they must.
pub(super) fn searches(all: &mut Vec<Attack>) {
    let (approved, team) = ("not_approved", "models/a-x/1/m");
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

pub(super) fn directors(all: &mut Vec<Attack>) {
    let approved = "not_approved";
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
            "director-gives-another-length-for-the-same-hash",
            "a length to fill the disk with",
            approved,
            FROST,
        ),
        Scene::with_director(),
        |s| {
            let director = &mut s.director().repository;
            director.targets.targets.get_mut(FROST).unwrap().length = 1 << 40;
            director.release();
        },
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
}

/// Answers to somebody or something else, and models that do not fit.
pub(super) fn answers(all: &mut Vec<Attack>) {
    let object = "director/targets.json";
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

/// Statements that take releases back, and the root of one repository in the place of another's.
pub(super) fn directors_word(all: &mut Vec<Attack>) {
    let withdraw = |s: &mut Scene, count: usize, reason: &str| {
        let note = json!({
            "model": "frost", "digest": "0".repeat(64), "rollout": "r1", "reason": reason, "from_the_future": 1,
        });
        let mut custom = statement("gateway-1", "n2");
        custom["withdrawn"] = json!(vec![note; count]);
        s.director().repository.targets.custom = Some(custom);
        s.director().repository.release();
    };
    add(
        all,
        ("director-withdraws-a-release", "a rollout that is taken back", "", ""),
        Scene::with_director(),
        |s| withdraw(s, 1, "halted by its gate"),
    );
    let object = "director/targets.json";
    add(
        all,
        ("director-withdraws-without-end", "a statement to keep a gateway busy", "mismatch", object),
        Scene::with_director(),
        |s| withdraw(s, 257, ""),
    );
    add(
        all,
        ("director-withdraws-with-a-long-reason", "a reason that fills the log", "mismatch", object),
        Scene::with_director(),
        |s| withdraw(s, 1, &"x".repeat(1025)),
    );
    add(
        all,
        (
            "director-root-as-the-next-root",
            "the owner's keys signed it, and it would let the online key approve models",
            "mismatch",
            "root.json",
        ),
        Scene::new(),
        |s| {
            s.repository.set_keys("targets", &[22], 1);
            s.repository.set_keys("director", &[22], 1);
            s.repository.root.version = 2;
            s.repository.publish_root();
            s.repository.targets.targets.insert(FROST.to_owned(), TargetDescription::of(b"evil", None));
            s.repository.release();
        },
    );
}
