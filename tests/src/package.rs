//! Model packages and configurations of the tests' own, so that most tests need neither an example nor a series.
//!
//! Writes `manifest.json`, `model.onnx` and `dunlind.toml` into a folder of the test. The lab's model doubles its
//! input: what must come out is known without an engine.

use std::path::{Path, PathBuf};

use dunlin_model_package::Digest;
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::golden::add_golden;
use crate::onnx;
use crate::oracle::Expected;
use crate::owner::Owner;
use crate::stream::Message;

/// What a package is made of, beside its ONNX file.
#[derive(Debug, Clone)]
pub struct PackagePlan<'p> {
    /// Name of the model.
    pub name: &'p str,
    /// Rows of the window.
    pub rows: usize,
    /// Features of a row.
    pub features: &'p [&'p str],
    /// Shape of the input `x` without the batch.
    pub input_shape: &'p [usize],
    /// Its release: the counter, and the first number of its version.
    pub release: u64,
    /// Its budgets, as the manifest has them.
    pub budgets: Value,
    /// What is made of its output, as the manifest has it.
    pub post: Value,
}

impl<'p> PackagePlan<'p> {
    /// Returns the plan of the first release of a model that takes one value `v`.
    #[must_use]
    pub fn of_one_value(name: &'p str) -> Self {
        Self {
            name,
            rows: 1,
            features: &["v"],
            input_shape: &[1],
            release: 1,
            budgets: json!({}),
            post: json!({}),
        }
    }
}

/// Writes a package folder whose model has one input `x` and one output `y` of one value.
///
/// *Errors*: those of the file system.
pub fn write_package(folder: &Path, plan: &PackagePlan<'_>, model: &[u8]) -> Outcome<()> {
    std::fs::create_dir_all(folder)?;
    let features: Vec<_> = plan.features.iter().map(|name| json!({ "name": name })).collect();
    let shape: Vec<_> =
        std::iter::once(json!("batch")).chain(plan.input_shape.iter().map(|size| json!(size))).collect();
    let manifest = json!({
        "schema": 1, "name": plan.name, "version": version_of(plan.release), "release_counter": plan.release,
        "window": { "length": plan.rows },
        "inputs": [{ "name": "x", "shape": shape, "features": features }],
        "outputs": [{ "name": "y", "kind": "vector", "shape": ["batch", 1], "post": plan.post }],
        "budgets": plan.budgets,
        "blobs": { "model.onnx": { "sha256": Digest::of(model), "bytes": model.len() } }
    });
    write(&folder.join("model.onnx"), model)?;
    write(&folder.join("manifest.json"), manifest.to_string().as_bytes())
}

/// Writes a file as a whole.
///
/// *Errors*: those of the file system, with the path.
pub fn write(path: &Path, bytes: &[u8]) -> Outcome<()> {
    dunlin_kit::atomic_file::write(path, bytes).map_err(Failure::of(path.display()))
}

/// Writes the lab into a folder: source `lab` on `lab/{sensor}/data` with `{"t": <ms>, "v": <number>}`, and model
/// `double`, published on `out/double/<sensor>`. Returns the configuration's path.
///
/// *Errors*: those of the file system.
pub fn write_lab(folder: &Path) -> Outcome<PathBuf> {
    write_lab_with(folder, "")
}

/// Writes the lab with more TOML at the end of its configuration.
///
/// *Errors*: those of the file system.
pub fn write_lab_with(folder: &Path, more: &str) -> Outcome<PathBuf> {
    let config = format!("{}\n{more}", lab_config());
    let plan = PackagePlan::of_one_value("double");
    publish_release(&mut Owner::of(folder)?, &folder.join("double"), &plan, &onnx::doubling())?;
    let path = folder.join("dunlind.toml");
    write(&path, config.as_bytes())?;
    Ok(path)
}

/// Publishes a release of the lab's model `double`, with golden vectors of small values that are its own.
///
/// *Errors*: those of the file system; the package or the signer refuses.
pub fn publish_release(
    owner: &mut Owner,
    package: &Path,
    plan: &PackagePlan<'_>,
    model: &[u8],
) -> Outcome<()> {
    write_package(package, plan, model)?;
    let sensor = format!("golden-{}", plan.release);
    add_golden(package, &lab_config(), plan.name, &lab_readings(&sensor, 0, 20))?;
    owner.publish(package)
}

/// Returns the version of a release for people.
#[must_use]
pub fn version_of(release: u64) -> String {
    format!("{release}.0.0")
}

/// Adds the hostile model `bomb` to a lab's folder, published by the same owner, and returns the TOML that runs it.
///
/// *Errors*: those of the file system.
pub fn write_hostile(folder: &Path) -> Outcome<String> {
    let plan = PackagePlan::of_one_value("bomb");
    write_package(&folder.join("bomb"), &plan, &onnx::dividing_by_zero())?;
    Owner::of(folder)?.publish(&folder.join("bomb"))?;
    Ok(model_table("bomb"))
}

const LAB: &str = r#"[mqtt]
url = "mqtt://127.0.0.1:1"

[trust]
root = "root.json"

[[source]]
name = "lab"
topics = ["lab/{sensor}/data"]
format = "json"
series_max = 200
new_topics_per_second_max = 100
time = { pointer = "/t", format = "unix-ms", fallback = "reject", skew_max = "5m" }

[source.fields]
v = { pointer = "/v" }
"#;

/// Returns the configuration of a lab that belongs to a fleet, without a broker: a release is good after `predictions` in
/// shadow and as many on trial. `fleet` goes to the end of `[fleet]`.
#[must_use]
pub fn linked_lab(predictions: u32, fleet: &str) -> String {
    let update = format!(
        "[update]\nshadow_predictions = {predictions}\ntrial_predictions = {predictions}\ntrial_time = \"0s\"\n"
    );
    let lab = LAB.replace("[trust]\nroot = \"root.json\"\n", &update);
    let model = model_table("double").replace("package = \"repository\"\n", "");
    format!("{lab}\n{model}\n[fleet]\ntoken_file = \"fleet.token\"\ninterval_min = \"100ms\"\n{fleet}")
}

fn lab_config() -> String {
    format!("{LAB}\n{}", model_table("double"))
}

fn model_table(name: &str) -> String {
    format!(
        "[[model]]\nname = \"{name}\"\npackage = \"repository\"\nkey = [\"sensor\"]\nwindow = {{ length = 1, hop = 1 }}\n\
         inputs.x = [\"v\"]\noutput = {{ topic = \"out/{{model}}/{{key}}\" }}\n"
    )
}

/// Event time of the lab's first reading: 2025-01-01.
pub const LAB_START_MS: i64 = 1_735_689_600_000;

/// Returns readings `first..first + count` of a lab sensor, one a second.
#[must_use]
pub fn lab_readings(sensor: &str, first: usize, count: usize) -> Vec<Message> {
    let reading = |n: usize| {
        let at = LAB_START_MS + n as i64 * 1_000;
        Message::timed(format!("lab/{sensor}/data"), format!("{{\"t\": {at}, \"v\": {}}}", lab_value(n)), at)
    };
    (first..first + count).map(reading).collect()
}

/// Returns readings like [`lab_readings`] whose values no encoding makes small: they fill a disk soon.
#[must_use]
pub fn lab_readings_noisy(sensor: &str, first: usize, count: usize) -> Vec<Message> {
    let reading = |n: usize| {
        let at = LAB_START_MS + n as i64 * 1_000;
        let value = (n as f64 * 12.9898).sin() * 43_758.545_3;
        Message::timed(format!("lab/{sensor}/data"), format!("{{\"t\": {at}, \"v\": {value}}}"), at)
    };
    (first..first + count).map(reading).collect()
}

/// Returns what `double` must predict of the readings `0..count` of one sensor.
#[must_use]
pub fn lab_expected(count: usize) -> Expected {
    Expected::of((0..count).map(|n| (LAB_START_MS + n as i64 * 1_000, vec![2.0 * lab_value(n)])))
}

/// Returns readings like [`lab_readings`] that all have this value: one that a faulty release does not bear.
#[must_use]
pub fn lab_readings_of(value: f64, sensor: &str, first: usize, count: usize) -> Vec<Message> {
    let reading = |n: usize| {
        let at = LAB_START_MS + n as i64 * 1_000;
        Message::timed(format!("lab/{sensor}/data"), format!("{{\"t\": {at}, \"v\": {value}}}"), at)
    };
    (first..first + count).map(reading).collect()
}

/// A value that a single-precision number holds exactly.
fn lab_value(n: usize) -> f64 {
    (n % 1_000) as f64 / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_model_package::Manifest;

    #[test]
    fn the_lab_has_packages_that_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = write_lab(folder.path()).unwrap();
        let hostile = write_hostile(folder.path()).unwrap();
        assert!(std::fs::read_to_string(path).unwrap().contains("inputs.x") && hostile.contains("bomb"));
        for name in ["double", "bomb"] {
            let text = std::fs::read(folder.path().join(name).join("manifest.json")).unwrap();
            assert_eq!(Manifest::parse(&text).unwrap().name, name);
        }
        assert_eq!(lab_readings("a", 5, 3)[0].event_ms, LAB_START_MS + 5_000);
        assert_eq!(lab_expected(7).len(), 7);
    }
}
