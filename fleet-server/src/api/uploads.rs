//! What a gateway uploaded: its rows, and what became of their numbers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dunlin_fleet_api::page::{LIMIT, LIMIT_MAX};
use dunlin_fleet_api::token::Scope;
use dunlin_fleet_api::upload::{Account, RowParams, Rows};
use dunlin_protocol::Ranges;
use dunlin_protocol::limits::INTEGER_MAX;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{Params, Path};
use super::devices::visible;
use super::document::Problems;
use super::texts::time;
use super::{Caller, Declined};
use crate::fleet::Fleet;
use crate::http::Rejection;
use crate::store::{Sql, StoreError, accounts, rows};
use crate::uploaded;

/// Streams that have rows.
const STREAMS: [&str; 5] = ["predictions", "events", "labels", "losses", "statistics"];
/// Pieces that are read for one page: of short ones there may be many.
const PIECES_MAX: usize = 256;

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new().routes(routes!(list_rows)).routes(routes!(list_accounts))
}

/// Rows that a gateway uploaded
#[utoipa::path(get, operation_id = "device.rows", path = "/v1/devices/{id}/rows", tag = "devices",
    params(("id" = String, Path), RowParams), responses((status = 200, body = Rows), Problems))]
async fn list_rows(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<RowParams>,
) -> Result<Json<Rows>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "device.rows").await?;
    let limit = params.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Declined::malformed(format!("`limit` is 1 to {LIMIT_MAX}")).into());
    }
    if !STREAMS.contains(&params.stream.as_str()) {
        return Err(Declined::malformed(format!("`stream` is one of `{}`", STREAMS.join("`, `"))).into());
    }
    let after = params.after.unwrap_or(0);
    if after > INTEGER_MAX {
        return Err(Declined::malformed(format!("`after` is at most {INTEGER_MAX}")).into());
    }
    let found = fleet.store.read(move |sql| match visible(sql, &caller.devices, &id)? {
        Ok(_) => read_rows(sql, (&id, &params.stream), after, limit as usize).map(Ok),
        Err(declined) => Ok(Err(declined)),
    });
    Ok(Json(found.await??))
}

fn read_rows(
    sql: &mut dyn Sql,
    (device, stream): (&str, &str),
    mut after: u64,
    limit: usize,
) -> Result<Rows, StoreError> {
    let mut items = Vec::new();
    for _ in 0..PIECES_MAX {
        let Some(piece) = rows::next(sql, device, stream, after)? else {
            return Ok(Rows { items, next: None });
        };
        let received = time(piece.received_ms);
        for (number, mut row) in uploaded::rows(&piece, after, limit - items.len())? {
            row["number"] = number.into();
            row["received"] = received.clone().into();
            items.push(row);
            after = number;
        }
        if items.len() >= limit {
            break;
        }
        after = piece.last;
    }
    Ok(Rows { items, next: Some(after) })
}

/// What became of the numbers of each stream of a gateway
#[utoipa::path(get, operation_id = "device.accounts", path = "/v1/devices/{id}/accounts", tag = "devices",
    params(("id" = String, Path)), responses((status = 200, body = Vec<Account>), Problems))]
async fn list_accounts(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Vec<Account>>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "device.accounts").await?;
    let found = fleet.store.read(move |sql| match visible(sql, &caller.devices, &id)? {
        Ok(_) => accounts::of(sql, &id).map(Ok),
        Err(declined) => Ok(Err(declined)),
    });
    let pairs = |ranges: &Ranges| ranges.iter().map(|range| [range.first(), range.last()]).collect();
    let account = |(stream, account): (String, accounts::Account)| Account {
        stream,
        received: pairs(&account.received),
        lost: pairs(&account.lost),
        unexplained: pairs(&account.unexplained()),
        rows: account.rows,
        held_back: account.held_back,
        expired: account.expired,
    };
    Ok(Json(found.await??.into_iter().map(account).collect()))
}
