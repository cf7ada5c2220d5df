//! Start, stop, reload, and a broker that comes and goes.

use std::time::Duration;

use dunlin_e2e::Outcome;
use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::oracle::Comparison;
use dunlin_e2e::package::{lab_expected, lab_readings, write, write_lab, write_lab_with};
use dunlin_e2e::stream::{Publisher, read_ndjson};
use dunlin_e2e::wait::wait_until;
use dunlin_e2e::wire::Qos;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(40);

struct Lab {
    folder: TempDir,
    broker: Broker,
    plan: DaemonPlan,
}

fn lab() -> Outcome<Lab> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path()).set("mqtt.url", broker.url());
    Ok(Lab { folder, broker, plan })
}

impl Lab {
    fn publish(&self, first: usize, count: usize) -> Outcome<()> {
        let mut publisher = Publisher::connect(self.broker.port(), "sensor")?;
        publisher.publish_all(&lab_readings("a", first, count), Qos::AtLeastOnce)?;
        Ok(())
    }

    fn assert_exact(&self, count: usize) -> Outcome<()> {
        let comparison = Comparison::of(&lab_expected(count), &self.plan.export_of("double", count, LIMIT)?)?;
        assert!(comparison.is_exact(), "{comparison}");
        Ok(())
    }
}

#[test]
fn a_termination_drains_what_arrived_and_ends_without_error() -> Outcome<()> {
    let lab = lab()?;
    let mut daemon = lab.plan.start_ready()?;
    lab.publish(0, 500)?;
    let status = daemon.terminate()?;
    assert!(status.success(), "{}", daemon.failure(&format!("exit status {status}")));
    // What was not taken before the end waits at the broker.
    let _daemon = lab.plan.start_ready()?;
    lab.assert_exact(500)
}

#[test]
fn a_daemon_starts_without_its_broker_and_connects_later() -> Outcome<()> {
    let mut lab = lab()?;
    lab.broker.stop()?;
    let mut daemon = lab.plan.start()?;
    daemon.wait_ready()?;
    lab.broker.start_again()?;
    daemon.wait_connected()?;
    lab.publish(0, 100)?;
    lab.assert_exact(100)
}

#[test]
fn a_broker_that_restarts_costs_no_prediction() -> Outcome<()> {
    let mut lab = lab()?;
    let mut daemon = lab.plan.start_ready()?;
    for round in 0..3 {
        lab.publish(round * 200, 200)?;
        daemon.wait_readings(round as u64 * 200 + 200)?;
        lab.broker.restart()?;
        daemon.wait_connected()?;
    }
    lab.publish(600, 200)?;
    lab.assert_exact(800)
}

#[test]
fn a_second_daemon_on_the_same_state_folder_is_refused() -> Outcome<()> {
    let lab = lab()?;
    let mut first = lab.plan.start_ready()?;
    let second_plan = lab.plan.clone().log_to(&lab.folder.path().join("second.log"));
    let mut second = second_plan.start()?;
    assert!(!second.wait_end()?.success());
    assert!(!second.log().is_empty(), "the refused daemon says nothing");
    first.wait_connected()?;
    lab.publish(0, 50)?;
    lab.assert_exact(50)
}

#[test]
fn status_without_a_daemon_says_so_with_its_exit_code() -> Outcome<()> {
    let lab = lab()?;
    assert!(lab.plan.status()?.is_none());
    let mut daemon = lab.plan.start_ready()?;
    assert!(lab.plan.status()?.is_some());
    daemon.kill();
    assert!(lab.plan.status()?.is_none());
    Ok(())
}

#[test]
fn a_reload_with_a_broken_configuration_keeps_the_running_one() -> Outcome<()> {
    let lab = lab()?;
    let mut daemon = lab.plan.start_ready()?;
    lab.publish(0, 100)?;
    daemon.wait_readings(100)?;
    let before = daemon.log().len();
    write(&lab.plan.config, b"[[source]]\nnmae = 3\n")?;
    daemon.reload()?;
    wait_until("the broken configuration is reported", LIMIT, || daemon.log()[before..].contains("nmae"))?;
    lab.publish(100, 100)?;
    lab.assert_exact(200)?;
    daemon.wait_status("the series still runs", |status| status["series"] == 1)?;
    Ok(())
}

#[test]
fn a_reload_with_a_good_configuration_is_taken_and_loses_nothing() -> Outcome<()> {
    let lab = lab()?;
    let mut daemon = lab.plan.start_ready()?;
    lab.publish(0, 100)?;
    daemon.wait_readings(100)?;
    let more = "[[source]]\nname = \"other\"\ntopics = [\"other/{sensor}\"]\nformat = \"number\"\n[source.fields]\nw = {}\n";
    write_lab_with(lab.folder.path(), more)?;
    daemon.reload()?;
    daemon.wait_status("the new source is there", |status| status["sources"]["other"].is_object())?;
    lab.publish(100, 100)?;
    lab.assert_exact(200)
}

#[test]
fn check_reports_every_error_of_a_configuration_with_its_line() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("dunlind.toml");
    let text = "[mqtt]\nurll = \"mqtt://x\"\n\n[[source]]\nname = \"s\"\ntopics = [\"a/#/b\"]\nformat = \"jsn\"\n\n\
                [[model]]\nname = \"m\"\npackage = \"nowhere\"\n";
    write(&config, text.as_bytes())?;
    let output = DaemonPlan::new(&config, folder.path()).config_command("check", &["--offline"])?;
    assert!(!output.status.success());
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    for (object, line) in [("urll", 2), ("a/#/b", 6), ("jsn", 7), ("nowhere", 11)] {
        let named = said.lines().any(|text| text.contains(&format!("dunlind.toml:{line}")));
        assert!(said.contains(object) && named, "`{object}` on line {line}: {said}");
    }
    Ok(())
}

#[test]
fn check_accepts_the_lab_and_every_example() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let lab = DaemonPlan::new(&write_lab(folder.path())?, folder.path());
    let examples = ["machine-temperature", "occupancy", "air-quality"];
    let plans = examples.into_iter().map(|name| DaemonPlan::example(name, folder.path()));
    for plan in plans.chain([lab]) {
        let output = plan.config_command("check", &["--offline"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", plan.config.display());
    }
    Ok(())
}

#[test]
fn replay_predicts_a_recorded_stream_without_broker_or_daemon() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let config = write_lab(folder.path())?;
    let stream = folder.path().join("stream.ndjson");
    let line = |message: dunlin_e2e::stream::Message| {
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        serde_json::json!({ "topic": message.topic, "arrival_ms": message.event_ms, "payload": payload })
    };
    let lines: Vec<_> = lab_readings("a", 0, 20).into_iter().map(|m| line(m).to_string()).collect();
    write(&stream, lines.join("\n").as_bytes())?;
    assert_eq!(read_ndjson(&stream)?, lab_readings("a", 0, 20));
    let path = stream.to_string_lossy();
    let output = DaemonPlan::new(&config, folder.path()).config_command("replay", &[&path])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().filter(|line| line.contains("double")).count(), 20, "{said}");
    Ok(())
}
