//! A backup while gateways speak and a rollout goes on, restored into a new folder after more has happened: the fleet goes
//! on, the rollout ends, and every prediction is on the server in the end.

use std::time::Duration;

use dunlin_e2e::wait::{pause, wait_for};
use dunlin_e2e::{Failure, Outcome, onnx};
use serde_json::{Value, json};

use super::{Plant, Wish};

/// Rows travel with each question, and none is kept open.
const METERED: &[(&str, &str)] = &[("fleet.metered", "true")];
const EARLY: Wish = Wish { ring: "early", settings: METERED };
const LATE: Wish = Wish { ring: "late", settings: METERED };

impl Plant {
    /// Returns the account of a gateway's predictions.
    pub(super) fn predictions(&self, number: usize) -> Outcome<Value> {
        let path = format!("/v1/devices/{}/accounts", self.gateways[number].id);
        let accounts = self.site.admin.get(&path)?;
        let mut all = accounts.as_array().into_iter().flatten();
        Ok(all.find(|one| one["stream"] == "predictions").cloned().unwrap_or_default())
    }

    /// Waits until each prediction of each gateway has arrived, and nothing waits.
    pub(super) fn wait_uploaded(&self) -> Outcome<()> {
        let last = std::cell::RefCell::new(String::new());
        let waited = self.wait("all predictions are on the server", |plant| {
            for (number, gateway) in plant.gateways.iter().enumerate() {
                let made = gateway.plan.export_with_shadow("double")?.lines().count() as u64 - 1;
                let account = plant.predictions(number)?;
                let rows = account["rows"].as_u64().unwrap_or_default();
                let is_whole = account["unexplained"] == json!([]) && account["lost"] == json!([]);
                let status = gateway.plan.status()?.unwrap_or_default();
                let waits = status["fleet"]["upload"]["waiting"]["predictions"] != 0;
                if !is_whole || rows != made || waits {
                    *last.borrow_mut() = format!("{made} were made: {account} {}", status["fleet"]["upload"]);
                    return Ok(false);
                }
            }
            Ok(true)
        });
        waited.map_err(|failure| Failure::new(format!("{}\n{failure}", last.borrow())))
    }
}

#[test]
fn a_fleet_goes_on_after_its_server_was_put_back_to_a_backup_that_was_made_while_it_ran() -> Outcome<()> {
    let mut plant = Plant::with_good_release(&[EARLY, LATE])?;
    let release = plant.publish(2, &onnx::doubling())?;
    // Watched for an hour: nothing goes on by itself.
    let id = plant.site.admin.start(&json!({
        "releases": [{ "digest": release.digest.to_string() }],
        "query": "*",
        "phases": [{ "labels": "ring=early" }, { "percent": 100 }],
        "bake": { "time_ms": 3_600_000, "predictions": 0 },
        "gates": { "latency_of_old": null },
    }))?;
    plant.feed_until("the first phase bakes", &[0, 1], None, |plant| {
        Ok(plant.rollout(&id)?["stage"] == "baking" && plant.gateways[0].has(2)?)
    })?;
    let server = plant.site.server.plan().clone();
    let to = plant.site.folder.path().join("backup");
    let (data, backup) = (server.data.to_string_lossy().into_owned(), to.to_string_lossy().into_owned());
    let made = std::thread::scope(|scope| {
        let backing_up = scope.spawn(|| server.command(&["backup", &data, &backup]));
        while !backing_up.is_finished() {
            plant.gateways.iter_mut().try_for_each(|gateway| gateway.feed(None))?;
            pause(Duration::from_millis(5));
        }
        backing_up.join().map_err(|_| Failure::new("the backup panicked"))?
    })?;
    assert!(made.status.success(), "{made:?}");

    // After the backup the second gateway gets the release too, and more predictions arrive.
    plant.site.admin.order(&id, "promote")?;
    plant.feed_until("all have it", &[0, 1], None, |plant| {
        Ok(plant.gateways[1].has(2)? && plant.rollout(&id)?["devices"]["good"] == 2)
    })?;
    plant.wait_uploaded()?;
    let before: Vec<Value> = (0..2).map(|number| plant.predictions(number)).collect::<Outcome<_>>()?;
    plant.site.server.kill();

    let mut restored = server.clone();
    restored.data = plant.site.folder.path().join("restored");
    let into = restored.data.to_string_lossy().into_owned();
    let done = server.command(&["restore", &backup, &into])?;
    assert!(done.status.success(), "{done:?}");
    plant.site.server = restored.start()?;
    assert_eq!(plant.rollout(&id)?["phase"], 1, "the server is where it was");
    assert!(plant.predictions(0)?["rows"].as_u64() < before[0]["rows"].as_u64());

    // What has receipts of before is sent again, and what is made meanwhile comes.
    plant.site.admin.order(&id, "promote")?;
    plant.feed_until("the second phase bakes", &[0, 1], None, |plant| {
        let rollout = plant.rollout(&id)?;
        Ok(rollout["phase"] == 2 && rollout["stage"] == "baking" && rollout["devices"]["good"] == 2)
    })?;
    plant.site.admin.order(&id, "promote")?;
    plant.wait("the rollout ends", |plant| Ok(plant.rollout(&id)?["status"] == "completed"))?;
    plant.wait_uploaded()?;
    for (number, (gateway, before)) in plant.gateways.iter().zip(&before).enumerate() {
        let account = plant.predictions(number)?;
        assert_eq!(account["received"][0][0], 1, "{account}");
        assert_eq!(account["received"].as_array().map(Vec::len), Some(1), "{account}");
        assert!(account["rows"].as_u64() >= before["rows"].as_u64(), "{account} {before}");
        assert!(gateway.has(2)?);
        // A refusal of a statement that names what is below the floor, or the like, is over.
        wait_for("every check passes", dunlin_e2e::daemon::CHANGE_MAX, || {
            let refused = gateway.plan.models()?["refused"].take();
            Ok(refused.as_array().is_none_or(Vec::is_empty).then_some(()))
        })?;
        let log = std::fs::read_to_string(&gateway.plan.log)?;
        for code in ["cloned_identity", "wrong_incarnation", "replayed:", "rollback"] {
            assert!(!log.contains(code), "{code}: {log}");
        }
    }
    Ok(())
}
