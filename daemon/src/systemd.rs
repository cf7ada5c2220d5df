//! What the service manager is told: ready, reloading, stopping, a status line, and that work makes progress.
//!
//! The watchdog is fed only while every stage beats: a stage that hangs lets systemd restart the daemon, since disk
//! state is always good enough to start from. Without systemd all of this does nothing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_kit::clock;
use sd_notify::NotifyState;

use crate::status::escape::terminal_safe;

/// Tells that the daemon serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells that the configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell the service manager of the reload"),
    }
}

/// Tells that the daemon stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Sets the status line that `systemctl status` shows.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(&terminal_safe(text))]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Proof of progress of one stage. A stage beats at each turn of its loop, at least every few seconds when idle, and
/// never from a place that goes on when its work does not.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    last_us: Arc<AtomicI64>,
}

impl Heartbeat {
    /// Records progress at the present time.
    pub fn beat(&self) {
        self.beat_at(clock::monotonic_micros());
    }

    /// Records progress at this monotonic time in microseconds since boot.
    pub fn beat_at(&self, monotonic_us: i64) {
        self.last_us.fetch_max(monotonic_us, Ordering::Relaxed);
    }

    /// Ends the stage in good order: it is waited for no more. A heartbeat that is merely dropped stays silent, so a
    /// stage that died starves the watchdog.
    pub fn retire(self) {
        self.last_us.store(RETIRED, Ordering::Relaxed);
    }
}

/// Last beat of a stage that has ended.
const RETIRED: i64 = i64::MAX;

#[derive(Debug)]
struct Registered {
    stage: String,
    last_us: Arc<AtomicI64>,
}

/// The heartbeats of all stages, and the service manager's watchdog that they feed.
#[derive(Debug, Clone, Default)]
pub struct Watchdog {
    stages: Arc<Mutex<Vec<Registered>>>,
}

/// What the watchdog does at one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchdogDecision {
    /// Every stage made progress: tell the service manager.
    Feed,
    /// These stages made none within the interval: say nothing, so that the daemon is restarted.
    Starve(Vec<String>),
}

impl Watchdog {
    /// Returns the heartbeat of a new stage, which has made progress at this monotonic time.
    #[must_use]
    pub fn register(&self, stage: impl Into<String>, monotonic_us: i64) -> Heartbeat {
        let last_us = Arc::new(AtomicI64::new(monotonic_us));
        let registered = Registered { stage: stage.into(), last_us: Arc::clone(&last_us) };
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).push(registered);
        Heartbeat { last_us }
    }

    /// Decides at this monotonic time. Stages that have retired are forgotten.
    #[must_use]
    pub fn decide(&self, monotonic_us: i64, interval: Duration) -> WatchdogDecision {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.retain(|stage| stage.last_us.load(Ordering::Relaxed) != RETIRED);
        let beats = stages.iter().map(|stage| (stage.stage.as_str(), stage.last_us.load(Ordering::Relaxed)));
        decision(beats, monotonic_us, interval)
    }

    /// Feeds the service manager's watchdog until it is dropped; returns at once where there is none. A task of its
    /// own.
    pub async fn feed(self) {
        let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) else {
            return;
        };
        let mut ticks = tokio::time::interval(interval / 2);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_fed = true;
        loop {
            ticks.tick().await;
            match self.decide(clock::monotonic_micros(), interval) {
                WatchdogDecision::Feed => {
                    tell(&[NotifyState::Watchdog]);
                    was_fed = true;
                }
                WatchdogDecision::Starve(stages) if was_fed => {
                    tracing::error!(
                        stages = stages.join(", "),
                        "no progress within the watchdog's interval; the service manager will restart the daemon"
                    );
                    was_fed = false;
                }
                WatchdogDecision::Starve(_) => {}
            }
        }
    }
}

/// Returns what to do when the stages made progress last at these monotonic times.
fn decision<'s>(
    beats: impl Iterator<Item = (&'s str, i64)>,
    monotonic_us: i64,
    interval: Duration,
) -> WatchdogDecision {
    let interval_us = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
    let silent: Vec<String> = beats
        .filter(|(_, last_us)| monotonic_us.saturating_sub(*last_us) >= interval_us)
        .map(|(stage, _)| stage.to_owned())
        .collect();
    if silent.is_empty() { WatchdogDecision::Feed } else { WatchdogDecision::Starve(silent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn one_silent_stage_starves_the_watchdog_and_a_beat_feeds_it_again() {
        let watchdog = Watchdog::default();
        let ingest = watchdog.register("ingest", 0);
        let writer = watchdog.register("writer", 0);
        ingest.beat_at(9_000_000);
        writer.beat_at(1_000_000);
        assert_eq!(watchdog.decide(10_999_999, INTERVAL), WatchdogDecision::Feed);
        assert_eq!(watchdog.decide(11_000_000, INTERVAL), WatchdogDecision::Starve(vec!["writer".into()]));
        writer.beat_at(11_000_000);
        assert_eq!(watchdog.decide(11_000_000, INTERVAL), WatchdogDecision::Feed);
    }

    #[test]
    fn a_stage_that_retired_is_not_waited_for_but_one_that_died_is() {
        let watchdog = Watchdog::default();
        let slot = watchdog.register("slot m", 0);
        watchdog.register("slot n", 0).retire();
        let kept = slot.clone();
        drop(slot);
        assert_eq!(watchdog.decide(60_000_000, INTERVAL), WatchdogDecision::Starve(vec!["slot m".into()]));
        kept.retire();
        assert_eq!(watchdog.decide(60_000_000, INTERVAL), WatchdogDecision::Feed);
    }

    #[test]
    fn the_decision_follows_the_oldest_beat() {
        for (beats, fed) in [
            (vec![], true),
            (vec![("a", 95)], true),
            (vec![("a", 95), ("b", 91)], true),
            (vec![("a", 95), ("b", 90)], false),
            (vec![("a", 200)], true),
            (vec![("a", i64::MIN)], false),
        ] {
            let decided = decision(beats.clone().into_iter(), 100, Duration::from_micros(10));
            assert_eq!(decided == WatchdogDecision::Feed, fed, "{beats:?}");
        }
    }
}
