//! The daemon's counters together with what never changes while it runs, from which every report is made.
//!
//! Shared by the status socket, `/metrics` and the service manager's status line. Never blocks a stage: reading copies
//! numbers under short locks.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use dunlin_kit::clock;

use crate::link::link_board::LinkBoard;
use crate::metrics::Metrics;
use crate::status::rates::{LONG_MICROS, RateRing, SAMPLE_MICROS, SHORT_MICROS, Sample};
use crate::status::report::{Moment, SourceReport, StatusFacts, StatusReport, idle_models, source_reports};
use crate::update::book::ReleaseBook;
use crate::update::import_desk::ImportDesk;
use crate::update::report::ModelsReport;

/// Counters, fixed facts and recent samples of one daemon.
pub struct StatusBoard {
    metrics: Arc<Metrics>,
    facts: StatusFacts,
    ring: Mutex<RateRing>,
    imports: Option<Arc<ImportDesk>>,
    releases: OnceLock<Arc<ReleaseBook>>,
    link: OnceLock<Arc<LinkBoard>>,
}

impl StatusBoard {
    /// Returns a board over these counters.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, facts: StatusFacts) -> Self {
        Self {
            metrics,
            facts,
            ring: Mutex::default(),
            imports: None,
            releases: OnceLock::new(),
            link: OnceLock::new(),
        }
    }

    /// Returns the board with a desk that takes imports.
    #[must_use]
    pub fn with_imports(self, desk: Arc<ImportDesk>) -> Self {
        Self { imports: Some(desk), ..self }
    }

    /// Returns where imports are handed in, where this daemon takes any.
    #[must_use]
    pub fn imports(&self) -> Option<&ImportDesk> {
        self.imports.as_deref()
    }

    /// Returns the counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns what does not change while the daemon runs.
    #[must_use]
    pub fn facts(&self) -> &StatusFacts {
        &self.facts
    }

    /// Makes the book of releases known; the first one stays.
    pub fn show_releases(&self, book: Arc<ReleaseBook>) {
        let _ = self.releases.set(book);
    }

    /// Makes the link to the fleet server known; the first one stays.
    pub fn show_link(&self, link: Arc<LinkBoard>) {
        let _ = self.link.set(link);
    }

    /// Returns the book of releases, once it is open.
    #[must_use]
    pub fn releases(&self) -> Option<&ReleaseBook> {
        self.releases.get().map(Arc::as_ref)
    }

    /// Records a sample for the rates at this monotonic time.
    pub fn record_sample(&self, monotonic_us: i64) {
        let sample = self.sample(monotonic_us);
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).record(sample);
    }

    /// Records a sample each second until it is dropped. A task of its own.
    pub async fn record_samples(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_micros(SAMPLE_MICROS.unsigned_abs()));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.record_sample(clock::monotonic_micros());
        }
    }

    /// Returns the report at this monotonic time.
    #[must_use]
    pub fn report(&self, monotonic_us: i64) -> StatusReport {
        let latest = self.sample(monotonic_us);
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = Moment {
            monotonic_us,
            short: ring.over(SHORT_MICROS, latest),
            long: ring.over(LONG_MICROS, latest),
        };
        drop(ring);
        let states = self.releases().map(ReleaseBook::states).unwrap_or_default();
        let releases = ModelsReport::of(&states, &[], None);
        StatusReport {
            safe_mode: releases.safe_mode,
            fleet: self.link.get().and_then(|link| link.report()),
            idle_models: idle_models(&releases),
            ..StatusReport::of(&self.metrics, &self.facts, &moment)
        }
    }

    /// Returns the counts by source with the last refused payload of each reason.
    #[must_use]
    pub fn sources(&self) -> std::collections::BTreeMap<String, SourceReport> {
        source_reports(&self.metrics)
    }

    fn sample(&self, at_us: i64) -> Sample {
        Sample {
            at_us,
            messages: self.metrics.messages.get(),
            readings: self.metrics.readings.get(),
            predictions: self.metrics.predictions.get(),
            written_bytes: self.metrics.store_counts().written_bytes,
        }
    }
}
