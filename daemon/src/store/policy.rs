//! When the writer commits: as seldom as wear asks for, as soon as the brokers' in-flight windows need it.
//!
//! Pure: time is passed in, in microseconds. A broker stops sending when its in-flight window is full of
//! unacknowledged messages; this notices that by the quiet that follows, and learns the window's size.

use crate::config::settings::CommitProfile;

/// Most rows of one transaction: about half a megabyte of WAL.
pub const ROWS_MAX: usize = 8_192;
/// Rows that are worth a transaction before [`AGE_MAX_US`]: 64 readings with a prediction each. A transaction dirties
/// two or three blocks whatever it holds, so these cost the card under 250 B a prediction; 32 would cost 320 B.
const ROWS_WORTH: usize = 128;
const AGE_WORTH_US: i64 = 250_000;
/// The oldest row waits no longer in profile `auto`, where the broker still has its message: at ten readings a second
/// a second would cost the card 1.2 kB a prediction, two cost 0.7.
pub const AGE_MAX_US: i64 = 2_000_000;
/// The oldest row waits no longer where nobody would send it again.
const AGE_UNACKED_US: i64 = 1_000_000;
/// Shortest quiet that can mean a full window: a turn of stage and worker on a slow board.
const QUIET_US_MIN: i64 = 2_000;
/// Windows below this are not told from sensors that happen to send together.
const WINDOW_MIN: usize = 4;
/// A message this soon after the acknowledgements was held up by them.
const ANSWER_US: i64 = 5_000;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing waits.
    Idle,
    /// Wait until this time, or for the next step.
    WaitUntil(i64),
    /// Commit.
    Commit,
}

/// The state that decisions are made from.
#[derive(Debug, Clone)]
pub struct CommitPolicy {
    profile: CommitProfile,
    in_flight_max: usize,
    rows: usize,
    acks: usize,
    arrivals: u32,
    first_us: i64,
    last_us: i64,
    /// Quiet that is taken for a full window; doubled while acknowledgements are not answered by messages.
    quiet_us: i64,
    /// Acknowledgements of the last commit, where it was made for quiet.
    quiet_at: Option<usize>,
    window: Option<usize>,
    /// When the last commit released acknowledgements that nobody has answered yet.
    released_us: Option<i64>,
}

impl CommitPolicy {
    /// Returns a policy for brokers that allow `in_flight_max` unacknowledged messages together.
    #[must_use]
    pub const fn new(profile: CommitProfile, in_flight_max: usize) -> Self {
        Self {
            profile,
            in_flight_max,
            rows: 0,
            acks: 0,
            arrivals: 0,
            first_us: 0,
            last_us: 0,
            quiet_us: QUIET_US_MIN,
            quiet_at: None,
            window: None,
            released_us: None,
        }
    }

    /// Notes a step that arrived with so many rows and messages to acknowledge.
    pub fn arrived(&mut self, now_us: i64, rows: usize, acks: usize) {
        if let Some(released) = self.released_us.take() {
            self.judge_quiet(now_us - released <= ANSWER_US);
        }
        if self.arrivals == 0 {
            self.first_us = now_us;
        }
        self.arrivals = self.arrivals.saturating_add(1);
        self.last_us = now_us;
        self.rows += rows;
        self.acks += acks;
        if self.window.is_some_and(|window| self.acks > window) {
            self.window = None;
        }
    }

    /// Shortens the quiet that counts where acknowledgements brought messages, else doubles it: sensors that send
    /// seldom must not cost a transaction each.
    fn judge_quiet(&mut self, answered: bool) {
        self.quiet_us = if answered { self.quiet_us / 4 } else { self.quiet_us * 2 };
        self.quiet_us = self.quiet_us.clamp(QUIET_US_MIN, AGE_MAX_US);
    }

    /// Returns what to do at this time.
    #[must_use]
    pub fn decide(&self, now_us: i64) -> Decision {
        if self.arrivals == 0 {
            return Decision::Idle;
        }
        let full = self.acks > 0
            && (self.acks >= self.in_flight_max || self.window.is_some_and(|window| self.acks >= window));
        if full || self.rows >= ROWS_MAX {
            return Decision::Commit;
        }
        let due_us = self.due_us();
        if now_us >= due_us { Decision::Commit } else { Decision::WaitUntil(due_us) }
    }

    fn due_us(&self) -> i64 {
        let by_age = match self.profile {
            CommitProfile::Ack => return self.first_us,
            CommitProfile::Auto if self.rows >= ROWS_WORTH => AGE_WORTH_US,
            CommitProfile::Auto if self.acks > 0 => AGE_MAX_US,
            CommitProfile::Auto => AGE_UNACKED_US,
            CommitProfile::Interval(interval) => i64::try_from(interval.as_micros()).unwrap_or(i64::MAX),
        };
        let by_age = self.first_us.saturating_add(by_age);
        if self.acks == 0 { by_age } else { by_age.min(self.quiet_until_us()) }
    }

    fn quiet_until_us(&self) -> i64 {
        self.last_us + self.quiet_us.max(4 * self.mean_gap_us())
    }

    fn mean_gap_us(&self) -> i64 {
        (self.last_us - self.first_us) / i64::from(self.arrivals.saturating_sub(1)).max(1)
    }

    /// Notes that everything that had arrived was committed. `acks_waiting` are those of steps that came during the
    /// transaction: what comes before the acknowledgements go out shows a window larger than the learned one.
    pub fn committed(&mut self, now_us: i64, acks_waiting: usize) {
        let acks = self.acks;
        let for_quiet = acks > 0 && self.last_us + QUIET_US_MIN <= now_us;
        if acks_waiting > 0 {
            self.window = None;
        } else if for_quiet && acks >= WINDOW_MIN && self.quiet_at == Some(acks) {
            self.window = Some(acks);
        }
        self.quiet_at = for_quiet.then_some(acks);
        // An answer proves something only after an unusual quiet: regular sensors are due at some time anyway.
        let unusual = self.arrivals <= 2 || now_us - self.last_us > 2 * self.mean_gap_us();
        self.released_us = (acks_waiting == 0 && for_quiet && unusual).then_some(now_us);
        (self.rows, self.acks, self.arrivals) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn nothing_waits_longer_than_the_profile_says(
            gaps in prop::collection::vec((0_i64..400_000, 0_usize..20, 0_usize..4), 1..60),
            interval_ms in 1_u64..5_000,
            auto in any::<bool>(),
        ) {
            let profile = if auto { CommitProfile::Auto } else { CommitProfile::Interval(Duration::from_millis(interval_ms)) };
            let bound = if auto { AGE_MAX_US } else { interval_ms as i64 * 1_000 };
            let mut policy = CommitPolicy::new(profile, 100);
            let (mut now, mut oldest) = (0, None::<i64>);
            for (gap, rows, acks) in gaps {
                let next = now + gap;
                while let Decision::WaitUntil(at) = policy.decide(now) {
                    if at > next { break; }
                    now = at;
                    prop_assert!(now - oldest.unwrap() <= bound);
                    prop_assert_eq!(policy.decide(now), Decision::Commit);
                    policy.committed(now, 0);
                    oldest = None;
                }
                now = next;
                policy.arrived(now, rows, acks);
                oldest.get_or_insert(now);
                if policy.decide(now) == Decision::Commit {
                    policy.committed(now, 0);
                    oldest = None;
                }
            }
        }

        #[test]
        fn a_full_window_costs_little_more_than_its_commit(window in 4_usize..200, latency_us in 500_i64..20_000) {
            let (commits, elapsed) = simulate(window, 100, latency_us, 400);
            let ideal = commits as i64 * (latency_us + 100 * window as i64);
            prop_assert!(elapsed < ideal + ideal / 10 + 100_000, "{commits} commits took {elapsed} us, ideal {ideal}");
        }
    }

    /// A broker that sends a message each `gap_us` while its window has room; returns commits and elapsed time.
    fn simulate(window: usize, gap_us: i64, latency_us: i64, rounds: usize) -> (usize, i64) {
        let mut policy = CommitPolicy::new(CommitProfile::Auto, 4_096);
        let (mut now, mut in_flight, mut commits, mut next) = (0_i64, 0, 0, 0_i64);
        while commits < rounds {
            let arrival = if in_flight < window { Some(next) } else { None };
            match (policy.decide(now), arrival) {
                (Decision::Commit, _) => {
                    now += latency_us;
                    policy.committed(now, 0);
                    (in_flight, commits, next) = (0, commits + 1, now + gap_us);
                }
                (Decision::WaitUntil(at), Some(arrival)) if at < arrival => now = at,
                (Decision::WaitUntil(at), None) => now = at,
                (_, Some(arrival)) => {
                    now = arrival;
                    policy.arrived(now, 2, 1);
                    (in_flight, next) = (in_flight + 1, arrival + gap_us);
                }
                (Decision::Idle, None) => unreachable!("a full window has arrived"),
            }
        }
        (commits, now)
    }

    #[test]
    fn ten_sensors_a_second_share_transactions() {
        let mut policy = CommitPolicy::new(CommitProfile::Auto, 100);
        let mut commits = 0;
        for i in 0..1_000_i64 {
            let arrival = i * 100_000;
            if let Decision::WaitUntil(at) = policy.decide(arrival - 100_000)
                && at <= arrival
            {
                policy.committed(at, 0);
                commits += 1;
            }
            policy.arrived(arrival, 2, 1);
        }
        assert!(commits <= 110, "{commits} commits for 1,000 messages");
    }

    #[test]
    fn profile_ack_never_waits() {
        let mut policy = CommitPolicy::new(CommitProfile::Ack, 100);
        policy.arrived(7, 1, 1);
        assert_eq!(policy.decide(7), Decision::Commit);
    }

    #[test]
    fn a_learned_window_is_forgotten_when_more_arrives() {
        let mut policy = CommitPolicy::new(CommitProfile::Auto, 4_096);
        for round in 0..2 {
            (0..20).for_each(|i| policy.arrived(round * 100_000 + i, 1, 1));
            policy.committed(round * 100_000 + 5_000, 0);
        }
        policy.arrived(200_000, 20, 20);
        assert_eq!(policy.decide(200_000), Decision::Commit);
        policy.committed(201_000, 3);
        policy.arrived(201_000, 20, 20);
        assert_ne!(policy.decide(201_000), Decision::Commit);
    }
}
