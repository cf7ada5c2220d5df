//! How gateways come in: enrolment tokens, and keys that are expected.
//!
//! A token's secret is shown once; the server keeps the key of its proof.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use dunlin_fleet_api::Labels;
use dunlin_fleet_api::enrolment::{
    EnrolmentTokenStatus, ExpectedDevice, IssuedEnrolmentToken, NewEnrolmentToken, NewExpectedDevice,
};
use dunlin_fleet_api::order::Order;
use dunlin_fleet_api::page::{Page, PageParams};
use dunlin_fleet_api::token::Scope;
use dunlin_protocol::text::Url;
use dunlin_protocol::token::TokenClaim;
use dunlin_protocol::{DeviceId, Digest, EnrolmentToken, Name, PublicKey, TokenId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{Params, Path, Posted};
use super::change::{Changed, Note, change};
use super::document::Problems;
use super::page::{self, page, wanted};
use super::texts::{require_labels, require_reason, time};
use super::{Caller, Declined};
use crate::fleet::{Fleet, now_ms, random};
use crate::http::Rejection;
use crate::rollout::query::Query;
use crate::store::tokens::{self, Token};
use crate::store::{Sql, StoreError, devices, image};

/// Shortest and longest time of a token: a minute, a year.
const EXPIRES_S: std::ops::RangeInclusive<u64> = 60..=31_536_000;
/// Most gateways of one token.
const USES_MAX: u64 = 1_000_000;
/// The label that a token's claim names beside: shown by `dunlind enroll` before it enrols.
const GROUP: &str = "group";

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new()
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(revoke_token))
        .routes(routes!(list_expected, expect))
        .routes(routes!(forget_expected))
}

/// Enrolment tokens, used and revoked ones too
#[utoipa::path(get, operation_id = "enrolment-token.list", path = "/v1/enrolment-tokens", tag = "enrolment", params(PageParams),
    responses((status = 200, body = Page<EnrolmentTokenStatus>), Problems))]
async fn list_tokens(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<EnrolmentTokenStatus>>, Rejection> {
    caller.require(&fleet, Scope::Operator, "enrolment-token.list").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let limit = wanted.limit;
    let query = caller.devices;
    let is_there = move |token: &Token| query.matches(&read_labels(&token.labels));
    let work = move |sql: &mut dyn Sql| {
        page::visible(
            &wanted,
            |token| token.id.clone(),
            &is_there,
            |after, limit| tokens::page(sql, after, limit),
        )
    };
    let found = fleet.store.read(work).await?;
    Ok(Json(page(found, limit, |token| token.id.clone(), shown)))
}

/// Make an enrolment token; its text is shown this once
#[utoipa::path(post, operation_id = "enrolment-token.create", path = "/v1/enrolment-tokens", tag = "enrolment", request_body = NewEnrolmentToken,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 128, description = "Makes a repeated request harmless.")),
    responses((status = 201, body = IssuedEnrolmentToken), Problems))]
async fn create_token(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Posted<NewEnrolmentToken>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Operator, "enrolment-token.create").await?;
    let wish = posted.value.clone();
    require_sound(&wish)?;
    require_inside(&fleet, &caller, &wish.labels, "enrolment-token.create").await?;
    let none = |error: getrandom::Error| Rejection::internal("make a token", &error);
    let id = TokenId::new(now_ms(), random().map_err(none)?);
    let secret: [u8; 32] = random().map_err(none)?;
    let (url, by) = (fleet.public_url.clone(), caller.name.clone());
    let work = move |sql: &mut dyn Sql, now: u64| {
        let Some(version) = image::newest_version(sql, "root")? else {
            let detail =
                "no owner's root is published here yet: `dunlin server adopt` comes first".to_owned();
            return Ok(Err(Declined::conflict(detail)));
        };
        let root = image::get(sql, "root", Some(version))?.unwrap_or_default();
        let expires_ms = now + wish.expires_s * 1_000;
        let group = wish.labels.get(GROUP).and_then(|group| Name::new(group.as_str()).ok());
        let Ok(server_url) = Url::new(url.as_str()) else {
            return Err(StoreError::Damaged("the server's URL is too long for a token".to_owned()));
        };
        let claim = TokenClaim {
            server_url,
            root: Digest::of(&root),
            root_version: version,
            group,
            expires_s: expires_ms / 1_000,
            uses: wish.uses,
            token: id,
        };
        let token = EnrolmentToken::new(claim, secret);
        let kept = Token {
            id: id.to_string(),
            proof_key: token.proof_key().as_bytes().to_vec(),
            labels: serde_json::json!(wish.labels).to_string(),
            expires_ms,
            uses_left: wish.uses,
            created_ms: now,
            created_by: by.clone(),
            revoked_ms: None,
        };
        tokens::insert(sql, &kept)?;
        let note = Note {
            action: "enrolment-token.create",
            object: kept.id.clone(),
            reason: wish.reason.clone(),
            detail: serde_json::json!({ "labels": wish.labels, "uses": wish.uses, "expires": time(expires_ms) }),
        };
        let answer = IssuedEnrolmentToken { token: shown(kept), text: token.to_text().to_string() };
        Ok(Ok(Changed { shown_once: true, ..Changed::new(StatusCode::CREATED, answer, note) }))
    };
    change(&fleet, &caller, &posted, work).await
}

/// Revoke an enrolment token; gateways that came in by it stay
#[utoipa::path(post, operation_id = "enrolment-token.revoke", path = "/v1/enrolment-tokens/{id}/revoke", tag = "enrolment", request_body = Order,
    params(("id" = String, Path)), responses((status = 200, body = EnrolmentTokenStatus), Problems))]
async fn revoke_token(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Operator, "enrolment-token.revoke").await?;
    let (reason, query) = (posted.value.reason.clone(), caller.devices.clone());
    require_reason(&reason)?;
    let work = move |sql: &mut dyn Sql, now| {
        let token = if id.parse::<TokenId>().is_ok() { tokens::get(sql, &id)? } else { None };
        let token = token.filter(|token| query.matches(&read_labels(&token.labels)));
        let Some(mut token) = token else { return Ok(Err(Declined::not_found("enrolment token", &id))) };
        tokens::revoke(sql, &id, now)?;
        token.revoked_ms.get_or_insert(now);
        let (object, reason) = (id.clone(), reason.clone());
        let note = Note { action: "enrolment-token.revoke", object, reason, detail: serde_json::json!({}) };
        Ok(Ok(Changed::new(StatusCode::OK, shown(token), note)))
    };
    change(&fleet, &caller, &posted, work).await
}

/// Gateways that are expected by their keys
#[utoipa::path(get, operation_id = "expected-device.list", path = "/v1/expected-devices", tag = "enrolment", params(PageParams),
    responses((status = 200, body = Page<ExpectedDevice>), Problems))]
async fn list_expected(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<ExpectedDevice>>, Rejection> {
    caller.require(&fleet, Scope::Operator, "expected-device.list").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let limit = wanted.limit;
    let query = caller.devices;
    let is_there = move |expected: &tokens::Expected| query.matches(&read_labels(&expected.labels));
    let work = move |sql: &mut dyn Sql| {
        let read = |after: &str, limit| tokens::expected_page(sql, after, limit);
        page::visible(&wanted, |expected| expected.id.clone(), &is_there, read)
    };
    let found = fleet.store.read(work).await?;
    let entry = |expected: tokens::Expected| ExpectedDevice {
        id: expected.id,
        labels: read_labels(&expected.labels),
        created: time(expected.created_ms),
        created_by: expected.created_by,
    };
    Ok(Json(page(found, limit, |expected| expected.id.clone(), entry)))
}

/// Expect a gateway by its key: it needs no token
#[utoipa::path(post, operation_id = "expected-device.create", path = "/v1/expected-devices", tag = "enrolment", request_body = NewExpectedDevice,
    responses((status = 201, body = ExpectedDevice), Problems))]
async fn expect(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Posted<NewExpectedDevice>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Operator, "expected-device.create").await?;
    let wish = posted.value.clone();
    require_reason(&wish.reason)?;
    require_labels(&wish.labels)?;
    require_inside(&fleet, &caller, &wish.labels, "expected-device.create").await?;
    let key = read_key(&wish.public_key)?;
    let (id, by) = (DeviceId::of(&key).to_string(), caller.name.clone());
    let query = caller.devices.clone();
    let work = move |sql: &mut dyn Sql, now| {
        if !is_free_for(sql, &query, &id)? {
            let detail = format!("gateway `{id}` is outside of this token's `{query}`");
            return Ok(Err(Declined::new(StatusCode::FORBIDDEN, "scope", detail)));
        }
        let labels = serde_json::json!(wish.labels).to_string();
        tokens::expect(sql, &id, &labels, now, &by)?;
        let answer = ExpectedDevice {
            id: id.clone(),
            labels: wish.labels.clone(),
            created: time(now),
            created_by: by.clone(),
        };
        let detail = serde_json::json!({ "labels": wish.labels });
        let (object, reason) = (id.clone(), wish.reason.clone());
        let note = Note { action: "expected-device.create", object, reason, detail };
        Ok(Ok(Changed::new(StatusCode::CREATED, answer, note)))
    };
    change(&fleet, &caller, &posted, work).await
}

/// Expect a gateway no more
#[utoipa::path(post, operation_id = "expected-device.forget", path = "/v1/expected-devices/{id}/forget", tag = "enrolment", request_body = Order,
    params(("id" = String, Path)), responses((status = 204), Problems))]
async fn forget_expected(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Operator, "expected-device.forget").await?;
    let (reason, query) = (posted.value.reason.clone(), caller.devices.clone());
    require_reason(&reason)?;
    let work = move |sql: &mut dyn Sql, _| {
        let found = if id.parse::<DeviceId>().is_ok() { tokens::get_expected(sql, &id)? } else { None };
        if !found.is_some_and(|expected| query.matches(&read_labels(&expected.labels))) {
            return Ok(Err(Declined::not_found("expected gateway", &id)));
        }
        tokens::take_expected(sql, &id)?;
        let (object, reason) = (id.clone(), reason.clone());
        let note = Note { action: "expected-device.forget", object, reason, detail: serde_json::json!({}) };
        Ok(Ok(Changed::new(StatusCode::NO_CONTENT, (), note)))
    };
    change(&fleet, &caller, &posted, work).await
}

fn require_sound(wish: &NewEnrolmentToken) -> Result<(), Declined> {
    require_reason(&wish.reason)?;
    require_labels(&wish.labels)?;
    if !EXPIRES_S.contains(&wish.expires_s) {
        let detail = format!("`expires_s` is {} to {}", EXPIRES_S.start(), EXPIRES_S.end());
        return Err(Declined::malformed(detail));
    }
    if !(1..=USES_MAX).contains(&wish.uses) {
        return Err(Declined::malformed(format!("`uses` is 1 to {USES_MAX}")));
    }
    Ok(())
}

/// A caller who sees some gateways only brings in none but those.
fn read_key(text: &str) -> Result<PublicKey, Declined> {
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Declined::malformed("`public_key` is not 64 hexadecimal digits".to_owned()));
    }
    text.parse().map_err(|_| Declined::unsound("`public_key` is no ed25519 key".to_owned()))
}

async fn require_inside(
    fleet: &Fleet,
    caller: &Caller,
    labels: &Labels,
    action: &str,
) -> Result<(), Rejection> {
    if caller.devices.matches(labels) {
        return Ok(());
    }
    caller.note_refused(fleet, action).await?;
    let detail = format!("with these labels a gateway would be outside of this token's `{}`", caller.devices);
    Err(Declined::new(StatusCode::FORBIDDEN, "scope", detail).into())
}

/// Tells whether a gateway that is known, or expected, is one of those that there are for a caller: another's is not to be
/// taken over.
fn is_free_for(sql: &mut dyn Sql, query: &Query, id: &str) -> Result<bool, StoreError> {
    let known = devices::get(sql, id)?.map(|device| device.labels);
    let expected = tokens::get_expected(sql, id)?.map(|expected| read_labels(&expected.labels));
    Ok([known, expected].iter().flatten().all(|labels| query.matches(labels)))
}

fn shown(token: Token) -> EnrolmentTokenStatus {
    EnrolmentTokenStatus {
        labels: read_labels(&token.labels),
        id: token.id,
        expires: time(token.expires_ms),
        uses_left: token.uses_left,
        created: time(token.created_ms),
        created_by: token.created_by,
        revoked: token.revoked_ms.map(time),
    }
}

fn read_labels(text: &str) -> Labels {
    serde_json::from_str(text).unwrap_or_default()
}
