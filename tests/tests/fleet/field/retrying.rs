//! A release that a gateway found bad is tried again when people say so, once for each time.

use dunlin_e2e::{Outcome, onnx};
use serde_json::{Value, json};

use super::{BORDER, POISON, Plant, Wish};

const GATEWAY: Wish = Wish {
    ring: "early",
    settings: &[("update.shadow_agreement_min", "0.9"), ("update.shadow_predictions", "10")],
};

impl Plant {
    fn retry(&self, id: &str) -> Outcome<()> {
        self.operator.run(&["rollout", "retry", id, "--reason", "the sensor was mended"]).map(drop)
    }

    /// Feeds the gateway until the rollout halts for a failure that was not there before; returns when it was.
    fn feed_until_halted(&mut self, id: &str, earlier: &Value) -> Outcome<Value> {
        self.feed_until("the rollout halts", &[0], Some(POISON), |plant| {
            let at = plant.gateways[0].model()?["bad"][0]["at"].clone();
            Ok(at.is_string() && at != *earlier && plant.rollout(id)?["status"] == "halted")
        })?;
        Ok(self.gateways[0].model()?["bad"][0]["at"].clone())
    }
}

#[test]
fn a_gateway_tries_again_what_it_found_bad_once_for_each_retry() -> Outcome<()> {
    let mut plant = Plant::with_good_release(&[GATEWAY])?;
    let release = plant.publish(2, &onnx::doubling_but_wrong_above(BORDER))?;
    let id = plant.site.admin.start(&json!({
        "releases": [{ "digest": release.digest.to_string() }],
        "query": "*",
        "phases": [{ "percent": 100 }],
        "bake": { "time_ms": 0, "predictions": 0 },
        "gates": { "latency_of_old": null },
        "on_failure": "hold",
    }))?;
    let first = plant.feed_until_halted(&id, &Value::Null)?;
    plant.retry(&id)?;
    let second = plant.feed_until_halted(&id, &first)?;
    // Nobody had it retried since: what it is told again changes nothing.
    let gateway = &mut plant.gateways[0];
    gateway.stop();
    gateway.start()?;
    gateway.wait_linked()?;
    let model = gateway.model()?;
    assert_eq!((&model["bad"][0]["at"], &model["candidate"]), (&second, &Value::Null), "{model}");
    plant.retry(&id)?;
    plant.feed_until("it is good", &[0], None, |plant| {
        Ok(plant.gateways[0].has(2)? && plant.rollout(&id)?["status"] == "completed")
    })?;
    let model = plant.gateways[0].model()?;
    assert_eq!(model["bad"], json!([]), "{model}");
    Ok(())
}
