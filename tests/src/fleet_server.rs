//! The fleet server as a process: started at a port of its own, signalled and killed from outside.
//!
//! Knows its command line, what it tells its supervisor and its exit codes; never its code. The port and the folder are
//! the plan's, so that a server which was killed comes back as the same one.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::broker::free_port;
use crate::daemon::{CHANGE_MAX, kill_process, resident_bytes};
use crate::failure::{Failure, Outcome};
use crate::wait::wait_until;
use crate::workspace::fleet_program;

/// End of the log that a failure shows.
const LOG_TAIL_BYTES: usize = 4_000;

/// How a fleet server is started.
#[derive(Debug, Clone)]
pub struct ServerPlan {
    /// Its folder.
    pub data: PathBuf,
    /// Where its standard error goes.
    pub log: PathBuf,
    /// Its port on loopback.
    pub port: u16,
    database_url: Option<String>,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    watchdog: Option<Duration>,
}

impl ServerPlan {
    /// Returns the plan of a server whose data are in `folder/fleet`.
    ///
    /// *Errors*: there is no free port.
    pub fn new(folder: &Path) -> Outcome<Self> {
        Ok(Self {
            data: folder.join("fleet"),
            log: folder.join("dunlin-fleet.log"),
            port: free_port()?,
            database_url: None,
            options: Vec::new(),
            environment: Vec::new(),
            watchdog: None,
        })
    }

    /// Returns the plan with a PostgreSQL database in place of its own.
    #[must_use]
    pub fn on_database(mut self, url: &str) -> Self {
        self.database_url = Some(url.to_owned());
        self
    }

    /// Returns the plan with more arguments of `serve`.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// Returns the plan with more variables of the environment.
    #[must_use]
    pub fn within(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment.extend(environment);
        self
    }

    /// Returns the plan with a supervisor that wants to hear of the server every two seconds.
    #[must_use]
    pub const fn under_watchdog(mut self) -> Self {
        self.watchdog = Some(Duration::from_secs(2));
        self
    }

    /// Returns the plan of a second server over the same database and keys, at a port and with a log of its own.
    ///
    /// *Errors*: there is no free port.
    pub fn replica(&self) -> Outcome<Self> {
        let port = free_port()?;
        Ok(Self { port, log: self.log.with_extension(format!("{port}.log")), ..self.clone() })
    }

    /// Returns where it is found.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts the server, and returns when it told its supervisor that it serves.
    ///
    /// *Errors*: it ended, or did not tell within [`CHANGE_MAX`].
    pub fn start(&self) -> Outcome<FleetServer> {
        let path = self.log.with_extension(format!("{}.notify", self.port));
        std::fs::remove_file(&path).ok();
        let supervisor = UnixDatagram::bind(&path).map_err(Failure::of(path.display()))?;
        supervisor.set_read_timeout(Some(Duration::from_millis(100)))?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(fleet_program()?);
        command
            .arg("serve")
            .arg("--data")
            .arg(&self.data)
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port));
        command.args(&self.options).env_remove("DUNLIN_FLEET_DATABASE_URL").env("NOTIFY_SOCKET", &path);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(url) = &self.database_url {
            command.arg("--database-url").arg(url);
        }
        if let Some(limit) = self.watchdog {
            command.env("WATCHDOG_USEC", limit.as_micros().to_string());
        }
        command.env_remove("WATCHDOG_PID").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(Failure::of("start dunlin-fleet"))?;
        let mut server = FleetServer { child, plan: self.clone(), supervisor, ended: None };
        server.wait_told("READY=1")?;
        Ok(server)
    }

    /// Runs another command of the program over the same folder.
    ///
    /// *Errors*: the process cannot be made; what came of it is in the output.
    pub fn command(&self, arguments: &[&str]) -> Outcome<Output> {
        let mut command = Command::new(fleet_program()?);
        command.args(arguments).stdin(Stdio::null()).env_remove("DUNLIN_FLEET_DATABASE_URL");
        command.output().map_err(Failure::of("run dunlin-fleet"))
    }

    /// Returns what the servers of this plan wrote to standard error.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

/// A fleet server that runs; killed when it is dropped.
#[derive(Debug)]
pub struct FleetServer {
    child: Child,
    plan: ServerPlan,
    supervisor: UnixDatagram,
    ended: Option<ExitStatus>,
}

impl FleetServer {
    /// Returns how it was started.
    #[must_use]
    pub const fn plan(&self) -> &ServerPlan {
        &self.plan
    }

    /// Returns where it is found.
    #[must_use]
    pub fn url(&self) -> String {
        self.plan.url()
    }

    /// Returns its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its resident memory in bytes.
    ///
    /// *Errors*: it is gone.
    pub fn resident_bytes(&self) -> Outcome<u64> {
        resident_bytes(self.pid())
    }

    /// Waits until it tells its supervisor this line.
    ///
    /// *Errors*: it ended, or did not within [`CHANGE_MAX`].
    pub fn wait_told(&mut self, told: &str) -> Outcome<()> {
        let start = Instant::now();
        let mut datagram = [0; 4_096];
        while start.elapsed() < CHANGE_MAX {
            let received = self.supervisor.recv(&mut datagram);
            let count = received.unwrap_or(0);
            if datagram[..count].split(|byte| *byte == b'\n').any(|line| line == told.as_bytes()) {
                return Ok(());
            }
            if count == 0 && self.has_ended().is_some() {
                break;
            }
        }
        Err(self.failure(&format!("the fleet server did not send {told}")))
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        if self.has_ended().is_none() {
            self.child.kill().ok();
            self.ended = self.child.wait().ok();
        }
    }

    /// Asks it to stop and waits for its exit status.
    ///
    /// *Errors*: it does not end.
    pub fn terminate(&mut self) -> Outcome<ExitStatus> {
        kill_process(self.pid(), Signal::SIGTERM)?;
        let waited = wait_until("the fleet server ends", CHANGE_MAX, || self.has_ended().is_some());
        waited.map_err(|failure| self.failure(&failure.to_string()))?;
        self.ended.ok_or_else(|| Failure::new("the fleet server has no exit status"))
    }

    /// Returns a failure with the end of its log.
    #[must_use]
    pub fn failure(&self, sentence: &str) -> Failure {
        let log = self.plan.log();
        let mut from = log.len().saturating_sub(LOG_TAIL_BYTES);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        Failure::new(format!("{sentence}; its log ends:\n{}", &log[from..]))
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }
}

impl Drop for FleetServer {
    fn drop(&mut self) {
        self.kill();
    }
}
