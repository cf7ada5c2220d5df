//! Time on a machine whose clock may be wrong, jump, or not be there.
//!
//! The only place that reads clocks. Gives wall time as microseconds since 1970, monotonic time since boot, and the
//! boot's id; knows whether the wall clock can be believed. Pure code takes these values as arguments.

use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A wall clock before this moment (2026-01-01) was never set: the program did not exist yet.
pub const BUILD_EPOCH_MICROS: i64 = 1_767_225_600_000_000;

/// Returns microseconds since 1970 by the wall clock, as it stands.
#[must_use]
pub fn wall_micros() -> i64 {
    micros_of(ClockId::CLOCK_REALTIME)
}

/// Returns microseconds since boot, suspension included; never goes back within one boot.
#[must_use]
pub fn monotonic_micros() -> i64 {
    micros_of(ClockId::CLOCK_BOOTTIME)
}

/// Tells whether a wall time can be believed: it is not before the program was built.
#[must_use]
pub const fn is_plausible(wall_micros: i64) -> bool {
    wall_micros >= BUILD_EPOCH_MICROS
}

/// Returns the random id of this boot, or a fixed text where the kernel gives none.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

fn micros_of(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| {
        let time = Duration::from(time);
        i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
    })
}

/// Arrival times for readings that carry none: they follow the monotonic clock, so a wall clock that steps does not
/// reorder them, and are moved once the wall clock is set.
#[derive(Debug, Clone, Copy)]
pub struct ArrivalClock {
    /// Wall minus monotonic time, as last adopted.
    offset_micros: i64,
}

/// The wall clock moved against the monotonic one by more than a correction of its rate explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStep {
    /// Offset before, in microseconds.
    pub from_offset: i64,
    /// Offset from now on, in microseconds.
    pub to_offset: i64,
}

/// Smaller differences are a clock being slewed; they are followed silently.
const STEP_MICROS_MIN: i64 = 1_000_000;

impl ArrivalClock {
    /// Returns a clock that starts with these two readings.
    #[must_use]
    pub const fn new(wall: i64, monotonic: i64) -> Self {
        Self { offset_micros: wall - monotonic }
    }

    /// Returns the arrival time at this monotonic time, in microseconds since 1970.
    #[must_use]
    pub const fn at(&self, monotonic: i64) -> i64 {
        monotonic + self.offset_micros
    }

    /// Returns the offset of wall to monotonic time in use.
    #[must_use]
    pub const fn offset_micros(&self) -> i64 {
        self.offset_micros
    }

    /// Compares with the wall clock and adopts its offset; returns the step, if it was one.
    pub fn observe(&mut self, wall: i64, monotonic: i64) -> Option<ClockStep> {
        let to_offset = wall - monotonic;
        let from_offset = self.offset_micros;
        if (to_offset - from_offset).abs() < STEP_MICROS_MIN {
            return None;
        }
        self.offset_micros = to_offset;
        Some(ClockStep { from_offset, to_offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_clock_moves_arrival_times_and_says_so() {
        let mut clock = ArrivalClock::new(5_000_000, 5_000_000);
        assert_eq!(clock.at(6_000_000), 6_000_000);
        assert_eq!(clock.observe(7_100_000, 7_000_000), None);
        let step = clock.observe(BUILD_EPOCH_MICROS, 8_000_000).unwrap();
        assert_eq!(step.to_offset, BUILD_EPOCH_MICROS - 8_000_000);
        assert_eq!(clock.at(9_000_000), BUILD_EPOCH_MICROS + 1_000_000);
    }

    #[test]
    fn monotonic_time_does_not_go_back() {
        let first = monotonic_micros();
        assert!(monotonic_micros() >= first);
    }
}
