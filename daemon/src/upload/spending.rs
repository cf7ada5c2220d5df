//! Meters bytes by purpose and month, on disk, so that a restart does not begin the month anew.
//!
//! Counts and persists; what is left out because of it is `budget`'s to say. Months are UTC's; while the clock is not set,
//! bytes go to the last month that is known.

use std::collections::BTreeMap;
use std::time::Duration;

use dunlin_kit::clock::is_plausible;
use dunlin_protocol::List;
use dunlin_protocol::health::{Purpose, Spent};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::budget::Account;
use crate::store::StoreError;
use crate::store::uploads::{KeptBytes, UploadStore};

/// Bytes of a question, where none was metered yet.
const QUESTION_BYTES: u64 = 2_048;
/// Share of a new figure in the mean of a question's bytes.
const MEAN_SHARE: f64 = 0.125;

/// What was spent in the present month.
#[derive(Debug, Default)]
pub(crate) struct Spending {
    month: String,
    by_purpose: BTreeMap<String, KeptBytes>,
    /// Bytes that are not on disk, since that failed.
    unsaved: BTreeMap<String, KeptBytes>,
    question_bytes: Option<f64>,
}

/// A month and how much of it is over.
#[derive(Debug, Clone, PartialEq)]
struct Calendar {
    month: String,
    elapsed: f64,
    length: Duration,
}

/// Returns the month of a time; none while the clock is not set.
fn calendar(wall_us: i64) -> Option<Calendar> {
    if !is_plausible(wall_us) {
        return None;
    }
    let date = Timestamp::from_microsecond(wall_us).ok()?.to_zoned(TimeZone::UTC).date();
    let begins = |date: jiff::civil::Date| {
        let zoned = date.first_of_month().to_zoned(TimeZone::UTC).ok()?;
        Some(zoned.timestamp().as_microsecond())
    };
    let (begin, end) = (begins(date)?, begins(date.last_of_month().tomorrow().ok()?)?);
    let length = (end - begin).max(1);
    let elapsed = (wall_us - begin) as f64 / length as f64;
    let month = format!("{:04}-{:02}", date.year(), date.month());
    Some(Calendar { month, elapsed, length: Duration::from_micros(length.unsigned_abs()) })
}

impl Spending {
    /// Reads what was spent so far in the present month.
    ///
    /// *Errors*: the file cannot be read.
    pub(crate) fn open(store: &UploadStore, wall_us: i64) -> Result<Self, StoreError> {
        let month = match calendar(wall_us) {
            Some(calendar) => calendar.month,
            None => store.last_month()?.unwrap_or_else(|| "1970-01".to_owned()),
        };
        let by_purpose = store.spent(&month)?;
        Ok(Self { month, by_purpose, ..Self::default() })
    }

    /// Adds bytes; those that could not be stored are stored with the next.
    pub(crate) fn add(
        &mut self,
        store: &UploadStore,
        purpose: &Purpose,
        (sent, received): (u64, u64),
        wall_us: i64,
    ) -> Result<(), StoreError> {
        self.turn_page(wall_us);
        if *purpose == Purpose::Exchange {
            let bytes = (sent + received) as f64;
            let mean = self.question_bytes.unwrap_or(bytes);
            self.question_bytes = Some(mean + MEAN_SHARE * (bytes - mean));
        }
        let name = purpose.to_string();
        for sums in [&mut self.by_purpose, &mut self.unsaved] {
            let sum = sums.entry(name.clone()).or_default();
            sum.sent = sum.sent.saturating_add(sent);
            sum.received = sum.received.saturating_add(received);
        }
        store.spend(&self.month, &self.unsaved)?;
        self.unsaved.clear();
        Ok(())
    }

    fn turn_page(&mut self, wall_us: i64) {
        if let Some(calendar) = calendar(wall_us)
            && calendar.month > self.month
        {
            *self = Self { month: calendar.month, question_bytes: self.question_bytes, ..Self::default() };
        }
    }

    /// Returns the account of the present month.
    pub(crate) fn account(&mut self, budget_bytes: Option<u64>, wall_us: i64) -> Account {
        self.turn_page(wall_us);
        // Without a clock the middle of the month: neither the whole budget at once, nor nothing.
        let (elapsed, month) = match calendar(wall_us) {
            Some(calendar) if calendar.month == self.month => (calendar.elapsed, calendar.length),
            _ => (0.5, Duration::from_secs(30 * 86_400)),
        };
        let spent_bytes = self
            .by_purpose
            .values()
            .fold(0_u64, |sum, b| sum.saturating_add(b.sent).saturating_add(b.received));
        Account { budget_bytes, spent_bytes, elapsed, month }
    }

    /// Returns the bytes that a question costs on the average.
    pub(crate) fn question_bytes(&self) -> u64 {
        self.question_bytes.map_or(QUESTION_BYTES, |mean| mean as u64)
    }

    /// Returns the present month, as `2026-11`.
    pub(crate) fn month(&self) -> &str {
        &self.month
    }

    /// Returns what was spent, as it is reported.
    pub(crate) fn spent<const MAX: usize>(&self) -> List<Spent, MAX> {
        List::first_of(self.by_purpose.iter().filter_map(|(purpose, bytes)| {
            let purpose = serde_json::from_value(serde_json::Value::String(purpose.clone())).ok()?;
            Some(Spent { purpose, sent_bytes: bytes.sent, received_bytes: bytes.received })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FolderLock;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    #[test]
    fn a_month_has_its_own_length_and_ends_at_midnight_in_utc() {
        let february = calendar(at("2028-02-15T12:00:00Z")).unwrap();
        assert_eq!((february.month.as_str(), february.length.as_secs()), ("2028-02", 29 * 86_400));
        assert!((february.elapsed - 0.5).abs() < 1e-9);
        assert_eq!(calendar(at("2026-12-31T23:59:59Z")).unwrap().month, "2026-12");
        assert_eq!(calendar(at("2027-01-01T00:00:00Z")).unwrap().month, "2027-01");
        assert_eq!(calendar(0), None);
    }

    #[test]
    fn spending_survives_a_start_and_begins_anew_with_the_month_and_not_with_a_clock_that_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let store = UploadStore::open(&lock).unwrap();
        let november = at("2026-11-20T00:00:00Z");
        let mut spending = Spending::open(&store, november).unwrap();
        spending.add(&store, &Purpose::Exchange, (600, 400), november).unwrap();
        spending.add(&store, &Purpose::Predictions, (5_000, 0), november).unwrap();
        // Without a clock after a start: the month that is known.
        let mut spending = Spending::open(&store, 0).unwrap();
        assert_eq!(spending.account(None, 0).spent_bytes, 6_000);
        spending.add(&store, &Purpose::Exchange, (1, 1), 0).unwrap();
        assert_eq!(spending.spent::<16>().len(), 2);
        assert_eq!(
            spending.account(None, at("2026-10-01T00:00:00Z")).spent_bytes,
            6_002,
            "a clock that went back"
        );
        spending.add(&store, &Purpose::Exchange, (7, 0), at("2026-12-01T00:00:00Z")).unwrap();
        assert_eq!(spending.account(None, at("2026-12-01T00:00:00Z")).spent_bytes, 7);
        assert_eq!(spending.month(), "2026-12");
    }
}
