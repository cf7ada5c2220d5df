//! When to ask the server next: as it told, by a growing series of waits where it is silent, spread over the fleet.
//!
//! Pure: randomness and what was heard come in, a wait goes out. Never reads a clock.

use std::time::Duration;

use super::reaction::Patience;

/// The first question after a start waits a random part of this: a hall of gateways gets its power back at once.
const FIRST_SPREAD: Duration = Duration::from_secs(10);
/// The first and the last bound of the series.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heeded {
    /// How patient to be.
    pub patience: Patience,
    /// What a signed answer told.
    pub told: Option<Duration>,
    /// What `Retry-After` said.
    pub retry_after: Option<Duration>,
}

/// The series of waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Shortest and longest wait that the configuration allows.
    bounds: (Duration, Duration),
    failures: u32,
}

impl Rhythm {
    /// Returns a rhythm within these bounds.
    #[must_use]
    pub const fn within(bounds: (Duration, Duration)) -> Self {
        Self { bounds, failures: 0 }
    }

    /// Takes over the bounds of a new configuration.
    pub const fn set_bounds(&mut self, bounds: (Duration, Duration)) {
        self.bounds = bounds;
    }

    /// Returns how long the first question after a start waits.
    #[must_use]
    pub fn first(random: f64) -> Duration {
        FIRST_SPREAD.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Returns how long to wait after what was heard; `random` is from 0 to 1.
    pub fn wait_after(&mut self, heeded: Heeded, random: f64) -> Duration {
        let (min, max) = self.bounds;
        let random = random.clamp(0.0, 1.0);
        let wait = match (heeded.patience, heeded.told) {
            (Patience::AsTold, Some(told)) => {
                self.failures = 0;
                told
            }
            // Once alone: whoever has to ask a second time backs off.
            (Patience::Next, _) if self.failures == 0 => {
                self.failures = 1;
                Duration::ZERO
            }
            (Patience::Hourly, _) => HOUR.mul_f64(0.75 + random / 2.0),
            (Patience::Daily, _) => DAY.mul_f64(0.75 + random / 2.0),
            (Patience::BackOff | Patience::Next | Patience::AsTold, _) => {
                let doubled = BACK_OFF.0.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
                self.failures = (self.failures + 1).min(31);
                // The randomness comes after the cap, so that a fleet that has reached it is still spread.
                doubled.min(BACK_OFF.1).mul_f64(random)
            }
        };
        // Many are told the same at the same moment: they come back over as long again.
        let retry_after = heeded.retry_after.unwrap_or_default().mul_f64(1.0 + random);
        wait.max(retry_after).clamp(min, max.max(min))
    }

    /// Tells whether the last question had no answer.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(86_400));

    fn heeded(patience: Patience) -> Heeded {
        Heeded { patience, told: None, retry_after: None }
    }

    #[test]
    fn silence_doubles_the_bound_up_to_five_minutes_and_an_answer_ends_it() {
        let mut rhythm = Rhythm::within(BOUNDS);
        let silence = heeded(Patience::BackOff);
        let waits: Vec<u64> = (0..12).map(|_| rhythm.wait_after(silence, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(rhythm.wait_after(silence, 0.0), BOUNDS.0);
        let told = Heeded { told: Some(Duration::from_secs(60)), ..heeded(Patience::AsTold) };
        assert_eq!(rhythm.wait_after(told, 0.3).as_secs(), 60);
        assert_eq!(rhythm.wait_after(silence, 1.0).as_secs(), 1);
    }

    #[test]
    fn retry_after_is_the_least_and_spread_and_the_bounds_are_the_configurations() {
        let mut rhythm = Rhythm::within(BOUNDS);
        let later = Heeded { retry_after: Some(Duration::from_secs(90)), ..heeded(Patience::BackOff) };
        assert_eq!(rhythm.wait_after(later, 0.0).as_secs(), 90);
        assert_eq!(rhythm.wait_after(later, 0.5).as_secs(), 135);
        let week = Heeded { told: Some(7 * DAY), ..heeded(Patience::AsTold) };
        assert_eq!(rhythm.wait_after(week, 0.5), BOUNDS.1);
        let at_once = Heeded { told: Some(Duration::ZERO), ..heeded(Patience::AsTold) };
        assert_eq!(rhythm.wait_after(at_once, 0.5), BOUNDS.0);
    }

    #[test]
    fn a_replayed_question_is_asked_anew_once_and_then_backs_off() {
        let mut rhythm = Rhythm::within(BOUNDS);
        assert_eq!(rhythm.wait_after(heeded(Patience::Next), 1.0), BOUNDS.0);
        assert_eq!(rhythm.wait_after(heeded(Patience::Next), 1.0).as_secs(), 2);
        assert_eq!(rhythm.wait_after(heeded(Patience::Next), 1.0).as_secs(), 4);
    }

    proptest! {
        #[test]
        fn a_hall_of_gateways_is_spread(random in 0.0..=1.0_f64) {
            prop_assert!(Rhythm::first(random) <= FIRST_SPREAD);
            let mut rhythm = Rhythm::within(BOUNDS);
            let last = (0..40).map(|_| rhythm.wait_after(heeded(Patience::BackOff), random)).last().unwrap();
            prop_assert!((last.as_secs_f64() - (300.0 * random).max(0.1)).abs() < 1e-6);
        }
    }
}
