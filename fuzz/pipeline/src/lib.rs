//! What the targets of the pipeline share: compiled sources, and the properties of every decoded payload.
//!
//! Knows no format. Each target brings the sources of one format and hands over payloads.

pub mod core;

use dunlin_model_package::SourceSpec;
use dunlin_pipeline::decode::{CompiledSource, Decoded, RECORDS_MAX, REFUSALS_MAX, Record, TAG_BYTES_MAX};
use dunlin_pipeline::message::{ClockState, Message};

/// When every message arrives, in microseconds since 1970: 2026-11-22.
pub const ARRIVAL_US: i64 = 1_795_348_800_000_000;
/// The topic of every message.
pub const TOPIC: &str = "plant/press/7";

/// Sources of one format.
pub struct Sources(Vec<(SourceSpec, CompiledSource)>);

impl Sources {
    /// Compiles sources that are written as in a configuration; `topics` is added.
    #[must_use]
    pub fn of(texts: &[&str]) -> Self {
        let source = |(index, text): (usize, &&str)| {
            let text = format!("name = \"s{index}\"\ntopics = [\"plant/{{machine}}/+\"]\n{text}");
            let spec: SourceSpec = toml::from_str(&text).expect("the source is one");
            let compiled = CompiledSource::compile(&spec).expect("the source compiles");
            (spec, compiled)
        };
        Self(texts.iter().enumerate().map(source).collect())
    }

    /// Decodes a payload; the first byte chooses the source, the second the circumstances.
    pub fn check(&self, data: &[u8]) {
        let [choice, circumstances, payload @ ..] = data else { return };
        let (spec, source) = &self.0[usize::from(*choice) % self.0.len()];
        let clock = if circumstances & 2 == 0 { ClockState::Set } else { ClockState::Unset };
        let retained = circumstances & 1 == 1;
        let message =
            Message { broker: None, topic: TOPIC, payload, retained, arrival_us: ARRIVAL_US, clock };
        let route = source.route(TOPIC).expect("the topic is the source's");
        let mut decoded = Decoded::default();
        source.decode(&route, &message, &mut decoded);
        assert!(decoded.records.len() <= RECORDS_MAX && decoded.refusals.len() <= REFUSALS_MAX);
        assert!(decoded.refusals.iter().all(|refusal| refusal.detail.len() < 1_024), "details stay short");
        for record in &decoded.records {
            check_record(spec, source, &message, record);
        }

        let mut again = Decoded::default();
        source.decode(&route, &message, &mut again);
        assert_eq!(again.refusals, decoded.refusals);
        assert_eq!(
            format!("{:?}", again.records),
            format!("{:?}", decoded.records),
            "decoding keeps no state"
        );
    }
}

fn check_record(spec: &SourceSpec, source: &CompiledSource, message: &Message<'_>, record: &Record) {
    assert_eq!(record.values.len(), source.field_names().len());
    assert!(record.values.iter().all(|value| !value.is_infinite()), "a value is finite or missing");
    assert!(record.values.iter().any(|value| !value.is_nan()), "a record has a value");
    for (value, field) in record.values.iter().zip(spec.fields.values()) {
        if let Some([low, high]) = field.range {
            assert!(value.is_nan() || (low..=high).contains(value), "{value} is out of range");
        }
    }
    assert_eq!(record.tags.len(), source.tag_names().len());
    assert!(record.tags.iter().all(|tag| !tag.is_empty() && tag.len() <= TAG_BYTES_MAX));
    if message.clock == ClockState::Set {
        assert!(record.event_us <= message.arrival_us + spec.time.skew_max.as_micros());
        let age_max = spec.time.age_max.map_or(i64::MAX, |age| age.as_micros());
        assert!(message.arrival_us.saturating_sub(record.event_us) <= age_max);
    }
}
