//! The REST interface: what people and their programs ask of the server, under `/v1`.
//!
//! Each module has the routes of one kind of object; what they share (who calls, bodies, pages, repeated requests) is
//! beside them. Rules about gateways and rollouts are elsewhere.

mod audit;
mod blobs;
mod body;
mod caller;
mod change;
mod devices;
mod document;
mod enrolment;
mod events;
mod image;
mod metrics;
mod page;
mod policies;
mod releases;
mod rollout_shown;
mod rollouts;
mod server;
mod texts;
mod tokens;
mod uploads;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

pub use caller::{Caller, RateLimits};
pub use change::Declined;
pub use document::document_text;
pub(crate) use events::shown as shown_event;
pub use tokens::first_token;

use crate::fleet::Fleet;

/// Longest body of a request.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Returns the routes and what describes them.
fn routes() -> OpenApiRouter<Arc<Fleet>> {
    OpenApiRouter::with_openapi(document::Document::openapi())
        .merge(server::routes())
        .merge(tokens::routes())
        .merge(devices::routes())
        .merge(enrolment::routes())
        .merge(rollouts::routes())
        .merge(audit::routes())
        .merge(events::routes())
        .merge(metrics::routes())
        .merge(webhooks::routes())
        .merge(image::routes())
        .merge(blobs::routes())
        .merge(releases::routes())
        .merge(policies::routes())
        .merge(uploads::routes())
}

/// Returns the interface as part of the server's router.
pub(crate) fn router(fleet: &Arc<Fleet>) -> Router {
    let (router, document) = routes().split_for_parts();
    let document = document::Text::of(document);
    router.route("/openapi.json", get(async move || document)).with_state(Arc::clone(fleet))
}
