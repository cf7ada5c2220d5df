//! Rules by label query: what gateways upload, and how often they ask.
//!
//! For the whole fleet, so that a token for some gateways may read and not set them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use dunlin_fleet_api::policy::{
    ExchangePolicy, ExchangeRule, NewExchangePolicy, NewUploadPolicy, UploadPolicy, UploadRule, UploadShare,
};
use dunlin_fleet_api::token::Scope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::Posted;
use super::change::{Changed, Note, Outcome, change};
use super::document::Problems;
use super::texts::{read_query, require_reason};
use super::{Caller, Declined};
use crate::exchange::{EXCHANGE, UPLOADS};
use crate::fleet::Fleet;
use crate::http::Rejection;
use crate::store::{Sql, StoreError, policies};

/// Most rules: each exchange looks at all of them.
const RULES_MAX: usize = 64;
/// Streams that a rule may name. Losses are always sent: they explain what is missing.
const STREAMS: [&str; 4] = ["predictions", "events", "labels", "statistics"];
/// Longest time between two exchanges that a rule may set: with its spread it stays below the protocol's week.
const NEXT_S_MAX: u64 = 4 * 24 * 3_600;

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new()
        .routes(routes!(get_uploads))
        .routes(routes!(set_uploads))
        .routes(routes!(get_exchange))
        .routes(routes!(set_exchange))
}

/// What gateways upload
#[utoipa::path(get, operation_id = "policy.uploads.get", path = "/v1/policies/uploads", tag = "policies",
    responses((status = 200, body = UploadPolicy, headers(("ETag" = String, description = "Revision."))), Problems))]
async fn get_uploads(State(fleet): State<Arc<Fleet>>, caller: Caller) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Admin, "policy.uploads.get").await?;
    let (revision, rules) = fleet.store.read(|sql| read(sql, UPLOADS)).await?;
    Ok(tagged(revision, &UploadPolicy { revision, rules }))
}

/// Set what gateways upload
#[utoipa::path(put, operation_id = "policy.uploads.set", path = "/v1/policies/uploads", tag = "policies",
    request_body = NewUploadPolicy, params(("If-Match" = Option<String>, Header, description = "ETag of the rules.")),
    responses((status = 200, body = UploadPolicy), Problems))]
async fn set_uploads(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Posted<NewUploadPolicy>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Admin, "policy.uploads.set").await?;
    caller.require_all_devices(&fleet, "policy.uploads.set").await?;
    let wish = posted.value.clone();
    require_reason(&wish.reason)?;
    require_rules(wish.rules.iter().map(|rule| rule.query.as_str()))?;
    wish.rules.iter().try_for_each(require_upload_rule)?;
    let if_match = posted.if_match.clone();
    let work = move |sql: &mut dyn Sql, now| {
        let set =
            Wish { name: UPLOADS, action: "policy.uploads.set", rules: &wish.rules, reason: &wish.reason };
        set.keep(sql, if_match.as_deref(), now, |revision, rules| UploadPolicy { revision, rules })
    };
    change(&fleet, &caller, &posted, work).await
}

/// How often gateways ask
#[utoipa::path(get, operation_id = "policy.exchange.get", path = "/v1/policies/exchange", tag = "policies",
    responses((status = 200, body = ExchangePolicy, headers(("ETag" = String, description = "Revision."))), Problems))]
async fn get_exchange(State(fleet): State<Arc<Fleet>>, caller: Caller) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Admin, "policy.exchange.get").await?;
    let (revision, rules) = fleet.store.read(|sql| read(sql, EXCHANGE)).await?;
    Ok(tagged(revision, &ExchangePolicy { revision, rules }))
}

/// Set how often gateways ask
#[utoipa::path(put, operation_id = "policy.exchange.set", path = "/v1/policies/exchange", tag = "policies",
    request_body = NewExchangePolicy, params(("If-Match" = Option<String>, Header, description = "ETag of the rules.")),
    responses((status = 200, body = ExchangePolicy), Problems))]
async fn set_exchange(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Posted<NewExchangePolicy>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Admin, "policy.exchange.set").await?;
    caller.require_all_devices(&fleet, "policy.exchange.set").await?;
    let wish = posted.value.clone();
    require_reason(&wish.reason)?;
    require_rules(wish.rules.iter().map(|rule| rule.query.as_str()))?;
    wish.rules.iter().try_for_each(require_exchange_rule)?;
    let if_match = posted.if_match.clone();
    let work = move |sql: &mut dyn Sql, now| {
        let set =
            Wish { name: EXCHANGE, action: "policy.exchange.set", rules: &wish.rules, reason: &wish.reason };
        set.keep(sql, if_match.as_deref(), now, |revision, rules| ExchangePolicy { revision, rules })
    };
    change(&fleet, &caller, &posted, work).await
}

fn tagged<T: Serialize>(revision: u64, policy: &T) -> Response {
    ([(header::ETAG, format!("\"{revision}\""))], Json(policy)).into_response()
}

fn require_rules<'q>(queries: impl ExactSizeIterator<Item = &'q str>) -> Result<(), Declined> {
    if queries.len() > RULES_MAX {
        return Err(Declined::malformed(format!("`rules` are more than {RULES_MAX}")));
    }
    for query in queries {
        read_query(query)?;
    }
    Ok(())
}

fn require_upload_rule(rule: &UploadRule) -> Result<(), Declined> {
    if !STREAMS.contains(&rule.stream.as_str()) {
        let detail = format!("`stream` is one of `{}`", STREAMS.join("`, `"));
        return Err(Declined::malformed(detail));
    }
    let is_sampled = rule.share == UploadShare::Sampled;
    if is_sampled != rule.every.is_some() || rule.every == Some(0) {
        return Err(Declined::unsound("`every` is said with `sampled` alone, from 1".to_owned()));
    }
    Ok(())
}

fn require_exchange_rule(rule: &ExchangeRule) -> Result<(), Declined> {
    if (1..=NEXT_S_MAX).contains(&rule.next_s) {
        return Ok(());
    }
    Err(Declined::malformed(format!("`next_s` is 1 to {NEXT_S_MAX}")))
}

fn read<T: DeserializeOwned>(sql: &mut dyn Sql, name: &str) -> Result<(u64, Vec<T>), StoreError> {
    let Some(policy) = policies::get(sql, name)? else { return Ok((0, Vec::new())) };
    let rules = serde_json::from_str(&policy.rules)
        .map_err(|_| StoreError::Damaged(format!("the policy `{name}` cannot be read")))?;
    Ok((policy.revision, rules))
}

/// Rules to set.
struct Wish<'w, T> {
    name: &'static str,
    action: &'static str,
    rules: &'w [T],
    reason: &'w str,
}

impl<T: Serialize + DeserializeOwned + Clone> Wish<'_, T> {
    fn keep<A>(
        &self,
        sql: &mut dyn Sql,
        if_match: Option<&str>,
        now: u64,
        answer: impl FnOnce(u64, Vec<T>) -> A,
    ) -> Outcome<A> {
        let (before, old): (u64, Vec<T>) = read(sql, self.name)?;
        if if_match.is_some_and(|tag| tag != "*" && tag != format!("\"{before}\"")) {
            let detail = "the rules have changed since they were read; read them again".to_owned();
            return Ok(Err(Declined::new(StatusCode::PRECONDITION_FAILED, "stale", detail)));
        }
        let text = serde_json::to_string(self.rules)
            .map_err(|_| StoreError::Damaged("rules cannot be written".to_owned()))?;
        let revision = policies::put(sql, self.name, &text, now)?;
        let note = Note {
            action: self.action,
            object: self.name.to_owned(),
            reason: self.reason.to_owned(),
            detail: serde_json::json!({ "before": old, "after": self.rules }),
        };
        Ok(Ok(Changed::new(StatusCode::OK, answer(revision, self.rules.to_vec()), note)))
    }
}
