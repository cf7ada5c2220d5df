//! Simulated machines: a bearing that warms with its load and, now and then, loses its cooling.
//!
//! Computes temperatures and their event times; publishes nothing. The same number gives the same machine.

/// Event time between two readings, in seconds.
pub(crate) const STEP_S: u64 = 300;
/// 2015-01-05 06:00 UTC: far enough in the past that a demo of a day does not reach the present.
const START_S: u64 = 1_420_437_600;
/// Readings between two failures, and how long one lasts.
const FAILURE_EVERY: u64 = 240;
const FAILURE_READINGS: u64 = 40;

/// One machine.
pub(crate) struct Machine {
    /// Its name.
    pub(crate) name: String,
    random: u64,
    step: u64,
    fails_at: u64,
    load_f: f64,
    temperature_f: f64,
}

/// A reading of a machine.
pub(crate) struct Measured {
    /// Event time in seconds since 1970.
    pub(crate) at_s: u64,
    /// Temperature in degrees Fahrenheit.
    pub(crate) temperature_f: f64,
    /// Whether the cooling fails.
    pub(crate) failing: bool,
}

impl Measured {
    /// Returns the payload, as the example's configuration reads it.
    pub(crate) fn payload(&self) -> String {
        format!("{{\"ts\": \"{}\", \"value\": {:.3}}}", rfc3339(self.at_s), self.temperature_f)
    }
}

impl Machine {
    /// Returns the machine with this number, from 1.
    pub(crate) fn new(number: u64) -> Self {
        Self {
            name: format!("press-{number}"),
            random: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            step: 0,
            fails_at: 50 + number * 35,
            load_f: 84.0,
            temperature_f: 82.0,
        }
    }

    /// Returns the next reading, five minutes of event time later.
    pub(crate) fn measure(&mut self) -> Measured {
        if self.uniform() < 1.0 / 60.0 {
            self.load_f = 74.0 + 18.0 * self.uniform();
        }
        let failing =
            self.step >= self.fails_at && (self.step - self.fails_at) % FAILURE_EVERY < FAILURE_READINGS;
        let target_f = if failing { self.load_f + 70.0 } else { self.load_f };
        self.temperature_f += (target_f - self.temperature_f) * 0.05;
        // The sum of four uniform values is close to a normal one; 0.7 degrees is what such a sensor shows.
        let noise = (0..4).map(|_| self.uniform() - 0.5).sum::<f64>() * 1.2;
        let at_s = START_S + self.step * STEP_S;
        self.step += 1;
        Measured { at_s, temperature_f: self.temperature_f + noise, failing }
    }

    /// Returns a number from 0 to 1 (xorshift64*).
    fn uniform(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Returns a time as RFC 3339 text in UTC. Source: Howard Hinnant, "chrono-compatible low-level date algorithms".
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(START_S), "2015-01-05T06:00:00Z");
    }

    #[test]
    fn a_machine_is_warm_until_its_cooling_fails() {
        let mut machine = Machine::new(1);
        let readings: Vec<Measured> = (0..200).map(|_| machine.measure()).collect();
        let highest = |failing| {
            readings
                .iter()
                .filter(|reading| reading.failing == failing && reading.at_s < START_S + 120 * STEP_S)
                .fold(0.0, |top: f64, reading| top.max(reading.temperature_f))
        };
        assert!(highest(false) < 100.0, "{}", highest(false));
        assert!(highest(true) > 110.0, "{}", highest(true));
    }
}
