//! One model in processes of its own: whatever it does, there is a report.
//!
//! Starts this program again for the comparison, and once for each engine's memory, each with a time limit. Knows
//! nothing of engines.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::Task;
use crate::report::{Outcome, Report, ResidentReport};
use crate::side_by_side::name;

/// Longest text of a crash that is taken over.
const CRASH_CHARS_MAX: usize = 400;

/// Compares the engines on a model and measures their memory; returns the report's line.
///
/// *Errors*: a file cannot be read, or no process be started.
pub(crate) fn run(task: &Task) -> Result<String, String> {
    let deadline = Instant::now() + Duration::from_secs(task.seconds_max);
    let folder = tempfile::tempdir().map_err(|error| format!("cannot make a folder: {error}"))?;
    let bytes = std::fs::metadata(&task.model)
        .map_err(|error| format!("cannot read `{}`: {error}", task.model.display()))?
        .len();
    let mut report = match child(&["compare"], task, folder.path(), deadline)? {
        Ended::Well(line) => {
            serde_json::from_str(&line).map_err(|error| format!("no report in `{line}`: {error}"))?
        }
        Ended::Badly(reason) => Report::without_results(name(&task.model), bytes, Outcome::Failed, reason),
    };
    if task.measure_ms > 0 && matches!(report.outcome, Outcome::Runs | Outcome::Wrong) {
        let resident = |engine| match child(&["resident", engine], task, folder.path(), deadline) {
            Ok(Ended::Well(line)) => line.trim().parse().ok(),
            _ => None,
        };
        if let (Some(ours_bytes), Some(theirs_bytes)) = (resident("ours"), resident("theirs")) {
            report.resident = Some(ResidentReport { ours_bytes, theirs_bytes });
        }
    }
    Ok(report.to_line())
}

enum Ended {
    /// With success; what it printed.
    Well(String),
    /// In any other way, and why.
    Badly(String),
}

fn child(words: &[&str], task: &Task, package: &Path, deadline: Instant) -> Result<Ended, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("this program is not to be found: {error}"))?;
    let sizes: Vec<String> = task.batch.iter().map(usize::to_string).collect();
    let mut child = Command::new(program)
        .args(words)
        .arg(&task.model)
        .arg("--rows")
        .arg(&task.rows)
        .args(["--batch", &sizes.join(",")])
        .arg("--library")
        .arg(&task.library)
        .args(["--measure-ms", &task.measure_ms.to_string()])
        .arg("--package")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start the comparison: {error}"))?;
    let printed = reader(child.stdout.take());
    let complained = reader(child.stderr.take());
    let line = printed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    if line.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| format!("the comparison is lost: {error}"))?;
    let complaint = complained.recv().unwrap_or_default();
    Ok(match line {
        Err(_) => Ended::Badly(format!("no end within {} s", task.seconds_max)),
        Ok(line) if status.success() => Ended::Well(line),
        Ok(_) => Ended::Badly(format!("{status}: {}", shortened(complaint.trim()))),
    })
}

/// Reads a stream to its end in a thread of its own.
fn reader(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// Returns the end of a text: a panic's message comes last.
fn shortened(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(CRASH_CHARS_MAX);
    text.chars().skip(skipped).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
