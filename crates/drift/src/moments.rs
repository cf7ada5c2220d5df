//! Mean and spread that merge exactly: sums of whole steps, in which order is nothing.
//!
//! Sums of floating-point numbers depend on their order, so that the same windows merged on two servers would differ. A
//! value is rounded once to a step of the reference's spread, and everything after that is counting.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bins::short;

/// Steps of a standard deviation: rounding adds `1/12` squared steps to the variance, about a millionth of it.
const STEPS_PER_SD: f64 = 256.0;
/// Largest number of steps that is counted: 65,536 standard deviations. Sums of 2⁴⁰ squares stay below 2⁸⁸.
const STEPS_MAX: i64 = 1 << 24;

/// How values become whole steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scale {
    /// Value of step 0. *Units*: the feature's.
    pub centre: f64,
    /// What one step is. *Units*: the feature's. *Range*: above 0.
    pub step: f64,
}

/// Count, mean, spread and extremes of values, in steps of a [`Scale`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moments {
    /// How many values.
    pub count: u64,
    /// Sum of the steps.
    pub sum: i128,
    /// Sum of the squared steps.
    pub squares: u128,
    /// Fewest and most steps; none where there is no value.
    pub range: Option<(i32, i32)>,
}

impl Scale {
    /// Returns the scale of values with this mean and standard deviation.
    #[must_use]
    pub fn of(mean: f64, sd: f64) -> Self {
        // Values that were all alike: what tells them apart at the precision of a 32-bit sensor value is a deviation.
        let least = mean.abs().max(1e-6) * f64::from(f32::EPSILON);
        Self { centre: short(mean), step: short(sd.max(least) / STEPS_PER_SD) }
    }

    /// Returns a value in steps.
    #[must_use]
    pub fn steps(&self, value: f64) -> i32 {
        let steps = ((value - self.centre) / self.step).round();
        steps.clamp(-(STEPS_MAX as f64), STEPS_MAX as f64) as i32
    }

    /// Returns the value of a number of steps.
    #[must_use]
    pub fn value(&self, steps: f64) -> f64 {
        self.centre + steps * self.step
    }

    /// Tells whether what was read from outside can be used.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.centre.is_finite() && self.step.is_finite() && self.step > 0.0
    }
}

impl Moments {
    /// Adds a value in steps.
    pub fn add(&mut self, steps: i32) {
        self.count += 1;
        self.sum += i128::from(steps);
        self.squares += u128::from(steps.unsigned_abs()).pow(2);
        let (low, high) = self.range.unwrap_or((steps, steps));
        self.range = Some((low.min(steps), high.max(steps)));
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.squares = self.squares.saturating_add(other.squares);
        self.range = match (self.range, other.range) {
            (Some((low, high)), Some((lower, higher))) => Some((low.min(lower), high.max(higher))),
            (one, other) => one.or(other),
        };
    }

    /// Returns the mean in steps; none where there is no value.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// Returns the variance in squared steps, of the values themselves (not an estimate from a sample).
    #[must_use]
    pub fn variance(&self) -> Option<f64> {
        let mean = self.mean()?;
        let from_zero = self.squares as f64 / self.count as f64;
        Some((from_zero - mean * mean).max(0.0))
    }

    /// Tells whether count, sums and extremes can belong together: the sums of `count` values between the extremes.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Some((low, high)) = self.range else {
            return self.count == 0 && self.sum == 0 && self.squares == 0;
        };
        let (count, low, high) = (i128::from(self.count), i128::from(low), i128::from(high));
        let extreme = low.unsigned_abs().max(high.unsigned_abs());
        let squares_max = extreme.pow(2).saturating_mul(u128::from(self.count));
        self.count > 0
            && low <= high
            && extreme <= STEPS_MAX as u128
            && (count * low..=count * high).contains(&self.sum)
            && self.squares <= squares_max
            // The mean of squares is never below the square of the mean.
            && self.sum.unsigned_abs().checked_pow(2).is_some_and(|square| square <= self.squares.saturating_mul(u128::from(self.count)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[i32]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|value| moments.add(*value));
        moments
    }

    proptest! {
        #[test]
        fn parts_merge_to_the_whole_and_are_sound(values in prop::collection::vec(-70_000..70_000i32, 0..100), cut in 0..100usize) {
            let (left, right) = values.split_at(cut.min(values.len()));
            let (mut one, mut other) = (of(left), of(right));
            one.merge(&of(right));
            other.merge(&of(left));
            prop_assert_eq!(one, of(&values));
            prop_assert_eq!(other, of(&values));
            prop_assert!(one.is_sound());
        }

        #[test]
        fn mean_and_spread_are_those_of_the_values(values in prop::collection::vec(-50.0..150.0f64, 2..300)) {
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            let scale = Scale::of(20.0, 10.0);
            let mut moments = Moments::default();
            values.iter().for_each(|value| moments.add(scale.steps(*value)));
            prop_assert!((scale.value(moments.mean().unwrap()) - mean).abs() <= scale.step);
            let found = moments.variance().unwrap() * scale.step * scale.step;
            prop_assert!((found - variance).abs() <= 2.0 * scale.step * variance.sqrt() + scale.step.powi(2));
        }
    }

    #[test]
    fn what_is_not_finite_or_far_away_is_counted_at_the_end_of_the_scale() {
        let scale = Scale::of(0.0, 1.0);
        assert_eq!(scale.steps(f64::INFINITY), 1 << 24);
        assert_eq!(scale.steps(-1e300), -(1 << 24));
        assert_eq!(scale.steps(f64::NAN), 0);
    }

    #[test]
    fn sums_that_contradict_each_other_are_no_moments() {
        let sound = of(&[1, 2, 3]);
        assert!(sound.is_sound());
        for wrong in [
            Moments { count: 2, ..sound },
            Moments { sum: 10, ..sound },
            Moments { squares: 11, ..sound },
            Moments { squares: 100, ..sound },
            Moments { range: Some((3, 1)), ..sound },
            Moments { range: None, ..sound },
        ] {
            assert!(!wrong.is_sound(), "{wrong:?}");
        }
    }
}
