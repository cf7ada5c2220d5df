//! Bodies, paths and parameters of requests, read strictly; whatever is wrong becomes a problem document.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::BODY_BYTES_MAX;
use crate::fleet::Fleet;
use crate::http::{Rejection, read_body};

/// A body of JSON, and the digest of the request it came with.
#[derive(Debug)]
pub(super) struct Posted<T, const BYTES_MAX: usize = BODY_BYTES_MAX> {
    pub(super) value: T,
    /// SHA-256 over method, path and body: tells a request that is sent again from another one.
    pub(super) digest: [u8; 32],
    /// `Idempotency-Key`.
    pub(super) name: Option<String>,
    /// `If-Match`.
    pub(super) if_match: Option<String>,
}

/// Longest `Idempotency-Key`: a UUID, a hash, with room.
const NAME_BYTES_MAX: usize = 128;

impl<T: DeserializeOwned, const BYTES_MAX: usize> FromRequest<Arc<Fleet>> for Posted<T, BYTES_MAX> {
    type Rejection = Rejection;

    async fn from_request(request: Request, fleet: &Arc<Fleet>) -> Result<Self, Rejection> {
        let headers = request.headers();
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let media_type = text(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next());
        if !media_type.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
            let detail = "the media type of the body is not `application/json`";
            return Err(Rejection::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail));
        }
        let name = text(header::HeaderName::from_static("idempotency-key")).map(str::to_owned);
        if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            let detail = format!("`Idempotency-Key` has 1 to {NAME_BYTES_MAX} characters");
            return Err(Rejection::http(StatusCode::BAD_REQUEST, "malformed", &detail));
        }
        let if_match = text(header::IF_MATCH).map(str::to_owned);
        let mut hash = Sha256::new();
        hash.update(request.method().as_str());
        hash.update([0]);
        hash.update(request.uri().path());
        hash.update([0]);
        let body = read_body(request.into_body(), BYTES_MAX, fleet.body_time).await?;
        hash.update(&body);
        let mut json = serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let (path, why) = (error.path().to_string(), error.into_inner());
            let place = if path == "." { "the body".to_owned() } else { format!("`{path}`") };
            Rejection::http(StatusCode::BAD_REQUEST, "malformed", &format!("{place}: {why}"))
        })?;
        json.end()
            .map_err(|error| Rejection::http(StatusCode::BAD_REQUEST, "malformed", &error.to_string()))?;
        Ok(Self { value, digest: hash.finalize().into(), name, if_match })
    }
}

/// A parameter of the path.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Rejection))]
pub(super) struct Path<T>(pub(super) T);

/// Parameters behind the `?`.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Rejection))]
pub(super) struct Params<T>(pub(super) T);

impl From<PathRejection> for Rejection {
    fn from(error: PathRejection) -> Self {
        Self::http(StatusCode::NOT_FOUND, "not_found", &error.body_text())
    }
}

impl From<QueryRejection> for Rejection {
    fn from(error: QueryRejection) -> Self {
        Self::http(StatusCode::BAD_REQUEST, "malformed", &error.body_text())
    }
}
