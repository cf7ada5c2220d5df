//! The metrics as a Prometheus server would read them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::status::report::{BrokerReport, SlotReport, SourceReport};

fn report() -> StatusReport {
    let mut report = StatusReport { version: "0.1.0".into(), predictions: 5, ..StatusReport::default() };
    report.predictions_invalid = 2;
    report.latency_seconds.p50 = Some(0.25);
    report.sources.insert(
        "hall\"\\\n".into(),
        SourceReport { messages: 7, refused: [("syntax".into(), 3)].into(), ..SourceReport::default() },
    );
    report.brokers.insert("mqtt".into(), BrokerReport { connected: true, ..BrokerReport::default() });
    report.slots.insert(
        "m".into(),
        SlotReport {
            state: "ready".into(),
            version: "1".into(),
            digest: "d".into(),
            failed: [("crashed".into(), 4)].into(),
            rows_refused: [("skew".into(), 6)].into(),
            ..SlotReport::default()
        },
    );
    report.store.lost.insert("readings quota_bytes".into(), 8);
    report.store.written_bytes = 9;
    report
}

/// Reads an exposition: types by family and values by sample; panics on what OpenMetrics does not allow.
fn read(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let body = text.strip_suffix("# EOF\n").expect("ends in # EOF");
    let mut family = String::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            family = name.to_owned();
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{name} in {family}"));
            let allowed: &[&str] = match types[&family].as_str() {
                "counter" => &["_total"],
                "summary" => &["", "_sum", "_count"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix), "{line}");
            assert!(sample.matches('{').count() <= 1 && value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "{sample} twice");
        }
    }
    (types, samples)
}

#[test]
fn the_exposition_has_every_metric_once_and_its_values() {
    let text = render(report(), (5, 1.5)).unwrap();
    let (types, samples) = read(&text);
    let expected: BTreeSet<String> =
        names::ALL.iter().map(|m| m.name.strip_suffix("_total").unwrap_or(m.name).to_owned()).collect();
    assert_eq!(types.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (sample, value) in [
        (r#"dunlin_mqtt_messages_total{source="hall\"\\\n",result="matched"}"#, 7.0),
        (r#"dunlin_mqtt_messages_total{source="hall\"\\\n",result="syntax"}"#, 3.0),
        (r#"dunlin_predictions_total{validity="valid"}"#, 3.0),
        (r#"dunlin_slot_state{model="m",state="ready"}"#, 1.0),
        (r#"dunlin_slot_state{model="m",state="failed"}"#, 0.0),
        (r#"dunlin_slot_failures_total{model="m",cause="crashed"}"#, 4.0),
        (r#"dunlin_model_info{model="m",version="1",digest="d"}"#, 1.0),
        (r#"dunlin_rows_refused_total{model="m",reason="skew"}"#, 6.0),
        (r#"dunlin_loss_total{kind="readings",reason="quota_bytes"}"#, 8.0),
        (r#"dunlin_inference_duration_seconds{quantile="0.5"}"#, 0.25),
        ("dunlin_inference_duration_seconds_count", 5.0),
        ("dunlin_store_written_bytes_total", 9.0),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample} in\n{text}");
    }
}

#[test]
fn a_daemon_without_sources_has_a_valid_exposition() {
    read(&render(StatusReport::default(), (0, 0.0)).unwrap());
}
