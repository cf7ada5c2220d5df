//! The signals the daemon listens to.
//!
//! SIGTERM and SIGINT stop it in order, SIGHUP reads the configuration again; other settings of the fleet server do the same
//! for theirs. Everything else is the system's.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{self, SignalKind};
use tokio::sync::watch;

use crate::remote_settings::SettingsDesk;

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Stop in order.
    Stop,
    /// Read the configuration again.
    Reload,
    /// Run with other settings of the fleet server, or without them.
    Settings,
}

/// The signals.
pub(crate) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
    settings: Option<(Arc<SettingsDesk>, watch::Receiver<u64>)>,
}

impl Signals {
    /// Starts listening.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hang_up: unix::signal(SignalKind::hangup())?,
            settings: None,
        })
    }

    /// Listens to the fleet server's settings too.
    pub(crate) fn follow(&mut self, desk: &Arc<SettingsDesk>) {
        self.settings = Some((Arc::clone(desk), desk.orders()));
    }

    /// Waits for the next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        let settings = &mut self.settings;
        let ordered = async {
            match settings {
                Some((desk, orders)) => desk.next_order(orders).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hang_up.recv() => Signal::Reload,
            () = ordered => Signal::Settings,
        }
    }
}
