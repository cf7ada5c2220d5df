//! A daemon that dies at a chosen act on its state: at the N-th write, sync or rename, counted over all threads.
//!
//! Compiles a small library and preloads it, so that the program under test is the one that is shipped. Decides nothing
//! about what must hold afterwards; the same way preloads a wrong clock.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::daemon::{Daemon, DaemonPlan};
use crate::failure::{Failure, Outcome};

/// The library's source.
const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/killing/shim.c");
/// Where Debian's package `faketime` puts its library, below the folder of the machine's libraries.
const CLOCK_LIBRARY: &str = "faketime/libfaketime.so.1";

/// The act at which a daemon dies.
#[derive(Debug, Clone)]
pub struct Death {
    /// Its number, from 1; 0 for none.
    pub at: u64,
    /// Acts count once this file is there; without one from the start.
    pub armed_by: Option<PathBuf>,
    /// Where the acts are written that were counted.
    pub acts: PathBuf,
}

impl Death {
    /// Starts the daemon that is to die.
    ///
    /// *Errors*: there is no C compiler, or the process cannot be made.
    pub fn start(&self, plan: &DaemonPlan) -> Outcome<Daemon> {
        let shim = shim()?;
        // The daemon opens its files by the folder's real name.
        std::fs::create_dir_all(&plan.state_dir)?;
        let folder = std::fs::canonicalize(&plan.state_dir)?;
        plan.start_with(|command| {
            command.env("LD_PRELOAD", shim).env("KILL_AT", self.at.to_string()).env("KILL_IN", folder);
            command.env("KILL_LOG", &self.acts);
            if let Some(file) = &self.armed_by {
                command.env("KILL_ARMED_BY", file);
            }
        })
    }

    /// Returns the acts that were counted, as `<act> <path below the state folder>`.
    #[must_use]
    pub fn acts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.acts).unwrap_or_default();
        text.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect()
    }
}

/// Returns the library, compiled once; the folder goes with the process.
fn shim() -> Outcome<PathBuf> {
    static MADE: OnceLock<Outcome<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let folder = tempfile::tempdir()?;
        let library = folder.path().join("shim.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(SHIM).arg("-ldl");
        let output = compiler.output().map_err(Failure::of("start cc"))?;
        if output.status.success() {
            return Ok((folder, library));
        }
        Err(Failure::new(format!("cc: {}", String::from_utf8_lossy(&output.stderr))))
    });
    made.as_ref().map(|(_, library)| library.clone()).map_err(Clone::clone)
}

/// Tells whether this machine can compile the library.
#[must_use]
pub fn has_compiler() -> bool {
    Command::new("cc").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// A daemon's wall clock that a test sets; its monotonic clock stays the machine's.
#[derive(Debug, Clone)]
pub struct WrongClock {
    library: PathBuf,
    file: PathBuf,
}

impl WrongClock {
    /// Returns a clock that is set by a file in this folder; `None` where faketime is not installed.
    #[must_use]
    pub fn find(folder: &Path) -> Option<Self> {
        let libraries = std::fs::read_dir("/usr/lib").ok()?;
        let library =
            libraries.flatten().map(|entry| entry.path().join(CLOCK_LIBRARY)).find(|path| path.is_file())?;
        Some(Self { library, file: folder.join("clock") })
    }

    /// Sets the clock, of a running daemon too: `@2099-01-01 00:00:00` goes on from there, `+0` is the machine's time.
    ///
    /// *Errors*: those of the file system.
    pub fn set(&self, time: &str) -> Outcome<()> {
        crate::package::write(&self.file, format!("{time}\n").as_bytes())
    }

    /// Starts a daemon that has this clock.
    ///
    /// *Errors*: as [`DaemonPlan::start`].
    pub fn start(&self, plan: &DaemonPlan) -> Outcome<Daemon> {
        plan.start_with(|command| {
            command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        })
    }
}
