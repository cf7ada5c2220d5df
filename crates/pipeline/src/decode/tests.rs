//! Behaviour of decoding, seen through compiled sources alone; specifications are written as users write them.

mod findings;
mod payloads;
mod properties;
mod times;
mod values;

use dunlin_model_package::SourceSpec;

use super::{CompiledSource, Decoded, Record};
use crate::message::{ClockState, Message};
use crate::refusal::Reason;

/// 2026-11-22T12:00:00Z.
const ARRIVAL_US: i64 = 1_795_348_800_000_000;

fn spec(text: &str) -> SourceSpec {
    toml::from_str(text).unwrap()
}

fn source(text: &str) -> CompiledSource {
    CompiledSource::compile(&spec(text)).unwrap()
}

/// A source of topic `t` and this format, with more lines.
fn source_of(format: &str, more: &str) -> CompiledSource {
    source(&format!("name = \"s\"\ntopics = [\"t\"]\nformat = \"{format}\"\n{more}"))
}

fn message<'m>(topic: &'m str, payload: &'m [u8]) -> Message<'m> {
    Message { broker: None, topic, payload, retained: false, arrival_us: ARRIVAL_US, clock: ClockState::Set }
}

fn decode_message(source: &CompiledSource, message: &Message<'_>) -> Decoded {
    let mut out = Decoded::default();
    source.decode(&source.route(message.topic).unwrap(), message, &mut out);
    out
}

fn decode(source: &CompiledSource, payload: impl AsRef<[u8]>) -> Decoded {
    decode_message(source, &message("t", payload.as_ref()))
}

fn reasons(decoded: &Decoded) -> Vec<Reason> {
    decoded.refusals.iter().map(|refusal| refusal.reason).collect()
}

/// The only record of a payload that gives no refusals.
fn one(decoded: &Decoded) -> &Record {
    assert_eq!(decoded.refusals, []);
    assert_eq!(decoded.records.len(), 1);
    &decoded.records[0]
}

fn assert_values(values: &[f64], expected: &[f64]) {
    let same = |(a, b): (&f64, &f64)| (a.is_nan() && b.is_nan()) || (a - b).abs() <= b.abs() * 1e-12;
    assert!(
        values.len() == expected.len() && values.iter().zip(expected).all(same),
        "{values:?}, expected {expected:?}"
    );
}
