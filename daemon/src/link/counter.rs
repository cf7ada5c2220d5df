//! The messages' counter: strictly rising, through every power cut, with a write once in a thousand messages.
//!
//! Pure: the ceiling is stored by the caller, before a number below it is given out. Numbers may be left out, never used
//! twice.

/// Numbers given out for one write. *Source*: docs/protocol.md, counters.
const STRETCH: u64 = 1_000;

/// The counter in this run of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageCounter {
    next: u64,
    ceiling: u64,
}

impl MessageCounter {
    /// Goes on from the ceiling that is stored: numbers below it may have been used.
    #[must_use]
    pub fn from_ceiling(stored: u64) -> Self {
        let next = stored.max(1);
        Self { next, ceiling: next }
    }

    /// Returns the next number; `store` makes a higher ceiling durable where one is needed.
    ///
    /// *Errors*: those of `store`; no number is given out then.
    pub fn take<E>(&mut self, store: impl FnOnce(u64) -> Result<(), E>) -> Result<u64, E> {
        if self.next >= self.ceiling {
            let ceiling = self.next.saturating_add(STRETCH);
            store(ceiling)?;
            self.ceiling = ceiling;
        }
        let taken = self.next;
        self.next = self.next.saturating_add(1);
        Ok(taken)
    }

    /// Goes on above a number that the server has seen; the next one stores a new ceiling where that is needed.
    pub fn rise_above(&mut self, highest: u64) {
        self.next = self.next.max(highest.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_number_is_used_twice_whenever_the_power_goes(
            steps in proptest::collection::vec((0_u8..6, 0_u64..5_000), 1..200)
        ) {
            let (mut stored, mut last) = (1, 0);
            let mut counter = MessageCounter::from_ceiling(stored);
            for (step, highest) in steps {
                match step {
                    0 => counter = MessageCounter::from_ceiling(stored),
                    1 => counter.rise_above(highest),
                    2 => {
                        // The disk is full: nothing is stored, and at most what was allowed before is given out.
                        let before = stored;
                        if let Ok(taken) = counter.take(|_| Err(())) {
                            prop_assert!(taken > last && taken < before);
                            last = taken;
                        }
                    }
                    _ => {
                        let taken = counter.take(|ceiling| { stored = stored.max(ceiling); Ok::<_, ()>(()) }).unwrap();
                        prop_assert!(taken > last && taken < stored, "{taken} after {last}, ceiling {stored}");
                        last = taken;
                    }
                }
            }
        }
    }

    #[test]
    fn a_thousand_messages_cost_one_write() {
        let (mut counter, mut writes) = (MessageCounter::from_ceiling(0), 0);
        for expected in 1..=1_000 {
            let taken = counter.take(|_| {
                writes += 1;
                Ok::<_, ()>(())
            });
            assert_eq!(taken, Ok(expected));
        }
        assert_eq!(writes, 1);
    }
}
