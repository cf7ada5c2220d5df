//! `cargo xtask demo`: a broker, three simulated machines, the daemon with an example's model, and what comes out.
//!
//! Everything runs on this machine, on a free port and in a temporary folder, and goes with the demo. Shows what the
//! product does; checks no more than that predictions come.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::broker::Playground;
use crate::machine::Machine;
use crate::tools;
use crate::view::View;

const CONFIGURATION: &str = "examples/machine-temperature/dunlind.toml";
const MACHINES: u64 = 3;
/// Real time between two readings of one machine: five minutes of event time pass in it.
const READING_EVERY: Duration = Duration::from_millis(50);
/// How long the daemon may take until it says that it is online.
const ONLINE_WAIT: Duration = Duration::from_secs(30);

/// Runs the demo.
///
/// *Errors*: something could not be started, a program ended early, or no prediction came; the text says which and shows
/// the end of the daemon's log.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let time = match arguments {
        [] => None,
        [flag, text] if flag == "--for" => Some(duration(text)?),
        _ => return Err("usage: cargo xtask demo [--for 20s]".to_owned()),
    };
    tools::install_broker()?;
    let daemon = build_daemon()?;
    let mut playground = Playground::new()?;
    let outcome = play(&mut playground, &daemon, time);
    outcome.map_err(|why| {
        let log = std::fs::read_to_string(playground.folder().join("dunlind.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{why}\nthe daemon's log ends with:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
    })
}

fn play(playground: &mut Playground, daemon: &PathBuf, time: Option<Duration>) -> Result<(), String> {
    let port = playground.start_broker()?;
    let messages = subscribe(playground, port)?;
    let log = playground.log("dunlind.log")?;
    let mut command = Command::new(daemon);
    command
        .current_dir(tools::root())
        .args(["run", "--config", CONFIGURATION, "--state-dir"])
        .arg(playground.folder().join("state"))
        .args(["--set", &format!("mqtt.url=mqtt://127.0.0.1:{port}"), "--set", "http.listen=127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    playground.start("dunlind", &mut command)?;
    println!("broker on 127.0.0.1:{port}, state in {}", playground.folder().display());
    wait_online(playground, &messages)?;
    let mut machines = Vec::new();
    for number in 1..=MACHINES {
        let machine = Machine::new(number);
        let input = publisher(playground, port, &machine.name)?;
        machines.push((machine, input));
    }
    println!("{MACHINES} machines publish; a window is full after 32 readings{}\n", stop_hint(time));
    let mut view = View::new();
    show(playground, &messages, &mut machines, &mut view, time.map(|time| Instant::now() + time))?;
    drop(machines);
    match view.finish() {
        0 => Err("no prediction came".to_owned()),
        _ => Ok(()),
    }
}

fn stop_hint(time: Option<Duration>) -> String {
    time.map_or_else(|| "; stop with Ctrl-C".to_owned(), |time| format!("; ends after {} s", time.as_secs()))
}

/// Publishes, receives and draws until the deadline.
fn show(
    playground: &mut Playground,
    messages: &Receiver<(String, String)>,
    machines: &mut [(Machine, ChildStdin)],
    view: &mut View,
    deadline: Option<Instant>,
) -> Result<(), String> {
    let (mut next_reading, mut next_picture) = (Instant::now(), Instant::now());
    while deadline.is_none_or(|deadline| Instant::now() < deadline) {
        let now = Instant::now();
        if now >= next_reading {
            next_reading += READING_EVERY;
            for (machine, input) in machines.iter_mut() {
                let measured = machine.measure();
                view.reading(&machine.name, measured.at_s, measured.temperature_f, measured.failing);
                writeln!(input, "{}", measured.payload())
                    .map_err(|error| format!("cannot publish for {}: {error}", machine.name))?;
            }
        }
        if now >= next_picture {
            next_picture = now + view.interval();
            view.draw();
            if let Some(ended) = playground.ended() {
                return Err(ended);
            }
        }
        let wait = next_reading.min(next_picture).saturating_duration_since(Instant::now());
        match messages.recv_timeout(wait) {
            Ok((topic, payload)) => view.message(&topic, &payload),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("mosquitto_sub ended".to_owned()),
        }
    }
    Ok(())
}

/// Returns the daemon's binary: the one that `DUNLIND_BIN` names, or a fresh one.
fn build_daemon() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("DUNLIND_BIN") {
        return Ok(PathBuf::from(given));
    }
    println!("building dunlind (the first time takes some minutes)");
    let built = tools::cargo()
        .args(["build", "-p", "dunlin-daemon", "--bin", "dunlind"])
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !built.success() {
        return Err("dunlind could not be built".to_owned());
    }
    let output = tools::cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let target = metadata["target_directory"].as_str().ok_or("cargo metadata names no target folder")?;
    Ok(PathBuf::from(target).join("debug/dunlind"))
}

/// Receives everything that the daemon publishes, as topic and payload.
fn subscribe(playground: &mut Playground, port: u16) -> Result<Receiver<(String, String)>, String> {
    let mut command = client("mosquitto_sub", port)?;
    command.args(["-q", "1", "-t", "dunlin/#", "-F", "%t\t%p"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let pipes = playground.start("mosquitto_sub", &mut command)?;
    let output = pipes.output.ok_or("mosquitto_sub has no output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Some((topic, payload)) = line.split_once('\t') else { continue };
            if sender.send((topic.to_owned(), payload.to_owned())).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn publisher(playground: &mut Playground, port: u16, machine: &str) -> Result<ChildStdin, String> {
    let mut command = client("mosquitto_pub", port)?;
    command.args(["-l", "-q", "1", "-t", &format!("plant/{machine}/temperature")]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    playground.start(machine, &mut command)?.input.ok_or_else(|| "mosquitto_pub has no input".to_owned())
}

fn client(program: &str, port: u16) -> Result<Command, String> {
    let mut command = Command::new(tools::need(program)?);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    Ok(command)
}

fn wait_online(playground: &mut Playground, messages: &Receiver<(String, String)>) -> Result<(), String> {
    let deadline = Instant::now() + ONLINE_WAIT;
    while Instant::now() < deadline {
        if let Some(ended) = playground.ended() {
            return Err(ended);
        }
        if let Ok((topic, payload)) = messages.recv_timeout(Duration::from_millis(50))
            && topic.ends_with("/status")
            && payload.contains("online")
        {
            return Ok(());
        }
    }
    Err(format!("the daemon is not online after {} s", ONLINE_WAIT.as_secs()))
}

/// Returns the length of time that a text such as `20s` or `5m` says.
///
/// *Errors*: it says none.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is no length of time; write `20s`, `5m` or `1h`");
    let (number, seconds) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3_600),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| refuse())?;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for text in ["", "s", "0s", "-1s", "1d", "é"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
