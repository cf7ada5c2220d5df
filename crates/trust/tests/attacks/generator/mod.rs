//! Makes the attacks from fixed seeds, so that the checked-in files can be made again.
//!
//! Each starts from a device that has refreshed at version 1 and changes what is served. Never asks the verifier for an
//! opinion beyond that first refresh.

mod choices;
mod contents;
mod signatures;
mod versions;

use dunlin_trust::Stored;
use dunlin_trust::metadata::TargetDescription;
use serde_json::{Value, json};

use crate::repository::{NOW, PAST, Repository, key, pin, public, signature_on};
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
    for add_some in [
        signatures::signatures,
        signatures::thresholds,
        signatures::roots,
        signatures::root_contents,
        versions::rollbacks,
        versions::rollbacks_within,
        versions::rollbacks_of_files,
        versions::freezes,
        contents::mismatches,
        contents::forms,
        contents::models,
        contents::endless,
        choices::delegations,
        choices::searches,
        choices::directors,
        choices::answers,
        choices::directors_word,
    ] {
        add_some(&mut all);
    }
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
