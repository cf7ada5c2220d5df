//! Damaged files and trials that are cut again and again: what serves then, and what is told.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::killing::{Death, has_compiler};
use dunlin_e2e::package::{write, write_lab};
use dunlin_e2e::releases::{
    Sensor, copy_folder, is_good, lab_model, models, publish_release, serving, with_short_trials,
};
use dunlin_e2e::workspace::{note, skip};
use dunlin_e2e::{Failure, Outcome, onnx};
use serde_json::Value;

/// More acts than a first start has.
const ACTS_MAX: u64 = 400;
/// Starts that may fail before safe mode.
const FAILED_STARTS_MAX: u64 = 3;

/// A gateway in a folder of its own, at a broker of its own.
struct Gateway {
    folder: tempfile::TempDir,
    broker: Broker,
    plan: DaemonPlan,
    sensor: Sensor,
}

impl Gateway {
    /// Returns a gateway that has the first `releases` of the lab, one after the other, each of them good.
    fn with_releases(releases: u64) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let config = write_lab(folder.path())?;
        let broker = Broker::start(&BrokerPlan::default())?;
        let plan = with_short_trials(DaemonPlan::new(&config, folder.path()).set("mqtt.url", broker.url()));
        let mut sensor = Sensor::connect(broker.port(), "a")?;
        let mut daemon = plan.start_ready()?;
        sensor.feed_until_good(&plan, 1)?;
        for number in 2..=releases {
            publish_release(folder.path(), number, &onnx::doubling_but_slow_above(1e9, number as usize))?;
            import(&plan, &folder.path().join("repository"))?;
            sensor.feed_until_good(&plan, number)?;
        }
        daemon.terminate()?;
        Ok(Self { folder, broker, plan, sensor })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self, name: &str) -> PathBuf {
        self.plan.state_dir.join(name)
    }

    /// Returns the blob of a release's ONNX file in the state folder.
    fn blob(&self, number: u64) -> Outcome<PathBuf> {
        let manifest = std::fs::read(self.path(&format!("double-{number}/manifest.json")))?;
        let manifest: Value = serde_json::from_slice(&manifest)?;
        let digest = manifest["blobs"]["model.onnx"]["sha256"].as_str();
        let digest = digest.ok_or_else(|| Failure::new("the manifest names no model.onnx"))?;
        Ok(self.state("models/blobs").join(digest))
    }
}

fn import(plan: &DaemonPlan, place: &Path) -> Outcome<()> {
    let output = plan.command("import", &[&place.to_string_lossy()])?;
    if output.status.success() {
        return Ok(());
    }
    Err(plan.failure(&format!("`dunlind import`: {}", String::from_utf8_lossy(&output.stderr))))
}

fn flip_bit_in(path: &Path) -> Outcome<()> {
    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    write(path, &bytes)
}

#[test]
fn a_flipped_bit_in_the_active_model_brings_the_previous_one_until_the_model_is_fetched_again() -> Outcome<()>
{
    let mut gateway = Gateway::with_releases(2)?;
    let blob = gateway.blob(2)?;
    flip_bit_in(&blob)?;
    std::fs::rename(gateway.path("repository"), gateway.path("away"))?;
    let mut daemon = gateway.plan.start_ready()?;
    gateway.sensor.send(10)?;
    gateway.sensor.require_all_predicted_once(&gateway.plan)?;
    let model = lab_model(&gateway.plan)?;
    assert_eq!((serving(&model), model["floor"].as_u64()), (Some(1), Some(2)), "{model}");
    assert_eq!(model["bad"][0]["release"]["counter"], 2, "{model}");
    assert_eq!(model["bad"][0]["code"], "selftest:load", "{model}");
    // The owner's folder is there again: nobody has to ask.
    std::fs::rename(gateway.path("away"), gateway.path("repository"))?;
    let model = gateway.sensor.feed_until_good(&gateway.plan, 2)?;
    assert_eq!(model["bad"], Value::Array(Vec::new()), "{model}");
    gateway.sensor.require_all_predicted_once(&gateway.plan)?;
    daemon.terminate()?;
    Ok(())
}

#[test]
fn a_flipped_bit_in_the_only_model_is_mended_from_the_repository_at_the_start() -> Outcome<()> {
    let mut gateway = Gateway::with_releases(1)?;
    let manifest: Value = serde_json::from_slice(&std::fs::read(gateway.path("double/manifest.json"))?)?;
    let digest = manifest["blobs"]["model.onnx"]["sha256"].as_str().unwrap_or_default();
    flip_bit_in(&gateway.state("models/blobs").join(digest))?;
    let mut daemon = gateway.plan.start_ready()?;
    gateway.sensor.feed_until_good(&gateway.plan, 1)?;
    gateway.sensor.require_all_predicted_once(&gateway.plan)?;
    daemon.terminate()?;
    Ok(())
}

#[test]
fn a_destroyed_log_leaves_the_models_as_they_were() -> Outcome<()> {
    let mut gateway = Gateway::with_releases(2)?;
    let before = lab_model(&gateway.plan)?;
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(gateway.state(&format!("telemetry.db{suffix}"))).ok();
    }
    write(&gateway.state("telemetry.db"), &[0xA5; 40_000])?;
    let mut daemon = gateway.plan.start_ready()?;
    let mut sensor = Sensor::connect(gateway.broker.port(), "b")?;
    sensor.send(10)?;
    sensor.require_all_predicted_once(&gateway.plan)?;
    let after = lab_model(&gateway.plan)?;
    for part in ["active", "previous", "candidate", "floor", "bad", "serving"] {
        assert_eq!(after[part], before[part], "{part}");
    }
    gateway.sensor = sensor;
    daemon.terminate()?;
    Ok(())
}

#[test]
fn a_destroyed_state_keeps_the_model_running_and_takes_no_update() -> Outcome<()> {
    let mut gateway = Gateway::with_releases(2)?;
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(gateway.state(&format!("state.db{suffix}"))).ok();
    }
    write(&gateway.state("state.db"), &[0xA5; 40_000])?;
    publish_release(gateway.folder.path(), 3, &onnx::doubling_but_slow_above(1e9, 3))?;
    for _ in 0..2 {
        let mut daemon = gateway.plan.start_ready()?;
        gateway.sensor.send(10)?;
        gateway.sensor.require_all_predicted_once(&gateway.plan)?;
        let repository = gateway.path("repository");
        let refused = gateway.plan.command("import", &["--wait", &repository.to_string_lossy()])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("state_lost"), "{}: {said}", refused.status);
        let report = models(&gateway.plan)?.unwrap_or_default();
        assert!(report["state_lost"].is_string(), "{report}");
        let model = &report["models"]["double"];
        assert_eq!((serving(model), &model["candidate"]), (Some(2), &Value::Null), "{report}");
        daemon.kill();
    }
    Ok(())
}

#[test]
fn a_first_start_that_is_cut_at_any_act_is_made_good_by_the_next() -> Outcome<()> {
    if !has_compiler() {
        skip("there is no C compiler for the library that kills");
        return Ok(());
    }
    let gateway = Gateway::with_releases(0)?;
    std::fs::remove_dir_all(&gateway.plan.state_dir)?;
    for at in 1..ACTS_MAX {
        let mut plan = gateway.plan.clone().log_to(&gateway.path(&format!("first-{at}.log")));
        plan.state_dir = gateway.path(&format!("first-{at}"));
        let death = Death { at, armed_by: None, acts: gateway.path(&format!("first-{at}.acts")) };
        let mut sensor = Sensor::connect(gateway.broker.port(), &format!("first-{at}"))?;
        let mut daemon = death.start(&plan)?;
        let mut died = false;
        sensor.feed_until(&plan, "the start ends or the daemon dies", |model| {
            died = !daemon.is_running();
            died || is_good(model, 1)
        })?;
        daemon.kill();
        let mut daemon = plan.start_ready()?;
        let last = death.acts().pop();
        sensor
            .feed_until_good(&plan, 1)
            .and_then(|_| sensor.require_all_predicted_once(&plan))
            .map_err(|failure| Failure::new(format!("act {at} ({last:?}): {failure}")))?;
        assert!(!daemon.log().contains("state_lost"), "act {at} ({last:?}): {}", daemon.log());
        daemon.kill();
        std::fs::remove_dir_all(&plan.state_dir)?;
        if !died {
            note(&format!("{} deaths at a first start", at - 1));
            return Ok(());
        }
    }
    Err(Failure::new(format!("a first start has more than {ACTS_MAX} acts")))
}

#[test]
fn a_state_cut_to_any_length_is_told_or_made_again_and_never_stops_the_daemon() -> Outcome<()> {
    let gateway = Gateway::with_releases(1)?;
    let whole = std::fs::read(gateway.state("state.db"))?;
    for length in [0, 1, 99, 100, 511, 4_095, 4_096, 8_192, whole.len() - 4_096, whole.len() - 1] {
        let mut plan = gateway.plan.clone().log_to(&gateway.path(&format!("cut-{length}.log")));
        plan.state_dir = gateway.path(&format!("cut-{length}"));
        copy_folder(&gateway.plan.state_dir, &plan.state_dir)?;
        for suffix in ["-wal", "-shm"] {
            std::fs::remove_file(plan.state_dir.join(format!("state.db{suffix}"))).ok();
        }
        write(&plan.state_dir.join("state.db"), &whole[..length.min(whole.len())])?;
        let mut daemon = plan.start_ready()?;
        let mut sensor = Sensor::connect(gateway.broker.port(), &format!("cut-{length}"))?;
        sensor.send(5)?;
        sensor
            .require_all_predicted_once(&plan)
            .map_err(|failure| Failure::new(format!("cut to {length} bytes: {failure}")))?;
        let model = lab_model(&plan)?;
        assert_eq!(serving(&model), Some(1), "cut to {length} bytes: {model}");
        // Where it is not known what was trusted, that must not begin again at the first version; else all of it is known.
        let output = plan.command("import", &["--wait", &gateway.path("repository").to_string_lossy()])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_whole = output.status.success() && is_good(&model, 1) && model["floor"] == 1;
        let is_lost = !output.status.success() && said.contains("state_lost");
        assert!(is_lost || (is_whole && length > whole.len() / 2), "cut to {length} bytes: {said}; {model}");
        daemon.kill();
    }
    Ok(())
}

#[test]
fn a_trial_that_is_killed_three_times_is_rolled_back_and_told() -> Outcome<()> {
    let mut gateway = Gateway::with_releases(1)?;
    publish_release(gateway.folder.path(), 2, &onnx::doubling_but_slow_above(1e9, 1))?;
    let plan =
        gateway.plan.clone().set("update.shadow_predictions", 0).set("update.trial_predictions", 1_000_000);
    for tries in 1..=3 {
        let mut daemon = plan.start_ready()?;
        let model = gateway.sensor.feed_until(&plan, "the trial's next try has begun", |model| {
            model["candidate"]["phase"] == "trial" && model["candidate"]["tries_used"] == tries
        })?;
        assert_eq!(serving(&model), Some(2), "{model}");
        daemon.kill();
    }
    let mut daemon = plan.start_ready()?;
    gateway.sensor.send(5)?;
    let model = lab_model(&plan)?;
    assert_eq!((serving(&model), &model["candidate"]), (Some(1), &Value::Null), "{model}");
    assert_eq!(model["bad"][0]["release"]["counter"], 2, "{model}");
    assert_eq!(model["bad"][0]["code"], "rolled_back:restart", "{model}");
    assert!(daemon.log().contains("rolled_back:restart"), "{}", daemon.log());
    let output = plan.command("models", &[])?;
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("rolled_back:restart"), "{shown}");
    gateway.sensor.require_all_predicted_once(&plan)?;
    daemon.terminate()?;
    Ok(())
}

#[test]
fn three_failed_starts_lead_to_safe_mode_and_the_operator_ends_it() -> Outcome<()> {
    if !has_compiler() {
        skip("there is no C compiler for the library that kills");
        return Ok(());
    }
    let mut gateway = Gateway::with_releases(1)?;
    publish_release(gateway.folder.path(), 2, &onnx::doubling_but_slow_above(1e9, 1))?;
    let plan = gateway.plan.clone().set("update.trial_predictions", 1_000_000);
    let mut daemon = plan.start_ready()?;
    gateway
        .sensor
        .feed_until(&plan, "the trial has begun", |model| model["candidate"]["phase"] == "trial")?;
    gateway.sensor.require_all_predicted_once(&plan)?;
    daemon.terminate()?;
    // Each start dies once it is counted, before anything runs: at the first act after which it is.
    let mut unready = 0;
    for at in 1..ACTS_MAX {
        let acts = gateway.path(&format!("start-{at}.acts"));
        let status = Death { at, armed_by: None, acts }.start(&plan)?.wait_end()?;
        assert!(status.signal().is_some(), "{status}");
        unready = models(&plan)?.unwrap_or_default()["unready_starts"].as_u64().unwrap_or_default();
        if unready > 0 {
            for _ in 1..FAILED_STARTS_MAX {
                let acts = gateway.path("again.acts");
                let status = Death { at, armed_by: None, acts }.start(&plan)?.wait_end()?;
                assert!(status.signal().is_some(), "{status}");
            }
            break;
        }
    }
    let report = models(&plan)?.unwrap_or_default();
    assert_eq!((unready, &report["unready_starts"]), (1, &FAILED_STARTS_MAX.into()), "{report}");
    let mut daemon = plan.start_ready()?;
    let report = models(&plan)?.unwrap_or_default();
    let model = &report["models"]["double"];
    assert_eq!((&report["safe_mode"], serving(model)), (&Value::Bool(true), Some(1)), "{report}");
    assert_eq!(model["candidate"]["release"]["counter"], 2, "{report}");
    assert_eq!(daemon.status()?["safe_mode"], true);
    gateway.sensor.send(5)?;
    gateway.sensor.require_all_predicted_once(&plan)?;
    let ended = plan.command("models", &["--end-safe-mode", "--json"])?;
    assert!(ended.status.success(), "{ended:?}");
    gateway.sensor.feed_until(&plan, "the trial goes on", |model| serving(model) == Some(2))?;
    assert_eq!(daemon.status()?["safe_mode"], false);
    gateway.sensor.require_all_predicted_once(&plan)?;
    daemon.terminate()?;
    Ok(())
}
