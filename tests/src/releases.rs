//! Releases of the lab's model, and a gateway that is fed while it tries them.
//!
//! Publishes releases that all double their input, so that the oracle needs not know which one answered. Asks
//! `dunlind models`; never looks into the state folder.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::daemon::DaemonPlan;
use crate::failure::{Failure, Outcome};
use crate::golden::add_golden;
use crate::oracle::Comparison;
use crate::owner::Owner;
use crate::package::{PackagePlan, lab_expected, lab_readings, write_package};
use crate::stream::Publisher;
use crate::wait::wait_for;
use crate::wire::Qos;

/// Longest wait for a release to come to its end, or for predictions to be stored.
const LIMIT: Duration = Duration::from_secs(30);

/// Writes release `number` of the lab's model into `folder/double-<number>`, with golden vectors.
///
/// *Errors*: those of the file system; the engine refuses the model.
pub fn write_release(folder: &Path, number: u64, model: &[u8]) -> Outcome<()> {
    write_release_of(folder, &PackagePlan { release: number, ..PackagePlan::of_one_value("double") }, model)
}

/// Writes a release of the lab's model as [`write_release`], made as `plan` says.
///
/// *Errors*: as [`write_release`].
pub fn write_release_of(folder: &Path, plan: &PackagePlan<'_>, model: &[u8]) -> Outcome<()> {
    let package = folder.join(format!("double-{}", plan.release));
    write_package(&package, plan, model)?;
    let config = std::fs::read_to_string(folder.join("dunlind.toml"))?;
    add_golden(&package, &config, "double", &lab_readings("golden", 0, 20))
}

/// Writes a release as [`write_release`] and has the lab's owner publish it.
///
/// *Errors*: as [`write_release`]; the signer refuses.
pub fn publish_release(folder: &Path, number: u64, model: &[u8]) -> Outcome<()> {
    write_release(folder, number, model)?;
    Owner::of(folder)?.publish(&folder.join(format!("double-{number}")))
}

/// Copies a folder's plain files and folders; sockets and the like stay behind.
///
/// *Errors*: those of the file system.
pub fn copy_folder(from: &Path, to: &Path) -> Outcome<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Returns a plan whose releases are tried within a few readings.
#[must_use]
pub fn with_short_trials(plan: DaemonPlan) -> DaemonPlan {
    plan.set("update.shadow_predictions", 3)
        .set("update.trial_predictions", 3)
        .set("update.trial_time", "\"0s\"")
}

/// Returns what `dunlind models --json` prints, of the running daemon or of what it stored last; `None` where there is
/// nothing, or the daemon died while it was asked.
///
/// *Errors*: the command fails; what it said is in the failure.
pub fn models(plan: &DaemonPlan) -> Outcome<Option<Value>> {
    let output = plan.command("models", &["--json"])?;
    match output.status.code() {
        Some(0) => Ok(Some(serde_json::from_slice(&output.stdout)?)),
        Some(3) => Ok(None),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // The second where the file was cut while it was made: only a daemon may put it in order.
            if said.contains("cannot ask the daemon") || said.contains("write a readonly database") {
                return Ok(None);
            }
            Err(plan.failure(&format!("`dunlind models`: {}: {said}", output.status)))
        }
    }
}

/// A sensor of the lab that sends a reading whenever it is asked to.
#[derive(Debug)]
pub struct Sensor {
    name: String,
    publisher: Publisher,
    sent: usize,
}

impl Sensor {
    /// Connects a sensor.
    ///
    /// *Errors*: nobody listens at the port.
    pub fn connect(port: u16, name: &str) -> Outcome<Self> {
        Ok(Self { name: name.to_owned(), publisher: Publisher::connect(port, name)?, sent: 0 })
    }

    /// Sends so many more readings.
    ///
    /// *Errors*: the broker did not acknowledge them.
    pub fn send(&mut self, count: usize) -> Outcome<()> {
        let readings = lab_readings(&self.name, self.sent, count);
        self.publisher.publish_all(&readings, Qos::AtLeastOnce)?;
        self.sent += count;
        Ok(())
    }

    /// Sends readings, one a question, until the lab's model is as the condition wants it; returns its report, which is
    /// null while there is none.
    ///
    /// *Errors*: it does not become so; the last report is in the failure.
    pub fn feed_until(
        &mut self,
        plan: &DaemonPlan,
        what: &str,
        mut condition: impl FnMut(&Value) -> bool,
    ) -> Outcome<Value> {
        let mut last = Value::Null;
        let waited = wait_for(what, LIMIT, || {
            self.send(1)?;
            let report = models(plan)?.unwrap_or_default();
            last = report["models"]["double"].clone();
            Ok(condition(&last).then(|| last.clone()))
        });
        waited.map_err(|failure| plan.failure(&format!("{failure}; last report: {last}")))
    }

    /// Sends readings until this release is good and nothing else is being tried.
    ///
    /// *Errors*: as [`Sensor::feed_until`].
    pub fn feed_until_good(&mut self, plan: &DaemonPlan, counter: u64) -> Outcome<Value> {
        self.feed_until(plan, &format!("release {counter} is good"), |model| is_good(model, counter))
    }

    /// Checks that everything this sensor sent was predicted once, by what served.
    ///
    /// *Errors*: something is missing, twice or wrong.
    pub fn require_all_predicted_once(&self, plan: &DaemonPlan) -> Outcome<()> {
        let key = format!("sensor={}", self.name);
        let mut found = String::new();
        let waited = wait_for("all predictions are stored", LIMIT, || {
            let export = plan.export("double")?;
            let own = |line: &&str| line.starts_with("window_end_ms") || line.contains(&key);
            found = export.lines().filter(own).collect::<Vec<_>>().join("\n");
            Ok((found.lines().count() > self.sent).then_some(()))
        });
        let comparison = Comparison::of(&lab_expected(self.sent), &found)?;
        match waited {
            Ok(()) if comparison.is_exact() => Ok(()),
            Ok(()) => Err(plan.failure(&format!("of {} readings: {comparison}", self.sent))),
            Err(failure) => Err(plan.failure(&format!("{failure}; of {} readings: {comparison}", self.sent))),
        }
    }
}

/// Tells whether a model's report says that this release is good and nothing else is being tried.
#[must_use]
pub fn is_good(model: &Value, counter: u64) -> bool {
    model["active"]["counter"] == counter && model["candidate"].is_null()
}

/// Returns the counter of the release that serves.
#[must_use]
pub fn serving(model: &Value) -> Option<u64> {
    model["serving"]["counter"].as_u64()
}

/// Returns a model of the report.
///
/// *Errors*: there is none.
pub fn lab_model(plan: &DaemonPlan) -> Outcome<Value> {
    let report = models(plan)?.ok_or_else(|| Failure::new("there is no report of the models"))?;
    Ok(report["models"]["double"].clone())
}
