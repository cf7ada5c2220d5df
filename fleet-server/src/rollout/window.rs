//! Maintenance windows in a gateway's own time.
//!
//! A time of day on some days of the week; it may run past midnight. Never asks a clock.

use serde::{Deserialize, Serialize};

const DAY_MIN: u32 = 24 * 60;
const WEEK_MIN: i64 = 7 * DAY_MIN as i64;
/// 1970 began on a Thursday; days are counted from Monday.
const FIRST_DAY: i64 = 3;

/// When a gateway may change what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days on which it opens, 0 for Monday to 6 for Sunday; all where there is none.
    #[serde(default)]
    pub days: Vec<u8>,
    /// When it opens, in minutes after midnight.
    pub from_min: u32,
    /// When it closes; not after `from_min` means on the next day.
    pub to_min: u32,
}

impl Window {
    /// Tells whether days and times are such.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.days.iter().all(|day| *day < 7) && self.from_min < DAY_MIN && self.to_min < DAY_MIN
    }

    /// Tells whether it is open; `utc_offset_min` is what the gateway's time is ahead of UTC.
    #[must_use]
    pub fn is_open(&self, now_ms: u64, utc_offset_min: i32) -> bool {
        let minutes = i64::try_from(now_ms / 60_000).unwrap_or(i64::MAX / 2) + i64::from(utc_offset_min);
        let in_week = (minutes + FIRST_DAY * i64::from(DAY_MIN)).rem_euclid(WEEK_MIN);
        let (day, minute) = (in_week / i64::from(DAY_MIN), in_week % i64::from(DAY_MIN));
        let opens_on = |day: i64| self.days.is_empty() || self.days.iter().any(|own| i64::from(*own) == day);
        let (from, to) = (i64::from(self.from_min), i64::from(self.to_min));
        if from < to {
            return opens_on(day) && (from..to).contains(&minute);
        }
        // Past midnight: it opened today, or yesterday.
        (opens_on(day) && minute >= from) || (opens_on((day + 6) % 7) && minute < to)
    }
}

/// Tells whether one of the windows is open, or there is none.
#[must_use]
pub fn is_any_open(windows: &[Window], now_ms: u64, utc_offset_min: i32) -> bool {
    windows.is_empty() || windows.iter().any(|window| window.is_open(now_ms, utc_offset_min))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wednesday, 2026-11-18 00:00 UTC.
    const WEDNESDAY_MS: u64 = 1_794_960_000_000;

    fn open(window: &Window, hours_after: f64, offset_min: i32) -> bool {
        window.is_open(WEDNESDAY_MS + (hours_after * 3_600_000.0) as u64, offset_min)
    }

    #[test]
    fn windows_open_and_close_in_the_gateways_own_time() {
        let night = Window { days: vec![], from_min: 120, to_min: 240 };
        for (hours, offset, expected) in [
            (1.99, 0, false),
            (2.0, 0, true),
            (3.99, 0, true),
            (4.0, 0, false),
            (1.0, 60, true),
            (3.0, 60, false),
            (7.0, -300, true),
            (20.5, 330, true),
        ] {
            assert_eq!(open(&night, hours, offset), expected, "{hours} h, {offset} min");
        }
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_on_which_it_opens() {
        // Wednesday 22:00 to Thursday 02:00.
        let late = Window { days: vec![2], from_min: 22 * 60, to_min: 120 };
        for (hours, expected) in
            [(1.0, false), (21.9, false), (22.0, true), (25.9, true), (26.0, false), (46.0, false)]
        {
            assert_eq!(open(&late, hours, 0), expected, "{hours} h");
        }
        // All day long where it closes when it opens.
        let always = Window { days: vec![], from_min: 60, to_min: 60 };
        assert!((0..48).all(|half_hours| open(&always, f64::from(half_hours) / 2.0, 0)));
    }
}
