//! Faults that come into series of a sensor: each is named rightly, none looks like drift, and sound series are not blamed.

use proptest::prelude::*;

use super::*;
use crate::draws::Draws;
use crate::reference::Reference;
use crate::summary::Summary;

/// Between two readings.
const MINUTE_US: i64 = 60_000_000;
/// Readings of the reference, and of the series that a fault comes into.
const READINGS: usize = 3 * 1_440;
/// Where the fault begins.
const FROM: usize = 2_000;

/// A temperature: a day's course, weather, noise of the sensor.
fn temperature(seed: u64) -> Vec<Reading<f64>> {
    let mut draws = Draws(seed);
    let (mut weather, phase) = (0.0, draws.even() * 6.0);
    (0..READINGS)
        .map(|n| {
            weather = weather * 0.999 + draws.normal() * 0.05;
            let day = (n as f64 / 1_440.0 * std::f64::consts::TAU + phase).sin();
            (n as i64 * MINUTE_US, Some(21.0 + 3.0 * day + weather + draws.normal() * 0.1))
        })
        .collect()
}

/// Judges a series that arrives as it is measured, or when `arrival` says.
fn judge(usual: Usual, readings: &[Reading<f64>], arrival: impl Fn(usize) -> i64) -> Vec<Judged> {
    let (mut watch, mut found) = (Watch::new(usual), Vec::new());
    for (place, (at_us, value)) in readings.iter().enumerate() {
        watch.take(*at_us, *value, Some(arrival(place)), &mut |judged| found.push(judged));
    }
    watch.finish(&mut |judged| found.push(judged));
    found
}

fn on_time(place: usize) -> i64 {
    place as i64 * MINUTE_US
}

/// Returns which flaw was found most often, and how often flaws were found.
fn named(judged: &[Judged]) -> (Option<Flaw>, usize) {
    let count = |flaw: Flaw| judged.iter().filter(|judged| judged.flaw == Some(flaw)).count();
    let most = Flaw::ALL.into_iter().max_by_key(|flaw| (count(*flaw), std::cmp::Reverse(*flaw)));
    (most.filter(|flaw| count(*flaw) > 0), judged.iter().filter(|judged| judged.flaw.is_some()).count())
}

/// A fault that comes into a series from a reading on.
type Fault = fn(&mut Vec<Reading<f64>>, &mut Draws);

const FAULTS: [(Flaw, Fault); 7] = [
    (Flaw::Stuck, |readings, _| {
        let value = readings[FROM].1;
        readings[FROM..FROM + 200].iter_mut().for_each(|reading| reading.1 = value);
    }),
    (Flaw::Gap, |readings, draws| {
        let length = 20 + (draws.even() * 300.0) as usize;
        readings.drain(FROM..FROM + length);
    }),
    (Flaw::Spike, |readings, draws| {
        for spike in 0..5 {
            let height = (10.0 + draws.even() * 80.0) * if draws.even() < 0.5 { -1.0 } else { 1.0 };
            readings[FROM + spike * 50].1 = Some(21.0 + height);
        }
    }),
    // Another unit.
    (Flaw::Scale, |readings, draws| {
        let (factor, added) = UNITS[(draws.even() * 3.0) as usize];
        let (factor, added) = if factor == 1.8 && added < 0.0 { (1_000.0, 0.0) } else { (factor, added) };
        for reading in &mut readings[FROM..FROM + 400] {
            reading.1 = reading.1.map(|value| value * factor + added);
        }
    }),
    // Another scale.
    (Flaw::Scale, |readings, draws| {
        let factor = if draws.even() < 0.5 { 1.6 + draws.even() * 3.0 } else { 0.2 + draws.even() * 0.4 };
        for reading in &mut readings[FROM..FROM + 400] {
            reading.1 = reading.1.map(|value| value * factor);
        }
    }),
    // A clock that is set ahead for a while.
    (Flaw::Clock, |readings, draws| {
        let ahead_us = 600_000_000 + (draws.even() * 1e12) as i64;
        readings[FROM..FROM + 300].iter_mut().for_each(|reading| reading.0 += ahead_us);
    }),
    // A clock that is set back.
    (Flaw::Clock, |readings, draws| {
        let back_us = 600_000_000 + (draws.even() * 1e10) as i64;
        readings[FROM..FROM + 300].iter_mut().for_each(|reading| reading.0 -= back_us);
    }),
];

#[test]
fn of_a_hundred_faults_of_each_kind_at_least_95_are_named_and_none_looks_like_drift() {
    for (kind, (flaw, fault)) in FAULTS.into_iter().enumerate() {
        let (mut right, mut drifted, mut wrong) = (0, 0, Vec::new());
        for seed in 0..100 {
            let reference_readings = temperature(seed);
            let usual = Usual::of(std::slice::from_ref(&reference_readings)).unwrap();
            let mut readings = temperature(seed);
            let before = readings.len();
            fault(&mut readings, &mut Draws(seed + 7_000));
            let removed = before - readings.len();
            let arrival = |place: usize| on_time(if place >= FROM { place + removed } else { place });
            let judged = judge(usual, &readings, arrival);
            let (found, _) = named(&judged);
            right += usize::from(found == Some(flaw));
            if found != Some(flaw) {
                wrong.push((seed, found));
            }
            let reference = Reference::of_numbers(&[reference_readings], &[86_400]).unwrap();
            drifted += usize::from(shift(&reference, &judged) > 0.25);
        }
        assert!(right >= 95, "{kind}: {flaw:?} {right} {wrong:?}");
        assert!(drifted <= 5, "{kind}: {flaw:?} {drifted}");
    }
}

/// Returns how far the sound readings are from the reference.
fn shift(reference: &Reference, judged: &[Judged]) -> f64 {
    let (mut summary, scale) = (Summary::empty(reference.bins.count()), reference.scale.unwrap());
    for reading in judged.iter().filter(|reading| reading.flaw.is_none()) {
        summary.add_number(reading.value.unwrap(), &reference.bins, &scale);
    }
    reference.scores(&summary).unwrap().wasserstein_sd
}

#[test]
fn series_without_a_fault_are_hardly_ever_blamed() {
    let blamed: usize = (0..100)
        .map(|seed| {
            let usual = Usual::of(&[temperature(seed + 500)]).unwrap();
            named(&judge(usual, &temperature(seed), on_time)).1
        })
        .sum();
    assert!(blamed <= 20, "{blamed} of {} readings", 100 * READINGS);
}

#[test]
fn a_level_that_changes_and_stays_is_no_fault_but_the_worlds() {
    let mut scaled = 0;
    for seed in 0..100 {
        let usual = Usual::of(&[temperature(seed + 500)]).unwrap();
        let mut readings = temperature(seed);
        readings[FROM..].iter_mut().for_each(|reading| reading.1 = reading.1.map(|value| value + 15.0));
        let judged = judge(usual, &readings, on_time);
        scaled += usize::from(judged.iter().any(|reading| reading.flaw.is_some()));
    }
    assert!(scaled <= 5, "{scaled}");
}

#[test]
fn values_that_come_back_after_more_than_a_spike_leave_the_level_where_it_was() {
    let blamed: usize = (0..100)
        .map(|seed| {
            let usual = Usual::of(&[temperature(seed + 500)]).unwrap();
            let mut readings = temperature(seed);
            // Too many for a spike, too few for another unit.
            for reading in &mut readings[FROM..FROM + SPIKE_READINGS + 2] {
                reading.1 = reading.1.map(|value| value * 1.8 + 32.0);
            }
            named(&judge(usual, &readings, on_time)).1
        })
        .sum();
    assert!(blamed <= 20, "{blamed} of {} readings", 100 * READINGS);
}

#[test]
fn readings_that_come_late_after_an_outage_of_the_link_are_sound() {
    let usual = Usual::of(&[temperature(1)]).unwrap();
    let late = |place: usize| on_time(if (1_000..2_000).contains(&place) { 2_000 } else { place });
    assert_eq!(named(&judge(usual, &temperature(2), late)), (None, 0));
}

proptest! {
    #[test]
    fn every_reading_comes_out_once_in_its_order(
        values in prop::collection::vec(prop_oneof![4 => (0..9i32).prop_map(|n| Some(f64::from(n))), 1 => (-1e9..1e9f64).prop_map(Some), 1 => Just(None), 1 => Just(Some(f64::NAN))], 0..120),
        steps in prop::collection::vec(-3..20i64, 120),
    ) {
        let usual = Usual { interval_us: 2, run: 3, change_max: 4.0, change_mean: 1.0 };
        let mut at_us = 0;
        let readings: Vec<Reading<f64>> = values.iter().zip(steps).map(|(value, step)| {
            at_us += step;
            (at_us, *value)
        }).collect();
        let judged = judge(usual, &readings, on_time);
        let of_readings = judged.iter().filter(|judged| judged.flaw != Some(Flaw::Gap)).count();
        prop_assert_eq!(of_readings, readings.len());
        let sound: Vec<f64> = judged.iter().filter(|judged| judged.flaw.is_none()).map(|judged| judged.value.unwrap()).collect();
        let mut all = readings.iter().filter_map(|(_, value)| *value);
        prop_assert!(sound.iter().all(|value| all.any(|given| given.to_bits() == value.to_bits())), "sound readings keep their order");
    }
}
