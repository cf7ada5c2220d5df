//! Rollouts: planned, made, ordered about and watched; and how many people must approve them.
//!
//! An order says by `If-Match` which state it was decided by. What follows from it is the machine's.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use dunlin_fleet_api::order::{GivenOrder, Order};
use dunlin_fleet_api::page::{Page, PageParams};
use dunlin_fleet_api::rollout::{
    ApprovalPolicy, NewApprovalPolicy, NewRollout, PlanRequest, RolloutDetail, RolloutDevice, RolloutOrder,
    RolloutParams, RolloutPlan, RolloutSummary, Status as Shown,
};
use dunlin_fleet_api::token::Scope;
use dunlin_protocol::RolloutId;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{Params, Path, Posted};
use super::change::{Changed, Note, change};
use super::document::Problems;
use super::page::{page, wanted};
use super::rollout_shown::{self as shown, detail, read_rules, read_spec, shown_plan, shown_rules, summary};
use super::texts::{require_given_reason, require_reason};
use super::{Caller, Declined};
use crate::fleet::{Fleet, now_ms, random};
use crate::http::Rejection;
use crate::rollout::command::{Command, Giver};
use crate::rollout::query::Query;
use crate::rollout::spec::RolloutSpec;
use crate::rollout::state::{Rollout, Status};
use crate::rollouts::{self as running, Census, plan};
use crate::store::rollouts::{self, Kept};
use crate::store::{Sql, StoreError, director, releases};

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new()
        .routes(routes!(list, make))
        .routes(routes!(try_on_paper))
        .routes(routes!(get))
        .routes(routes!(devices))
        .routes(routes!(order))
        .routes(routes!(approvals, set_approvals))
}

/// Rollouts, the newest first
#[utoipa::path(get, operation_id = "rollout.list", path = "/v1/rollouts", tag = "rollouts", params(RolloutParams),
    responses((status = 200, body = Page<RolloutSummary>), Problems))]
async fn list(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(params): Params<RolloutParams>,
) -> Result<Json<Page<RolloutSummary>>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "rollout.list").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let limit = wanted.limit;
    let work = move |sql: &mut dyn Sql| {
        let (mut found, mut before) = (Vec::new(), wanted.after.clone());
        loop {
            let some = rollouts::page(sql, &before, limit + 1)?;
            let is_last = some.len() <= limit as usize;
            let Some(last) = some.last() else { return Ok(found) };
            before.clone_from(&last.rollout.id);
            for kept in some {
                let summary = summary(&kept)?;
                if is_there_for(&caller, &kept.rollout)
                    && params.status.is_none_or(|status: Shown| status == summary.status)
                {
                    found.push(summary);
                }
            }
            if is_last || found.len() > limit as usize {
                return Ok(found);
            }
        }
    };
    let found = fleet.store.read(work).await?;
    Ok(Json(page(found, limit, |summary| summary.id.clone(), |summary| summary)))
}

/// What a rollout would do
#[utoipa::path(post, operation_id = "rollout.plan", path = "/v1/rollouts/plan", tag = "rollouts", request_body = PlanRequest,
    responses((status = 200, body = RolloutPlan), Problems))]
async fn try_on_paper(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Posted<PlanRequest>,
) -> Result<Json<RolloutPlan>, Rejection> {
    caller.require(&fleet, Scope::Operator, "rollout.plan").await?;
    let asked = posted.value.spec.clone();
    let (mut spec, _) = fleet.store.read(move |sql| read_spec(sql, &asked)).await??;
    spec.query = spec.query.and(&caller.devices);
    let census = census_of(&fleet, &spec, true).await?;
    Ok(Json(shown_plan(plan(&spec, "", &census, now_ms()))))
}

/// Reads the fleet as it is; with all releases that gateways have, where what they lack is to be known.
async fn census_of(fleet: &Fleet, spec: &RolloutSpec, with_held: bool) -> Result<Census, StoreError> {
    let mut digests: BTreeSet<String> = spec.releases.iter().map(|release| release.digest.clone()).collect();
    let mut census = Census::default();
    census.refresh(&fleet.store, &digests, now_ms()).await?;
    if with_held {
        digests.extend(census.releases());
        census.refresh(&fleet.store, &digests, now_ms()).await?;
    }
    Ok(census)
}

/// Make a rollout, as a draft
#[utoipa::path(post, operation_id = "rollout.make", path = "/v1/rollouts", tag = "rollouts", request_body = NewRollout,
    responses((status = 201, body = RolloutDetail), Problems))]
async fn make(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Posted<NewRollout>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Operator, "rollout.make").await?;
    require_reason(&posted.value.reason)?;
    let random = random().map_err(|error| Rejection::internal("the system gives no randomness", &error))?;
    let id = RolloutId::new(now_ms(), random).to_string();
    let (wish, caller_is) = (posted.value.clone(), caller.clone());
    let work = move |sql: &mut dyn Sql, now| {
        let (mut spec, publishers) = match read_spec(sql, &wish.spec)? {
            Ok(read) => read,
            Err(declined) => return Ok(Err(declined)),
        };
        spec.query = spec.query.and(&caller_is.devices);
        let mut rollout = Rollout::draft(id.clone(), spec, caller_is.name.clone(), publishers);
        rollout.limited_to = caller_is.devices.clone();
        let kept = rollouts::insert(sql, &rollout, now)?;
        let answer = detail(sql, &kept)?;
        let note = Note {
            action: "rollout.make",
            object: id.clone(),
            reason: wish.reason.clone(),
            detail: json!({ "spec": answer.spec }),
        };
        Ok(Ok(Changed::new(StatusCode::CREATED, answer, note)))
    };
    change(&fleet, &caller, &posted, work).await
}

/// A rollout with its gates
#[utoipa::path(get, operation_id = "rollout.get", path = "/v1/rollouts/{id}", tag = "rollouts", params(("id" = String, Path)),
    responses((status = 200, body = RolloutDetail, headers(("ETag" = String, description = "What an order's `If-Match` says."))), Problems))]
async fn get(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Viewer, "rollout.get").await?;
    let work = move |sql: &mut dyn Sql| match visible(sql, &caller, &id)? {
        Ok(kept) => Ok(Ok((etag(kept.revision), detail(sql, &kept)?))),
        Err(declined) => Ok(Err(declined)),
    };
    let (tag, answer) = fleet.store.read(work).await??;
    Ok(([(header::ETAG, tag)], Json(answer)).into_response())
}

/// The gateways of a rollout, with what became of each
#[utoipa::path(get, operation_id = "rollout.devices", path = "/v1/rollouts/{id}/devices", tag = "rollouts", params(("id" = String, Path), PageParams),
    responses((status = 200, body = Page<RolloutDevice>), Problems))]
async fn devices(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<RolloutDevice>>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "rollout.devices").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let limit = wanted.limit;
    let work = move |sql: &mut dyn Sql| match visible(sql, &caller, &id)? {
        Ok(_) => rollouts::members(sql, &id, &wanted.after, limit + 1).map(Ok),
        Err(declined) => Ok(Err(declined)),
    };
    let found = fleet.store.read(work).await??;
    Ok(Json(page(found, limit, |(id, _)| id.clone(), |(id, member)| shown::device(id, &member))))
}

/// Order something of a rollout
#[utoipa::path(post, operation_id = "rollout.order", path = "/v1/rollouts/{id}/{order}", tag = "rollouts", request_body = GivenOrder,
    params(("id" = String, Path), ("order" = RolloutOrder, Path),
        ("If-Match" = String, Header, description = "ETag of the rollout.")),
    responses((status = 200, body = RolloutDetail, headers(("ETag" = String, description = "What the next order's `If-Match` says."))), Problems))]
async fn order(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path((id, word)): Path<(String, String)>,
    posted: Posted<Order>,
) -> Result<Response, Rejection> {
    let command = Command::of(&word).ok_or_else(|| Declined::not_found("order", &word))?;
    let action = action(command);
    caller.require(&fleet, Scope::Operator, action).await?;
    require_given_reason(&posted.value.reason)?;
    let Some(if_match) = posted.if_match.clone() else {
        let detail = "say by `If-Match` which state of the rollout you decide by: its ETag";
        return Err(Rejection::http(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail));
    };
    let approvals = if command == Command::Start { approvals_for(&fleet, &caller, &id).await? } else { 0 };
    let (reason, name) = (posted.value.reason.clone(), caller.name.clone());
    let caller_is = caller.clone();
    let work = move |sql: &mut dyn Sql, now| {
        let kept = match visible(sql, &caller_is, &id)? {
            Ok(kept) => kept,
            Err(declined) => return Ok(Err(declined)),
        };
        if if_match != "*" && if_match != etag(kept.revision) {
            let detail = "the rollout has changed since it was read; read it again".to_owned();
            return Ok(Err(Declined::new(StatusCode::PRECONDITION_FAILED, "stale", detail)));
        }
        if let Err(declined) = require_ready(sql, command, &kept.rollout)? {
            return Ok(Err(declined));
        }
        let Some(before) = rollouts::get_whole(sql, &id)? else {
            return Ok(Err(Declined::not_found("rollout", &id)));
        };
        let step = match before.rollout.ordered(command, Giver { name: &name, at_ms: now, approvals }) {
            Ok(step) => step,
            Err(refused) => return Ok(Err(Declined::conflict(refused.0))),
        };
        let is_new = step.rollout != before.rollout || !step.acts.is_empty();
        let after = if is_new { running::keep(sql, &before, &step, &name, now)? } else { Some(before) };
        let after = after.ok_or(StoreError::Contended)?;
        let note = Note {
            action,
            object: id.clone(),
            reason: reason.clone(),
            detail: json!({ "status": after.rollout.status, "phase": after.rollout.phase + 1 }),
        };
        Ok(Ok(Changed::new(StatusCode::OK, detail(sql, &after)?, note)))
    };
    change(&fleet, &caller, &posted, work).await
}

/// Refuses to start what gateways could not be told of.
fn require_ready(
    sql: &mut dyn Sql,
    command: Command,
    rollout: &Rollout,
) -> Result<Result<(), Declined>, StoreError> {
    if !matches!(command, Command::Start | Command::Approve | Command::Retry) {
        return Ok(Ok(()));
    }
    if director::newest(sql)? == 0 {
        let detail = "no owner has adopted this server, so gateways would believe nothing that it tells them; \
            see `dunlin server adopt`";
        return Ok(Err(Declined::conflict(detail.to_owned())));
    }
    for release in &rollout.spec.releases {
        if releases::get(sql, &release.digest)?.is_none_or(|release| release.removed_ms.is_some()) {
            let detail = format!("the owner names release `{}` no more", release.digest);
            return Ok(Err(Declined::conflict(detail)));
        }
    }
    Ok(Ok(()))
}

/// Returns how many people must approve, by the gateways that are meant at this moment.
async fn approvals_for(fleet: &Fleet, caller: &Caller, id: &str) -> Result<u32, Rejection> {
    let (caller, id) = (caller.clone(), id.to_owned());
    let kept = fleet.store.read(move |sql| visible(sql, &caller, &id)).await??;
    let spec = &kept.rollout.spec;
    if kept.rollout.status != Status::Draft {
        return Ok(0);
    }
    let census = census_of(fleet, spec, false).await?;
    Ok(census.approvals(|device| spec.query.matches(&device.labels)))
}

const fn action(command: Command) -> &'static str {
    match command {
        Command::Start => "rollout.start",
        Command::Approve => "rollout.approve",
        Command::Pause => "rollout.pause",
        Command::Resume => "rollout.resume",
        Command::Promote => "rollout.promote",
        Command::Retry => "rollout.retry",
        Command::Revert => "rollout.revert",
        Command::Abort => "rollout.abort",
    }
}

/// Tells whether there is a rollout for a caller: one for some gateways sees those that were made for the same ones.
fn is_there_for(caller: &Caller, rollout: &Rollout) -> bool {
    caller.devices == Query::all() || caller.devices == rollout.limited_to
}

fn visible(sql: &mut dyn Sql, caller: &Caller, id: &str) -> Result<Result<Kept, Declined>, StoreError> {
    // What a database could not even compare is no id.
    let is_id = id.parse::<RolloutId>().is_ok();
    let found = if is_id { rollouts::get(sql, id)? } else { None };
    let found = found.filter(|kept| is_there_for(caller, &kept.rollout));
    Ok(found.ok_or_else(|| Declined::not_found("rollout", id)))
}

fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// How many people must approve, by label
#[utoipa::path(get, operation_id = "policy.approvals", path = "/v1/policies/approvals", tag = "rollouts",
    responses((status = 200, body = ApprovalPolicy, headers(("ETag" = String, description = "Of the rules."))), Problems))]
async fn approvals(State(fleet): State<Arc<Fleet>>, caller: Caller) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Admin, "policy.approvals").await?;
    let (rules, revision) = fleet.store.read(rollouts::approval_policy).await?;
    Ok(([(header::ETAG, etag(revision))], Json(shown_rules(&rules))).into_response())
}

/// Say how many people must approve, by label
#[utoipa::path(put, operation_id = "policy.approvals.set", path = "/v1/policies/approvals", tag = "rollouts", request_body = NewApprovalPolicy,
    params(("If-Match" = Option<String>, Header, description = "ETag of the rules.")),
    responses((status = 200, body = ApprovalPolicy), Problems))]
async fn set_approvals(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Posted<NewApprovalPolicy>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Admin, "policy.approvals.set").await?;
    caller.require_all_devices(&fleet, "policy.approvals.set").await?;
    require_reason(&posted.value.reason)?;
    let rules = read_rules(&posted.value.rules)?;
    let (reason, if_match) = (posted.value.reason.clone(), posted.if_match.clone());
    let work = move |sql: &mut dyn Sql, _| {
        let (before, revision) = rollouts::approval_policy(sql)?;
        if if_match.as_ref().is_some_and(|wanted| wanted != "*" && *wanted != etag(revision)) {
            let detail = "the rules have changed since they were read; read them again".to_owned();
            return Ok(Err(Declined::new(StatusCode::PRECONDITION_FAILED, "stale", detail)));
        }
        rollouts::set_approval_policy(sql, &rules)?;
        let note = Note {
            action: "policy.approvals.set",
            object: "approvals".to_owned(),
            reason: reason.clone(),
            detail: json!({ "before": before, "after": rules }),
        };
        Ok(Ok(Changed::new(StatusCode::OK, shown_rules(&rules), note)))
    };
    change(&fleet, &caller, &posted, work).await
}
