//! Hot swaps under load: a release after the other becomes the good one while readings come at an even rate.
//!
//! Publishes ever-new releases of the lab's model, imports each and waits until it is good. Ends with the oracle over all
//! that was predicted, and with what the daemon and its workers hold in memory and on disk.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::broker::{Broker, BrokerPlan};
use crate::daemon::{Daemon, DaemonPlan, resident_bytes};
use crate::failure::{Failure, Outcome};
use crate::onnx;
use crate::oracle::Comparison;
use crate::owner::Owner;
use crate::package::{PackagePlan, lab_expected, lab_readings, publish_release, write_lab};
use crate::stream::{Message, Publisher};
use crate::wait::pause;
use crate::wire::Qos;
use crate::workspace::note;

/// Readings of one send: a tenth of a second at 500 a second.
const PIECE: usize = 50;
/// Readings before the first swap, as fast as they go: the store's caches fill with readings, not with swaps.
const FIRST_READINGS: usize = 20_000;
/// Sensors that take turns, so that window ends are unique over all of them.
const SENSORS: usize = 10;
/// Swaps between two notes of resident memory.
const NOTED: usize = 50;
/// Swaps after which everything has been loaded and freed some times.
pub const WARM: usize = 10;

/// How many swaps, under which load.
#[derive(Debug, Clone, Copy)]
pub struct Swaps {
    /// Swaps. *Range*: more than [`WARM`].
    pub count: usize,
    /// Readings a second.
    pub rate: f64,
    /// Longest wait for the last prediction.
    pub limit: Duration,
}

/// What the swaps came to.
#[derive(Debug, Clone)]
pub struct Swapped {
    /// Predictions against the oracle.
    pub comparison: Comparison,
    /// Swaps.
    pub count: usize,
    /// How long all of them took.
    pub took: Duration,
    /// Resident memory of daemon and workers after [`WARM`] swaps, in bytes.
    pub resident_warm: u64,
    /// Resident memory of daemon and workers after the last swap, in bytes.
    pub resident_last: u64,
    /// Files of releases after the last swap.
    pub blobs: usize,
}

impl fmt::Display for Swapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        let ratio = self.resident_last as f64 / self.resident_warm as f64;
        write!(
            f,
            "{} swaps in {:.1} s; {}; resident {:.1} MiB after {WARM}, {:.1} MiB at the end ({ratio:.3}); {} files",
            self.count,
            self.took.as_secs_f64(),
            self.comparison,
            mib(self.resident_warm),
            mib(self.resident_last),
            self.blobs
        )
    }
}

impl Swaps {
    /// Runs the swaps from a fresh state folder.
    ///
    /// *Errors*: a release did not become good, or something could not be run at all; differences are in the result.
    pub fn run(&self) -> Outcome<Swapped> {
        let folder = tempfile::tempdir()?;
        let broker = Broker::start(&BrokerPlan::default())?;
        let plan = DaemonPlan::new(&write_lab(folder.path())?, folder.path())
            .set("mqtt.url", broker.url())
            .set("update.shadow_predictions", 0)
            .set("update.trial_predictions", 1)
            .set("update.trial_time", "0s");
        let mut daemon = plan.start_ready()?;
        let mut publisher = Publisher::connect(broker.port(), "load")?;
        for first in (0..FIRST_READINGS).step_by(PIECE) {
            publisher.publish_all(&piece(first), Qos::AtLeastOnce)?;
        }
        daemon.wait_readings(FIRST_READINGS as u64)?;
        let done = AtomicBool::new(false);
        let start = Instant::now();
        let (swapped, sent) = thread::scope(|scope| {
            let done = &done;
            let load = scope.spawn(move || send_until(publisher, self.rate, done));
            let swapped = self.swap(folder.path(), &plan, &daemon);
            done.store(true, Ordering::Release);
            (swapped, load.join())
        });
        let sent = sent.map_err(|_| Failure::new("the load ended with a panic"))??;
        let took = start.elapsed();
        let (resident_warm, resident_last) =
            swapped.map_err(|failure| daemon.failure(&failure.to_string()))?;
        daemon.wait_readings(sent as u64)?;
        let export = plan.export_of("double", sent, self.limit)?;
        let comparison = Comparison::of(&lab_expected(sent), &export)?;
        let blobs = std::fs::read_dir(plan.state_dir.join("models/blobs"))?.count();
        Ok(Swapped { comparison, count: self.count, took, resident_warm, resident_last, blobs })
    }

    fn swap(&self, folder: &Path, plan: &DaemonPlan, daemon: &Daemon) -> Outcome<(u64, u64)> {
        let mut owner = Owner::of(folder)?;
        let (repository, package) = (owner.repository(), folder.join("next"));
        let mut warm = 0;
        for swap in 1..=self.count {
            let release = PackagePlan { release: swap as u64 + 1, ..PackagePlan::of_one_value("double") };
            publish_release(&mut owner, &package, &release, &onnx::doubling())?;
            let output = plan.import(&repository, &["--wait"])?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Failure::new(format!("swap {swap}: {}: {said}", output.status)));
            }
            if swap == WARM {
                warm = daemon.resident_bytes()?;
            }
            if swap.is_multiple_of(NOTED) || swap == WARM {
                let (all, own) = (daemon.resident_bytes()?, resident_bytes(daemon.pid())?);
                note(&format!(
                    "{swap} swaps: {} KiB resident, {} KiB the daemon's",
                    all / 1_024,
                    own / 1_024
                ));
            }
        }
        Ok((warm, daemon.resident_bytes()?))
    }
}

/// Goes on with readings at this rate until it is done; returns how many there are in all.
fn send_until(mut publisher: Publisher, rate: f64, done: &AtomicBool) -> Outcome<usize> {
    let start = Instant::now();
    let mut sent = FIRST_READINGS;
    while !done.load(Ordering::Acquire) {
        let due = Duration::from_secs_f64((sent - FIRST_READINGS) as f64 / rate);
        pause(due.saturating_sub(start.elapsed()));
        publisher.publish_all(&piece(sent), Qos::AtLeastOnce)?;
        sent += PIECE;
    }
    Ok(sent)
}

/// Returns the readings of one send.
fn piece(first: usize) -> Vec<Message> {
    (first..first + PIECE).flat_map(|n| lab_readings(&format!("s{}", n % SENSORS), n, 1)).collect()
}
