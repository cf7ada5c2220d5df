//! A fleet in which little happens, and on some gateways something: what the rules find, how soon, and how often wrongly.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod draws;

use draws::Draws;
use dunlin_drift::alert::{Rule, Stream, Turn, large};
use dunlin_drift::evidence::{Evidence, threshold};
use dunlin_drift::reference::{Reading, Reference};
use dunlin_drift::summary::Summary;

const DEVICES: usize = 200;
const FEATURES: usize = 8;
/// Readings of a day: one in five minutes.
const READINGS: usize = 288;
const REFERENCE_DAYS: usize = 56;
const DAYS: usize = 40;
/// The day on which values of some gateways move.
const SHIFT_DAY: usize = 20;
/// One gateway in so many.
const SHIFTED: usize = 20;
/// By how much, in standard deviations.
const SHIFT: f64 = 1.5;
/// Gateways that the training data came from.
const TRAINING_DEVICES: usize = 10;
/// Readings after which a gateway's own course is forgotten: six hours.
const MEMORY: f64 = READINGS as f64 / 4.0;
const DAY_S: u64 = 86_400;
/// Days that are merged.
const LONG: usize = 3;
const LONG_S: u64 = DAY_S * LONG as u64;
/// What a reading has of the weather, which all gateways share; of a slow course of its own; of the hour; and of noise. Their
/// squares add up to 1.
const WEATHER: f64 = 0.5;
const OWN: f64 = 0.5;
const COURSE: f64 = 0.6;
const NOISE: f64 = 0.374;

/// A course of mean 0 and standard deviation 1 that forgets itself in so many readings.
fn slow(draws: &mut Draws, length: usize, memory: f64) -> Vec<f64> {
    let keep = (-1.0 / memory).exp();
    let step = (1.0 - keep * keep).sqrt();
    let mut value = draws.normal();
    (0..length)
        .map(|_| {
            value = keep * value + step * draws.normal();
            value
        })
        .collect()
}

/// A feature of the fleet: its reference, and the summaries of each gateway, day by day.
struct Feature {
    reference: Reference,
    days: Vec<Vec<Summary>>,
}

/// Values of one feature on one gateway over some days of the weather.
fn values(draws: &mut Draws, weather: &[f64], shift_from: usize) -> Vec<f64> {
    let phase = draws.even() * std::f64::consts::TAU;
    let own = slow(draws, weather.len(), MEMORY);
    let value = |n: usize| {
        let hour =
            (n as f64 / READINGS as f64 * std::f64::consts::TAU + phase).sin() * std::f64::consts::SQRT_2;
        let shift = if n >= shift_from { SHIFT } else { 0.0 };
        WEATHER * weather[n] + OWN * own[n] + COURSE * hour + shift
    };
    (0..weather.len()).map(|n| value(n) + NOISE * draws.normal()).collect()
}

fn feature(draws: &mut Draws) -> Feature {
    let weather = slow(draws, (REFERENCE_DAYS + DAYS) * READINGS, READINGS as f64 * 2.0);
    let (before, after) = weather.split_at(REFERENCE_DAYS * READINGS);
    let training: Vec<Vec<Reading<f64>>> = (0..TRAINING_DEVICES)
        .map(|_| {
            let values = values(draws, before, usize::MAX);
            values.iter().enumerate().map(|(n, value)| (n as i64 * 300_000_000, Some(*value))).collect()
        })
        .collect();
    let reference = Reference::of_numbers(&training, &[DAY_S, LONG_S]).unwrap();
    let scale = reference.scale.unwrap();
    let days = |device: usize| {
        let shift_from = if device.is_multiple_of(SHIFTED) { SHIFT_DAY * READINGS } else { usize::MAX };
        let summary = |day: &[f64]| {
            let mut summary = Summary::empty(reference.bins.count());
            day.iter().for_each(|value| summary.add_number(*value, &reference.bins, &scale));
            summary
        };
        values(draws, after, shift_from).chunks(READINGS).map(summary).collect()
    };
    let days = (0..DEVICES).map(days).collect();
    Feature { reference, days }
}

/// Days on which alerts began, by gateway; and the scores against training alone.
struct Judged {
    begins: Vec<(usize, usize)>,
    cohort_begins: usize,
    plain: usize,
}

/// Returns the last days in one.
fn merged(days: &[Summary], last: usize) -> Summary {
    let mut sum = days[last].clone();
    days[last.saturating_sub(LONG - 1)..last].iter().for_each(|day| sum.merge(day).unwrap());
    sum
}

fn judge(features: &[Feature], rule: &Rule) -> Judged {
    let mut streams = vec![Stream::default(); FEATURES * DEVICES];
    let mut cohorts = [Stream::default(); FEATURES];
    let mut judged = Judged { begins: Vec::new(), cohort_begins: 0, plain: 0 };
    for day in 0..DAYS {
        let mut sizes = Vec::new();
        let mut cohort_sizes = Vec::new();
        for (place, feature) in features.iter().enumerate() {
            let (blocks, peers) = (&feature.reference.blocks[&DAY_S], &feature.reference.peers[&DAY_S]);
            let mut cohort = Summary::empty(feature.reference.bins.count());
            feature.days.iter().for_each(|days| cohort.merge(&days[day]).unwrap());
            let mut long_cohort = Summary::empty(feature.reference.bins.count());
            feature.days.iter().for_each(|days| long_cohort.merge(&merged(days, day)).unwrap());
            for (device, days) in feature.days.iter().enumerate() {
                let others = cohort.without(&days[day]);
                let scores = feature.reference.against(&others).scores(&days[day]).unwrap();
                streams[place * DEVICES + device].take(&scores, peers);
                sizes.push(large(&scores, peers, rule));
                if day % LONG == LONG - 1 {
                    let (mine, all) = (merged(days, day), &long_cohort);
                    let scores = feature.reference.against(&all.without(&mine)).scores(&mine).unwrap();
                    streams[place * DEVICES + device].take_long(&scores, &feature.reference.peers[&LONG_S]);
                }
                let of_training = feature.reference.scores(&days[day]).unwrap();
                judged.plain += usize::from(day < SHIFT_DAY && of_training.psi > 0.2);
            }
            let scores = feature.reference.scores(&cohort).unwrap();
            cohorts[place].take(&scores, blocks);
            cohort_sizes.push(large(&scores, blocks, rule));
        }
        let begins = |streams: &mut [Stream], sizes: &[Option<_>]| {
            let all: Vec<Evidence> = streams.iter().map(|stream| stream.evidence()).collect();
            let stands = threshold(&all, rule.budget);
            let mut begun = Vec::new();
            for (place, (stream, size)) in streams.iter_mut().zip(sizes).enumerate() {
                if stream.judge(*size, stands) == Turn::Begins {
                    begun.push(place);
                }
                stream.settle(rule);
            }
            begun
        };
        judged.begins.extend(begins(&mut streams, &sizes).into_iter().map(|place| (place, day)));
        judged.cohort_begins += begins(&mut cohorts, &cohort_sizes).len();
    }
    judged
}

#[test]
fn in_a_fleet_of_1600_streams_every_shift_is_found_within_six_days_and_false_alerts_are_few() {
    for seed in [11, 15] {
        let mut draws = Draws(seed);
        let features: Vec<Feature> = (0..FEATURES).map(|_| feature(&mut draws)).collect();
        let judged = judge(&features, &Rule::default());
        let is_shifted = |place: usize| (place % DEVICES).is_multiple_of(SHIFTED);
        let is_true = |place: usize, day: usize| is_shifted(place) && day >= SHIFT_DAY;
        let wrong =
            judged.begins.iter().filter(|(place, day)| !is_true(*place, *day)).count() + judged.cohort_begins;
        let delay = |place: usize| {
            let first = judged.begins.iter().find(|(of, day)| *of == place && is_true(place, *day));
            first.map_or(usize::MAX, |(_, day)| day - SHIFT_DAY + 1)
        };
        let delays: Vec<usize> =
            (0..FEATURES * DEVICES).filter(|place| is_shifted(*place)).map(delay).collect();
        println!(
            "{:.2} false alerts a day ({} of cohorts in all); {} shifts found after {:?} to {:?} days; PSI > 0.2: {:.0} alerts a day",
            wrong as f64 / DAYS as f64,
            judged.cohort_begins,
            delays.len(),
            delays.iter().min(),
            delays.iter().max(),
            judged.plain as f64 / SHIFT_DAY as f64,
        );
        assert!(wrong <= 2 * DAYS, "{wrong} false alerts in {DAYS} days");
        assert!(delays.iter().all(|delay| *delay <= 6), "{delays:?}");
    }
}
