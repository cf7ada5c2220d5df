//! Death at every act of an update that reaches the disk: what is served, what is kept, how it ends.
//!
//! The acts are counted, not drawn: the daemon dies at the first, the second, … until one update has no further act.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::killing::{Death, has_compiler};
use dunlin_e2e::package::write_lab;
use dunlin_e2e::releases::{
    Sensor, copy_folder, is_good, lab_model, publish_release, serving, with_short_trials,
};
use dunlin_e2e::workspace::{note, skip};
use dunlin_e2e::{Failure, Outcome, onnx};
use serde_json::Value;

/// More acts than an update has: one that goes on for ever ends the test.
const ACTS_MAX: u64 = 400;

/// How the second release comes to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// The operator imports it while release 1 serves.
    Import,
    /// The configuration names a repository that holds it at the start.
    Start,
}

/// A lab with release 1 good, and release 2 in the owner's repository.
struct Lab {
    folder: tempfile::TempDir,
    broker: Broker,
    arrival: Arrival,
}

/// What one run left.
struct Ran {
    acts: Vec<String>,
    died: bool,
}

impl Lab {
    fn new(arrival: Arrival) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let config = write_lab(folder.path())?;
        let lab = Self { broker: Broker::start(&BrokerPlan::default())?, arrival, folder };
        copy_folder(&lab.path("repository"), &lab.path("first"))?;
        let text = std::fs::read_to_string(&config)?.replace("\"repository\"", "\"first\"");
        dunlin_e2e::package::write(&lab.path("first.toml"), text.as_bytes())?;
        let plan = lab.plan("first.toml", "template");
        let mut daemon = plan.start_ready()?;
        Sensor::connect(lab.broker.port(), "before")?.feed_until_good(&plan, 1)?;
        daemon.terminate()?;
        // A model beyond one chunk of a copy, so that one can be cut in its middle.
        publish_release(lab.folder.path(), 2, &onnx::doubling_but_slow_above(1e9, 1))?;
        Ok(lab)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plan(&self, config: &str, run: &str) -> DaemonPlan {
        let mut plan = DaemonPlan::new(&self.path(config), self.folder.path());
        plan.state_dir = self.path(run);
        with_short_trials(plan.log_to(&self.path(&format!("{run}.log"))).set("mqtt.url", self.broker.url()))
    }

    /// Updates a fresh copy of the gateway that dies at an act, restarts it, and checks what must hold.
    fn run(&self, at: u64) -> Outcome<Ran> {
        let run = format!("run-{at}");
        let config = if self.arrival == Arrival::Import { "first.toml" } else { "dunlind.toml" };
        let plan = self.plan(config, &run);
        copy_folder(&self.path("template"), &plan.state_dir)?;
        let mut sensor = Sensor::connect(self.broker.port(), &run)?;
        let armed_by = (self.arrival == Arrival::Import).then(|| self.path(&format!("{run}.armed")));
        let death = Death { at, armed_by, acts: self.path(&format!("{run}.acts")) };
        let (died, is_kept) = self.live_and_die(&plan, &death, &mut sensor)?;
        let acts = death.acts();
        self.live_again(&plan, &mut sensor, is_kept).map_err(|failure| {
            Failure::new(format!("{:?}, act {at} ({:?}): {failure}", self.arrival, acts.last()))
        })?;
        std::fs::remove_dir_all(&plan.state_dir)?;
        Ok(Ran { acts, died })
    }

    /// The life that ends early; tells whether it did, and whether the operator was told that the import is kept.
    fn live_and_die(&self, plan: &DaemonPlan, death: &Death, sensor: &mut Sensor) -> Outcome<(bool, bool)> {
        let mut daemon = death.start(plan)?;
        sensor.send(3)?;
        let (mut imported, mut is_kept) = (String::new(), false);
        if let Some(file) = &death.armed_by {
            daemon.wait_ready()?;
            dunlin_e2e::package::write(file, b"")?;
            // It may fail: the daemon may die while it answers.
            let output = plan.command("import", &[&self.path("repository").to_string_lossy()])?;
            (imported, is_kept) = (format!("{output:?}"), output.status.success());
        }
        let mut died = false;
        let fed = sensor.feed_until(plan, "the update ends or the daemon dies", |model| {
            died = !daemon.is_running();
            died || is_good(model, 2)
        });
        fed.map_err(|failure| Failure::new(format!("{failure}; the import: {imported}")))?;
        daemon.kill();
        Ok((died, is_kept))
    }

    /// The life after the death: the operator imports again only what he was not told is kept.
    fn live_again(&self, plan: &DaemonPlan, sensor: &mut Sensor, is_kept: bool) -> Outcome<()> {
        let copied = blobs(&plan.state_dir)?;
        let stored = lab_model(plan)?;
        let mut floor = require_served(&stored, 1)?;
        let mut daemon = plan.start()?;
        daemon.wait_connected()?;
        let model = lab_model(plan)?;
        if is_good(&model, 1) {
            assert!(!is_kept, "an import that was kept is not any more: {model}");
            let output = plan.command("import", &[&self.path("repository").to_string_lossy()])?;
            assert!(output.status.success(), "{output:?}");
        }
        let mut wrong = None;
        let model = sensor.feed_until(plan, "the update ends by itself", |model| {
            match require_served(model, floor) {
                Ok(risen) => floor = risen,
                Err(failure) => wrong = Some(failure),
            }
            wrong.is_some() || is_good(model, 2)
        })?;
        wrong.map_or(Ok(()), Err)?;
        assert_eq!((model["floor"].as_u64(), &model["bad"]), (Some(2), &Value::Array(Vec::new())), "{model}");
        let after = blobs(&plan.state_dir)?;
        for (name, file) in &copied {
            assert_eq!(after.get(name), Some(file), "blob {name} was copied again");
        }
        sensor.require_all_predicted_once(plan)?;
        assert!(!daemon.log().contains("state_lost"), "{}", daemon.log());
        daemon.kill();
        Ok(())
    }

    /// Runs the update with a death at every act, until it has no further one.
    fn enumerate(&self) -> Outcome<()> {
        for at in 1..ACTS_MAX {
            let ran = self.run(at)?;
            if !ran.died {
                note(&format!(
                    "{:?}: {} deaths; acts of the last run: {:#?}",
                    self.arrival,
                    at - 1,
                    ran.acts
                ));
                for act in
                    ["write models/blobs", "sync models/blobs", "rename models/blobs", "write state.db-wal"]
                {
                    assert!(ran.acts.iter().any(|seen| seen.starts_with(act)), "{act}: {:#?}", ran.acts);
                }
                return Ok(());
            }
        }
        Err(Failure::new(format!("an update has more than {ACTS_MAX} acts")))
    }
}

/// Checks that a release serves and no floor fell; returns the floor.
fn require_served(model: &Value, floor_before: u64) -> Outcome<u64> {
    let floor = model["floor"].as_u64().unwrap_or_default();
    let is_served = matches!(serving(model), Some(1 | 2));
    if is_served && floor >= floor_before {
        return Ok(floor);
    }
    Err(Failure::new(format!("nothing serves, or the floor fell from {floor_before}: {model}")))
}

/// Returns the whole blobs by name, with what tells a file from its copy.
fn blobs(state_dir: &Path) -> Outcome<BTreeMap<String, (u64, i64, i64)>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(state_dir.join("models/blobs"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let meta = entry.metadata()?;
        if !name.ends_with(".part") {
            found.insert(name, (meta.ino(), meta.mtime(), meta.mtime_nsec()));
        }
    }
    Ok(found)
}

#[test]
fn an_imported_release_survives_a_death_at_every_act() -> Outcome<()> {
    if !has_compiler() {
        skip("there is no C compiler for the library that kills");
        return Ok(());
    }
    Lab::new(Arrival::Import)?.enumerate()
}

#[test]
fn a_release_found_at_the_start_survives_a_death_at_every_act() -> Outcome<()> {
    if !has_compiler() {
        skip("there is no C compiler for the library that kills");
        return Ok(());
    }
    Lab::new(Arrival::Start)?.enumerate()
}
