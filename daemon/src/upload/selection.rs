//! Which numbers of a stream are sent next: live before backfill, and what a policy holds back.
//!
//! Pure: sets of numbers in, ranges in order out. Never reads a row; `columns` does.

use std::fmt;
use std::str::FromStr;

use dunlin_protocol::{Range, Ranges};

/// How much of a stream is sent. Rows that are not are *held back*: their numbers travel, and so nothing is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampling {
    /// All rows.
    #[default]
    All,
    /// One row in so many, and those that changed an alert. *Range*: from 2.
    OneIn(u32),
    /// No row.
    None,
}

impl Sampling {
    /// Tells whether a row is sent.
    #[must_use]
    pub const fn keeps(self, number: u64, changes_alert: bool) -> bool {
        match self {
            Self::All => true,
            Self::OneIn(every) => changes_alert || number.is_multiple_of(every as u64),
            Self::None => false,
        }
    }

    /// Returns the policy that sends less of the two.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::All, other) => other,
            (present, Self::All) => present,
            (Self::OneIn(a), Self::OneIn(b)) => Self::OneIn(a.max(b)),
        }
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::OneIn(every) => write!(f, "1/{every}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for Sampling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            let shown: String = text.chars().take(40).collect();
            format!("`{shown}` is no share of a stream; write `all`, `none`, or for example `1/10`")
        };
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            _ => {
                let every: u32 =
                    text.strip_prefix("1/").and_then(|every| every.parse().ok()).ok_or_else(refuse)?;
                match every {
                    0 => Err(refuse()),
                    1 => Ok(Self::All),
                    every => Ok(Self::OneIn(every)),
                }
            }
        }
    }
}

/// Returns the numbers below `next` that nothing explains yet.
#[must_use]
pub fn waiting(next: u64, settled: &Ranges, gone: &Ranges) -> Ranges {
    let made: Ranges = Range::counted(1, next.saturating_sub(1)).ok().into_iter().collect();
    made.subtract(settled).subtract(gone)
}

/// Returns ranges in the order in which they are sent: those above `horizon` (live), then those up to it (backfill),
/// either in order of their numbers.
#[must_use]
pub fn in_order(waiting: &Ranges, horizon: u64) -> Vec<Range> {
    let below: Ranges = Range::counted(1, horizon).ok().into_iter().collect();
    let live = waiting.subtract(&below);
    let backfill = waiting.intersect(&below);
    live.iter().chain(backfill.iter()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn few() -> impl Strategy<Value = Ranges> {
        proptest::collection::vec((1_u64..90, 1_u64..9), 0..8).prop_map(|pairs| {
            pairs.into_iter().map(|(first, count)| Range::counted(first, count).unwrap()).collect()
        })
    }

    proptest! {
        #[test]
        fn each_waiting_number_is_selected_once_live_first_and_in_order(
            next in 1_u64..100, settled in few(), gone in few(), horizon in 0_u64..110,
        ) {
            let waiting = waiting(next, &settled, &gone);
            let expected: Vec<u64> = (1..next).filter(|n| !settled.contains(*n) && !gone.contains(*n)).collect();
            let ordered = in_order(&waiting, horizon);
            let sent: Vec<u64> = ordered.iter().flat_map(|range| range.first()..=range.last()).collect();
            let (live, old): (Vec<u64>, Vec<u64>) = expected.iter().partition(|n| **n > horizon);
            prop_assert_eq!(sent, [live, old].concat());
        }

        #[test]
        fn the_stricter_policy_sends_no_row_that_either_holds_back(
            a in prop_oneof![Just(Sampling::All), Just(Sampling::None), (2_u32..20).prop_map(Sampling::OneIn)],
            b in prop_oneof![Just(Sampling::All), Just(Sampling::None), (2_u32..20).prop_map(Sampling::OneIn)],
        ) {
            let sent = |policy: Sampling| (1..400_u64).filter(|n| policy.keeps(*n, false)).count();
            prop_assert_eq!(sent(a.stricter(b)), sent(a).min(sent(b)));
            prop_assert_eq!(a.stricter(b), b.stricter(a));
            prop_assert_eq!(a.to_string().parse::<Sampling>().unwrap(), a);
        }
    }

    #[test]
    fn a_sample_has_every_change_of_an_alert() {
        assert!(Sampling::OneIn(1_000).keeps(7, true));
        assert!(!Sampling::OneIn(1_000).keeps(7, false));
        for text in ["", "1/0", "2/3", "1/x", "1/-5", "some"] {
            assert!(text.parse::<Sampling>().is_err(), "{text}");
        }
    }
}
