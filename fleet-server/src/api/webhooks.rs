//! Webhooks: made, tried, removed, and what became of what was sent.
//!
//! A webhook hears of the whole fleet: only an administrator without a limit makes one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dunlin_fleet_api::event::Event;
use dunlin_fleet_api::order::Order;
use dunlin_fleet_api::page::{Page, PageParams};
use dunlin_fleet_api::token::Scope;
use dunlin_fleet_api::webhook::{
    Attempt, Delivery, DeliveryParams, DeliveryState, IssuedWebhook, NewWebhook, Webhook,
};
use dunlin_protocol::TokenId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{Params, Path, Posted};
use super::change::{Changed, Note, change};
use super::document::Problems;
use super::page::{page, wanted};
use super::texts::{require_reason, time};
use super::{Caller, Declined};
use crate::fleet::{Fleet, now_ms, random};
use crate::http::Rejection;
use crate::store::{Sql, events, webhooks};

/// Most webhooks: each costs a reading of all events.
const WEBHOOKS_MAX: usize = 32;
/// Most kinds of one, and the longest.
const KINDS_MAX: usize = 32;
const KIND_BYTES_MAX: usize = 64;

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get))
        .routes(routes!(remove))
        .routes(routes!(test))
        .routes(routes!(deliveries))
        .routes(routes!(retry))
}

async fn require(fleet: &Fleet, caller: &Caller, action: &str) -> Result<(), Rejection> {
    caller.require(fleet, Scope::Admin, action).await?;
    caller.require_all_devices(fleet, action).await
}

/// Webhooks
#[utoipa::path(get, operation_id = "webhook.list", path = "/v1/webhooks", tag = "events", params(PageParams),
    responses((status = 200, body = Page<Webhook>), Problems))]
async fn list(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<Webhook>>, Rejection> {
    require(&fleet, &caller, "webhook.list").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let mut found = fleet.store.read(webhooks::all).await?;
    found.retain(|webhook| webhook.id > wanted.after);
    Ok(Json(page(found, wanted.limit, |webhook| webhook.id.clone(), shown)))
}

/// Make a webhook; the key of its signatures is shown this once
#[utoipa::path(post, operation_id = "webhook.create", path = "/v1/webhooks", tag = "events", request_body = NewWebhook,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 128, description = "Makes a repeated request harmless.")),
    responses((status = 201, body = IssuedWebhook), Problems))]
async fn create(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Posted<NewWebhook>,
) -> Result<Response, Rejection> {
    require(&fleet, &caller, "webhook.create").await?;
    let wish = posted.value.clone();
    require_reason(&wish.reason)?;
    fleet.webhooks.require(&wish.url).map_err(|error| Declined::malformed(format!("`url`: {error}")))?;
    let is_kind = |kind: &String| {
        let text = kind.strip_suffix('*').unwrap_or(kind);
        kind.len() <= KIND_BYTES_MAX
            && !kind.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_' | b'-'))
    };
    if wish.kinds.len() > KINDS_MAX || !wish.kinds.iter().all(is_kind) {
        let detail = "`kinds` are few kinds of events, or beginnings of them as in `rollout.*`".to_owned();
        return Err(Declined::malformed(detail).into());
    }
    let none = |error: getrandom::Error| Rejection::internal("make a webhook", &error);
    let id = TokenId::new(now_ms(), random().map_err(none)?).to_string();
    let id = format!("whk-{}", id.trim_start_matches("tok-"));
    let secret = format!("whsec_{}", URL_SAFE_NO_PAD.encode(random::<32>().map_err(none)?));
    let work = move |sql: &mut dyn Sql, now| {
        if webhooks::all(sql)?.len() >= WEBHOOKS_MAX {
            let detail = format!("there are {WEBHOOKS_MAX} webhooks; remove one first");
            return Ok(Err(Declined::conflict(detail)));
        }
        let webhook = webhooks::Webhook {
            id: id.clone(),
            url: wish.url.clone(),
            secret: secret.clone(),
            kinds: serde_json::json!(wish.kinds).to_string(),
            created_ms: now,
            after_seq: events::newest(sql)?,
            disabled: None,
        };
        webhooks::insert(sql, &webhook)?;
        // Of the URL its host alone: the path of many is a secret.
        let detail = serde_json::json!({ "host": host(&wish.url), "kinds": wish.kinds });
        let (object, reason) = (id.clone(), wish.reason.clone());
        let note = Note { action: "webhook.create", object, reason, detail };
        let answer = IssuedWebhook { webhook: shown(webhook), secret: secret.clone() };
        Ok(Ok(Changed { shown_once: true, ..Changed::new(StatusCode::CREATED, answer, note) }))
    };
    change(&fleet, &caller, &posted, work).await
}

/// A webhook
#[utoipa::path(get, operation_id = "webhook.get", path = "/v1/webhooks/{id}", tag = "events", params(("id" = String, Path)),
    responses((status = 200, body = Webhook), Problems))]
async fn get(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Webhook>, Rejection> {
    require(&fleet, &caller, "webhook.get").await?;
    Ok(Json(shown(find(&fleet, id).await?)))
}

/// Remove a webhook, with what is on its way to it
#[utoipa::path(post, operation_id = "webhook.remove", path = "/v1/webhooks/{id}/remove", tag = "events", request_body = Order,
    params(("id" = String, Path)), responses((status = 204), Problems))]
async fn remove(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    require(&fleet, &caller, "webhook.remove").await?;
    let reason = posted.value.reason.clone();
    require_reason(&reason)?;
    let work = move |sql: &mut dyn Sql, _| {
        if !is_id(&id) || !webhooks::remove(sql, &id)? {
            return Ok(Err(Declined::not_found("webhook", &id)));
        }
        let (object, reason) = (id.clone(), reason.clone());
        let note = Note { action: "webhook.remove", object, reason, detail: serde_json::json!({}) };
        Ok(Ok(Changed::new(StatusCode::NO_CONTENT, (), note)))
    };
    change(&fleet, &caller, &posted, work).await
}

/// Send a webhook an event `webhook.test` at once, and tell what came of it
#[utoipa::path(post, operation_id = "webhook.test", path = "/v1/webhooks/{id}/test", tag = "events", request_body = Order,
    params(("id" = String, Path)), responses((status = 200, body = Attempt), Problems))]
async fn test(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<Order>,
) -> Result<Json<Attempt>, Rejection> {
    require(&fleet, &caller, "webhook.test").await?;
    require_reason(&posted.value.reason)?;
    let webhook = find(&fleet, id).await?;
    let event = Event {
        seq: 0,
        at: time(now_ms()),
        kind: "webhook.test".to_owned(),
        object: webhook.id.clone(),
        body: serde_json::json!({ "by": caller.name }),
    };
    let body = serde_json::to_vec(&event).unwrap_or_default();
    let sent = fleet.webhooks.send(&webhook.url, &webhook.secret, 0, body).await;
    Ok(Json(match sent {
        Ok(status) => {
            Attempt { is_delivered: (200..300).contains(&status), result: format!("HTTP {status}") }
        }
        Err(error) => Attempt { is_delivered: false, result: error.to_string() },
    }))
}

/// Events on their way to a webhook; `state=dead` are those that were given up
#[utoipa::path(get, operation_id = "webhook.deliveries", path = "/v1/webhooks/{id}/deliveries", tag = "events",
    params(("id" = String, Path), DeliveryParams), responses((status = 200, body = Page<Delivery>), Problems))]
async fn deliveries(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<DeliveryParams>,
) -> Result<Json<Page<Delivery>>, Rejection> {
    require(&fleet, &caller, "webhook.deliveries").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let wrong =
        || Declined::malformed("`cursor` is none: take `next` of the page before as it is".to_owned());
    let after: u64 = if wanted.after.is_empty() { 0 } else { wanted.after.parse().map_err(|_| wrong())? };
    let webhook = find(&fleet, id).await?.id;
    let (state, limit) = (params.state.map(word), wanted.limit);
    let found = move |sql: &mut dyn Sql| webhooks::deliveries(sql, &webhook, state, after, limit + 1);
    let found = fleet.store.read(found).await?;
    Ok(Json(page(found, limit, |delivery| delivery.event.to_string(), entry)))
}

/// Send an event to a webhook again
#[utoipa::path(post, operation_id = "webhook.retry", path = "/v1/webhooks/{id}/deliveries/{event}/retry", tag = "events",
    request_body = Order, params(("id" = String, Path), ("event" = u64, Path)),
    responses((status = 200, body = Delivery), Problems))]
async fn retry(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path((id, event)): Path<(String, u64)>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    require(&fleet, &caller, "webhook.retry").await?;
    let reason = posted.value.reason.clone();
    require_reason(&reason)?;
    let work = move |sql: &mut dyn Sql, now| {
        if !is_id(&id) || webhooks::get(sql, &id)?.is_none() {
            return Ok(Err(Declined::not_found("webhook", &id)));
        }
        let found = webhooks::deliveries(sql, &id, None, event.saturating_sub(1), 1)?;
        let Some(mut delivery) = found.into_iter().find(|delivery| delivery.event == event) else {
            return Ok(Err(Declined::not_found("delivery", &event.to_string())));
        };
        webhooks::enqueue(sql, &id, event, now)?;
        (delivery.tries, delivery.next_ms) = (0, now);
        delivery.state = word(DeliveryState::Waiting).to_owned();
        let detail = serde_json::json!({ "event": event });
        let (object, reason) = (id.clone(), reason.clone());
        let note = Note { action: "webhook.retry", object, reason, detail };
        Ok(Ok(Changed::new(StatusCode::OK, entry(delivery), note)))
    };
    change(&fleet, &caller, &posted, work).await
}

async fn find(fleet: &Fleet, id: String) -> Result<webhooks::Webhook, Rejection> {
    let missing = Declined::not_found("webhook", &id);
    if !is_id(&id) {
        return Err(missing.into());
    }
    Ok(fleet.store.read(move |sql| webhooks::get(sql, &id)).await?.ok_or(missing)?)
}

/// What a database could not even compare is no id.
fn is_id(id: &str) -> bool {
    id.len() <= 64 && id.starts_with("whk-") && id.bytes().all(|byte| byte.is_ascii_graphic())
}

fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or_default().chars().take(255).collect()
}

const fn word(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Waiting => "waiting",
        DeliveryState::Delivered => "delivered",
        DeliveryState::Dead => "dead",
    }
}

fn entry(delivery: webhooks::Delivery) -> Delivery {
    let state = match delivery.state.as_str() {
        "waiting" => DeliveryState::Waiting,
        "delivered" => DeliveryState::Delivered,
        _ => DeliveryState::Dead,
    };
    Delivery {
        event: delivery.event,
        state,
        tries: delivery.tries,
        next: (state == DeliveryState::Waiting).then(|| time(delivery.next_ms)),
        last: delivery.last,
    }
}

fn shown(webhook: webhooks::Webhook) -> Webhook {
    Webhook {
        id: webhook.id,
        url: webhook.url,
        kinds: serde_json::from_str(&webhook.kinds).unwrap_or_default(),
        created: time(webhook.created_ms),
        disabled: webhook.disabled,
    }
}
