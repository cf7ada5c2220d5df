//! Sensor faults, told from drift before anything is counted: one small state for each series.
//!
//! A reading comes in with its time; out come readings that are sound and readings that are not, each with what is wrong.
//! A value that jumps is held back until those after it say what it was: some later readings come out at once then. Never
//! drops a reading, and never allocates after it was made.
//!
//! Stuck, gap and clock are seen by counting and comparing. A jump is a *spike* if the values come back after at most
//! [`SPIKE_READINGS`]; a fault of *scale* if the new values are the old ones in another unit, or if level and
//! noise have grown by one factor; else the world has changed, and the readings are sound: that is for drift to see.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bins::quantile;
use crate::reference::Reading;
use crate::summary::Flaw;

/// Readings of a jump that are a spike if the values come back after them.
pub const SPIKE_READINGS: usize = 3;
/// Readings that are held back at most: enough to compare the noise of two levels.
pub const HELD_MAX: usize = 64;
/// Readings after which another unit is told.
const UNIT_READINGS: usize = 6;
/// Sound readings whose median is the level before a jump.
const LEVEL_READINGS: usize = 5;
/// A jump is so many times the largest usual change.
const JUMP: f64 = 3.0;
/// Factors below this are no fault of scale: weather may do as much.
const FACTOR_MIN: f64 = 1.4;
/// Fewest equal readings in a row that are stuck.
const STUCK_READINGS_MIN: u32 = 10;
/// A gap is so many times the longest usual interval.
const GAP: f64 = 3.0;
/// Least difference between a series' clock and the gateway's that is a fault, in µs.
const CLOCK_US_MIN: i64 = 60_000_000;

/// Conversions that sensors and their gateways confuse: a factor and what is added after it. Factors near 1 are not here: a
/// few readings cannot tell them from a change of the world, and many readings tell any factor by the noise.
const UNITS: [(f64, f64); 10] = [
    (1.8, 32.0),      // Celsius to Fahrenheit
    (1.0, 273.15),    // Celsius to kelvin
    (1.8, -459.67),   // kelvin to Fahrenheit
    (10.0, 0.0),      // tenths
    (100.0, 0.0),     // shares to per cent, hPa to Pa
    (1_000.0, 0.0),   // milli
    (1e6, 0.0),       // micro
    (3.6, 0.0),       // m/s to km/h
    (6.894_757, 0.0), // psi to kPa
    (33.863_89, 0.0), // inHg to hPa
];

/// What is usual of a series, as its reference had it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Usual {
    /// Longest usual time between two readings, in µs; 0 where it is not known.
    pub interval_us: i64,
    /// Most readings in a row that had one value.
    pub run: u32,
    /// Largest usual change from one reading to the next: the 99.9 % quantile.
    pub change_max: f64,
    /// Mean change from one reading to the next, those above the largest usual one left out: how noisy the series is.
    pub change_mean: f64,
}

impl Usual {
    /// Returns what was usual of the readings of one or more series, each in the order of time; none of fewer than 20 values.
    #[must_use]
    pub fn of(series: &[Vec<Reading<f64>>]) -> Option<Self> {
        let (mut intervals, mut changes, mut run_max) = (Vec::new(), Vec::new(), 1u32);
        for readings in series {
            let mut run = 1u32;
            let sound: Vec<(i64, f64)> = readings
                .iter()
                .filter_map(|(at, value)| Some((*at, value.filter(|value| value.is_finite())?)))
                .collect();
            for pair in sound.windows(2) {
                intervals.push((pair[1].0 - pair[0].0).max(0) as f64);
                changes.push((pair[1].1 - pair[0].1).abs());
                run = if pair[1].1.to_bits() == pair[0].1.to_bits() { run + 1 } else { 1 };
                run_max = run_max.max(run);
            }
        }
        if changes.len() < 20 {
            return None;
        }
        intervals.sort_by(f64::total_cmp);
        changes.sort_by(f64::total_cmp);
        let change_max = quantile(&changes, 0.999);
        let usual = &changes[..changes.partition_point(|change| *change <= change_max)];
        Some(Self {
            interval_us: quantile(&intervals, 0.99) as i64,
            run: run_max,
            change_max,
            change_mean: usual.iter().sum::<f64>() / usual.len().max(1) as f64,
        })
    }

    fn jump(&self) -> f64 {
        JUMP * self.change_max.max(f64::MIN_POSITIVE)
    }

    fn stuck_readings(&self) -> u32 {
        self.run.saturating_mul(2).max(STUCK_READINGS_MIN)
    }
}

/// A reading that has been judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Its time, in µs since 1970.
    pub at_us: i64,
    /// Its value; none where a reading is missing.
    pub value: Option<f64>,
    /// What is wrong with it.
    pub flaw: Option<Flaw>,
}

/// What a series did lately. Saved and restored as a whole, it goes on as if nothing had been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    usual: Usual,
    last: Option<(i64, f64)>,
    run: u32,
    /// The gateway's time minus the series', as it was when the series was sound.
    offset_us: Option<i64>,
    level: Vec<f64>,
    held: Vec<(i64, f64)>,
    scale: Option<(f64, f64)>,
}

impl Watch {
    /// Returns one that knows what is usual and has seen nothing.
    #[must_use]
    pub fn new(usual: Usual) -> Self {
        Self {
            usual,
            last: None,
            run: 1,
            offset_us: None,
            level: Vec::with_capacity(LEVEL_READINGS),
            held: Vec::with_capacity(HELD_MAX),
            scale: None,
        }
    }

    /// Judges a reading; `arrived_us` is when it came, by the gateway's clock where that can be trusted. `judged` gets it, and
    /// those that were held back and can be told by it.
    pub fn take(
        &mut self,
        at_us: i64,
        value: Option<f64>,
        arrived_us: Option<i64>,
        judged: &mut impl FnMut(Judged),
    ) {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            return judged(Judged { at_us, value: None, flaw: Some(Flaw::Missing) });
        };
        if self.is_clock_fault(at_us, arrived_us) {
            return judged(Judged { at_us, value: Some(value), flaw: Some(Flaw::Clock) });
        }
        if self.is_gap(at_us) {
            judged(Judged { at_us, value: None, flaw: Some(Flaw::Gap) });
            // What happened meanwhile is not known: the level may be another.
            self.release(None, judged);
            self.level.clear();
        }
        self.count_run(value);
        self.last = Some((at_us, value));
        if self.run >= self.usual.stuck_readings() {
            return judged(Judged { at_us, value: Some(value), flaw: Some(Flaw::Stuck) });
        }
        self.judge_level(at_us, value, judged);
    }

    /// Gives out what is held back: at the end of a series, or of a window that must be reported.
    pub fn finish(&mut self, judged: &mut impl FnMut(Judged)) {
        self.release(None, judged);
    }

    fn is_clock_fault(&mut self, at_us: i64, arrived_us: Option<i64>) -> bool {
        if self.last.is_some_and(|(last_us, _)| at_us <= last_us) {
            return true;
        }
        let Some(arrived_us) = arrived_us else { return false };
        let offset_us = arrived_us.saturating_sub(at_us);
        let usual_us = *self.offset_us.get_or_insert(offset_us);
        let tolerance_us = self.usual.interval_us.saturating_mul(3).max(CLOCK_US_MIN);
        // A link that was down brings old readings late; only a clock brings readings from the future.
        offset_us < usual_us.saturating_sub(tolerance_us)
    }

    fn is_gap(&self, at_us: i64) -> bool {
        let gap_us = (self.usual.interval_us as f64 * GAP) as i64;
        gap_us > 0 && self.last.is_some_and(|(last_us, _)| at_us.saturating_sub(last_us) > gap_us)
    }

    fn count_run(&mut self, value: f64) {
        let is_same = self.last.is_some_and(|(_, last)| last.to_bits() == value.to_bits());
        self.run = if is_same { self.run.saturating_add(1) } else { 1 };
    }

    fn judge_level(&mut self, at_us: i64, value: f64, judged: &mut impl FnMut(Judged)) {
        let Some(level) = median(&self.level) else { return self.accept(at_us, value, judged) };
        let is_near = |value: f64| (value - level).abs() <= self.usual.jump();
        if let Some((factor, added)) = self.scale {
            if is_near(value) {
                self.scale = None;
                return self.accept(at_us, value, judged);
            }
            // The level goes on in the old unit, so that its return is known whenever it comes.
            let before = (value - added) / factor;
            if (before - level).abs() <= self.usual.jump() * 2.0 {
                self.note_level(before);
                return judged(Judged { at_us, value: Some(value), flaw: Some(Flaw::Scale) });
            }
            self.scale = None;
        }
        if is_near(value) {
            // The level is where it was: what was held back was no other one.
            let flaw = (self.held.len() <= SPIKE_READINGS).then_some(Flaw::Spike);
            self.give_out(flaw, judged);
            return self.accept(at_us, value, judged);
        }
        self.held.push((at_us, value));
        if self.held.len() == UNIT_READINGS {
            self.scale = self.other_unit(level);
        } else if self.held.len() == HELD_MAX {
            self.scale = self.other_factor(level);
            if self.scale.is_none() {
                // The world has changed.
                self.level.clear();
                self.release(None, judged);
            }
        }
        if self.scale.is_some() {
            self.release(Some(Flaw::Scale), judged);
        }
    }

    /// Returns the unit in which the values that are held back are the level before.
    fn other_unit(&self, level: f64) -> Option<(f64, f64)> {
        let now = median_of(self.held.iter().map(|(_, value)| *value));
        let both_ways =
            UNITS.into_iter().flat_map(|(factor, added)| [(factor, added), (1.0 / factor, -added / factor)]);
        let off = |unit: &(f64, f64)| ((now - unit.1) / unit.0 - level).abs();
        let nearest = both_ways.min_by(|one, other| off(one).total_cmp(&off(other)))?;
        (off(&nearest) <= self.usual.jump() / 2.0).then_some(nearest)
    }

    /// Returns the factor by which both level and noise have grown.
    fn other_factor(&self, level: f64) -> Option<(f64, f64)> {
        let now = median_of(self.held.iter().map(|(_, value)| *value));
        let changes = self.held.windows(2).map(|pair| (pair[1].1 - pair[0].1).abs());
        let noise = changes.sum::<f64>() / (HELD_MAX - 1) as f64;
        let (factor, of_noise) = (now / level, noise / self.usual.change_mean);
        let is_large = factor.is_finite() && factor.abs().max(1.0 / factor.abs()) >= FACTOR_MIN;
        // Nearer to the factor than to 1, in logarithms; and not much beyond it.
        let along = of_noise.ln() / factor.abs().ln();
        (is_large && (0.5..1.5).contains(&along)).then_some((factor, 0.0))
    }

    fn accept(&mut self, at_us: i64, value: f64, judged: &mut impl FnMut(Judged)) {
        self.note_level(value);
        judged(Judged { at_us, value: Some(value), flaw: None });
    }

    fn note_level(&mut self, value: f64) {
        if self.level.len() == LEVEL_READINGS {
            self.level.remove(0);
        }
        self.level.push(value);
    }

    /// Gives out what is held back without taking it for the level.
    fn give_out(&mut self, flaw: Option<Flaw>, judged: &mut impl FnMut(Judged)) {
        self.held
            .iter()
            .for_each(|(at_us, value)| judged(Judged { at_us: *at_us, value: Some(*value), flaw }));
        self.held.clear();
    }

    fn release(&mut self, flaw: Option<Flaw>, judged: &mut impl FnMut(Judged)) {
        for place in 0..self.held.len() {
            let (at_us, value) = self.held[place];
            match flaw {
                None => self.accept(at_us, value, judged),
                Some(_) => judged(Judged { at_us, value: Some(value), flaw }),
            }
        }
        self.held.clear();
    }
}

fn median(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| median_of(values.iter().copied()))
}

/// Returns the median of up to [`HELD_MAX`] values.
fn median_of(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted = [f64::INFINITY; HELD_MAX];
    let mut count = 0;
    for (place, value) in sorted.iter_mut().zip(values) {
        *place = value;
        count += 1;
    }
    let sorted = &mut sorted[..count];
    sorted.sort_by(f64::total_cmp);
    quantile(sorted, 0.5)
}

#[cfg(test)]
mod tests;
