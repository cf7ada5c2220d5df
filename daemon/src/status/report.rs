//! The status report: everything `dunlind status` shows, as one value that is also its JSON form.
//!
//! Made from the counters at one moment; computes the figures that are derived (rates, bytes a prediction, the card's
//! life). Reads no clock and holds no sensor values but the samples of refused payloads in `sources`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::link::link_board::LinkReport;
use crate::metrics::{BrokerCounts, DriftCounts, Metrics, SlotCounts, SourceCounts, StoreCounts};
use crate::status::rates::Rates;
use crate::update::report::ModelsReport;

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct StatusFacts {
    /// Name of the gateway.
    pub gateway: String,
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// The state folder.
    pub state_dir: PathBuf,
    /// Id of the boot the daemon runs in.
    pub boot: String,
    /// Bytes the card endures (`storage.card_endurance`).
    pub card_endurance_bytes: u64,
}

/// Time and rates at the moment of a report.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Monotonic time in microseconds since boot.
    pub monotonic_us: i64,
    /// Rates of the last ten seconds.
    pub short: Option<Rates>,
    /// Rates of the last five minutes.
    pub long: Option<Rates>,
}

/// The state of a daemon at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Name of the gateway.
    pub gateway: String,
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// Its state folder.
    pub state_dir: String,
    /// Id of the boot it runs in.
    pub boot: String,
    /// Whether it is ready, as the service manager is told: a start that is cut before counts as a failed one.
    #[serde(default)]
    pub ready: bool,
    /// Whether safe mode keeps candidates from running.
    #[serde(default)]
    pub safe_mode: bool,
    /// The link to the fleet server, where the gateway belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<LinkReport>,
    /// Messages handed to the pipeline.
    pub messages: u64,
    /// Readings accepted.
    pub readings: u64,
    /// Predictions made, valid or not.
    pub predictions: u64,
    /// Predictions that are not valid.
    pub predictions_invalid: u64,
    /// Publications handed to the broker's connection.
    pub published: u64,
    /// Publications acknowledged by the broker.
    pub published_acked: u64,
    /// Publications sent again.
    pub republished: u64,
    /// Configuration reloads that were accepted.
    pub reloads: u64,
    /// Series known.
    pub series: i64,
    /// QoS 1 messages received and not acknowledged yet, over all brokers.
    pub in_flight: u64,
    /// What waits between the stages.
    pub queues: QueueReport,
    /// Growth a second.
    pub rates: RateReport,
    /// From a message's arrival to its prediction, in seconds.
    pub latency_seconds: LatencyReport,
    /// Brokers by name.
    pub brokers: BTreeMap<String, BrokerReport>,
    /// Slots by model.
    pub slots: BTreeMap<String, SlotReport>,
    /// Configured models of which no release serves or runs beside: they predict nothing.
    #[serde(default)]
    pub idle_models: BTreeMap<String, IdleModelReport>,
    /// The telemetry store.
    pub store: StoreReport,
    /// The counting of inputs and outputs.
    #[serde(default)]
    pub drift: DriftCounts,
    /// Sources by name, without samples of payloads.
    pub sources: BTreeMap<String, SourceReport>,
}

/// What waits between the stages, in elements.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueReport {
    /// Messages waiting for the stage.
    pub deliveries: i64,
    /// Windows full and waiting for a slot.
    pub windows: i64,
    /// Steps waiting for the writer.
    pub steps: i64,
    /// Publications waiting for the publisher.
    pub publications: i64,
}

/// Growth a second by counter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RateReport {
    /// Messages a second.
    pub messages: SpanRates,
    /// Readings a second.
    pub readings: SpanRates,
    /// Predictions a second.
    pub predictions: SpanRates,
}

/// A rate over two spans of time; absent until the daemon has run for a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct SpanRates {
    /// Over the last ten seconds.
    pub last_10s: Option<f64>,
    /// Over the last five minutes.
    pub last_5m: Option<f64>,
}

/// Quantiles of a duration in seconds; absent before the first prediction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// Median.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

/// One broker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BrokerReport {
    /// Address without credentials.
    pub url: String,
    /// Whether the ingest connection stands.
    pub connected: bool,
    /// Connections that were made.
    pub connects: u64,
    /// Messages received.
    pub messages: u64,
    /// Payload bytes received.
    pub payload_bytes: u64,
    /// QoS 1 messages received and not acknowledged yet.
    pub in_flight: u64,
    /// Messages given up.
    pub dropped: u64,
    /// Why the last connection ended or failed.
    pub last_error: Option<String>,
}

/// A configured model that predicts nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IdleModelReport {
    /// `absent`, or how far the release has come that is being tried.
    pub phase: String,
    /// What to do.
    pub remedy: String,
}

/// One model's slot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlotReport {
    /// Version of the package.
    pub version: String,
    /// Digest of the package.
    pub digest: String,
    /// `starting`, `ready`, `waiting` or `failed`.
    pub state: String,
    /// Process id of the worker; 0 for a thread.
    pub pid: u32,
    /// Windows that were run.
    pub windows: u64,
    /// Runs of the engine.
    pub runs: u64,
    /// Windows without outputs by cause.
    pub failed: BTreeMap<String, u64>,
    /// How often a worker was started.
    pub starts: u64,
    /// Resident memory of the worker in bytes.
    pub resident_bytes: u64,
    /// Instances: series keys of this model.
    pub instances: u64,
    /// Rows not made or dropped by reason.
    pub rows_refused: BTreeMap<String, u64>,
    /// Why the slot is not ready, or was not at last.
    pub last_error: Option<String>,
}

/// The telemetry store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreReport {
    /// `ok`, `full`, `read_only` or `failing`, and since when it is not ok.
    pub state: String,
    /// Transactions.
    pub commits: u64,
    /// Readings committed.
    pub readings: u64,
    /// Predictions committed.
    pub predictions: u64,
    /// Bytes written to the card.
    pub written_bytes: u64,
    /// Bytes written a committed prediction.
    pub bytes_per_prediction: Option<f64>,
    /// Megabytes (10^6) written a day at the rate of the last five minutes.
    pub megabytes_per_day: Option<f64>,
    /// Years until the card's endurance is used up at that rate.
    pub card_life_years: Option<f64>,
    /// Largest size the store may take, in bytes.
    pub quota_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Rows of the loss ledger by kind and reason.
    pub lost: BTreeMap<String, u64>,
    /// Batches whose checksum was wrong.
    pub quarantined: u64,
    /// Last sequence number on disk.
    pub last_sequence: u64,
    /// The last error of the store.
    pub last_error: Option<String>,
}

/// One source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Messages that matched the source.
    pub messages: u64,
    /// Readings that were accepted.
    pub accepted: u64,
    /// Refusals by reason.
    pub refused: BTreeMap<String, u64>,
    /// The latest refusal.
    pub last_error: Option<SourceError>,
    /// The last refused payload by reason; only where `sources` was asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub samples: BTreeMap<String, SampleReport>,
}

/// The latest refusal of a source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceError {
    /// Why.
    pub reason: String,
    /// Topic of the message.
    pub topic: String,
    /// Which object, in words.
    pub detail: String,
    /// When, in microseconds since 1970.
    pub at_us: i64,
}

/// A refused payload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleReport {
    /// Topic of the message.
    pub topic: String,
    /// Which object, in words.
    pub detail: String,
    /// The payload's beginning, with control characters escaped.
    pub payload: String,
    /// When, in microseconds since 1970.
    pub at_us: i64,
}

/// Length of a year in seconds, for the card's life.
const YEAR_SECONDS: f64 = 365.25 * 86_400.0;

impl StatusReport {
    /// Returns the report at a moment.
    #[must_use]
    pub fn of(metrics: &Metrics, facts: &StatusFacts, moment: &Moment) -> Self {
        let brokers: BTreeMap<_, _> =
            metrics.brokers().into_iter().map(|(name, counts)| (name, counts.into())).collect();
        let sources = source_reports(metrics)
            .into_iter()
            .map(|(name, report)| (name, SourceReport { samples: BTreeMap::new(), ..report }));
        Self {
            gateway: facts.gateway.clone(),
            version: facts.version.clone(),
            pid: facts.pid,
            fleet: None,
            uptime_seconds: (moment.monotonic_us - metrics.started_us).max(0) as f64 / 1e6,
            state_dir: facts.state_dir.display().to_string(),
            boot: facts.boot.clone(),
            ready: metrics.ready.get() != 0,
            safe_mode: false,
            messages: metrics.messages.get(),
            readings: metrics.readings.get(),
            predictions: metrics.predictions.get(),
            predictions_invalid: metrics.predictions_invalid.get(),
            published: metrics.published.get(),
            published_acked: metrics.published_acked.get(),
            republished: metrics.republished.get(),
            reloads: metrics.reloads.get(),
            series: metrics.series.get(),
            drift: metrics.drift_counts(),
            in_flight: brokers.values().map(|broker: &BrokerReport| broker.in_flight).sum(),
            queues: QueueReport {
                deliveries: metrics.deliveries_waiting.get(),
                windows: metrics.windows_waiting.get(),
                steps: metrics.steps_waiting.get(),
                publications: metrics.publications_waiting.get(),
            },
            rates: rate_report(moment),
            latency_seconds: LatencyReport {
                p50: metrics.latency_quantile(0.5),
                p95: metrics.latency_quantile(0.95),
                p99: metrics.latency_quantile(0.99),
            },
            brokers,
            slots: metrics.slots().into_iter().map(|(name, counts)| (name, counts.into())).collect(),
            idle_models: BTreeMap::new(),
            store: store_report(metrics.store_counts(), facts, moment.long),
            sources: sources.collect(),
        }
    }
}

/// Returns the counts by source with the last refused payload of each reason.
#[must_use]
pub fn source_reports(metrics: &Metrics) -> BTreeMap<String, SourceReport> {
    metrics.sources().into_iter().map(|(name, counts)| (name, counts.into())).collect()
}

/// Returns what is to be done for the models of which nothing runs.
#[must_use]
pub fn idle_models(models: &ModelsReport) -> BTreeMap<String, IdleModelReport> {
    let idle = models.models.iter().filter(|(_, model)| model.lanes.is_empty());
    idle.map(|(name, model)| {
        let remedy = match (&model.candidate, model.bad.last()) {
            (Some(_), _) if models.safe_mode => "ends with safe mode: see `dunlind models`".to_owned(),
            (Some(_), _) => "its first release is on its way: see `dunlind models`".to_owned(),
            (None, Some(bad)) => {
                let code = &bad.code;
                format!(
                    "release {} is bad ({code}): import one that is not; see `dunlind models`",
                    bad.release.counter
                )
            }
            (None, None) => {
                "import a release with `dunlind import`, or name its bundle as `package` in its `[[model]]`"
                    .to_owned()
            }
        };
        (name.clone(), IdleModelReport { phase: model.phase.clone(), remedy })
    })
    .collect()
}

fn rate_report(moment: &Moment) -> RateReport {
    let rates = |pick: fn(&Rates) -> f64| SpanRates {
        last_10s: moment.short.as_ref().map(pick),
        last_5m: moment.long.as_ref().map(pick),
    };
    RateReport {
        messages: rates(|rates| rates.messages),
        readings: rates(|rates| rates.readings),
        predictions: rates(|rates| rates.predictions),
    }
}

fn store_report(counts: StoreCounts, facts: &StatusFacts, rates: Option<Rates>) -> StoreReport {
    let bytes_a_second = rates.map(|rates| rates.written_bytes);
    let left = facts.card_endurance_bytes.saturating_sub(counts.written_bytes) as f64;
    StoreReport {
        bytes_per_prediction: (counts.predictions > 0)
            .then(|| counts.written_bytes as f64 / counts.predictions as f64),
        megabytes_per_day: bytes_a_second.map(|rate| rate * 86_400.0 / 1e6),
        card_life_years: bytes_a_second.filter(|rate| *rate > 0.0).map(|rate| left / rate / YEAR_SECONDS),
        state: counts.state,
        commits: counts.commits,
        readings: counts.readings,
        predictions: counts.predictions,
        written_bytes: counts.written_bytes,
        quota_bytes: counts.quota_bytes,
        used_bytes: counts.used_bytes,
        free_bytes: counts.free_bytes,
        lost: counts.lost,
        quarantined: counts.quarantined,
        last_sequence: counts.last_sequence,
        last_error: counts.last_error,
    }
}

fn owned(counts: BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect()
}

impl From<SourceCounts> for SourceReport {
    fn from(counts: SourceCounts) -> Self {
        let latest = counts.samples.iter().max_by_key(|(_, sample)| sample.at_us);
        let last_error = latest.map(|(reason, sample)| SourceError {
            reason: (*reason).to_owned(),
            topic: sample.topic.clone(),
            detail: sample.detail.clone(),
            at_us: sample.at_us,
        });
        let samples = counts.samples.into_iter().map(|(reason, sample)| {
            let report = SampleReport {
                topic: sample.topic,
                detail: sample.detail,
                payload: sample.payload,
                at_us: sample.at_us,
            };
            (reason.to_owned(), report)
        });
        Self {
            messages: counts.messages,
            accepted: counts.accepted,
            refused: owned(counts.refused),
            last_error,
            samples: samples.collect(),
        }
    }
}

impl From<SlotCounts> for SlotReport {
    fn from(counts: SlotCounts) -> Self {
        Self {
            version: counts.version,
            digest: counts.digest,
            state: counts.state,
            pid: counts.pid,
            windows: counts.windows,
            runs: counts.runs,
            failed: owned(counts.failed),
            starts: counts.starts,
            resident_bytes: counts.resident_bytes,
            instances: counts.instances,
            rows_refused: owned(counts.rows_refused),
            last_error: counts.last_error,
        }
    }
}

impl From<BrokerCounts> for BrokerReport {
    fn from(counts: BrokerCounts) -> Self {
        Self {
            url: counts.url,
            connected: counts.connected,
            connects: counts.connects,
            messages: counts.messages,
            payload_bytes: counts.payload_bytes,
            in_flight: counts.in_flight,
            dropped: counts.dropped,
            last_error: counts.last_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> StatusFacts {
        StatusFacts {
            gateway: "g".into(),
            version: "1".into(),
            pid: 7,
            state_dir: "/s".into(),
            boot: "b".into(),
            card_endurance_bytes: 1_000_000_000,
        }
    }

    #[test]
    fn derived_figures_follow_from_counters_and_rates() {
        let metrics = Metrics::new(1_000_000);
        metrics.store(|store| {
            store.written_bytes = 400;
            store.predictions = 4;
        });
        metrics.broker("a", |broker| broker.in_flight = 3);
        metrics.broker("b", |broker| broker.in_flight = 4);
        let long = Some(Rates { written_bytes: 10.0, messages: 2.0, ..Rates::default() });
        let report =
            StatusReport::of(&metrics, &facts(), &Moment { monotonic_us: 3_500_000, short: None, long });
        assert_eq!(report.uptime_seconds, 2.5);
        assert_eq!(report.in_flight, 7);
        assert_eq!(report.store.bytes_per_prediction, Some(100.0));
        assert_eq!(report.store.megabytes_per_day, Some(0.864));
        assert!((report.store.card_life_years.unwrap() - 3.17).abs() < 0.01);
        assert_eq!(report.rates.messages, SpanRates { last_10s: None, last_5m: Some(2.0) });
    }

    #[test]
    fn the_json_form_reads_back_and_has_the_promised_keys() {
        let metrics = Metrics::new(0);
        metrics.source("s", |source| {
            source.refused.insert("syntax", 2);
            source.samples.insert("syntax", crate::metrics::RefusedSample { at_us: 5, ..Default::default() });
        });
        metrics.slot("m", |slot| slot.state = "ready".into());
        metrics.record_latency(0.002);
        let report =
            StatusReport::of(&metrics, &facts(), &Moment { monotonic_us: 1, short: None, long: None });
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(serde_json::from_value::<StatusReport>(json.clone()).unwrap(), report);
        for key in [
            "gateway",
            "version",
            "pid",
            "uptime_seconds",
            "messages",
            "readings",
            "predictions",
            "predictions_invalid",
            "published",
            "published_acked",
            "series",
            "in_flight",
            "queues",
            "rates",
            "latency_seconds",
            "brokers",
            "slots",
            "store",
            "sources",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["sources"]["s"]["last_error"]["reason"], "syntax");
        assert!(json["sources"]["s"].get("samples").is_none());
    }

    #[test]
    fn models_of_which_nothing_runs_are_told_with_what_to_do() {
        use crate::store::StoredModels;
        use crate::update::machine::{BadRelease, Candidate, ModelState, Phase};
        use crate::update::release::{Reason, SelfTest};
        use crate::update::tests::signed;

        let bad = BadRelease {
            release: signed(3).release,
            reason: Reason::SelfTest(SelfTest::Golden),
            detail: String::new(),
            at_us: 0,
        };
        let candidate = Candidate { release: signed(4).release, phase: Phase::Fetching, tries_used: 0 };
        let states = [
            ("new", ModelState::default()),
            ("refused", ModelState { bad: vec![bad], ..ModelState::default() }),
            ("coming", ModelState { candidate: Some(candidate), ..ModelState::default() }),
            ("runs", ModelState { active: Some(signed(1).release), ..ModelState::default() }),
        ];
        let models = states.into_iter().map(|(name, state)| (name.to_owned(), state)).collect();
        let stored = StoredModels { models, ..StoredModels::default() };
        let idle = idle_models(&ModelsReport::of(&stored, &[], Some(3)));
        let told: Vec<_> = idle.iter().map(|(name, it)| (name.as_str(), it.phase.as_str())).collect();
        assert_eq!(told, [("coming", "fetching"), ("new", "absent"), ("refused", "absent")]);
        assert!(idle["new"].remedy.contains("dunlind import"));
        assert!(idle["refused"].remedy.contains("release 3 is bad (selftest:golden)"));
    }
}
