//! The counters in the text form that Prometheus and OpenMetrics collectors read.
//!
//! Made anew at each scrape from one copy of the counters; holds no state. Names and help texts come from
//! `metric_names`. Served by `http`.

use std::fmt::{self, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::status::StatusReport;
use crate::status::metric_names::{self as names, MetricName};

/// Media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// States that a slot can be in: each is a series of `dunlin_slot_state`.
const SLOT_STATES: [&str; 4] = ["starting", "ready", "waiting", "failed"];

/// Returns the exposition of a report.
///
/// `latency` is the count and the sum in seconds of the recorded latencies.
///
/// *Errors*: none in practice; those of writing to a `String`.
pub fn render(report: StatusReport, latency: (u64, f64)) -> Result<String, fmt::Error> {
    let mut summary = String::new();
    push_latency(&mut summary, &report, latency)?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ReportCollector(report)));
    let mut out = String::with_capacity(8 * 1024);
    text::encode_registry(&mut out, &registry)?;
    out.push_str(&summary);
    text::encode_eof(&mut out)?;
    Ok(out)
}

/// The client library has no summaries: the quantiles of the latency are written here.
fn push_latency(out: &mut String, report: &StatusReport, (count, sum): (u64, f64)) -> fmt::Result {
    let MetricName { name, help } = names::INFERENCE_DURATION;
    writeln!(out, "# HELP {name} {help}")?;
    writeln!(out, "# TYPE {name} summary")?;
    let latency = &report.latency_seconds;
    for (quantile, value) in [("0.5", latency.p50), ("0.95", latency.p95), ("0.99", latency.p99)] {
        if let Some(value) = value {
            writeln!(out, "{name}{{quantile=\"{quantile}\"}} {value}")?;
        }
    }
    writeln!(out, "{name}_sum {sum}")?;
    writeln!(out, "{name}_count {count}")
}

#[derive(Debug)]
struct ReportCollector(StatusReport);

/// Labels of one value: name and value pairs.
type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

/// Writes a family of counters.
fn counters<'l, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: MetricName,
    values: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
) -> fmt::Result {
    let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    let mut family = encoder.encode_descriptor(name, metric.help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Writes a family of gauges.
fn gauges<'l, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: MetricName,
    values: impl IntoIterator<Item = (Labels<'l, N>, f64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(metric.name, metric.help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Writes a counter without labels.
fn counter(encoder: &mut DescriptorEncoder<'_>, metric: MetricName, value: u64) -> fmt::Result {
    let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    ConstCounter::new(value).encode(encoder.encode_descriptor(
        name,
        metric.help,
        None,
        MetricType::Counter,
    )?)
}

/// Writes a gauge without labels.
fn gauge(encoder: &mut DescriptorEncoder<'_>, metric: MetricName, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(
        metric.name,
        metric.help,
        None,
        MetricType::Gauge,
    )?)
}

impl Collector for ReportCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_flow(&mut encoder, &self.0)?;
        encode_brokers(&mut encoder, &self.0)?;
        encode_slots(&mut encoder, &self.0)?;
        encode_drift(&mut encoder, &self.0)?;
        encode_store(&mut encoder, &self.0)
    }
}

fn encode_flow(to: &mut DescriptorEncoder<'_>, report: &StatusReport) -> fmt::Result {
    let sources = &report.sources;
    let messages = sources.iter().flat_map(|(source, counts)| {
        let refused = counts.refused.iter().map(|(reason, count)| (reason.as_str(), *count));
        std::iter::once(("matched", counts.messages))
            .chain(refused)
            .map(move |(result, count)| ([("source", source.as_str()), ("result", result)], count))
    });
    counters(to, names::MQTT_MESSAGES, messages)?;
    counters(to, names::READINGS, sources.iter().map(|(name, c)| ([("source", name.as_str())], c.accepted)))?;
    let valid = report.predictions.saturating_sub(report.predictions_invalid);
    counters(
        to,
        names::PREDICTIONS,
        [([("validity", "valid")], valid), ([("validity", "invalid")], report.predictions_invalid)],
    )?;
    counters(
        to,
        names::PUBLISHED,
        [
            ([("result", "sent")], report.published),
            ([("result", "acknowledged")], report.published_acked),
            ([("result", "repeated")], report.republished),
        ],
    )?;
    gauge(to, names::SERIES, report.series as f64)?;
    let queues = &report.queues;
    let waiting = [
        ("deliveries", queues.deliveries),
        ("windows", queues.windows),
        ("steps", queues.steps),
        ("publications", queues.publications),
    ];
    gauges(to, names::QUEUE, waiting.map(|(queue, count)| ([("queue", queue)], count as f64)))?;
    counter(to, names::RELOADS, report.reloads)?;
    gauge(to, names::UPTIME, report.uptime_seconds)?;
    gauges(to, names::BUILD_INFO, [([("version", report.version.as_str())], 1.0)])
}

fn encode_drift(to: &mut DescriptorEncoder<'_>, report: &StatusReport) -> fmt::Result {
    let drift = &report.drift;
    counter(to, names::DRIFT_WINDOWS, drift.windows_reported)?;
    gauge(to, names::DRIFT_SENSORS, drift.sensors as f64)?;
    let faulty = drift.faulty.iter().map(|(flaw, count)| ([("flaw", flaw.as_str())], *count as f64));
    gauges(to, names::DRIFT_FAULTY_SENSORS, faulty)
}

fn encode_brokers(to: &mut DescriptorEncoder<'_>, report: &StatusReport) -> fmt::Result {
    let brokers = || report.brokers.iter().map(|(name, broker)| ([("broker", name.as_str())], broker));
    gauges(to, names::MQTT_CONNECTED, brokers().map(|(l, b)| (l, f64::from(u8::from(b.connected)))))?;
    counters(to, names::MQTT_CONNECTS, brokers().map(|(l, b)| (l, b.connects)))?;
    counters(to, names::MQTT_PAYLOAD_BYTES, brokers().map(|(l, b)| (l, b.payload_bytes)))?;
    gauges(to, names::MQTT_IN_FLIGHT, brokers().map(|(l, b)| (l, b.in_flight as f64)))?;
    counters(to, names::MQTT_DROPPED, brokers().map(|(l, b)| (l, b.dropped)))
}

fn encode_slots(to: &mut DescriptorEncoder<'_>, report: &StatusReport) -> fmt::Result {
    let slots = || report.slots.iter().map(|(name, slot)| ([("model", name.as_str())], slot));
    let info = report.slots.iter().map(|(model, slot)| {
        let labels =
            [("model", model.as_str()), ("version", slot.version.as_str()), ("digest", slot.digest.as_str())];
        (labels, 1.0)
    });
    gauges(to, names::MODEL_INFO, info)?;
    let states = report.slots.iter().flat_map(|(model, slot)| {
        SLOT_STATES.map(|state| {
            let holds = slot.state.split_whitespace().next() == Some(state);
            ([("model", model.as_str()), ("state", state)], f64::from(u8::from(holds)))
        })
    });
    gauges(to, names::SLOT_STATE, states)?;
    counters(to, names::SLOT_WINDOWS, slots().map(|(l, s)| (l, s.windows)))?;
    counters(to, names::SLOT_RUNS, slots().map(|(l, s)| (l, s.runs)))?;
    let failures = report.slots.iter().flat_map(|(model, slot)| {
        slot.failed.iter().map(move |(cause, n)| ([("model", model.as_str()), ("cause", cause.as_str())], *n))
    });
    counters(to, names::SLOT_FAILURES, failures)?;
    counters(to, names::SLOT_STARTS, slots().map(|(l, s)| (l, s.starts)))?;
    gauges(to, names::SLOT_RESIDENT_BYTES, slots().map(|(l, s)| (l, s.resident_bytes as f64)))?;
    gauges(to, names::SLOT_INSTANCES, slots().map(|(l, s)| (l, s.instances as f64)))?;
    let refused = report.slots.iter().flat_map(|(model, slot)| {
        let by_reason = slot.rows_refused.iter();
        by_reason.map(move |(reason, n)| ([("model", model.as_str()), ("reason", reason.as_str())], *n))
    });
    counters(to, names::ROWS_REFUSED, refused)
}

fn encode_store(to: &mut DescriptorEncoder<'_>, report: &StatusReport) -> fmt::Result {
    let store = &report.store;
    counter(to, names::STORE_COMMITS, store.commits)?;
    counter(to, names::STORE_WRITTEN_BYTES, store.written_bytes)?;
    counter(to, names::STORE_READINGS, store.readings)?;
    counter(to, names::STORE_PREDICTIONS, store.predictions)?;
    gauge(to, names::STORE_USED_BYTES, store.used_bytes as f64)?;
    gauge(to, names::STORE_QUOTA_BYTES, store.quota_bytes as f64)?;
    gauge(to, names::STORE_FREE_BYTES, store.free_bytes as f64)?;
    gauge(to, names::STORE_OK, f64::from(u8::from(store.state == "ok")))?;
    counter(to, names::STORE_QUARANTINED, store.quarantined)?;
    let lost = store.lost.iter().map(|(what, count)| {
        let (kind, reason) = split_loss(what);
        ([("kind", kind), ("reason", reason)], *count)
    });
    counters(to, names::LOSS, lost)
}

/// Splits a key of `StoreCounts::lost` into kind and reason: both are words of letters and `_`.
fn split_loss(what: &str) -> (&str, &str) {
    what.split_once(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or((what, ""))
}

#[cfg(test)]
#[path = "exposition/tests.rs"]
mod tests;
