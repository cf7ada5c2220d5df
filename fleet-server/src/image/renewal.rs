//! Timestamp and snapshot before they expire: made anew when half of their life is over.
//!
//! Done by one of several servers, under a lease; done twice it does no harm. Never touches what the owner signed.

use std::sync::Arc;
use std::time::Duration;

use dunlin_kit::error_chain::Chain;
use dunlin_trust::envelope::Envelope;
use dunlin_trust::metadata::Timestamp;
use dunlin_trust::sign::repository::{Files, Lifetimes, Refresh, Repository};
use dunlin_trust::sign::{SigningKey, sign};
use dunlin_trust::time::UnixTime;

use super::upload::held;
use super::verify::split;
use super::{ImageRefusal, LIFETIMES, speaks_for, unix};
use crate::background::Stopping;
use crate::fleet::{Fleet, now_ms};
use crate::store::{Sql, StoreError, image, leases};

/// Between two looks: a small part of half a week.
const LOOK: Duration = Duration::from_secs(60);
/// The lease, and how long it is held: longer than between two looks, so that the same server goes on.
const LEASE: &str = "timestamp";
const LEASE_MS: u64 = 150_000;
const DAY_SECONDS: i64 = 86_400;

/// What was made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// Nothing: all of it lasts.
    Nothing,
    /// The timestamp.
    Timestamp,
    /// Both.
    Snapshot,
}

/// Looks after the files until the server stops.
pub(crate) async fn renew_in_time(fleet: Arc<Fleet>, mut stopping: Stopping) {
    let mut was_well = true;
    loop {
        let (now, holder) = (now_ms(), fleet.holder.clone());
        let lease = move |sql: &mut dyn Sql| leases::take(sql, LEASE, &holder, now, now + LEASE_MS);
        let renewed = match fleet.store.write(lease).await {
            Ok(true) => renew(&fleet, now).await,
            Ok(false) => Ok(Renewed::Nothing),
            Err(error) => Err(error.into()),
        };
        match &renewed {
            Ok(Renewed::Nothing) => {}
            Ok(renewed) => tracing::info!(?renewed, "renewed what the server signs"),
            Err(error) if was_well => {
                tracing::error!(error = %Chain(error), "cannot renew what the server signs; tried again each minute");
            }
            Err(_) => {}
        }
        was_well = renewed.is_ok();
        if !stopping.pause(LOOK).await {
            return;
        }
    }
}

/// Makes anew what has less than half of its life left at a time.
///
/// *Errors*: the owner's root does not name this server's key, or the store's.
pub async fn renew(fleet: &Fleet, now_ms: u64) -> Result<Renewed, ImageRefusal> {
    let key = Arc::clone(fleet.key.role());
    let work = move |sql: &mut dyn Sql| {
        let held = held(sql)?;
        let renewal = match renewal(&held, &key, unix(now_ms)) {
            Ok(renewal) => renewal,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (renewed, files) = renewal;
        for (name, raw) in &files {
            match split(name) {
                Some((version, role)) => image::put(sql, role, version, raw)?,
                None => put_timestamp(sql, raw)?,
            }
        }
        Ok(Ok(renewed))
    };
    fleet.store.write(work).await?
}

fn renewal(held: &Files, key: &SigningKey, now: UnixTime) -> Result<(Renewed, Files), ImageRefusal> {
    let nothing = Ok((Renewed::Nothing, Files::new()));
    if !held.contains_key("timestamp.json") {
        return nothing;
    }
    let repository = Repository::read(held)?;
    let (Some(snapshot), Some(timestamp)) = (repository.snapshot(), repository.timestamp()) else {
        return nothing;
    };
    let is_old = |expires: UnixTime, days: u32| expires.0 - now.0 < i64::from(days) * DAY_SECONDS / 2;
    let renewed = if is_old(snapshot.expires, LIFETIMES.snapshot_days) {
        Renewed::Snapshot
    } else if is_old(timestamp.expires, LIFETIMES.timestamp_days) {
        Renewed::Timestamp
    } else {
        return nothing;
    };
    for role in super::verify::ONLINE_ROLES {
        if !speaks_for(repository.root(), role, &key.public()) {
            return Err(ImageRefusal::NotNamed { role, key: key.public().keyval.public });
        }
    }
    if renewed == Renewed::Snapshot {
        return Ok((renewed, repository.complete(&[key], now, LIFETIMES, Refresh::Always)?));
    }
    // The snapshot stays: gateways need not fetch it again.
    let timestamp = Timestamp {
        version: timestamp.version + 1,
        expires: Lifetimes::end(now, LIFETIMES.timestamp_days),
        ..timestamp.clone()
    };
    Ok((renewed, Files::from([("timestamp.json".to_owned(), sign(&timestamp, &[key]))])))
}

/// Keeps a timestamp under its version: its file's name has none.
pub(super) fn put_timestamp(sql: &mut dyn Sql, raw: &[u8]) -> Result<(), StoreError> {
    let file = Envelope::<Timestamp>::parse(raw, "timestamp.json");
    let version = file.map_err(|failure| StoreError::Damaged(failure.to_string()))?.role().version;
    image::put(sql, "timestamp", version, raw)
}
