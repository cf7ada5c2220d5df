//! Releases of models, and files of settings, that the owner approved.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dunlin_fleet_api::image::{Release, ReleaseDetail, SettingsRelease};
use dunlin_fleet_api::page::{Page, PageParams};
use dunlin_fleet_api::token::Scope;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{Params, Path};
use super::document::Problems;
use super::page::{page, wanted};
use super::texts::time;
use super::{Caller, Declined};
use crate::fleet::Fleet;
use crate::http::Rejection;
use crate::store::releases;

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(settings))
}

/// Which releases are asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Of this model alone.
    model: Option<String>,
    /// Most entries of the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Where the page begins: `next` of the one before.
    #[param(format = "cursor", pattern = "^[A-Za-z0-9_-]*$")]
    cursor: Option<String>,
}

/// Releases by model and counter, those that are named no more too
#[utoipa::path(get, operation_id = "release.list", path = "/v1/releases", tag = "image", params(Filter),
    responses((status = 200, body = Page<Release>), Problems))]
async fn list(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(filter): Params<Filter>,
) -> Result<Json<Page<Release>>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "release.list").await?;
    let wanted = wanted(filter.limit, filter.cursor.as_deref())?;
    let wrong =
        || Declined::malformed("`cursor` is none: take `next` of the page before as it is".to_owned());
    let (after_model, after_counter) = match wanted.after.rsplit_once(' ') {
        None if wanted.after.is_empty() => (String::new(), 0),
        None => return Err(wrong().into()),
        Some((model, counter)) => (model.to_owned(), counter.parse::<u64>().map_err(|_| wrong())?),
    };
    if filter.model.as_deref().is_some_and(|model| model.contains('\0')) {
        return Err(Declined::malformed("`model` is no name".to_owned()).into());
    }
    let limit = wanted.limit;
    let work = move |sql: &mut dyn crate::store::Sql| {
        releases::page(sql, filter.model.as_deref(), (&after_model, after_counter), limit + 1)
    };
    let found = fleet.store.read(work).await?;
    Ok(Json(page(found, limit, |release| format!("{} {}", release.model, release.counter), shown)))
}

/// A release with its manifest
#[utoipa::path(get, operation_id = "release.get", path = "/v1/releases/{digest}", tag = "image", params(("digest" = String, Path)),
    responses((status = 200, body = ReleaseDetail), Problems))]
async fn get(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(digest): Path<String>,
) -> Result<Json<ReleaseDetail>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "release.get").await?;
    let missing = Declined::not_found("release", &digest);
    if digest.contains('\0') {
        return Err(missing.into());
    }
    let found = fleet.store.read(move |sql| releases::get(sql, &digest)).await?;
    let release = found.ok_or(missing)?;
    let manifest = serde_json::from_slice(&release.manifest).unwrap_or_default();
    Ok(Json(ReleaseDetail { release: shown(release), manifest }))
}

/// Files of settings by path, those that are named no more too
#[utoipa::path(get, operation_id = "settings.list", path = "/v1/settings", tag = "image", params(PageParams),
    responses((status = 200, body = Page<SettingsRelease>), Problems))]
async fn settings(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<SettingsRelease>>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "settings.list").await?;
    let wanted = wanted(params.limit, params.cursor.as_deref())?;
    let limit = wanted.limit;
    let found = fleet.store.read(move |sql| releases::settings_page(sql, &wanted.after, limit + 1)).await?;
    let entry = |settings: releases::SettingsRelease| SettingsRelease {
        digest: settings.digest,
        path: settings.path,
        size_bytes: settings.bytes,
        published: time(settings.published_ms),
        published_by: settings.published_by,
        removed: settings.removed_ms.map(time),
    };
    Ok(Json(page(found, limit, releases::settings_place, entry)))
}

fn shown(release: releases::Release) -> Release {
    Release {
        digest: release.digest,
        model: release.model,
        version: release.version,
        counter: release.counter,
        path: release.path,
        published: time(release.published_ms),
        published_by: release.published_by,
        removed: release.removed_ms.map(time),
        signers: serde_json::from_str(&release.signers).unwrap_or_default(),
    }
}
