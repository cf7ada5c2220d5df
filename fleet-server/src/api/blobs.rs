//! Blobs on their way in: hashed as they come, kept where they are what their name says.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, HttpBody as _};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use dunlin_fleet_api::image::TakenBlob;
use dunlin_fleet_api::token::Scope;
use dunlin_protocol::Digest;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::Path;
use super::document::Problems;
use super::{Caller, Declined};
use crate::blobs::{BlobError, BlobWriter};
use crate::fleet::{Fleet, now_ms};
use crate::http::Rejection;
use crate::store::blobs;

pub(super) fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::new().routes(routes!(look, put))
}

/// Whether a blob is here; its length
#[utoipa::path(head, operation_id = "blob.look", path = "/v1/blobs/{sha256}", tag = "image", params(("sha256" = String, Path)),
    responses((status = 200), Problems))]
async fn look(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(sha256): Path<String>,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Operator, "blob.look").await?;
    let sha256 = read_digest(&sha256)?.to_string();
    let name = sha256.clone();
    let bytes = fleet.store.read(move |sql| blobs::bytes(sql, &name)).await?;
    let bytes = bytes.ok_or_else(|| Declined::not_found("blob", &sha256))?;
    Ok(([(header::CONTENT_LENGTH, bytes.to_string())], Body::empty()).into_response())
}

/// Write a blob; written again it changes nothing
#[utoipa::path(put, operation_id = "blob.put", path = "/v1/blobs/{sha256}", tag = "image", params(("sha256" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = TakenBlob), (status = 201, body = TakenBlob), Problems))]
async fn put(
    State(fleet): State<Arc<Fleet>>,
    caller: Caller,
    Path(sha256): Path<String>,
    body: Body,
) -> Result<Response, Rejection> {
    caller.require(&fleet, Scope::Operator, "blob.put").await?;
    let sha256 = read_digest(&sha256)?;
    let mut writer = fleet.blobs.writer(sha256);
    if let Err(rejection) = receive(&fleet, body, &mut writer).await {
        writer.give_up().await;
        return Err(rejection);
    }
    let bytes = writer.finish().await?;
    let name = sha256.to_string();
    let is_new = fleet.store.write(move |sql| blobs::put(sql, &name, bytes, now_ms())).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TakenBlob { sha256: sha256.to_string(), size_bytes: bytes })).into_response())
}

/// Takes a body as it comes. It may be long, so that the time counts from piece to piece.
async fn receive(fleet: &Fleet, mut body: Body, writer: &mut BlobWriter) -> Result<(), Rejection> {
    let timeout =
        || Rejection::http(StatusCode::REQUEST_TIMEOUT, "timeout", "the next bytes did not come in time");
    loop {
        let next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let next = tokio::time::timeout(fleet.body_time, next).await.map_err(|_| timeout())?;
        let Some(frame) = next else { return Ok(()) };
        let frame = frame.map_err(|_| Declined::malformed("the body broke off".to_owned()))?;
        if let Ok(piece) = frame.into_data() {
            writer.push(&piece).await?;
        }
    }
}

fn read_digest(text: &str) -> Result<Digest, Declined> {
    let digest = text.parse().ok().filter(|digest: &Digest| digest.to_string() == text);
    digest.ok_or_else(|| Declined::not_found("blob", text))
}

impl From<BlobError> for Rejection {
    fn from(error: BlobError) -> Self {
        let (status, code) = match error {
            BlobError::Store(error) => return error.into(),
            BlobError::Mismatch { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "mismatch"),
            BlobError::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            error => return Self::internal("the blobs cannot be used", &error),
        };
        Declined::new(status, code, error.to_string()).into()
    }
}
