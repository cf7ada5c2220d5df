//! The state of a rollout, and what time and the gateways' reports make of it.
//!
//! A function of the state before, the fleet and the time: called again it does nothing twice. Orders of people come in
//! through `command`. Never names a gateway that it was not told of, and never gives one the release twice.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::facts::{DeviceFacts, Fleet, Standing};
use super::gate::{Gate, GateKind, Verdict, judge};
use super::phase::{meant, reached};
use super::spec::{OnFailure, RolloutSpec};
use super::window::is_any_open;

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// What was asked for.
    pub spec: RolloutSpec,
    /// What the order of gateways comes from.
    pub seed: String,
    /// Who made it: no approval of theirs counts.
    pub author: String,
    /// Where it stands.
    pub status: Status,
    /// The present phase, from 0.
    pub phase: usize,
    /// How far the present phase is.
    pub stage: Stage,
    /// Gateways that were given the release.
    pub members: BTreeMap<String, Member>,
    /// Who approved it.
    pub approved_by: BTreeSet<String>,
    /// Why it halted last.
    pub halt: Option<Halt>,
    /// The gates as they were judged last.
    pub gates: Vec<Gate>,
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was made and not begun.
    Draft,
    /// It waits for people to approve it.
    Approval,
    /// It goes on by itself.
    Running,
    /// Somebody stopped it for a while.
    Paused,
    /// A gate stopped it, and it waits for a decision.
    Halted,
    /// The gateways that have the release go back.
    Reverting,
    /// They all went back, as far as they were heard of.
    Reverted,
    /// The last phase is over.
    Completed,
    /// Somebody ended it; what has the release keeps it.
    Aborted,
}

/// How far a phase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Gateways are given the release.
    Deploying,
    /// All have it that can be waited for; it is watched since then.
    Baking {
        /// Since when, in ms.
        since_ms: u64,
    },
}

/// A gateway that was given the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// In which phase.
    pub phase: usize,
    /// When.
    pub assigned_ms: u64,
    /// By model, the good release that it had before.
    pub before: BTreeMap<String, String>,
    /// For how long it was online and in a window since, without coming to an end, in ms.
    pub waited_ms: u64,
    /// When that was last added to.
    pub looked_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was told, and has not come to an end.
    Assigned,
    /// It reported the release as its good one.
    Good,
    /// It reported the release as bad, or did not come to an end in time; with the code.
    Failed(String),
    /// It is to go back and has not reported yet.
    Reverting,
    /// It reported that it does not have the release.
    Reverted,
}

/// Why a rollout halted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// The gate.
    pub gate: GateKind,
    /// In which phase, from 0.
    pub phase: usize,
    /// When, in ms.
    pub at_ms: u64,
    /// In words.
    pub words: String,
}

/// What is to be told to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// To run the releases.
    Assign(String),
    /// To leave the releases, for the ones before.
    Withdraw(String),
}

/// What a step made of a rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The rollout after it.
    pub rollout: Rollout,
    /// What gateways are to be told; to be kept in the same transaction.
    pub acts: Vec<Act>,
    /// What people are to be told, in words.
    pub notes: Vec<String>,
}

impl Rollout {
    /// Returns a new rollout, not begun.
    #[must_use]
    pub fn draft(spec: RolloutSpec, seed: String, author: String) -> Self {
        Self {
            spec,
            seed,
            author,
            status: Status::Draft,
            phase: 0,
            stage: Stage::Deploying,
            members: BTreeMap::new(),
            approved_by: BTreeSet::new(),
            halt: None,
            gates: Vec::new(),
        }
    }

    /// Returns what the fleet's reports and the time make of the rollout.
    #[must_use]
    pub fn next(&self, fleet: &Fleet, now_ms: u64) -> Step {
        let mut step = Step { rollout: self.clone(), acts: Vec::new(), notes: Vec::new() };
        match self.status {
            Status::Draft | Status::Approval | Status::Reverted | Status::Aborted => {}
            // Those that come back later still report: they are looked at, and nothing else is done.
            Status::Completed | Status::Halted | Status::Paused => step.rollout.look(fleet, now_ms),
            Status::Running => step.run(fleet, now_ms),
            Status::Reverting => step.revert(fleet, now_ms),
        }
        step
    }

    /// Brings the members' outcomes up to what they reported.
    fn look(&mut self, fleet: &Fleet, now_ms: u64) {
        let is_waiting = self.status == Status::Running;
        for (id, member) in &mut self.members {
            let since_ms = now_ms.saturating_sub(member.looked_ms);
            member.looked_ms = now_ms;
            let Some(device) = fleet.get(id) else { continue };
            match (&member.outcome, device.standing_of_all(&self.spec.releases)) {
                (Outcome::Reverting | Outcome::Reverted, _) => {}
                (_, Standing::Bad(cause)) => member.outcome = Outcome::Failed(cause),
                (_, Standing::Good) => member.outcome = Outcome::Good,
                // It left the release by itself or by hand after it was good.
                (Outcome::Good, Standing::Untouched) => {
                    member.outcome = Outcome::Failed("rolled_back:operator".to_owned());
                }
                (Outcome::Assigned, _) => {
                    let is_open = is_any_open(&self.spec.windows, now_ms, device.utc_offset_min);
                    if is_waiting && is_open && device.is_online(now_ms) {
                        member.waited_ms = member.waited_ms.saturating_add(since_ms);
                    }
                    if member.waited_ms > self.spec.install_ms_max {
                        member.outcome = Outcome::Failed("timeout".to_owned());
                    }
                }
                (Outcome::Good | Outcome::Failed(_), _) => {}
            }
        }
    }

    fn judged(&self, fleet: &Fleet) -> Vec<Gate> {
        let members = self.members.iter().map(|(id, member)| {
            let overdue = match &member.outcome {
                Outcome::Failed(cause) => Some(cause.as_str()),
                _ => None,
            };
            (fleet.get(id), overdue, &member.before)
        });
        judge(&self.spec, members)
    }

    /// Tells whether a phase waits for a member: it is heard of and has not come to an end.
    fn holds_up(&self, id: &str, member: &Member, fleet: &Fleet, now_ms: u64) -> bool {
        member.outcome == Outcome::Assigned && fleet.get(id).is_some_and(|device| device.is_online(now_ms))
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
            // One that found it bad went back by itself.
            let may_have_it = match &member.outcome {
                Outcome::Assigned | Outcome::Good => true,
                Outcome::Failed(cause) => cause == "timeout",
                Outcome::Reverting | Outcome::Reverted => false,
            };
            if may_have_it {
                member.outcome = Outcome::Reverting;
                acts.push(Act::Withdraw(id.clone()));
            }
        }
    }
}

impl Step {
    fn run(&mut self, fleet: &Fleet, now_ms: u64) {
        self.rollout.look(fleet, now_ms);
        self.rollout.gates = self.rollout.judged(fleet);
        if let Some(gate) = self.rollout.gates.iter().find(|gate| gate.verdict == Verdict::Fail).cloned() {
            return self.halt(&gate, now_ms);
        }
        self.assign(fleet, now_ms);
        let rollout = &mut self.rollout;
        let holds_up =
            (rollout.members.iter()).any(|(id, member)| rollout.holds_up(id, member, fleet, now_ms));
        let has_good = rollout.members.values().any(|member| member.outcome == Outcome::Good);
        let is_deployed = has_good && !holds_up && self.left_out(fleet, now_ms).is_empty();
        let rollout = &mut self.rollout;
        match rollout.stage {
            Stage::Deploying if is_deployed => {
                rollout.stage = Stage::Baking { since_ms: now_ms };
                self.notes.push(format!("phase {} is deployed and baking", rollout.phase + 1));
            }
            // Gateways came in while it baked: they are waited for, and the time goes on.
            Stage::Deploying => {}
            Stage::Baking { since_ms } => {
                let bake = rollout.spec.bake;
                let is_over = now_ms.saturating_sub(since_ms) >= bake.ms
                    && rollout.predictions(fleet) >= bake.predictions;
                let passes = rollout.gates.iter().all(|gate| gate.verdict == Verdict::Pass);
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

    /// Returns the gateways that the phase reaches and that were not given the release, in the rollout's order; those
    /// that are offline or whose window is closed are not waited for.
    fn left_out<'f>(&self, fleet: &'f Fleet, now_ms: u64) -> Vec<&'f str> {
        let rollout = &self.rollout;
        let meant = meant(&rollout.spec, &rollout.seed, fleet);
        let reached = reached(&rollout.spec, rollout.phase, &meant, fleet);
        let is_left = |id: &&str| {
            let can_come = fleet.get(*id).is_some_and(|device| device.is_online(now_ms));
            reached.contains(id) && !rollout.members.contains_key(*id) && can_come
        };
        meant.into_iter().filter(is_left).collect()
    }

    /// Gives the release to the gateways that the phase reaches, as far as the spread lets them be under way together.
    fn assign(&mut self, fleet: &Fleet, now_ms: u64) {
        let rollout = &self.rollout;
        let meant = meant(&rollout.spec, &rollout.seed, fleet);
        let reached = reached(&rollout.spec, rollout.phase, &meant, fleet);
        let spread = rollout.spec.spread.clone();
        let group =
            |device: &DeviceFacts| -> Option<String> { device.labels.get(&spread.as_ref()?.label).cloned() };
        let mut underway: BTreeMap<String, u32> = BTreeMap::new();
        for (id, member) in &rollout.members {
            if let Some(device) = fleet.get(id)
                && rollout.holds_up(id, member, fleet, now_ms)
                && let Some(group) = group(device)
            {
                *underway.entry(group).or_default() += 1;
            }
        }
        for id in meant.into_iter().filter(|id| reached.contains(id)) {
            let Some(device) = fleet.get(id) else { continue };
            if self.rollout.members.contains_key(id) {
                continue;
            }
            if let (Some(spread), Some(group)) = (&spread, group(device)) {
                let count = underway.entry(group).or_default();
                // One that is offline would hold its place for as long as it is away.
                if *count >= spread.at_once || !device.is_online(now_ms) {
                    continue;
                }
                *count += 1;
            }
            let good = |(model, facts): (&String, &super::facts::ModelFacts)| {
                Some((model.clone(), facts.good.clone()?))
            };
            let member = Member {
                phase: self.rollout.phase,
                assigned_ms: now_ms,
                before: device.models.iter().filter_map(good).collect(),
                waited_ms: 0,
                looked_ms: now_ms,
                outcome: Outcome::Assigned,
            };
            self.rollout.members.insert(id.to_owned(), member);
            self.acts.push(Act::Assign(id.to_owned()));
        }
    }

    fn revert(&mut self, fleet: &Fleet, now_ms: u64) {
        let rollout = &mut self.rollout;
        let mut waits = 0;
        for (id, member) in &mut rollout.members {
            member.looked_ms = now_ms;
            if member.outcome != Outcome::Reverting {
                continue;
            }
            let Some(device) = fleet.get(id) else { continue };
            // Bad is what the gateway makes of a release that it was told to leave.
            match device.standing_of_all(&rollout.spec.releases) {
                Standing::Untouched | Standing::Bad(_) => member.outcome = Outcome::Reverted,
                Standing::Underway | Standing::Good => waits += usize::from(device.is_online(now_ms)),
            }
        }
        if waits == 0 {
            rollout.status = Status::Reverted;
            let back = rollout.members.values().filter(|member| member.outcome == Outcome::Reverted).count();
            let away = rollout.members.values().filter(|member| member.outcome == Outcome::Reverting).count();
            self.notes
                .push(format!("reverted: {back} gateways went back, {away} will when they are heard of"));
        }
    }
}

#[cfg(test)]
mod tests;
