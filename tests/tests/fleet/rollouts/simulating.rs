//! `dunlin-fleet-simulator` against a real server: outages, wrong clocks, a copied gateway and a bad release at once.

use std::time::Duration;

use dunlin_e2e::{Failure, Outcome};
use dunlin_fleet_simulator::plan::Share;
use dunlin_fleet_simulator::{Manner, Plan, Summary};
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::EnrolmentToken;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Site;

/// Gateways.
const DEVICES: usize = 60;

/// Runs a crowd beside some orders; returns what both saw.
fn with_crowd<T>(plan: Plan, orders: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Summary)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let crowd = runtime.spawn(dunlin_fleet_simulator::run(plan, async { drop(stopped.await) }, |_| ()));
    let ordered = orders();
    drop(stop);
    let summary = runtime.block_on(crowd).map_err(Failure::of("join the crowd"))?;
    let summary = summary.map_err(|error| Failure::new(Chain(&error).to_string()))?;
    let ordered = ordered.map_err(|failure| Failure::new(format!("{failure}; {summary:?}")))?;
    Ok((ordered, summary))
}

fn token(site: &Site) -> Outcome<EnrolmentToken> {
    let wish = json!({ "labels": { "simulated": "true" }, "uses": DEVICES, "expires_s": 3_600 });
    let issued = site.admin.expect(201, "POST", "/v1/enrolment-tokens", &wish)?;
    EnrolmentToken::parse(issued["text"].as_str().unwrap_or_default()).map_err(Failure::of("token"))
}

/// Waits until a rollout is as is asked.
fn wait_for(site: &Site, id: &str, status: &str) -> Outcome<Value> {
    let path = format!("/v1/rollouts/{id}");
    let began = std::time::Instant::now();
    loop {
        let rollout = site.admin.get(&path)?;
        if rollout["status"] == status {
            return Ok(rollout);
        }
        if began.elapsed() > super::SOON {
            return Err(site.server.failure(&format!("the rollout is not {status}: {rollout}")));
        }
        dunlin_e2e::wait::pause(Duration::from_millis(100));
    }
}

#[test]
fn a_crowd_with_outages_a_copy_and_a_bad_release_is_told_apart_halted_and_taken_back() -> Outcome<()> {
    let site = Site::new(None)?;
    let plan = Plan {
        server: Some(site.server.url()),
        seed: 7,
        lasts: Some(super::SOON),
        outages: 0.1,
        clock_faults: 0.2,
        bad: vec![Share { manner: Manner::CrashesInTrial, share: 0.3 }],
        clones: 1,
        predictions_an_hour: 36_000.0,
        interval: Some(Duration::from_millis(150)),
        step: Duration::from_millis(50),
        models: vec![super::MODEL.to_owned()],
        ..Plan::of(DEVICES, token(&site)?)
    };
    let (rollout, summary) = with_crowd(plan, || {
        let count = |state: &str| {
            let server = site.admin.get("/v1/server")?;
            Ok::<_, Failure>(server["devices"][state].as_u64().unwrap_or(0))
        };
        let (mut active, mut suspended) = (0, 0);
        let all_are_in = || {
            (active, suspended) = (count("active").unwrap_or(0), count("suspended").unwrap_or(0));
            active + suspended == DEVICES as u64 && suspended == 1
        };
        dunlin_e2e::wait::wait_until("the copy is found", super::SOON, all_are_in)?;
        let spec = |digest: String, bake_ms: u64| {
            json!({
                "releases": [{ "digest": digest }], "query": "simulated=true", "phases": [{ "percent": 100 }],
                "bake": { "time_ms": bake_ms, "predictions": 5 },
            })
        };
        let first = site.admin.start(&spec(site.old.digest.to_string(), 300))?;
        wait_for(&site, &first, "completed")?;
        let second = site.admin.start(&spec(site.new.digest.to_string(), 60_000))?;
        wait_for(&site, &second, "reverted")
    })?;
    assert_eq!(rollout["halt"]["gate"], "restarts", "{rollout}");
    assert_eq!((summary.enrolled, summary.clones.made, summary.clones.found), (DEVICES, 1, 1), "{summary:?}");
    assert_eq!(summary.states["cloned_identity"], 1, "{summary:?}");
    assert!(summary.refused_statements.is_empty(), "{summary:?}");
    assert!(summary.rows.0 > 0 && summary.bytes.sent_an_exchange > 0.0, "{summary:?}");
    let (old, new) = (&summary.releases["frost 1.0.0"], &summary.releases["frost 2.0.0"]);
    assert_eq!((old.running, new.running), (DEVICES as u64 - 1, 0), "{summary:?}");
    assert!(new.failed > 0 && new.told > new.failed, "{summary:?}");
    Ok(())
}
