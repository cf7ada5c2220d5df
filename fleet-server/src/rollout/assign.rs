//! Who is given the release next.
//!
//! Of the gateways that a phase reaches: those that nobody gave it yet, that may have it at this moment, and as far as
//! the spread lets them be under way together. Never gives one the release twice, unless people had it retried.

use std::collections::BTreeMap;

use super::facts::{DeviceFacts, Fleet, Intent};
use super::phase::{meant, reached};
use super::state::{Act, Before, Member, Outcome, Rollout, Status, Step};

impl Rollout {
    /// Tells whether a rollout that was started later chose what a gateway is to run of one of the models.
    pub(super) fn is_overtaken(&self, device: &DeviceFacts) -> bool {
        let own = Intent { started_ms: self.started_ms, rollout: self.id.clone() };
        let newer = |model: &str| device.intents.get(model).is_some_and(|intent| *intent > own);
        self.spec.slots().any(newer)
    }

    /// Tells whether a gateway's wish to be left alone is still granted.
    pub(super) fn is_deferred(&self, id: &str, device: &DeviceFacts, now_ms: u64) -> bool {
        let Some(deferral) = &device.deferral else { return false };
        let is_meant = deferral.rollout.as_ref().is_none_or(|rollout| *rollout == self.id);
        let since_ms = self.deferred.get(id).copied().unwrap_or(now_ms);
        is_meant && now_ms < deferral.until_ms && now_ms.saturating_sub(since_ms) < self.spec.defer_ms_max
    }

    /// Notes who asks to be left alone, so that nobody is for ever.
    fn note_deferrals(&mut self, reached: &[&str], fleet: &Fleet, now_ms: u64) {
        for id in reached {
            let asks = fleet.get(*id).is_some_and(|device| self.is_deferred(id, device, now_ms));
            if asks && !self.deferred.contains_key(*id) {
                self.deferred.insert((*id).to_owned(), now_ms);
            }
        }
    }
}

impl Step {
    /// Gives the release to those that come next. Tells whether nobody is left of whom the phase must wait.
    pub(super) fn assign(&mut self, fleet: &Fleet, now_ms: u64) -> bool {
        let rollout = &mut self.rollout;
        let meant = meant(&rollout.spec, &rollout.id, fleet);
        let within = reached(&rollout.spec, rollout.phase, &meant, fleet);
        let reached: Vec<&str> = meant.into_iter().filter(|id| within.contains(id)).collect();
        rollout.note_deferrals(&reached, fleet, now_ms);
        let is_settled = rollout.status == Status::Completed;
        let mut underway = Underway::of(rollout, fleet, now_ms);
        let mut is_complete = true;
        for id in reached {
            let Some(device) = fleet.get(id) else { continue };
            let member = self.rollout.members.get(id);
            let is_new = member.is_none_or(|member| member.outcome == Outcome::Retrying);
            if !is_new || !self.may_have(id, device, now_ms) {
                continue;
            }
            let is_heard = self.rollout.is_heard(device, now_ms);
            // One that is offline would hold its place for as long as it is away.
            let has_place = underway.has_place(device, is_heard);
            if has_place && self.rollout.spec.is_open(device, now_ms) {
                underway.take(device);
                let before = member.cloned();
                let member = self.member(device, before, now_ms);
                self.rollout.members.insert(id.to_owned(), member);
                self.acts.push(Act::Assign(id.to_owned()));
            } else if is_heard && !is_settled {
                is_complete = false;
            }
        }
        is_complete
    }

    /// Tells whether a gateway may be given the release, and its phase waits for it where it cannot be at once.
    fn may_have(&self, id: &str, device: &DeviceFacts, now_ms: u64) -> bool {
        let rollout = &self.rollout;
        device.approvals as usize <= rollout.approved_by.len()
            && !rollout.is_overtaken(device)
            && !rollout.is_deferred(id, device, now_ms)
    }

    fn member(&self, device: &DeviceFacts, earlier: Option<Member>, now_ms: u64) -> Member {
        let good = |(model, facts): (&String, &super::facts::ModelFacts)| {
            let digest = facts.good.clone()?;
            let counts = facts.counts.get(&digest).copied().unwrap_or_default();
            Some((model.clone(), Before { digest, counts }))
        };
        match earlier {
            Some(earlier) => Member {
                assigned_ms: now_ms,
                tries: earlier.tries.saturating_add(1),
                waited_ms: 0,
                looked_ms: now_ms,
                outcome: Outcome::Assigned,
                ..earlier
            },
            None => Member {
                phase: self.rollout.phase,
                assigned_ms: now_ms,
                tries: 1,
                before: device.models.iter().filter_map(good).collect(),
                settings_before: None,
                settings_revision: None,
                known: None,
                waited_ms: 0,
                looked_ms: now_ms,
                outcome: Outcome::Assigned,
            },
        }
    }
}

/// Gateways that are under way, by the value of the label that spreads them.
struct Underway {
    spread: Option<super::spec::Spread>,
    by_group: BTreeMap<String, u32>,
}

impl Underway {
    fn of(rollout: &Rollout, fleet: &Fleet, now_ms: u64) -> Self {
        let mut underway = Self { spread: rollout.spec.spread.clone(), by_group: BTreeMap::new() };
        for (id, member) in &rollout.members {
            if let Some(device) = fleet.get(id)
                && rollout.holds_up(id, member, fleet, now_ms)
            {
                underway.take(device);
            }
        }
        underway
    }

    fn group(&self, device: &DeviceFacts) -> Option<String> {
        device.labels.get(&self.spread.as_ref()?.label).cloned()
    }

    fn has_place(&self, device: &DeviceFacts, is_heard: bool) -> bool {
        let (Some(spread), Some(group)) = (&self.spread, self.group(device)) else { return true };
        is_heard && self.by_group.get(&group).copied().unwrap_or(0) < spread.at_once
    }

    fn take(&mut self, device: &DeviceFacts) {
        if let Some(group) = self.group(device) {
            *self.by_group.entry(group).or_default() += 1;
        }
    }
}
