//! How fast the counters grow, over the last ten seconds and the last five minutes.
//!
//! Keeps a small ring of samples; pure, the time is passed in. The daemon records one sample a second, whoever makes a
//! report asks for the rates.

use std::collections::VecDeque;

/// The short span of a rate, in microseconds.
pub const SHORT_MICROS: i64 = 10 * 1_000_000;
/// The long span of a rate, in microseconds.
pub const LONG_MICROS: i64 = 300 * 1_000_000;
/// How often a sample is recorded, in microseconds.
pub const SAMPLE_MICROS: i64 = 1_000_000;
/// Samples for the long span at one a second, and the one before it. 40 bytes each: 12 kB.
const SAMPLES_MAX: usize = (LONG_MICROS / SAMPLE_MICROS) as usize + 1;

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Monotonic time in microseconds since boot.
    pub at_us: i64,
    /// Messages handed to the pipeline.
    pub messages: u64,
    /// Readings accepted.
    pub readings: u64,
    /// Predictions made.
    pub predictions: u64,
    /// Bytes that the store wrote.
    pub written_bytes: u64,
}

/// Growth a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Messages a second.
    pub messages: f64,
    /// Readings a second.
    pub readings: f64,
    /// Predictions a second.
    pub predictions: f64,
    /// Bytes a second that the store wrote.
    pub written_bytes: f64,
}

/// The samples of the last five minutes.
#[derive(Debug, Default)]
pub struct RateRing {
    samples: VecDeque<Sample>,
}

impl RateRing {
    /// Adds a sample; one that is not later than the last is ignored.
    pub fn record(&mut self, sample: Sample) {
        if self.samples.back().is_some_and(|last| sample.at_us <= last.at_us) {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Returns the rates from the oldest sample within `span_us` before `latest` up to `latest`, or `None` while
    /// there is none.
    #[must_use]
    pub fn over(&self, span_us: i64, latest: Sample) -> Option<Rates> {
        let from = latest.at_us.saturating_sub(span_us);
        let first = self.samples.iter().find(|sample| sample.at_us >= from)?;
        let seconds = (latest.at_us - first.at_us) as f64 / 1e6;
        if seconds <= 0.0 {
            return None;
        }
        let rate = |last: u64, first: u64| last.saturating_sub(first) as f64 / seconds;
        Some(Rates {
            messages: rate(latest.messages, first.messages),
            readings: rate(latest.readings, first.readings),
            predictions: rate(latest.predictions, first.predictions),
            written_bytes: rate(latest.written_bytes, first.written_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(second: i64, messages: u64) -> Sample {
        Sample { at_us: second * 1_000_000, messages, ..Sample::default() }
    }

    #[test]
    fn a_burst_is_in_the_short_rate_first_and_spread_over_the_long_one() {
        let mut ring = RateRing::default();
        for second in 0..=290 {
            ring.record(sample(second, 0));
        }
        for second in 291..=300 {
            ring.record(sample(second, (second as u64 - 290) * 100));
        }
        let latest = sample(300, 1_000);
        assert_eq!(ring.over(SHORT_MICROS, latest).unwrap().messages, 100.0);
        assert!((ring.over(LONG_MICROS, latest).unwrap().messages - 1_000.0 / 300.0).abs() < 1e-9);
    }

    #[test]
    fn there_is_no_rate_before_time_has_passed() {
        let mut ring = RateRing::default();
        assert_eq!(ring.over(SHORT_MICROS, sample(5, 1)), None);
        ring.record(sample(5, 1));
        assert_eq!(ring.over(SHORT_MICROS, sample(5, 1)), None);
    }

    proptest! {
        #[test]
        fn memory_and_rates_are_bounded(steps in prop::collection::vec((-2_i64..5, 0_u64..50), 1..600)) {
            let mut ring = RateRing::default();
            let (mut second, mut count) = (0, 0);
            let mut latest = sample(0, 0);
            for (wait, more) in steps {
                second += wait;
                count += more;
                latest = sample(second, count);
                ring.record(latest);
                prop_assert!(ring.samples.len() <= SAMPLES_MAX);
            }
            for span in [SHORT_MICROS, LONG_MICROS] {
                if let Some(rates) = ring.over(span, latest) {
                    prop_assert!(rates.messages.is_finite() && rates.messages >= 0.0);
                }
            }
        }
    }
}
