//! Payloads and topics that are wrong in every way: counted by reason, the rest flows, memory stays bounded.

use std::time::Duration;

use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::daemon::DaemonPlan;
use dunlin_e2e::oracle::Comparison;
use dunlin_e2e::package::{LAB_START_MS, lab_expected, lab_readings, write_lab};
use dunlin_e2e::proxy::{Fault, Proxy};
use dunlin_e2e::stream::{Message, Publisher};
use dunlin_e2e::wire::{Qos, Retain};
use dunlin_e2e::{Failure, Outcome, broker};

/// What a flood of garbage may add to the resident memory: the broker's bursts in the daemon's queues, and slack.
const RESIDENT_GROWTH_MAX: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(40);
/// New topics of the flood; the lab allows 100 a second and 200 in all.
const FLOOD: usize = 10_000;

/// Payloads for the good sensor's own topic, each with a reason that must be counted for it.
fn wrong_payloads() -> Vec<(&'static str, Vec<u8>)> {
    let at = LAB_START_MS + 500_000;
    let tomorrow = now_ms() + 86_400_000;
    let mut broken_text = format!("{{\"t\": {at}, \"v\": \"").into_bytes();
    broken_text.extend([0xff, 0xfe, b'"', b'}']);
    vec![
        ("syntax", vec![b'x'; 20_000]),
        ("syntax", b"{\"t\": 1".to_vec()),
        ("invalid_utf8", broken_text),
        ("too_deep", vec![b'['; 100_000]),
        ("not_finite", format!("{{\"t\": {at}, \"v\": 1e400}}").into_bytes()),
        ("wrong_type", format!("{{\"t\": {at}, \"v\": \"warm\"}}").into_bytes()),
        ("wrong_type", format!("{{\"t\": {at}, \"v\": [1]}}").into_bytes()),
        ("no_fields", format!("{{\"t\": {at}, \"w\": 1}}").into_bytes()),
        ("no_time", b"{\"v\": 1}".to_vec()),
        ("in_future", format!("{{\"t\": {tomorrow}, \"v\": 1}}").into_bytes()),
        ("late", format!("{{\"t\": {}, \"v\": 1}}", LAB_START_MS - 1).into_bytes()),
        ("duplicate", lab_readings("a", 99, 1)[0].payload.clone()),
    ]
}

/// Payloads whose reason may be one of several, or that the broker does not pass on.
fn other_payloads() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        format!("{{\"t\": {LAB_START_MS}, \"v\": NaN}}").into_bytes(),
        vec![b' '; 2 << 20],
        format!("{{\"t\": {}, \"v\": 1}}", i64::MAX).into_bytes(),
        format!("{{\"t\": \"{}\", \"v\": 1}}", "\u{1b}[2J'; DROP TABLE").into_bytes(),
        vec![0; 4_096],
    ]
}

fn now_ms() -> i64 {
    dunlin_kit::clock::wall_micros() / 1_000
}

#[test]
fn garbage_is_counted_by_reason_and_the_rest_flows() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let mut publisher = Publisher::connect(broker.port(), "garbage")?;
    let old = Message::new("lab/kept/data", format!("{{\"t\": {LAB_START_MS}, \"v\": 1}}"));
    publisher.publish(&old, Qos::AtLeastOnce, Retain::Keep)?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path()).set("mqtt.url", broker.url());
    let mut daemon = plan.start_ready()?;
    publisher.publish_all(&lab_readings("a", 0, 100), Qos::AtLeastOnce)?;
    daemon.wait_readings(100)?;
    let resident = daemon.resident_bytes()?;

    let wrong = wrong_payloads();
    let all = wrong.iter().map(|(_, payload)| payload.clone()).chain(other_payloads());
    let messages: Vec<_> = all.map(|payload| Message::new("lab/a/data", payload)).collect();
    publisher.publish_all(&messages, Qos::AtLeastOnce)?;
    publisher.publish_all(&[Message::new("elsewhere/a", "1")], Qos::AtLeastOnce)?;
    publisher.publish_all(&lab_readings("a", 100, 100), Qos::AtLeastOnce)?;
    let export = plan.export_of("double", 200, LIMIT)?;
    let comparison = Comparison::of(&lab_expected(200), &export)?;
    assert!(comparison.is_exact(), "{comparison}");

    let refused = daemon.status()?["sources"]["lab"]["refused"].clone();
    for reason in wrong.iter().map(|(reason, _)| *reason).chain(["retained"]) {
        let expected = wrong.iter().filter(|(other, _)| *other == reason).count().max(1);
        assert!(refused[reason].as_u64() >= Some(expected as u64), "{reason}: {refused}");
    }
    let samples = plan.command("sources", &["--errors", "--json"])?;
    let samples = String::from_utf8_lossy(&samples.stdout).into_owned();
    assert!(samples.contains("too_deep") && !samples.contains('\u{1b}'), "{samples}");
    let growth = daemon.resident_bytes()?.saturating_sub(resident);
    assert!(growth < RESIDENT_GROWTH_MAX, "resident memory grew by {growth} bytes");
    Ok(())
}

#[test]
fn a_flood_of_new_topics_is_capped_and_a_known_sensor_goes_on() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&BrokerPlan { in_flight_max: 1_000, queued_max: 0 })?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path()).set("mqtt.url", broker.url());
    let mut daemon = plan.start_ready()?;
    let mut publisher = Publisher::connect(broker.port(), "flood")?;
    publisher.publish_all(&lab_readings("a", 0, 50), Qos::AtLeastOnce)?;
    daemon.wait_readings(50)?;
    let resident = daemon.resident_bytes()?;
    // Before the lab's first second, so that the flood's predictions can be told from the sensor's.
    let before = format!("{{\"t\": {}, \"v\": 1}}", LAB_START_MS - 1_000);
    let flood: Vec<_> = (0..FLOOD).map(|n| Message::new(format!("lab/s{n}/data"), before.clone())).collect();
    publisher.publish_all(&flood, Qos::AtLeastOnce)?;
    publisher.publish_all(&lab_readings("a", 50, 50), Qos::AtLeastOnce)?;
    let status = daemon.wait_status("the flood has passed", |status| {
        status["messages"].as_u64() >= Some(FLOOD as u64 + 100) && status["in_flight"] == 0
    })?;
    assert!(status["series"].as_u64() <= Some(200), "{status}");
    let refused = &status["sources"]["lab"]["refused"];
    let capped = |reason: &str| refused[reason].as_u64().unwrap_or_default();
    assert!(capped("topic_rate") + capped("series_limit") >= FLOOD as u64 - 200, "{refused}");
    let growth = daemon.resident_bytes()?.saturating_sub(resident);
    assert!(growth < RESIDENT_GROWTH_MAX, "resident memory grew by {growth} bytes");
    let export = plan.export_of("double", 100, LIMIT)?;
    let flooded = (LAB_START_MS - 1_000).to_string();
    let own: Vec<_> = export.lines().filter(|line| !line.starts_with(&flooded)).collect();
    let comparison = Comparison::of(&lab_expected(100), &own.join("\n"))?;
    assert!(comparison.is_exact(), "{comparison}");
    Ok(())
}

#[test]
fn garbage_and_silence_from_the_broker_end_in_a_new_connection() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let broker = Broker::start(&BrokerPlan::default())?;
    let proxy = Proxy::start(broker.port())?;
    let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path())
        .set("mqtt.url", broker::url_of(proxy.port()))
        .set("mqtt.keep_alive", "5s");
    let mut daemon = plan.start_ready()?;
    let mut publisher = Publisher::connect(broker.port(), "sensor")?;
    let connections = proxy.accepted();
    proxy.inject(&[0xff; 256]);
    publisher.publish_all(&lab_readings("a", 0, 50), Qos::AtLeastOnce)?;
    plan.export_of("double", 50, LIMIT)?;
    if proxy.accepted() == connections {
        return Err(Failure::new("the daemon went on with a broken connection"));
    }
    daemon.wait_connected()?;
    proxy.set(Fault::HalfOpen);
    publisher.publish_all(&lab_readings("a", 50, 50), Qos::AtLeastOnce)?;
    daemon.wait_status("the half-open connection is noticed", |status| {
        status["brokers"].as_object().is_some_and(|all| all.values().any(|one| one["connected"] == false))
    })?;
    proxy.set(Fault::None);
    proxy.cut();
    let comparison = Comparison::of(&lab_expected(100), &plan.export_of("double", 100, LIMIT)?)?;
    assert!(comparison.is_exact(), "{comparison}");
    Ok(())
}
