//! Drops rows that are old or too many, a little at a time, under a lease.
//!
//! What goes is decided in the store; this says when. Never waits for long with the store's writer.

use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::error_chain::Chain;

use crate::background::Stopping;
use crate::fleet::{Fleet, now_ms};
use crate::store::{leases, retention};

/// Between two looks: what is beyond a limit of days or of gigabytes may stay so long.
const EACH: Duration = Duration::from_secs(600);
/// Between two pieces of a longer work, so that gateways get their turn.
const BREATH: Duration = Duration::from_millis(50);
/// The lease's name.
const LEASE: &str = "retention";

/// How long rows are kept, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    days: u32,
    bytes_max: u64,
}

impl Retention {
    /// Keeps rows for so many days, and so many bytes of them.
    #[must_use]
    pub const fn new(days: u32, bytes_max: u64) -> Self {
        Self { days, bytes_max }
    }

    fn limits(self, now_ms: u64) -> retention::Limits {
        let age_ms = u64::from(self.days) * 24 * 3_600 * 1_000;
        retention::Limits { before_ms: now_ms.saturating_sub(age_ms), bytes_max: self.bytes_max }
    }
}

/// Drops what is beyond the limits until the server stops.
pub(crate) async fn tidy_in_time(fleet: Arc<Fleet>, mut stopping: Stopping) {
    let mut pause = BREATH;
    while stopping.pause(pause).await {
        let (now, holder) = (now_ms(), fleet.holder.clone());
        let limits = fleet.retention.limits(now);
        let until = now + 2 * EACH.as_millis() as u64;
        let tidied = fleet.store.write(move |sql| {
            Ok(leases::take(sql, LEASE, &holder, now, until)? && retention::tidy(sql, limits)?)
        });
        pause = match tidied.await {
            Ok(true) => BREATH,
            Ok(false) => EACH,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "old rows are not dropped at present");
                EACH
            }
        };
    }
}
