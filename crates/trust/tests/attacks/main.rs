//! Each attack in a file of its own, as it was signed, and the code that a device reports for it.
//!
//! The files are read as they are; nothing here can make an attack pass that a file describes. `DUNLIN_WRITE_FIXTURES=1`
//! writes the files of attacks that have none yet. The table of codes is in the documentation of failures.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod generator;
#[path = "../repository/mod.rs"]
mod repository;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use dunlin_trust::time::UnixTime;
use dunlin_trust::{
    Answer, Assignment, Code, Device, Failure, Fetch, Floors, Lookup, Refresh, Statement, Steps, Stored,
    TargetReader, TrustedSet,
};
use serde::{Deserialize, Serialize};

/// What a device holds of a repository, and what is served to it. Bytes as text: all metadata are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Side {
    root: String,
    timestamp: Option<String>,
    snapshot: Option<String>,
    targets: Option<String>,
    delegated: BTreeMap<String, String>,
    floors: Floors,
    served: BTreeMap<String, String>,
}

/// A question to the director.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Asked {
    side: Side,
    device: String,
    architecture: String,
    engine: String,
    nonce: String,
    floor: u64,
}

/// An attack, or none, with what it must end in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Fixture {
    story: String,
    /// The code; none where everything is as it should be.
    code: Option<String>,
    /// What the failure is about.
    object: Option<String>,
    now: UnixTime,
    image: Side,
    /// The target to look for.
    find: Option<String>,
    director: Option<Asked>,
    /// What is served as the target.
    bytes: Option<String>,
}

impl Side {
    fn stored(&self) -> Stored {
        let bytes = |text: &Option<String>| text.clone().map(String::into_bytes);
        Stored {
            root: self.root.clone().into_bytes(),
            timestamp: bytes(&self.timestamp),
            snapshot: bytes(&self.snapshot),
            targets: bytes(&self.targets),
            delegated: self.delegated.iter().map(|(n, t)| (n.clone(), t.clone().into_bytes())).collect(),
            floors: self.floors.clone(),
        }
    }

    fn answer(&self, fetch: &Fetch) -> Answer {
        let found = |text: &String| {
            let length = text.len().min(fetch.length_max as usize + 1);
            Answer::Found(text.as_bytes()[..length].to_vec())
        };
        self.served.get(&fetch.path).map_or(Answer::NotFound, found)
    }

    /// Refreshes; a refusal must leave the set as it was before the refused file.
    fn refresh(&self, now: UnixTime) -> Result<TrustedSet, Failure> {
        let mut refresh = Refresh::new(TrustedSet::load(&self.stored())?, now);
        while let Some(fetch) = refresh.wants() {
            let before = refresh.clone().finish().set.stored();
            let is_root = fetch.path.ends_with(".root.json");
            if let Err(failure) = refresh.answer(self.answer(&fetch)) {
                let after = refresh.finish().set.stored();
                // A root that is good and has expired stays: the next one is signed with its keys.
                if !(is_root && failure.code == Code::FreezeSuspected) {
                    assert_eq!(after, before, "{failure} left something behind");
                }
                assert_floors_hold(&self.floors, &after);
                return Err(failure);
            }
        }
        Ok(refresh.finish().set)
    }
}

/// A rotation of keys in the root may lower floors; nothing else may.
fn assert_floors_hold(before: &Floors, after: &Stored) {
    if after.floors.root == before.root {
        assert!(after.floors.timestamp >= before.timestamp && after.floors.snapshot >= before.snapshot);
        for (role, floor) in &before.targets {
            assert!(after.floors.targets.get(role).is_some_and(|version| version >= floor), "{role}");
        }
    }
}

fn find(set: &mut TrustedSet, side: &Side, path: &str, now: UnixTime) -> Result<FoundTarget, Failure> {
    let mut lookup = Lookup::new(set, path, now)?;
    while let Some(fetch) = lookup.wants() {
        lookup.answer(side.answer(&fetch))?;
    }
    lookup.finish()
}

type FoundTarget = dunlin_trust::Verified<dunlin_trust::ApprovedTarget>;

/// Does with a fixture what a device does.
fn outcome(fixture: &Fixture) -> Result<(), Failure> {
    let mut set = fixture.image.refresh(fixture.now)?;
    let Some(path) = &fixture.find else { return Ok(()) };
    let before = set.stored();
    let found = find(&mut set, &fixture.image, path, fixture.now);
    assert_eq!((&set.stored().root, &set.stored().targets), (&before.root, &before.targets));
    let target = found?;
    if let Some(asked) = &fixture.director {
        let director = asked.side.refresh(fixture.now)?;
        let device = Device {
            id: asked.device.clone(),
            architecture: asked.architecture.clone(),
            engine: asked.engine.clone(),
        };
        let statement = Statement::read(&director, &device, &asked.nonce, fixture.now)?;
        Assignment::check(&statement, &target, &device, asked.floor)?;
    }
    if let Some(bytes) = &fixture.bytes {
        let mut reader = TargetReader::new(&target.description, None, path)?;
        for part in bytes.as_bytes().chunks(3) {
            reader.update(part)?;
        }
        reader.finish()?;
        target.evidence.verify(&set.anchor(), bytes.clone().into_bytes())?;
    }
    Ok(())
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/fixtures")
}

fn fixtures() -> BTreeMap<String, Fixture> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
        })
        .collect()
}

#[test]
fn each_attack_ends_in_its_code_and_leaves_what_was_trusted() {
    let mut wrong = Vec::new();
    for (name, fixture) in fixtures() {
        let (code, object) = match outcome(&fixture) {
            Ok(()) => (None, None),
            Err(failure) => (Some(failure.code.to_string()), Some(failure.object)),
        };
        if code != fixture.code || (fixture.object.is_some() && object != fixture.object) {
            wrong.push(format!(
                "{name}: {code:?} for {object:?}, not {:?} for {:?}",
                fixture.code, fixture.object
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_of_files_has_an_attack() {
    let seen: BTreeSet<String> = fixtures().into_values().filter_map(|fixture| fixture.code).collect();
    for code in Code::ALL {
        // A time is no file: the floor under the speed has its test beside it.
        if code != Code::SlowRetrieval {
            assert!(seen.contains(code.as_str()), "no attack ends in `{code}`");
        }
    }
}

/// Old files are read for ever; one that the generator would make otherwise gets another name.
#[test]
fn the_files_are_what_the_generator_makes() {
    let write = std::env::var_os("DUNLIN_WRITE_FIXTURES").is_some();
    let mut names = BTreeSet::new();
    for (name, fixture) in generator::attacks() {
        assert!(names.insert(name), "two attacks are named {name}");
        let path = folder().join(format!("{name}.json"));
        if write && !path.exists() {
            let mut text = serde_json::to_vec_pretty(&fixture).unwrap();
            text.push(b'\n');
            dunlin_kit::atomic_file::write(&path, &text).unwrap();
        }
        let stored: Fixture = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(stored, fixture, "{name}");
    }
}

/// Every signed text of every fixture, flipped bit by bit at some places: none is believed in another form.
#[test]
fn no_flipped_bit_in_what_is_served_is_believed() {
    let fixture = &fixtures()["no-attack"];
    for (path, text) in &fixture.image.served {
        for at in (0..text.len()).step_by(7) {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(flipped) = String::from_utf8(bytes) else { continue };
            let mut served = fixture.image.clone();
            served.served.insert(path.clone(), flipped);
            match served.refresh(fixture.now) {
                Err(_) => {}
                // White space and the case of hexadecimal digits say the same.
                Ok(set) => {
                    let trusted = fixture.image.refresh(fixture.now).unwrap();
                    assert_eq!(
                        (set.root(), set.timestamp(), set.snapshot(), set.targets()),
                        (trusted.root(), trusted.timestamp(), trusted.snapshot(), trusted.targets()),
                        "{path} at {at}"
                    );
                }
            }
        }
    }
}
