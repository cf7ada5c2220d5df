//! The known series, and the order of each: late and duplicate readings stop here.
//!
//! Gives numbers to series, keeps readings within the lateness until they are in order, and enforces the limits on
//! new topics and series. Pure; its state is saved with the instances'.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

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
    /// Instances that read it.
    pub(crate) targets: Vec<Target>,
    /// Its order.
    pub(crate) order: SeriesOrder,
}

/// An instance that reads a series.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Position of its model.
    pub(crate) model: usize,
    /// The instance.
    pub(crate) instance: InstanceId,
    /// Pairs of positions: the reading's value, the model's field.
    pub(crate) fields: Rc<[(usize, usize)]>,
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
        if let Some(last) = self.last_us {
            match reading.timed_by {
                TimedBy::Payload if event_us == last => return Err(Reason::Duplicate),
                TimedBy::Payload if event_us < last => return Err(Reason::Late),
                TimedBy::Arrival if event_us <= last && last - event_us < SET_BACK_US_MIN => {
                    event_us = last + 1
                }
                _ => {}
            }
        }
        if lateness_us == 0 || reading.timed_by == TimedBy::Arrival {
            self.last_us = Some(event_us);
            ready.push(Reading { event_us, ..reading.clone() });
            return Ok(event_us);
        }
        if self.waiting.contains_key(&event_us) {
            return Err(Reason::Duplicate);
        }
        self.newest_us = if self.last_us.is_none() && self.waiting.is_empty() {
            event_us
        } else {
            self.newest_us.max(event_us)
        };
        self.waiting.insert(event_us, Waiting { timed_by: reading.timed_by, values: reading.values.clone() });
        let settled = self.newest_us.saturating_sub(lateness_us);
        while self.waiting.len() > WAITING_MAX
            || self.waiting.first_key_value().is_some_and(|(at, _)| *at <= settled)
        {
            let Some((at, waiting)) = self.waiting.pop_first() else { break };
            self.last_us = Some(at);
            ready.push(Reading {
                series: reading.series,
                event_us: at,
                timed_by: waiting.timed_by,
                values: waiting.values,
            });
        }
        Ok(event_us)
    }
}

/// The numbers of the known series, and those of the running configuration.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    ids: HashMap<SeriesIdentity, SeriesId>,
    running: HashMap<SeriesId, Series>,
    by_source: HashMap<usize, u32>,
    next: u32,
}

impl SeriesTable {
    /// Registers a series that the store knows.
    pub(crate) fn register(&mut self, id: SeriesId, identity: SeriesIdentity) {
        self.next = self.next.max(id.0.saturating_add(1));
        self.ids.insert(identity, id);
    }

    /// Returns the number of a series, if it has one.
    #[must_use]
    pub(crate) fn id_of(&self, identity: &SeriesIdentity) -> Option<SeriesId> {
        self.ids.get(identity).copied()
    }

    /// Gives a number to a new series.
    pub(crate) fn create(&mut self, identity: SeriesIdentity) -> SeriesId {
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

    /// Returns all known series of a source.
    #[must_use]
    pub(crate) fn known_of(&self, source: &str) -> Vec<(SeriesIdentity, SeriesId)> {
        self.ids
            .iter()
            .filter(|(identity, _)| identity.source == source)
            .map(|(identity, id)| (identity.clone(), *id))
            .collect()
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

    proptest! {
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
