//! Safe mode: after three starts that never became ready, only what was good before runs.
//!
//! Pure: boot ids and monotonic times are passed in, for a gateway's wall clock cannot be trusted at its start. Time
//! between two boots is unknown and counts as none. Candidates wait meanwhile; releases are still fetched.

use std::time::Duration;

/// Starts that did not become ready after which safe mode begins.
pub const FAILED_STARTS_MAX: u32 = 3;
/// They must have happened within this time; safe mode ends after as long a run.
pub const SAFE_MODE_SPAN: Duration = Duration::from_secs(600);

/// Whether candidates may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They may.
    #[default]
    Normal,
    /// They may not.
    Safe,
}

/// What is kept of the daemon's starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartRecord {
    /// Starts in a row that did not become ready, the present one included until it is.
    pub unready: u32,
    /// The boot of the last start.
    pub boot: String,
    /// Monotonic time of the last start in that boot, in microseconds.
    pub last_us: i64,
    /// Known time between the first of these starts and the last, in microseconds.
    pub span_us: i64,
    /// Whether candidates may run.
    pub mode: Mode,
}

/// How the daemon ended before.
pub use crate::store::LastStop;

impl StartRecord {
    /// Returns the record after one more start.
    #[must_use]
    pub fn after_start(&self, last_stop: LastStop, boot: &str, monotonic_us: i64) -> Self {
        // A stop in order is no failed start, however early it came.
        let first = self.unready == 0 || last_stop == LastStop::Clean;
        let since =
            if self.boot == boot { monotonic_us.saturating_sub(self.last_us) } else { monotonic_us }.max(0);
        let span_us = self.span_us.saturating_add(since);
        let fresh = first || span_us > SAFE_MODE_SPAN.as_micros() as i64;
        let failed = if fresh { 0 } else { self.unready };
        Self {
            unready: failed.saturating_add(1),
            boot: boot.to_owned(),
            last_us: monotonic_us,
            span_us: if fresh { 0 } else { span_us },
            mode: if failed >= FAILED_STARTS_MAX { Mode::Safe } else { self.mode },
        }
    }

    /// Returns the record once the daemon is ready.
    #[must_use]
    pub fn after_ready(&self) -> Self {
        Self { unready: 0, span_us: 0, ..self.clone() }
    }

    /// Returns the record after [`SAFE_MODE_SPAN`] of running, or when the operator says so.
    #[must_use]
    pub fn after_safe_mode(&self) -> Self {
        Self { unready: 0, span_us: 0, mode: Mode::Normal, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn started(record: &StartRecord, boot: &str, at: i64) -> StartRecord {
        record.after_start(LastStop::Unclean, boot, at)
    }

    #[test]
    fn the_start_after_three_failed_ones_is_safe_and_stays_so_until_told() {
        let mut record = StartRecord::default();
        for at in 0..3 {
            record = started(&record, "a", at * MINUTE);
            assert_eq!(record.mode, Mode::Normal);
        }
        record = started(&record, "a", 3 * MINUTE);
        assert_eq!(record.mode, Mode::Safe);
        record = record.after_ready();
        assert_eq!(started(&record, "a", 4 * MINUTE).mode, Mode::Safe);
        assert_eq!(started(&record.after_safe_mode(), "a", 5 * MINUTE).mode, Mode::Normal);
    }

    #[test]
    fn starts_far_apart_or_ready_or_stopped_in_order_do_not_add_up() {
        let (mut apart, mut ready, mut stopped) =
            (StartRecord::default(), StartRecord::default(), StartRecord::default());
        for at in 0..9 {
            apart = started(&apart, "a", at * 11 * MINUTE);
            ready = started(&ready, "a", at * MINUTE).after_ready();
            stopped = stopped.after_start(LastStop::Clean, "a", at * MINUTE);
        }
        assert_eq!([apart.mode, ready.mode, stopped.mode], [Mode::Normal; 3]);
    }

    #[test]
    fn a_gateway_that_reboots_at_every_start_comes_to_safe_mode_without_a_clock() {
        let mut record = StartRecord::default();
        for boot in ["a", "b", "c", "d"] {
            record = started(&record, boot, MINUTE);
        }
        assert_eq!(record.mode, Mode::Safe);
    }
}
