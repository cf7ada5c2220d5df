//! The OpenAPI document, made of what the routes say of themselves.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::schema::{AdditionalProperties, Schema};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr};
use utoipa::{IntoResponses, Modify, OpenApi as Describe, ToSchema};

/// What stands in the document beside the routes.
#[derive(Debug, Describe)]
#[openapi(
    info(title = "Dunlin fleet server", description = "Gateways, what they run, and who decides about it."),
    modifiers(&Bearer),
    // What parameters alone refer to.
    components(schemas(dunlin_fleet_api::rollout::RolloutOrder, dunlin_fleet_api::event::Event)),
    security(("token" = []))
)]
pub(super) struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut OpenApi) {
        let scheme =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token of `/v1/tokens`."));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
    }
}

/// What is wrong with a request: `application/problem+json`, RFC 9457.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what `Rejection` writes")]
pub(super) struct Problem {
    /// `about:blank`, or a URI of the code.
    #[schema(rename = "type")]
    kind: String,
    /// The code in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The code, for programs.
    code: String,
    /// What exactly, and what to do.
    detail: String,
}

/// The ways in which every request can fail.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "describes what `Rejection` writes")]
pub(super) enum Problems {
    /// The request cannot be read, or is not sound.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(#[to_schema] Problem),
    /// There is no token, or it is no good.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorised(#[to_schema] Problem),
    /// The token may not do this.
    #[response(status = 403, content_type = "application/problem+json")]
    Scope(#[to_schema] Problem),
    /// There is no such object, or not for this token.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(#[to_schema] Problem),
    /// The body did not come in time.
    #[response(status = 408, content_type = "application/problem+json")]
    Timeout(#[to_schema] Problem),
    /// The object is not in a state for this.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] Problem),
    /// The object has changed since it was read.
    #[response(status = 412, content_type = "application/problem+json")]
    Stale(#[to_schema] Problem),
    /// The body is too long.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] Problem),
    /// The body is no JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    MediaType(#[to_schema] Problem),
    /// The request has the right form, and what it says cannot be; or its `Idempotency-Key` was used for another one.
    #[response(status = 422, content_type = "application/problem+json")]
    Unsound(#[to_schema] Problem),
    /// `If-Match` is needed.
    #[response(status = 428, content_type = "application/problem+json")]
    PreconditionRequired(#[to_schema] Problem),
    /// Too many requests: come back after `Retry-After`.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(#[to_schema] Problem),
    /// The server cannot answer at present: come back after `Retry-After`.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] Problem),
}

/// The document as it is sent.
#[derive(Debug, Clone)]
pub(super) struct Text(std::sync::Arc<str>);

impl Text {
    pub(super) fn of(mut document: OpenApi) -> Self {
        let schemas = document.components.iter_mut().flat_map(|components| &mut components.schemas);
        for (_, schema) in schemas.filter(|(name, _)| name.as_str() == ONE_MEMBER) {
            close(schema);
        }
        Self(document.to_pretty_json().unwrap_or_default().into())
    }
}

impl IntoResponse for Text {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0.to_string()).into_response()
    }
}

/// A choice between objects of one member each.
const ONE_MEMBER: &str = "Reach";

/// Says that the objects of a choice have no other members than theirs: it would be no choice else.
fn close(schema: &mut RefOr<Schema>) {
    let RefOr::T(Schema::OneOf(choice)) = schema else { return };
    for item in &mut choice.items {
        if let RefOr::T(Schema::Object(object)) = item {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
}

/// Returns the document in JSON.
#[must_use]
pub fn document_text() -> String {
    Text::of(super::routes().into_openapi()).0.to_string()
}
