//! What the service manager is told: ready, stopping, and that the database answers.
//!
//! Without systemd all of this does nothing. The watchdog is fed by reads that succeed: a server whose database hangs is
//! started anew. Never decides to stop by itself.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::store::{Store, fleet};

/// Tells that the server serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells that the server stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog as long as the database answers; never returns, even where there is none.
pub async fn feed_watchdog(store: &Store) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    // Two chances within the limit, as systemd's manual asks.
    let mut turns = tokio::time::interval((limit / 2).max(Duration::from_millis(100)));
    loop {
        turns.tick().await;
        match store.read(fleet::require_reachable).await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(error) => tracing::error!(%error, "the database does not answer"),
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
