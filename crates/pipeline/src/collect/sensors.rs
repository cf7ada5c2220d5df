//! The sensors of one instance: each reading of each field is judged before anything is counted.
//!
//! A value is out of range, or goes through the state of its sensor (`dunlin_drift::faults`), or contradicts the other
//! sensors of its quantity. What is sound and complete has a distance from the profile's common components. Never drops a
//! reading: what is not sound is said to be so.
//!
//! *Clock*: a reading whose time cannot be right never comes here, since sources refuse it (`time.skew_max`) and series put
//! readings in order; a gateway's clock that is set back begins anew.

use dunlin_drift::faults::{Judged, Watch};
use dunlin_drift::summary::Flaw;
use serde::{Deserialize, Serialize};

use super::plan::{FeaturePlan, Plan};
use super::{CollectCounts, FAULTY_SHOWN, FaultySensor, Observed};
use crate::instance::Share;
use crate::reading::{SeriesId, TimedBy};

/// Fewest sensors of one quantity of which one can be told to be the odd one.
const PEERS_MIN: usize = 3;
/// Most other sensors that one is compared with.
const PEERS_MAX: usize = 15;
/// Standard deviations of the reference that a sensor may be from the median of the others.
const APART_SD: f64 = 4.0;
/// Readings in a row that are apart before a sensor disagrees: a door that opens is felt by one sensor first.
const APART_READINGS: u32 = 10;
/// A sensor that was silent for so long is not compared with: three times its usual interval, and at least a minute.
const SILENT: i64 = 3;
const SILENT_US_MIN: i64 = 60_000_000;

/// The sensors of one instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sensors {
    /// In order of feature and series.
    sensors: Vec<Sensor>,
    /// Latest sound values of the features that are looked at together, in their order.
    row: Vec<f64>,
    /// Bit i: value i is newer than the last distance.
    fresh: u64,
    /// How many sensors are faulty, or say what is not explained yet.
    faulty: u32,
}

/// One field of one series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sensor {
    feature: u16,
    series: SeriesId,
    watch: Option<Watch>,
    /// Time of the latest reading, and its value where that is one.
    last_us: i64,
    last: f64,
    /// Longest usual interval; 0 where it is not known.
    usual_us: i64,
    /// Since when values are held back: a jump that nothing explained yet.
    held_since_us: Option<i64>,
    /// Readings in a row that were apart from the others.
    apart: u32,
    fault: Option<Flaw>,
}

impl Sensor {
    fn new(feature: u16, series: SeriesId, plan: &FeaturePlan) -> Self {
        Self {
            feature,
            series,
            watch: plan.usual.map(Watch::new),
            last_us: i64::MIN,
            last: f64::NAN,
            usual_us: plan.usual.map_or(0, |usual| usual.interval_us),
            held_since_us: None,
            apart: 0,
            fault: None,
        }
    }

    const fn is_faulty(&self) -> bool {
        self.fault.is_some() || self.held_since_us.is_some()
    }

    /// Returns its value, where others can be compared with it.
    fn comparable(&self, at_us: i64, silent_us: i64) -> Option<f64> {
        let is_recent = at_us.saturating_sub(self.last_us) <= silent_us;
        (is_recent && !self.is_faulty() && self.last.is_finite()).then_some(self.last)
    }
}

impl Sensors {
    /// Returns those of an instance that has seen nothing.
    pub(crate) fn new(plan: &Plan) -> Self {
        let row =
            plan.together.as_ref().map_or_else(Vec::new, |together| vec![f64::NAN; together.features.len()]);
        Self { sensors: Vec::new(), row, fresh: 0, faulty: 0 }
    }

    /// Tells whether they are those of an instance with this plan.
    pub(crate) fn fits(&self, plan: &Plan) -> bool {
        let row = plan.together.as_ref().map_or(0, |together| together.features.len());
        self.row.len() == row
            && self.sensors.is_sorted_by_key(|sensor| (sensor.feature, sensor.series))
            && self.sensors.iter().all(|sensor| usize::from(sensor.feature) < plan.features.len())
    }

    /// Tells whether any sensor is faulty, or what it says is not explained yet.
    pub(crate) const fn is_any_faulty(&self) -> bool {
        self.faulty > 0
    }

    /// Judges a reading and puts what is to be counted. Values that are held back longer than `held_us_max` are let go as
    /// sound: their window would close without them.
    pub(crate) fn take(
        &mut self,
        plan: &Plan,
        held_us_max: i64,
        series: SeriesId,
        share: Share<'_>,
        put: &mut impl FnMut(Observed, i64),
    ) {
        if self.follow_clock(plan, series, share) {
            put(Observed::ClockSetBack, share.event_us);
        }
        let mut is_read = false;
        for (from, field) in share.fields {
            let (Some(feature), Some(raw)) = (plan.feature_of(*field), share.values.get(*from)) else {
                continue;
            };
            if !is_read {
                is_read = true;
                put(Observed::Reading, share.event_us);
            }
            let value = plan.features[usize::from(feature)].conversion.apply(*raw);
            let sound = self.judge(plan, held_us_max, (feature, series), (share.event_us, value), put);
            self.note(plan, feature, sound);
        }
        self.measure(plan, share.event_us, put);
    }

    /// Starts the sensors of a series anew where the gateway's clock, by which it is timed, was set back.
    fn follow_clock(&mut self, plan: &Plan, series: SeriesId, share: Share<'_>) -> bool {
        let is_behind = |sensor: &Sensor| sensor.series == series && share.event_us <= sensor.last_us;
        if share.timed_by == TimedBy::Payload || !self.sensors.iter().any(is_behind) {
            return false;
        }
        for sensor in self.sensors.iter_mut().filter(|sensor| sensor.series == series) {
            *sensor = Sensor::new(sensor.feature, series, &plan.features[usize::from(sensor.feature)]);
        }
        self.faulty = self.sensors.iter().filter(|sensor| sensor.is_faulty()).count() as u32;
        true
    }

    /// Judges a value of a sensor; returns it where it is sound.
    fn judge(
        &mut self,
        plan: &Plan,
        held_us_max: i64,
        (feature, series): (u16, SeriesId),
        (at_us, value): (i64, f64),
        put: &mut impl FnMut(Observed, i64),
    ) -> Option<f64> {
        let of = &plan.features[usize::from(feature)];
        let place = match self.sensors.binary_search_by_key(&(feature, series), |s| (s.feature, s.series)) {
            Ok(place) => place,
            Err(place) => {
                self.sensors.insert(place, Sensor::new(feature, series, of));
                place
            }
        };
        if !value.is_finite() {
            let sensor = &mut self.sensors[place];
            (sensor.last_us, sensor.last) = (at_us, f64::NAN);
            put(Observed::Flaw(feature, Flaw::Missing), at_us);
            return None;
        }
        let was_faulty = self.sensors[place].is_faulty();
        let sound = self.tell(of, held_us_max, place, (at_us, value), put);
        let is_faulty = self.sensors[place].is_faulty();
        self.faulty = (self.faulty + u32::from(is_faulty)).saturating_sub(u32::from(was_faulty));
        sound
    }

    fn tell(
        &mut self,
        of: &FeaturePlan,
        held_us_max: i64,
        place: usize,
        (at_us, value): (i64, f64),
        put: &mut impl FnMut(Observed, i64),
    ) -> Option<f64> {
        if of.range.is_some_and(|(low, high)| value < low || value > high) {
            let sensor = &mut self.sensors[place];
            (sensor.fault, sensor.last_us, sensor.last) = (Some(Flaw::OutOfRange), at_us, f64::NAN);
            put(Observed::Flaw(sensor.feature, Flaw::OutOfRange), at_us);
            return None;
        }
        let others = self.others(place, at_us, of);
        let sensor = &mut self.sensors[place];
        sensor.count_apart(value, others, of);
        sensor.watch(held_us_max, (at_us, value), put)
    }

    /// Returns the median of what the other sensors of the same feature say; none where they are too few.
    fn others(&self, place: usize, at_us: i64, of: &FeaturePlan) -> Option<f64> {
        let feature = self.sensors[place].feature;
        let first = self.sensors.partition_point(|sensor| sensor.feature < feature);
        let last = first + self.sensors[first..].partition_point(|sensor| sensor.feature == feature);
        if last - first < PEERS_MIN {
            return None;
        }
        let usual_us = of.usual.map_or(0, |usual| usual.interval_us);
        let silent_us = usual_us.saturating_mul(SILENT).max(SILENT_US_MIN);
        let mut said = [f64::INFINITY; PEERS_MAX];
        let others = (first..last).filter(|other| *other != place);
        let values = others.filter_map(|other| self.sensors[other].comparable(at_us, silent_us));
        let mut count = 0;
        for (to, value) in said.iter_mut().zip(values) {
            *to = value;
            count += 1;
        }
        if count < PEERS_MIN - 1 {
            return None;
        }
        let said = &mut said[..count];
        said.sort_unstable_by(f64::total_cmp);
        Some((said[(count - 1) / 2] + said[count / 2]) / 2.0)
    }

    /// Notes the latest value of a feature for the distances; one that is not sound is missing.
    fn note(&mut self, plan: &Plan, feature: u16, sound: Option<f64>) {
        let Some(together) = &plan.together else { return };
        for (position, _) in together.features.iter().enumerate().filter(|(_, known)| **known == feature) {
            self.fresh &= !(1 << position);
            if let (Some(value), Some(place)) = (sound, self.row.get_mut(position)) {
                *place = value;
                self.fresh |= 1 << position;
            }
        }
    }

    /// Puts the distances once each feature has a new sound value.
    fn measure(&mut self, plan: &Plan, at_us: i64, put: &mut impl FnMut(Observed, i64)) {
        let Some(together) = &plan.together else { return };
        if self.row.is_empty() || self.fresh.count_ones() as usize != self.row.len() {
            return;
        }
        self.fresh = 0;
        if let Some(distances) = together.subspace.distances(&self.row) {
            put(Observed::Value(together.within, distances.t2), at_us);
            put(Observed::Value(together.from, distances.q), at_us);
        }
    }

    /// Adds them to the counts.
    pub(crate) fn count(&self, plan: &Plan, counts: &mut CollectCounts) {
        counts.sensors += self.sensors.len() as u64;
        for sensor in &self.sensors {
            let Some(fault) = sensor.fault else { continue };
            *counts.faulty.entry(fault).or_default() += 1;
            if let Some(feature) = plan.features.get(usize::from(sensor.feature))
                && counts.shown.len() < FAULTY_SHOWN
            {
                let (series, field) = (sensor.series, feature.name.clone());
                counts.shown.push(FaultySensor { series, name: String::new(), field, flaw: fault });
            }
        }
    }
}

impl Sensor {
    fn count_apart(&mut self, value: f64, others: Option<f64>, of: &FeaturePlan) {
        let (Some(others), Some(spread)) = (others, of.spread) else {
            self.apart = 0;
            return;
        };
        let is_apart = (value - others).abs() > APART_SD * spread;
        self.apart = if is_apart { self.apart.saturating_add(1) } else { 0 };
    }

    /// Takes a value through the state of the sensor; returns it where it is sound at once.
    fn watch(
        &mut self,
        held_us_max: i64,
        (at_us, value): (i64, f64),
        put: &mut impl FnMut(Observed, i64),
    ) -> Option<f64> {
        let feature = self.feature;
        // Readings without a sound value came all the same: between them there was no gap.
        let silent_us = at_us.saturating_sub(self.last_us);
        let usual_us = self.usual_us;
        let is_no_gap = |flaw| flaw == Some(Flaw::Gap) && silent_us <= usual_us.saturating_mul(SILENT);
        (self.last_us, self.last) = (at_us, value);
        let disagrees = self.apart >= APART_READINGS;
        // What became of this value: not told yet, or told with what is wrong.
        let mut told = None;
        let mut judged = |found: Judged| {
            let flaw = match found.flaw {
                None if disagrees => Some(Flaw::Disagreement),
                flaw => flaw,
            };
            if found.at_us == at_us && found.value.is_some() {
                told = Some(flaw);
            }
            match (flaw, found.value) {
                (flaw, _) if is_no_gap(flaw) => {}
                (Some(flaw), _) => put(Observed::Flaw(feature, flaw), found.at_us),
                (None, Some(value)) => put(Observed::Value(feature, value), found.at_us),
                (None, None) => {}
            }
        };
        match &mut self.watch {
            None => judged(Judged { at_us, value: Some(value), flaw: None }),
            Some(watch) => {
                let is_long = |since: i64| at_us.saturating_sub(since) > held_us_max;
                if self.held_since_us.is_some_and(is_long) {
                    watch.finish(&mut judged);
                    self.held_since_us = None;
                }
                watch.take(at_us, Some(value), None, &mut judged);
            }
        }
        match told {
            None => {
                self.held_since_us.get_or_insert(at_us);
                None
            }
            Some(flaw) => {
                // A value that is stuck is told while others stay held back.
                if flaw != Some(Flaw::Stuck) {
                    self.held_since_us = None;
                }
                self.fault = flaw;
                flaw.is_none().then_some(value)
            }
        }
    }
}
