//! A mosquitto of the test's own: on a free loopback port, with its own configuration and folder.
//!
//! Starts, stops and restarts its own child alone. Everything that goes over MQTT in a test goes through it.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::failure::{Failure, Outcome};
use crate::link::Link;
use crate::wait::wait_until;
use crate::wire::Session;

/// Longest wait for a broker to start or to stop.
const CHANGE_MAX: Duration = Duration::from_secs(20);
/// A port may be taken by others between its choice and its use.
const START_TRIES: usize = 5;

/// What of mosquitto's configuration the tests change.
#[derive(Debug, Clone)]
pub struct BrokerPlan {
    /// QoS 1 messages on their way to one client; mosquitto's own default is 20.
    pub in_flight_max: u16,
    /// Messages kept for one client that is away; 0: all.
    pub queued_max: u32,
}

impl Default for BrokerPlan {
    fn default() -> Self {
        Self { in_flight_max: 20, queued_max: 0 }
    }
}

/// A running broker, or one that was stopped and can be started again.
#[derive(Debug)]
pub struct Broker {
    folder: TempDir,
    program: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Broker {
    /// Starts a broker and waits until it answers.
    ///
    /// *Errors*: mosquitto is not installed or does not start; its log is in the failure.
    pub fn start(plan: &BrokerPlan) -> Outcome<Self> {
        let mut broker =
            Self { folder: tempfile::tempdir()?, program: find_program()?, port: 0, child: None };
        let mut last = Failure::new("not tried");
        for _ in 0..START_TRIES {
            broker.port = free_port()?;
            broker.write_config(plan)?;
            match broker.start_again() {
                Ok(()) => return Ok(broker),
                Err(failure) => last = failure,
            }
            broker.kill();
        }
        Err(last)
    }

    /// Returns the loopback port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the address for `mqtt.url`.
    #[must_use]
    pub fn url(&self) -> String {
        url_of(self.port)
    }

    /// Starts the broker that was stopped, with the sessions and messages it had saved.
    ///
    /// *Errors*: it does not answer.
    pub fn start_again(&mut self) -> Outcome<()> {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log"))?;
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(Failure::of("start mosquitto"))?;
        self.child = Some(child);
        let port = self.port;
        let mut ended = false;
        let waited = wait_until("mosquitto answers", CHANGE_MAX, || {
            ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            ended || Link::connect(port, "harness-probe", Session::Clean).is_ok()
        });
        let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        match waited {
            Ok(()) if !ended => Ok(()),
            Ok(()) => Err(Failure::new(format!("mosquitto ended at once: {}", log()))),
            Err(failure) => Err(Failure::new(format!("{failure}: {}", log()))),
        }
    }

    /// Stops the broker as an operator would: it saves sessions and messages.
    ///
    /// *Errors*: it does not end.
    pub fn stop(&mut self) -> Outcome<()> {
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        kill(pid_of(child), Signal::SIGTERM).map_err(Failure::of("stop mosquitto"))?;
        wait_until("mosquitto ends", CHANGE_MAX, || !matches!(child.try_wait(), Ok(None)))?;
        self.child = None;
        Ok(())
    }

    /// Stops and starts the broker.
    ///
    /// *Errors*: as [`Broker::stop`] and [`Broker::start_again`].
    pub fn restart(&mut self) -> Outcome<()> {
        self.stop()?;
        self.start_again()
    }

    /// Kills the broker without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Writes mosquitto's configuration. `user` names root so that a broker started by root may read its folder.
    fn write_config(&self, plan: &BrokerPlan) -> Outcome<()> {
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n\
             autosave_interval 1\nautosave_on_changes false\nmax_inflight_messages {}\nmax_queued_messages {}\n\
             max_queued_bytes 0\nmessage_size_limit 0\nset_tcp_nodelay true\nlog_dest stderr\nlog_type error\n\
             log_type warning\n",
            self.port,
            self.folder.path().display(),
            plan.in_flight_max,
            plan.queued_max
        );
        dunlin_kit::atomic_file::write(&self.folder.path().join("mosquitto.conf"), text.as_bytes())
            .map_err(Failure::of("write mosquitto.conf"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the address for `mqtt.url` of a loopback port.
#[must_use]
pub fn url_of(port: u16) -> String {
    format!("mqtt://127.0.0.1:{port}")
}

/// Returns a loopback port that nobody uses at this moment.
///
/// *Errors*: the machine has none left.
pub fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Failure::of("find a free port"))?;
    Ok(listener.local_addr()?.port())
}

fn find_program() -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder: PathBuf| folder.join("mosquitto"))
        .find(|program| program.is_file())
        .ok_or_else(|| Failure::new("mosquitto is not installed: `apt-get install mosquitto`"))
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Message, Publisher};
    use crate::wire::Qos;

    #[test]
    fn a_stopped_broker_keeps_what_waits_for_a_session() {
        let mut broker = Broker::start(&BrokerPlan::default()).unwrap();
        let mut listener = Link::connect(broker.port(), "listener", Session::Kept).unwrap();
        listener.subscribe("a/#", Qos::AtLeastOnce).unwrap();
        drop(listener);
        let messages: Vec<_> = (0..300).map(|n| Message::new("a/b", n.to_string())).collect();
        let mut publisher = Publisher::connect(broker.port(), "publisher").unwrap();
        assert_eq!(publisher.publish_all(&messages, Qos::AtLeastOnce).unwrap(), 300);
        broker.restart().unwrap();
        let mut listener = Link::connect(broker.port(), "listener", Session::Kept).unwrap();
        for n in 0..300 {
            let arrived = listener.next(Duration::from_secs(20)).unwrap().unwrap();
            assert_eq!(arrived.payload, n.to_string().into_bytes());
        }
    }
}
