//! A campaign: a stream goes through the daemon while something is killed or cut at random moments, and what is
//! stored at the end is compared with the oracle.
//!
//! The stream is published in as many pieces as there are troubles, each acknowledged by the broker before its
//! trouble. Nothing is published twice, so every repeat in the store is the daemon's.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::broker::{Broker, BrokerPlan, url_of};
use crate::daemon::{Daemon, DaemonPlan, kill_process};
use crate::failure::{Failure, Outcome};
use crate::oracle::{Comparison, Expected};
use crate::proxy::Proxy;
use crate::seed::Choices;
use crate::stream::{Message, Publisher};
use crate::wait::{pause, wait_for};
use crate::wire::Qos;

/// Longest random rest before a trouble: long enough to hit every phase between arrival and acknowledgement.
const MOMENT_MS_MAX: u64 = 120;
/// Longest random rest after a start that is killed again before it is ready.
const START_MOMENT_MS_MAX: u64 = 300;

/// What happens to the daemon, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    Calm,
    /// The daemon is killed and started again; every other time it is killed while it starts.
    DaemonKilled(usize),
    /// A worker is killed.
    WorkerKilled(usize),
    /// All connections to the broker are cut.
    ConnectionCut(usize),
}

impl Trouble {
    /// Returns how often it happens.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::Calm => 0,
            Self::DaemonKilled(count) | Self::WorkerKilled(count) | Self::ConnectionCut(count) => count,
        }
    }

    /// Returns its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "plain",
            Self::DaemonKilled(_) => "daemon killed",
            Self::WorkerKilled(_) => "worker killed",
            Self::ConnectionCut(_) => "connection cut",
        }
    }
}

/// A stream, what is expected of it, and what happens meanwhile.
#[derive(Debug)]
pub struct Campaign {
    /// The daemon's configuration.
    pub config: PathBuf,
    /// The model whose predictions are compared.
    pub model: String,
    /// The stream.
    pub messages: Vec<Message>,
    /// What the model must predict of it.
    pub expected: Expected,
    /// What happens meanwhile.
    pub trouble: Trouble,
    /// Longest wait for the last prediction.
    pub limit: Duration,
}

impl Campaign {
    /// Runs the campaign from a fresh state folder.
    ///
    /// *Errors*: something could not be run at all; differences are in the comparison.
    pub fn run(&self, choices: &mut Choices) -> Outcome<Comparison> {
        let folder = tempfile::tempdir()?;
        let broker = Broker::start(&BrokerPlan::default())?;
        let proxy = Proxy::start(broker.port())?;
        let through =
            if matches!(self.trouble, Trouble::ConnectionCut(_)) { proxy.port() } else { broker.port() };
        let plan = DaemonPlan::new(&self.config, folder.path())
            .set("mqtt.url", url_of(through))
            .set("mqtt.reconnect_max", "1s");
        let mut daemon = plan.start_ready()?;
        let mut publisher = Publisher::connect(broker.port(), "campaign")?;
        let pieces = self.trouble.count() + 1;
        let piece = self.messages.len().div_ceil(pieces).max(1);
        for (index, messages) in self.messages.chunks(piece).enumerate() {
            publisher.publish_all(messages, Qos::AtLeastOnce)?;
            if index >= self.trouble.count() {
                continue;
            }
            pause(Duration::from_millis(choices.below(MOMENT_MS_MAX)));
            match self.trouble {
                Trouble::Calm => (),
                Trouble::DaemonKilled(_) => kill_daemon(&plan, &mut daemon, index, choices)?,
                Trouble::WorkerKilled(_) => kill_worker(&daemon)?,
                Trouble::ConnectionCut(_) => cut(&proxy, &mut daemon)?,
            }
        }
        daemon.wait_ready()?;
        let export = plan.export_of(&self.model, self.expected.len(), self.limit)?;
        let comparison = Comparison::of(&self.expected, &export)?;
        if comparison.is_exact() {
            return Ok(comparison);
        }
        Err(daemon.failure(&format!("{}: {comparison} (seed {})", self.trouble.name(), choices.seed())))
    }
}

fn kill_daemon(plan: &DaemonPlan, daemon: &mut Daemon, index: usize, choices: &mut Choices) -> Outcome<()> {
    daemon.kill();
    *daemon = plan.start()?;
    if index.is_multiple_of(2) {
        daemon.wait_ready()
    } else {
        pause(Duration::from_millis(choices.below(START_MOMENT_MS_MAX)));
        Ok(())
    }
}

fn kill_worker(daemon: &Daemon) -> Outcome<()> {
    let limit = crate::daemon::CHANGE_MAX;
    wait_for("a worker could be killed", limit, || {
        let pid = daemon.worker_pids()?.into_iter().next();
        Ok(pid.filter(|pid| kill_process(*pid, Signal::SIGKILL).is_ok()))
    })?;
    Ok(())
}

/// Cuts once there is a connection to cut: after the last one, the daemon waits a little before it connects.
fn cut(proxy: &Proxy, daemon: &mut Daemon) -> Outcome<()> {
    daemon.wait_connected()?;
    if proxy.cut() == 0 {
        return Err(Failure::new("the daemon is connected, but not through the proxy"));
    }
    Ok(())
}
