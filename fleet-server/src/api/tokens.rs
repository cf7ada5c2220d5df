//! Tokens of people and programs: made, listed, revoked.
//!
//! The text of a token is shown once and kept nowhere; the first one is written to a file that the server's owner alone
//! reads.

use std::io;
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dunlin_fleet_api::order::Order;
use dunlin_fleet_api::page::{Page, PageParams};
use dunlin_fleet_api::token::{ApiToken, IssuedApiToken, NewApiToken, Scope};
use dunlin_kit::atomic_file;
use dunlin_protocol::TokenId;
use sha2::{Digest as _, Sha256};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use super::body::{Params, Path, Posted};
use super::change::{Changed, Note, change};
use super::document::Problems;
use super::page::{page, visible, wanted};
use super::texts::{read_query, require_reason, time};
use super::{Caller, Declined};
use crate::fleet::{Fleet, now_ms, random};
use crate::http::Rejection;
use crate::rollout::query::Query;
use crate::store::audit::{self, Deed};
use crate::store::{Store, StoreError, api_tokens};

/// Longest name of a token.
const NAME_CHARS_MAX: usize = 64;
/// How long a token may last: ten years. One that never ends says no time.
const EXPIRES_S_MAX: u64 = 315_360_000;
/// Shortest: a minute.
const EXPIRES_S_MIN: u64 = 60;
/// The first token's name.
const FIRST: &str = "first";
/// Read and written by its owner alone.
const MODE: u32 = 0o600;

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

/// Tokens, revoked ones too
#[utoipa::path(get, operation_id = "token.list", path = "/v1/tokens", tag = "tokens", params(PageParams),
    responses((status = 200, body = Page<ApiToken>), Problems))]
async fn list(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<ApiToken>>, Rejection> {
    caller.require(&fleet, Scope::Admin, "token.list").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let limit = wanted.limit;
    // Who sees some gateways alone sees the tokens for these.
    let (sees_all, devices) = (caller.has_all_devices(), caller.devices.to_string());
    let is_there = move |token: &api_tokens::ApiToken| sees_all || token.devices == devices;
    let work = move |sql: &mut dyn crate::store::Sql| {
        visible(
            &wanted,
            |token| token.id.clone(),
            &is_there,
            |after, limit| api_tokens::page(sql, after, limit),
        )
    };
    let found = fleet.store.read(work).await?;
    Ok(Json(page(found, limit, |token| token.id.clone(), shown)))
}

/// Make a token; its text is shown this once
#[utoipa::path(post, operation_id = "token.create", path = "/v1/tokens", tag = "tokens", request_body = NewApiToken,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 128, description = "Makes a repeated request harmless.")),
    responses((status = 201, body = IssuedApiToken), Problems))]
async fn create(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Posted<NewApiToken>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Admin, "token.create").await?;
    let wish = posted.value.clone();
    require_sound(&wish)?;
    let devices = read_query(&wish.devices)?;
    if !caller.has_all_devices() && devices != caller.devices {
        caller.require_all_devices(&fleet, "token.create").await?;
    }
    let (id, text) = make().map_err(|error| Rejection::internal("make a token", &error))?;
    let by = caller.name.clone();
    let work = move |sql: &mut dyn crate::store::Sql, now| {
        if api_tokens::has_name(sql, &wish.name)? {
            let detail =
                format!("a token of the name `{}` exists; revoke it or take another name", wish.name);
            return Ok(Err(Declined::conflict(detail)));
        }
        let token = api_tokens::ApiToken {
            id: id.clone(),
            name: wish.name.clone(),
            scope: wish.scope.word().to_owned(),
            devices: devices.to_string(),
            created_ms: now,
            created_by: by.clone(),
            expires_ms: wish.expires_s.map(|seconds| now + seconds * 1_000),
            used_ms: None,
            revoked_ms: None,
        };
        api_tokens::insert(sql, &token, digest(&text))?;
        let note = Note {
            action: "token.create",
            object: id.clone(),
            reason: wish.reason.clone(),
            detail: serde_json::json!({ "name": wish.name, "scope": wish.scope.word(), "devices": token.devices }),
        };
        let answer = IssuedApiToken { token: shown(token), text: text.to_string() };
        Ok(Ok(Changed { shown_once: true, ..Changed::new(StatusCode::CREATED, answer, note) }))
    };
    change(&fleet, &caller, &posted, work).await
}

/// Revoke a token; at once, and for ever
#[utoipa::path(post, operation_id = "token.revoke", path = "/v1/tokens/{id}/revoke", tag = "tokens", request_body = Order,
    params(("id" = String, Path)), responses((status = 200, body = ApiToken), Problems))]
async fn revoke(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Admin, "token.revoke").await?;
    let reason = posted.value.reason.clone();
    require_reason(&reason)?;
    caller.require_all_devices(&fleet, "token.revoke").await?;
    let work = move |sql: &mut dyn crate::store::Sql, now| {
        let Some(mut token) = api_tokens::get(sql, &id)? else {
            return Ok(Err(Declined::not_found("token", &id)));
        };
        if !api_tokens::has_another_administrator(sql, &id, now)? {
            let detail = "no other token is an administrator's of the whole fleet: make one first".to_owned();
            return Ok(Err(Declined::conflict(detail)));
        }
        api_tokens::revoke(sql, &id, now)?;
        token.revoked_ms.get_or_insert(now);
        let (reason, detail) = (reason.clone(), serde_json::json!({ "name": token.name }));
        let note = Note { action: "token.revoke", object: id.clone(), reason, detail };
        Ok(Ok(Changed::new(StatusCode::OK, shown(token), note)))
    };
    change(&fleet, &caller, &posted, work).await
}

fn require_sound(wish: &NewApiToken) -> Result<(), Declined> {
    require_reason(&wish.reason)?;
    let characters = wish.name.chars().count();
    if characters == 0 || characters > NAME_CHARS_MAX || wish.name.chars().any(char::is_control) {
        let detail = format!("`name` has 1 to {NAME_CHARS_MAX} characters, and no control characters");
        return Err(Declined::malformed(detail));
    }
    if wish.expires_s.is_some_and(|seconds| !(EXPIRES_S_MIN..=EXPIRES_S_MAX).contains(&seconds)) {
        return Err(Declined::malformed(format!("`expires_s` is {EXPIRES_S_MIN} to {EXPIRES_S_MAX}")));
    }
    Ok(())
}

fn shown(token: api_tokens::ApiToken) -> ApiToken {
    ApiToken {
        id: token.id,
        name: token.name,
        scope: Scope::of(&token.scope).unwrap_or(Scope::Viewer),
        devices: token.devices,
        created: time(token.created_ms),
        created_by: token.created_by,
        expires: token.expires_ms.map(time),
        used: token.used_ms.map(time),
        revoked: token.revoked_ms.map(time),
    }
}

/// Returns the id and the text of a new token.
fn make() -> Result<(String, Zeroizing<String>), getrandom::Error> {
    let id = TokenId::new(now_ms(), random()?).to_string();
    let secret = Zeroizing::new(random::<32>()?);
    let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_slice()));
    let text = Zeroizing::new(format!("dlt_{}_{}", id.trim_start_matches("tok-"), *secret));
    Ok((id, text))
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Makes the first token, of an administrator, where there has never been any, and writes its text to a file.
/// Returns whether it did.
///
/// *Errors*: the store's, or the file cannot be written.
pub async fn first_token(store: &Store, file: &FilePath) -> Result<bool, io::Error> {
    let (id, text) = make().map_err(io::Error::other)?;
    let (kept, now) = (digest(&text), now_ms());
    if store.read(api_tokens::is_any).await.map_err(io::Error::other)? {
        return Ok(false);
    }
    // The file comes first: a token whose text is nowhere would lock everybody out.
    atomic_file::write_from(file, &mut format!("{}\n", *text).as_bytes(), MODE)?;
    let work = move |sql: &mut dyn crate::store::Sql| -> Result<bool, StoreError> {
        if api_tokens::is_any(sql)? {
            return Ok(false);
        }
        let token = api_tokens::ApiToken {
            id: id.clone(),
            name: FIRST.to_owned(),
            scope: Scope::Admin.word().to_owned(),
            devices: Query::all().to_string(),
            created_ms: now,
            created_by: "server".to_owned(),
            expires_ms: None,
            used_ms: None,
            revoked_ms: None,
        };
        api_tokens::insert(sql, &token, kept)?;
        let (who, action) = ("server".to_owned(), "token.create".to_owned());
        let detail = serde_json::json!({ "name": FIRST, "scope": "admin" }).to_string();
        audit::add(
            sql,
            &Deed { at_ms: now, who, action, object: id.clone(), reason: String::new(), detail },
        )?;
        Ok(true)
    };
    store.write(work).await.map_err(io::Error::other)
}
