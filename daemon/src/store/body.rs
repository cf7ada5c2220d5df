//! The body of a batch: its steps with their readings and predictions, in order, in as few bytes as is simple.
//!
//! Encodes and decodes; knows no database. Decoding refuses whatever encoding does not write and never panics. The
//! format is frozen: the first byte is its version, and a newer one is written beside it.
//!
//! Version 1 is plain, version 2 the same compressed by zstd after its length. All numbers are variable-length.
//! *Step*: readings, predictions × 2 + (1 if they do not count on from the last), then both lists. *Reading*:
//! (series delta × 4 + missing × 2 + by arrival), time delta, values, presence bits where any is missing, values.
//! *Value*: decimal digits × 8 + power of ten 0 to 5; or 6 and an f32; or 7 and an f64; always exact. *Prediction*:
//! (instance delta × 8 + alert × 2 + labelled), window end delta, sequence gap where they do not count on, flags,
//! label, outputs, each an f32. Deltas are to the previous one in the batch, at first to 0.

use dunlin_pipeline::prediction::{AlertChange, InstanceId, QualityFlags};
use dunlin_pipeline::reading::{MISSING, Reading, SeriesId, TimedBy};

use super::wire::{Cursor, Malformed, put_signed, put_unsigned, unzigzag, zigzag};

const PLAIN: u8 = 1;
const COMPRESSED: u8 = 2;
/// Bodies under this length gain nothing by zstd's frame of some 13 bytes.
const COMPRESS_BYTES_MIN: usize = 192;
/// Level 1: of the levels the one that an ARM core of a gateway does at over 100 MB/s.
const COMPRESS_LEVEL: i32 = 1;
/// A body's plain length: far above the largest transaction (8,192 rows), low enough for a small board.
const PLAIN_BYTES_MAX: usize = 64 << 20;
/// Largest decimal mantissa: above it the raw double is as short.
const MANTISSA_MAX: f64 = 17_592_186_044_416.0;
const POWERS: [f64; 6] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];

/// A prediction as the log holds it: without what the running configuration gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPrediction {
    /// Its place among all predictions of this gateway.
    pub sequence: u64,
    /// Its instance.
    pub instance: InstanceId,
    /// Event time of the window's last row, in microseconds since 1970.
    pub window_end_us: i64,
    /// Its quality.
    pub flags: QualityFlags,
    /// Position in the instance's labels.
    pub label: Option<u16>,
    /// A change of the alert's state.
    pub alert: Option<AlertChange>,
    /// *Shape*: the outputs one after the other, flattened row-major.
    pub outputs: Vec<f32>,
}

/// One step as the log holds it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoredStep {
    /// Readings in order.
    pub readings: Vec<Reading>,
    /// Predictions in order.
    pub predictions: Vec<StoredPrediction>,
}

/// A body that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// Its version is not of this program.
    TooNew(u8),
    /// It is not what encoding writes.
    Malformed,
}

impl From<Malformed> for BodyError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What deltas are taken against.
struct Last {
    time_us: i64,
    series: i64,
    instance: i64,
    sequence: u64,
}

impl Last {
    const fn before(prediction_seq: u64) -> Self {
        Self { time_us: 0, series: 0, instance: 0, sequence: prediction_seq }
    }
}

/// Returns the body of these steps; `prediction_seq` is the sequence that the first prediction is expected to have.
#[must_use]
pub fn encode(steps: &[StoredStep], prediction_seq: u64) -> Vec<u8> {
    let mut plain = vec![PLAIN];
    let mut last = Last::before(prediction_seq);
    for step in steps {
        put_step(&mut plain, step, &mut last);
    }
    if plain.len() < COMPRESS_BYTES_MIN {
        return plain;
    }
    let mut small = vec![COMPRESSED];
    put_unsigned(&mut small, plain.len() as u64 - 1);
    match zstd::bulk::compress(&plain[1..], COMPRESS_LEVEL) {
        Ok(compressed) if small.len() + compressed.len() < plain.len() => {
            small.extend(compressed);
            small
        }
        _ => plain,
    }
}

fn put_step(out: &mut Vec<u8>, step: &StoredStep, last: &mut Last) {
    let counts_on =
        step.predictions.iter().enumerate().all(|(i, p)| p.sequence == last.sequence.wrapping_add(i as u64));
    put_unsigned(out, step.readings.len() as u64);
    put_unsigned(out, (step.predictions.len() as u64) << 1 | u64::from(!counts_on));
    for reading in &step.readings {
        put_reading(out, reading, last);
    }
    for prediction in &step.predictions {
        put_prediction(out, prediction, counts_on, last);
    }
}

fn put_reading(out: &mut Vec<u8>, reading: &Reading, last: &mut Last) {
    let missing = reading.values.iter().any(|v| v.is_nan());
    let by_arrival = reading.timed_by == TimedBy::Arrival;
    let series = i64::from(reading.series.0);
    put_unsigned(out, zigzag(series - last.series) << 2 | u64::from(missing) << 1 | u64::from(by_arrival));
    put_signed(out, reading.event_us.wrapping_sub(last.time_us));
    last.series = series;
    last.time_us = reading.event_us;
    put_unsigned(out, reading.values.len() as u64);
    if missing {
        for eight in reading.values.chunks(8) {
            out.push(eight.iter().enumerate().fold(0, |bits, (i, v)| bits | u8::from(!v.is_nan()) << i));
        }
    }
    reading.values.iter().filter(|v| !v.is_nan()).for_each(|v| put_value(out, *v));
}

fn put_value(out: &mut Vec<u8>, value: f64) {
    for (exponent, power) in POWERS.iter().enumerate() {
        let digits = (value * power).round();
        if digits.abs() > MANTISSA_MAX || digits.is_nan() {
            break;
        }
        // Through the integer, since that has no negative zero.
        if (digits as i64 as f64 / power).to_bits() == value.to_bits() {
            return put_unsigned(out, zigzag(digits as i64) << 3 | exponent as u64);
        }
    }
    let single = value as f32;
    if f64::from(single).to_bits() == value.to_bits() {
        out.push(6);
        out.extend(single.to_le_bytes());
    } else {
        out.push(7);
        out.extend(value.to_le_bytes());
    }
}

fn put_prediction(out: &mut Vec<u8>, prediction: &StoredPrediction, counts_on: bool, last: &mut Last) {
    let alert = match prediction.alert {
        None => 0,
        Some(AlertChange::Raised) => 1,
        Some(AlertChange::Cleared) => 2,
    };
    let instance = i64::from(prediction.instance.0);
    let labelled = u64::from(prediction.label.is_some());
    put_unsigned(out, zigzag(instance - last.instance) << 3 | alert << 1 | labelled);
    put_signed(out, prediction.window_end_us.wrapping_sub(last.time_us));
    if !counts_on {
        put_signed(out, prediction.sequence.wrapping_sub(last.sequence) as i64);
    }
    last.instance = instance;
    last.time_us = prediction.window_end_us;
    last.sequence = prediction.sequence.wrapping_add(1);
    put_unsigned(out, u64::from(prediction.flags.0));
    if let Some(label) = prediction.label {
        put_unsigned(out, u64::from(label));
    }
    put_unsigned(out, prediction.outputs.len() as u64);
    prediction.outputs.iter().for_each(|v| out.extend(v.to_le_bytes()));
}

/// Returns the steps of a body.
///
/// *Errors*: [`BodyError::TooNew`] names the version; anything else that encoding does not write is malformed.
pub fn decode(body: &[u8], prediction_seq: u64) -> Result<Vec<StoredStep>, BodyError> {
    let mut cursor = Cursor(body);
    match cursor.array::<1>()?[0] {
        PLAIN => steps_of(cursor, prediction_seq),
        COMPRESSED => {
            let length = usize::try_from(cursor.unsigned()?).map_err(|_| BodyError::Malformed)?;
            if length > PLAIN_BYTES_MAX {
                return Err(BodyError::Malformed);
            }
            let plain = zstd::bulk::decompress(cursor.0, length).map_err(|_| BodyError::Malformed)?;
            if plain.len() != length {
                return Err(BodyError::Malformed);
            }
            steps_of(Cursor(&plain), prediction_seq)
        }
        version => Err(BodyError::TooNew(version)),
    }
}

fn steps_of(mut cursor: Cursor<'_>, prediction_seq: u64) -> Result<Vec<StoredStep>, BodyError> {
    let mut last = Last::before(prediction_seq);
    let mut steps = Vec::new();
    while !cursor.is_empty() {
        let readings = cursor.count()?;
        let head = cursor.unsigned()?;
        let predictions = usize::try_from(head >> 1).map_err(|_| Malformed)?;
        if readings.saturating_add(predictions) > cursor.0.len() {
            return Err(BodyError::Malformed);
        }
        steps.push(StoredStep {
            readings: (0..readings).map(|_| reading(&mut cursor, &mut last)).collect::<Result<_, _>>()?,
            predictions: (0..predictions)
                .map(|_| prediction(&mut cursor, head & 1 == 0, &mut last))
                .collect::<Result<_, _>>()?,
        });
    }
    Ok(steps)
}

fn reading(cursor: &mut Cursor<'_>, last: &mut Last) -> Result<Reading, Malformed> {
    let head = cursor.unsigned()?;
    last.series = last.series.wrapping_add(unzigzag(head >> 2));
    last.time_us = last.time_us.wrapping_add(cursor.signed()?);
    let series = u32::try_from(last.series).map_err(|_| Malformed)?;
    let count = cursor.unsigned()?;
    let missing = head & 2 != 0;
    // A missing value takes a bit, a present one at least a byte.
    let count_max = if missing { (cursor.0.len() as u64).saturating_mul(8) } else { cursor.0.len() as u64 };
    if count > count_max {
        return Err(Malformed);
    }
    let count = count as usize;
    let presence = if missing { Some(cursor.take(count.div_ceil(8))?) } else { None };
    let mut values = Vec::with_capacity(count);
    for i in 0..count {
        let present = presence.is_none_or(|bits| bits[i / 8] >> (i % 8) & 1 == 1);
        values.push(if present { value(cursor)? } else { MISSING });
    }
    let timed_by = if head & 1 == 1 { TimedBy::Arrival } else { TimedBy::Payload };
    Ok(Reading { series: SeriesId(series), event_us: last.time_us, timed_by, values })
}

fn value(cursor: &mut Cursor<'_>) -> Result<f64, Malformed> {
    let head = cursor.unsigned()?;
    match (head >> 3, head & 7) {
        (0, 6) => Ok(f64::from(f32::from_le_bytes(cursor.array()?))),
        (0, 7) => Ok(f64::from_le_bytes(cursor.array()?)),
        (digits, exponent @ 0..=5) => Ok(unzigzag(digits) as f64 / POWERS[exponent as usize]),
        _ => Err(Malformed),
    }
}

fn prediction(
    cursor: &mut Cursor<'_>,
    counts_on: bool,
    last: &mut Last,
) -> Result<StoredPrediction, Malformed> {
    let head = cursor.unsigned()?;
    last.instance = last.instance.wrapping_add(unzigzag(head >> 3));
    last.time_us = last.time_us.wrapping_add(cursor.signed()?);
    if !counts_on {
        last.sequence = last.sequence.wrapping_add(cursor.signed()? as u64);
    }
    let sequence = last.sequence;
    last.sequence = sequence.wrapping_add(1);
    let instance = u32::try_from(last.instance).map_err(|_| Malformed)?;
    let alert = match head >> 1 & 3 {
        0 => None,
        1 => Some(AlertChange::Raised),
        2 => Some(AlertChange::Cleared),
        _ => return Err(Malformed),
    };
    let flags = QualityFlags(u16::try_from(cursor.unsigned()?).map_err(|_| Malformed)?);
    let label = match head & 1 {
        0 => None,
        _ => Some(u16::try_from(cursor.unsigned()?).map_err(|_| Malformed)?),
    };
    let outputs = cursor.count()?;
    let bytes = cursor.take(outputs.checked_mul(4).ok_or(Malformed)?)?;
    let outputs = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let instance = InstanceId(instance);
    Ok(StoredPrediction { sequence, instance, window_end_us: last.time_us, flags, label, alert, outputs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn readings() -> impl Strategy<Value = Reading> {
        let value = prop_oneof![
            any::<f64>(),
            (-100_000_i64..100_000, 0_usize..6).prop_map(|(m, e)| m as f64 / POWERS[e]),
            Just(MISSING),
            Just(-0.0),
            Just(f64::INFINITY),
        ];
        (any::<u32>(), any::<i64>(), any::<bool>(), prop::collection::vec(value, 0..20)).prop_map(
            |(series, event_us, arrival, values)| Reading {
                series: SeriesId(series),
                event_us,
                timed_by: if arrival { TimedBy::Arrival } else { TimedBy::Payload },
                values,
            },
        )
    }

    fn predictions() -> impl Strategy<Value = StoredPrediction> {
        let alert = prop::option::of(prop_oneof![Just(AlertChange::Raised), Just(AlertChange::Cleared)]);
        let numbers = (any::<u64>(), any::<u32>(), any::<i64>(), any::<u16>());
        (numbers, any::<Option<u16>>(), alert, prop::collection::vec(any::<f32>(), 0..9)).prop_map(
            |((sequence, instance, window_end_us, flags), label, alert, outputs)| StoredPrediction {
                sequence,
                instance: InstanceId(instance),
                window_end_us,
                flags: QualityFlags(flags),
                label,
                alert,
                outputs,
            },
        )
    }

    fn steps() -> impl Strategy<Value = Vec<StoredStep>> {
        let step = (prop::collection::vec(readings(), 0..8), prop::collection::vec(predictions(), 0..8))
            .prop_map(|(readings, predictions)| StoredStep { readings, predictions });
        prop::collection::vec(step, 0..6)
    }

    /// Exact to the bit, NaN aside: debug text tells -0.0 from 0.0 and prints doubles so that they read back.
    fn text(steps: &[StoredStep]) -> String {
        format!("{steps:?}")
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(steps in steps(), first in any::<u64>()) {
            let body = encode(&steps, first);
            prop_assert_eq!(text(&decode(&body, first).unwrap()), text(&steps));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0_u8..4) {
            let _ = decode(&bytes, 0);
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let _ = decode(&bytes, 0);
        }

        #[test]
        fn a_body_cut_short_never_panics(steps in steps(), cut in any::<prop::sample::Index>()) {
            let body = encode(&steps, 1);
            let _ = decode(&body[..cut.index(body.len())], 1);
        }
    }

    fn sample() -> Vec<StoredStep> {
        let prediction = |sequence, label, alert, outputs| StoredPrediction {
            sequence,
            instance: InstanceId(3),
            window_end_us: 1_700_000_000_000_000,
            flags: QualityFlags(16),
            label,
            alert,
            outputs,
        };
        vec![
            StoredStep {
                readings: vec![
                    Reading {
                        series: SeriesId(7),
                        event_us: 1_700_000_000_000_000,
                        timed_by: TimedBy::Payload,
                        values: vec![21.37, MISSING, 0.1 + 0.2, -4.0],
                    },
                    Reading {
                        series: SeriesId(6),
                        event_us: 1_699_999_999_000_000,
                        timed_by: TimedBy::Arrival,
                        values: vec![f64::from(1.0_f32 / 3.0)],
                    },
                ],
                predictions: vec![prediction(41, Some(2), Some(AlertChange::Raised), vec![0.25, -1.5])],
            },
            StoredStep { readings: vec![], predictions: vec![prediction(50, None, None, vec![])] },
        ]
    }

    #[test]
    fn version_one_is_what_it_always_was() {
        let golden = concat!(
            "0102023a8080f28183898506040d928b0207343333333333d33f38",
            "05ff887a0106abaaaa3e3380897a1002020000803e0000c0bf",
            "00030000101000",
        );
        let hex: String = encode(&sample(), 41).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(text(&decode(&encode(&sample(), 41), 41).unwrap()), text(&sample()));
    }

    #[test]
    fn a_later_version_is_told_from_garbage() {
        assert_eq!(decode(&[9, 1, 2], 0), Err(BodyError::TooNew(9)));
        assert_eq!(decode(&[], 0), Err(BodyError::Malformed));
    }
}
