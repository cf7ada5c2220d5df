//! Thirty days without the server at ten predictions a second, in small: three eighths of the log for each prediction that the usual quota
//! gives the 26 million of thirty days, which all fit into it. What fits is uploaded, live first and then in order; what does not is a loss by
//! its number, and both sides have the same ledger.
//!
//! The readings' times span the thirty days; no clock is turned. `DUNLIN_OFFLINE_PREDICTIONS` asks for another size, up to
//! the whole, `DUNLIN_OFFLINE_QUOTA_BYTES` for another quota: with a smaller one predictions are thinned and given up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dunlin_e2e::stream::Message;
use dunlin_e2e::wait::wait_for;
use dunlin_e2e::wire::Qos;
use dunlin_e2e::workspace::note;
use dunlin_e2e::{Failure, Outcome};
use dunlin_protocol::{Range, Ranges};
use serde_json::{Value, json};

use super::{Gateway, Plant, Wish};

/// Ten predictions a second for thirty days.
const WHOLE: u64 = 30 * 24 * 3_600 * 10;
/// Three eighths of the usual quota of the log.
const WHOLE_BYTES: u64 = 3 << 27;
/// What the suite has time for, and the smallest quota is made for.
const SMALL: u64 = 70_000;
/// Predictions that are live after a long silence.
const LIVE: u64 = 64;
/// Rows travel with each question, and none is kept open.
const METERED: &[(&str, &str)] = &[("fleet.metered", "true")];
const DAYS_MS: u64 = 30 * 24 * 3_600_000;

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Returns readings whose values no encoding makes small, over thirty days that end about now.
fn readings(began_ms: u64, numbers: std::ops::Range<u64>, all: u64) -> Vec<Message> {
    let reading = |n: u64| {
        let (at, value) = (began_ms + n * DAYS_MS / all, ((n as f64) * 12.9898).sin() * 200.0);
        Message::new("lab/a/data", format!("{{\"t\": {at}, \"v\": {value}}}"))
    };
    numbers.map(reading).collect()
}

fn ranges(value: &Value) -> Outcome<Ranges> {
    let pairs: Vec<[u64; 2]> = serde_json::from_value(value.clone())?;
    Ok(pairs.into_iter().filter_map(|[first, last]| Range::new(first, last).ok()).collect())
}

/// Checks that what was received by some moment goes from the oldest on without a gap, but for the newest and for what was
/// given up, of which the server may have heard later.
fn require_order(received: &Ranges, lost: &Ranges, live_from: u64) -> Outcome<()> {
    let known = received.union(lost);
    let through = known.iter().next().filter(|range| range.first() == 1).map_or(0, |range| range.last());
    let early = received.iter().find(|range| range.last() > through && range.first() < live_from);
    match early {
        Some(range) => Err(Failure::new(format!(
            "{range:?} came before what is after {through}, and is not live (from {live_from}): {received:?}"
        ))),
        None => Ok(()),
    }
}

impl Plant {
    /// Returns what the server was told of losses, by kind and reason.
    fn told_losses(&self, number: usize) -> Outcome<BTreeMap<String, u64>> {
        let (mut sums, mut after) = (BTreeMap::new(), 0);
        loop {
            let id = &self.gateways[number].id;
            let path = format!("/v1/devices/{id}/rows?stream=losses&limit=1000&after={after}");
            let page = self.site.admin.get(&path)?;
            for row in page["items"].as_array().into_iter().flatten() {
                let text = |name: &str| row[name].as_str().unwrap_or_default();
                *sums.entry(format!("{}:{}", text("kind"), text("reason"))).or_default() +=
                    row["count"].as_u64().unwrap_or_default();
            }
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => return Ok(sums),
            }
        }
    }
}

/// Publishes so many readings of thirty days; returns the most bytes that the log had meanwhile.
fn feed(gateway: &mut Gateway, count: u64) -> Outcome<u64> {
    let (now_ms, mut sent, mut used_max) = (dunlin_fleet::fleet::now_ms(), 0, 0);
    while sent < count {
        let end = (sent + 5_000).min(count);
        gateway.publisher.publish_all(&readings(now_ms - DAYS_MS, sent..end, count), Qos::AtLeastOnce)?;
        sent = end;
        let status = gateway.plan.status()?.unwrap_or_default();
        used_max = used_max.max(status["store"]["used_bytes"].as_u64().unwrap_or_default());
    }
    Ok(used_max)
}

#[test]
fn thirty_days_offline_end_within_the_quota_with_every_prediction_uploaded_or_explained() -> Outcome<()> {
    let count = asked("DUNLIN_OFFLINE_PREDICTIONS").unwrap_or(SMALL).clamp(SMALL, WHOLE);
    let quota = asked("DUNLIN_OFFLINE_QUOTA_BYTES").unwrap_or(WHOLE_BYTES * count / WHOLE);
    let mut plant = Plant::with_good_release(&[Wish { ring: "early", settings: METERED }])?;
    plant.wait_uploaded()?;
    let before = ranges(&plant.predictions(0)?["received"])?.last().unwrap_or_default();
    // Away: the server is gone, and the gateway is started with the quota.
    plant.site.server.kill();
    let gateway = &mut plant.gateways[0];
    gateway.stop();
    gateway.plan = gateway.plan.clone().set("storage.bytes_max", quota);
    gateway.start()?;
    if let Some(daemon) = &mut gateway.daemon {
        daemon.wait_connected()?;
    }
    let began = Instant::now();
    let used_max = feed(gateway, count)?;
    let fed = began.elapsed();
    if let Some(daemon) = &mut gateway.daemon {
        daemon.wait_status("all is predicted", |status| {
            status["predictions"].as_u64() >= Some(count) && status["in_flight"] == 0
        })?;
        daemon.kill();
    }
    assert!(used_max <= quota, "{used_max} bytes were used of {quota}");

    plant.site.server = plant.site.server.plan().clone().start()?;
    let (began, last) = (Instant::now(), before + count);
    plant.gateways[0].start()?;
    let (shown, seen) = (RefCell::new(String::new()), RefCell::new(Vec::new()));
    let limit = Duration::from_secs(60 + count / 2_000);
    let waited = wait_for("everything is uploaded or explained", limit, || {
        let account = plant.predictions(0)?;
        let received = ranges(&account["received"])?;
        // Nothing of before is sent until the newest are there.
        let has_begun = received.last() > Some(before);
        if has_begun {
            assert_eq!(received.last(), Some(last), "{account}");
            seen.borrow_mut().push(received);
        }
        let status = plant.gateways[0].plan.status()?.unwrap_or_default();
        let waiting = &status["fleet"]["upload"]["waiting"];
        *shown.borrow_mut() = format!("{account} {waiting}");
        let is_done = waiting["predictions"] == 0 && waiting["losses"] == 0 && waiting["events"] == 0;
        Ok((has_begun && is_done && account["unexplained"] == json!([])).then_some(()))
    });
    waited.map_err(|failure| plant.failure(&Failure::new(format!("{}\n{failure}", shown.borrow()))))?;
    let uploaded = began.elapsed();

    let (account, told) = (plant.predictions(0)?, plant.told_losses(0)?);
    let status = plant.gateways[0].plan.status()?.unwrap_or_default();
    let own: BTreeMap<String, u64> = serde_json::from_value(status["store"]["lost"].clone())?;
    let all = ranges(&account["received"])?.union(&ranges(&account["lost"])?);
    assert_eq!(all, Ranges::from(Range::new(1, last).map_err(Failure::of("range"))?), "{account}");
    let lost = ranges(&account["lost"])?;
    seen.borrow().iter().try_for_each(|received| require_order(received, &lost, last + 1 - LIVE))?;
    let lost = lost.count();
    let figure = |name: &str| account[name].as_u64().unwrap_or_default();
    assert_eq!(figure("rows") + figure("held_back") + lost, last, "{account}");
    assert!(!own.is_empty(), "the quota was never reached: {account}");
    assert_eq!(told, own, "both sides have the same ledger");
    let spent = &status["fleet"]["upload"]["spent_bytes"];
    note(&format!(
        "{count} predictions in {fed:?} within {used_max} of {quota} bytes; {} uploaded in {uploaded:?}, {} held back, {lost} lost; \
         ledger {own:?}; bytes {spent}",
        figure("rows"),
        figure("held_back"),
    ));
    Ok(())
}
