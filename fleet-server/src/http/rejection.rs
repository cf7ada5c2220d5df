//! Refusals that are not signed: `application/problem+json`.
//!
//! Says what is wrong with the message, and never what went wrong inside: that goes to the log.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dunlin_kit::error_chain::Chain;
use dunlin_protocol::refusal::{Problem, RefusalCode};
use dunlin_protocol::routes::PROBLEM_MEDIA_TYPE;
use dunlin_protocol::text::Text;

use crate::store::StoreError;

/// Seconds after which one who was turned away may come back.
const RETRY_AFTER_SECONDS: u32 = 10;

/// A refusal that is not signed.
#[derive(Debug)]
pub struct Rejection {
    problem: Problem,
    retry_after: Option<u32>,
    asks_for_token: bool,
}

impl Rejection {
    /// Makes the refusal of a code.
    #[must_use]
    pub fn of(code: RefusalCode, detail: &str) -> Self {
        let comes_back = matches!(code, RefusalCode::TooMany | RefusalCode::Unavailable);
        Self {
            problem: Problem::new(code, detail),
            retry_after: comes_back.then_some(RETRY_AFTER_SECONDS),
            asks_for_token: false,
        }
    }

    /// Makes the refusal of a status that is none of the protocol's.
    pub(crate) fn http(status: StatusCode, code: &str, detail: &str) -> Self {
        let mut problem = Problem::new(RefusalCode::from(Text::cut(code)), detail);
        problem.status = status.as_u16();
        Self { problem, retry_after: None, asks_for_token: false }
    }

    /// Makes the refusal of one who has not said who he is.
    pub(crate) fn unauthorised(detail: &str) -> Self {
        Self { asks_for_token: true, ..Self::http(StatusCode::UNAUTHORIZED, "token", detail) }
    }

    /// Makes the refusal of one who asks too often.
    pub(crate) fn too_many(detail: &str) -> Self {
        Self { retry_after: Some(1), ..Self::of(RefusalCode::TooMany, detail) }
    }

    /// Makes the refusal after a fault of the server, which is written to the log.
    pub(crate) fn internal(doing: &'static str, error: &dyn std::error::Error) -> Self {
        tracing::error!(error = %Chain(error), doing, "a request failed");
        Self::of(RefusalCode::Unavailable, "the server cannot answer at present")
    }
}

impl From<StoreError> for Rejection {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy | StoreError::Contended => {
                Self::of(RefusalCode::Unavailable, "the server has too much to do")
            }
            StoreError::Stopped => Self::of(RefusalCode::Unavailable, "the server is stopping"),
            error => Self::internal("use the store", &error),
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_MEDIA_TYPE)], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.asks_for_token {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::PAYLOAD_TOO_LARGE {
            // What is left of the body is not read.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
