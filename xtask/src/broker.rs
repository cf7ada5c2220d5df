//! A broker and its clients for the demo, in a folder that goes when the demo goes.
//!
//! Starts mosquitto on a free port of this machine and ends what it started: nothing else is touched. A shell keeps watch
//! over a pipe, so that even a demo that is killed leaves no process and no folder.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::tools;

/// How long a program gets to end by itself before it is killed.
const END_WAIT: Duration = Duration::from_secs(10);

/// Reads process ids until the demo is gone, then ends those and removes the folder.
const WATCH: &str = r#"trap '' INT TERM HUP
pids=
while read -r pid; do if [ "$pid" = none ]; then pids=; else pids="$pids $pid"; fi; done
[ -z "$pids" ] || kill $pids 2>/dev/null
rm -rf -- "$1""#;

/// The demo's folder and processes.
pub(crate) struct Playground {
    folder: PathBuf,
    children: Vec<(String, Child)>,
    watch: Child,
    watch_input: Option<ChildStdin>,
}

impl Playground {
    /// Makes the folder and starts the watch over it.
    ///
    /// *Errors*: the folder cannot be made, or there is no `sh`.
    pub(crate) fn new() -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("dunlin-demo-{}", std::process::id()));
        std::fs::create_dir(&folder)
            .map_err(|error| format!("cannot make the folder `{}`: {error}", folder.display()))?;
        let mut watch = Command::new("sh")
            .args(["-c", WATCH, "sh"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start `sh`: {error}"))?;
        let watch_input = watch.stdin.take();
        Ok(Self { folder, children: Vec::new(), watch, watch_input })
    }

    /// Returns the folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a program that ends with the playground, and returns its two pipes where they were asked for.
    ///
    /// *Errors*: it cannot be started.
    pub(crate) fn start(&mut self, name: &str, command: &mut Command) -> Result<Pipes, String> {
        let mut child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        if let Some(input) = &mut self.watch_input {
            // Without the watch the child is still ended below.
            let _ = writeln!(input, "{}", child.id());
        }
        let pipes = Pipes { input: child.stdin.take(), output: child.stdout.take() };
        self.children.push((name.to_owned(), child));
        Ok(pipes)
    }

    /// Returns a file of the folder for a program's output.
    ///
    /// *Errors*: it cannot be made.
    pub(crate) fn log(&self, name: &str) -> Result<File, String> {
        File::create(self.folder.join(name))
            .map_err(|error| format!("cannot make the log of {name}: {error}"))
    }

    /// Returns the name of a program that has ended, if one has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.children.iter_mut().find_map(|(name, child)| {
            let status = child.try_wait().ok()??;
            Some(format!("{name} ended with {status}"))
        })
    }

    /// Starts mosquitto on a free port and waits until it answers.
    ///
    /// *Errors*: it is not installed, or does not answer in ten seconds.
    pub(crate) fn start_broker(&mut self) -> Result<u16, String> {
        let port = free_port().map_err(|error| format!("no free port: {error}"))?;
        let settings = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
             max_inflight_messages 1000\nmax_queued_messages 100000\n"
        );
        let file = self.folder.join("mosquitto.conf");
        File::create(&file)
            .and_then(|mut file| file.write_all(settings.as_bytes()))
            .map_err(|error| format!("cannot write `{}`: {error}", file.display()))?;
        let log = self.log("mosquitto.log")?;
        let mut command = Command::new(tools::need("mosquitto")?);
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.start("mosquitto", &mut command)?;
        let deadline = Instant::now() + END_WAIT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        while TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_err() {
            if Instant::now() > deadline {
                return Err("mosquitto does not answer".to_owned());
            }
            pause(Duration::from_millis(20));
        }
        Ok(port)
    }

    fn end(&mut self) {
        // The last started ends first: the daemon drains while its broker is there.
        for (name, child) in self.children.iter_mut().rev() {
            if matches!(child.try_wait(), Ok(None)) {
                end_child(name, child);
            }
        }
        if let Some(mut input) = self.watch_input.take() {
            let _ = writeln!(input, "none");
        }
        let _ = self.watch.wait();
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.end();
    }
}

/// The pipes of a started program.
pub(crate) struct Pipes {
    /// Its standard input.
    pub(crate) input: Option<ChildStdin>,
    /// Its standard output.
    pub(crate) output: Option<std::process::ChildStdout>,
}

fn end_child(name: &str, child: &mut Child) {
    tools::works(Command::new("kill").args(["-TERM", &child.id().to_string()]));
    let deadline = Instant::now() + END_WAIT;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            eprintln!("{name} does not end and is killed");
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        pause(Duration::from_millis(10));
    }
}

/// Returns after this time: a wait on a channel that nobody sends on.
pub(crate) fn pause(time: Duration) {
    let (_sender, receiver) = mpsc::channel::<()>();
    let _ = receiver.recv_timeout(time);
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
