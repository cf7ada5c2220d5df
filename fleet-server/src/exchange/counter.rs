//! The counter of a gateway's messages: what is new, what was repeated, and when two speak with one key.
//!
//! Pure: what is known of the gateway and its message come in, a verdict comes out. A gateway's counter rises with every
//! message and its starts follow one another; a copied card shows as soon as both copies have spoken.

use std::collections::BTreeMap;

/// Messages whose digests are remembered. A gateway has one message under way and repeats it, so one would do; a copied
/// card goes on at the counter it was copied at, some messages back.
pub const REMEMBERED_MAX: usize = 64;
/// Starts that are remembered after another one came: a copy that is switched on again is known by any of them.
pub const STARTS_MAX: usize = 64;

/// What is known of a gateway's messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The highest counter.
    pub highest: u64,
    /// The start that spoke last.
    pub start: Option<String>,
    /// Starts that another one came after.
    pub superseded: Vec<String>,
    /// The digests of the last messages, by counter.
    pub remembered: BTreeMap<u64, [u8; 32]>,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is new: to be taken, and [`Known::take`] to be kept with it.
    New,
    /// It was taken before: to be answered again, and not to be taken twice.
    Repeated,
    /// It is old, and may have been recorded by anybody: refused; the gateway is told the highest counter.
    Replayed,
    /// Another gateway speaks with the same key: both are to be suspended.
    Cloned,
}

impl Known {
    /// Judges a message by its counter, the start of the program that sent it, and the digest of all of its bytes. Its
    /// signature was verified: whoever sent it has the key, or recorded it.
    #[must_use]
    pub fn judge(&self, counter: u64, start: &str, digest: &[u8; 32]) -> Verdict {
        match self.remembered.get(&counter) {
            Some(known) if known == digest => Verdict::Repeated,
            // One gateway never signs two messages with one counter.
            Some(_) => Verdict::Cloned,
            None if counter <= self.highest => Verdict::Replayed,
            // A start that is over does not go on: that is another machine's.
            None if self.superseded.iter().any(|over| over == start) => Verdict::Cloned,
            None => Verdict::New,
        }
    }

    /// Notes a message that is new.
    pub fn take(&mut self, counter: u64, start: &str, digest: [u8; 32]) {
        self.highest = self.highest.max(counter);
        if self.start.as_deref() != Some(start) {
            if let Some(over) = self.start.replace(start.to_owned()) {
                self.superseded.push(over);
            }
            let surplus = self.superseded.len().saturating_sub(STARTS_MAX);
            self.superseded.drain(..surplus);
        }
        self.remembered.insert(counter, digest);
        while self.remembered.len() > REMEMBERED_MAX {
            self.remembered.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counters that a gateway reserves on disk at a time.
    const BLOCK: u64 = 1_000;

    /// A gateway's program: its counter, and the ceiling that it wrote to its card.
    #[derive(Debug, Clone)]
    struct Gateway {
        machine: u8,
        starts: u32,
        start: String,
        next: u64,
        ceiling: u64,
    }

    impl Gateway {
        fn new(machine: u8) -> Self {
            let mut gateway = Self { machine, starts: 0, start: String::new(), next: 0, ceiling: 1 };
            gateway.restart();
            gateway
        }

        /// Begins beyond everything that it may have used.
        fn restart(&mut self) {
            self.starts += 1;
            self.start = format!("{}-{}", self.machine, self.starts);
            self.next = self.ceiling;
            self.ceiling += BLOCK;
        }

        fn message(&mut self) -> (u64, String, [u8; 32]) {
            if self.next == self.ceiling {
                self.ceiling += BLOCK;
            }
            let counter = self.next;
            self.next += 1;
            let mut digest = [self.machine; 32];
            // A nonce makes messages of different starts differ in any case.
            digest[..8].copy_from_slice(&counter.to_le_bytes());
            digest[8..12].copy_from_slice(&self.starts.to_le_bytes());
            (counter, self.start.clone(), digest)
        }

        /// Jumps above what the server knows, as one does whose card was put back to an older state.
        fn jump(&mut self, highest: u64) {
            self.ceiling = self.ceiling.max(highest + 1);
            self.next = self.ceiling;
            self.ceiling += BLOCK;
        }
    }

    fn send(known: &mut Known, message: &(u64, String, [u8; 32])) -> Verdict {
        let verdict = known.judge(message.0, &message.1, &message.2);
        if verdict == Verdict::New {
            known.take(message.0, &message.1, message.2);
        }
        verdict
    }

    #[derive(Debug, Clone)]
    enum Act {
        Speak,
        Restart,
        /// An attacker sends one of the recorded messages.
        Replay(prop::sample::Index),
        /// A message that the link held back arrives after others.
        Late,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            6 => Just(Act::Speak),
            1 => Just(Act::Restart),
            2 => any::<prop::sample::Index>().prop_map(Act::Replay),
            1 => Just(Act::Late),
        ];
        prop::collection::vec(act, 1..200)
    }

    proptest! {
        #[test]
        fn one_gateway_is_heard_and_never_taken_for_two(acts in acts()) {
            let (mut known, mut gateway) = (Known::default(), Gateway::new(1));
            let mut recorded = vec![gateway.message()];
            prop_assert_eq!(send(&mut known, &recorded[0]), Verdict::New);
            for act in acts {
                match act {
                    Act::Speak => {
                        let message = gateway.message();
                        prop_assert_eq!(send(&mut known, &message), Verdict::New);
                        prop_assert_eq!(send(&mut known, &message), Verdict::Repeated);
                        recorded.push(message);
                    }
                    Act::Restart => gateway.restart(),
                    Act::Replay(index) => {
                        let before = known.clone();
                        let verdict = send(&mut known, index.get(&recorded));
                        prop_assert!(matches!(verdict, Verdict::Repeated | Verdict::Replayed), "{:?}", verdict);
                        prop_assert_eq!(&known, &before);
                    }
                    Act::Late => {
                        let (late, message) = (gateway.message(), gateway.message());
                        prop_assert_eq!(send(&mut known, &message), Verdict::New);
                        prop_assert_eq!(send(&mut known, &late), Verdict::Replayed);
                        recorded.extend([message, late]);
                    }
                }
            }
        }

        #[test]
        fn two_copies_of_a_card_are_found_once_both_spoke_on(
            spoken in 1_usize..200,
            apart in 0_usize..300,
            turns in prop::collection::vec(any::<bool>(), 8..40),
        ) {
            let (mut known, mut first) = (Known::default(), Gateway::new(1));
            for _ in 0..spoken {
                send(&mut known, &first.message());
            }
            // The card is copied while the gateway is off; both copies are then switched on, one later than the other.
            let mut second = Gateway { machine: 2, ..first.clone() };
            first.restart();
            second.restart();
            for _ in 0..apart {
                send(&mut known, &first.message());
            }
            let mut found = false;
            // Each may be told first that its counter is old, and goes on above the other's.
            for turn in turns.into_iter().chain([true, false, true, false, true, false, true, false]) {
                let gateway = if turn { &mut first } else { &mut second };
                match send(&mut known, &gateway.message()) {
                    Verdict::Cloned => found = true,
                    Verdict::Replayed => gateway.jump(known.highest),
                    Verdict::New | Verdict::Repeated => {}
                }
            }
            prop_assert!(found);
        }

        #[test]
        fn a_gateway_whose_card_was_put_back_is_heard_again(spoken in 1_usize..3_000) {
            let (mut known, mut gateway) = (Known::default(), Gateway::new(1));
            let backup = gateway.clone();
            send(&mut known, &gateway.message());
            gateway.restart();
            for _ in 0..spoken {
                send(&mut known, &gateway.message());
            }
            // The present program's start is another one, and its counters are old.
            let mut restored = Gateway { starts: 500, ..backup };
            restored.restart();
            let mut verdict = send(&mut known, &restored.message());
            if verdict == Verdict::Replayed {
                restored.jump(known.highest);
                verdict = send(&mut known, &restored.message());
            }
            // Where it meets a counter that is remembered it cannot be told from a copy, and somebody is asked.
            prop_assert!(matches!(verdict, Verdict::New | Verdict::Cloned), "{:?}", verdict);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut known, mut gateway) = (Known::default(), Gateway::new(1));
        for _ in 0..500 {
            send(&mut known, &gateway.message());
            gateway.restart();
        }
        assert_eq!((known.remembered.len(), known.superseded.len()), (REMEMBERED_MAX, STARTS_MAX));
    }
}
