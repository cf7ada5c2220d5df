//! Settings from the server: kept where the gateway works with them and still reaches the server, else left by itself.

use dunlin_e2e::daemon::CHANGE_MAX;
use dunlin_e2e::recorder::{BLOBS, QUESTIONS};
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::{Failure, Outcome};
use serde_json::{Value, json};

use super::{Plant, Wish};

/// Long enough for any board that runs these tests, unless the link is cut.
const PATIENT: Wish = Wish { ring: "early", settings: &[] };
const HASTY: Wish = Wish { ring: "early", settings: &[("fleet.settings_confirm_max", "4s")] };

impl Plant {
    /// Signs settings and has them rolled out; returns the rollout's id.
    fn roll_out_settings(&mut self, name: &str, text: &str) -> Outcome<String> {
        let digest = self.site.owner.approve_settings(name, text.as_bytes())?;
        self.site.publish()?;
        self.site.admin.start(&json!({
            "settings": { "digest": digest.to_string() },
            "query": "*",
            "phases": [{ "percent": 100 }],
            "bake": { "time_ms": 0, "predictions": 0 },
        }))
    }

    fn wait_rollout(&self, id: &str, status: &str) -> Outcome<()> {
        self.wait(&format!("the rollout is {status}"), |plant| Ok(plant.rollout(id)?["status"] == status))
    }

    /// Returns what the gateway shows of its settings.
    fn settings(&self) -> Outcome<Value> {
        let status = self.gateways[0].plan.status()?.unwrap_or_default();
        Ok(status["fleet"]["settings"].clone())
    }

    fn wait_settings(&self, state: &str) -> Outcome<Value> {
        self.wait(&format!("the settings are `{state}`"), |plant| Ok(plant.settings()?["state"] == state))?;
        self.settings()
    }

    /// Rolls settings out and cuts the link once the gateway has them.
    fn cut_off_with(&mut self, text: &str) -> Outcome<String> {
        let before = self.gateways[0].line.paths(BLOBS).len();
        self.gateways[0].line.hold(Some(BLOBS));
        let id = self.roll_out_settings("night.toml", text)?;
        self.wait("the settings are asked for", |plant| {
            Ok(plant.gateways[0].line.paths(BLOBS).len() > before)
        })?;
        self.gateways[0].line.hold(Some(QUESTIONS));
        Ok(id)
    }

    /// Starts the daemon anew, as after a power cut.
    fn cut_power(&mut self) -> Outcome<()> {
        let gateway = &mut self.gateways[0];
        if let Some(daemon) = &mut gateway.daemon {
            daemon.kill();
        }
        gateway.start()?;
        gateway.daemon.as_mut().ok_or_else(|| Failure::new("it does not run"))?.wait_ready()
    }

    fn log_of_gateway(&self) -> String {
        self.gateways[0].daemon.as_ref().map(dunlin_e2e::daemon::Daemon::log).unwrap_or_default()
    }
}

#[test]
fn good_settings_are_confirmed_and_those_that_a_server_may_not_set_are_refused() -> Outcome<()> {
    let mut plant = Plant::new(&[PATIENT])?;
    let id = plant.roll_out_settings("day.toml", "[log]\nfilter = \"info,dunlin_daemon=debug\"\n")?;
    plant.wait_rollout(&id, "completed")?;
    assert_eq!(plant.settings()?["state"], "confirmed");

    // They stay over a power cut.
    plant.cut_power()?;
    plant.wait_settings("confirmed")?;

    // Refused: the rollout takes them back, and those before go on.
    let id = plant.roll_out_settings("evil.toml", "[mqtt]\nurl = \"mqtt://127.0.0.1:9\"\n")?;
    plant.wait_rollout(&id, "reverted")?;
    let log = plant.log_of_gateway();
    assert!(log.contains("may not be set by a fleet server"), "{log}");
    plant.wait_settings("confirmed")?;
    let connected = plant.gateways[0].plan.status()?.unwrap_or_default()["brokers"].clone();
    let all = connected.as_object().is_some_and(|all| all.values().all(|broker| broker["connected"] == true));
    assert!(all, "{connected}");
    Ok(())
}

#[test]
fn settings_with_which_the_server_is_not_reached_are_left_by_themselves_and_not_tried_again() -> Outcome<()> {
    let mut plant = Plant::new(&[HASTY])?;
    let id = plant.cut_off_with("[inference]\nbatch_max = 8\n")?;
    plant.wait_settings("trial")?;
    wait_for("the gateway goes back without the server", CHANGE_MAX, || {
        Ok(plant.log_of_gateway().contains("not confirmed within").then_some(()))
    })
    .map_err(|failure| plant.failure(&failure))?;
    plant.gateways[0].line.hold(None);
    plant.wait_rollout(&id, "reverted")?;
    Ok(())
}

#[test]
fn settings_whose_trial_is_cut_by_power_cuts_end_after_three_starts() -> Outcome<()> {
    let mut plant = Plant::new(&[PATIENT])?;
    let id = plant.cut_off_with("[inference]\nbatch_max = 8\n")?;
    plant.wait_settings("trial")?;
    for _ in 0..2 {
        plant.cut_power()?;
        let log = plant.log_of_gateway();
        assert!(!log.contains("given up"), "{log}");
    }
    plant.cut_power()?;
    plant.gateways[0].line.hold(None);
    plant.wait_rollout(&id, "reverted")?;
    Ok(())
}
