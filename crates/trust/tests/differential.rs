//! A second opinion: the same random repositories, spoiled at random, before this core and before `sigstore-tuf`.
//!
//! Both must accept or refuse alike, refresh by refresh and search by search. Where both follow the specification and
//! still differ, the difference has a name here and a reason. `DUNLIN_DIFFERENTIAL_SECONDS` makes the run long and takes
//! fresh randomness; without it the run is short and the same each time.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

mod repository;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dunlin_trust::metadata::TargetDescription;
use dunlin_trust::time::UnixTime;
use dunlin_trust::{Code, Failure, Interrupted, Lookup, Refresh, Stored, TrustedSet, run};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use repository::{NOW, PAST, Repository, public, signature_on};
use serde_json::json;
use sigstore_tuf::transport::FetchFuture;
use sigstore_tuf::{Error, MemoryStore, Updater};

/// Cases of the short run: some seconds without optimisation.
const CASES: u32 = 24;

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The served files as the other client sees them.
struct Served(Files);

impl sigstore_tuf::Repository for Served {
    fn fetch_metadata<'a>(&'a self, name: &'a str, max_length: u64) -> FetchFuture<'a> {
        let file = self.0.lock().unwrap().get(name).cloned();
        Box::pin(async move {
            match file {
                Some(bytes) if bytes.len() as u64 > max_length => Err(Error::transport("too long")),
                other => Ok(other),
            }
        })
    }

    fn fetch_target<'a>(&'a self, path: &'a str, _: u64) -> FetchFuture<'a> {
        Box::pin(async move { Err(Error::transport(path)) })
    }
}

/// Runs a future that never waits.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("memory answers at once"),
    }
}

/// The roles that steps are about; the last two are teams.
const ROLES: [&str; 6] = ["root", "timestamp", "snapshot", "targets", "team-a", "team-b"];
const PATHS: [&str; 5] = ["models/frost/1/manifest.json", "a/one", "a/two", "b/one", "none"];

/// What happens to the repository for good.
#[derive(Debug, Clone)]
enum Step {
    Release,
    TimestampAlone,
    SnapshotAlone,
    TeamRelease(usize),
    NewTarget(usize, usize),
    RotateKeys(usize, Vec<u8>, u32),
    Expire(usize),
    Renew,
    Version(usize, i64),
    Delegate(usize, bool),
    WithoutPins,
    Nothing,
}

/// What is done to one served file, once.
#[derive(Debug, Clone)]
enum Spoil {
    Nothing,
    DropSignature,
    DuplicateSignature,
    SignByStranger,
    StrangerUnderKnownName,
    ForgottenSignature,
    ChangeMember(&'static str),
    SignedMember(&'static str, serde_json::Value),
    Truncate(usize),
    Pad(usize),
    Remove,
    FlipByte(usize),
    Swap(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Release),
        1 => Just(Step::TimestampAlone),
        1 => Just(Step::SnapshotAlone),
        2 => (4..6_usize).prop_map(Step::TeamRelease),
        2 => (3..6_usize, 0..PATHS.len()).prop_map(|(role, path)| Step::NewTarget(role, path)),
        2 => (0..4_usize, prop::collection::vec(60..90_u8, 1..4), 1..4_u32)
            .prop_map(|(role, seeds, threshold)| Step::RotateKeys(role, seeds, threshold)),
        1 => (0..6_usize).prop_map(Step::Expire),
        1 => Just(Step::Renew),
        2 => (0..6_usize, -2..3_i64).prop_map(|(role, by)| Step::Version(role, by)),
        2 => (0..4_usize, any::<bool>()).prop_map(|(to, terminating)| Step::Delegate(to, terminating)),
        1 => Just(Step::WithoutPins),
        1 => Just(Step::Nothing),
    ]
}

fn spoil() -> impl Strategy<Value = (usize, Spoil)> {
    let member = prop_oneof![Just("version"), Just("expires"), Just("extra"), Just("_type")];
    let signed = prop_oneof![
        Just(("version", json!(0))),
        Just(("version", json!("1"))),
        Just(("spec_version", json!("2.0"))),
        Just(("spec_version", json!("1.9.9"))),
        Just(("expires", json!("tomorrow"))),
        Just(("_type", json!("mirrors"))),
        Just(("extra", json!({"a": [1, null, "é\n"]}))),
        Just(("extra", json!(0.5))),
    ];
    let one = prop_oneof![
        12 => Just(Spoil::Nothing),
        1 => Just(Spoil::DropSignature),
        1 => Just(Spoil::DuplicateSignature),
        1 => Just(Spoil::SignByStranger),
        1 => Just(Spoil::StrangerUnderKnownName),
        1 => Just(Spoil::ForgottenSignature),
        1 => member.prop_map(Spoil::ChangeMember),
        3 => signed.prop_map(|(member, value)| Spoil::SignedMember(member, value)),
        1 => (1..200_usize).prop_map(Spoil::Truncate),
        1 => (1..20_000_usize).prop_map(Spoil::Pad),
        1 => Just(Spoil::Remove),
        2 => any::<usize>().prop_map(Spoil::FlipByte),
        1 => (0..6_usize).prop_map(Spoil::Swap),
    ];
    (0..ROLES.len(), one)
}

fn path_of(repository: &Repository, role: usize) -> String {
    let version = match role {
        0 => repository.root.version,
        1 => return "timestamp.json".to_owned(),
        2 => repository.snapshot.version,
        3 => repository.targets.version,
        _ => repository.delegated[ROLES[role]].version,
    };
    format!("{version}.{}.json", ROLES[role])
}

fn with_teams() -> Repository {
    let mut repository = Repository::new();
    repository.delegate("targets", "team-a", 11, "a/*", false);
    repository.delegate("targets", "team-b", 12, "?/*", false);
    for (team, path) in [("team-a", "a/one"), ("team-b", "a/two"), ("team-b", "b/one")] {
        let description = TargetDescription::of(path.as_bytes(), None);
        repository.role_mut(team).targets.insert(path.to_owned(), description);
    }
    repository.release();
    repository
}

fn happen(repository: &mut Repository, step: &Step) {
    match step {
        Step::Release => repository.release(),
        Step::TimestampAlone => {
            repository.timestamp.version += 1;
            repository.publish_timestamp();
        }
        Step::SnapshotAlone => {
            repository.timestamp.version += 1;
            repository.snapshot.version += 1;
            repository.publish_snapshot();
        }
        Step::TeamRelease(role) => {
            repository.role_mut(ROLES[*role]).version += 1;
            repository.release();
        }
        Step::NewTarget(role, path) => {
            let description = TargetDescription::of(&[*path as u8], None);
            let targets = repository.role_mut(ROLES[*role]);
            targets.targets.insert(PATHS[*path].to_owned(), description);
            targets.version += u64::from(*role > 3);
            repository.release();
        }
        Step::RotateKeys(role, seeds, threshold) => rotate(repository, *role, seeds, *threshold),
        Step::Expire(role) => {
            expire(repository, *role, PAST);
            repository.release();
        }
        Step::Renew => {
            (0..ROLES.len()).for_each(|role| expire(repository, role, UnixTime(NOW.0 + 90_000)));
            repository.root.version += 1;
            repository.publish_root();
            repository.delegated.values_mut().for_each(|team| team.version += 1);
            repository.release();
        }
        Step::Version(role, by) => {
            let version = match role {
                0 => &mut repository.root.version,
                1 => &mut repository.timestamp.version,
                2 => &mut repository.snapshot.version,
                _ => &mut repository.role_mut(ROLES[*role]).version,
            };
            *version = version.saturating_add_signed(*by).max(1);
            if *role == 0 {
                repository.publish_root();
            }
            repository.publish();
        }
        Step::Delegate(to, is_terminating) => {
            let (delegator, role) =
                [("targets", "team-b"), ("team-a", "team-b"), ("team-b", "team-a"), ("targets", "team-a")]
                    [*to];
            let seed = if role == "team-a" { 11 } else { 12 };
            repository.delegate(delegator, role, seed, "*/*", *is_terminating);
            repository.delegated.values_mut().for_each(|team| team.version += 1);
            repository.release();
        }
        Step::WithoutPins => {
            repository.release();
            for named in repository.snapshot.meta.values_mut() {
                (named.length, named.hashes) = (None, None);
            }
            repository.publish_snapshot();
            let named = repository.timestamp.meta.get_mut("snapshot.json").unwrap();
            (named.length, named.hashes) = (None, None);
            repository.publish_timestamp();
        }
        Step::Nothing => {}
    }
}

/// Makes the next root, with other keys and another threshold for a role.
fn rotate(repository: &mut Repository, role: usize, seeds: &[u8], threshold: u32) {
    let mut seeds = seeds.to_vec();
    seeds.sort_unstable();
    seeds.dedup();
    repository.rotate(ROLES[role], &seeds);
    repository.root.roles.get_mut(ROLES[role]).unwrap().threshold = threshold;
    let old = repository.files[&format!("{}.root.json", repository.root.version)].clone();
    let old: serde_json::Value = serde_json::from_slice(&old).unwrap();
    let path = format!("{}.root.json", repository.root.version);
    let signed = serde_json::to_value(&repository.root).unwrap();
    // The same signers over the changed threshold.
    let seeds: Vec<u8> = (0..=255)
        .filter(|seed| {
            let id = json!(public(*seed).id());
            old["signatures"].as_array().unwrap().iter().any(|one| one["keyid"] == id)
        })
        .collect();
    let file = json!({"signed": signed, "signatures": []});
    let signatures: Vec<_> = seeds.iter().map(|seed| signature_on(&file, *seed)).collect();
    repository
        .files
        .insert(path, serde_json::to_vec(&json!({"signed": signed, "signatures": signatures})).unwrap());
    repository.release();
}

fn expire(repository: &mut Repository, role: usize, at: UnixTime) {
    match role {
        0 => {
            repository.root.expires = at;
            repository.root.version += 1;
            repository.publish_root();
        }
        1 => repository.timestamp.expires = at,
        2 => repository.snapshot.expires = at,
        _ => {
            let targets = repository.role_mut(ROLES[role]);
            targets.expires = at;
            targets.version += u64::from(role > 3);
        }
    }
}

/// Spoils one served file; with the pins of the files above it made to fit where that is what it takes to be read.
fn spoiled(repository: &Repository, role: usize, spoil: &Spoil) -> Repository {
    let mut served = repository.clone();
    let path = path_of(repository, role);
    if !served.files.contains_key(&path) {
        return served;
    }
    let is_online = role > 1;
    match spoil {
        Spoil::Nothing => return served,
        Spoil::Truncate(by) => {
            let file = served.files.get_mut(&path).unwrap();
            file.truncate(file.len().saturating_sub(*by));
            return served;
        }
        Spoil::Pad(by) => {
            let file = served.files.get_mut(&path).unwrap();
            file.resize(file.len() + by, b' ');
            return served;
        }
        Spoil::Remove => {
            served.files.remove(&path);
            return served;
        }
        Spoil::FlipByte(at) => {
            let file = served.files.get_mut(&path).unwrap();
            let at = at % file.len();
            file[at] ^= 1;
            return served;
        }
        Spoil::Swap(other) => {
            if let Some(other) = served.files.get(&path_of(repository, *other)).cloned() {
                served.files.insert(path.clone(), other);
            }
        }
        _ => served.spoil(&path, |file| spoil_json(file, spoil, repository, role)),
    }
    if is_online {
        let bytes = served.files[&path].clone();
        let version = path.split('.').next().unwrap().parse().unwrap();
        let named = repository::pin(&bytes, version);
        if role == 2 {
            served.timestamp.meta.insert("snapshot.json".to_owned(), named);
            served.publish_timestamp();
        } else {
            served.snapshot.meta.insert(format!("{}.json", ROLES[role]), named);
            served.publish_snapshot();
        }
    }
    served
}

fn spoil_json(file: &mut serde_json::Value, spoil: &Spoil, repository: &Repository, role: usize) {
    let seeds = &repository.signers[ROLES[role]];
    match spoil {
        Spoil::DropSignature => drop(file["signatures"].as_array_mut().unwrap().pop()),
        Spoil::DuplicateSignature => {
            let first = file["signatures"][0].clone();
            file["signatures"].as_array_mut().unwrap().push(first);
        }
        Spoil::SignByStranger => file["signatures"] = json!([signature_on(file, 99)]),
        Spoil::StrangerUnderKnownName => {
            let mut forged = signature_on(file, 99);
            forged.keyid = public(seeds[0]).id();
            file["signatures"][0] = json!(forged);
        }
        Spoil::ForgottenSignature => file["signatures"][0]["sig"] = json!(""),
        Spoil::ChangeMember(member) => file["signed"][*member] = json!(7),
        Spoil::SignedMember(member, value) => {
            file["signed"][*member] = value.clone();
            if *value != json!(0.5) {
                let signatures: Vec<_> = seeds.iter().map(|seed| signature_on(file, *seed)).collect();
                file["signatures"] = json!(signatures);
            }
        }
        _ => unreachable!("the others are about bytes"),
    }
}

/// This core, with what it would store between two refreshes.
struct Ours {
    stored: Stored,
}

impl Ours {
    fn refresh(&mut self, served: &Repository) -> Result<(), Failure> {
        let mut refresh = Refresh::new(TrustedSet::load(&self.stored)?, NOW);
        let outcome = run::<()>(&mut refresh, |fetch| Ok(served.fetch(fetch)));
        self.stored = refresh.finish().set.stored();
        refused(outcome)
    }

    fn find(&mut self, served: &Repository, path: &str) -> Result<u64, Failure> {
        let mut set = TrustedSet::load(&self.stored)?;
        let mut lookup = Lookup::new(&mut set, path, NOW)?;
        refused(run::<()>(&mut lookup, |fetch| Ok(served.fetch(fetch))))?;
        let length = lookup.finish()?.description.length;
        self.stored = set.stored();
        Ok(length)
    }
}

fn refused(outcome: Result<(), Interrupted<()>>) -> Result<(), Failure> {
    match outcome {
        Ok(()) => Ok(()),
        Err(Interrupted::Refused(failure)) => Err(failure),
        Err(Interrupted::Source(())) => unreachable!("memory does not fail"),
    }
}

/// The other client.
struct Theirs {
    files: Files,
    updater: Updater,
}

impl Theirs {
    fn new(repository: &Repository) -> Self {
        let files = Files::default();
        let updater = Updater::new(Served(Arc::clone(&files)), &repository.files["1.root.json"]).unwrap();
        Self { files, updater: updater.with_store(MemoryStore::new()) }
    }

    fn refresh(&mut self, served: &Repository) -> Result<(), Error> {
        self.files.lock().unwrap().clone_from(&served.files);
        ready(self.updater.refresh(jiff::Timestamp::from_second(NOW.0).unwrap()))
    }

    fn find(&mut self, path: &str) -> Result<u64, Error> {
        let now = jiff::Timestamp::from_second(NOW.0).unwrap();
        let found = ready(self.updater.get_target_info(path, now))?;
        found.map(|target| target.length).ok_or_else(|| Error::TargetNotFound(path.to_owned()))
    }
}

/// What this core refuses and the other accepts, though both keep to the specification.
fn known_refusal(failure: &Failure, roots_taken: bool) -> Option<&'static str> {
    let reason = failure.reason.as_str();
    match failure.code {
        // The specification keeps versions seen in files; a file that new keys make useless takes its versions with it.
        // Here floors stand apart from the files, and fall with the keys of timestamp and snapshot alone.
        Code::Rollback if roots_taken => Some("versions outlive their files"),
        // "The keyid MUST be unique": here for strangers' signatures too.
        Code::Signature if reason.contains("twice") => Some("a stranger's key id twice"),
        // A role that the snapshot does not list: skipped there, and here a reason to stop, lest a lower role answers.
        Code::Mismatch if reason.contains("does not list") => Some("delegated role not in the snapshot"),
        // Versions begin at 1.
        Code::Mismatch if reason.contains("version 0") => Some("version 0"),
        // Refused when the root comes, instead of when the role is used.
        Code::Mismatch if reason.contains("names no keys") => Some("root without a role"),
        Code::Mismatch if reason.contains("names no `") => Some("nothing named"),
        _ => None,
    }
}

/// One version with two contents, which no honest repository has: the other client tells files apart by version alone,
/// here hashes count.
fn is_doubled(stored: &Stored, served: &Repository) -> bool {
    let version = |file: &[u8]| {
        let file: Option<serde_json::Value> = serde_json::from_slice(file).ok();
        file.and_then(|file| file["signed"]["version"].as_u64())
    };
    let teams = stored.delegated.iter().map(|(name, file)| (name.as_str(), Some(file)));
    [("snapshot", stored.snapshot.as_ref()), ("targets", stored.targets.as_ref())]
        .into_iter()
        .chain(teams)
        .any(|(role, file)| {
            let file = file.and_then(|file| Some((file, version(file)?)));
            file.is_some_and(|(file, version)| {
                served.files.get(&format!("{version}.{role}.json")).is_some_and(|served| served != file)
            })
        })
}

type History = Vec<(Step, (usize, Spoil))>;

fn check((steps, first): (History, u8)) -> Result<(), TestCaseError> {
    let mut repository = with_teams();
    repository.timestamp.version += u64::from(first);
    repository.publish_timestamp();
    let mut ours = Ours { stored: Stored::first(repository.files["1.root.json"].clone()) };
    let mut theirs = Theirs::new(&repository);
    let mut roots_taken = false;
    for (step, (role, spoil)) in &steps {
        happen(&mut repository, step);
        let genuine = repository.files.get(&path_of(&repository, *role)).cloned();
        let served = spoiled(&repository, *role, spoil);
        let is_doubled = is_doubled(&ours.stored, &served);
        if served.timestamp != repository.timestamp {
            // What comes next gets versions of its own.
            repository.targets.version += 1;
            repository.snapshot.version += 1;
            repository.timestamp.version += 1;
            repository.delegated.values_mut().for_each(|team| team.version += 1);
            repository.publish();
        }
        let root_before = ours.stored.floors.root;
        let (mine, other) = (ours.refresh(&served), theirs.refresh(&served));
        roots_taken |= ours.stored.floors.root > 1.max(root_before);
        if is_doubled && mine.is_ok() != other.is_ok() {
            return Ok(());
        }
        match (&mine, &other) {
            (Err(failure), Ok(())) => {
                let known = known_refusal(failure, roots_taken);
                prop_assert!(known.is_some(), "{step:?} {role} {spoil:?}: {failure}; they accept");
                // From here on the two trust different files.
                return Ok(());
            }
            (Ok(()), Err(error)) => {
                // Targets that are here already are not fetched again while the snapshot names them; there they are
                // with every new snapshot, and so meet the spoiled file.
                if *role == 3 && ours.stored.targets == genuine {
                    return Ok(());
                }
                prop_assert!(false, "{step:?} {role} {spoil:?}: we accept; they say {error}");
            }
            (Err(_), Err(_)) => continue,
            (Ok(()), Ok(())) => {}
        }
        for path in PATHS {
            let (mine, other) = (ours.find(&served, path), theirs.find(path));
            if is_doubled && mine.is_ok() != other.is_ok() {
                return Ok(());
            }
            match (mine, other) {
                (Ok(mine), Ok(other)) => prop_assert_eq!(mine, other, "{}", path),
                (Err(failure), Ok(_)) => {
                    let known = known_refusal(&failure, roots_taken);
                    prop_assert!(
                        known.is_some(),
                        "{path} {step:?} {role} {spoil:?}: {failure}; they find it"
                    );
                    return Ok(());
                }
                (Ok(_), Err(error)) => {
                    // A delegated role that is here already is not fetched again while the snapshot names it; there it
                    // is with every new snapshot, and so meets the spoiled file.
                    let is_here = *role > 3 && ours.stored.delegated.get(ROLES[*role]) == genuine.as_ref();
                    if is_here {
                        return Ok(());
                    }
                    prop_assert!(false, "{path} {step:?} {role} {spoil:?}: found; they say {error}");
                }
                (Err(_), Err(_)) => {}
            }
        }
    }
    Ok(())
}

#[test]
fn another_client_accepts_and_refuses_the_same() {
    let seconds = std::env::var("DUNLIN_DIFFERENTIAL_SECONDS").ok().and_then(|text| text.parse().ok());
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = match seconds {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32])),
    };
    let strategy = (prop::collection::vec((step(), spoil()), 1..10), 0..3_u8);
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    loop {
        if let Err(error) = runner.run(&strategy, check) {
            panic!("{error}");
        }
        if Instant::now() >= end {
            break;
        }
    }
}
