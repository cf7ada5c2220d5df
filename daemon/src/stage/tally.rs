//! What one turn of the stage counted, gathered before it goes to the shared counters.
//!
//! Keeps the hot path free of locks: one visit to the counters a turn. Truncates and escapes samples of refused
//! payloads.

use std::collections::BTreeMap;

use dunlin_pipeline::refusal::{Reason, Refusal};

use crate::metrics::{Metrics, RefusedSample, SAMPLE_BYTES_MAX};

/// Name under which messages that no source reads are counted.
pub const NO_SOURCE: &str = "(none)";

#[derive(Debug, Default, Clone)]
struct SourceTally {
    messages: u64,
    accepted: u64,
    refused: BTreeMap<Reason, (u64, Option<RefusedSample>)>,
}

/// Counts of one turn.
#[derive(Debug)]
pub struct Tally {
    names: Vec<String>,
    /// One a source, and a last one for messages without.
    sources: Vec<SourceTally>,
    rows: BTreeMap<(usize, Reason), u64>,
}

impl Tally {
    /// Returns an empty tally for sources of these names, in order, and makes them known to the counters.
    #[must_use]
    pub fn new(mut names: Vec<String>, metrics: &Metrics) -> Self {
        names.iter().for_each(|name| metrics.source(name, |_| {}));
        names.push(NO_SOURCE.to_owned());
        Self { sources: vec![SourceTally::default(); names.len()], names, rows: BTreeMap::new() }
    }

    /// Counts a message that these sources read, with the number of readings it led to.
    pub fn message(&mut self, matched: &[usize], accepted: usize) {
        let none = self.sources.len() - 1;
        for source in matched {
            self.sources[*source].messages += 1;
        }
        let first = matched.first().copied().unwrap_or(none);
        self.sources[first].accepted += accepted as u64;
        if matched.is_empty() {
            self.sources[none].messages += 1;
        }
    }

    /// Counts a refusal of a message.
    pub fn refusal(
        &mut self,
        source: Option<usize>,
        refusal: Refusal,
        topic: &str,
        payload: &[u8],
        at_us: i64,
    ) {
        let source = source.unwrap_or(self.sources.len() - 1);
        let (count, sample) = self.sources[source].refused.entry(refusal.reason).or_default();
        *count += 1;
        // One a turn: a flood of refusals is not to cost a text each.
        sample.get_or_insert_with(|| RefusedSample {
            topic: topic.chars().take(SAMPLE_BYTES_MAX).collect(),
            detail: refusal.detail,
            payload: sample_text(payload),
            at_us,
        });
    }

    /// Counts a row that was not made for a lane.
    pub fn row(&mut self, lane: usize, reason: Reason) {
        *self.rows.entry((lane, reason)).or_default() += 1;
    }

    /// Hands the counts on and starts anew; `rows` gets those of rows by lane.
    pub fn settle(&mut self, metrics: &Metrics, mut rows: impl FnMut(usize, Reason, u64)) {
        for (name, tally) in self.names.iter().zip(&mut self.sources) {
            if tally.messages == 0 && tally.refused.is_empty() && tally.accepted == 0 {
                continue;
            }
            let tally = std::mem::take(tally);
            metrics.source(name, |counts| {
                counts.messages += tally.messages;
                counts.accepted += tally.accepted;
                for (reason, (count, sample)) in tally.refused {
                    *counts.refused.entry(reason.as_str()).or_default() += count;
                    counts.samples.extend(sample.map(|sample| (reason.as_str(), sample)));
                }
            });
        }
        for ((lane, reason), count) in std::mem::take(&mut self.rows) {
            rows(lane, reason, count);
        }
    }
}

fn sample_text(payload: &[u8]) -> String {
    let mut text = String::new();
    for chunk in payload[..payload.len().min(SAMPLE_BYTES_MAX)].utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_short_and_hold_no_control_characters() {
        let payload: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let text = sample_text(&payload);
        assert!(text.len() < 10 * SAMPLE_BYTES_MAX);
        assert!(!text.chars().any(char::is_control), "{text}");
    }

    #[test]
    fn a_turn_is_counted_once() {
        let metrics = Metrics::new(0);
        let mut tally = Tally::new(vec!["s".into()], &metrics);
        tally.message(&[0], 2);
        tally.refusal(None, Refusal::new(Reason::UnknownTopic, "x"), "t", b"p", 5);
        tally.settle(&metrics, |_, _, _| {});
        tally.settle(&metrics, |_, _, _| {});
        let sources = metrics.sources();
        assert_eq!((sources["s"].messages, sources["s"].accepted), (1, 2));
        assert_eq!(sources[NO_SOURCE].refused["unknown_topic"], 1);
    }
}
