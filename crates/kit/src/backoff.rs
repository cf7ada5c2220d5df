//! Waiting times between attempts: doubled, capped, then jittered over their whole length.
//!
//! Computes durations from a random number that is passed in; never sleeps. The jitter comes after the cap, so that
//! a fleet that has reached the cap is still spread.

use std::time::Duration;

/// A growing series of waiting times.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// Returns a series that starts at `first` and never exceeds `cap`.
    #[must_use]
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, attempt: 0 }
    }

    /// Returns the next waiting time for a random number from 0 to 1: between half and all of the capped length.
    pub fn next_wait(&mut self, random: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(self.attempt).unwrap_or(u32::MAX));
        self.attempt = (self.attempt + 1).min(31);
        doubled.min(self.cap).mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }

    /// Starts again at the first length, after a success.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Returns how many waiting times were given since the start.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempt
    }
}

/// Returns a random number from 0 to 1 from the operating system, or 0.5 where it has none.
#[must_use]
pub fn random_unit() -> f64 {
    getrandom::u32().map_or(0.5, |bits| f64::from(bits) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_under_the_cap_and_spread_at_the_cap(random in 0.0..=1.0_f64, attempts in 1..200_usize) {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(60));
            let wait = (0..attempts).map(|_| backoff.next_wait(random)).last().unwrap();
            prop_assert!(wait <= Duration::from_secs(60));
            if attempts > 12 {
                prop_assert!((wait.as_secs_f64() - (30.0 + 30.0 * random)).abs() < 1e-6);
            }
        }
    }
}
