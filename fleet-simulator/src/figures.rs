//! What a run has shown: counted while it lasts, summed up at its end.
//!
//! Quantiles are those of a sketch with one percent of error. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_protocol::DeviceId;
use serde::Serialize;
use sketches_ddsketch::{Config, DDSketch};

/// Relative error of quantiles.
const ERROR: f64 = 0.01;
const BINS: u32 = 4_096;
/// Shortest time that is told apart from none, in ms.
const SHORTEST_MS: f64 = 0.001;
const DAY_S: f64 = 86_400.0;
/// Days of a month.
const MONTH_DAYS: f64 = 30.0;

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// Nothing new, at once.
    Nothing,
    /// Nothing new, after the server had kept it.
    Kept,
    /// Something new.
    News,
}

/// Times, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// The median.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// Bytes of HTTP, with its heads and without those of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Bytes {
    /// Sent by a gateway for an exchange, on average.
    pub sent_an_exchange: f64,
    /// Received by it.
    pub received_an_exchange: f64,
    /// Both, by a gateway in a day at the rate of this run.
    pub a_device_and_day: f64,
    /// Both in thirty days.
    pub a_device_and_month: f64,
    /// Both in thirty days with one exchange of this run's kind an hour.
    pub a_device_and_month_hourly: f64,
}

/// What a loss of connections did, whoever caused it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Reconnection {
    /// Gateways that lost their connection, or had no answer.
    pub lost: u64,
    /// Of these: had an answer again.
    pub back: u64,
    /// Time from the loss to the next answer.
    pub times: Times,
}

/// Clones: copies of a gateway, key and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Clones {
    /// How many were made.
    pub made: usize,
    /// Of these: were told so, as copy or as the copied one.
    pub found: usize,
}

/// What gateways made of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Releases {
    /// Run it at the end.
    pub running: u64,
    /// Were told to run it.
    pub told: u64,
    /// Found it bad.
    pub failed: u64,
}

/// What a run has shown.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Summary {
    /// Gateways.
    pub devices: usize,
    /// Of these: enrolled.
    pub enrolled: usize,
    /// Seconds that it lasted after all had enrolled.
    pub seconds: f64,
    /// Questions that were answered.
    pub exchanges: u64,
    /// The same a second.
    pub exchanges_a_second: f64,
    /// Of the answers that brought nothing new, and were given at once: from the question to the answer.
    pub nothing_new: Times,
    /// Of questions that the server kept to the end: how late the answer was.
    pub kept_open_late: Times,
    /// Of answers that brought something.
    pub news: Times,
    /// Questions without a good answer, by the code of the refusal or what went wrong.
    pub errors: BTreeMap<String, u64>,
    /// Connections that were made.
    pub connections: u64,
    /// Bytes.
    pub bytes: Bytes,
    /// Gateways by state at the end.
    pub states: BTreeMap<String, u64>,
    /// Releases by model and version.
    pub releases: BTreeMap<String, Releases>,
    /// Rollouts that gateways were told of: how many each moved.
    pub rollouts: BTreeMap<String, u64>,
    /// Statements that were refused, by code.
    pub refused_statements: BTreeMap<String, u64>,
    /// Times that gateways were away.
    pub outages: u64,
    /// Losses of connections.
    pub reconnection: Reconnection,
    /// Clones.
    pub clones: Clones,
    /// Rows that have receipts, and rows that wait for one.
    pub rows: (u64, u64),
}

/// What is counted.
struct Tally {
    exchanges: u64,
    nothing: DDSketch,
    kept: DDSketch,
    news: DDSketch,
    back: DDSketch,
    lost: u64,
    errors: BTreeMap<String, u64>,
    refused_statements: BTreeMap<String, u64>,
    rollouts: BTreeMap<String, BTreeSet<DeviceId>>,
    clones: BTreeSet<DeviceId>,
    outages: u64,
}

/// The counters of a run.
pub(crate) struct Figures(Mutex<Tally>);

fn sketch() -> DDSketch {
    DDSketch::new(Config::new(ERROR, BINS, SHORTEST_MS))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn times(sketch: &DDSketch) -> Times {
    let quantile = |q| sketch.quantile(q).ok().flatten().unwrap_or(0.0);
    Times {
        count: sketch.count() as u64,
        p50_ms: rounded(quantile(0.5)),
        p99_ms: rounded(quantile(0.99)),
        max_ms: rounded(sketch.max().unwrap_or(0.0)),
    }
}

/// Rounds to what the sketch knows.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            exchanges: 0,
            nothing: sketch(),
            kept: sketch(),
            news: sketch(),
            back: sketch(),
            lost: 0,
            errors: BTreeMap::new(),
            refused_statements: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            clones: BTreeSet::new(),
            outages: 0,
        }
    }
}

/// What a run's end adds to what was counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended {
    pub(crate) devices: usize,
    pub(crate) enrolled: usize,
    pub(crate) clones: usize,
    pub(crate) time: Duration,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) connections: u64,
    pub(crate) states: BTreeMap<String, u64>,
    pub(crate) releases: BTreeMap<String, Releases>,
    pub(crate) rows: (u64, u64),
}

impl Figures {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all but clones: what came before was the way in.
    pub(crate) fn begin(&self) {
        let mut tally = self.tally();
        let kept = std::mem::take(&mut *tally);
        tally.clones = kept.clones;
        tally.rollouts = kept.rollouts;
        tally.errors = kept.errors;
    }

    pub(crate) fn exchanges(&self) -> u64 {
        self.tally().exchanges
    }

    pub(crate) fn answered(&self, came: Came, time: Duration) {
        let mut tally = self.tally();
        tally.exchanges += 1;
        let sketch = match came {
            Came::Nothing => &mut tally.nothing,
            Came::Kept => &mut tally.kept,
            Came::News => &mut tally.news,
        };
        sketch.add(ms(time));
    }

    pub(crate) fn failed(&self, code: &str) {
        *self.tally().errors.entry(code.to_owned()).or_default() += 1;
    }

    pub(crate) fn refused_statement(&self, code: &str) {
        *self.tally().refused_statements.entry(code.to_owned()).or_default() += 1;
    }

    pub(crate) fn told(&self, rollout: &str, device: DeviceId) {
        self.tally().rollouts.entry(rollout.to_owned()).or_default().insert(device);
    }

    pub(crate) fn cloned(&self, device: DeviceId) {
        self.tally().clones.insert(device);
    }

    pub(crate) fn outage(&self) {
        self.tally().outages += 1;
    }

    pub(crate) fn lost(&self) {
        self.tally().lost += 1;
    }

    pub(crate) fn back(&self, time: Duration) {
        self.tally().back.add(ms(time));
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a run")]
    pub(crate) fn sum_up(&self, ended: Ended) -> Summary {
        let tally = self.tally();
        let seconds = ended.time.as_secs_f64().max(1e-9);
        let exchanges = (tally.exchanges as f64).max(1.0);
        let bytes = (ended.sent + ended.received) as f64;
        let day = bytes / ended.enrolled.max(1) as f64 / seconds * DAY_S;
        Summary {
            devices: ended.devices,
            enrolled: ended.enrolled,
            seconds: rounded(seconds),
            exchanges: tally.exchanges,
            exchanges_a_second: rounded(tally.exchanges as f64 / seconds),
            nothing_new: times(&tally.nothing),
            kept_open_late: times(&tally.kept),
            news: times(&tally.news),
            errors: tally.errors.clone(),
            connections: ended.connections,
            bytes: Bytes {
                sent_an_exchange: (ended.sent as f64 / exchanges).round(),
                received_an_exchange: (ended.received as f64 / exchanges).round(),
                a_device_and_day: day.round(),
                a_device_and_month: (day * MONTH_DAYS).round(),
                a_device_and_month_hourly: (bytes / exchanges * 24.0 * MONTH_DAYS).round(),
            },
            states: ended.states,
            releases: ended.releases,
            rollouts: tally.rollouts.iter().map(|(id, devices)| (id.clone(), devices.len() as u64)).collect(),
            refused_statements: tally.refused_statements.clone(),
            outages: tally.outages,
            reconnection: Reconnection {
                lost: tally.lost,
                back: tally.back.count() as u64,
                times: times(&tally.back),
            },
            clones: Clones { made: ended.clones, found: tally.clones.len().min(ended.clones) },
            rows: ended.rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_nothing_new_alone_and_bytes_are_by_day_and_month() {
        let figures = Figures::new();
        figures.failed("unavailable");
        figures.begin();
        for time in 1..=100 {
            figures.answered(Came::Nothing, Duration::from_millis(time));
        }
        figures.answered(Came::News, Duration::from_secs(9));
        let ended = Ended {
            devices: 2,
            enrolled: 2,
            time: Duration::from_secs(10),
            sent: 101_000,
            ..Ended::default()
        };
        let summary = figures.sum_up(ended);
        assert_eq!((summary.exchanges, summary.nothing_new.count, summary.news.count), (101, 100, 1));
        assert!((49.0..52.0).contains(&summary.nothing_new.p50_ms), "{summary:?}");
        assert!((97.0..101.1).contains(&summary.nothing_new.p99_ms), "{summary:?}");
        assert!((summary.bytes.sent_an_exchange - 1_000.0).abs() < 1.0);
        assert!((summary.bytes.a_device_and_day - 101_000.0 / 2.0 / 10.0 * 86_400.0).abs() < 1.0);
        assert!((summary.bytes.a_device_and_month_hourly - 720_000.0).abs() < 1.0);
        assert_eq!(summary.errors["unavailable"], 1);
    }
}
