//! How long a gateway waits that had no answer, as the protocol says.
//!
//! Pure: randomness comes in, a wait goes out. The randomness comes after the cap, so that a fleet which has reached it is
//! still spread. *Source*: docs/protocol.md, "When to ask".

use std::time::Duration;

/// The first question after a start waits a random part of this.
pub const FIRST_SPREAD: Duration = Duration::from_secs(10);
/// The first bound of the waits, and the last.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Failures in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rhythm(u32);

impl Rhythm {
    /// Returns the wait after a question without an answer; `random` is from 0 to 1, `retry_after` what the server asked for.
    pub fn after_failure(&mut self, random: f64, retry_after: Option<Duration>) -> Duration {
        let bound = BOUNDS.0.saturating_mul(1_u32.checked_shl(self.0).unwrap_or(u32::MAX)).min(BOUNDS.1);
        self.0 = (self.0 + 1).min(31);
        let random = random.clamp(0.0, 1.0);
        // Many are told the same at the same moment: they come back over as long again.
        bound.mul_f64(random).max(retry_after.unwrap_or_default().mul_f64(1.0 + random))
    }

    /// Begins anew after an answer.
    pub const fn answered(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes_are_spread_over_their_whole_length_and_begin_anew() {
        let mut rhythm = Rhythm::default();
        let bounds: Vec<u64> = (0..12).map(|_| rhythm.after_failure(1.0, None).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(rhythm.after_failure(0.0, None), Duration::ZERO);
        assert_eq!(rhythm.after_failure(0.5, Some(Duration::from_secs(200))).as_secs(), 300);
        rhythm.answered();
        assert_eq!(rhythm.after_failure(1.0, None).as_secs(), 1);
    }
}
