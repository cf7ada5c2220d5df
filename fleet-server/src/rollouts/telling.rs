//! Telling gateways what was decided: the tables that the director reads follow the members of rollouts.
//!
//! Decided and kept first, told after: a server that ends in between leaves what is pending, and the next one tells it. A
//! few gateways at a time, so that no transaction holds many of their rows. Never decides who is told.

use dunlin_kit::error_chain::Chain;
use dunlin_protocol::DeviceId;

use crate::fleet::{Fleet, now_ms};
use crate::rollout::spec::RolloutSpec;
use crate::rollout::state::Member;
use crate::store::desired::{self, Withdrawn};
use crate::store::rollouts::{self, Pending};
use crate::store::{Sql, StoreError};

/// Gateways of one transaction: each changes the row that its exchanges change too, and where these are many, two in a
/// hundred meet.
const TOGETHER: usize = 8;
/// Gateways that are told before it is looked at the fleet again.
const AT_ONCE: u32 = 2_000;

/// Tells gateways what is pending, and wakes their questions. Returns how many were told.
///
/// *Errors*: the store's; what was told by then stays told.
pub(super) async fn tell(fleet: &Fleet) -> Result<usize, StoreError> {
    let pending = fleet.store.read(|sql| rollouts::pending(sql, AT_ONCE)).await?;
    let mut told = 0;
    for chunk in pending.chunks(TOGETHER) {
        let chunk = chunk.to_vec();
        let now = now_ms();
        let work = {
            let chunk = chunk.clone();
            move |sql: &mut dyn Sql| {
                let mut told = Vec::new();
                for (rollout, device) in &chunk {
                    if tell_one(sql, rollout, device, now)? {
                        told.push(device.clone());
                    }
                }
                Ok(told)
            }
        };
        match fleet.store.write(work).await {
            Ok(devices) => {
                told += devices.len();
                wake(fleet, &devices);
            }
            // The next look tries again.
            Err(StoreError::Contended) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(told)
}

fn wake(fleet: &Fleet, devices: &[String]) {
    for device in devices {
        if let Ok(device) = device.parse::<DeviceId>() {
            fleet.waiters.wake(device);
        }
    }
}

/// Tells one gateway; tells whether there was something to tell.
fn tell_one(sql: &mut dyn Sql, rollout: &str, device: &str, now_ms: u64) -> Result<bool, StoreError> {
    let Some((pending, member)) = rollouts::take_pending(sql, rollout, device)? else { return Ok(false) };
    let Some(kept) = rollouts::get(sql, rollout)? else { return Ok(false) };
    let (spec, halt) = (&kept.rollout.spec, &kept.rollout.halt);
    let telling = Telling { rollout, device, spec, member: &member, now_ms };
    match pending {
        Pending::Assign => telling.assign(sql)?,
        Pending::Withdraw => {
            let reason = halt.as_ref().map_or("taken back by a person", |halt| halt.words.as_str());
            telling.withdraw(sql, reason)?;
        }
        Pending::Drop => telling.give_up(sql)?,
    }
    Ok(true)
}

struct Telling<'t> {
    rollout: &'t str,
    device: &'t str,
    spec: &'t RolloutSpec,
    member: &'t Member,
    now_ms: u64,
}

impl Telling<'_> {
    fn assign(&self, sql: &mut dyn Sql) -> Result<(), StoreError> {
        for release in &self.spec.releases {
            if self.member.tries > 1 {
                // The same again would be no news.
                desired::unassign(sql, self.device, &release.digest, self.now_ms)?;
            }
            if !is_named(sql, &release.digest)? {
                tracing::warn!(
                    rollout = self.rollout,
                    digest = release.digest,
                    "the owner names a release no more"
                );
                continue;
            }
            desired::assign(sql, self.device, &release.digest, self.rollout, self.now_ms)?;
        }
        let Some(settings) = &self.spec.settings else { return Ok(()) };
        let before = desired::settings_of(sql, self.device)?.map(|(assigned, _)| assigned.digest);
        if self.member.tries > 1 {
            desired::unassign_settings(sql, self.device, &settings.digest, self.now_ms)?;
        }
        desired::assign_settings(sql, self.device, &settings.digest, self.rollout, self.now_ms)?;
        let revision = desired::settings_of(sql, self.device)?.map(|(_, revision)| revision);
        let before = before.filter(|before| *before != settings.digest);
        let before = self.member.settings_before.clone().or(before);
        rollouts::note_settings(sql, self.rollout, self.device, before.as_deref(), revision)
    }

    fn withdraw(&self, sql: &mut dyn Sql, reason: &str) -> Result<(), StoreError> {
        for release in &self.spec.releases {
            let withdrawn = Withdrawn {
                model: release.model.clone(),
                digest: release.digest.clone(),
                rollout: self.rollout.to_owned(),
                reason: reason.to_owned(),
            };
            desired::withdraw(sql, self.device, &withdrawn, self.now_ms)?;
        }
        let Some(settings) = &self.spec.settings else { return Ok(()) };
        match &self.member.settings_before {
            Some(before) => {
                desired::assign_settings(sql, self.device, before, self.rollout, self.now_ms)?;
            }
            None => {
                desired::unassign_settings(sql, self.device, &settings.digest, self.now_ms)?;
            }
        }
        Ok(())
    }

    fn give_up(&self, sql: &mut dyn Sql) -> Result<(), StoreError> {
        for release in &self.spec.releases {
            desired::unassign(sql, self.device, &release.digest, self.now_ms)?;
        }
        Ok(())
    }
}

fn is_named(sql: &mut dyn Sql, digest: &str) -> Result<bool, StoreError> {
    let release = crate::store::releases::get(sql, digest)?;
    Ok(release.is_some_and(|release| release.removed_ms.is_none()))
}

/// Says once that gateways cannot be told.
pub(super) fn warn(error: &StoreError) {
    tracing::warn!(error = %Chain(error), "gateways cannot be told what was decided");
}
