//! Random choices that can be repeated: moments of kills and cuts come from one printed seed.
//!
//! A small generator (SplitMix64), for tests alone; never for secrets.

/// A source of choices.
#[derive(Debug, Clone)]
pub struct Choices {
    seed: u64,
    state: u64,
}

impl Choices {
    /// Returns the choices of this seed.
    #[must_use]
    pub const fn from_seed(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// Returns the choices of the seed in the environment (`DUNLIN_SEED`), else of a fresh one.
    #[must_use]
    pub fn from_environment() -> Self {
        let given = std::env::var("DUNLIN_SEED").ok().and_then(|text| text.parse().ok());
        Self::from_seed(given.unwrap_or_else(|| dunlin_kit::clock::wall_micros().unsigned_abs()))
    }

    /// Returns the seed, to be printed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns a number below `bound`; 0 for a bound of 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        if bound == 0 { 0 } else { mixed % bound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_run() {
        let run = |seed| {
            let mut choices = Choices::from_seed(seed);
            (0..50).map(|_| choices.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert!(run(7).iter().all(|choice| *choice < 10));
    }
}
