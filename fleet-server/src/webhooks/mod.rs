//! Webhooks: events sent to addresses of the owner's choosing, signed, again and again until they are taken or given up.
//!
//! Each event comes at least once, and not always in order. Done by one of several servers, under a lease. Follows no
//! redirect, reads no more of an answer than its status, and connects to no address that its policy forbids.

mod sender;

use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use tokio::task::JoinSet;

pub use sender::{Sender, SenderError, Targets, signature};

use crate::background::Stopping;
use crate::fleet::{Fleet, now_ms};
use crate::store::webhooks::{self, Delivery, Webhook};
use crate::store::{Sql, StoreError, events, leases};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// The lease, and how long it is held: longer than a round of attempts.
const LEASE: &str = "webhooks";
const LEASE_MS: u64 = 60_000;
/// Events that are looked at for a webhook in one transaction.
const LOOKED_TOGETHER: u32 = 200;
/// Attempts for one webhook in a round: one that does not answer holds up few, and no other webhook's.
const TOGETHER: u32 = 4;
/// When an attempt is made again whose sender died: longer than it may take.
const AGAIN_MS: u64 = 60_000;
/// Attempts before an event is given up: with the waits between them some two days.
pub const TRIES_MAX: u32 = 16;
/// Wait after the first attempt that failed; each one after is three times as long, to `WAIT_MS_MAX`.
const WAIT_MS: u64 = 5_000;
const WAIT_MS_MAX: u64 = 6 * 3_600_000;
/// How long events are kept, in ms: as long as a listener may be away.
const KEPT_MS: u64 = 30 * 24 * 3_600_000;
/// Rows that are removed at once: more than come in between two rounds.
const SWEEP: u32 = 200;

/// Tells whether a webhook is meant for a kind of events.
#[must_use]
pub fn is_meant(kinds: &[String], kind: &str) -> bool {
    kinds.is_empty()
        || kinds.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(beginning) => kind.starts_with(beginning),
            None => wanted == kind,
        })
}

/// Returns the wait after so many attempts, in ms.
const fn wait_ms(tries: u32) -> u64 {
    let wait = WAIT_MS.saturating_mul(3_u64.saturating_pow(tries.saturating_sub(1)));
    if wait < WAIT_MS_MAX { wait } else { WAIT_MS_MAX }
}

/// Sends events until the server stops.
pub(crate) async fn deliver(fleet: Arc<Fleet>, mut stopping: Stopping) {
    let mut was_well = true;
    while stopping.pause(LOOK).await {
        let done = round(&fleet).await;
        if let (Err(error), true) = (&done, was_well) {
            tracing::warn!(error = %Chain(error), "events cannot be sent to webhooks");
        }
        was_well = done.is_ok();
    }
}

/// An attempt that is to be made.
struct Due {
    webhook: Webhook,
    delivery: Delivery,
    event: Option<events::Event>,
}

async fn round(fleet: &Arc<Fleet>) -> Result<(), StoreError> {
    let (holder, now) = (fleet.holder.clone(), now_ms());
    let has_work = move |sql: &mut dyn Sql| {
        Ok((webhooks::is_work(sql, now)?, events::is_older(sql, now - KEPT_MS.min(now))?))
    };
    let (has_deliveries, has_old) = fleet.store.read(has_work).await?;
    if !has_deliveries && !has_old {
        return Ok(());
    }
    let due = move |sql: &mut dyn Sql| {
        if !leases::take(sql, LEASE, &holder, now, now + LEASE_MS)? {
            return Ok(Vec::new());
        }
        events::sweep(sql, now.saturating_sub(KEPT_MS), SWEEP)?;
        webhooks::sweep(sql, SWEEP)?;
        take_due(sql, now)
    };
    let due = fleet.store.write(due).await?;
    let mut attempts = JoinSet::new();
    for due in due {
        let fleet = Arc::clone(fleet);
        attempts.spawn(async move { attempt(&fleet, due).await });
    }
    while let Some(outcome) = attempts.join_next().await {
        if let Ok(outcome) = outcome {
            outcome?;
        }
    }
    Ok(())
}

fn take_due(sql: &mut dyn Sql, now: u64) -> Result<Vec<Due>, StoreError> {
    let mut due = Vec::new();
    for webhook in webhooks::all(sql)?.into_iter().filter(|webhook| webhook.disabled.is_none()) {
        let kinds: Vec<String> = serde_json::from_str(&webhook.kinds).unwrap_or_default();
        let found = events::page(sql, webhook.after_seq, LOOKED_TOGETHER)?;
        for event in found.iter().filter(|event| is_meant(&kinds, &event.kind)) {
            webhooks::enqueue(sql, &webhook.id, event.seq, now)?;
        }
        if let Some(last) = found.last() {
            webhooks::note_looked(sql, &webhook.id, last.seq)?;
        }
        for delivery in webhooks::take_due(sql, &webhook.id, TOGETHER, (now, now + AGAIN_MS))? {
            let event = events::get(sql, delivery.event)?;
            due.push(Due { webhook: webhook.clone(), delivery, event });
        }
    }
    Ok(due)
}

async fn attempt(fleet: &Fleet, due: Due) -> Result<(), StoreError> {
    let Due { webhook, mut delivery, event } = due;
    let Some(event) = event else {
        delivery.state = "dead".to_owned();
        delivery.last = Some("the event is kept no more".to_owned());
        return fleet.store.write(move |sql| webhooks::note_tried(sql, &delivery)).await;
    };
    let event = crate::api::shown_event(event);
    let body = serde_json::to_vec(&event).unwrap_or_default();
    let sent = fleet.webhooks.send(&webhook.url, &webhook.secret, event.seq, body).await;
    delivery.tries += 1;
    let mut disable = false;
    match sent {
        Ok(status) if (200..300).contains(&status) => {
            fleet.metrics.note_attempt("delivered");
            delivery.state = "delivered".to_owned();
            delivery.last = Some(format!("HTTP {status}"));
        }
        other => {
            fleet.metrics.note_attempt("failed");
            // Gone for good, as the receiver says.
            disable = matches!(other, Ok(410));
            delivery.last = Some(match other {
                Ok(status) => format!("HTTP {status}"),
                Err(error) => error.to_string(),
            });
            delivery.next_ms = now_ms() + wait_ms(delivery.tries);
            if delivery.tries >= TRIES_MAX {
                delivery.state = "dead".to_owned();
            }
        }
    }
    let note = move |sql: &mut dyn Sql| {
        webhooks::note_tried(sql, &delivery)?;
        if disable {
            webhooks::disable(sql, &delivery.webhook, "the receiver answered 410: gone")?;
        }
        Ok(())
    };
    fleet.store.write(note).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_meant_by_name_or_by_beginning() {
        let kinds = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert!(is_meant(&[], "rollout.halted"));
        assert!(is_meant(&kinds(&["device.state", "rollout.*"]), "rollout.halted"));
        assert!(!is_meant(&kinds(&["rollout"]), "rollout.halted"));
        assert!(!is_meant(&kinds(&["device.*"]), "rollout.halted"));
    }

    #[test]
    fn waits_grow_to_a_bound_and_last_for_a_day_at_least() {
        let waits: Vec<u64> = (1..TRIES_MAX).map(wait_ms).collect();
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits.last(), Some(&WAIT_MS_MAX));
        assert!(waits.iter().sum::<u64>() > 24 * 3_600_000);
        assert_eq!(wait_ms(u32::MAX), WAIT_MS_MAX);
    }
}
