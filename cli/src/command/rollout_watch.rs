//! Following a rollout: a line for each change, a bar where people look on, and why it stopped.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use dunlin_fleet_api::rollout::{RolloutDetail, Stage, Status};
use indicatif::{ProgressBar, ProgressStyle};

use super::CommandError;
use super::rollout::path_of;
use crate::fleet::client::Client;
use crate::print;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Looks that may fail in a row, while the server is restarted, say.
const FAILURES_MAX: u32 = 30;

/// Follows a rollout until it ends or waits for somebody.
///
/// *Errors*: check failed where it does not complete; the server cannot be reached for long.
pub(super) fn watch(client: &Client, id: &str) -> Result<(), CommandError> {
    let (mut last, mut failures) = (String::new(), 0);
    let progress = progress();
    loop {
        let rollout: RolloutDetail = match client.get(&path_of(id)) {
            Ok(rollout) => rollout,
            Err(error @ CommandError::NotFound(_)) => return Err(error),
            Err(error) if failures >= FAILURES_MAX => return Err(error),
            Err(_) => {
                failures += 1;
                thread::park_timeout(PAUSE);
                continue;
            }
        };
        failures = 0;
        let line = line_of(&rollout);
        if line != last {
            progress.suspend(|| print::line(&line));
            last = line;
        }
        show_progress(&progress, &rollout);
        if !is_under_way(rollout.summary.status) {
            progress.finish_and_clear();
        }
        match rollout.summary.status {
            Status::Completed => return Ok(()),
            Status::Reverted | Status::Aborted | Status::Halted => {
                show_gates(&rollout);
                let why = rollout.summary.halt.map_or_else(
                    || "somebody ended it; `dunlin audit list` says who and why".to_owned(),
                    |halt| format!("gate `{}` in phase {}: {}", halt.gate, halt.phase, halt.words),
                );
                return Err(CommandError::CheckFailed(format!("the rollout did not complete: {why}")));
            }
            Status::Draft | Status::Approval | Status::Running | Status::Paused | Status::Reverting => {}
        }
        thread::park_timeout(PAUSE);
    }
}

/// Returns a bar on standard error; none is drawn where that is no terminal.
fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} [{bar:30}] {pos} of {len} gateways, {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show_progress(progress: &ProgressBar, rollout: &RolloutDetail) {
    let open = |outcome: &str| matches!(outcome, "assigned" | "retrying" | "reverting");
    let ended = rollout.devices.iter().filter(|(outcome, _)| !open(outcome)).map(|(_, count)| count).sum();
    progress.set_length(rollout.devices.values().sum());
    progress.set_position(ended);
    progress.set_message(word(&rollout.summary.status));
    progress.tick();
}

const fn is_under_way(status: Status) -> bool {
    !matches!(status, Status::Completed | Status::Reverted | Status::Aborted | Status::Halted)
}

/// Shows where a rollout stands.
pub(super) fn show(rollout: &RolloutDetail) {
    print::line(&line_of(rollout));
    show_gates(rollout);
}

fn line_of(rollout: &RolloutDetail) -> String {
    let RolloutDetail { summary, devices, .. } = rollout;
    let status = word(&summary.status);
    let stage = match (summary.status, summary.stage) {
        (Status::Running, Stage::Deploying) => ", deploying",
        (Status::Running, Stage::Baking) => ", baking",
        _ => "",
    };
    format!("{status}: phase {} of {}{stage}; {}", summary.phase, summary.phases, counted(devices))
}

fn counted(devices: &BTreeMap<String, u64>) -> String {
    let counts: Vec<String> = devices.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    if counts.is_empty() { "no gateway was given it yet".to_owned() } else { counts.join(", ") }
}

fn show_gates(rollout: &RolloutDetail) {
    for gate in &rollout.gates {
        print::line(&format!("  {:<4} {:<13} {}", gate.verdict, gate.gate, gate.words));
    }
    if let Some(halt) = &rollout.summary.halt {
        print::line(&format!(
            "  halted at {} by `{}` in phase {}: {}",
            halt.at, halt.gate, halt.phase, halt.words
        ));
    }
}

fn word(status: &Status) -> String {
    serde_json::to_value(status).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
