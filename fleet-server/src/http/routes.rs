//! Which path is answered by what.
//!
//! Reads requests and writes responses; what they mean is elsewhere.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use dunlin_protocol::limits::{ENROLMENT_BYTES_MAX, REQUEST_BYTES_MAX};
use dunlin_protocol::routes::{
    BLOB, DELTA, DIRECTOR, ENROLL, ENVELOPE_MEDIA_TYPE, EXCHANGE, IMAGE, RESULTS, WAIT,
};

use super::body::read_envelope;
use super::connections::REST_MAX;
use super::{Rejection, files};
use crate::exchange::{self, Answered};
use crate::fleet::Fleet;
use crate::store::fleet as identity;
use crate::{api, enrolment, metrics};

/// Returns all routes.
pub fn router(fleet: Arc<Fleet>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route(ENROLL, post(enroll))
        .route(EXCHANGE, post(exchange_messages))
        .route(RESULTS, post(results))
        .route(IMAGE, get(files::image_file))
        .route(DIRECTOR, get(files::director_file))
        .route(BLOB, get(files::blob))
        .route(DELTA, get(files::delta))
        .with_state(Arc::clone(&fleet))
        .merge(api::router(&fleet))
        .fallback(async || Rejection::http(StatusCode::NOT_FOUND, "not_found", "there is no such path"))
        .method_not_allowed_fallback(async || {
            Rejection::http(StatusCode::METHOD_NOT_ALLOWED, "method", "the path does not take this method")
        })
        .layer(axum::middleware::from_fn_with_state(fleet, metrics::count))
}

/// Healthy is who can use its store.
async fn healthz(State(fleet): State<Arc<Fleet>>) -> Result<Response, Rejection> {
    fleet.store.read(identity::require_reachable).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], "{\"healthy\":true}").into_response())
}

async fn enroll(State(fleet): State<Arc<Fleet>>, request: Request<Body>) -> Result<Response, Rejection> {
    let raw = read_envelope(request, &fleet.body_room, ENROLMENT_BYTES_MAX, fleet.body_time).await?;
    enrolment::enrol(&fleet, &raw.bytes).await.map(respond)
}

async fn exchange_messages(
    State(fleet): State<Arc<Fleet>>,
    request: Request<Body>,
) -> Result<Response, Rejection> {
    let wait_seconds = wait_of(request.uri().query().unwrap_or_default());
    let raw = read_envelope(request, &fleet.body_room, REQUEST_BYTES_MAX, fleet.body_time).await?;
    let question = exchange::open(&fleet, &raw.bytes).await?;
    // A question may wait long; its text is not needed for that.
    drop(raw);
    exchange::exchange(&fleet, question, wait_seconds).await.map(respond)
}

async fn results(State(fleet): State<Arc<Fleet>>, request: Request<Body>) -> Result<Response, Rejection> {
    let raw = read_envelope(request, &fleet.body_room, REQUEST_BYTES_MAX, fleet.body_time).await?;
    exchange::take_results(&fleet, &raw.bytes).await.map(respond)
}

/// Returns how long a question may wait; one that says it in another way does not wait.
fn wait_of(query: &str) -> u64 {
    let waits = query.split('&').filter_map(|pair| pair.split_once('='));
    waits.filter(|(name, _)| *name == WAIT).find_map(|(_, value)| value.parse().ok()).unwrap_or(0)
}

fn respond(answered: Answered) -> Response {
    let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response =
        (status, [(header::CONTENT_TYPE, ENVELOPE_MEDIA_TYPE)], answered.envelope).into_response();
    if u128::from(answered.next_ms) > REST_MAX.as_millis() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
