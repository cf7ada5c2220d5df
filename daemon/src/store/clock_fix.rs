//! Corrects times that were taken from a clock which was not set yet.
//!
//! Pure: compares what a batch noted of its clock with what the clock was set to later in the same boot. Rows keep
//! the times they were written with; queries and exports show the corrected ones.

use std::collections::BTreeMap;

use dunlin_kit::clock::is_plausible;

/// The steps of the clocks of all boots.
#[derive(Debug, Clone, Default)]
pub struct ClockSteps(BTreeMap<(i64, i64), i64>);

impl ClockSteps {
    /// Adds a step: from this monotonic time of the boot on, wall minus monotonic time was `offset_us`.
    pub fn add(&mut self, boot: i64, mono_us: i64, offset_us: i64) {
        self.0.insert((boot, mono_us), offset_us);
    }

    /// Returns the event time by the clock as it was set later in that boot, for a time that `offset_us` gave.
    ///
    /// A time that was plausible, or a clock that was never set, leaves it as it is.
    #[must_use]
    pub fn corrected(&self, event_us: i64, boot: i64, mono_us: i64, offset_us: i64) -> i64 {
        if is_plausible(event_us) || is_plausible(mono_us.saturating_add(offset_us)) {
            return event_us;
        }
        let later = self.0.range((boot, mono_us)..=(boot, i64::MAX));
        later
            .into_iter()
            .find(|((_, at), offset)| is_plausible(at.saturating_add(**offset)))
            .map_or(event_us, |(_, offset)| event_us.saturating_sub(offset_us).saturating_add(*offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_kit::clock::BUILD_EPOCH_MICROS;

    #[test]
    fn times_of_an_unset_clock_move_to_the_clock_of_their_own_boot() {
        let mut steps = ClockSteps::default();
        steps.add(1, 0, 0);
        steps.add(1, 90, BUILD_EPOCH_MICROS + 1_000);
        steps.add(2, 50, BUILD_EPOCH_MICROS + 9_000);
        assert_eq!(steps.corrected(20, 1, 30, 0), BUILD_EPOCH_MICROS + 1_020);
        assert_eq!(steps.corrected(20, 3, 30, 0), 20, "the clock of boot 3 was never set");
        let set = BUILD_EPOCH_MICROS + 5;
        assert_eq!(steps.corrected(set, 1, 30, 0), set);
    }
}
