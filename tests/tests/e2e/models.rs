//! Several models, several gateways: one's faults are not the other's.

use std::time::Duration;

use dunlin_e2e::Outcome;
use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::oracle::Comparison;
use dunlin_e2e::package::{lab_expected, lab_readings, write_hostile, write_lab, write_lab_with};
use dunlin_e2e::stream::{Listener, Publisher};
use dunlin_e2e::wire::Qos;

const LIMIT: Duration = Duration::from_secs(40);
const QUIET: Duration = Duration::from_millis(500);

#[test]
fn a_model_that_fails_on_every_run_is_not_admitted_and_costs_no_other_anything() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let bomb = write_hostile(folder.path())?;
    let config = write_lab_with(folder.path(), &bomb)?;
    let plan = DaemonPlan::new(&config, folder.path()).set("mqtt.url", broker.url());
    let mut daemon = plan.start_ready()?;
    let pid = daemon.pid();
    let bad =
        plan.wait_model("bomb", "the hostile model is found bad", |model| model["bad"][0].is_object())?;
    assert!(bad["bad"][0]["code"].as_str().is_some_and(|code| code.starts_with("selftest:")), "{bad}");
    assert!(bad["serving"].is_null() && bad["candidate"].is_null(), "{bad}");
    let mut listener = Listener::connect(broker.port(), "listener", "out/#")?;
    Publisher::connect(broker.port(), "sensor")?.publish_all(&lab_readings("a", 0, 300), Qos::AtLeastOnce)?;
    let comparison = Comparison::of(&lab_expected(300), &plan.export_of("double", 300, LIMIT)?)?;
    assert!(comparison.is_exact(), "{comparison}");
    let status = daemon.wait_readings(300)?;
    assert_eq!(status["slots"]["double"]["state"], "ready", "{status}");
    assert_eq!(status["slots"]["double"]["starts"], 1, "{status}");
    assert_eq!(daemon.pid(), pid);
    let published = listener.take_until_quiet(QUIET)?;
    assert!(published.iter().any(|message| message.topic.starts_with("out/double/")));
    assert!(!published.iter().any(|message| message.topic.starts_with("out/bomb/")));
    Ok(())
}

#[test]
fn two_gateways_at_one_broker_predict_everything_each() -> Outcome<()> {
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let broker = Broker::start(&BrokerPlan::default())?;
    let mut daemons = Vec::new();
    for (index, folder) in folders.iter().enumerate() {
        let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path())
            .set("mqtt.url", broker.url())
            .set("mqtt.client_id", format!("gateway-{index}"));
        daemons.push((plan.start_ready()?, plan));
    }
    Publisher::connect(broker.port(), "sensor")?.publish_all(&lab_readings("a", 0, 300), Qos::AtLeastOnce)?;
    for (_daemon, plan) in &daemons {
        let comparison = Comparison::of(&lab_expected(300), &plan.export_of("double", 300, LIMIT)?)?;
        assert!(comparison.is_exact(), "{comparison}");
    }
    Ok(())
}

#[test]
fn a_model_runs_in_a_thread_of_the_daemon_on_request() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path())
        .set("mqtt.url", broker.url())
        .set("inference.isolation", "thread");
    let daemon = plan.start_ready()?;
    assert_eq!(daemon.worker_pids()?, [] as [u32; 0]);
    Publisher::connect(broker.port(), "sensor")?.publish_all(&lab_readings("a", 0, 300), Qos::AtLeastOnce)?;
    let comparison = Comparison::of(&lab_expected(300), &plan.export_of("double", 300, LIMIT)?)?;
    assert!(comparison.is_exact(), "{comparison}");
    Ok(())
}

#[test]
fn sensors_at_two_brokers_reach_one_gateway_and_outlive_its_death() -> Outcome<()> {
    const FAR: &str = r#"
[brokers.far]
url = "mqtt://127.0.0.1:1"

[[source]]
name = "far"
broker = "far"
topics = ["lab/{sensor}/data"]
format = "json"
time = { pointer = "/t", format = "unix-ms" }
fields.v = {}
"#;
    let folder = tempfile::tempdir()?;
    let (near, far) = (Broker::start(&BrokerPlan::default())?, Broker::start(&BrokerPlan::default())?);
    let plan = DaemonPlan::new(&write_lab_with(folder.path(), FAR)?, folder.path())
        .set("mqtt.url", near.url())
        .set("brokers.far.url", far.url());
    let mut daemon = plan.start_ready()?;
    for first in [0, 150] {
        for (broker, sensor) in [(&near, "a"), (&far, "b")] {
            let readings = lab_readings(sensor, first, 150);
            Publisher::connect(broker.port(), "sensor")?.publish_all(&readings, Qos::AtLeastOnce)?;
        }
        daemon.kill();
        daemon = plan.start_ready()?;
    }
    let export = plan.export_of("double", 600, LIMIT)?;
    let of_sensor = |sensor: &str| {
        let own =
            |line: &&str| line.starts_with("window_end_ms") || line.contains(&format!("sensor={sensor}"));
        export.lines().filter(own).collect::<Vec<_>>().join("\n")
    };
    for sensor in ["a", "b"] {
        let comparison = Comparison::of(&lab_expected(300), &of_sensor(sensor))?;
        assert!(comparison.is_exact(), "{sensor}: {comparison}");
    }
    Ok(())
}
