//! Gateways: looked up by label query, labelled, accepted, suspended, revoked.
//!
//! A gateway outside the caller's query does not exist for him.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use dunlin_fleet_api::Labels;
use dunlin_fleet_api::device::{
    DeviceDetail, DeviceParams, DeviceSummary, NewLabels, RunningModel, State as Standing,
};
use dunlin_fleet_api::order::{GivenOrder, Order};
use dunlin_fleet_api::page::Page;
use dunlin_fleet_api::token::Scope;
use dunlin_protocol::report::DeviceReport;
use dunlin_protocol::{PublicKey, words};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{Params, Path, Posted};
use super::change::{Changed, Note, change};
use super::document::Problems;
use super::page::{page, wanted};
use super::texts::{read_query, require_given_reason, require_labels, require_reason, time};
use super::{Caller, Declined};
use crate::exchange::Patience;
use crate::fleet::{Fleet, now_ms};
use crate::http::Rejection;
use crate::rollout::query::Query;
use crate::store::devices::{self, Device, DeviceState};
use crate::store::{Sql, StoreError, events};

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(set_labels))
        .routes(routes!(accept))
        .routes(routes!(suspend))
        .routes(routes!(resume))
        .routes(routes!(revoke))
}

/// Gateways, by label query and state
#[utoipa::path(get, operation_id = "device.list", path = "/v1/devices", tag = "devices", params(DeviceParams),
    responses((status = 200, body = Page<DeviceSummary>), Problems))]
async fn list(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(params): Params<DeviceParams>,
) -> Result<Json<Page<DeviceSummary>>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "device.list").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let asked = read_query(params.query.as_deref().unwrap_or("*"))?;
    let (state, limit) = (params.state.map(state_of), wanted.limit);
    let search = move |sql: &mut dyn Sql| {
        let is_meant = |found: DeviceState, labels: &BTreeMap<String, String>| {
            state.is_none_or(|state| state == found)
                && caller.devices.matches(labels)
                && asked.matches(labels)
        };
        Ok((devices::search(sql, &wanted.after, limit + 1, &is_meant)?, Patience::read(sql)?))
    };
    let (found, patience) = fleet.store.read(search).await?;
    let seen = Seen { patience, now_ms: now_ms() };
    Ok(Json(page(found, limit, |device| device.id.clone(), |device| summary(&device, &seen))))
}

/// All that is known of a gateway
#[utoipa::path(get, operation_id = "device.get", path = "/v1/devices/{id}", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, body = DeviceDetail, headers(("ETag" = String, description = "Of the labels."))), Problems))]
async fn get(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Viewer, "device.get").await?;
    let work = move |sql: &mut dyn Sql| Ok((visible(sql, &caller.devices, &id)?, Patience::read(sql)?));
    let (device, patience) = fleet.store.read(work).await?;
    let device = device?;
    let tag = etag(&device.labels);
    let seen = Seen { patience, now_ms: now_ms() };
    Ok(([(header::ETAG, tag)], Json(detail(&device, &seen)?)).into_response())
}

/// Give a gateway its labels
#[utoipa::path(put, operation_id = "device.label", path = "/v1/devices/{id}/labels", tag = "devices", request_body = NewLabels,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "ETag of the gateway.")),
    responses((status = 200, body = DeviceDetail), Problems))]
async fn set_labels(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<NewLabels>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Operator, "device.label").await?;
    let wish = posted.value.clone();
    require_reason(&wish.reason)?;
    require_labels(&wish.labels)?;
    let (query, if_match) = (caller.devices.clone(), posted.if_match.clone());
    let work = move |sql: &mut dyn Sql, now| {
        let mut device = match visible(sql, &query, &id)? {
            Ok(device) => device,
            Err(declined) => return Ok(Err(declined)),
        };
        let tag = etag(&device.labels);
        if if_match.as_ref().is_some_and(|wanted| wanted != "*" && *wanted != tag) {
            let detail = "the labels have changed since they were read; read them again".to_owned();
            return Ok(Err(Declined::new(StatusCode::PRECONDITION_FAILED, "stale", detail)));
        }
        if !query.matches(&wish.labels) {
            let detail = format!("with these labels the gateway would be outside of this token's `{query}`");
            return Ok(Err(Declined::new(StatusCode::FORBIDDEN, "scope", detail)));
        }
        let before = std::mem::replace(&mut device.labels, wish.labels.clone());
        for name in before.keys().filter(|name| !wish.labels.contains_key(*name)) {
            devices::set_label(sql, &id, name, None)?;
        }
        for (name, value) in wish.labels.iter().filter(|(name, value)| before.get(*name) != Some(value)) {
            devices::set_label(sql, &id, name, Some(value))?;
        }
        let note = Note {
            action: "device.label",
            object: id.clone(),
            reason: wish.reason.clone(),
            detail: serde_json::json!({ "before": before, "after": wish.labels }),
        };
        Ok(Ok(Changed::new(
            StatusCode::OK,
            detail(&device, &Seen { patience: Patience::read(sql)?, now_ms: now })?,
            note,
        )))
    };
    change(&fleet, &caller, &posted, work).await
}

/// Accept a gateway that waits; compare the six words first
#[utoipa::path(post, operation_id = "device.accept", path = "/v1/devices/{id}/accept", tag = "devices", request_body = Order,
    params(("id" = String, Path)), responses((status = 200, body = DeviceDetail), Problems))]
async fn accept(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    move_to(&fleet, &caller, id, &posted, &ACCEPT).await
}

/// Suspend a gateway: it keeps inferring, and its uploads and updates wait
#[utoipa::path(post, operation_id = "device.suspend", path = "/v1/devices/{id}/suspend", tag = "devices", request_body = GivenOrder,
    params(("id" = String, Path)), responses((status = 200, body = DeviceDetail), Problems))]
async fn suspend(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    move_to(&fleet, &caller, id, &posted, &SUSPEND).await
}

/// Let a suspended gateway speak again
#[utoipa::path(post, operation_id = "device.resume", path = "/v1/devices/{id}/resume", tag = "devices", request_body = Order,
    params(("id" = String, Path)), responses((status = 200, body = DeviceDetail), Problems))]
async fn resume(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    move_to(&fleet, &caller, id, &posted, &RESUME).await
}

/// Revoke a gateway: for ever
#[utoipa::path(post, operation_id = "device.revoke", path = "/v1/devices/{id}/revoke", tag = "devices", request_body = GivenOrder,
    params(("id" = String, Path)), responses((status = 200, body = DeviceDetail), Problems))]
async fn revoke(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    move_to(&fleet, &caller, id, &posted, &REVOKE).await
}

/// A change of whether a gateway may speak.
struct Move {
    action: &'static str,
    scope: Scope,
    from: &'static [DeviceState],
    to: DeviceState,
}

const ACCEPT: Move = Move {
    action: "device.accept",
    scope: Scope::Operator,
    from: &[DeviceState::Pending],
    to: DeviceState::Active,
};
const SUSPEND: Move = Move {
    action: "device.suspend",
    scope: Scope::Operator,
    from: &[DeviceState::Active, DeviceState::Pending],
    to: DeviceState::Suspended,
};
const RESUME: Move = Move {
    action: "device.resume",
    scope: Scope::Operator,
    from: &[DeviceState::Suspended],
    to: DeviceState::Active,
};
const REVOKE: Move = Move {
    action: "device.revoke",
    scope: Scope::Admin,
    from: &[DeviceState::Active, DeviceState::Pending, DeviceState::Suspended],
    to: DeviceState::Revoked,
};

async fn move_to(
    fleet: &Arc<Fleet>,
    caller: &Caller,
    id: String,
    posted: &Posted<Order>,
    step: &'static Move,
) -> Result<Response, Rejection> {
    caller.require(fleet, step.scope, step.action).await?;
    let reason = posted.value.reason.clone();
    match step.to {
        DeviceState::Suspended | DeviceState::Revoked => require_given_reason(&reason)?,
        DeviceState::Pending | DeviceState::Active => require_reason(&reason)?,
    }
    let (query, device) = (caller.devices.clone(), id.parse().ok());
    let work = move |sql: &mut dyn Sql, now| {
        let mut device = match visible(sql, &query, &id)? {
            Ok(device) => device,
            Err(declined) => return Ok(Err(declined)),
        };
        if device.state != step.to {
            if !step.from.contains(&device.state) {
                let detail =
                    format!("gateway `{id}` is {}; `{}` is not for it", device.state.word(), step.action);
                return Ok(Err(Declined::conflict(detail)));
            }
            device.reason = (step.to != DeviceState::Active).then(|| reason.clone());
            device.state = step.to;
            devices::set_state(sql, &id, step.to, device.reason.as_deref())?;
            let body = serde_json::json!({ "state": step.to.word(), "reason": device.reason });
            events::add(sql, "device.state", &id, &body, now)?;
        }
        let (reason, object) = (reason.clone(), id.clone());
        let note =
            Note { action: step.action, object, reason, detail: Value::Object(serde_json::Map::new()) };
        Ok(Ok(Changed::new(
            StatusCode::OK,
            detail(&device, &Seen { patience: Patience::read(sql)?, now_ms: now })?,
            note,
        )))
    };
    let answer = change(fleet, caller, posted, work).await;
    if let Some(device) = device {
        fleet.waiters.wake(device);
    }
    answer
}

/// Returns a gateway that there is for a caller.
pub(super) fn visible(
    sql: &mut dyn Sql,
    query: &Query,
    id: &str,
) -> Result<Result<Device, Declined>, StoreError> {
    // What a database could not even compare is no id.
    let is_id = id.parse::<dunlin_protocol::DeviceId>().is_ok();
    let found = if is_id { devices::get(sql, id)? } else { None };
    let found = found.filter(|device| query.matches(&device.labels));
    Ok(found.ok_or_else(|| Declined::not_found("gateway", id)))
}

const fn state_of(state: Standing) -> DeviceState {
    match state {
        Standing::Pending => DeviceState::Pending,
        Standing::Active => DeviceState::Active,
        Standing::Suspended => DeviceState::Suspended,
        Standing::Revoked => DeviceState::Revoked,
    }
}

const fn standing(state: DeviceState) -> Standing {
    match state {
        DeviceState::Pending => Standing::Pending,
        DeviceState::Active => Standing::Active,
        DeviceState::Suspended => Standing::Suspended,
        DeviceState::Revoked => Standing::Revoked,
    }
}

/// By what it is told whether a gateway is online.
struct Seen {
    patience: Patience,
    now_ms: u64,
}

fn summary(device: &Device, seen: &Seen) -> DeviceSummary {
    let facts: Value = serde_json::from_str(&device.facts).unwrap_or_default();
    let report = device.report.as_ref().and_then(|(raw, _)| serde_json::from_str::<DeviceReport>(raw).ok());
    let patience_ms = seen.patience.ms(&device.labels, report.as_ref().map(|report| &report.budget));
    let models = report.map(|report| report.models.iter().map(running).collect()).unwrap_or_default();
    DeviceSummary {
        id: device.id.clone(),
        state: standing(device.state),
        reason: device.reason.clone(),
        labels: device.labels.clone(),
        hostname: facts["hostname"].as_str().unwrap_or_default().to_owned(),
        seen: time(device.seen_ms),
        is_online: seen.now_ms.saturating_sub(device.seen_ms) < patience_ms,
        models,
    }
}

fn running(model: &dunlin_protocol::report::ModelReport) -> RunningModel {
    RunningModel {
        model: model.model.to_string(),
        phase: model.phase.as_str().to_owned(),
        digest: model.active.as_ref().map(|release| release.digest.to_string()),
        version: model.active.as_ref().map(|release| release.version.to_string()),
    }
}

fn detail(device: &Device, seen: &Seen) -> Result<DeviceDetail, StoreError> {
    let damaged = |what: &str| StoreError::Damaged(format!("{what} of `{}` cannot be read", device.id));
    let key = <[u8; 32]>::try_from(device.public_key.as_slice()).ok();
    let key = key.and_then(|key| PublicKey::from_bytes(&key).ok()).ok_or_else(|| damaged("the key"))?;
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    Ok(DeviceDetail {
        summary: summary(device, seen),
        words: words::words(&key).iter().map(|word| (*word).to_owned()).collect(),
        public_key: key.to_string(),
        incarnation: device.incarnation.clone(),
        counter: device.counter,
        enrolled: time(device.enrolled_ms),
        enrolled_by: device.enrolled_by.clone(),
        facts: json(&device.facts).ok_or_else(|| damaged("the facts"))?,
        report: device.report.as_ref().and_then(|(raw, _)| json(raw)),
        health: device.health.as_deref().and_then(json),
        desired_revision: device.desired_revision,
    })
}

fn etag(labels: &Labels) -> String {
    let mut hash = Sha256::new();
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut tag = String::from("\"");
    for byte in &digest[..8] {
        tag.push_str(&format!("{byte:02x}"));
    }
    tag + "\""
}
