//! A PostgreSQL of the test's own: a cluster in a temporary folder, at a free loopback port.
//!
//! Starts and stops its own child alone. Databases in it are made and thrown away at will: durability is off unless it is
//! measured.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

use crate::certificates::Issued;
use crate::failure::{Failure, Outcome};
use crate::package::write;
use crate::wait::{wait_for, wait_until};

/// Longest wait for the server to start or to stop.
const CHANGE_MAX: Duration = Duration::from_secs(60);
/// A port may be taken by others between its choice and its use.
const START_TRIES: usize = 5;
/// Where Debian's packages keep the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    /// Whether a commit is on disk when it is done: `on` or `off`.
    fsync: &'static str,
    child: Option<Child>,
}

impl Postgres {
    /// Tells whether PostgreSQL's server is installed.
    #[must_use]
    pub fn is_installed() -> bool {
        programs().is_some()
    }

    /// Makes a cluster, starts its server and waits until it answers.
    ///
    /// *Errors*: PostgreSQL is not installed or does not start; its log is in the failure.
    pub fn start() -> Outcome<Self> {
        Self::start_with("off")
    }

    /// Starts one whose commits are on disk when they are done, to be measured.
    ///
    /// *Errors*: as [`Postgres::start`].
    pub fn start_durable() -> Outcome<Self> {
        Self::start_with("on")
    }

    fn start_with(fsync: &'static str) -> Outcome<Self> {
        let programs =
            programs().ok_or_else(|| Failure::new("PostgreSQL is not installed: install `postgresql`"))?;
        let folder = tempfile::tempdir()?;
        if let Some(owner) = owner() {
            chown(folder.path(), Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
        }
        let mut postgres = Self { folder, programs, port: 0, fsync, child: None };
        let cluster = postgres.cluster();
        let made = postgres
            .program("initdb")
            .args(["--no-sync", "--auth=trust", "--username=dunlin", "--encoding=UTF8", "--no-locale", "-D"])
            .arg(&cluster)
            .output()
            .map_err(Failure::of("start initdb"))?;
        if !made.status.success() {
            return Err(Failure::new(format!("initdb: {}", String::from_utf8_lossy(&made.stderr))));
        }
        let mut last = Failure::new("not tried");
        for _ in 0..START_TRIES {
            postgres.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            match postgres.start_again() {
                Ok(()) => return Ok(postgres),
                Err(failure) => last = failure,
            }
            postgres.kill();
        }
        Err(last)
    }

    /// Starts the server that was stopped or killed, on its old port.
    ///
    /// *Errors*: it does not answer.
    pub fn start_again(&mut self) -> Outcome<()> {
        let log = self.folder.path().join("log");
        let file = File::options().create(true).append(true).open(&log)?;
        let child = self
            .program("postgres")
            .arg("-D")
            .arg(self.cluster())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=200"])
            .args(["-c", &format!("fsync={}", self.fsync)])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(Failure::of("start postgres"))?;
        self.child = Some(child);
        let mut ended = false;
        let waited = wait_until("PostgreSQL answers", CHANGE_MAX, || {
            ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            ended || self.psql("postgres", "SELECT 1").is_ok()
        });
        let text = || std::fs::read_to_string(&log).unwrap_or_default();
        match waited {
            Ok(()) if !ended => Ok(()),
            Ok(()) => Err(Failure::new(format!("PostgreSQL ended at once: {}", text()))),
            Err(failure) => Err(Failure::new(format!("{failure}: {}", text()))),
        }
    }

    /// Makes an empty database; returns its address.
    ///
    /// *Errors*: the server refuses it.
    pub fn new_database(&self, name: &str) -> Outcome<String> {
        self.psql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(format!("postgres://dunlin@127.0.0.1:{}/{name}", self.port))
    }

    /// Has the server offer TLS from here on.
    ///
    /// *Errors*: it does not take the certificate.
    pub fn offer_tls(&self, issued: &Issued) -> Outcome<()> {
        for (name, pem) in
            [("server.crt", issued.certificate.pem()), ("server.key", issued.key.serialize_pem())]
        {
            let path = self.cluster().join(name);
            write(&path, pem.as_bytes())?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            if let Some(owner) = owner() {
                chown(&path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
            }
        }
        self.psql("postgres", "ALTER SYSTEM SET ssl = on")?;
        self.psql("postgres", "SELECT pg_reload_conf()")?;
        wait_for("PostgreSQL offers TLS", CHANGE_MAX, || {
            Ok((self.psql("postgres", "SHOW ssl")? == "on").then_some(()))
        })
    }

    /// Runs a statement as an operator would; returns what it prints.
    ///
    /// *Errors*: the server refuses it.
    pub fn psql(&self, database: &str, sql: &str) -> Outcome<String> {
        let output = Command::new(self.programs.join("psql"))
            .args(["-X", "-A", "-t", "-h", "127.0.0.1", "-U", "dunlin", "-p", &self.port.to_string()])
            .args(["-d", database, "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .map_err(Failure::of("start psql"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(Failure::new(format!("psql: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// Kills the server without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The backends end with their postmaster; SIGQUIT is its own word for at once.
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
            kill(pid, Signal::SIGQUIT).ok();
            if wait_until("PostgreSQL ends", CHANGE_MAX, || !matches!(child.try_wait(), Ok(None))).is_err() {
                child.kill().ok();
                child.wait().ok();
            }
        }
    }

    fn cluster(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// Returns a command that runs as who may: the server refuses to run as root.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.folder.path()).env("LC_ALL", "C");
        if let Some(owner) = owner() {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns who runs the server where the tests run as root: the user of Debian's package.
fn owner() -> Option<User> {
    Uid::effective().is_root().then(|| User::from_name("postgres").ok().flatten()).flatten()
}

fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).ok()?.filter_map(Result::ok);
    let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    found.into_iter().rev().find(|folder| Path::new(&folder.join("initdb")).is_file())
}
