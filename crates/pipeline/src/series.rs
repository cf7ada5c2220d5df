//! The known series, and the order of each: late and duplicate readings stop here.
//!
//! Gives numbers to series, keeps readings within the lateness until they are in order, and enforces the limits on
//! new topics and series. Pure; its state is saved with the instances'.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dunlin_model_package::Digest;
use serde::{Deserialize, Serialize};

use crate::prediction::InstanceId;
use crate::reading::{Reading, SeriesId, SeriesIdentity, TimedBy};
use crate::refusal::Reason;

/// Most readings of one series that wait to be put in order; beyond it the oldest goes on early.
const WAITING_MAX: usize = 4_096;
/// An arrival time this much before the last one means that the clock was set back, not that readings crossed.
const SET_BACK_US_MIN: i64 = 1_000_000;

/// The order of one series.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeriesOrder {
    /// Event time of the last reading that went on.
    last_us: Option<i64>,
    /// Newest event time seen.
    newest_us: i64,
    /// Readings that wait, by event time.
    waiting: BTreeMap<i64, Waiting>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Waiting {
    timed_by: TimedBy,
    values: Vec<f64>,
}

/// A series of the running configuration.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// Position of its source.
    pub(crate) source: usize,
    /// Its tags, encoded: in one piece, ten thousand series cost little text.
    tags: Box<[u8]>,
    /// Instances that read it, by lane.
    pub(crate) targets: Box<[Target]>,
    /// Its order.
    pub(crate) order: SeriesOrder,
}

/// An instance that reads a series.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The lane.
    pub(crate) lane: usize,
    /// The instance.
    pub(crate) instance: InstanceId,
    /// Pairs of positions: the reading's value, the model's field.
    pub(crate) fields: Arc<[(usize, usize)]>,
}

impl Series {
    /// Returns a series of a source without readings.
    pub(crate) fn new(source: usize, tags: &[String], targets: Box<[Target]>) -> Self {
        let tags = postcard::to_allocvec(tags).expect("texts can always be encoded").into();
        Self { source, tags, targets, order: SeriesOrder::default() }
    }

    /// Returns the values of its tags, in the order of the source's tag names.
    pub(crate) fn tags(&self) -> Vec<String> {
        postcard::from_bytes(&self.tags).expect("tags are kept as they were encoded")
    }
}

impl SeriesOrder {
    /// Accepts or refuses a reading; returns the event time under which it is kept. `ready` gets the readings that
    /// are in order from here on.
    ///
    /// *Errors*: late or duplicate; the reading is to be counted and dropped.
    pub(crate) fn accept(
        &mut self,
        reading: &Reading,
        lateness_us: i64,
        ready: &mut Vec<Reading>,
    ) -> Result<i64, Reason> {
        let mut event_us = reading.event_us;
        let by_arrival = reading.timed_by == TimedBy::Arrival;
        if !by_arrival {
            match self.last_us {
                Some(last) if event_us == last => return Err(Reason::Duplicate),
                Some(last) if event_us < last => return Err(Reason::Late),
                _ if self.waiting.contains_key(&event_us) => return Err(Reason::Duplicate),
                _ => {}
            }
        }
        if lateness_us == 0 || by_arrival {
            // What waits is from before: of readings with times of their own, or of a larger lateness.
            self.release_through(event_us, reading.series, ready);
            if by_arrival && let Some(last) = self.last_us {
                event_us = arrival_after(last, event_us);
            }
            self.last_us = Some(event_us);
            ready.push(Reading { event_us, ..reading.clone() });
            return Ok(event_us);
        }
        self.newest_us = if self.last_us.is_none() && self.waiting.is_empty() {
            event_us
        } else {
            self.newest_us.max(event_us)
        };
        self.waiting.insert(event_us, Waiting { timed_by: reading.timed_by, values: reading.values.clone() });
        let crowded = self.waiting.len().checked_sub(WAITING_MAX + 1);
        let crowded = crowded.and_then(|surplus| self.waiting.keys().nth(surplus).copied());
        let settled = self.newest_us.saturating_sub(lateness_us);
        self.release_through(settled.max(crowded.unwrap_or(i64::MIN)), reading.series, ready);
        Ok(event_us)
    }

    fn release_through(&mut self, through_us: i64, series: SeriesId, ready: &mut Vec<Reading>) {
        while self.waiting.first_key_value().is_some_and(|(at, _)| *at <= through_us) {
            let Some((event_us, Waiting { timed_by, values })) = self.waiting.pop_first() else { break };
            self.last_us = Some(event_us);
            ready.push(Reading { series, event_us, timed_by, values });
        }
    }
}

/// Returns the time under which something that arrived at `event_us` stands after `last_us`: right after it where
/// the two crossed or came together, its own where the clock was set back.
pub(crate) const fn arrival_after(last_us: i64, event_us: i64) -> i64 {
    if event_us <= last_us && !is_set_back(last_us, event_us) { last_us.saturating_add(1) } else { event_us }
}

/// Tells whether an arrival at `event_us` after `last_us` means that the clock was set back.
pub(crate) const fn is_set_back(last_us: i64, event_us: i64) -> bool {
    last_us.saturating_sub(event_us) >= SET_BACK_US_MIN
}

/// What stands for an identity in memory: half a SHA-256, so that ten thousand series cost no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SeriesKey([u8; 16]);

impl SeriesKey {
    /// Returns the key of the series of a source with these tags and fields.
    pub(crate) fn of<'t>(
        source: &str,
        tags: impl Iterator<Item = (&'t str, &'t str)>,
        fields: &[String],
    ) -> Self {
        // Each part has its length before it, and the fields begin after the empty name of a tag.
        let mut parts: Vec<&[u8]> = vec![source.as_bytes()];
        tags.for_each(|(name, value)| parts.extend([name.as_bytes(), value.as_bytes()]));
        parts.push(b"");
        parts.extend(fields.iter().map(String::as_bytes));
        let mut key = [0; 16];
        key.copy_from_slice(&Digest::of_parts(&parts).as_bytes()[..16]);
        Self(key)
    }

    fn of_identity(identity: &SeriesIdentity) -> Self {
        let tags = identity.tags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Self::of(&identity.source, tags, &identity.fields)
    }
}

/// The numbers of the known series, and those of the running configuration.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    ids: HashMap<SeriesKey, SeriesId>,
    running: HashMap<SeriesId, Series>,
    by_source: HashMap<usize, u32>,
    next: u32,
}

impl SeriesTable {
    /// Registers a series that the store knows.
    pub(crate) fn register(&mut self, id: SeriesId, identity: &SeriesIdentity) {
        self.next = self.next.max(id.0.saturating_add(1));
        self.ids.insert(SeriesKey::of_identity(identity), id);
    }

    /// Returns the number of a series, if it has one.
    #[must_use]
    pub(crate) fn id_of(&self, key: &SeriesKey) -> Option<SeriesId> {
        self.ids.get(key).copied()
    }

    /// Gives a number to a new series.
    pub(crate) fn create(&mut self, identity: &SeriesIdentity) -> SeriesId {
        let id = SeriesId(self.next);
        self.register(id, identity);
        id
    }

    /// Puts a series into the running configuration.
    pub(crate) fn run(&mut self, id: SeriesId, series: Series) {
        *self.by_source.entry(series.source).or_default() += 1;
        self.running.insert(id, series);
    }

    /// Returns a running series.
    pub(crate) fn running_mut(&mut self, id: SeriesId) -> Option<&mut Series> {
        self.running.get_mut(&id)
    }

    /// Takes the instances of a lane away from all series.
    pub(crate) fn drop_targets(&mut self, lane: usize) {
        for series in self.running.values_mut() {
            let targets = std::mem::take(&mut series.targets).into_vec();
            series.targets = targets.into_iter().filter(|target| target.lane != lane).collect();
        }
    }

    /// Tells whether the series runs.
    #[must_use]
    pub(crate) fn is_running(&self, id: SeriesId) -> bool {
        self.running.contains_key(&id)
    }

    /// Returns how many series of a source run.
    #[must_use]
    pub(crate) fn count_of(&self, source: usize) -> u32 {
        self.by_source.get(&source).copied().unwrap_or(0)
    }

    /// Returns how many series run.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    /// Iterates over the running series.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SeriesId, &Series)> {
        self.running.iter().map(|(id, series)| (*id, series))
    }
}

/// Counts new topics by second of arrival.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct TopicRate {
    second: i64,
    count: u32,
}

impl TopicRate {
    /// Counts a new topic; tells whether it is within the limit.
    pub(crate) fn admit(&mut self, arrival_us: i64, per_second_max: u32) -> bool {
        let second = arrival_us.div_euclid(1_000_000);
        if second != self.second {
            *self = Self { second, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= per_second_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(event_us: i64, timed_by: TimedBy) -> Reading {
        Reading { series: SeriesId(0), event_us, timed_by, values: vec![event_us as f64] }
    }

    #[test]
    fn without_lateness_only_rising_times_are_accepted() {
        let mut order = SeriesOrder::default();
        let mut ready = Vec::new();
        let outcome: Vec<_> = [1, 3, 3, 2, 4]
            .iter()
            .map(|t| order.accept(&reading(*t, TimedBy::Payload), 0, &mut ready))
            .collect();
        assert_eq!(outcome, [Ok(1), Ok(3), Err(Reason::Duplicate), Err(Reason::Late), Ok(4)]);
        assert_eq!(ready.iter().map(|r| r.event_us).collect::<Vec<_>>(), [1, 3, 4]);
    }

    #[test]
    fn arrival_times_are_never_refused_and_a_clock_set_back_is_followed() {
        let mut order = SeriesOrder::default();
        let mut ready = Vec::new();
        for t in [9_000_000, 9_000_000, 8_999_999, 1_000_000] {
            order.accept(&reading(t, TimedBy::Arrival), 0, &mut ready).unwrap();
        }
        assert_eq!(
            ready.iter().map(|r| r.event_us).collect::<Vec<_>>(),
            [9_000_000, 9_000_001, 9_000_002, 1_000_000]
        );
    }

    #[test]
    fn what_waits_goes_before_an_arrival_and_before_a_smaller_lateness() {
        let mut order = SeriesOrder::default();
        let mut ready = Vec::new();
        for t in [10, 30, 20] {
            order.accept(&reading(t, TimedBy::Payload), 100, &mut ready).unwrap();
        }
        assert_eq!(order.accept(&reading(25, TimedBy::Arrival), 100, &mut ready), Ok(25));
        assert_eq!(order.accept(&reading(30, TimedBy::Payload), 0, &mut ready), Err(Reason::Duplicate));
        assert_eq!(order.accept(&reading(40, TimedBy::Payload), 0, &mut ready), Ok(40));
        assert_eq!(ready.iter().map(|r| r.event_us).collect::<Vec<_>>(), [10, 20, 25, 30, 40]);
    }

    proptest! {
        #[test]
        fn no_event_time_is_too_extreme(
            times in prop::collection::vec((prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(i64::MAX - 1), any::<i64>()], any::<bool>()), 1..20),
            lateness in prop_oneof![Just(0), Just(i64::MAX), 0..1_000_i64],
        ) {
            let (mut order, mut ready) = (SeriesOrder::default(), Vec::new());
            for (t, arrival) in times {
                let timed_by = if arrival { TimedBy::Arrival } else { TimedBy::Payload };
                let _ = order.accept(&reading(t, timed_by), lateness, &mut ready);
            }
        }

        #[test]
        fn within_the_lateness_any_order_comes_out_sorted_once(
            times in prop::collection::btree_set(0..1_000_i64, 1..50), seed in any::<u64>()
        ) {
            let mut shuffled: Vec<i64> = times.iter().copied().collect();
            let mut state = seed;
            for i in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                shuffled.swap(i, (state >> 33) as usize % (i + 1));
            }
            let (mut order, mut ready) = (SeriesOrder::default(), Vec::new());
            for t in &shuffled {
                prop_assert!(order.accept(&reading(*t, TimedBy::Payload), 2_000, &mut ready).is_ok());
                prop_assert_eq!(order.accept(&reading(*t, TimedBy::Payload), 2_000, &mut ready), Err(Reason::Duplicate));
            }
            order.accept(&reading(10_000, TimedBy::Payload), 2_000, &mut ready).unwrap();
            prop_assert_eq!(ready.iter().map(|r| r.event_us).collect::<Vec<_>>(), times.into_iter().collect::<Vec<_>>());
        }
    }
}
