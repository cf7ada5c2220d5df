//! Waking questions that wait at this server when another one changed what they wait for.
//!
//! Looks into the database from time to time, since servers do not know each other. Worth nothing but time: whoever is
//! not woken asks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use dunlin_protocol::DeviceId;

use crate::background::Stopping;
use crate::fleet::{Fleet, now_ms};
use crate::store::{StoreError, desired};

/// Between two looks: a rollout reaches a gateway within two seconds, whichever server its question waits at.
const LOOK: Duration = Duration::from_millis(500);
/// How far a look goes back: marks bear the time at which their transaction began, on a clock that may be behind by some
/// seconds.
const BACK_MS: u64 = 5_000;
/// Marks that are read at once.
const PAGE: u32 = 1_000;

/// Wakes questions until the server stops.
pub(crate) async fn listen(fleet: Arc<Fleet>, mut stopping: Stopping) {
    let mut heard = Heard { from_ms: now_ms(), devices: HashMap::new() };
    let mut was_well = true;
    while stopping.pause(LOOK).await {
        let looked = look(&fleet, &mut heard).await;
        if let (Err(error), true) = (&looked, was_well) {
            tracing::warn!(error = %Chain(error), "cannot look for changes by other servers");
        }
        was_well = looked.is_ok();
    }
}

/// Marks that were seen within the time that is looked back.
#[derive(Debug)]
struct Heard {
    from_ms: u64,
    devices: HashMap<String, u64>,
}

async fn look(fleet: &Fleet, heard: &mut Heard) -> Result<(), StoreError> {
    let mut from = (heard.from_ms, String::new());
    loop {
        let after = from.clone();
        let marks = fleet.store.read(move |sql| desired::woken_since(sql, after.0, &after.1, PAGE)).await?;
        for (device, at_ms) in &marks {
            if heard.devices.insert(device.clone(), *at_ms) != Some(*at_ms)
                && let Ok(device) = device.parse::<DeviceId>()
            {
                fleet.waiters.wake(device);
            }
        }
        match marks.last() {
            Some((device, at_ms)) if marks.len() == PAGE as usize => from = (*at_ms, device.clone()),
            _ => break,
        }
    }
    // A mark of a clock that is ahead stays among those heard until this clock has come there.
    heard.from_ms = heard.from_ms.max(now_ms().saturating_sub(BACK_MS));
    let from_ms = heard.from_ms;
    heard.devices.retain(|_, at_ms| *at_ms >= from_ms);
    Ok(())
}
