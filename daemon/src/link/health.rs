//! How the gateway does, as figures that come with each question.
//!
//! Made of the status board's report and the lanes' counts; holds no sensor values.

use dunlin_protocol::List;
use dunlin_protocol::health::{Activity, Counts, Health, Latency, Transfer};

use super::facts::{memory_bytes, name};
use super::report::role;
use crate::status::report::StatusReport;
use crate::update::import_desk::ImportDesk;
use crate::update::report::{CountsReport, ModelsReport};

/// Windows from which a 99th percentile is more than their slowest.
const TIMED_MIN: u64 = 100;

/// Returns the figures, without what waits and what was spent: those are the upload's.
#[must_use]
pub fn health_of(status: &StatusReport, models: &ModelsReport, desk: &ImportDesk) -> Health {
    let (resident_bytes, load) = own_figures();
    let sources = status.sources.values();
    let activity = models.models.iter().flat_map(|(model, report)| {
        report.lanes.iter().map(move |lane| {
            let starts =
                status.slots.get(model).filter(|slot| slot.digest == lane.release.digest.to_string());
            Activity {
                model: name(model),
                role: role(&lane.role),
                release: lane.release.digest,
                counts: counts(lane.counts.as_ref(), starts.map_or(0, |slot| slot.starts)),
                latency: latency(lane.counts.as_ref()),
            }
        })
    });
    let transfers = desk.transfers().into_iter();
    Health {
        uptime_s: status.uptime_seconds.max(0.0) as u64,
        memory_available_bytes: memory_bytes("MemAvailable:"),
        resident_bytes,
        load,
        temperature_c: temperature(),
        disk_free_bytes: status.store.free_bytes,
        store_bytes: status.store.used_bytes,
        written_bytes: status.store.written_bytes,
        brokers: status.brokers.len() as u32,
        brokers_connected: status.brokers.values().filter(|broker| broker.connected).count() as u32,
        messages: status.messages,
        readings: status.readings,
        refused: sources.flat_map(|source| source.refused.values()).sum(),
        predictions: status.predictions,
        activity: List::first_of(activity),
        waiting: List::default(),
        transfers: List::first_of(transfers.map(|(release, (fetched_bytes, total_bytes))| Transfer {
            release,
            fetched_bytes,
            total_bytes,
        })),
        spent: List::default(),
    }
}

fn counts(counts: Option<&CountsReport>, worker_starts: u64) -> Counts {
    let Some(counts) = counts else { return Counts { worker_starts, ..Counts::default() } };
    Counts {
        predictions: counts.predictions,
        invalid: counts.invalid,
        failed: counts.failed,
        slow: counts.slow,
        abstained: counts.abstained,
        compared: counts.compared,
        agreed: counts.agreed,
        // JSON has no infinity.
        difference_max: if counts.difference_max.is_finite() { counts.difference_max } else { f64::MAX },
        worker_starts,
    }
}

/// Returns how long windows take, once there are enough to tell.
fn latency(counts: Option<&CountsReport>) -> Latency {
    let told = counts.filter(|counts| counts.timed >= TIMED_MIN);
    told.map_or_else(Latency::default, |counts| Latency {
        count: counts.timed,
        p50_us: counts.p50_us,
        p99_us: counts.p99_us,
    })
}

/// Returns the daemon's resident memory in bytes, and the system's load over a minute.
fn own_figures() -> (u64, Option<f64>) {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let resident = read("/proc/self/status").lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    });
    let load = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok());
    (resident.unwrap_or(0).saturating_mul(1_024), load)
}

/// Returns the temperature of the processor, where the system tells it.
fn temperature() -> Option<f64> {
    let text = std::fs::read_to_string("/sys/class/thermal/thermal_zone0/temp").ok()?;
    let thousandths: f64 = text.trim().parse().ok()?;
    Some(thousandths / 1_000.0)
}
