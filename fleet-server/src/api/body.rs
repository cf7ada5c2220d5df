//! Bodies, paths and parameters of requests, read strictly; whatever is wrong becomes a problem document.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
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
        let media_type = text(headers, header::CONTENT_TYPE)?.and_then(|kind| kind.split(';').next());
        if !media_type.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
            let detail = "the media type of the body is not `application/json`";
            return Err(Rejection::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail));
        }
        let name = text(headers, HeaderName::from_static("idempotency-key"))?.map(str::to_owned);
        if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            let detail = format!("`Idempotency-Key` has 1 to {NAME_BYTES_MAX} characters");
            return Err(Rejection::http(StatusCode::BAD_REQUEST, "malformed", &detail));
        }
        let if_match = text(headers, header::IF_MATCH)?.map(str::to_owned);
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

/// Returns a header's text. One that cannot be read, or stands twice, is never passed over: it may be a condition.
fn text(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Rejection> {
    let mut values = headers.get_all(&name).iter();
    match (values.next().map(HeaderValue::to_str), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(text)), None) => Ok(Some(text)),
        _ => {
            let detail = format!("the header `{name}` stands twice, or holds other signs than ASCII's");
            Err(Rejection::http(StatusCode::BAD_REQUEST, "malformed", &detail))
        }
    }
}

/// How NUL is written in a URI: no text of ours holds it, and databases refuse to compare with it.
const NUL: &str = "%00";

/// A parameter of the path.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Fleet>> for Path<T> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, fleet: &Arc<Fleet>) -> Result<Self, Rejection> {
        if parts.uri.path().contains(NUL) {
            return Err(Rejection::http(StatusCode::NOT_FOUND, "not_found", "there is no such path"));
        }
        Ok(Self(axum::extract::Path::from_request_parts(parts, fleet).await?.0))
    }
}

/// Parameters behind the `?`.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Fleet>> for Params<T> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, fleet: &Arc<Fleet>) -> Result<Self, Rejection> {
        if parts.uri.query().is_some_and(|query| query.contains(NUL)) {
            return Err(Rejection::http(StatusCode::BAD_REQUEST, "malformed", "a parameter holds NUL"));
        }
        Ok(Self(axum::extract::Query::from_request_parts(parts, fleet).await?.0))
    }
}

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
