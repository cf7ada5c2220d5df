//! One system under load: stretches at a rate, and the highest rate it sustains.
//!
//! A rate is sustained when everything offered was sent in time, every due prediction came back soon after the
//! stretch, and, where the system tells, is stored.

use std::time::{Duration, Instant};

use dunlin_e2e::Outcome;
use dunlin_e2e::broker::{Broker, BrokerPlan};
use dunlin_e2e::load::{Load, Watch, quantile};
use dunlin_e2e::wait::{pause, wait_until};
use dunlin_e2e::wire::Qos;
use tempfile::TempDir;

use crate::systems::{Equipment, Kind, ROWS, System};

/// How long after a stretch its last prediction may come.
const LAG_MAX: Duration = Duration::from_millis(750);
/// How long after a stretch its last prediction may be committed.
const STORED_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a backlog to clear after a rate that was not sustained.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// Silence after which no further prediction of a backlog is expected.
const SETTLE_QUIET: Duration = Duration::from_millis(700);
/// Share of the offer that the generator must have sent in time.
const SENT_SHARE_MIN: f64 = 0.97;
/// Rate at which windows are filled before anything is measured: what every system sustains.
const WARM_UP_RATE: f64 = 4_000.0;
/// The same with thousands of sensors, which only Dunlin is measured with; a backlog may build up and is waited for.
const WARM_UP_RATE_MANY: f64 = 10_000.0;
/// Readings a sensor before anything is measured.
const WARM_UP_READINGS: usize = ROWS + 8;
/// No machine this runs on sustains more.
const RATE_MAX: f64 = 320_000.0;

/// What is measured and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionPlan {
    /// Which system.
    pub(crate) kind: Kind,
    /// QoS of the readings.
    pub(crate) qos: Qos,
    /// The broker's in-flight window.
    pub(crate) in_flight_max: u16,
    /// Sensors.
    pub(crate) sensors: usize,
}

/// A system, its broker, its load.
#[derive(Debug)]
pub(crate) struct Session {
    load: Load,
    watch: Watch,
    /// The system under load.
    pub(crate) system: System,
    _broker: Broker,
    _folder: TempDir,
}

/// What a stretch at one rate gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    /// Whether everything was sent, predicted, published and stored in time.
    pub(crate) sustained: bool,
    /// Readings sent a second.
    pub(crate) sent_per_second: f64,
    /// Latency from sending to prediction in microseconds.
    pub(crate) p50_us: u32,
    /// As `p50_us`, for the 99th percentile.
    pub(crate) p99_us: u32,
    /// Bytes written a prediction, where the system tells.
    pub(crate) bytes_per_prediction: Option<f64>,
}

impl Session {
    /// Starts broker, system and load, and fills all windows.
    ///
    /// *Errors*: one does not start, or the first predictions do not come.
    pub(crate) fn start(equipment: &Equipment, plan: SessionPlan) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let broker = Broker::start(&BrokerPlan { in_flight_max: plan.in_flight_max, queued_max: 0 })?;
        let system = equipment.start(plan.kind, broker.port(), plan.qos, folder.path())?;
        let watch = Watch::start(broker.port(), "predictions/+")?;
        let mut load = Load::connect(broker.port(), plan.sensors, ROWS as u64, plan.qos)?;
        let count = (plan.sensors * WARM_UP_READINGS) as u64;
        let rate = if plan.sensors > 1_000 { WARM_UP_RATE_MANY } else { WARM_UP_RATE };
        let limit = Duration::from_secs(60) + Duration::from_secs_f64(count as f64 / rate);
        let offered = load.offer_count(rate, count, limit)?;
        wait_until("the first predictions are published", limit, || watch.count() >= offered.due)?;
        Ok(Self { load, watch, system, _broker: broker, _folder: folder })
    }

    /// Offers `rate` readings a second for `length` and measures what comes back.
    ///
    /// *Errors*: the system or the broker is gone.
    pub(crate) fn stretch(&mut self, rate: f64, length: Duration) -> Outcome<Stretch> {
        let before = self.watch.count();
        let stored_before = self.system.stored()?;
        drop(self.watch.take_latencies());
        let offered = self.load.offer(rate, length)?;
        let came = wait_until("", LAG_MAX, || self.watch.count() - before >= offered.due).is_ok();
        let latencies = self.watch.take_latencies();
        let mut stored_in_time = true;
        let mut bytes_per_prediction = None;
        if let (true, Some((rows_before, bytes_before))) = (came, stored_before) {
            let start = Instant::now();
            let (mut rows, mut bytes) = (0, 0);
            while rows < offered.due && start.elapsed() < STORED_MAX {
                let (rows_now, bytes_now) = self.system.stored()?.unwrap_or_default();
                (rows, bytes) = (rows_now - rows_before, bytes_now - bytes_before);
                pause(Duration::from_millis(50));
            }
            stored_in_time = rows >= offered.due;
            bytes_per_prediction = Some(bytes as f64 / rows.max(1) as f64);
        }
        let sent_in_time = offered.sent as f64 >= SENT_SHARE_MIN * rate * length.as_secs_f64();
        if !came {
            self.settle();
        }
        Ok(Stretch {
            sustained: came && stored_in_time && sent_in_time,
            sent_per_second: offered.sent as f64 / offered.took.as_secs_f64(),
            p50_us: quantile(&latencies, 0.5),
            p99_us: quantile(&latencies, 0.99),
            bytes_per_prediction,
        })
    }

    /// Returns the share of a core that Dunlin takes at `rate`, from 0 to 1; 0 for other systems.
    ///
    /// *Errors*: the system or the broker is gone.
    pub(crate) fn processor_share(&mut self, rate: f64, length: Duration) -> Outcome<f64> {
        let System::Dunlin(daemon) = &self.system else { return Ok(0.0) };
        let before = daemon.processor_time()?;
        let took = self.load.offer(rate, length)?.took;
        let used = daemon.processor_time()?.saturating_sub(before);
        Ok(used.as_secs_f64() / took.as_secs_f64())
    }

    /// Returns the highest rate that is sustained, to a sixteenth: doubled until it is not, then bisected.
    ///
    /// *Errors*: as [`Session::stretch`].
    pub(crate) fn sustained(&mut self, first_rate: f64, length: Duration) -> Outcome<f64> {
        let (mut best, mut rate) = (0.0_f64, first_rate);
        let mut too_much = RATE_MAX;
        while rate < RATE_MAX {
            let stretch = self.stretch(rate, length)?;
            if !stretch.sustained {
                too_much = rate;
                break;
            }
            best = best.max(stretch.sent_per_second);
            rate *= 2.0;
        }
        let mut low = too_much / 2.0;
        let mut high = too_much;
        for _ in 0..3 {
            let middle = f64::midpoint(low, high);
            let stretch = self.stretch(middle, length)?;
            if stretch.sustained {
                best = best.max(stretch.sent_per_second);
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(best)
    }

    /// Waits until a backlog has cleared.
    fn settle(&self) {
        let start = Instant::now();
        let mut last = (self.watch.count(), Instant::now());
        while start.elapsed() < SETTLE_MAX && last.1.elapsed() < SETTLE_QUIET {
            pause(Duration::from_millis(50));
            let count = self.watch.count();
            if count != last.0 {
                last = (count, Instant::now());
            }
        }
        drop(self.watch.take_latencies());
    }
}
