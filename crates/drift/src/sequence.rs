//! Challenger against champion: a confidence sequence of paired differences that may be looked at all the time.
//!
//! Pure. One observation is the mean difference of a report, so that readings that follow one another count once.
//!
//! *Source*: asymptotic confidence sequences, Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (arXiv 2103.06476), equation 3.

use crate::moments::Moments;

/// Steps of a difference of 1: differences are kept as whole millionths, so that they merge exactly.
const STEPS: f64 = 1_000_000.0;
/// Observations before anything is decided: the sequence holds for large numbers.
pub const OBSERVATIONS_MIN: u64 = 20;

/// Paired differences: the champion's loss minus the challenger's. *Range*: −1 to 1; above 0 the challenger is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Differences(Moments);

/// What differences allow to say at any time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Mean difference.
    pub mean: f64,
    /// It is not below this.
    pub lower: f64,
    /// It is not above this.
    pub upper: f64,
}

/// What to do with the challenger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is better than the champion, or worse by less than the margin.
    Promote,
    /// It is worse by more than the margin.
    Revert,
    /// It cannot be told yet.
    Wait,
}

/// When a challenger is good enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Share of comparisons that may be decided wrongly. *Range*: above 0, below 1.
    pub alpha: f64,
    /// Loss that is given up for the challenger; below 0 it has to be better by so much. *Range*: −1 to 1.
    pub margin: f64,
    /// Observations at which the interval is the narrowest that it can be.
    pub sharpest_at: u64,
}

impl Default for Rule {
    fn default() -> Self {
        Self { alpha: 0.05, margin: 0.0, sharpest_at: 200 }
    }
}

impl Differences {
    /// Adds an observation: the mean difference of one report. What is no number does not count.
    pub fn add(&mut self, difference: f64) {
        if difference.is_finite() {
            self.0.add((difference.clamp(-1.0, 1.0) * STEPS).round() as i32);
        }
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.0.merge(&other.0);
    }

    /// Returns how many observations there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.0.count
    }

    /// Returns mean and bounds; none where there are too few observations.
    #[must_use]
    pub fn interval(&self, rule: &Rule) -> Option<Interval> {
        let (mean, variance) = (self.0.mean()? / STEPS, self.0.variance()? / (STEPS * STEPS));
        let count = self.0.count as f64;
        // Differences that were all alike say less than a width of nothing would.
        let sd = variance.sqrt().max(1.0 / count);
        let width = sd * width(count, rho_squared(rule), rule.alpha);
        (self.0.count >= OBSERVATIONS_MIN).then_some(Interval {
            mean,
            lower: mean - width,
            upper: mean + width,
        })
    }

    /// Returns what to do; at any time, and as often as one likes.
    #[must_use]
    pub fn decide(&self, rule: &Rule) -> Decision {
        match self.interval(rule) {
            Some(interval) if interval.lower > -rule.margin => Decision::Promote,
            Some(interval) if interval.upper < -rule.margin => Decision::Revert,
            _ => Decision::Wait,
        }
    }
}

/// Returns the half width in standard deviations after `count` observations.
fn width(count: f64, rho_squared: f64, alpha: f64) -> f64 {
    let grown = count * rho_squared + 1.0;
    (2.0 * grown / (count * count * rho_squared) * (grown.sqrt() / alpha).ln()).sqrt()
}

/// Returns the tuning for which the width is the least after the rule's number of observations. *Source*: ibid., appendix B.2.
fn rho_squared(rule: &Rule) -> f64 {
    let log = -2.0 * rule.alpha.ln();
    (log + (log + 1.0).ln()) / rule.sharpest_at.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Draws;

    /// Looks after each of many observations; returns the first decision.
    fn peeked(seed: u64, shift: f64, rule: &Rule) -> Decision {
        let (mut draws, mut differences) = (Draws(seed), Differences::default());
        for _ in 0..2_000 {
            differences.add((draws.even() + draws.even() - 1.0) * 0.2 + shift);
            match differences.decide(rule) {
                Decision::Wait => {}
                decision => return decision,
            }
        }
        Decision::Wait
    }

    #[test]
    fn of_comparisons_without_a_difference_few_are_decided_however_often_one_looks() {
        let rule = Rule::default();
        let decided = (0..400).filter(|seed| peeked(*seed, 0.0, &rule) != Decision::Wait).count();
        assert!(decided <= 20, "{decided} of 400");
    }

    #[test]
    fn a_difference_of_two_points_is_found_in_its_direction() {
        let rule = Rule::default();
        for seed in 0..50 {
            assert_eq!(peeked(seed, 0.02, &rule), Decision::Promote, "{seed}");
            assert_eq!(peeked(seed + 1_000, -0.02, &rule), Decision::Revert, "{seed}");
        }
    }

    #[test]
    fn a_margin_promotes_what_is_hardly_worse() {
        let rule = Rule { margin: 0.05, ..Rule::default() };
        assert_eq!(peeked(1, -0.01, &rule), Decision::Promote);
        assert_eq!(peeked(1, -0.2, &rule), Decision::Revert);
    }

    #[test]
    fn the_width_is_least_where_it_was_asked_for_relative_to_the_law_of_large_numbers() {
        let rule = Rule { sharpest_at: 500, ..Rule::default() };
        let at_500 = width(500.0, rho_squared(&rule), rule.alpha);
        for other in [10, 100, 2_000, 20_000] {
            let tuned = rho_squared(&Rule { sharpest_at: other, ..rule });
            assert!(width(500.0, tuned, rule.alpha) > at_500, "{other}");
        }
    }

    #[test]
    fn differences_that_are_all_alike_are_no_certainty_and_few_are_none() {
        let mut differences = Differences::default();
        for _ in 0..OBSERVATIONS_MIN - 1 {
            differences.add(0.0);
        }
        assert_eq!(differences.interval(&Rule::default()), None);
        differences.add(f64::NAN);
        differences.add(0.0);
        let interval = differences.interval(&Rule::default()).unwrap();
        assert!(interval.lower < 0.0 && interval.upper > 0.0, "{interval:?}");
    }
}
