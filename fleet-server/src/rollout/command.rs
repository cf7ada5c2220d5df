//! What people order of a rollout: start, approve, pause, resume, promote, retry, revert, abort.
//!
//! Every order may be given twice; one that a rollout cannot take is refused with what it can. Reasons are the audit's.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::state::{Act, Outcome, Rollout, Stage, Status, Step};

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Begins, or asks for approval.
    Start,
    /// Approves; who made it or published what it gives cannot.
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

impl Command {
    /// Returns an order by the word that it has on the wire.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
    }

    /// Returns the word that it has on the wire.
    #[must_use]
    pub fn word(self) -> String {
        word(&self)
    }
}

/// Who orders, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Giver<'a> {
    /// Who.
    pub name: &'a str,
    /// When, in ms.
    pub at_ms: u64,
    /// People that must approve, by the gateways that are meant at this moment.
    pub approvals: u32,
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
    /// Returns what an order makes of the rollout.
    ///
    /// *Errors*: it cannot be taken as the rollout stands, or not of this person.
    pub fn ordered(&self, command: Command, giver: Giver<'_>) -> Result<Step, Refused> {
        use Status::{Aborted, Approval, Completed, Draft, Halted, Paused, Reverted, Reverting, Running};
        let mut step = Step { rollout: self.clone(), acts: Vec::new(), notes: Vec::new() };
        let rollout = &mut step.rollout;
        match (self.status, command) {
            (Draft, Command::Start) => {
                rollout.approvals = rollout.spec.approvals.max(giver.approvals);
                if rollout.approvals > 0 { rollout.status = Approval } else { rollout.begin(giver.at_ms) }
            }
            (Approval, Command::Approve) => rollout.approve(giver)?,
            (Running, Command::Pause) => rollout.status = Paused,
            (Paused, Command::Resume) => rollout.status = Running,
            (Halted, Command::Resume) => rollout.go_on_all_the_same(),
            (Running | Paused, Command::Promote) => {
                rollout.status = Running;
                step.advance();
            }
            (Running | Paused | Halted, Command::Retry) => {
                rollout.retry();
                rollout.status = if self.status == Halted { Running } else { self.status };
            }
            (Running | Paused | Halted | Completed, Command::Revert) => rollout.begin_revert(&mut step.acts),
            (Aborted, Command::Revert) if self.started_ms > 0 => rollout.begin_revert(&mut step.acts),
            (Draft | Approval | Running | Paused | Halted, Command::Abort) => {
                rollout.status = Aborted;
                rollout.drop_unfinished(&mut step.acts);
            }
            // Given before: nothing is done twice.
            (Running | Approval | Paused, Command::Start)
            | (Running, Command::Approve | Command::Resume)
            | (Paused, Command::Pause)
            | (Reverting | Reverted, Command::Revert)
            | (Aborted, Command::Abort) => {}
            (status, command) => {
                let (status, command) = (status.word(), command.word());
                return Err(Refused(format!("a rollout that is {status} cannot {command}")));
            }
        }
        Ok(step)
    }

    fn begin(&mut self, now_ms: u64) {
        self.status = Status::Running;
        self.started_ms = now_ms;
        self.looked_ms = now_ms;
    }

    fn approve(&mut self, giver: Giver<'_>) -> Result<(), Refused> {
        if giver.name == self.author {
            return Err(Refused("who made a rollout cannot approve it; ask somebody else".to_owned()));
        }
        if self.signers.contains(giver.name) {
            let words = "who published a release cannot approve its rollout; ask somebody else";
            return Err(Refused(words.to_owned()));
        }
        self.approved_by.insert(giver.name.to_owned());
        if self.approved_by.len() >= self.approvals as usize {
            self.begin(giver.at_ms);
        }
        Ok(())
    }

    /// Goes on although a gate failed: what is known now halts it no more, and whatever else fails does.
    fn go_on_all_the_same(&mut self) {
        let failed = self.failed();
        if let Some(halt) = &self.halt
            && !self.gates.iter().any(|gate| gate.kind == halt.gate && gate.is_by_failures)
        {
            self.waived.insert(halt.gate);
        }
        self.borne.extend(failed);
        self.status = Status::Running;
    }

    fn retry(&mut self) {
        for id in self.failed() {
            self.borne.remove(&id);
            if let Some(member) = self.members.get_mut(&id)
                && let Outcome::Failed(failure) = &member.outcome
            {
                member.known = Some(failure.clone());
                member.outcome = Outcome::Retrying;
            }
        }
        self.stage = Stage::Deploying;
    }

    /// Tells those nothing more that have not come to an end: nobody begins with an update that was aborted.
    fn drop_unfinished(&mut self, acts: &mut Vec<Act>) {
        for (id, member) in &mut self.members {
            if matches!(member.outcome, Outcome::Assigned | Outcome::Retrying) {
                member.outcome = Outcome::Dropped;
                acts.push(Act::Drop(id.clone()));
            }
        }
    }

    fn failed(&self) -> BTreeSet<String> {
        let failed = self.members.iter().filter(|(_, member)| matches!(member.outcome, Outcome::Failed(_)));
        failed.map(|(id, _)| id.clone()).collect()
    }
}

/// Returns the word that an order has on the wire.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
