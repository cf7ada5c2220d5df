//! The server itself: its id, its key, what it holds of the owner's.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dunlin_fleet_api::server::{ImageStatus, ServerStatus};
use dunlin_fleet_api::token::Scope;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Caller;
use super::document::Problems;
use crate::fleet::Fleet;
use crate::http::Rejection;
use crate::store::{Sql, StoreError, devices, image};

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new().routes(routes!(server))
}

/// The server, its key, and what it holds of the owner's
#[utoipa::path(get, operation_id = "server.get", path = "/v1/server", tag = "server", responses((status = 200, body = ServerStatus), Problems))]
async fn server(State(fleet): State<Arc<Fleet>>, caller: Caller) -> Result<Json<ServerStatus>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "server.get").await?;
    let counts_devices = caller.has_all_devices();
    let (image, devices) = fleet.store.read(move |sql| read(sql, counts_devices)).await?;
    Ok(Json(ServerStatus {
        server: fleet.server.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        public_key: fleet.key.public().to_string(),
        public_url: fleet.public_url.clone(),
        image,
        director_root_version: 0,
        devices,
    }))
}

fn read(sql: &mut dyn Sql, counts_devices: bool) -> Result<(ImageStatus, BTreeMap<String, u64>), StoreError> {
    let root_version = image::newest_version(sql, "root")?.unwrap_or(0);
    let status = ImageStatus { root_version, is_adopted: false, timestamp_expires: None };
    let devices = if counts_devices { devices::count_by_state(sql)? } else { BTreeMap::new() };
    Ok((status, devices))
}
