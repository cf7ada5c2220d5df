//! The audit log: read, and checked line by line.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dunlin_fleet_api::audit::{AuditCheck, AuditLine};
use dunlin_fleet_api::page::{Page, PageParams};
use dunlin_fleet_api::token::Scope;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::Params;
use super::document::Problems;
use super::page::{page, wanted};
use super::texts::time;
use super::{Caller, Declined};
use crate::fleet::Fleet;
use crate::http::Rejection;
use crate::store::audit::{self, Line};

/// Lines that are checked in one transaction.
const CHECKED_TOGETHER: u32 = 1_000;

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(verify))
}

/// Lines of the audit log, oldest first
#[utoipa::path(get, operation_id = "audit.list", path = "/v1/audit", tag = "audit", params(PageParams),
    responses((status = 200, body = Page<AuditLine>), Problems))]
async fn list(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<AuditLine>>, Rejection> {
    caller.require(&fleet, Scope::Admin, "audit.list").await?;
    caller.require_all_devices(&fleet, "audit.list").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let wrong =
        || Declined::malformed("`cursor` is none: take `next` of the page before as it is".to_owned());
    let after = if wanted.after.is_empty() { 0 } else { wanted.after.parse().map_err(|_| wrong())? };
    let limit = wanted.limit;
    let found = fleet.store.read(move |sql| audit::page(sql, after, limit + 1)).await?;
    Ok(Json(page(found, limit, |line| line.seq.to_string(), shown)))
}

/// Check every line of the audit log against the one before
#[utoipa::path(get, operation_id = "audit.verify", path = "/v1/audit/verify", tag = "audit", responses((status = 200, body = AuditCheck), Problems))]
async fn verify(State(fleet): State<Arc<Fleet>>, caller: Caller) -> Result<Json<AuditCheck>, Rejection> {
    caller.require(&fleet, Scope::Admin, "audit.verify").await?;
    caller.require_all_devices(&fleet, "audit.verify").await?;
    let mut last: Option<Line> = None;
    let mut check = AuditCheck { lines: 0, first_broken: None, last_digest: None };
    loop {
        let after = last.as_ref().map_or(0, |line| line.seq);
        let mut lines = fleet.store.read(move |sql| audit::page(sql, after, CHECKED_TOGETHER)).await?;
        check.first_broken = audit::first_broken(last.as_ref(), &lines);
        check.lines += lines.len() as u64;
        let is_last = lines.len() < CHECKED_TOGETHER as usize;
        last = lines.pop().or(last);
        if is_last || check.first_broken.is_some() {
            break;
        }
    }
    check.last_digest = last.map(|line| hex(&line.digest));
    Ok(Json(check))
}

fn shown(line: Line) -> AuditLine {
    AuditLine {
        seq: line.seq,
        at: time(line.deed.at_ms),
        who: line.deed.who,
        action: line.deed.action,
        object: line.deed.object,
        reason: line.deed.reason,
        detail: serde_json::from_str(&line.deed.detail)
            .unwrap_or(serde_json::Value::String(line.deed.detail)),
        digest: hex(&line.digest),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
