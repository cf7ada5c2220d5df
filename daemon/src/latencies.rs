//! How long windows took from submission to answer, counted by size: enough for a median and a 99th percentile.
//!
//! Of one size and without allocations, so that it is copied with the counts of a lane. Keeps no single time.

/// Four sizes to each doubling: a quantile is off by an eighth at most.
const SIZES_PER_DOUBLING: usize = 4;
/// Doublings of a microsecond: more than the longest deadline of a batch, 60 s.
const DOUBLINGS: usize = 27;
/// Longest time that is told from others.
const US_MAX: u64 = (1 << DOUBLINGS) - 1;
const SIZES: usize = DOUBLINGS * SIZES_PER_DOUBLING;

/// Counts of times by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latencies([u32; SIZES]);

impl Default for Latencies {
    fn default() -> Self {
        Self([0; SIZES])
    }
}

impl Latencies {
    /// Counts a time in microseconds.
    pub fn add(&mut self, us: u64) {
        if let Some(count) = self.0.get_mut(size_of(us)) {
            *count = count.saturating_add(1);
        }
    }

    /// Returns how many times were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// Returns the time in microseconds that so many of a hundred do not exceed (nearest rank), to an eighth; 0 where none
    /// was counted.
    #[must_use]
    pub fn percentile_us(&self, percent: u64) -> u64 {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let size = self.0.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        size.map_or(0, middle_us)
    }
}

/// Returns the number of a time's size.
const fn size_of(us: u64) -> usize {
    let us = if us == 0 {
        1
    } else if us > US_MAX {
        US_MAX
    } else {
        us
    };
    let doublings = 63 - us.leading_zeros() as usize;
    // The two bits below the highest one.
    let quarter = ((us << 2) >> doublings) as usize - SIZES_PER_DOUBLING;
    doublings * SIZES_PER_DOUBLING + quarter
}

/// Returns the middle of a size in microseconds.
const fn middle_us(size: usize) -> u64 {
    let (doublings, quarter) = (size / SIZES_PER_DOUBLING, (size % SIZES_PER_DOUBLING) as u64);
    let eighths = 2 * (SIZES_PER_DOUBLING as u64 + quarter) + 1;
    (eighths << doublings) / 8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_times_to_an_eighth(
            mut times in proptest::collection::vec(8_u64..60_000_000, 1..300), percent in 1_u64..=100,
        ) {
            let mut latencies = Latencies::default();
            times.iter().for_each(|us| latencies.add(*us));
            times.sort_unstable();
            let rank = (times.len() as u64 * percent).div_ceil(100).max(1) as usize;
            let (exact, found) = (times[rank - 1] as f64, latencies.percentile_us(percent) as f64);
            prop_assert!((found / exact - 1.0).abs() <= 0.126, "{found} for {exact}");
            prop_assert_eq!(latencies.count(), times.len() as u64);
        }

        #[test]
        fn every_time_has_a_size(us in any::<u64>()) {
            Latencies::default().add(us);
        }
    }

    #[test]
    fn of_nothing_there_is_no_percentile() {
        assert_eq!(Latencies::default().percentile_us(99), 0);
    }
}
