//! What subscribers see: every prediction at least once, whatever happens to the daemon.

use std::collections::BTreeSet;
use std::time::Duration;

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::package::{lab_readings, write_lab};
use dunlin_e2e::seed::Choices;
use dunlin_e2e::stream::{Listener, Message, Publisher};
use dunlin_e2e::wait::{pause, wait_for};
use dunlin_e2e::wire::Qos;
use dunlin_e2e::workspace::note;
use dunlin_e2e::{Failure, Outcome};

const LIMIT: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_millis(50);
const KILLS: usize = 6;
const PIECE: usize = 150;

fn published_id(message: &Message) -> Outcome<String> {
    let prediction: serde_json::Value = serde_json::from_slice(&message.payload)?;
    let id = prediction["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| Failure::new(format!("a prediction without an id: {prediction}")))
}

fn stored_ids(csv: &str) -> Outcome<BTreeSet<String>> {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = header.iter().position(|name| *name == "id");
    let column = column.ok_or_else(|| Failure::new(format!("no column `id` in {header:?}")))?;
    Ok(lines.filter_map(|line| line.split(',').nth(column)).map(str::to_owned).collect())
}

fn every_prediction_is_seen(mode: &str) -> Outcome<()> {
    let mut choices = Choices::from_environment();
    note(&format!("DUNLIN_SEED={}", choices.seed()));
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path())
        .set("mqtt.url", broker.url())
        .set("publish.mode", mode)
        .set("publish.qos", 1);
    let mut daemon = plan.start_ready()?;
    let mut listener = Listener::connect(broker.port(), "listener", "out/double/+")?;
    let mut publisher = Publisher::connect(broker.port(), "sensor")?;
    let mut seen = BTreeSet::new();
    for round in 0..=KILLS {
        publisher.publish_all(&lab_readings("a", round * PIECE, PIECE), Qos::AtLeastOnce)?;
        if round < KILLS {
            pause(Duration::from_millis(choices.below(80)));
            daemon.kill();
            daemon = plan.start_ready()?;
        }
        for message in listener.take_until_quiet(QUIET)? {
            seen.insert(published_id(&message)?);
        }
    }
    let count = (KILLS + 1) * PIECE;
    let stored = stored_ids(&plan.export_of("double", count, LIMIT)?)?;
    assert_eq!(stored.len(), count);
    let waited = wait_for("every stored prediction was published", LIMIT, || {
        for message in listener.take_until_quiet(QUIET)? {
            seen.insert(published_id(&message)?);
        }
        Ok(seen.is_superset(&stored).then_some(()))
    });
    let missing = stored.difference(&seen).count();
    waited.map_err(|failure| {
        daemon.failure(&format!("{failure}: {missing} are missing (seed {})", choices.seed()))
    })?;
    assert_eq!(seen, stored, "predictions were published that are not stored");
    Ok(())
}

#[test]
fn every_prediction_is_published_at_least_once_across_kills() -> Outcome<()> {
    every_prediction_is_seen("immediate")
}

#[test]
fn every_committed_prediction_is_published_at_least_once_across_kills() -> Outcome<()> {
    every_prediction_is_seen("committed")
}

#[test]
fn the_last_will_tells_of_a_killed_gateway() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path()).set("mqtt.url", broker.url());
    let mut daemon = plan.start_ready()?;
    let mut listener = Listener::connect(broker.port(), "listener", "dunlin/+/status")?;
    let mut wait_for_state = |state: &str| {
        wait_for(&format!("the gateway is {state}"), LIMIT, || {
            let news = listener.take_until_quiet(QUIET)?;
            let told = |message: &Message| String::from_utf8_lossy(&message.payload).contains(state);
            Ok(news.iter().any(told).then_some(()))
        })
    };
    wait_for_state("online")?;
    daemon.kill();
    wait_for_state("offline")?;
    daemon = plan.start_ready()?;
    wait_for_state("online")?;
    daemon.terminate()?;
    wait_for_state("offline")
}
