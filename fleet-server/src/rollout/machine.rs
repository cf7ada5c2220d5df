//! What time and the gateways' reports make of a rollout.
//!
//! A function of the state before, the fleet and the time: called again it does nothing twice. Orders of people come in
//! through `command`. Never names a gateway that it was not told of, and never gives one the release twice.

use super::facts::{DeviceFacts, Fleet, Standing};
use super::gate::{Gate, Judged, Verdict, judge};
use super::spec::OnFailure;
use super::state::{Act, Blind, Failure, Halt, Member, Outcome, Rollout, Stage, Status, Step};

/// Between two looks that are kept: a second's step costs no write, and a restart forgets no more than this.
pub(super) const KEPT_EVERY_MS: u64 = 10_000;
/// Longer than this between two looks, nobody looked: the server was away, or its clock was set.
const BLIND_MS: u64 = 60_000;

impl Rollout {
    /// Returns what the fleet's reports and the time make of the rollout.
    #[must_use]
    pub fn next(&self, fleet: &Fleet, now_ms: u64) -> Step {
        let mut step = Step { rollout: self.clone(), acts: Vec::new(), notes: Vec::new() };
        if self.status.is_live() {
            step.rollout.note_time(now_ms);
        }
        match self.status {
            Status::Draft | Status::Approval | Status::Reverted | Status::Aborted => {}
            // Those that come back later still report: they are looked at, and nothing else is done.
            Status::Halted | Status::Paused => step.rollout.look(fleet, now_ms),
            Status::Completed => {
                step.rollout.look(fleet, now_ms);
                step.assign(fleet, now_ms);
            }
            Status::Running => step.run(fleet, now_ms),
            Status::Reverting => step.revert(fleet, now_ms),
        }
        step
    }

    /// Notes that somebody looks, and how long nobody did.
    fn note_time(&mut self, now_ms: u64) {
        let gap_ms = now_ms.saturating_sub(self.looked_ms);
        if gap_ms > BLIND_MS {
            self.blind = Some(Blind { from_ms: self.looked_ms, until_ms: now_ms });
            if let Stage::Baking { since_ms } = &mut self.stage {
                *since_ms = since_ms.saturating_add(gap_ms);
            }
        }
        if gap_ms >= KEPT_EVERY_MS || now_ms < self.looked_ms {
            self.looked_ms = now_ms;
        }
    }

    /// Tells whether a gateway can be waited for: it was heard of of late, or was when somebody last could hear it.
    pub(super) fn is_heard(&self, device: &DeviceFacts, now_ms: u64) -> bool {
        let was_heard = |blind: &Blind| {
            now_ms.saturating_sub(blind.until_ms) < device.patience_ms() && device.is_online(blind.from_ms)
        };
        device.is_online(now_ms) || self.blind.as_ref().is_some_and(was_heard)
    }

    /// Brings the members' outcomes up to what they reported.
    fn look(&mut self, fleet: &Fleet, now_ms: u64) {
        let is_waiting = matches!(self.status, Status::Running | Status::Completed);
        let mut members = std::mem::take(&mut self.members);
        for (id, member) in &mut members {
            let Some(device) = fleet.get(id) else { continue };
            if self.is_overtaken(device) && member.is_told() {
                member.outcome = Outcome::Superseded;
            }
            self.look_at(id, member, device, is_waiting, now_ms);
        }
        self.members = members;
    }

    fn look_at(&self, id: &str, member: &mut Member, device: &DeviceFacts, is_waiting: bool, now_ms: u64) {
        let standing = device.standing_of_all(&self.spec.releases, member.settings_revision);
        match (&member.outcome, standing) {
            (
                Outcome::Reverting
                | Outcome::Reverted
                | Outcome::Superseded
                | Outcome::Retrying
                | Outcome::Dropped,
                _,
            ) => {}
            (_, Standing::Bad { cause, at_ms }) if !member.knows(&cause, at_ms) => {
                member.outcome = Outcome::Failed(Failure { cause, at_ms });
            }
            (_, Standing::Good) => member.outcome = Outcome::Good,
            // It left the release by itself or by hand after it was good.
            (Outcome::Good, Standing::Untouched) => {
                member.outcome =
                    Outcome::Failed(Failure { cause: "rolled_back:operator".to_owned(), at_ms: None });
            }
            (Outcome::Assigned, _) => {
                let passed_ms = now_ms.saturating_sub(member.looked_ms);
                if passed_ms < KEPT_EVERY_MS && now_ms >= member.looked_ms {
                    return;
                }
                member.looked_ms = now_ms;
                let can_go_on = self.spec.is_open(device, now_ms)
                    && device.is_online(now_ms)
                    && !self.is_deferred(id, device, now_ms);
                // Of a time in which nobody looked, nothing is held against it.
                if is_waiting && can_go_on && passed_ms <= BLIND_MS {
                    member.waited_ms = member.waited_ms.saturating_add(passed_ms);
                }
                if member.waited_ms > self.spec.install_ms_max {
                    member.outcome = Outcome::Failed(Failure { cause: "timeout".to_owned(), at_ms: None });
                }
            }
            (Outcome::Good | Outcome::Failed(_), _) => {}
        }
    }

    fn judged(&self, fleet: &Fleet) -> Vec<Gate> {
        let members = self.members.iter().map(|(id, member)| Judged {
            device: fleet.get(id),
            outcome: &member.outcome,
            before: &member.before,
            is_borne: self.borne.contains(id),
        });
        judge(&self.spec, &self.waived, members)
    }

    /// Tells whether a phase waits for a member: it is heard of and has not come to an end.
    pub(super) fn holds_up(&self, id: &str, member: &Member, fleet: &Fleet, now_ms: u64) -> bool {
        let is_waited_for =
            |device: &DeviceFacts| self.is_heard(device, now_ms) && !self.is_deferred(id, device, now_ms);
        member.outcome == Outcome::Assigned && fleet.get(id).is_some_and(is_waited_for)
    }

    /// Returns how many predictions the members made with the releases.
    fn predictions(&self, fleet: &Fleet) -> u64 {
        let of_device = |device: &DeviceFacts| -> u64 {
            let counts = self
                .spec
                .releases
                .iter()
                .filter_map(|release| device.models.get(&release.model)?.counts.get(&release.digest));
            counts.map(|counts| counts.predictions).sum()
        };
        self.members.keys().filter_map(|id| fleet.get(id)).map(of_device).sum()
    }

    /// Makes the members that have the release, or may get it, go back.
    pub(super) fn begin_revert(&mut self, acts: &mut Vec<Act>) {
        self.status = Status::Reverting;
        for (id, member) in &mut self.members {
            // One that found it bad went back by itself; but it may be told to try again by what it holds.
            let may_have_it = match &member.outcome {
                Outcome::Assigned | Outcome::Good | Outcome::Dropped => true,
                Outcome::Failed(_) | Outcome::Retrying => true,
                Outcome::Superseded | Outcome::Reverting | Outcome::Reverted => false,
            };
            if may_have_it {
                member.outcome = Outcome::Reverting;
                acts.push(Act::Withdraw(id.clone()));
            }
        }
    }
}

impl Member {
    fn is_told(&self) -> bool {
        matches!(self.outcome, Outcome::Assigned | Outcome::Good | Outcome::Failed(_) | Outcome::Retrying)
    }

    fn knows(&self, cause: &str, at_ms: Option<i64>) -> bool {
        self.known.as_ref().is_some_and(|known| known.cause == cause && known.at_ms == at_ms)
    }
}

impl Step {
    fn run(&mut self, fleet: &Fleet, now_ms: u64) {
        self.rollout.look(fleet, now_ms);
        self.rollout.gates = self.rollout.judged(fleet);
        if let Some(gate) = self.rollout.gates.iter().find(|gate| gate.verdict == Verdict::Fail).cloned() {
            return self.halt(&gate, now_ms);
        }
        let is_complete = self.assign(fleet, now_ms);
        let rollout = &mut self.rollout;
        let holds_up =
            (rollout.members.iter()).any(|(id, member)| rollout.holds_up(id, member, fleet, now_ms));
        let has_good = rollout.members.values().any(|member| member.outcome == Outcome::Good);
        let is_deployed = has_good && !holds_up && is_complete;
        match rollout.stage {
            Stage::Deploying if is_deployed => {
                rollout.stage = Stage::Baking { since_ms: now_ms };
                self.notes.push(format!("phase {} is deployed and baking", rollout.phase + 1));
            }
            // Gateways came in while it baked: they are waited for, and the time goes on.
            Stage::Deploying => {}
            Stage::Baking { since_ms } => {
                let bake = rollout.spec.bake;
                // Settings alone predict nothing.
                let has_predicted =
                    rollout.spec.releases.is_empty() || rollout.predictions(fleet) >= bake.predictions;
                let is_over = now_ms.saturating_sub(since_ms) >= bake.ms && has_predicted;
                // A gate waits for predictions or what is measured with them: it does so where somebody asked for some.
                let may_wait = bake.predictions == 0;
                let passes = rollout
                    .gates
                    .iter()
                    .all(|gate| gate.verdict == Verdict::Pass || (may_wait && gate.verdict == Verdict::Wait));
                if is_over && passes && is_deployed {
                    self.advance();
                }
            }
        }
    }

    /// Goes on to the next phase, or ends.
    pub(super) fn advance(&mut self) {
        let rollout = &mut self.rollout;
        if rollout.phase + 1 < rollout.spec.phases.len() {
            rollout.phase += 1;
            rollout.stage = Stage::Deploying;
            self.notes.push(format!("phase {} begins", rollout.phase + 1));
        } else {
            rollout.status = Status::Completed;
            self.notes.push(format!("completed on {} gateways", rollout.members.len()));
        }
    }

    fn halt(&mut self, gate: &Gate, now_ms: u64) {
        let rollout = &mut self.rollout;
        let words = gate.words.clone();
        self.notes.push(format!("halted in phase {}: {words}", rollout.phase + 1));
        rollout.halt = Some(Halt { gate: gate.kind, phase: rollout.phase, at_ms: now_ms, words });
        rollout.status = Status::Halted;
        if rollout.spec.on_failure == OnFailure::Revert {
            rollout.begin_revert(&mut self.acts);
        }
    }

    fn revert(&mut self, fleet: &Fleet, now_ms: u64) {
        let rollout = &mut self.rollout;
        let mut members = std::mem::take(&mut rollout.members);
        let mut waits = 0;
        for (id, member) in &mut members {
            if member.outcome != Outcome::Reverting {
                continue;
            }
            let Some(device) = fleet.get(id) else { continue };
            if rollout.is_overtaken(device) {
                member.outcome = Outcome::Superseded;
                continue;
            }
            // Bad is what the gateway makes of a release that it was told to leave.
            match device.standing_of_all(&rollout.spec.releases, member.settings_revision) {
                Standing::Untouched | Standing::Bad { .. } => member.outcome = Outcome::Reverted,
                Standing::Underway | Standing::Good => waits += usize::from(rollout.is_heard(device, now_ms)),
            }
        }
        rollout.members = members;
        if waits == 0 {
            rollout.status = Status::Reverted;
            let count = |outcome: &Outcome| {
                rollout.members.values().filter(|member| member.outcome == *outcome).count()
            };
            let (back, away) = (count(&Outcome::Reverted), count(&Outcome::Reverting));
            self.notes
                .push(format!("reverted: {back} gateways went back, {away} will when they are heard of"));
        }
    }
}

#[cfg(test)]
mod tests;
