//! The daemon as a process: started, asked, signalled and killed from outside.
//!
//! Knows its command line, its status and its exit codes; never its code. Its standard error goes to a file that a
//! failing test shows the end of.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::wait::{wait_for, wait_until};
use crate::workspace::{daemon_program, root};

/// Longest wait for a start or a stop, with two cores shared by everything.
pub const CHANGE_MAX: Duration = Duration::from_secs(30);
/// End of the log that a failure shows.
const LOG_TAIL_BYTES: usize = 4_000;

/// How a daemon is started.
#[derive(Debug, Clone)]
pub struct DaemonPlan {
    /// Its configuration file.
    pub config: PathBuf,
    /// Its state folder.
    pub state_dir: PathBuf,
    /// Where its standard error goes: beside the state folder, so that a full state folder does not matter.
    pub log: PathBuf,
    settings: Vec<String>,
}

/// Returns the daemon's program without the tests' own variables: it takes every `DUNLIN_…` for a setting.
fn dunlind() -> Outcome<Command> {
    let mut command = Command::new(daemon_program()?);
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("DUNLIN_"))
        .for_each(|name| {
            command.env_remove(name);
        });
    Ok(command)
}

impl DaemonPlan {
    /// Returns the plan of a daemon with this configuration; its state is in `folder/state`.
    #[must_use]
    pub fn new(config: &Path, folder: &Path) -> Self {
        Self {
            config: config.to_owned(),
            state_dir: folder.join("state"),
            log: folder.join("dunlind.log"),
            settings: vec!["http.enabled=false".to_owned()],
        }
    }

    /// Returns the plan of an example of this repository.
    #[must_use]
    pub fn example(name: &str, folder: &Path) -> Self {
        Self::new(&root().join("examples").join(name).join("dunlind.toml"), folder)
    }

    /// Sends standard error to another file.
    #[must_use]
    pub fn log_to(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.log);
        self
    }

    /// Adds `--set key=value`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.settings.push(format!("{key}={value}"));
        self
    }

    /// Starts the daemon without waiting.
    ///
    /// *Errors*: there is no binary, or the process cannot be made.
    pub fn start(&self) -> Outcome<Daemon> {
        self.start_with(|_| ())
    }

    /// Starts the daemon and waits until it is ready and subscribed.
    ///
    /// *Errors*: it ended or did not become ready; the end of its log is in the failure.
    pub fn start_ready(&self) -> Outcome<Daemon> {
        let mut daemon = self.start()?;
        daemon.wait_connected()?;
        Ok(daemon)
    }

    /// Starts the daemon and returns how long it took until it told its supervisor that it is ready.
    ///
    /// *Errors*: as [`DaemonPlan::start_ready`].
    pub fn start_timed(&self) -> Outcome<(Daemon, Duration)> {
        let path = self.log.with_extension("notify");
        std::fs::remove_file(&path).ok();
        let socket = UnixDatagram::bind(&path).map_err(Failure::of(path.display()))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let start = Instant::now();
        let mut daemon = self.start_with(|command| {
            command.env("NOTIFY_SOCKET", &path);
        })?;
        let mut datagram = [0; 4_096];
        while start.elapsed() < CHANGE_MAX && daemon.has_ended().is_none() {
            let Ok(count) = socket.recv(&mut datagram) else { continue };
            if datagram[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Ok((daemon, start.elapsed()));
            }
        }
        Err(daemon.failure("the daemon did not send READY=1"))
    }

    pub(crate) fn start_with(&self, change: impl FnOnce(&mut Command)) -> Outcome<Daemon> {
        std::fs::create_dir_all(&self.state_dir)?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = dunlind()?;
        command.arg("run").arg("--config").arg(&self.config).arg("--state-dir").arg(&self.state_dir);
        self.settings.iter().for_each(|setting| {
            command.arg("--set").arg(setting);
        });
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        change(&mut command);
        let child = command.spawn().map_err(Failure::of("start dunlind"))?;
        Ok(Daemon { child, plan: self.clone(), ended: None })
    }

    /// Returns the status of the daemon that runs on this state folder; `None` where none answers.
    ///
    /// *Errors*: the command fails in another way, or prints no JSON.
    pub fn status(&self) -> Outcome<Option<Value>> {
        let output = self.command("status", &["--json"])?;
        match output.status.code() {
            Some(0) => Ok(Some(serde_json::from_slice(&output.stdout)?)),
            Some(3) => Ok(None),
            _ => Err(Failure::new(format!("`dunlind status`: {}: {}", output.status, text(&output.stderr)))),
        }
    }

    /// Returns what `dunlind models` says of all models: by name, in `models`.
    ///
    /// *Errors*: the command fails, or prints no JSON.
    pub fn models(&self) -> Outcome<Value> {
        let output = self.command("models", &["--json"])?;
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout)?);
        }
        Err(Failure::new(format!("`dunlind models`: {}: {}", output.status, text(&output.stderr))))
    }

    /// Waits until what `dunlind models` says of a model satisfies `condition`; returns it.
    ///
    /// *Errors*: it does not within [`CHANGE_MAX`].
    pub fn wait_model(&self, model: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Outcome<Value> {
        let mut last = Value::Null;
        let waited = wait_for(what, CHANGE_MAX, || {
            last = self.models()?["models"][model].take();
            Ok(condition(&last).then(|| last.clone()))
        });
        waited.map_err(|failure| self.failure(&format!("{failure}; last said: {last}")))
    }

    /// Imports a bundle or the folder of a repository, with options such as `--wait`.
    ///
    /// *Errors*: the process cannot be made; what came of it is in the output.
    pub fn import(&self, place: &Path, options: &[&str]) -> Outcome<Output> {
        let place = place.to_string_lossy();
        let mut arguments = vec![place.as_ref()];
        arguments.extend(options);
        self.command("import", &arguments)
    }

    /// Has a model go back to the release before.
    ///
    /// *Errors*: the process cannot be made; what came of it is in the output.
    pub fn rollback(&self, model: &str) -> Outcome<Output> {
        self.command("rollback", &[model])
    }

    /// Exports a model's predictions as CSV, those in shadow too.
    ///
    /// *Errors*: as [`DaemonPlan::export`].
    pub fn export_with_shadow(&self, model: &str) -> Outcome<String> {
        self.export_by(&["--model", model, "--format", "csv", "--shadow"])
    }

    /// Exports a model's predictions as CSV, through the running daemon or from the store at rest.
    ///
    /// *Errors*: the command fails; what it said is in the failure.
    pub fn export(&self, model: &str) -> Outcome<String> {
        self.export_by(&["--model", model, "--format", "csv"])
    }

    fn export_by(&self, arguments: &[&str]) -> Outcome<String> {
        let output = self.command("export", arguments)?;
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(Failure::new(format!("`dunlind export`: {}: {}", output.status, text(&output.stderr))))
    }

    /// Exports and waits until there are at least `rows` predictions.
    ///
    /// *Errors*: there are fewer within `limit`; the failure tells how many.
    pub fn export_of(&self, model: &str, rows: usize, limit: Duration) -> Outcome<String> {
        let mut last = Err(Failure::new("not asked"));
        let waited = wait_for("all predictions are stored", limit, || {
            last = self.export(model);
            Ok(last.as_ref().is_ok_and(|csv| csv.lines().count() > rows).then_some(()))
        });
        match (waited, last) {
            (Ok(()), last) => last,
            (Err(failure), Ok(csv)) => {
                let stored = csv.lines().count().saturating_sub(1);
                Err(self.failure(&format!("{failure}: {stored} of {rows} are")))
            }
            (Err(failure), Err(export)) => Err(self.failure(&format!("{failure}: {export}"))),
        }
    }

    /// Runs another of the daemon's commands on the state folder.
    ///
    /// *Errors*: there is no binary, or the process cannot be made.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Outcome<Output> {
        let mut command = dunlind()?;
        command.arg(name).arg("--state-dir").arg(&self.state_dir).args(arguments).stdin(Stdio::null());
        command.output().map_err(Failure::of(format!("start `dunlind {name}`")))
    }

    /// Runs a command on the configuration, such as `check --offline`.
    ///
    /// *Errors*: there is no binary, or the process cannot be made.
    pub fn config_command(&self, name: &str, arguments: &[&str]) -> Outcome<Output> {
        let mut command = dunlind()?;
        command.arg(name).arg("--config").arg(&self.config).args(arguments).stdin(Stdio::null());
        command.output().map_err(Failure::of(format!("start `dunlind {name}`")))
    }

    /// Returns a failure with the end of the daemon's log.
    #[must_use]
    pub fn failure(&self, sentence: &str) -> Failure {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let tail = text(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]);
        Failure::new(format!("{sentence}\n--- end of {}:\n{tail}", self.log.display()))
    }
}

/// A daemon that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    plan: DaemonPlan,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Waits until the daemon says that it is ready and every slot is ready or has failed; brokers may be away.
    ///
    /// *Errors*: the daemon ended, or did not become ready.
    pub fn wait_ready(&mut self) -> Outcome<()> {
        self.wait_status("the daemon is ready", |status| {
            let slots = status["slots"].as_object();
            status["ready"] == true
                && slots.is_none_or(|slots| slots.values().all(|slot| slot["state"] != "starting"))
        })?;
        Ok(())
    }

    /// Waits until the daemon is ready and subscribed at every broker.
    ///
    /// *Errors*: as [`Daemon::wait_ready`].
    pub fn wait_connected(&mut self) -> Outcome<()> {
        self.wait_ready()?;
        self.wait_status("all brokers are connected", |status| {
            let brokers = status["brokers"].as_object();
            brokers.is_some_and(|all| !all.is_empty() && all.values().all(|one| one["connected"] == true))
        })?;
        Ok(())
    }

    /// Waits until the daemon's status satisfies `condition`; returns that status.
    ///
    /// *Errors*: it does not within [`CHANGE_MAX`], or the daemon ended.
    pub fn wait_status(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Outcome<Value> {
        let mut last = Value::Null;
        let waited = wait_for(what, CHANGE_MAX, || {
            if let Some(status) = self.has_ended() {
                return Err(Failure::new(format!("the daemon ended with {status} before {what}")));
            }
            let Some(status) = self.plan.status()? else { return Ok(None) };
            last.clone_from(&status);
            Ok(condition(&status).then_some(status))
        });
        waited.map_err(|failure| self.failure(&format!("{failure}; last status: {last}")))
    }

    /// Waits until this number of readings was accepted since the start, and none is in flight.
    ///
    /// *Errors*: as [`Daemon::wait_status`].
    pub fn wait_readings(&mut self, count: u64) -> Outcome<Value> {
        self.wait_status(&format!("{count} readings are accepted"), |status| {
            status["readings"].as_u64() >= Some(count) && status["in_flight"] == 0
        })
    }

    /// Returns the status.
    ///
    /// *Errors*: the daemon does not answer.
    pub fn status(&self) -> Outcome<Value> {
        self.plan.status()?.ok_or_else(|| self.failure("the daemon does not answer"))
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the process ids of the workers that status names.
    ///
    /// *Errors*: the daemon does not answer.
    pub fn worker_pids(&self) -> Outcome<Vec<u32>> {
        let status = self.status()?;
        let slots = status["slots"].as_object().into_iter().flatten();
        let pids = slots.filter_map(|(_, slot)| u32::try_from(slot["pid"].as_u64()?).ok());
        Ok(pids.filter(|pid| *pid != 0).collect())
    }

    /// Tells whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.has_ended().is_none()
    }

    /// Kills the daemon without warning, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.has_ended().is_none() {
            self.child.kill().ok();
            self.ended = self.child.wait().ok();
        }
    }

    /// Asks the daemon to stop and waits for its exit status.
    ///
    /// *Errors*: it does not end.
    pub fn terminate(&mut self) -> Outcome<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end()
    }

    /// Waits until the daemon has ended by itself.
    ///
    /// *Errors*: it does not.
    pub fn wait_end(&mut self) -> Outcome<ExitStatus> {
        let waited = wait_until("the daemon ends", CHANGE_MAX, || self.has_ended().is_some());
        waited.map_err(|failure| self.failure(&failure.to_string()))?;
        self.ended.ok_or_else(|| Failure::new("the daemon has no exit status"))
    }

    /// Asks the daemon to read its configuration again.
    ///
    /// *Errors*: it is gone.
    pub fn reload(&self) -> Outcome<()> {
        self.signal(Signal::SIGHUP)
    }

    /// Returns the resident memory of the daemon and its workers, in bytes.
    ///
    /// *Errors*: the daemon is gone.
    pub fn resident_bytes(&self) -> Outcome<u64> {
        let mut sum = resident_bytes(self.pid())?;
        for pid in self.worker_pids()? {
            sum += resident_bytes(pid).unwrap_or(0);
        }
        Ok(sum)
    }

    /// Returns the processor time that the daemon and its workers took so far.
    ///
    /// *Errors*: the daemon is gone.
    pub fn processor_time(&self) -> Outcome<Duration> {
        let mut sum = processor_time(self.pid())?;
        for pid in self.worker_pids()? {
            sum += processor_time(pid)?;
        }
        Ok(sum)
    }

    /// Returns the bytes that the daemon caused to be written to storage, by the kernel's account.
    ///
    /// *Errors*: the daemon is gone.
    pub fn written_bytes(&self) -> Outcome<u64> {
        proc_number(self.pid(), "io", "write_bytes:")
    }

    /// Returns what the daemon wrote to standard error, over all starts of its plan.
    #[must_use]
    pub fn log(&self) -> String {
        text(&std::fs::read(&self.plan.log).unwrap_or_default())
    }

    /// Returns a failure with the end of the daemon's log.
    #[must_use]
    pub fn failure(&self, sentence: &str) -> Failure {
        self.plan.failure(sentence)
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    fn signal(&self, signal: Signal) -> Outcome<()> {
        kill_process(self.pid(), signal)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process of the test.
///
/// *Errors*: it is gone.
pub fn kill_process(pid: u32, signal: Signal) -> Outcome<()> {
    let raw = i32::try_from(pid).ok().filter(|pid| *pid > 1);
    let pid = raw.ok_or_else(|| Failure::new(format!("`{pid}` is no process id")))?;
    kill(Pid::from_raw(pid), signal).map_err(Failure::of(format!("send {signal} to {pid}")))
}

/// Returns a process's resident memory in bytes.
///
/// *Errors*: it is gone.
pub fn resident_bytes(pid: u32) -> Outcome<u64> {
    proc_number(pid, "status", "VmRSS:").map(|kib| kib * 1_024)
}

/// Returns the most resident memory that a process ever had, in bytes.
///
/// *Errors*: it is gone.
pub fn peak_bytes(pid: u32) -> Outcome<u64> {
    proc_number(pid, "status", "VmHWM:").map(|kib| kib * 1_024)
}

/// Returns the processor time that a process took so far.
///
/// *Errors*: it is gone.
pub fn processor_time(pid: u32) -> Outcome<Duration> {
    let stat = read_proc(pid, "stat")?;
    // The name, in brackets, may hold blanks: fields are counted behind it, state being the first.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1);
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

fn proc_number(pid: u32, file: &str, name: &str) -> Outcome<u64> {
    let contents = read_proc(pid, file)?;
    let line = contents.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Failure::new(format!("/proc/{pid}/{file} has no {name}")))
}

fn read_proc(pid: u32, file: &str) -> Outcome<String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).map_err(Failure::of(path))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_measured_and_an_absent_one_named() {
        let own = std::process::id();
        assert!(resident_bytes(own).unwrap() > 100_000);
        processor_time(own).unwrap();
        assert!(resident_bytes(u32::MAX).unwrap_err().to_string().contains("/proc/4294967295"));
        assert!(kill_process(0, Signal::SIGTERM).is_err());
        assert!(kill_process(1, Signal::SIGTERM).is_err());
    }
}
