//! The server itself: its id, its key, what it holds of the owner's.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dunlin_fleet_api::server::{ImageStatus, ServerStatus};
use dunlin_fleet_api::token::Scope;
use dunlin_trust::PublicKey;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Caller;
use super::document::Problems;
use crate::fleet::Fleet;
use crate::http::Rejection;
use crate::image::{self, ImageStanding};
use crate::store::{Sql, StoreError, devices};

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new().routes(routes!(server))
}

/// The server, its key, and what it holds of the owner's
#[utoipa::path(get, operation_id = "server.get", path = "/v1/server", tag = "server", responses((status = 200, body = ServerStatus), Problems))]
async fn server(State(fleet): State<Arc<Fleet>>, caller: Caller) -> Result<Json<ServerStatus>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "server.get").await?;
    let counts_devices = caller.has_all_devices();
    let key = fleet.key.role().public();
    let (standing, devices) = fleet.store.read(move |sql| read(sql, &key, counts_devices)).await?;
    let image = ImageStatus {
        root_version: standing.root_version,
        is_adopted: standing.is_adopted,
        timestamp_expires: standing.timestamp_expires.map(|expires| expires.to_string()),
    };
    Ok(Json(ServerStatus {
        server: fleet.server.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        public_key: fleet.key.public().to_string(),
        public_url: fleet.public_url.clone(),
        image,
        director_root_version: standing.director_root_version,
        devices,
    }))
}

fn read(
    sql: &mut dyn Sql,
    key: &PublicKey,
    counts_devices: bool,
) -> Result<(ImageStanding, BTreeMap<String, u64>), StoreError> {
    let devices = if counts_devices { devices::count_by_state(sql)? } else { BTreeMap::new() };
    Ok((image::standing(sql, key)?, devices))
}
