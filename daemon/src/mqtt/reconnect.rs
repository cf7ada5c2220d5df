//! When to connect again and whether to give up the session: a pure rule over how connections ended.
//!
//! Never waits or connects. A session is given up only when it cannot be read: the broker would send the same packet
//! for ever.

use std::time::Duration;

use dunlin_kit::backoff::Backoff;

use super::connection::End;

/// First wait; short, since a broker that restarts is back within a second.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// So many identical failures in a row are no accident of the line.
const UNREADABLE_MAX: u32 = 3;
/// A connection that stood this long was a good one, however it ended. Longer than the waits between two gateways
/// that take one session from each other.
const STEADY: Duration = Duration::from_secs(120);
/// Older brokers close the loser of a take-over without a word. So many connections in a row that were closed soon
/// after they were accepted are taken for that.
const SOON_CLOSED_MAX: u32 = 5;
/// Soon, beside the time that the other client waits before it comes back.
const SOON: Duration = Duration::from_secs(5);

/// How the next session is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionStart {
    /// As the broker kept it from before this process started, if it did.
    First,
    /// As the broker keeps it since the last connection.
    Resume,
    /// Clean: what the broker kept is given up.
    Clean,
}

/// What to do after a connection ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Next {
    /// How long to wait.
    pub(super) wait: Duration,
    /// How to start.
    pub(super) start: SessionStart,
}

/// The rule and what it remembers.
#[derive(Debug)]
pub(super) struct Reconnect {
    backoff: Backoff,
    unreadable: Option<(String, u32)>,
    soon_closed: u32,
    last_wait: Duration,
    start: SessionStart,
}

impl Reconnect {
    /// Returns a rule whose waits never exceed `wait_max`.
    pub(super) const fn new(wait_max: Duration) -> Self {
        Self {
            backoff: Backoff::new(FIRST_WAIT, wait_max),
            unreadable: None,
            soon_closed: 0,
            last_wait: Duration::ZERO,
            start: SessionStart::First,
        }
    }

    /// Tells whether another client seems to use the same client id.
    pub(super) const fn suspects_takeover(&self) -> bool {
        self.soon_closed >= SOON_CLOSED_MAX
    }

    /// Decides after an end; `stood` is how long the connection stood, if the broker accepted it at all.
    pub(super) fn after(&mut self, end: &End, stood: Option<Duration>, random: f64) -> Next {
        if stood.is_some() {
            self.start = SessionStart::Resume;
        }
        let steady = stood.is_some_and(|stood| stood >= STEADY);
        // The other client waits about as long as this one.
        let soon = stood.is_some_and(|stood| stood < SOON + self.last_wait * 2);
        match end {
            End::ClosedByBroker if soon => self.soon_closed += 1,
            End::Lost(_) if stood.is_none() => {}
            _ => self.soon_closed = 0,
        }
        let accident = stood.is_some()
            && matches!(end, End::Lost(_) | End::Closed | End::ClosedByBroker)
            && !self.suspects_takeover();
        if steady || accident {
            self.backoff.reset();
        }
        match end {
            End::Unreadable(text) => {
                let before =
                    self.unreadable.take().filter(|(same, _)| same == text).map_or(0, |(_, count)| count);
                if before + 1 >= UNREADABLE_MAX {
                    self.start = SessionStart::Clean;
                } else {
                    self.unreadable = Some((text.clone(), before + 1));
                }
            }
            // A broker that is away for a moment says nothing about the packet that waits in the session.
            End::Lost(_) | End::Refused(_) | End::ClosedByBroker if stood.is_none() => {}
            _ => self.unreadable = None,
        }
        self.last_wait = self.backoff.next_wait(random);
        Next { wait: self.last_wait, start: self.start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHORT: Option<Duration> = Some(Duration::from_secs(1));

    fn unreadable(text: &str) -> End {
        End::Unreadable(text.into())
    }

    #[test]
    fn the_third_identical_unreadable_packet_starts_clean_once() {
        let mut rule = Reconnect::new(Duration::from_secs(60));
        assert_eq!(rule.after(&unreadable("a"), SHORT, 0.5).start, SessionStart::Resume);
        assert_eq!(rule.after(&unreadable("b"), SHORT, 0.5).start, SessionStart::Resume);
        assert_eq!(rule.after(&unreadable("b"), SHORT, 0.5).start, SessionStart::Resume);
        assert_eq!(rule.after(&End::Lost("refused".into()), None, 0.5).start, SessionStart::Resume);
        assert_eq!(rule.after(&unreadable("b"), SHORT, 0.5).start, SessionStart::Clean);
        assert_eq!(rule.after(&End::Lost("refused".into()), None, 0.5).start, SessionStart::Clean);
        assert_eq!(rule.after(&unreadable("b"), SHORT, 0.5).start, SessionStart::Resume);
    }

    #[test]
    fn two_gateways_with_one_client_id_slow_each_other_down_to_the_cap() {
        let mut rule = Reconnect::new(Duration::from_secs(60));
        let waits: Vec<_> = (0..12).map(|_| rule.after(&End::TakenOver, SHORT, 1.0).wait).collect();
        assert_eq!(waits.last(), Some(&Duration::from_secs(60)));
        assert!(rule.after(&End::TakenOver, Some(STEADY), 1.0).wait < Duration::from_secs(1));
    }

    #[test]
    fn a_broker_that_closes_the_loser_without_a_word_is_understood() {
        let mut rule = Reconnect::new(Duration::from_secs(60));
        let mut stood = Duration::from_millis(100);
        for _ in 0..20 {
            stood = rule.after(&End::ClosedByBroker, Some(stood), 1.0).wait;
        }
        assert!(rule.suspects_takeover());
        assert_eq!(stood, Duration::from_secs(60));
        rule.after(&End::ClosedByBroker, Some(STEADY * 2), 1.0);
        assert!(!rule.suspects_takeover());
    }

    proptest! {
        #[test]
        fn a_line_that_breaks_often_is_taken_up_at_once(random in 0.0..=1.0_f64, cuts in 1..50_usize) {
            let mut rule = Reconnect::new(Duration::from_secs(60));
            for _ in 0..cuts {
                let next = rule.after(&End::Lost("cut".into()), SHORT, random);
                prop_assert!(next.wait <= FIRST_WAIT);
                prop_assert_eq!(next.start, SessionStart::Resume);
            }
        }
    }
}
