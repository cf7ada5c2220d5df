//! What people order of a rollout: start, approve, pause, resume, promote, retry, revert, abort.
//!
//! Every order may be given twice; one that a rollout cannot take is refused with what it can. Reasons are the audit's.

use serde::{Deserialize, Serialize};

use super::machine::{Outcome, Rollout, Stage, Status, Step};

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Begins, or asks for approval.
    Start,
    /// Approves; the one who made it cannot.
    Approve,
    /// Gives nobody else the release.
    Pause,
    /// Goes on after a pause, or after a halt that reverted nothing.
    Resume,
    /// Goes on to the next phase without waiting for the present one.
    Promote,
    /// Gives the gateways that failed another try.
    Retry,
    /// Has every gateway go back.
    Revert,
    /// Ends it; what has the release keeps it.
    Abort,
}

/// Why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Rollout {
    /// Returns what an order of `who` makes of the rollout.
    ///
    /// *Errors*: it cannot be taken as the rollout stands, or not of this person.
    pub fn ordered(&self, command: Command, who: &str) -> Result<Step, Refused> {
        use Status::{Aborted, Approval, Completed, Draft, Halted, Paused, Reverted, Reverting, Running};
        let mut step = Step { rollout: self.clone(), acts: Vec::new(), notes: Vec::new() };
        let rollout = &mut step.rollout;
        match (self.status, command) {
            (Draft, Command::Start) => {
                rollout.status = if self.spec.approvals > 0 { Approval } else { Running };
            }
            (Approval, Command::Approve) => {
                if who == self.author {
                    return Err(Refused(
                        "who made a rollout cannot approve it; ask somebody else".to_owned(),
                    ));
                }
                rollout.approved_by.insert(who.to_owned());
                if rollout.approved_by.len() >= self.spec.approvals as usize {
                    rollout.status = Running;
                }
            }
            (Running, Command::Pause) => rollout.status = Paused,
            (Paused, Command::Resume) => rollout.status = Running,
            (Halted, Command::Resume) => {
                // What failed is known; only what fails from here on halts it again.
                rollout.status = Running;
                rollout.spec.gates.failures = rollout.failed_count();
            }
            (Running | Paused, Command::Promote) => {
                rollout.status = Running;
                step.advance();
            }
            (Running | Paused | Halted, Command::Retry) => {
                rollout.members.retain(|_, member| !matches!(member.outcome, Outcome::Failed(_)));
                rollout.stage = Stage::Deploying;
                rollout.status = if self.status == Halted { Running } else { self.status };
            }
            (Running | Paused | Halted | Completed | Aborted, Command::Revert) => {
                rollout.begin_revert(&mut step.acts)
            }
            (Draft | Approval | Running | Paused | Halted, Command::Abort) => rollout.status = Aborted,
            // Given before: nothing is done twice.
            (Running | Approval | Paused, Command::Start)
            | (Running, Command::Approve | Command::Resume)
            | (Paused, Command::Pause)
            | (Reverting | Reverted, Command::Revert)
            | (Aborted, Command::Abort) => {}
            (status, command) => {
                return Err(Refused(format!(
                    "a rollout that is {} cannot {}",
                    word(&status),
                    word(&command)
                )));
            }
        }
        Ok(step)
    }

    fn failed_count(&self) -> u32 {
        let failed = self.members.values().filter(|member| matches!(member.outcome, Outcome::Failed(_)));
        u32::try_from(failed.count()).unwrap_or(u32::MAX)
    }
}

/// Returns the word that a state or order has on the wire.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
