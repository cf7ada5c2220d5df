//! The look at all rollouts, every second.
//!
//! Reads outside of transactions that write, decides in memory, and keeps what was decided only over the state that it
//! was made of: nothing that gateways do at the same time is held up. Never remembers what another server would need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::error_chain::Chain;

use super::census::Census;
use super::telling;
use crate::background::Stopping;
use crate::fleet::{Fleet, now_ms};
use crate::rollout::facts::Intent;
use crate::rollout::state::{Act, Rollout, Status, Step};
use crate::store::audit::{self, Deed};
use crate::store::rollouts::{self, Kept};
use crate::store::{Sql, StoreError, events, leases};

/// Between two looks: an order reaches a gateway that waits within two seconds.
const LOOK: Duration = Duration::from_millis(500);
/// How long the one that looks is left alone: another takes over within this time after it ended without a word.
const LEASE_MS: u64 = 4_000;
/// The lease's name.
const LEASE: &str = "rollouts";
/// Between two looks at rollouts that are over: gateways that come late are in no hurry.
const OVER_EACH_MS: u64 = 5_000;

/// What the one that looks has in memory.
#[derive(Debug, Default)]
struct View {
    census: Census,
    rollouts: BTreeMap<String, Kept>,
    lease_until_ms: u64,
    over_ms: u64,
}

/// Looks at all rollouts until the server stops.
pub(crate) async fn reconcile(fleet: Arc<Fleet>, mut stopping: Stopping) {
    let mut view = View::default();
    let mut was_well = true;
    while stopping.pause(LOOK).await {
        let looked = look(&fleet, &mut view).await;
        if let Err(error) = &looked {
            if was_well {
                tracing::warn!(error = %Chain(error), "rollouts cannot be looked at");
            }
            // What was kept is not known: it is read again.
            view = View { lease_until_ms: view.lease_until_ms, ..View::default() };
        }
        was_well = looked.is_ok();
    }
    if fleet.store.is_shared() {
        let holder = fleet.holder.clone();
        let given = fleet.store.write(move |sql| leases::give_back(sql, LEASE, &holder)).await;
        if let Err(error) = given {
            tracing::warn!(error = %Chain(&error), "a lease cannot be given back; it ends by itself");
        }
    }
}

/// Looks once.
async fn look(fleet: &Fleet, view: &mut View) -> Result<(), StoreError> {
    let now = now_ms();
    if !has_lease(fleet, view, now).await? {
        return Ok(());
    }
    if let Err(error) = telling::tell(fleet).await {
        telling::warn(&error);
        return Err(error);
    }
    let due = read_rollouts(fleet, view, now).await?;
    if due.is_empty() {
        return Ok(());
    }
    let digests: BTreeSet<String> = view
        .rollouts
        .values()
        .flat_map(|kept| kept.rollout.spec.releases.iter().map(|release| release.digest.clone()))
        .collect();
    view.census.refresh(&fleet.store, &digests, now).await?;
    let mut has_told = false;
    for id in due {
        has_told |= step(fleet, view, &id, now).await?;
    }
    if has_told && let Err(error) = telling::tell(fleet).await {
        telling::warn(&error);
    }
    Ok(())
}

/// Tells whether this server is the one that looks. Alone over its database it always is.
async fn has_lease(fleet: &Fleet, view: &mut View, now: u64) -> Result<bool, StoreError> {
    if !fleet.store.is_shared() || view.lease_until_ms > now + LEASE_MS / 2 {
        return Ok(true);
    }
    let (holder, until) = (fleet.holder.clone(), now + LEASE_MS);
    let had = view.lease_until_ms > now;
    let has = fleet.store.write(move |sql| leases::take(sql, LEASE, &holder, now, until)).await?;
    if !has || !had {
        // Another one looked in between.
        *view = View::default();
    }
    view.lease_until_ms = if has { until } else { 0 };
    Ok(has)
}

/// Reads the rollouts that changed, and returns the ids of those to be looked at, the newest first.
async fn read_rollouts(fleet: &Fleet, view: &mut View, now: u64) -> Result<Vec<String>, StoreError> {
    let live = fleet.store.read(rollouts::live).await?;
    let present: BTreeSet<&String> = live.iter().map(|(id, ..)| id).collect();
    view.rollouts.retain(|id, _| present.contains(id));
    let is_known = |id: &String, turn: u64| view.rollouts.get(id).is_some_and(|kept| kept.turn == turn);
    let changed: Vec<String> =
        live.iter().filter(|(id, turn, _)| !is_known(id, *turn)).map(|(id, ..)| id.clone()).collect();
    if !changed.is_empty() {
        let ids = changed.clone();
        let read = fleet.store.read(move |sql| {
            ids.iter().map(|id| rollouts::get_whole(sql, id)).collect::<Result<Vec<_>, _>>()
        });
        for kept in read.await?.into_iter().flatten() {
            view.rollouts.insert(kept.rollout.id.clone(), kept);
        }
    }
    let is_turn_of_over = now.saturating_sub(view.over_ms) >= OVER_EACH_MS;
    if is_turn_of_over {
        view.over_ms = now;
    }
    let is_due = |id: &String| {
        let Some(kept) = view.rollouts.get(id) else { return false };
        let is_over = kept.rollout.status == Status::Completed;
        if is_over { is_turn_of_over && !is_covered(&kept.rollout, view) } else { true }
    };
    Ok(live.iter().rev().map(|(id, ..)| id.clone()).filter(is_due).collect())
}

/// Tells whether a newer rollout that is over too gives all of the same gateways something else of the same models.
fn is_covered(rollout: &Rollout, view: &View) -> bool {
    let all = crate::rollout::query::Query::all();
    view.rollouts.values().map(|kept| &kept.rollout).any(|newer| {
        newer.status == Status::Completed
            && (newer.started_ms, &newer.id) > (rollout.started_ms, &rollout.id)
            && (newer.spec.query == all || newer.spec.query == rollout.spec.query)
            && rollout.spec.slots().all(|slot| newer.spec.slots().any(|other| other == slot))
    })
}

/// Looks at one rollout; tells whether there is something to tell gateways.
async fn step(fleet: &Fleet, view: &mut View, id: &str, now: u64) -> Result<bool, StoreError> {
    let Some(before) = view.rollouts.get(id) else { return Ok(false) };
    let step = before.rollout.next(view.census.fleet(), now);
    if step.rollout == before.rollout && step.acts.is_empty() {
        return Ok(false);
    }
    let (before, after) = (before.clone(), step.clone());
    let kept = fleet.store.write(move |sql| keep(sql, &before, &after, "server", now)).await?;
    let Some(kept) = kept else {
        // Somebody else kept another one: it is read at the next look.
        view.rollouts.remove(id);
        return Ok(false);
    };
    for note in &step.notes {
        tracing::info!(rollout = id, note, "rollout");
    }
    let rollout = &step.rollout;
    let intent = Intent { started_ms: rollout.started_ms, rollout: rollout.id.clone() };
    for act in &step.acts {
        if let Act::Assign(device) = act {
            rollout.spec.slots().for_each(|slot| view.census.note_intent(device, slot, &intent));
        }
    }
    view.rollouts.insert(id.to_owned(), kept);
    Ok(!step.acts.is_empty())
}

/// Keeps what was made of a rollout, with an event for those who listen and, for what people decide by, a line in the
/// audit log. Returns nothing, and keeps nothing, where somebody kept another state in between.
///
/// *Errors*: the store's.
pub(crate) fn keep(
    sql: &mut dyn Sql,
    before: &Kept,
    step: &Step,
    who: &str,
    now_ms: u64,
) -> Result<Option<Kept>, StoreError> {
    let Some(kept) = rollouts::put(sql, before, &step.rollout, &step.acts, now_ms)? else { return Ok(None) };
    let rollout = &kept.rollout;
    if kept.revision == before.revision {
        return Ok(Some(kept));
    }
    let is_halt = rollout.halt != before.rollout.halt;
    let kind = if is_halt {
        "rollout.halted".to_owned()
    } else if rollout.status != before.rollout.status {
        format!("rollout.{}", rollout.status.word())
    } else {
        "rollout.phase".to_owned()
    };
    let body = serde_json::json!({
        "status": rollout.status,
        "phase": rollout.phase + 1,
        "stage": match rollout.stage {
            crate::rollout::state::Stage::Deploying => "deploying",
            crate::rollout::state::Stage::Baking { .. } => "baking",
        },
        "halt": rollout.halt,
        "notes": step.notes,
        "revision": kept.revision,
    });
    events::add(sql, &kind, &rollout.id, &body, now_ms)?;
    if who == "server" {
        audit::add(
            sql,
            &Deed {
                at_ms: now_ms,
                who: who.to_owned(),
                action: kind,
                object: rollout.id.clone(),
                reason: step.notes.join("; "),
                detail: body.to_string(),
            },
        )?;
    }
    Ok(Some(kept))
}
