//! One step of a run: a name, a command, its time and what became of it.
//!
//! Prints the name before and the time after; the command's own output goes straight to the terminal, and is kept besides
//! where the last lines are wanted again. Decides nothing about order.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed(String),
    /// It could not be tried here, and why.
    Skipped(String),
}

/// The steps of a run and what became of them.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Outcome, Duration)>,
}

impl Steps {
    /// Runs a step and prints its name, time and outcome.
    pub(crate) fn run(&mut self, name: &str, work: impl FnOnce() -> Outcome) {
        println!("── {name}");
        let start = Instant::now();
        let outcome = work();
        let time = start.elapsed();
        match &outcome {
            Outcome::Passed => println!("── {name}: passed in {:.1} s", time.as_secs_f64()),
            Outcome::Failed(why) => println!("── {name}: FAILED in {:.1} s: {why}", time.as_secs_f64()),
            Outcome::Skipped(why) => println!("── {name}: skipped: {why}"),
        }
        self.done.push((name.to_owned(), outcome, time));
    }

    /// Prints one line a step.
    pub(crate) fn print(&self) {
        println!();
        for (name, outcome, time) in &self.done {
            let word = match outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Failed(_) => "FAILED".to_owned(),
                Outcome::Skipped(why) => format!("skipped: {why}"),
            };
            println!("{name:<24} {:>7.1} s  {word}", time.as_secs_f64());
        }
    }

    /// Tells whether no step failed.
    pub(crate) fn all_hold(&self) -> bool {
        !self.done.iter().any(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_)))
    }
}

/// Runs a command with its output on the terminal.
pub(crate) fn passes(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(format!("cannot start `{}`: {error}", command.get_program().display())),
    }
}

/// Runs a command, shows its output as it comes, and returns it besides.
pub(crate) fn passes_and_tells(command: &mut Command) -> (Outcome, Vec<String>) {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let why = format!("cannot start `{}`: {error}", command.get_program().display());
            return (Outcome::Failed(why), Vec::new());
        }
    };
    let errors = child.stderr.take().map(|stream| thread::spawn(move || show(stream)));
    let mut lines = child.stdout.take().map(show).unwrap_or_default();
    lines.extend(errors.and_then(|thread| thread.join().ok()).unwrap_or_default());
    let outcome = match child.wait() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    (outcome, lines)
}

fn show(stream: impl Read) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        // A terminal that was closed is no reason to stop the tests.
        let _ = writeln!(std::io::stdout(), "{line}");
        lines.push(line);
    }
    lines
}
