//! Figures for Prometheus, behind a token unless the server's owner opened them.

use std::sync::Arc;

use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use dunlin_fleet_api::token::Scope;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Caller;
use super::document::Problems;
use crate::fleet::Fleet;
use crate::http::Rejection;
use crate::metrics::{MetricsAccess, standing};

const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new().routes(routes!(figures))
}

/// Figures of the server and the fleet, in OpenMetrics' text
#[utoipa::path(get, operation_id = "metrics.get", path = "/metrics", tag = "server",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), Problems))]
async fn figures(State(fleet): State<Arc<Fleet>>, request: Request) -> Result<Response, Rejection> {
    if fleet.metrics_access == MetricsAccess::Token {
        let caller = Caller::from_request_parts(&mut request.into_parts().0, &fleet).await?;
        caller.require(&fleet, Scope::Viewer, "metrics.get").await?;
        caller.require_all_devices(&fleet, "metrics.get").await?;
    }
    let standing = fleet.store.read(standing).await?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], fleet.metrics.text(&standing)).into_response())
}
