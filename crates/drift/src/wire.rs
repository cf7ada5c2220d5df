//! Summaries as bytes: some 35 for a feature in an hour of readings at one a second.
//!
//! Numbers are written in as many bits as they need (Exp-Golomb codes of an order that the writer picks). Reading accepts
//! nothing that contradicts itself, allocates what the reference's bins need and no more, and never panics.
//!
//! *Source*: order-k Exp-Golomb codes, as in ITU-T H.264, 9.1.

use crate::moments::Moments;
use crate::summary::{Flaw, Summary};

/// Bits that say the order of the counts' codes.
const ORDER_BITS: u32 = 5;
/// Largest order: counts below 2³¹ in a row cost 32 bits each.
const ORDER_MAX: u32 = 31;
/// Most bits of a number: a window of 2⁴⁰ values has sums of squares below 2⁸⁸.
const BITS_MAX: u32 = 100;

/// Why bytes are no summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// They end in the middle, or go on after the end.
    Length,
    /// A number is larger than any count can be.
    Size,
    /// Counts, sums and extremes cannot be of the same values.
    Contradiction,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Length => "the summary's bytes are cut, or go on after its end: is it of another profile?",
            Self::Size => "the summary holds a number that no window has",
            Self::Contradiction => "the summary's counts, sums and extremes contradict each other",
        })
    }
}

impl std::error::Error for WireError {}

/// Appends a summary.
pub fn write(summary: &Summary, into: &mut Vec<u8>) {
    let mut bits = BitWriter::default();
    let order = cheapest_order(&summary.counts);
    bits.push(u128::from(order), ORDER_BITS);
    for count in &summary.counts {
        bits.push_number(u128::from(*count), order);
    }
    // How many kinds of flaws follow: a reader of a later version may know more.
    let used = summary.flaws.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    bits.push_number(used as u128, 0);
    for count in &summary.flaws[..used] {
        bits.push_number(u128::from(*count), 0);
    }
    match summary.moments.range {
        None => bits.push(0, 1),
        Some((low, high)) => {
            bits.push(1, 1);
            let Moments { sum, squares, .. } = summary.moments;
            bits.push_number(zigzag(i128::from(low)), 9);
            bits.push_number(u128::from(high.abs_diff(low)), 10);
            bits.push_number(zigzag(sum), 14);
            bits.push_number(squares, 24);
        }
    }
    into.append(&mut bits.bytes);
}

/// Reads the summary at the start of some bytes, of a feature with so many bins; returns it with how many bytes it takes.
///
/// *Errors*: see [`WireError`].
pub fn read(bytes: &[u8], bins: usize) -> Result<(Summary, usize), WireError> {
    let mut bits = BitReader { bytes, at: 0 };
    let mut summary = Summary::empty(bins);
    let order = bits.pull(ORDER_BITS)? as u32;
    for count in &mut summary.counts {
        *count = count_of(bits.number(order)?)?;
    }
    let values =
        summary.counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count)).ok_or(WireError::Size)?;
    let used = bits.number(0)?;
    for place in 0..used.min(64) {
        let count = count_of(bits.number(0)?)?;
        // Kinds of a later version are read over.
        if let Some(flaw) = summary.flaws.get_mut(place as usize) {
            *flaw = count;
        }
    }
    if used > 64 {
        return Err(WireError::Size);
    }
    if bits.pull(1)? == 1 {
        let low = unzigzag(bits.number(9)?);
        let high = low.checked_add_unsigned(bits.number(10)?).ok_or(WireError::Size)?;
        let range = (i32::try_from(low), i32::try_from(high));
        let (Ok(low), Ok(high)) = range else { return Err(WireError::Size) };
        let (sum, squares) = (unzigzag(bits.number(14)?), bits.number(24)?);
        summary.moments = Moments { count: values, sum, squares, range: Some((low, high)) };
        if !summary.moments.is_sound() {
            return Err(WireError::Contradiction);
        }
    }
    Ok((summary, bits.at.div_ceil(8)))
}

/// Number of kinds of flaws that this version writes; see [`Flaw::ALL`].
const _: () = assert!(Flaw::ALL.len() <= 64);

fn count_of(number: u128) -> Result<u64, WireError> {
    u64::try_from(number).ok().filter(|count| *count < 1 << 48).ok_or(WireError::Size)
}

fn zigzag(value: i128) -> u128 {
    ((value << 1) ^ (value >> 127)).cast_unsigned()
}

const fn unzigzag(value: u128) -> i128 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// Returns the order that makes the counts shortest.
fn cheapest_order(counts: &[u64]) -> u32 {
    let cost = |order: &u32| counts.iter().map(|count| bits_of(u128::from(*count), *order)).sum::<u32>();
    (0..=ORDER_MAX).min_by_key(cost).unwrap_or(0)
}

/// Bits of a number in the code of an order: zeros for the length, then the number itself from its first one on.
fn bits_of(number: u128, order: u32) -> u32 {
    let shifted = number + (1 << order);
    let length = 128 - shifted.leading_zeros();
    2 * length - 1 - order
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    /// Appends the lowest bits of a number, the highest of them first.
    fn push(&mut self, number: u128, bits: u32) {
        for bit in (0..bits).rev() {
            if self.used == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((number >> bit & 1) as u8) << (7 - self.used);
            }
            self.used = (self.used + 1) % 8;
        }
    }

    fn push_number(&mut self, number: u128, order: u32) {
        let shifted = number + (1 << order);
        let length = 128 - shifted.leading_zeros();
        self.push(0, length - 1 - order);
        self.push(shifted, length);
    }
}

struct BitReader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl BitReader<'_> {
    fn pull(&mut self, bits: u32) -> Result<u128, WireError> {
        let mut number = 0;
        for _ in 0..bits {
            let byte = self.bytes.get(self.at / 8).ok_or(WireError::Length)?;
            number = number << 1 | u128::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(number)
    }

    fn number(&mut self, order: u32) -> Result<u128, WireError> {
        let mut zeros = 0;
        while self.pull(1)? == 0 {
            zeros += 1;
            if zeros + order >= BITS_MAX {
                return Err(WireError::Size);
            }
        }
        let rest = self.pull(zeros + order)?;
        Ok((1 << (zeros + order) | rest) - (1 << order))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::summary::tests::of;

    proptest! {
        #[test]
        fn a_summary_comes_back_as_it_was_with_others_behind_it(
            values in prop::collection::vec(-70_000.0..70_000.0f64, 0..200),
            flaws in prop::array::uniform10(0..5_000u64),
            times in 0..30u32,
        ) {
            let mut summary = of(&values);
            summary.flaws = flaws;
            for _ in 0..times {
                let twice = summary.clone();
                if summary.values() < 1 << 40 {
                    summary.merge(&twice).unwrap();
                }
            }
            let mut bytes = Vec::new();
            write(&summary, &mut bytes);
            let length = bytes.len();
            write(&of(&[1.0]), &mut bytes);
            let (read_back, used) = read(&bytes, summary.counts.len()).unwrap();
            prop_assert_eq!(read_back, summary);
            prop_assert_eq!(used, length);
        }

        #[test]
        fn any_bytes_give_a_sound_summary_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80), bins in 1..66usize) {
            if let Ok((summary, used)) = read(&bytes, bins) {
                prop_assert!(used <= bytes.len());
                prop_assert!(summary.moments.is_sound());
                let mut again = Vec::new();
                write(&summary, &mut again);
                prop_assert_eq!(read(&again, bins).unwrap().0, summary);
            }
        }

        #[test]
        fn bytes_that_are_cut_are_refused(values in prop::collection::vec(-3.0..3.0f64, 1..50), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            write(&of(&values), &mut bytes);
            prop_assert_eq!(read(&bytes[..cut.index(bytes.len())], 20), Err(WireError::Length));
        }
    }

    #[test]
    fn an_hour_of_a_feature_takes_less_than_forty_bytes() {
        // An hour at one reading a second, spread over all bins as in the reference, the longest case there is.
        let values: Vec<f64> = (0..3_600).map(|n| f64::from(n % 200) / 50.0 - 2.0).collect();
        let mut bytes = Vec::new();
        write(&of(&values), &mut bytes);
        assert!(bytes.len() <= 40, "{}", bytes.len());
    }
}
