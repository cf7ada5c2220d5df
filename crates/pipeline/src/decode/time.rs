//! From a time as payloads write it to microseconds since 1970, and whether it is believed.
//!
//! Never reads a clock: the arrival is part of the message. Times without an offset are UTC.

use dunlin_model_package::feature_spec::TimeFallback;
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::{Timestamp, tz::TimeZone};

use super::value::Raw;
use crate::message::{ClockState, Message};
use crate::reading::TimedBy;
use crate::refusal::Reason;

/// Latest time that is taken for one: the end of the year 9999, so that sums with any span fit 64 bits.
const EVENT_US_MAX: i64 = 253_402_300_799_999_999;
/// Earliest one: the year 1.
const EVENT_US_MIN: i64 = -62_135_596_800_000_000;
/// Whole numbers below these are seconds, milliseconds, microseconds; above, nanoseconds. Each bound is the year 1973
/// in the finer unit and the year 5138 in the coarser one.
const AUTO_BOUNDS: [f64; 3] = [1e11, 1e14, 1e17];

/// How a time is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TimeFormat {
    Auto,
    Rfc3339,
    Unix(UnixUnit),
    /// A strptime pattern.
    Pattern(String),
}

/// What a number of a time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnixUnit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

impl TimeFormat {
    /// Reads the name of a format, or a pattern that gives a date.
    ///
    /// *Errors*: what is wrong and what to write instead.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "rfc3339" => Self::Rfc3339,
            "unix-s" => Self::Unix(UnixUnit::Seconds),
            "unix-ms" => Self::Unix(UnixUnit::Millis),
            "unix-us" => Self::Unix(UnixUnit::Micros),
            "unix-ns" => Self::Unix(UnixUnit::Nanos),
            pattern if pattern.contains('%') => {
                let sample = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
                let written = strtime::format(pattern, &sample)
                    .map_err(|error| format!("`{pattern}` is no strptime pattern: {error}"))?;
                if read_pattern(pattern, &written).is_none() {
                    return Err(format!(
                        "`{pattern}` gives no point in time; it needs year, month and day, and an offset (`%z`) rather \
                         than a zone's name, as in `%d/%m/%Y %H:%M:%S`"
                    ));
                }
                Self::Pattern(pattern.to_owned())
            }
            other => {
                return Err(format!(
                    "`{other}` is no time format; write `auto`, `rfc3339`, `unix-s`, `unix-ms`, `unix-us`, `unix-ns` \
                     or a strptime pattern such as `%d/%m/%Y %H:%M:%S`"
                ));
            }
        })
    }

    /// Returns microseconds since 1970, or `None` where the value is not a time in this format.
    pub(super) fn micros_of(&self, raw: Raw<'_>) -> Option<i64> {
        let micros = match self {
            Self::Auto => match as_number(raw) {
                Some(number) => unit_by_magnitude(number).micros_of(number),
                None => read_rfc3339(text_of(raw)?),
            },
            Self::Rfc3339 => read_rfc3339(text_of(raw)?),
            Self::Unix(unit) => unit.micros_of(as_number(raw)?),
            Self::Pattern(pattern) => match raw {
                Raw::Text(text) => read_pattern(pattern, text.trim()),
                Raw::Integer(whole) => read_pattern(pattern, &whole.to_string()),
                _ => None,
            },
        }?;
        (EVENT_US_MIN..=EVENT_US_MAX).contains(&micros).then_some(micros)
    }
}

/// A number of a time: whole ones stay exact.
#[derive(Debug, Clone, Copy)]
enum Number {
    Whole(i64),
    Fraction(f64),
}

impl UnixUnit {
    fn micros_of(self, number: Number) -> Option<i64> {
        match number {
            Number::Whole(whole) => match self {
                Self::Seconds => whole.checked_mul(1_000_000),
                Self::Millis => whole.checked_mul(1_000),
                Self::Micros => Some(whole),
                Self::Nanos => Some(whole.div_euclid(1_000)),
            },
            Number::Fraction(fraction) => {
                let micros = match self {
                    Self::Seconds => fraction * 1e6,
                    Self::Millis => fraction * 1e3,
                    Self::Micros => fraction,
                    Self::Nanos => fraction / 1e3,
                };
                (micros.abs() < 9e18).then_some(micros.round() as i64)
            }
        }
    }
}

/// Returns the seconds of a SenML time as microseconds.
pub(super) fn senml_micros(raw: Raw<'_>) -> Option<i64> {
    let micros = UnixUnit::Seconds.micros_of(as_number(raw)?)?;
    (EVENT_US_MIN..=EVENT_US_MAX).contains(&micros).then_some(micros)
}

fn as_number(raw: Raw<'_>) -> Option<Number> {
    match raw {
        Raw::Integer(whole) => Some(Number::Whole(whole)),
        Raw::Float(fraction) if fraction.is_finite() => Some(Number::Fraction(fraction)),
        Raw::Text(text) => {
            let text = text.trim();
            match text.parse() {
                Ok(whole) => Some(Number::Whole(whole)),
                Err(_) => text.parse().ok().filter(|f: &f64| f.is_finite()).map(Number::Fraction),
            }
        }
        _ => None,
    }
}

fn unit_by_magnitude(number: Number) -> UnixUnit {
    let magnitude = match number {
        Number::Whole(whole) => whole as f64,
        Number::Fraction(fraction) => fraction,
    }
    .abs();
    match AUTO_BOUNDS.iter().position(|bound| magnitude < *bound) {
        Some(0) => UnixUnit::Seconds,
        Some(1) => UnixUnit::Millis,
        Some(_) => UnixUnit::Micros,
        None => UnixUnit::Nanos,
    }
}

fn text_of(raw: Raw<'_>) -> Option<&str> {
    match raw {
        Raw::Text(text) => Some(text.trim()),
        _ => None,
    }
}

fn read_rfc3339(text: &str) -> Option<i64> {
    match text.parse::<Timestamp>() {
        Ok(instant) => Some(instant.as_microsecond()),
        Err(_) => utc_micros(text.parse().ok()?),
    }
}

fn read_pattern(pattern: &str, text: &str) -> Option<i64> {
    let parts = strtime::parse(pattern, text).ok()?;
    match parts.to_timestamp() {
        Ok(instant) => Some(instant.as_microsecond()),
        // Gateways may have no zone database, so a zone's name is no offset.
        Err(_) if parts.iana_time_zone().is_some() => None,
        Err(_) => utc_micros(parts.to_datetime().ok()?),
    }
}

fn utc_micros(time: DateTime) -> Option<i64> {
    TimeZone::UTC.to_timestamp(time).ok().map(Timestamp::as_microsecond)
}

/// What a payload says of a record's time, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoundTime {
    /// Nothing readable.
    None,
    /// Since 1970.
    Absolute(i64),
    /// Since the arrival, mostly negative.
    SinceArrival(i64),
}

/// How a source's records get their event times.
#[derive(Debug, Clone)]
pub(super) struct TimeRule {
    pub(super) format: TimeFormat,
    pub(super) fallback: TimeFallback,
    pub(super) skew_max_us: i64,
    pub(super) age_max_us: Option<i64>,
}

impl TimeRule {
    pub(super) fn found(&self, raw: Raw<'_>) -> FoundTime {
        self.format.micros_of(raw).map_or(FoundTime::None, FoundTime::Absolute)
    }

    /// Returns the event time and where it came from.
    ///
    /// *Errors*: why the record is refused for its time.
    pub(super) fn event_time(
        &self,
        found: FoundTime,
        message: &Message<'_>,
    ) -> Result<(i64, TimedBy), Reason> {
        let (event_us, timed_by) = match found {
            FoundTime::Absolute(us) => (us, TimedBy::Payload),
            FoundTime::SinceArrival(_) | FoundTime::None if self.fallback == TimeFallback::Reject => {
                return Err(Reason::NoTime);
            }
            FoundTime::SinceArrival(us) => (message.arrival_us.saturating_add(us), TimedBy::Arrival),
            FoundTime::None => return Ok((message.arrival_us, TimedBy::Arrival)),
        };
        // A clock that was never set cannot judge other clocks; a distance from the arrival needs none.
        if timed_by == TimedBy::Payload && message.clock == ClockState::Unset {
            return Ok((event_us, timed_by));
        }
        let ahead_us = event_us.saturating_sub(message.arrival_us);
        if ahead_us > self.skew_max_us {
            return Err(Reason::InFuture);
        }
        match self.age_max_us {
            Some(age_max_us) if ahead_us < -age_max_us => Err(Reason::TooOld),
            _ => Ok((event_us, timed_by)),
        }
    }
}
