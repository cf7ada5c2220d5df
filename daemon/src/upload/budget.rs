//! The data budget of a month: what is left out, and in which order, when bytes run short.
//!
//! Pure: bytes, part of the month and limit in, a step out. Never meters; `spending` does. The order is declared, and
//! goes from what can be missed to what keeps the gateway in its owner's hands: predictions are sampled, summaries made
//! coarser, then nothing but health travels, and packages come last.

use std::time::Duration;

use dunlin_protocol::report::Budget;

use super::selection::Sampling;
use crate::store::outbox_windows::Grain;

/// How far spending may be ahead of the calendar before anything is left out: three days of thirty.
const AHEAD: f64 = 0.1;
/// Part of the budget that predictions and summaries leave to health and updates.
const RESERVED_FOR_HEALTH: f64 = 0.15;
/// Part that health leaves to updates: a package of some hundred kilobytes of a budget of megabytes.
const RESERVED_FOR_UPDATES: f64 = 0.05;
/// Longest time between two questions: a revoked or withdrawn release must be learned of within a day.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What is left out, from nothing to nearly all. Each step leaves out what those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Step {
    /// Nothing.
    #[default]
    Full,
    /// Nine predictions in ten.
    Sampled,
    /// Ninety-nine predictions in a hundred; windows of statistics are merged by day.
    Coarser,
    /// Rows wait: health, events and losses alone travel, and updates.
    HealthOnly,
    /// Questions are asked once a day, without rows; packages are fetched.
    UpdatesOnly,
    /// The budget is spent: one question a day, and nothing is fetched.
    Spent,
}

impl Step {
    /// Returns the step's text in status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Sampled => "predictions_sampled",
            Self::Coarser => "summaries_coarser",
            Self::HealthOnly => "health_only",
            Self::UpdatesOnly => "updates_only",
            Self::Spent => "spent",
        }
    }

    /// Returns how much of the predictions may travel; none where they wait.
    #[must_use]
    pub const fn predictions(self) -> Option<Sampling> {
        match self {
            Self::Full => Some(Sampling::All),
            Self::Sampled => Some(Sampling::OneIn(10)),
            Self::Coarser => Some(Sampling::OneIn(100)),
            Self::HealthOnly | Self::UpdatesOnly | Self::Spent => None,
        }
    }

    /// Returns how coarse windows of statistics travel; none where they wait.
    #[must_use]
    pub const fn windows(self) -> Option<Grain> {
        match self {
            Self::Full | Self::Sampled => Some(Grain::AsReported),
            Self::Coarser => Some(Grain::Day),
            Self::HealthOnly | Self::UpdatesOnly | Self::Spent => None,
        }
    }

    /// Tells whether events and losses travel.
    #[must_use]
    pub const fn sends_events(self) -> bool {
        !matches!(self, Self::UpdatesOnly | Self::Spent)
    }

    /// Tells whether packages are fetched.
    #[must_use]
    pub const fn fetches_packages(self) -> bool {
        !matches!(self, Self::Spent)
    }
}

/// A month's budget and what became of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Account {
    /// Bytes of a month, both ways; none: unlimited.
    pub budget_bytes: Option<u64>,
    /// Bytes spent, both ways.
    pub spent_bytes: u64,
    /// Part of the month that is over. *Range*: 0 to 1.
    pub elapsed: f64,
    /// Length of the month.
    pub month: Duration,
}

impl Account {
    /// Returns what is left out at present.
    #[must_use]
    pub fn step(&self) -> Step {
        let Some(budget) = self.budget_bytes else { return Step::Full };
        if self.spent_bytes >= budget {
            return Step::Spent;
        }
        let used = self.spent_bytes as f64 / budget as f64;
        let ahead = used - self.elapsed.clamp(0.0, 1.0);
        if used >= 1.0 - RESERVED_FOR_UPDATES {
            Step::UpdatesOnly
        } else if used >= 1.0 - RESERVED_FOR_HEALTH || ahead > 3.0 * AHEAD {
            Step::HealthOnly
        } else if ahead > 2.0 * AHEAD {
            Step::Coarser
        } else if ahead > AHEAD {
            Step::Sampled
        } else {
            Step::Full
        }
    }

    /// Returns the budget as the gateway reports it, with questions that each cost so much.
    #[must_use]
    pub fn told(&self, question_bytes: u64) -> Budget {
        let first_day = u32::from(self.budget_bytes.is_some());
        let interval_s = told_seconds(self.interval_min(question_bytes));
        Budget { monthly_bytes: self.budget_bytes, first_day, step: self.step() as u32, interval_s }
    }

    /// Returns the bytes that rows of one message may cost at most: a quarter of what the calendar grants beyond what is
    /// spent, so that a backlog does not take the month at once.
    #[must_use]
    pub fn rows_bytes_max(&self) -> Option<u64> {
        let budget = self.budget_bytes?;
        let granted =
            budget as f64 * (self.elapsed.clamp(0.0, 1.0) + 3.0 * AHEAD).min(1.0 - RESERVED_FOR_HEALTH);
        Some(((granted - self.spent_bytes as f64) / 4.0).max(0.0) as u64)
    }

    /// Returns the shortest time between two questions that each cost so much: half of what is left of the budget, spread
    /// over what is left of the month. Zero without a budget.
    #[must_use]
    pub fn interval_min(&self, question_bytes: u64) -> Duration {
        let Some(budget) = self.budget_bytes else { return Duration::ZERO };
        if self.step() >= Step::UpdatesOnly {
            return INTERVAL_MAX;
        }
        let left = budget.saturating_sub(self.spent_bytes) as f64 / 2.0;
        let time = self.month.as_secs_f64() * (1.0 - self.elapsed.clamp(0.0, 1.0));
        let seconds = time * question_bytes as f64 / left.max(1.0);
        Duration::from_secs_f64(seconds.min(INTERVAL_MAX.as_secs_f64()))
    }
}

/// Returns the seconds of an interval, rounded up to a doubling of a minute, so that few reports differ by it alone; zero for
/// less than a minute.
fn told_seconds(interval: Duration) -> u32 {
    let minutes = (interval.min(INTERVAL_MAX).as_secs() / 60) as u32;
    if minutes == 0 { 0 } else { (minutes + 1).next_power_of_two() * 60 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MONTH: Duration = Duration::from_secs(30 * 86_400);

    fn account(spent_bytes: u64, elapsed: f64) -> Account {
        Account { budget_bytes: Some(1_000_000), spent_bytes, elapsed, month: MONTH }
    }

    #[test]
    fn things_are_left_out_in_the_declared_order_as_the_budget_runs_short() {
        let steps: Vec<Step> = [0, 50_000, 150_000, 250_000, 350_000, 960_000, 1_000_000]
            .map(|spent| account(spent, 0.0).step())
            .into();
        use Step::{Coarser, Full, HealthOnly, Sampled, Spent, UpdatesOnly};
        assert_eq!(steps, [Full, Full, Sampled, Coarser, HealthOnly, UpdatesOnly, Spent]);
        assert_eq!(account(500_000, 0.5).step(), Full, "spending keeps pace with the calendar");
        assert_eq!(
            account(900_000, 0.99).step(),
            HealthOnly,
            "the last of the budget is for health and updates"
        );
        let unlimited = Account { budget_bytes: None, ..account(u64::MAX, 0.0) };
        assert_eq!((unlimited.step(), unlimited.interval_min(1_000)), (Full, Duration::ZERO));
    }

    proptest! {
        #[test]
        fn more_spending_never_leaves_less_out_nor_asks_more_often(
            spent in 0_u64..1_100_000, more in 0_u64..300_000, elapsed in 0.0_f64..1.0, bytes in 1_u64..5_000,
        ) {
            let (a, b) = (account(spent, elapsed), account(spent + more, elapsed));
            prop_assert!(a.step() <= b.step());
            prop_assert!(a.interval_min(bytes) <= b.interval_min(bytes));
            prop_assert!(a.rows_bytes_max() >= b.rows_bytes_max());
        }

        #[test]
        fn a_month_of_questions_and_rows_stays_within_the_budget(
            question in 200_u64..3_000, row_bytes in 1_000_u64..100_000, budget in 1_000_000_u64..20_000_000,
        ) {
            let (mut spent, mut at, mut wanted) = (0_u64, 0.0_f64, 0_u64);
            while at < MONTH.as_secs_f64() {
                let elapsed = at / MONTH.as_secs_f64();
                let account = Account { budget_bytes: Some(budget), spent_bytes: spent, elapsed, month: MONTH };
                spent += question;
                wanted += row_bytes;
                if account.step().predictions().is_some() {
                    let sent = wanted.min(account.rows_bytes_max().unwrap());
                    spent += sent;
                    wanted -= sent;
                }
                at += account.interval_min(question).as_secs_f64().max(3_600.0);
            }
            // One question a day goes on beyond the budget.
            prop_assert!(spent <= budget + 31 * question, "{spent} of {budget}");
        }
    }
}
