//! The recent values of one field, and what is computed of them over a span.
//!
//! Bounded by time and count; reads no clock: "now" is the event time of the row. Stands between an instance's
//! readings and its rows.

use std::collections::VecDeque;

use dunlin_model_package::Aggregate;
use serde::{Deserialize, Serialize};

/// Most points kept for one field of one series: a minute at 1 kHz. The oldest go first.
pub(crate) const POINTS_MAX: usize = 65_536;

/// Points of one field in rising event time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    points: VecDeque<(i64, f64)>,
}

impl History {
    /// Adds a point and forgets those that no span of `span_us` ending at or after it can reach.
    pub(crate) fn push(&mut self, at_us: i64, value: f64, span_us: i64) {
        while self.points.front().is_some_and(|(at, _)| *at <= at_us.saturating_sub(span_us))
            || self.points.len() >= POINTS_MAX
        {
            self.points.pop_front();
        }
        if self.points.back().is_some_and(|(at, _)| *at >= at_us) {
            // Another series of the same field was ahead: keep the order, drop nothing.
            let place = self.points.partition_point(|(at, _)| *at <= at_us);
            self.points.insert(place, (at_us, value));
        } else {
            self.points.push_back((at_us, value));
        }
    }

    /// Returns the aggregate over the points in `(end_us - span, end_us]`, or `None` where there are none; a count of
    /// none is 0.
    #[must_use]
    pub(crate) fn aggregate(&self, aggregate: Aggregate, end_us: i64) -> Option<f64> {
        let start_us = end_us.saturating_sub(aggregate.span()?.as_micros());
        let first = self.points.partition_point(|(at, _)| *at <= start_us);
        let last = self.points.partition_point(|(at, _)| *at <= end_us);
        let values = || self.points.range(first..last.max(first)).map(|(_, value)| *value);
        let count = last.saturating_sub(first);
        if let Aggregate::Count(_) = aggregate {
            return Some(count as f64);
        }
        if count == 0 {
            return None;
        }
        let mean = values().sum::<f64>() / count as f64;
        Some(match aggregate {
            Aggregate::Mean(_) => mean,
            Aggregate::Min(_) => values().fold(f64::INFINITY, f64::min),
            Aggregate::Max(_) => values().fold(f64::NEG_INFINITY, f64::max),
            Aggregate::Sum(_) => values().sum(),
            Aggregate::Std(_) if count == 1 => 0.0,
            Aggregate::Std(_) => {
                (values().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1) as f64).sqrt()
            }
            Aggregate::Slope(_) => self.slope(first..last, mean, end_us),
            Aggregate::Count(_) | Aggregate::Value | Aggregate::Last | Aggregate::Lag(_) => return None,
        })
    }

    /// Least-squares slope per second; times are taken relative to `end_us` so that microseconds since 1970 lose no
    /// digits.
    fn slope(&self, range: std::ops::Range<usize>, mean_value: f64, end_us: i64) -> f64 {
        let seconds = |at_us: i64| at_us.saturating_sub(end_us) as f64 / 1e6;
        let count = range.len() as f64;
        let mean_time = self.points.range(range.clone()).map(|(at, _)| seconds(*at)).sum::<f64>() / count;
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (at, value) in self.points.range(range) {
            let time = seconds(*at) - mean_time;
            covariance += time * (value - mean_value);
            variance += time * time;
        }
        if variance > 0.0 { covariance / variance } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_model_package::Span;
    use proptest::prelude::*;

    const SPAN: Span = Span::from_secs(10);

    fn filled(points: &[(i64, f64)]) -> History {
        let mut history = History::default();
        points.iter().for_each(|(at, value)| history.push(*at, *value, SPAN.as_micros()));
        history
    }

    #[test]
    fn a_span_is_open_at_its_start_and_closed_at_its_end() {
        let history = filled(&[(0, 100.0), (5_000_000, 1.0), (10_000_000, 3.0)]);
        assert_eq!(history.aggregate(Aggregate::Mean(SPAN), 10_000_000), Some(2.0));
        assert_eq!(history.aggregate(Aggregate::Count(SPAN), 10_000_000), Some(2.0));
        assert_eq!(history.aggregate(Aggregate::Std(SPAN), 10_000_000), Some(2.0_f64.sqrt()));
        assert_eq!(history.aggregate(Aggregate::Slope(SPAN), 10_000_000), Some(0.4));
        assert_eq!(history.aggregate(Aggregate::Mean(SPAN), 90_000_000), None);
        assert_eq!(history.aggregate(Aggregate::Count(SPAN), 90_000_000), Some(0.0));
    }

    proptest! {
        #[test]
        fn aggregates_agree_with_their_definition_over_the_points_in_the_span(
            steps in prop::collection::vec((1..4_000_000_i64, -100.0..100.0_f64), 1..60)
        ) {
            let mut at = 1_700_000_000_000_000;
            let points: Vec<(i64, f64)> = steps.iter().map(|(step, value)| { at += step; (at, *value) }).collect();
            let history = filled(&points);
            let kept: Vec<f64> = points.iter().filter(|(t, _)| *t > at - SPAN.as_micros()).map(|(_, v)| *v).collect();
            let sum: f64 = kept.iter().sum();
            let close = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-6;
            prop_assert_eq!(history.aggregate(Aggregate::Count(SPAN), at), Some(kept.len() as f64));
            prop_assert!(close(history.aggregate(Aggregate::Sum(SPAN), at), sum));
            prop_assert!(close(history.aggregate(Aggregate::Mean(SPAN), at), sum / kept.len() as f64));
            prop_assert!(close(history.aggregate(Aggregate::Min(SPAN), at), kept.iter().copied().fold(f64::INFINITY, f64::min)));
            prop_assert!(close(history.aggregate(Aggregate::Max(SPAN), at), kept.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
        }

        #[test]
        fn the_slope_of_a_line_is_its_slope(slope in -10.0..10.0_f64, count in 2..50_i64) {
            let start = 1_700_000_000_000_000_i64;
            let points: Vec<(i64, f64)> = (0..count).map(|i| (start + i * 100_000, slope * i as f64 * 0.1)).collect();
            let found = filled(&points).aggregate(Aggregate::Slope(SPAN), points.last().unwrap().0).unwrap();
            prop_assert!((found - slope).abs() < 1e-6, "{found} {slope}");
        }
    }
}
