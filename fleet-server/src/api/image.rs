//! What the owner signs, on its way in and as it is here. The rules are the image repository's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use dunlin_fleet_api::image::{HeldFiles, NewFiles, TakenFiles};
use dunlin_fleet_api::token::Scope;
use dunlin_trust::sign::repository::Files;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{Path, Posted};
use super::document::Problems;
use super::texts::require_reason;
use super::{Caller, Declined};
use crate::fleet::{Fleet, now_ms};
use crate::http::{Rejection, image_response};
use crate::image::{self, ImageRefusal, Uploaded};
use crate::store::audit::{self, Deed};
use crate::store::{StoreError, director};

/// Longest upload: some hundred roots, or the targets of many teams; a single file has 1 MiB at most.
const UPLOAD_BYTES_MAX: usize = 16 << 20;

/// Signed files in a body.
type Upload = Posted<NewFiles, UPLOAD_BYTES_MAX>;

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new()
        .routes(routes!(held, upload))
        .routes(routes!(file))
        .routes(routes!(held_director, upload_director))
}

/// Signed files of the image repository: all roots, and the newest of each other role
#[utoipa::path(get, operation_id = "image.get", path = "/v1/image", tag = "image",
    responses((status = 200, body = HeldFiles), Problems))]
async fn held(State(fleet): State<Arc<Fleet>>, caller: Caller) -> Result<Json<HeldFiles>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "image.get").await?;
    let files = fleet.store.read(image::held).await?;
    Ok(Json(HeldFiles { files: texts(files)? }))
}

/// One signed file of the image repository, as in `2.root.json`
#[utoipa::path(get, operation_id = "image.get-file", path = "/v1/image/{file}", tag = "image", params(("file" = String, Path)),
    responses((status = 200, body = serde_json::Value), Problems))]
async fn file(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(file): Path<String>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Viewer, "image.get").await?;
    image_response(&fleet, &file).await
}

/// Take what the owner signed, all of it or nothing; the first upload adopts this server
#[utoipa::path(post, operation_id = "image.upload", path = "/v1/image", tag = "image", request_body = NewFiles,
    responses((status = 200, body = TakenFiles), Problems))]
async fn upload(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Upload,
) -> Result<Json<TakenFiles>, Rejection> {
    let (files, reason) = require_upload(&fleet, &caller, posted, "image.upload").await?;
    let taken = image::upload(&fleet, files, &caller.name, &reason).await;
    answer(&fleet, &caller, "image.refuse", taken).await
}

/// Roots of the director, which name this server's key
#[utoipa::path(get, operation_id = "director.get", path = "/v1/director", tag = "image",
    responses((status = 200, body = HeldFiles), Problems))]
async fn held_director(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
) -> Result<Json<HeldFiles>, Rejection> {
    caller.require(&fleet, Scope::Viewer, "director.get").await?;
    let roots = fleet.store.read(director::roots).await?;
    let named = roots.into_iter().map(|(version, raw)| (format!("{version}.root.json"), raw));
    Ok(Json(HeldFiles { files: texts(named.collect())? }))
}

/// Take roots of the director that the owner signed
#[utoipa::path(post, operation_id = "director.upload", path = "/v1/director", tag = "image", request_body = NewFiles,
    responses((status = 200, body = TakenFiles), Problems))]
async fn upload_director(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    posted: Upload,
) -> Result<Json<TakenFiles>, Rejection> {
    let (files, reason) = require_upload(&fleet, &caller, posted, "director.upload").await?;
    let taken = image::upload_director(&fleet, files, &caller.name, &reason).await;
    answer(&fleet, &caller, "director.refuse", taken).await
}

async fn require_upload(
    fleet: &Fleet,
    caller: &Caller,
    posted: Upload,
    action: &str,
) -> Result<(Files, String), Rejection> {
    caller.require(fleet, Scope::Admin, action).await?;
    caller.require_all_devices(fleet, action).await?;
    let NewFiles { files, reason } = posted.value;
    require_reason(&reason)?;
    Ok((files.into_iter().map(|(name, text)| (name, text.into_bytes())).collect(), reason))
}

/// Answers; what a gateway would refuse is written to the audit log, since somebody with an administrator's token sent it.
async fn answer(
    fleet: &Fleet,
    caller: &Caller,
    action: &'static str,
    taken: Result<Uploaded, ImageRefusal>,
) -> Result<Json<TakenFiles>, Rejection> {
    let refusal = match taken {
        Ok(Uploaded { files, releases }) => return Ok(Json(TakenFiles { files, releases })),
        Err(refusal) => refusal,
    };
    if let ImageRefusal::Untrusted(failure) = &refusal {
        let deed = Deed {
            at_ms: now_ms(),
            who: caller.name.clone(),
            action: action.to_owned(),
            object: "image".to_owned(),
            reason: String::new(),
            detail: json!({ "code": failure.code.as_str(), "file": failure.object }).to_string(),
        };
        fleet.store.write(move |sql| audit::add(sql, &deed)).await?;
    }
    Err(refusal.into())
}

fn texts(files: Files) -> Result<BTreeMap<String, String>, StoreError> {
    let text = |(name, raw)| match String::from_utf8(raw) {
        Ok(text) => Ok((name, text)),
        Err(_) => Err(StoreError::Damaged(format!("`{name}` is no text"))),
    };
    files.into_iter().map(text).collect()
}

impl From<ImageRefusal> for Rejection {
    fn from(refusal: ImageRefusal) -> Self {
        let status = match refusal {
            ImageRefusal::Store(error) => return error.into(),
            ImageRefusal::Blobs(error) => return error.into(),
            ImageRefusal::Untrusted(_)
            | ImageRefusal::Unfit(_)
            | ImageRefusal::Name(_)
            | ImageRefusal::Manifest { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ImageRefusal::Taken(_)
            | ImageRefusal::NotNamed { .. }
            | ImageRefusal::NoImage
            | ImageRefusal::Missing(_)
            | ImageRefusal::Raced => StatusCode::CONFLICT,
        };
        Declined::new(status, refusal.code(), refusal.to_string()).into()
    }
}
